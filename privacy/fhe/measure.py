"""Run a fresh circuit for real: its costs, its templates and a few of its answers."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from privacy.child import Progress
from privacy.encoding import Json
from privacy.errors import BackendError
from privacy.fhe.backend import Circuit, FheBackend, Floats, Ints, load_backend
from privacy.fhe.compiled import Compiled
from privacy.fhe.options import Options
from privacy.fhe.quantizers import quantize
from privacy.fhe.spec import CircuitSpec
from privacy.fhe.template import learn_template

_SAMPLE_ROWS = 3
_FAST_S = 0.25
_UNPACK = 6
"""About how many times larger unpacked keys are than sent ones."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What two key sets and a few encrypted rows showed."""

    spec: CircuitSpec
    integers: Ints
    cost: Json


def measure(
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
        circuit=compiled.circuit,
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
        refuse_keys(len(raw_keys), options)
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


def check_keys(compiled: Compiled, options: Options) -> None:
    """Refuse a circuit whose evaluation keys would be larger than allowed.

    Raises:
        BackendError: They would.
    """
    if compiled.uncompressed_keys_bytes > _UNPACK * options.max_keys_bytes:
        refuse_keys(compiled.uncompressed_keys_bytes // _UNPACK, options)


def refuse_keys(size: int, options: Options) -> NoReturn:
    """Raise the error that says how large the evaluation keys are."""
    msg = (
        f"its evaluation keys take about {size / 1e6:.0f} MB, at most "
        f"{options.max_keys_bytes / 1e6:.0f} MB is allowed: use a smaller model"
    )
    raise BackendError(msg, code="fhe-keys-too-large")
