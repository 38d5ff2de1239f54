"""What proofs cost on a chain, of circuits tuned for gas, on a local EVM.

Every model is published for its proofs alone, its verifier contracts are made and
compiled here, deployed, given a real proof and a changed one. The reusable verifier
must come out the same for all of them: one contract, and an artifact a model.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.zkml_models import published
from privacy.encoding import Json
from privacy.modes import Mode
from privacy.zkml.evm import build_verifier
from privacy.zkml.tune.cost import expected_gas

ZOO = (
    "logistic regression, sigmoid outside",
    "mlp 30-64-32-1",
    "xgboost 20x3",
    "random forest 20x4",
    "cnn 8x8",
    "unseen: digits, mlp",
    "unseen: diabetes, mlp",
)
QUICK = ZOO[:2]
_PRIVATE_FIXED = 3
"""Columns of constants where nothing is hashed and no table split."""


def measure(*, quick: bool, only: Sequence[str] = ()) -> Json:
    """Return sizes and gas by model, JSON-ready.

    Args:
        quick: Two models.
        only: Models whose names contain one of these.
    """
    names = [n for n in (QUICK if quick else ZOO) if not only or _named(n, only)]
    found = {}
    for name in names:
        Console().print(f"{name}: publish, and make its contracts")
        with tempfile.TemporaryDirectory() as folder:
            found[name] = _model(name, Path(folder))
    return summary(found)


def summary(models: Json) -> Json:
    """Return figures by model with how many reusable contracts they need: one."""
    codes = {figures["reusable"]["code_hash"] for figures in models.values()}
    return {"models": models, "reusable_contracts": len(codes)}


def _named(name: str, words: Sequence[str]) -> bool:
    return any(word in name for word in words)


def _model(name: str, folder: Path) -> Json:
    bundle, _ = published(name, folder, objective="gas", hide=["input"])
    facts = build_verifier(
        bundle, folder / "evm", progress=lambda _: None, allow_insecure_srs=True
    ).to_json()
    proof_bytes = bundle.manifest.mode(Mode.ZKML).cost["proof_bytes"]
    return {
        "proof_bytes": proof_bytes,
        "expected_gas": expected_gas(proof_bytes, fixed=_PRIVATE_FIXED),
        **{k: facts[k] for k in ("plain", "reusable", "vka_words", "register_gas")},
    }


def show(found: Json) -> None:
    """Print the figures."""
    grid = Table(title="gas of circuits tuned for gas, input hidden")
    columns = ("model", "proof", "plain: bytes", "deploy", "verify", "expected")
    columns += ("reusable: bytes", "add a model", "verify")
    for column in columns:
        grid.add_column(column, justify="right")
    for name, one in found["models"].items():
        plain, reusable = one["plain"], one["reusable"]
        figures = (
            one["proof_bytes"],
            plain["runtime_bytes"],
            plain["deploy_gas"],
            plain["verify_gas"],
            one["expected_gas"],
            reusable["runtime_bytes"],
            one["register_gas"],
            reusable["verify_gas"],
        )
        grid.add_row(name, *(f"{figure:,}" if figure else "-" for figure in figures))
    console = Console(width=150)
    console.print(grid)
    console.print(f"different reusable contracts: {found['reusable_contracts']}")
