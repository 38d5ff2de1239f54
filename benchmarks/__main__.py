"""`python -m benchmarks [NAME…] [--quick] [--json FILE]`: measure, print, write."""

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import (
    fhe_cold_start,
    fhe_malformed,
    fhe_trees,
    gateway_cost,
    model_families,
    zkml,
)
from privacy.cli.output import size
from privacy.encoding import Json

OUT = Path(__file__).parent / "out"


NAMES = (
    "gateway-cost",
    "fhe-trees",
    "fhe-cold-start",
    "fhe-malformed",
    "model-families",
    "zkml",
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
    if "fhe-malformed" in names:
        results["fhe_malformed"] = fhe_malformed.measure(OUT, quick=args.quick)
        _show_malformed(results["fhe_malformed"])
    if "model-families" in names:
        results["model_families"] = model_families.measure()
    if "zkml" in names:
        results["zkml"] = zkml.measure(quick=args.quick)
        zkml.show(results["zkml"])
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
    columns = ("model", "side", "s a row", "times", "s of 8", "times")
    columns += ("look-ups", "input", "result", "times", "score", "lost")
    for data, models in found["models"].items():
        grid = Table(title=f"{data}: encrypted rows, {found['splits']} splits")
        for column in columns:
            grid.add_column(column, justify="right")
        for model, figures in models.items():
            for side in ("concrete_ml", "hidden", "revealed"):
                if side in figures:
                    grid.add_row(model, side, *_tree_cells(figures[side]))
            grid.add_row(model, "clear", *[""] * 8, f"{figures['clear']:.3f}", "")
        Console(width=130).print(grid)
    for name, keys_bytes in found["key_sets"].items():
        Console().print(f"key set {name}: evaluation keys of {size(keys_bytes)}")


def _tree_cells(own: Json) -> list[str]:
    def times(key: str) -> str:
        return f"{own[key]:.1f}" if key in own else ""

    return [
        f"{own['latency_s']:.3f}",
        times("ratio"),
        f"{own['batch_latency_s']:.3f}" if "batch_latency_s" in own else "",
        times("batch_ratio"),
        str(own["circuit"]["look_ups"]) if "circuit" in own else "",
        size(own["input_bytes"]),
        size(own["result_bytes"]),
        times("result_ratio"),
        f"{own['score']:.3f}",
        f"{own['lost']:.2f}" if "lost" in own else "",
    ]


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
