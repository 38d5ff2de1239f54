"""The search itself; see `privacy.fhe.tune`."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from privacy.child import Progress
from privacy.encoding import Json
from privacy.errors import BackendError
from privacy.fhe.backend import Floats, load_backend
from privacy.fhe.compiled import Compiled
from privacy.fhe.measure import check_keys
from privacy.fhe.options import GOALS, Options
from privacy.fhe.quantizers import quantize, raw_outputs
from privacy.fhe.tune.candidates import Candidate, Subject, kinds, readable
from privacy.fhe.yardstick import Outputs, Yardstick

_CONFIRMED = 3
_CONFIRM_ROWS = 3
_TIE = 0.1
"""With the goal `accuracy`: points that a faster circuit may lose beyond the best."""


@dataclass(frozen=True, slots=True)
class Point:
    """A compiled candidate: what it loses, what it costs.

    Attributes:
        losses: Percentage points on each fold; see `privacy.fhe.yardstick`.
        latency_s: Seconds a real encrypted row took; 0 if it was not run.
    """

    name: str
    compiled: Compiled
    losses: tuple[float, ...]
    latency_s: float = 0.0
    keys_bytes: int = 0

    @property
    def loss(self) -> float:
        """The mean loss."""
        return float(np.mean(self.losses))

    def to_json(self) -> Json:
        """Return the point for the manifest."""
        return {
            "name": self.name,
            "circuit": self.compiled.circuit,
            "n_bits": self.compiled.n_bits,
            "loss": round(self.loss, 3),
            "worst_loss": round(max(self.losses), 3),
            "complexity": round(self.compiled.complexity),
            **({"latency_s": self.latency_s} if self.latency_s else {}),
            **({"keys_bytes": self.keys_bytes} if self.keys_bytes else {}),
        }


@dataclass(frozen=True, slots=True)
class Tuned:
    """What was found.

    Attributes:
        best: Those that ran encrypted within the loss, the fastest first; if no
            candidate is within it, the one that loses least.
        report: The front and how it was judged, for the manifest; `refused` says why
            a kind of circuit, or a candidate, cannot serve the model.
    """

    best: tuple[Point, ...]
    report: Json


def tune(subject: Subject, yardstick: Yardstick, progress: Progress) -> Tuned:
    """Search the circuits a model can become.

    Kinds are searched in order, and the next only if none before is within the loss.

    Args:
        subject: The model and the publisher's options.
        yardstick: The calibration rows and what the clear model says of them.
        progress: Told of every candidate.

    Raises:
        BackendError: Nothing can be compiled.
    """
    options = subject.options
    allowed = allowed_loss(options)
    points: list[Point] = []
    refused: list[str] = []
    tried = 0
    for kind in kinds(subject):
        try:
            with readable("for FHE"):
                found = list(kind(subject))
        except BackendError as exc:
            refused.append(exc.message)
            continue
        tried += len(found)
        kept = _previewed(found, yardstick, refused, progress)
        points += _compiled(kept, subject, yardstick, refused, progress)
        if any(p.loss <= allowed for p in points):
            break
    if not points:
        msg = f"it cannot be compiled for FHE: {'; '.join(refused)}"
        raise BackendError(msg, code="fhe-compile-failed")
    front = _front(points)
    best = _confirmed(front, subject, allowed, refused, progress)
    if not best:
        msg = f"no circuit of it ran encrypted: {'; '.join(refused)}"
        raise BackendError(msg, code="fhe-compile-failed")
    ran = {p.name: p for p in best}
    report: Json = {
        "goal": options.tune,
        "measures": yardstick.measures,
        "max_loss": round(allowed, 3),
        "within": best[0].loss <= allowed,
        "loss": round(best[0].loss, 3),
        "folds": len(best[0].losses),
        "candidates": tried,
        "chosen": best[0].name,
        "front": [ran.get(p.name, p).to_json() for p in front],
    }
    if refused:
        report["refused"] = refused
    return Tuned(best, report)


def with_chosen(report: Json, name: str) -> Json:
    """Return a report that says another of its candidates was published.

    The one before it failed a gate of publishing.
    """
    (point,) = (p for p in report["front"] if p["name"] == name)
    loss = point["loss"]
    return {
        **report,
        "chosen": name,
        "loss": loss,
        "within": loss <= report["max_loss"],
    }


def allowed_loss(options: Options) -> float:
    """Return the loss allowed, in points; for the goal `accuracy` none unless said."""
    return GOALS[options.tune] if options.max_loss < 0 else options.max_loss


def _previewed(
    found: Sequence[Candidate],
    yardstick: Yardstick,
    refused: list[str],
    progress: Progress,
) -> list[tuple[Candidate, tuple[float, ...]]]:
    """Judge in the clear what can be, and drop what a cheaper one is as good as."""
    kept: list[tuple[Candidate, tuple[float, ...]]] = []
    least = np.inf
    for i, candidate in enumerate(sorted(found, key=lambda c: c.rank), start=1):
        if candidate.fit is None:
            kept.append((candidate, ()))
            continue
        progress({"stage": "preview", "done": i, "total": len(found)})
        try:
            with readable("for FHE"):
                losses = yardstick.losses(candidate.fit)
        except BackendError as exc:
            refused.append(f"{candidate.name}: {exc.message}")
            continue
        if float(np.mean(losses)) < least:
            least = float(np.mean(losses))
            kept.append((candidate, losses))
    return kept


def _compiled(
    kept: Iterable[tuple[Candidate, tuple[float, ...]]],
    subject: Subject,
    yardstick: Yardstick,
    refused: list[str],
    progress: Progress,
) -> list[Point]:
    points = []
    for candidate, losses in kept:
        progress({"stage": "compile", "attempt": candidate.name})
        try:
            with readable("for FHE"):
                compiled = candidate.compile()
                check_keys(compiled, subject.options)
                judged = losses or yardstick.losses_of(_outputs(compiled))
        except BackendError as exc:
            refused.append(f"{candidate.name}: {exc.message}")
            continue
        points.append(Point(candidate.name, compiled, judged))
    return points


def _outputs(compiled: Compiled) -> Outputs:
    """Return what a compiled circuit answers, computed in the clear."""

    def outputs(rows: Floats) -> Floats:
        integers = compiled.theirs_integers(quantize(rows, compiled.quantizers))
        return raw_outputs(np.asarray(integers, dtype=np.int64), compiled.output)

    return outputs


def _front(points: Sequence[Point]) -> list[Point]:
    """Return the points that nothing cheaper is as good as, cheap ones first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.compiled.complexity, p.loss)):
        if not front or point.loss < front[-1].loss:
            front.append(point)
    return front


