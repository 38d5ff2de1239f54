"""The search itself.

Plan:
    1. What do the numbers need, for each way of rescaling? (`numbers`)
    2. Lay every choice out on paper that can hold them, and rank by cost. (`cost`)
    3. From the best on: compile, and check the answers on every row.
    4. Make keys for the best few that pass, prove a row with each, and take the best.
"""

import itertools
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from privacy.child import Progress
from privacy.encoding import Json
from privacy.errors import BackendError, FormatError, LimitError
from privacy.zkml.candidates import GRADES, Grade
from privacy.zkml.choose import (
    Checked,
    Circuit,
    Model,
    answers,
    check,
    compile_circuit,
)
from privacy.zkml.prove import prove_row
from privacy.zkml.srs import obtain_srs, verifier_srs
from privacy.zkml.system import CircuitChoice, ProofSystem
from privacy.zkml.tune.cache import key_of, remember, remembered
from privacy.zkml.tune.cost import Cost, estimate, expected_gas, fits
from privacy.zkml.tune.layout import Candidate, lay_out
from privacy.zkml.tune.machine import remember_speed, speed
from privacy.zkml.tune.numbers import (
    BETWEEN,
    FAR_BITS,
    MOST_BITS,
    MULTIPLIERS,
    Numbers,
    measured,
    needed,
    unless_panicked,
)
from privacy.zkml.tune.options import TuneOptions


@dataclass(frozen=True, slots=True)
class Tuned:
    """What tuning found.

    Attributes:
        circuit: The best one, with keys, SRS and accuracy.
        memory_bytes: What proving with it should take at most.
        report: What was tried, for people and programs.
    """

    circuit: Circuit
    memory_bytes: int
    report: Json = field(default_factory=dict)


@dataclass(slots=True)
class _Search:
    backend: ProofSystem
    model: Model
    options: TuneOptions
    scratch: Path
    progress: Progress
    reasons: dict[str, str] = field(default_factory=dict)
    considered: int = 0
    short_of_memory: bool = False
    _count: "itertools.count[int]" = field(default_factory=itertools.count)

    def fresh(self) -> Path:
        return self.scratch / f"circuit-{next(self._count)}"

    def refuse(self, choice: CircuitChoice, reason: str) -> None:
        bits, base, legs = choice.scale_bits, choice.decomp_base, choice.decomp_legs
        self.reasons.setdefault(reason, f"{bits} bits, base {base}^{legs}: {reason}")


def tune(
    backend: ProofSystem,
    model: Model,
    options: TuneOptions,
    scratch: Path,
    progress: Progress,
) -> Tuned:
    """Return the best circuit found, with its keys under a development SRS.

    Args:
        backend: The proof system.
        model: See `prepare`.
        options: What to look for.
        scratch: A folder for circuits; the one returned lies there.
        progress: Told how far it is.

    Raises:
        FormatError: No circuit comes close enough to the clear model.
        LimitError: Proving would take more memory than allowed, or checking more gas.
        BackendError: The engine cannot express the model, or panicked.
    """
    started, cpu = time.monotonic(), time.process_time()
    key = key_of(model, options, f"{backend.name} {backend.version}")
    known = () if options.settings else remembered(key)
    search = _Search(backend, model, options, scratch, progress)
    tried: list[Tried] = []
    if known:
        again = _within(search, _fixed(search, known))
        tried = _prove_passing(search, again, GRADES[-1])
    if not tried:
        tried = _searched(search)
        known = ()
    best = min(tried, key=lambda t: t.measured(options.objective))
    if not options.settings and not search.short_of_memory:
        remember(key, best.circuit.choice)
    report = {
        "objective": options.objective,
        "from_cache": bool(known),
        "considered": search.considered,
        "proofs": len(tried),
        "seconds": round(time.monotonic() - started, 3),
        "cpu_s": round(time.process_time() - cpu, 3),
        "chosen": asdict(best.circuit.choice),
        "tried": [t.as_json() for t in tried],
    }
    return Tuned(best.circuit, best.cost.memory_bytes, report)


