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
from privacy.fhe.picks import Picks
from privacy.fhe.quantizers import quantize
from privacy.fhe.results import packed_bytes, word_bytes
from privacy.fhe.samples import sample_values
from privacy.fhe.spec import Batch, CircuitSpec, parse_program
from privacy.fhe.template import learn_template
from privacy.fhe.thermometer import Edges

_SAMPLE_ROWS = 3
_FAST_S = 0.25
_UNPACK = 6
"""About how many times larger unpacked keys are than sent ones."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What two key sets and a few encrypted rows showed.

    Attributes:
        integers: The circuits' integers for the first held rows, decrypted.
        samples: Those for the first rows of `privacy.fhe.samples`, one row at a time.
        picks: Which of the bits sent the circuits read, if not all.
    """

    spec: CircuitSpec
    integers: Ints
    samples: Ints
    cost: Json
    picks: Picks | None = None


def measure(
    compiled: Compiled, folder: Path, held: Floats, options: Options, progress: Progress
) -> Measured:
    """Make two key sets, run rows with both, and describe what was seen."""
    backend = load_backend()
    circuit = backend.load_circuit(folder)
    values = quantize(held, compiled.quantizers)
    runs = [_Samples(name, rows) for name, rows in compiled.functions]
    alone, *batches = runs
    progress({"stage": "keys"})
    keys = [_Keys(backend, circuit, compiled, options)]
    few = min(options.engine_rows or _SAMPLE_ROWS, _SAMPLE_ROWS)
    samples: list[Ints] = []
    for run in runs:
        own = values[: run.rows]
        if run is alone:
            own = sample_values(compiled.quantizers, few, features=compiled.features)
        run.messages += keys[0].messages(run, own)
        results = _compute(circuit, keys[0], run.messages, run, options)
        if run is alone:
            samples = [keys[0].cipher.decrypt(run.function, r) for r in results]
        run.ciphertexts += keys[0].ciphertexts(run, values[: run.rows])
    fast = alone.latency_s < _FAST_S
    rows = options.engine_rows or (10 if fast else _SAMPLE_ROWS)
    progress({"stage": "run", "total": min(rows, len(values))})
    keys.append(_Keys(backend, circuit, compiled, options))
    for run in runs:
        run.messages += keys[1].messages(run, values[: run.rows])
    picks = _picks(compiled, runs)
    integers: list[Ints] = []
    for run in runs:  # batches take rows that did not run alone, while there are any
        seen = sum(len(i) for i in integers)
        own = values[seen : seen + (rows if run is alone else run.rows)]
        sent = keys[1].ciphertexts(run, own if len(own) else values[:1])
        run.ciphertexts += sent
        messages = [run.picked(picks, c) for c in sent]
        results = _compute(circuit, keys[1], messages, run, options)
        batch = run.batch(alone, compiled.program)
        found = [
            keys[1].cipher.decrypt(
                run.function, batch.unpack(batch.pack(r), hint="made here")
            )
            for r in results
        ]
        integers.append(np.concatenate(found)[: len(own)])
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
        batches=tuple(run.batch(alone, compiled.program) for run in runs),
    )
    first = spec.batches[0]
    cost: Json = {
        "latency_s": alone.latency_s,
        "keygen_s": keys[1].keygen_s,
        "keys_bytes": template.size if spec.needs_keys else 0,
        "input_bytes": first.ciphertext.size,
        "output_bytes": packed_bytes(first.result, first.word_bytes),
        **({"gpus": compiled.gpus} if compiled.gpus else {}),
    }
    if batches:
        cost["batches"] = {str(b.rows): b.latency_s for b in batches}
    return Measured(
        spec, np.concatenate(integers), np.concatenate(samples), cost, picks
    )


class _Keys:
    """Fresh keys, loaded, and how long they took to make."""

    def __init__(
        self, backend: FheBackend, circuit: Circuit, of: Compiled, options: Options
    ) -> None:
        started = time.perf_counter()
        keyset = backend.generate_keyset(of.program)
        self.raw = keyset.evaluation_keys()
        self.keygen_s = time.perf_counter() - started
        if len(self.raw) > options.max_keys_bytes:
            refuse_keys(len(self.raw), options)
        self.cipher = keyset.cipher(of.program)
        self.loaded: Any = circuit.load_keys(self.raw)
        self._used = of.used
        self._engine_cipher = keyset.cipher(of.engine_program)

    def ciphertexts(self, run: "_Samples", values: Ints) -> list[bytes]:
        """Return what a client sends for rows, the last filled up."""
        return [self.cipher.encrypt(run.function, v) for v in run.cut(values)]

    def messages(self, run: "_Samples", values: Ints) -> list[bytes]:
        """Return what the engine takes for rows, likewise."""
        values = values if self._used is None else values[:, list(self._used)]
        return [self._engine_cipher.encrypt(run.function, v) for v in run.cut(values)]


@dataclass(slots=True)
class _Samples:
    """What runs of one circuit, of so many rows at once, gave."""

    function: str
    rows: int
    ciphertexts: list[bytes] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)
    results: list[bytes] = field(default_factory=list)
    run_s: list[float] = field(default_factory=list)

    def cut(self, values: Ints) -> list[Ints]:
        """Return rows in lots of as many as the circuit takes, the last filled up."""
        lots = [values[i : i + self.rows] for i in range(0, len(values), self.rows)]
        return [np.resize(lot, (self.rows, *values.shape[1:])) for lot in lots]

    def picked(self, picks: Picks | None, ciphertext: bytes) -> bytes:
        """Return what the engine takes of what a client sent."""
        if picks is None:
            return ciphertext
        return picks.pick(
            ciphertext,
            function=self.function,
            rows=self.rows,
            template=learn_template(self.ciphertexts),
        )

    @property
    def latency_s(self) -> float:
        """The median run's time, without the first: it unpacks the keys."""
        return float(np.median(self.run_s[1:] or self.run_s))

    def batch(self, alone: "_Samples", program: str) -> Batch:
        """Return the circuit with its templates, and from how many rows it pays."""
        pays_from = math.ceil(self.latency_s / alone.latency_s)
        (circuit,) = [
            one
            for one in parse_program(program)["circuits"]
            if one["name"] == self.function
        ]
        result = learn_template(self.results)
        return Batch(
            function=self.function,
            rows=self.rows,
            pays_from=min(pays_from, self.rows),
            ciphertext=learn_template(self.ciphertexts),
            result=result,
            word_bytes=word_bytes(circuit, result),
        )


def _picks(compiled: Compiled, runs: list[_Samples]) -> Picks | None:
    if compiled.used is None:
        return None
    edges = [q for q in compiled.quantizers if isinstance(q, Edges)]
    return Picks(
        bits=sum(len(e.edges) for e in edges),
        used=compiled.used,
        inner={run.function: learn_template(run.messages) for run in runs},
    )


def _compute(
    circuit: Circuit,
    keys: _Keys,
    messages: list[bytes],
    into: _Samples,
    options: Options,
) -> list[bytes]:
    """Run messages, add what was seen to the samples, and return the results."""
    results = []
    for message in messages:
        started = time.perf_counter()
        results.append(circuit.run(into.function, message, keys.loaded))
        took = time.perf_counter() - started
        if took > options.max_latency_s * into.rows:
            msg = (
                f"one encrypted row takes {took / into.rows:.0f} s here, at most "
                f"{options.max_latency_s:.0f} s is allowed: use a smaller model"
            )
            raise BackendError(msg, code="fhe-too-slow")
        into.run_s.append(took)
    into.results += results
    return results


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
