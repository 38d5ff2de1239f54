"""Run a fresh circuit for real: its costs, its templates and a few of its answers."""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from privacy.child import Progress
from privacy.encoding import Json
from privacy.errors import BackendError
from privacy.fhe.backend import Circuit, FheBackend, Floats, Ints, load_backend
from privacy.fhe.compiled import Compiled
from privacy.fhe.options import Options
from privacy.fhe.quantizers import quantize
from privacy.fhe.spec import Batch, CircuitSpec
from privacy.fhe.template import learn_template

_SAMPLE_ROWS = 3
_FAST_S = 0.25
_UNPACK = 6
"""About how many times larger unpacked keys are than sent ones."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What two key sets and a few encrypted rows showed.

    Attributes:
        integers: The circuits' integers for the first held rows, decrypted.
    """

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
    alone, *batches = (_Samples(name, rows) for name, rows in compiled.functions)
    progress({"stage": "keys"})
    keys = [_Keys(backend, circuit, compiled.program, options)]
    few = min(options.engine_rows or _SAMPLE_ROWS, _SAMPLE_ROWS)
    _run(circuit, keys[0], values[:few], alone, options)
    for batch in batches:
        _run(circuit, keys[0], values[: batch.rows], batch, options)
    fast = alone.latency_s < _FAST_S
    rows = options.engine_rows or (10 if fast else _SAMPLE_ROWS)
    progress({"stage": "run", "total": min(rows, len(values))})
    keys.append(_Keys(backend, circuit, compiled.program, options))
    integers = [_run(circuit, keys[1], values[:rows], alone, options)]
    for batch in batches:  # rows that did not run alone, while there are any
        seen = sum(len(i) for i in integers)
        rest = values[seen : seen + batch.rows]
        found = _run(
            circuit, keys[1], rest if len(rest) else values[:1], batch, options
        )
        integers.append(found[: len(rest)])
    template = learn_template([k.raw for k in keys])
    spec = CircuitSpec(
        backend=backend.name,
        circuit=compiled.circuit,
        program=compiled.program,
        features=compiled.features,
        quantizers=compiled.quantizers,
        output=compiled.output,
        needs_keys=template.constant() is None,
        keys=template,
        batches=tuple(s.batch(alone) for s in (alone, *batches)),
    )
    cost: Json = {
        "latency_s": alone.latency_s,
        "keygen_s": keys[1].keygen_s,
        "keys_bytes": template.size if spec.needs_keys else 0,
        "input_bytes": spec.batches[0].ciphertext.size,
        "output_bytes": spec.batches[0].result.size,
    }
    if batches:
        cost["batches"] = {str(b.rows): b.latency_s for b in batches}
    return Measured(spec=spec, integers=np.concatenate(integers), cost=cost)


class _Keys:
    """Fresh keys, loaded, and how long they took to make."""

    def __init__(
        self, backend: FheBackend, circuit: Circuit, program: str, options: Options
    ) -> None:
        started = time.perf_counter()
        keyset = backend.generate_keyset(program)
        self.raw = keyset.evaluation_keys()
        self.keygen_s = time.perf_counter() - started
        if len(self.raw) > options.max_keys_bytes:
            refuse_keys(len(self.raw), options)
        self.cipher = keyset.cipher(program)
        self.loaded: Any = circuit.load_keys(self.raw)


@dataclass(slots=True)
class _Samples:
    """What runs of one circuit, of so many rows at once, gave."""

    function: str
    rows: int
    ciphertexts: list[bytes] = field(default_factory=list)
    results: list[bytes] = field(default_factory=list)
    run_s: list[float] = field(default_factory=list)

    @property
    def latency_s(self) -> float:
        """The median run's time, without the first: it unpacks the keys."""
        return float(np.median(self.run_s[1:] or self.run_s))

    def batch(self, alone: "_Samples") -> Batch:
        """Return the circuit with its templates, and from how many rows it pays."""
        pays_from = math.ceil(self.latency_s / alone.latency_s)
        return Batch(
            function=self.function,
            rows=self.rows,
            pays_from=min(pays_from, self.rows),
            ciphertext=learn_template(self.ciphertexts),
            result=learn_template(self.results),
        )


def _run(
    circuit: Circuit, keys: _Keys, values: Ints, into: _Samples, options: Options
) -> Ints:
    """Run rows encrypted, add what was seen to the samples, return the integers."""
    found = []
    for i in range(0, len(values), into.rows):
        some = values[i : i + into.rows]
        full = np.resize(some, (into.rows, *some.shape[1:]))
        ciphertext = keys.cipher.encrypt(into.function, full)
        started = time.perf_counter()
        result = circuit.run(into.function, ciphertext, keys.loaded)
        took = time.perf_counter() - started
        if took > options.max_latency_s * into.rows:
            msg = (
                f"one encrypted row takes {took / into.rows:.0f} s here, at most "
                f"{options.max_latency_s:.0f} s is allowed: use a smaller model"
            )
            raise BackendError(msg, code="fhe-too-slow")
        into.ciphertexts.append(ciphertext)
        into.results.append(result)
        into.run_s.append(took)
        found.append(keys.cipher.decrypt(into.function, result)[: len(some)])
    return np.concatenate(found)


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