def _searched(search: _Search) -> "list[Tried]":
    """Return the best few circuits, each with a proof.

    Raises:
        FormatError: No circuit keeps the answers.
        LimitError: None can be proven in the memory there is, or checked for the gas.
    """
    settings = search.options.settings
    for grade in GRADES[-1:] if settings else GRADES:
        ranked = _fixed(search, settings) if settings else _ranked(search, grade)
        search.considered += len(ranked)
        tried = _prove_passing(search, _affordable(search, ranked), grade)
        if tried:
            return tried
    said = "; ".join(search.reasons.values()) or "no choice fits the model"
    msg = f"no circuit came close enough to the clear model. Tried {said}"
    raise FormatError(msg, code="inaccurate")


def _affordable(search: _Search, ranked: list[Candidate]) -> list[Candidate]:
    fitting = _within(search, ranked)
    if ranked and not fitting:
        raise _beyond(search.options, ranked)
    return fitting


def _within(search: _Search, ranked: list[Candidate]) -> list[Candidate]:
    """Return the candidates that take no more memory and gas than may be taken."""
    most, gas = search.options.memory_bytes, search.options.max_gas
    fitting = [c for c in ranked if c.cost.memory_bytes <= most]
    search.short_of_memory |= len(fitting) < len(ranked)
    return [c for c in fitting if gas is None or c.cost.verify_gas <= gas]


def _beyond(options: TuneOptions, ranked: list[Candidate]) -> LimitError:
    """Return the error that says what the least of candidates would take."""
    most, gas = options.memory_bytes, options.max_gas
    fitting = [c for c in ranked if c.cost.memory_bytes <= most]
    if not fitting:
        least = min(c.cost.memory_bytes for c in ranked)
        msg = (
            f"proving would take about {least >> 20} MiB, {most >> 20} MiB can be had: "
            "publish a smaller model, or on a machine with more memory"
        )
        return LimitError(msg, code="circuit-too-large")
    least = min(c.cost.verify_gas for c in fitting)
    msg = (
        f"checking a proof would take about {least:,} gas, {gas:,} are allowed: "
        "publish a smaller model, or allow more (max_gas)"
    )
    return LimitError(msg, code="too-much-gas")


def _fixed(search: _Search, choices: Sequence[CircuitChoice]) -> list[Candidate]:
    """Return choices made elsewhere, cheapest first."""
    found = []
    for choice in choices:
        try:
            found.append(_sized(search, choice))
        except BackendError as exc:
            unless_panicked(exc)
            search.refuse(choice, exc.message)
    return _sorted(search, found)


def _ranked(search: _Search, grade: Grade) -> list[Candidate]:
    found: list[Candidate] = []
    multipliers = list(MULTIPLIERS)
    for i, multiplier in enumerate(multipliers):
        search.progress({"stage": "find scales", "done": i, "total": len(multipliers)})
        try:
            numbers = needed(
                search.backend, search.model, multiplier, grade, search.fresh
            )
        except (BackendError, FormatError) as exc:
            unless_panicked(exc)
            search.reasons.setdefault(exc.message, exc.message)
            continue
        if multiplier > BETWEEN and numbers.reach_bits > FAR_BITS:
            multipliers.append(BETWEEN)
        search.progress({"stage": "lay out circuits"})
        found += _lay_out(search, numbers)
    return _sorted(search, found)


def _sorted(search: _Search, found: list[Candidate]) -> list[Candidate]:
    figure = {"time": "prove_s", "key": "proving_key_bytes", "gas": "verify_gas"}[
        search.options.objective
    ]
    return sorted(found, key=lambda c: (getattr(c.cost, figure), c.cost.prove_s))


def _lay_out(search: _Search, numbers: Numbers) -> list[Candidate]:
    return lay_out(
        search.backend,
        search.model.onnx,
        search.options.visibility,
        numbers,
        search.scratch,
    )


def _sized(search: _Search, choice: CircuitChoice) -> Candidate:
    visibility = search.options.visibility
    size = search.backend.size(search.model.onnx, choice, visibility, search.scratch)
    if not fits(size, choice):
        msg = f"2**{choice.logrows} rows cannot hold its hash and range checks"
        raise BackendError(msg)
    return Candidate(choice, estimate(size, choice, speed=speed()))


