"""`python -m benchmarks [NAME…] [--quick] [--json FILE]`: measure, print, write."""

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import (
    fhe_cold_start,
    fhe_execution,
    fhe_malformed,
    fhe_trees,
    gateway_cost,
    model_families,
)
from privacy.cli.output import size
from privacy.encoding import Json

OUT = Path(__file__).parent / "out"


NAMES = (
    "gateway-cost",
    "fhe-trees",
    "fhe-cold-start",
    "fhe-execution",
    "fhe-malformed",
    "model-families",
)


def main() -> None:
    """Run the benchmarks named, or every one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="*", help=f"of {', '.join(NAMES)}; or all")
    parser.add_argument("--quick", action="store_true", help="few repetitions")
    parser.add_argument("--json", type=Path, default=OUT / "results.json")
    args = parser.parse_args()
    if unknown := set(args.name) - set(NAMES):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}: {', '.join(NAMES)}")
    names = args.name or NAMES[:-1]  # the last takes many minutes: by name only
    OUT.mkdir(parents=True, exist_ok=True)
    results: Json = gateway_cost.machine()
    if "gateway-cost" in names:
        results["gateway_cost"] = gateway_cost.measure(OUT, quick=args.quick)
        _show(results["gateway_cost"])
    if "fhe-trees" in names:
        results["fhe_trees"] = fhe_trees.measure(quick=args.quick)
        _show_trees(results["fhe_trees"])
    if "fhe-cold-start" in names:
        results["fhe_cold_start"] = fhe_cold_start.measure(OUT, quick=args.quick)
        _show_cold(results["fhe_cold_start"])
    if "fhe-execution" in names:
        results["fhe_execution"] = fhe_execution.measure(OUT, quick=args.quick)
        Console().print(results["fhe_execution"])
    if "fhe-malformed" in names:
        results["fhe_malformed"] = fhe_malformed.measure(OUT, quick=args.quick)
        _show_malformed(results["fhe_malformed"])
    if "model-families" in names:
        results["model_families"] = model_families.measure()
    args.json.write_text(json.dumps(results, indent=1) + "\n")
    Console().print(f"written to {args.json}")


def _show(cost: Json) -> None:
    grid = Table(title=f"{cost['model']}, one row: milliseconds, p50 / p95")
    columns = ("mode", "bare", "job", "answer", "added p50", "worker memory")
    for column in columns:
        grid.add_column(column, justify="right")
    for mode, found in cost["modes"].items():
        cells = [
            f"{found[k]['p50_s'] * 1e3:.1f} / {found[k]['p95_s'] * 1e3:.1f}"
            for k in ("bare", "job", "answer")
        ]
        added = f"{found['added_p50_s'] * 1e3:.1f}"
        grid.add_row(mode, *cells, added, size(found["bare_rss_bytes"]))
    console = Console()
    console.print(grid)
    console.print(
        f"gateway memory: {size(cost['gateway_rss_at_rest_bytes'])} at rest, "
        f"{size(cost['gateway_rss_after_bytes'])} after"
    )


def _show_trees(found: Json) -> None:
    grid = Table(title="breast cancer, one encrypted row")
    columns = ("model", "side", "seconds", "times", "keys", "input", "result", "right")
    for column in columns:
        grid.add_column(column, justify="right")
    for model, figures in found.items():
        accuracy = figures["accuracy"]
        for side in ("concrete_ml", "ours", "revealed"):
            own = figures[side]
            grid.add_row(
                model,
                side,
                f"{own['latency_s']:.3f}",
                f"{own.get('ratio', 1.0):.1f}",
                *(size(own[f"{k}_bytes"]) for k in ("keys", "input", "result")),
                f"{accuracy[side]:.3f}",
            )
        grid.add_row(model, "clear", *[""] * 5, f"{accuracy['clear']:.3f}")
    Console(width=110).print(grid)


def _show_cold(found: Json) -> None:
    grid = Table(title="seconds from process start, medians")
    for column in ("until", "ours", "through concrete.ml", "ratio"):
        grid.add_column(column, justify="right")
    for name, one in found["seconds"].items():
        cells = f"{one['ours']:.2f}", f"{one['concrete_ml']:.2f}", f"{one['ratio']:.1f}"
        grid.add_row(name, *cells)
    Console().print(grid)


def _show_malformed(found: Json) -> None:
    inputs, damaged = found["inputs"], found["bundles"]
    console = Console()
    console.print(
        f"{inputs['inputs']} malformed inputs and {damaged['inputs']} bundles: "
        f"{found['gateway_deaths']} gateway deaths, "
        f"{len(found['wrong'])} wrong answers, "
        f"{len(found['untyped'])} untyped refusals, "
        f"{inputs['worker_deaths'] + damaged['worker_deaths']} worker deaths"
    )
    console.print(f"the engine without our checks: {found['bare_engine']['outcomes']}")


if __name__ == "__main__":
    main()
