"""Compile a model for this mode, measure it, and prove that our path agrees.

1. Compile: tree ensembles as our own circuits if they can be expressed; all else, and
   what fails a gate below, with Concrete-ML, from precise to coarse.
2. Make two key sets, encrypt and run rows; learn the templates from what was seen.
3. Write client.json and the native circuit.
4. Compare our quantization, the decrypted integers and our raw outputs with the
   compiler's own, exactly; refuse to publish if they differ.
5. Compare with the clear model on all held rows; refuse if labels agree too rarely.

Options: see `privacy.fhe.options.Options`.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np

from privacy.activations import activate
from privacy.child import Handler, Progress
from privacy.encoding import Json
from privacy.errors import BackendError, PrivacyError
from privacy.fhe.backend import Floats, Ints
from privacy.fhe.client import FheClient
from privacy.fhe.compiled import Compiled
from privacy.fhe.defaults import compilers, yardstick_of
from privacy.fhe.machine import machine_params
from privacy.fhe.measure import Measured, check_keys, measure
from privacy.fhe.options import Options, parse_options
from privacy.fhe.picks import PICKS
from privacy.fhe.quantizers import quantize, raw_outputs
from privacy.fhe.runner import CIRCUIT, CLIENT_JSON
from privacy.fhe.samples import Bounds, sample_values
from privacy.fhe.source import CIRCUIT_FILES, SOURCE
from privacy.fhe.spec import CircuitSpec
from privacy.fhe.tune import tune, with_chosen
from privacy.fhe.tune.candidates import Subject, kinds, readable
from privacy.fhe.tune.memory import Memory
from privacy.publishing import PartRequest, PartResult, accuracy, lost_by_output

_FAR = 0.25
"""Of what the held rows' answers span, on average. Rounding misses by 0.01 to 0.08;
numbers at random by more than 0.3."""
_FAR_ONCE = 0.5
"""Likewise, of any one answer."""
_NO_SAMPLES = (
    "the circuit answers rows made at random otherwise than in the clear, so one that "
    "is built anew for another machine cannot be compared with it"
)
_MOST_LOST = 0.25
"""Of the variance of an output that is no class; the manifest has the largest error."""
_ENOUGH = 10
"""Held rows whose answers show how far answers lie apart."""


def handler() -> Handler:
    """Return the child process's handler: `PartRequest` to `PartResult`."""
    return _serve


def _serve(request: Json, progress: Progress) -> Json:
    return publish_part(PartRequest.from_json(request), progress).to_json()


def publish_part(request: PartRequest, progress: Progress) -> PartResult:
    """Compile, measure and check a model's FHE part; write its files to `request.out`.

    Raises:
        FormatError: An option is unknown or out of range.
    """
    subject = Subject(
        request=request,
        estimator=_estimator(request),
        calibration=np.load(request.calibration).astype(np.float64),
        options=parse_options(request.options),
    )
    with _own_temporary_folder():
        if subject.options.tune:
            return _tuned(subject, progress)
        choices = (partial(c, subject, progress) for c in compilers(subject))
        return _first_that_serves(subject, choices, progress)


def _first_that_serves(
    subject: Subject, compilers: Iterable[Callable[[], Compiled]], progress: Progress
) -> PartResult:
    """Publish the first circuit that compiles and passes every gate."""
    request, why = subject.request, ""
    for compile_one in compilers:
        try:
            with readable("and run encrypted"):
                result = _publish(request, compile_one(), subject.options, progress)
        except PrivacyError as exc:
            why = "; ".join(w for w in (why, exc.message) if w)
            shutil.rmtree(request.out / CIRCUIT, ignore_errors=True)
            shutil.rmtree(request.out / SOURCE, ignore_errors=True)
            for name in (CLIENT_JSON, PICKS):
                (request.out / name).unlink(missing_ok=True)
        else:
            fallback = {"not_fhe_native": why} if why else {}
            return replace(result, params={**result.params, **fallback})
    return PartResult(available=False, reason=why)


def _tuned(subject: Subject, progress: Progress) -> PartResult:
    """Publish what an earlier search chose; search if none did, or if it fails now."""
    memory = Memory(subject.request, subject.options)
    if report := memory.find():
        name = report["chosen"]
        progress({"stage": "compile", "attempt": name})
        again = partial(_by_name, subject, name)
        result = _first_that_serves(subject, (again,), progress)
        if result.available:
            return replace(result, params={**result.params, "tuned": report})
    return _searched(subject, memory, progress)


