"""Compile a model for this mode, measure it, and prove that our path agrees.

1. Compile with Concrete-ML, from precise to coarse, until an attempt succeeds.
2. Make two key sets, encrypt and run rows; learn the templates from what was seen.
3. Write client.json and the native circuit.
4. Compare our quantization, the decrypted integers and our raw outputs with
   Concrete-ML's own, exactly; refuse to publish if they differ.
5. Compare with the clear model on all held rows; refuse if labels agree too rarely.

Options: `p_error`, `n_bits`, `engine_rows`, `max_latency_s`, `max_keys_bytes`,
`min_label_agreement`; see `Options`.
"""

import platform
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from privacy.child import Handler, Progress
from privacy.encoding import Json
from privacy.errors import BackendError, FormatError, PrivacyError
from privacy.fhe.backend import Circuit, FheBackend, Floats, Ints, load_backend
from privacy.fhe.backends.concrete_ml import Compiled, attempts
from privacy.fhe.client import FheClient
from privacy.fhe.quantizers import quantize, raw_outputs
from privacy.fhe.runner import CIRCUIT, CLIENT_JSON
from privacy.fhe.spec import CircuitSpec
from privacy.fhe.template import learn_template
from privacy.publishing import PartRequest, PartResult, accuracy

CIRCUIT_FILES = ("sharedlib.so", "program_info.concrete.params.json")
_SAMPLE_ROWS = 3
_FAST_S = 0.25
_UNPACK = 6
"""About how many times larger unpacked keys are than sent ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The publisher's choices.

    Attributes:
        p_error: Chance that one table look-up errs. Larger is faster, and weaker
            against an attacker who sees decrypted results (IND-CPA-D).
        n_bits: Bits for linear models and trees, instead of the built-in list.
        engine_rows: Held rows to run encrypted; 0 chooses 10 or 3 by speed.
        max_latency_s: A slower circuit is not published.
        max_keys_bytes: A circuit with larger evaluation keys is not published.
        min_label_agreement: Least share of held rows labelled as by the clear model.
    """

    p_error: float = 2.0**-40
    n_bits: int = 0
    engine_rows: int = 0
    max_latency_s: float = 120.0
    max_keys_bytes: int = 1 << 29
    min_label_agreement: float = 0.9


@dataclass(frozen=True, slots=True)
class Measured:
    """What two key sets and a few encrypted rows showed."""

    spec: CircuitSpec
    integers: Ints
    cost: Json


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
    try:
        compiled = _compile(request, calibration, options, progress)
        return _publish(request, compiled, options, progress)
    except PrivacyError as exc:
        return PartResult(available=False, reason=exc.message)


def parse_options(given: Mapping[str, Any]) -> Options:
    """Return the publisher's choices.

    Raises:
        FormatError: One is unknown, of another type or out of range.
    """
    known = {f.name: type(f.default) for f in fields(Options)}
    for name, value in given.items():
        if name not in known:
            msg = f"FHE has no option {name!r}: it has {', '.join(known)}"
            raise FormatError(msg, code="unknown-option")
        fits = isinstance(value, known[name] | int) and not isinstance(value, bool)
        if not fits or value < 0:
            msg = f"FHE option {name} is {value!r}, expected a {known[name].__name__}"
            raise FormatError(msg, code="bad-option")
    options = Options(**given)
    if not 2.0**-80 <= options.p_error <= 0.1:  # noqa: PLR2004 - what Concrete takes
        msg = f"p_error is {options.p_error:g}, expected 2**-80 to 0.1"
        raise FormatError(msg, code="bad-option")
    return options


def _compile(
    request: PartRequest, calibration: Floats, options: Options, progress: Progress
) -> Compiled:
    """Return the first attempt that compiles."""
    estimator = None
    if request.estimator is not None:
        import joblib

        estimator = joblib.load(request.estimator)
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
        _refuse_keys(compiled.uncompressed_keys_bytes // _UNPACK, options)
    folder = request.out / CIRCUIT
    folder.mkdir()
    for name in CIRCUIT_FILES:
        shutil.copyfile(compiled.folder / name, folder / name)
    held = np.load(request.held, allow_pickle=False).astype(np.float64)
    clear = np.load(request.clear, allow_pickle=False)
    measured = _measure(compiled, folder, held, options, progress)
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
        params=_params(compiled, measured.spec, options),
        public=(CLIENT_JSON,),
    )


