"""`python -m benchmarks [NAME…] [--quick] [--only WORD…] [--json FILE]`.

Measure, print, write. With `--only`, some models of the benchmarks `zkml…`, whose other
figures in the file are kept; or some sets of data of `fhe-trees` and `fhe-networks`.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import (
    attestation,
    chain_campaign,
    contracts_gas,
    fhe_cold_start,
    fhe_execution,
    fhe_malformed,
    fhe_networks,
    fhe_trees,
    gateway_cost,
    gateway_jobs,
    model_families,
    ray,
    tee,
    tee_zkml,
    zkml,
    zkml_families,
    zkml_gas,
    zkml_operators,
    zkml_search,
    zkml_serving,
)
from privacy.cli.output import size
from privacy.encoding import Json

OUT = Path(__file__).parent / "out"


Measure = Callable[[bool], Json]


def main() -> None:
    """Run the benchmarks named, or every one that is not slow."""
    parser = argparse.ArgumentParser(description=__doc__)
    listed = ", ".join(BENCHMARKS)
    parser.add_argument(
        "name", nargs="*", help=f"of {listed}; by default all but zkml…"
    )
    parser.add_argument("--quick", action="store_true", help="few repetitions")
    parser.add_argument(
        "--only", nargs="+", default=[], help="words in names, see above"
    )
    parser.add_argument("--json", type=Path, default=OUT / "results.json")
    args = parser.parse_args()
    if unknown := set(args.name) - set(BENCHMARKS):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}: {listed}")
    names = args.name or [name for name in BENCHMARKS if name not in SLOW]
    OUT.mkdir(parents=True, exist_ok=True)
    results: Json = gateway_cost.machine()
    for name in names:
        measure, show = BENCHMARKS[name]
        if name in PROOFS and args.only:
            found = _some_models(name, args.only, args.json)
        elif name in DATA_SETS and args.only:
            found = DATA_SETS[name].measure(quick=args.quick, only=args.only)
        else:
            found = measure(args.quick)
        results[name.replace("-", "_")] = found
        show(found)
    args.json.write_text(json.dumps(results, indent=1) + "\n")
    Console().print(f"written to {args.json}")


def _some_models(name: str, only: Sequence[str], file: Path) -> Json:
    """Return figures of models with such names, and the file's of the others."""
    before: Json = {}
    if file.exists():
        found = json.loads(file.read_text()).get(name.replace("-", "_"), {})
        before = found.get("models", {})
    made = PROOFS[name].measure(quick=False, only=only)["models"]
    summary: Json = PROOFS[name].summary({**before, **made})
    return summary


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
            for side in ("concrete_ml", *fhe_trees.SIDES):
                if side in figures:
                    grid.add_row(model, side, *_tree_cells(figures[side]))
            grid.add_row(model, "clear", *[""] * 8, f"{figures['clear']:.3f}", "")
        Console(width=130).print(grid)
    for name, keys_bytes in found["key_sets"].items():
        Console().print(f"key set {name}: evaluation keys of {size(keys_bytes)}")


def _tree_cells(own: Json) -> list[str]:
    def times(key: str) -> str:
        return f"{own[key]:.1f}" if key in own else ""

    def bytes_of(key: str) -> str:
        return size(own[key]) if key in own else ""

    return [
        f"{'about ' if own.get('estimated') else ''}{own['latency_s']:.3f}",
        times("ratio"),
        f"{own['batch_latency_s']:.3f}" if "batch_latency_s" in own else "",
        times("batch_ratio"),
        str(own["circuit"]["look_ups"]) if "circuit" in own else "",
        bytes_of("input_bytes"),
        bytes_of("result_bytes"),
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
    console.print(
        f"Concrete-ML's FHEModelServer.run: {found['bare_library']['outcomes']}"
    )


BENCHMARKS: dict[str, tuple[Measure, Callable[[Json], None]]] = {
    "gateway-cost": (lambda quick: gateway_cost.measure(OUT, quick=quick), _show),
    "gateway-jobs": (
        lambda quick: gateway_jobs.measure(quick=quick),
        gateway_jobs.show,
    ),
    "fhe-trees": (lambda quick: fhe_trees.measure(quick=quick), _show_trees),
    "fhe-networks": (
        lambda quick: fhe_networks.measure(quick=quick),
        fhe_networks.show,
    ),
    "fhe-cold-start": (
        lambda quick: fhe_cold_start.measure(OUT, quick=quick),
        _show_cold,
    ),
    "fhe-execution": (
        lambda quick: fhe_execution.measure(OUT, quick=quick),
        Console().print,
    ),
    "fhe-malformed": (
        lambda quick: fhe_malformed.measure(OUT, quick=quick),
        _show_malformed,
    ),
    "attestation": (lambda quick: attestation.measure(quick=quick), attestation.show),
    "tee": (lambda quick: tee.measure(quick=quick), tee.show),
    "tee-zkml": (lambda quick: tee_zkml.measure(quick=quick), tee_zkml.show),
    "ray": (lambda quick: ray.measure(OUT, quick=quick), ray.show),
    "model-families": (lambda _: model_families.measure(), lambda _: None),
    "chain": (
        lambda quick: chain_campaign.measure(quick=quick),
        chain_campaign.show,
    ),
    "contracts-gas": (
        lambda quick: contracts_gas.measure(quick=quick),
        contracts_gas.show,
    ),
    "zkml": (lambda quick: zkml.measure(quick=quick), zkml.show),
    "zkml-families": (
        lambda quick: zkml_families.measure(quick=quick),
        zkml_families.show,
    ),
    "zkml-gas": (lambda quick: zkml_gas.measure(quick=quick), zkml_gas.show),
    "zkml-operators": (
        lambda quick: zkml_operators.measure(quick=quick),
        zkml_operators.show,
    ),
    "zkml-serving": (
        lambda quick: zkml_serving.measure(OUT, quick=quick),
        zkml_serving.show,
    ),
    "zkml-search": (lambda quick: zkml_search.measure(quick=quick), zkml_search.show),
}
PROOFS: dict[str, Any] = {
    "zkml": zkml,
    "zkml-families": zkml_families,
    "zkml-gas": zkml_gas,
    "zkml-operators": zkml_operators,
    "zkml-search": zkml_search,
}
DATA_SETS: dict[str, Any] = {"fhe-trees": fhe_trees, "fhe-networks": fhe_networks}
SLOW = {*PROOFS, "chain", "contracts-gas", "ray", "tee-zkml"}
"""Minutes each; run by name. Those of contracts need `make contracts-tools`."""


if __name__ == "__main__":
    main()
