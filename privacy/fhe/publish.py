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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np

from privacy.child import Handler, Progress
from privacy.encoding import Json
from privacy.errors import BackendError, PrivacyError
from privacy.fhe.backend import Floats, Ints
from privacy.fhe.backends.concrete_ml import attempts
from privacy.fhe.client import FheClient
from privacy.fhe.compiled import Compiled
from privacy.fhe.dense import forward, read_dense
from privacy.fhe.dense_choice import choose_dense
from privacy.fhe.machine import machine_params
from privacy.fhe.measure import Measured, measure, refuse_keys
from privacy.fhe.options import Options, parse_options
from privacy.fhe.quantizers import quantize, raw_outputs
from privacy.fhe.runner import CIRCUIT, CLIENT_JSON
from privacy.fhe.source import CIRCUIT_FILES, SOURCE
from privacy.fhe.spec import CircuitSpec
from privacy.fhe.yardstick import Yardstick
from privacy.publishing import PartRequest, PartResult, accuracy

_UNPACK = 6
"""About how many times larger unpacked keys are than sent ones."""


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
    options = parse_options(request.options)
    calibration = np.load(request.calibration, allow_pickle=False).astype(np.float64)
    with _own_temporary_folder():
        estimator = _estimator(request)
        why = ""
        for compile_one in _compilers(estimator, options):
            try:
                compiled = compile_one(
                    request, estimator, calibration, options, progress
                )
                result = _publish(request, compiled, options, progress)
            except PrivacyError as exc:
                why = "; ".join(w for w in (why, exc.message) if w)
                shutil.rmtree(request.out / CIRCUIT, ignore_errors=True)
                shutil.rmtree(request.out / SOURCE, ignore_errors=True)
                (request.out / CLIENT_JSON).unlink(missing_ok=True)
            else:
                fallback = {"not_fhe_native": why} if why else {}
                return replace(result, params={**result.params, **fallback})
        return PartResult(available=False, reason=why)


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


Compiler = Callable[[PartRequest, Any, Floats, Options, Progress], Compiled]


def _compilers(estimator: Any, options: Options) -> tuple[Compiler, ...]:
    """Return the ways to compile, the preferred first."""
    if type(estimator).__name__ in _ONE_WAY:
        return (_ONE_WAY[type(estimator).__name__],)
    native = _native_dense if estimator is None else _native_trees
    if options.circuit == "fhe-native":
        return (native,)
    if options.circuit == "auto" and not hasattr(estimator, "coef_"):
        return (native, _concrete_ml)
    return (_concrete_ml,)


def _native_dense(
    request: PartRequest,
    _: Any,
    calibration: Floats,
    options: Options,
    progress: Progress,
) -> Compiled:
    """Return a dense network as a circuit of our own."""
    progress({"stage": "compile", "attempt": "fhe-native"})
    from privacy.fhe.backends.native_networks import compile_dense

    layers = read_dense(request.onnx, calibration.shape[1])
    yardstick = Yardstick(
        rows=calibration,
        clear=forward(layers, calibration),
        truth=None,
        activation=request.activation,
        task=request.task,
    )
    with _readable("as an fhe-native circuit"):
        plan = choose_dense(layers, yardstick)
        return compile_dense(plan, p_error=options.p_error)


def _native_trees(
    request: PartRequest,
    estimator: Any,
    calibration: Floats,
    options: Options,
    progress: Progress,
) -> Compiled:
    """Return an ensemble of trees as a circuit of our own."""
    progress({"stage": "compile", "attempt": "fhe-native"})
    from privacy.fhe.backends.native_trees import compile_trees

    with _readable("as an fhe-native circuit"):
        return compile_trees(
            estimator,
            calibration,
            p_error=options.p_error,
            splits=options.splits,
            task=request.task,
        )


@contextmanager
def _readable(kind: str) -> Iterator[None]:
    """Raise whatever an engine raises as an error that a publisher understands."""
    try:
        yield
    except PrivacyError:
        raise
    except Exception as exc:
        msg = f"it cannot be compiled {kind} ({_plain(exc)})"
        raise BackendError(msg, code="fhe-compile-failed") from exc