def _confirmed(
    front: Sequence[Point],
    subject: Subject,
    allowed: float,
    refused: list[str],
    progress: Progress,
) -> tuple[Point, ...]:
    """Run the best encrypted; return those that do as `Tuned.best`."""
    least = min(p.loss for p in front)
    strict = subject.options.tune == "accuracy" and subject.options.max_loss < 0
    limit = least + _TIE if strict or least > allowed else allowed
    ran = list[Point]()
    for point in (p for p in front if p.loss <= limit):
        if len(ran) == _CONFIRMED:
            break
        progress({"stage": "run encrypted", "attempt": point.name})
        try:
            with readable("and run encrypted"):
                ran.append(_run(point, subject))
        except BackendError as exc:
            refused.append(f"{point.name}: {exc.message}")
    return tuple(sorted(ran, key=lambda p: p.latency_s))


def _run(point: Point, subject: Subject) -> Point:
    """Return a point with what a few encrypted rows took, the first not counted."""
    compiled, backend = point.compiled, load_backend()
    values = quantize(subject.calibration[:_CONFIRM_ROWS], compiled.quantizers)
    keyset = backend.generate_keyset(compiled.program)
    raw = keyset.evaluation_keys()
    circuit = backend.load_circuit(compiled.folder)
    cipher, (function, _) = keyset.cipher(compiled.program), compiled.functions[0]
    keys, took = circuit.load_keys(raw), []
    for row in values:
        ciphertext = cipher.encrypt(function, row[None])
        started = time.perf_counter()
        circuit.run(function, ciphertext, keys)
        took.append(time.perf_counter() - started)
    return Point(
        point.name,
        compiled,
        point.losses,
        latency_s=round(float(np.median(took[1:] or took)), 6),
        keys_bytes=len(raw),
    )
