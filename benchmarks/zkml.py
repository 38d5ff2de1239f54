"""Proofs: the tuner's circuits beside EZKL's defaults, in one run.

Each side's circuit and keys are made in a process that ends; then each has a process
that only proves (`zkml_prover`), and they prove the same row in turn, so that other
work on the machine falls on both. Answers are compared with the clear model's on 100
held rows. Ratios are of seconds, of CPU seconds (which other work stretches less), of
proving keys, and of the proving processes' peak resident memory.
"""

import math
import os
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.zkml_models import MODELS, Subject, train, with_activation
from privacy.activations import activate
from privacy.child import Child
from privacy.cli.output import size
from privacy.encoding import Json
from privacy.publish.tuning import tuning_request
from privacy.publishing import PartRequest

QUICK = ("logistic regression, sigmoid outside", "mlp 30-64-32-1")
_TIMEOUT_S = 3600.0
_LONG_S = 15.0
_RATIOS = {
    "ratio": "prove_s",
    "cpu_ratio": "cpu_s",
    "key_ratio": "proving_key_bytes",
    "memory_ratio": "peak_rss_bytes",
}
SIDES = ("default", "tuned")


def measure(*, quick: bool, only: Sequence[str] = ()) -> Json:
    """Return the figures, JSON-ready; see the module.

    Args:
        quick: Two models, one proof a side.
        only: Models whose names contain one of these.
    """
    names = QUICK if quick else tuple(MODELS)
    if only:
        names = tuple(n for n in MODELS if any(word in n for word in only))
    return summary({n: _model(n, times=1 if quick else 5) for n in names})


def summary(models: Json) -> Json:
    """Return figures by model, the tables' mean, and the cost model's error."""
    ratios = [found["ratio"] for n, found in models.items() if MODELS[n].tabular]
    mean = math.exp(statistics.fmean(map(math.log, ratios))) if ratios else None
    return {
        "models": models,
        "tabular_geometric_mean": mean,
        "cost_model_median_error": _cost_error(models),
    }


def _cost_error(models: Json) -> float:
    """Return how far the tuner's expectations were off, given this machine's speed."""
    pairs = [
        pair
        for found in models.values()
        for pair in found["tuned"]["expected_and_taken_s"]
    ]
    speed = statistics.median(taken / expected for expected, taken in pairs)
    return statistics.median(
        abs(expected * speed / taken - 1) for expected, taken in pairs
    )


def _model(name: str, *, times: int) -> Json:
    subject, console = MODELS[name], Console()
    with tempfile.TemporaryDirectory() as scratch:
        console.print(f"{name}: training")
        parts = _parts(subject, Path(scratch))
        found: Json = {}
        for side in SIDES:
            console.print(f"{name}: the circuit and keys, {side}")
            env = {"XDG_CACHE_HOME": scratch}  # the tuner knows nothing yet
            request = {"side": side, "part": parts[side], "input": subject.input}
            with Child("benchmarks.zkml_sides:handler", env=env) as child:
                found[side] = child.call(request, timeout_s=_TIMEOUT_S)
        console.print(f"{name}: proofs")
        _prove(found, times)
    for ratio, figure in _RATIOS.items():
        found[ratio] = found["default"][figure] / found["tuned"][figure]
    console.print(f"{name}: {found['ratio']:.1f} times faster")
    return found


def _prove(found: Json, times: int) -> None:
    """Add what proofs took, on either side in turn; long ones are made once."""
    target = "benchmarks.zkml_prover:handler"
    asked = {
        side: {name: found[side].pop(name) for name in ("root", "row", "scale_bits")}
        for side in SIDES
    }
    made: dict[str, list[Json]] = {side: [] for side in SIDES}
    with Child(target) as default, Child(target) as tuned:
        provers = {"default": default, "tuned": tuned}
        for _ in range(times):
            for side in SIDES:
                if not made[side] or made[side][0]["prove_s"] < _LONG_S:
                    proof = provers[side].call(asked[side], timeout_s=_TIMEOUT_S)
                    made[side].append(proof)
    for side, proofs in made.items():
        for figure in proofs[0]:
            found[side][figure] = statistics.median(p[figure] for p in proofs)
        found[side]["timed_proofs"] = len(proofs)


def _parts(subject: Subject, folder: Path) -> Json:
    """Return what each side is given: the same core model, or one with its sigmoid."""
    trained = train(subject, folder)
    said = {"label": None, "task": trained.task, "activation": trained.activation}
    plain = tuning_request(trained.model, trained.data, said, folder)
    ending = _with_last(plain, folder) if subject.last else plain
    given = {"default": ending, "tuned": ending if subject.last == "inside" else plain}
    made = {}
    for side, part in given.items():
        out = folder / side
        out.mkdir()
        made[side] = replace(part, out=out).to_json()
    return made


def _with_last(part: PartRequest, folder: Path) -> PartRequest:
    onnx, clear = folder / "whole.onnx", folder / "probabilities.npy"
    with_activation(part.onnx, part.activation, onnx)
    raw = np.load(part.clear)
    chances = activate(raw, part.activation)[:, -raw.shape[1] :]
    np.save(clear, chances)
    return replace(part, onnx=onnx, clear=clear, activation="none")


def show(found: Json) -> None:
    """Print the figures as a table: default / tuned."""
    grid = Table(
        title=f"a proof of one row: EZKL's default / tuned; {os.cpu_count()} CPUs"
    )
    columns = ("model", "seconds", "ratio", "CPU", "key", "memory", "error", "tuning")
    for column in columns:
        grid.add_column(column, justify="right")
    for name, figures in found["models"].items():
        grid.add_row(name, *_cells(figures, MODELS[name].wanted))
    console = Console(width=150)
    console.print(grid)
    if mean := found["tabular_geometric_mean"]:
        console.print(f"geometric mean of the tabular set: {mean:.1f} (wanted: 8)")
    error = found["cost_model_median_error"]
    console.print(f"the cost model is off by {error:.0%} (median; wanted: 20%)")


def _cells(figures: Json, wanted: float) -> list[str]:
    old, new = figures["default"], figures["tuned"]
    labels = [f.get("label_agreement") for f in (old, new)]
    agree = " / ".join("-" if a is None else f"{a:.0%}" for a in labels)

    def both(figure: str, ratio: str) -> str:
        return f"{size(old[figure])} / {size(new[figure])} ({figures[ratio]:.1f})"

    return [
        f"{old['prove_s']:.2f} / {new['prove_s']:.3f}",
        f"{figures['ratio']:.1f}" + (f" (≥ {wanted:g})" if wanted else ""),
        f"{figures['cpu_ratio']:.1f}",
        both("proving_key_bytes", "key_ratio"),
        both("peak_rss_bytes", "memory_ratio"),
        f"{old['max_error']:.2g} / {new['max_error']:.2g}; labels {agree}",
        f"{new['seconds']:.1f} s, {new['proofs']} proofs",
    ]