def _quantized(
    request: PartRequest,
    estimator: Any,
    calibration: Floats,
    options: Options,
    progress: Progress,
) -> Compiled:
    """Return a network trained with quantization, compiled as it was trained."""
    progress({"stage": "compile", "attempt": "quantized network"})
    from privacy.fhe.backends.quantized import compile_quantized

    with _readable("as a quantized network"):
        return compile_quantized(
            estimator,
            calibration,
            p_error=options.p_error,
            activation=request.activation,
            task=request.task,
        )


_ONE_WAY: dict[str, Compiler] = {"QuantizedNetwork": _quantized}
"""Models that only one of our compilers knows."""


def _concrete_ml(
    request: PartRequest,
    estimator: Any,
    calibration: Floats,
    options: Options,
    progress: Progress,
) -> Compiled:
    """Return the first attempt that compiles with Concrete-ML."""
    failed = []
    for name, attempt in attempts(
        estimator,
        request.onnx,
        calibration,
        p_error=options.p_error,
        bits=options.n_bits or None,
    ):
        progress({"stage": "compile", "attempt": name})
        try:
            return attempt()
        except Exception as exc:  # noqa: BLE001 - the engine raises whatever it likes
            failed.append(f"{name}: {_plain(exc)}")
    msg = f"it cannot be compiled for FHE ({'; '.join(failed)})"
    raise BackendError(msg, code="fhe-compile-failed")


def _plain(exc: Exception) -> str:
    """Return an engine's complaint in a line a publisher can act on."""
    text = " ".join(str(exc).split())
    known = {
        "NoParametersFound": "no secure parameters exist for accumulators this wide",
        "operators are not supported": text,
        "bit-width": "a table look-up is wider than 16 bits",
    }
    for sign, words in known.items():
        if sign in text:
            return words[:300]
    return f"{type(exc).__name__}: {text[:200]}"


def _publish(
    request: PartRequest, compiled: Compiled, options: Options, progress: Progress
) -> PartResult:
    if compiled.uncompressed_keys_bytes > _UNPACK * options.max_keys_bytes:
        refuse_keys(compiled.uncompressed_keys_bytes // _UNPACK, options)
    folder = request.out / CIRCUIT
    folder.mkdir()
    for name in CIRCUIT_FILES:
        shutil.copyfile(compiled.folder / name, folder / name)
    compiled.source.write(request.out / SOURCE)
    held = np.load(request.held, allow_pickle=False).astype(np.float64)
    clear = np.load(request.clear, allow_pickle=False)
    measured = measure(compiled, folder, held, options, progress)
    (request.out / CLIENT_JSON).write_bytes(measured.spec.to_bytes())
    FheClient(measured.spec.to_bytes())  # as strict as the data owner will be
    progress({"stage": "check"})
    raw = _checked_outputs(compiled, measured, held)
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
    return PartResult(
        available=True,
        accuracy=close,
        cost=measured.cost,
        params={
            **_params(compiled, measured.spec, options),
            **_binning(compiled, held, clear, request),
        },
        public=(CLIENT_JSON,),
    )


def _checked_outputs(compiled: Compiled, measured: Measured, held: Floats) -> Floats:
    """Return raw outputs on all held rows, those run encrypted first.

    Raises:
        BackendError: Our path differs from the compiler's own.
    """
    ours = quantize(held, compiled.quantizers)
    if not np.array_equal(ours, compiled.theirs_quantize(held)):
        raise _differs("quantized inputs")
    integers = np.asarray(compiled.theirs_integers(ours), dtype=np.int64)
    encrypted = measured.integers
    if not _near(compiled, ours[: len(encrypted)], encrypted):
        raise _differs("decrypted integers")
    if not np.array_equal(
        raw_outputs(integers, compiled.output), compiled.theirs_outputs(integers)
    ):
        raise _differs("raw outputs")
    integers[: len(encrypted)] = encrypted
    return raw_outputs(integers, compiled.output)


def _near(compiled: Compiled, values: Ints, encrypted: Ints) -> bool:
    """Return whether decrypted integers are what the circuit may give."""
    if compiled.exact:
        return np.array_equal(encrypted, compiled.theirs_integers(values))
    if compiled.between is None:
        return True
    least, most = compiled.between(values)
    return bool(((least <= encrypted) & (encrypted <= most)).all())


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
