"""Proofs: the tuner's circuits beside EZKL's defaults, in one run.

Each side has a process of its own; they prove the same row in turn, so that other work
on the machine falls on both. Both get the same core model, which leaves the sigmoid or
softmax to the client. Answers are compared with the clear model's on 100 held rows.
"""

import math
import os
import statistics
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.zkml_models import MODELS, train
from privacy.child import Child, run_in_child
from privacy.cli.output import size
from privacy.encoding import Json
from privacy.publishing import PartRequest

QUICK = ("logistic regression", "mlp 30-64-32-1")
TABULAR = tuple(MODELS)[:5]
_TIMEOUT_S = 900.0


def measure(*, quick: bool) -> Json:
    """Return the figures, JSON-ready; see the module."""
    names = QUICK if quick else tuple(MODELS)
    found = {name: _model(name, times=1 if quick else 3) for name in names}
    ratios = [found[n]["ratio"] for n in TABULAR if n in found]
    mean = math.exp(statistics.fmean(math.log(r) for r in ratios))
    return {"models": found, "tabular_geometric_mean": mean}


def _model(name: str, *, times: int) -> Json:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        part = _prepared(name, folder)
        env = {"XDG_CACHE_HOME": str(folder / "cache")}  # the tuner knows nothing yet
        target = "benchmarks.zkml_sides:handler"
        with Child(target, env=env) as default, Child(target, env=env) as tuned:
            sides = {"default": default, "tuned": tuned}
            found: Json = {
                side: child.call(
                    {"side": side, "part": part, "input": MODELS[name][2]},
                    timeout_s=_TIMEOUT_S,
                )
                for side, child in sides.items()
            }
            proofs: dict[str, list[Json]] = {side: [] for side in sides}
            for _ in range(times):
                for side, child in sides.items():
                    proofs[side].append(child.call({}, timeout_s=_TIMEOUT_S))
    for side, made in proofs.items():
        for figure in made[0]:
            found[side][figure] = statistics.median(p[figure] for p in made)
    ratios = {
        "ratio": "prove_s",
        "cpu_ratio": "cpu_s",
        "key_ratio": "proving_key_bytes",
        "memory_ratio": "peak_rss_bytes",
    }
    for ratio, figure in ratios.items():
        found[ratio] = found["default"][figure] / found["tuned"][figure]
    return found


def _prepared(name: str, folder: Path) -> Json:
    trained = train(name, folder)
    schema = run_in_child(
        "privacy.publish.prepare:handler",
        {
            "model": str(trained.model),
            "data": str(trained.data),
            "out": str(folder),
            "label": None,
            "names": [],
            "classes": [],
            "task": trained.task,
            "activation": trained.activation,
        },
        timeout_s=_TIMEOUT_S,
    )
    return PartRequest(
        out=folder,
        onnx=folder / "core.onnx",
        estimator=None,
        calibration=folder / "calibration.npy",
        held=folder / "held.npy",
        clear=folder / "clear.npy",
        outputs=schema["outputs"],
        activation=schema["activation"],
        task=schema["task"],
        options={},
    ).to_json()


def show(found: Json) -> None:
    """Print the figures as a table: default / tuned."""
    grid = Table(
        title=f"a proof of one row: EZKL's default / tuned; {os.cpu_count()} CPUs"
    )
    columns = ("model", "seconds", "ratio", "CPU", "key", "memory", "error", "tuning")
    for column in columns:
        grid.add_column(column, justify="right")
    for name, figures in found["models"].items():
        old, new = figures["default"], figures["tuned"]
        labels = [f.get("label_agreement") for f in (old, new)]
        agree = " / ".join("-" if a is None else f"{a:.0%}" for a in labels)
        keys = f"{size(old['proving_key_bytes'])} / {size(new['proving_key_bytes'])}"
        grid.add_row(
            name,
            f"{old['prove_s']:.2f} / {new['prove_s']:.3f}",
            f"{figures['ratio']:.1f}",
            f"{figures['cpu_ratio']:.1f}",
            f"{keys} ({figures['key_ratio']:.0f})",
            f"{size(old['peak_rss_bytes'])} / {size(new['peak_rss_bytes'])}",
            f"{old['max_error']:.2g} / {new['max_error']:.2g}; labels {agree}",
            f"{new['seconds']:.1f} s, {new['proofs']} proofs",
        )
    console = Console()
    console.print(grid)
    mean = found["tabular_geometric_mean"]
    console.print(f"geometric mean of the tabular set: {mean:.1f}")