def _searched(subject: Subject, memory: Memory, progress: Progress) -> PartResult:
    """Search; publish the best that passes the gates, and remember it."""
    try:
        with readable("for FHE"):
            found = tune(subject, yardstick_of(subject), progress)
    except BackendError as exc:
        return PartResult(available=False, reason=exc.message)
    reasons = []
    for point in found.best:
        compiler = partial(_the_same, point.compiled)
        result = _first_that_serves(subject, (compiler,), progress)
        if result.available:
            report = with_chosen(found.report, point.name)
            memory.keep(report)
            return replace(result, params={**result.params, "tuned": report})
        reasons.append(result.reason)
    return PartResult(available=False, reason="; ".join(reasons))


def _the_same(compiled: Compiled) -> Compiled:
    return compiled


def _by_name(subject: Subject, name: str) -> Compiled:
    """Return the candidate of that name, compiled."""
    for kind in kinds(subject):
        with suppress(BackendError):
            for candidate in kind(subject):
                if candidate.name == name:
                    return candidate.compile()
    msg = f"the tuner chose {name} once, which is no candidate now"
    raise BackendError(msg, code="fhe-compile-failed")


@contextmanager
def _own_temporary_folder() -> Iterator[None]:
    """Put the folders that Concrete makes and forgets where they will be removed."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="privacy-fhe-") as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before


def _estimator(request: PartRequest) -> Any:
    if request.estimator is None:
        return None
    import joblib

    return joblib.load(request.estimator)


def _publish(
    request: PartRequest, compiled: Compiled, options: Options, progress: Progress
) -> PartResult:
    check_keys(compiled, options)
    folder = request.out / CIRCUIT
    folder.mkdir()
    for name in CIRCUIT_FILES:
        shutil.copyfile(compiled.folder / name, folder / name)
    compiled.source.write(request.out / SOURCE)
    held = np.load(request.held, allow_pickle=False).astype(np.float64)
    clear = np.load(request.clear, allow_pickle=False)
    measured = measure(compiled, folder, held, options, progress)
    (request.out / CLIENT_JSON).write_bytes(measured.spec.to_bytes())
    if measured.picks:
        (request.out / PICKS).write_bytes(measured.picks.to_bytes())
    FheClient(measured.spec.to_bytes())  # as strict as the data owner will be
    progress({"stage": "check"})
    raw, integers = _checked_outputs(compiled, measured, held, options.p_error)
    samples = _samples(compiled, measured, integers, options.p_error)
    close = accuracy(
        raw,
        clear,
        activation=request.activation,
        task=request.task,
        rows=len(measured.integers),
    )
    if close.get("label_agreement", 1.0) < options.min_label_agreement:
        msg = (
            f"the encrypted circuit gives the clear model's label on only "
            f"{close['label_agreement']:.1%} of {close['rows']} held rows, "
            f"at least {options.min_label_agreement:.1%} is asked for"
        )
        raise BackendError(msg, code="fhe-inaccurate")
    if request.task != "classification":
        answers = (activate(r, request.activation) for r in (raw, clear))
        _check_explained(*answers)
    return PartResult(
        available=True,
        accuracy=close,
        cost=measured.cost,
        params={
            **_params(compiled, measured.spec, options),
            **_binning(compiled, held, clear, request),
            **samples,
        },
        public=(CLIENT_JSON,),
    )


def _check_explained(raw: Floats, clear: Floats) -> None:
    """Refuse answers of which one has little to do with the clear model's.

    Args:
        raw: The circuit's outputs after the activation, (rows, outputs).
        clear: The clear model's.

    Raises:
        BackendError: Too much of an output's variance on held rows is lost.
    """
    lost = lost_by_output(raw, clear)
    worst = int(lost.argmax())
    if not lost[worst] <= _MOST_LOST:
        which = f" {worst + 1} of {len(lost)}" if len(lost) > 1 else ""
        msg = (
            f"the encrypted circuit loses {lost[worst]:.0%} of the variance that the "
            f"clear model's output{which} has on held rows, at most {_MOST_LOST:.0%} "
            "may be lost: calibrate on more rows, train fewer trees, or bring "
            "outputs to one scale"
        )
        raise BackendError(msg, code="fhe-inaccurate")


def _checked_outputs(
    compiled: Compiled, measured: Measured, held: Floats, p_error: float
) -> tuple[Floats, Ints]:
    """Return raw outputs on all held rows and their integers, encrypted ones first.

    Raises:
        BackendError: Our path differs from the compiler's own.
    """
    ours = quantize(held, compiled.quantizers)
    if not np.array_equal(ours, compiled.theirs_quantize(held)):
        raise _differs("quantized inputs")
    integers = np.asarray(compiled.theirs_integers(ours), dtype=np.int64)
    encrypted = measured.integers
    if not _near(compiled, ours, integers, encrypted, p_error):
        raise _differs("decrypted integers")
    if not np.array_equal(
        raw_outputs(integers, compiled.output), compiled.theirs_outputs(integers)
    ):
        raise _differs("raw outputs")
    integers[: len(encrypted)] = encrypted
    return raw_outputs(integers, compiled.output), integers


def _near(
    compiled: Compiled, values: Ints, clear: Ints, encrypted: Ints, p_error: float
) -> bool:
    """Return whether decrypted integers are what the circuit may give.

    Where look-ups err by choice, on most rows. Answers within the bounds of rounding
    must also be close on average, for the bounds of several layers may hold nearly
    anything.

    Args:
        compiled: The circuit.
        values: Quantized rows.
        clear: The circuit's integers for them, in the clear.
        encrypted: Those that the first of them decrypted to.
        p_error: Chance that one table look-up errs.
    """
    first, spread = clear[: len(encrypted)], _spread(clear)
    is_loose = not compiled.exact and compiled.between is None
    if is_loose or (not compiled.exact and len(clear) >= _ENOUGH):
        if np.mean(np.abs(encrypted - first) / spread) > _FAR:
            return False
        if is_loose:
            return True
    bounds = _bounds(compiled, values[: len(encrypted)], first, spread)
    return bounds.hold(encrypted, p_error=p_error)


def _spread(clear: Ints) -> Ints:
    """Return what each answer of the held rows spans, 1 at least."""
    spread: Ints = np.maximum(np.ptp(clear, axis=0), 1)
    return spread


def _bounds(compiled: Compiled, values: Ints, clear: Ints, spread: Ints) -> Bounds:
    """Return between what integers the answers to quantized rows may lie."""
    if compiled.between is not None:
        return Bounds(*compiled.between(values))
    if compiled.exact:
        return Bounds(clear, clear)
    # Concrete-ML does not say how far its rounding may miss.
    far = np.ceil(_FAR_ONCE * spread).astype(np.int64)
    return Bounds(clear - far, clear + far)


def _samples(
    compiled: Compiled, measured: Measured, clear: Ints, p_error: float
) -> Json:
    """Return what a circuit that is built anew must answer, for the manifest.

    Only that it is not known if a circuit of Concrete-ML's fails it: rows made at
    random may be such as it was not compiled for.

    Raises:
        BackendError: A circuit of our own does, which every row in range must pass.
    """
    values = sample_values(
        compiled.quantizers, len(measured.samples), features=compiled.features
    )
    own = np.asarray(compiled.theirs_integers(values), dtype=np.int64)
    bounds = _bounds(compiled, values, own, _spread(clear))
    if bounds.hold(measured.samples, p_error=p_error):
        return {"samples": bounds.to_json()}
    if compiled.circuit == "fhe-native":
        raise _differs("decrypted integers of sample rows")
    return {"no_samples": _NO_SAMPLES}


def _differs(what: str) -> BackendError:
    msg = f"our {what} differ from the compiler's: this model is not supported"
    return BackendError(msg, code="fhe-differs")


def _binning(
    compiled: Compiled, held: Floats, clear: Floats, request: PartRequest
) -> Json:
    """Return what quantizing the inputs costs by itself, where it is known."""
    if compiled.unrounded is None:
        return {}
    close = accuracy(
        compiled.unrounded(held),
        clear,
        activation=request.activation,
        task=request.task,
        rows=0,
    )
    return {"binned": close}


def _params(compiled: Compiled, spec: CircuitSpec, options: Options) -> Json:
    machine = machine_params()
    if compiled.circuit == "concrete-ml":
        machine["versions"]["concrete-ml"] = version("concrete-ml")
    return {
        "circuit": compiled.circuit,
        "family": compiled.family,
        "circuit_sha256": spec.circuit_sha256,
        "keyset_sha256": spec.keyset_sha256,
        "batch_rows": [b.rows for b in spec.batches],
        "n_bits": compiled.n_bits,
        "p_error": options.p_error,
        "needs_keys": spec.needs_keys,
        **machine,
        **compiled.details,
    }