@dataclass(frozen=True, slots=True)
class Tried:
    """A circuit with keys that proved a row.

    Attributes:
        prove_s: By the clock.
        cpu_s: Of all cores; what decides, since other work does not stretch it as much.
    """

    circuit: Circuit
    cost: Cost
    prove_s: float
    cpu_s: float
    proof_bytes: int

    def measured(self, objective: str) -> float:
        """Return what counts, less is better."""
        if objective == "time":
            return self.cpu_s
        if objective == "key":
            return float(self.circuit.files.proving_key.stat().st_size)
        return float(self.gas)

    @property
    def gas(self) -> int:
        """What checking this proof on a chain should take."""
        return expected_gas(self.proof_bytes, fixed=self.cost.fixed)

    def as_json(self) -> Json:
        """Return the choice, what was expected of it and what it took."""
        key = self.circuit.files.proving_key.stat().st_size
        return {
            "choice": asdict(self.circuit.choice),
            "expected": asdict(self.cost),
            "prove_s": round(self.prove_s, 4),
            "cpu_s": round(self.cpu_s, 4),
            "proving_key_bytes": key,
            "proof_bytes": self.proof_bytes,
            "verify_gas": self.gas,
        }


def _prove_passing(
    search: _Search, ranked: Sequence[Candidate], grade: Grade
) -> list[Tried]:
    """Return the best few that keep the answers, each with a proof; or none."""
    widen = search.considered > 0 and not search.options.settings
    tried: list[Tried] = []
    checked: dict[tuple[int, int], Checked] = {}
    waiting, spent_s, options = list(ranked), 0.0, search.options
    while waiting and len(tried) < options.proofs and spent_s < options.proving_s:
        candidate = waiting.pop(0)
        choice = candidate.choice
        try:
            circuit = _passed(search, choice, grade, checked)
        except (BackendError, FormatError) as exc:
            unless_panicked(exc)
            search.refuse(choice, exc.message)
            if widen and exc.code == "inaccurate":
                waiting = _one_bit_more(search, waiting, _group(choice))
            continue
        search.progress(
            {"stage": "prove", "done": len(tried), "total": search.options.proofs}
        )
        started = time.monotonic()
        tried.append(_prove(search, circuit, candidate.cost))
        spent_s += time.monotonic() - started
    return tried


def _group(choice: CircuitChoice) -> tuple[int, int]:
    """Return what decides a circuit's answers, however it is laid out."""
    return choice.scale_bits, choice.scale_rebase_multiplier


def _passed(
    search: _Search,
    choice: CircuitChoice,
    grade: Grade,
    checked: dict[tuple[int, int], Checked],
) -> Circuit:
    """Return a choice's circuit, which keeps the answers.

    Every row is checked on the first of a group; the others have to give its answers at
    the corners, to the bit.

    Raises:
        FormatError: It does not keep them.
        BackendError: The engine cannot express the model with this choice.
    """
    backend, model, visibility = search.backend, search.model, search.options.visibility
    circuit = compile_circuit(backend, model, choice, visibility, search.fresh())
    group = _group(choice)
    if group not in checked:
        search.progress({"stage": "check answers"})
        checked[group] = check(backend, model, circuit, grade)
    elif not np.array_equal(
        answers(backend, circuit, model.corners), checked[group].at_corners
    ):
        msg = "at the corners of the input range, another layout answers otherwise"
        raise FormatError(msg, code="layouts-differ")
    return replace(circuit, accuracy=checked[group].accuracy)


def _one_bit_more(
    search: _Search, waiting: list[Candidate], group: tuple[int, int]
) -> list[Candidate]:
    """Return the candidates with those of a group laid out for one more bit."""
    bits, multiplier = group[0] + 1, group[1]
    others = [c for c in waiting if _group(c.choice) != group]
    if bits > MOST_BITS:
        return others
    try:
        numbers = measured(search.backend, search.model, bits, multiplier, search.fresh)
    except FormatError:
        return others
    return _sorted(search, [*others, *_within(search, _lay_out(search, numbers))])


def _prove(search: _Search, circuit: Circuit, cost: Cost) -> Tried:
    backend, files = search.backend, circuit.files
    obtain_srs("development", circuit.choice.logrows, files.srs, backend=backend)
    files.verifier_srs.write_bytes(verifier_srs(files.srs))
    backend.setup(files)
    bits = circuit.facts.input_scale_bits
    (row,) = circuit.inputs(search.model.held[:1])
    wall, cpu = time.perf_counter(), time.process_time()
    proof = prove_row(backend, files, row, scale_bits=bits)
    prove_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    remember_speed(expected_s=cost.prove_s / speed(), took_s=prove_s)
    return Tried(circuit, cost, prove_s, cpu_s, len(proof.proof))