def _measure(
    compiled: Compiled, folder: Path, held: Floats, options: Options, progress: Progress
) -> Measured:
    """Make two key sets, run rows with both, and describe what was seen."""
    backend = load_backend()
    circuit = backend.load_circuit(folder)
    values = quantize(held, compiled.quantizers)
    samples = _Samples([], [], [], [], [])
    progress({"stage": "keys"})
    few = min(options.engine_rows or _SAMPLE_ROWS, _SAMPLE_ROWS)
    _sample(backend, circuit, compiled, values, samples, options, few)
    fast = float(np.median(samples.run_s)) < _FAST_S
    rows = options.engine_rows or (10 if fast else _SAMPLE_ROWS)
    rows = min(rows, len(values))
    samples.integers.clear()
    progress({"stage": "run", "total": rows})
    keygen_s = _sample(backend, circuit, compiled, values, samples, options, rows)
    keys = learn_template(samples.keys)
    spec = CircuitSpec(
        backend=backend.name,
        program=compiled.program,
        features=compiled.features,
        quantizers=compiled.quantizers,
        output=compiled.output,
        needs_keys=keys.constant() is None,
        keys=keys,
        ciphertext=learn_template(samples.ciphertexts),
        result=learn_template(samples.results),
    )
    cost: Json = {
        "latency_s": float(np.median(samples.run_s)),
        "keygen_s": keygen_s,
        "keys_bytes": keys.size if spec.needs_keys else 0,
        "input_bytes": spec.ciphertext.size,
        "output_bytes": spec.result.size,
    }
    return Measured(spec=spec, integers=np.concatenate(samples.integers), cost=cost)


@dataclass(frozen=True, slots=True)
class _Samples:
    keys: list[bytes]
    ciphertexts: list[bytes]
    results: list[bytes]
    integers: list[Ints]
    run_s: list[float]


def _sample(
    backend: FheBackend,
    circuit: Circuit,
    compiled: Compiled,
    values: Ints,
    samples: _Samples,
    options: Options,
    rows: int,
) -> float:
    """Add one key set's messages to the samples; return how long its keys took, in s.

    The first run unpacks the keys, so its time is not kept unless it is the only one.
    """
    started = time.perf_counter()
    keyset = backend.generate_keyset(compiled.program)
    raw_keys = keyset.evaluation_keys()
    keygen_s = time.perf_counter() - started
    if len(raw_keys) > options.max_keys_bytes:
        _refuse_keys(len(raw_keys), options)
    samples.keys.append(raw_keys)
    loaded = circuit.load_keys(raw_keys)
    for i in range(min(rows, len(values))):
        ciphertext = keyset.encrypt(values[i : i + 1])
        started = time.perf_counter()
        result = circuit.run(ciphertext, loaded)
        took = time.perf_counter() - started
        if took > options.max_latency_s:
            msg = (
                f"one encrypted row takes {took:.0f} s here, at most "
                f"{options.max_latency_s:.0f} s is allowed: use a smaller model"
            )
            raise BackendError(msg, code="fhe-too-slow")
        samples.ciphertexts.append(ciphertext)
        samples.results.append(result)
        samples.integers.append(keyset.decrypt(result))
        if i or rows == 1:
            samples.run_s.append(took)
    return keygen_s


def _checked_outputs(compiled: Compiled, measured: Measured, held: Floats) -> Floats:
    """Return raw outputs on all held rows, those run encrypted first.

    Raises:
        BackendError: Our path differs from Concrete-ML's own.
    """
    ours = quantize(held, compiled.quantizers)
    if not np.array_equal(ours, compiled.theirs_quantize(held)):
        raise _differs("quantized inputs")
    integers = np.asarray(compiled.theirs_integers(ours), dtype=np.int64)
    encrypted = measured.integers
    if compiled.exact and not np.array_equal(encrypted, integers[: len(encrypted)]):
        raise _differs("decrypted integers")
    if not np.array_equal(
        raw_outputs(integers, compiled.output), compiled.theirs_outputs(integers)
    ):
        raise _differs("raw outputs")
    integers[: len(encrypted)] = encrypted
    return raw_outputs(integers, compiled.output)


def _differs(what: str) -> BackendError:
    msg = f"our {what} differ from Concrete-ML's: this model is not supported"
    return BackendError(msg, code="fhe-differs")


def _refuse_keys(size: int, options: Options) -> None:
    msg = (
        f"its evaluation keys take about {size / 1e6:.0f} MB, at most "
        f"{options.max_keys_bytes / 1e6:.0f} MB is allowed: use a smaller model"
    )
    raise BackendError(msg, code="fhe-keys-too-large")


def _params(compiled: Compiled, spec: CircuitSpec, options: Options) -> Json:
    return {
        "circuit": "concrete-ml",
        "family": compiled.family,
        "circuit_sha256": spec.circuit_sha256,
        "n_bits": compiled.n_bits,
        "p_error": options.p_error,
        "needs_keys": spec.needs_keys,
        "machine": platform.machine(),
        "versions": {p: version(p) for p in ("concrete-ml", "concrete-python")},
    }
