"""`python -m benchmarks [--quick] [--json FILE]`: measure, print, write JSON."""

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import gateway_cost
from privacy.cli.output import size
from privacy.encoding import Json

OUT = Path(__file__).parent / "out"


def main() -> None:
    """Run every benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few repetitions")
    parser.add_argument("--json", type=Path, default=OUT / "results.json")
    args = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    results: Json = {
        **gateway_cost.machine(),
        "gateway_cost": gateway_cost.measure(OUT, quick=args.quick),
    }
    args.json.write_text(json.dumps(results, indent=1) + "\n")
    _show(results["gateway_cost"])
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


if __name__ == "__main__":
    main()
