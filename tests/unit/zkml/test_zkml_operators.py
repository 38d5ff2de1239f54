"""docs/zkml-operators.md says what the engine does, operator by operator."""

import re
from pathlib import Path

import pytest

from benchmarks.zkml_operators import OPERATORS, measure

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "zkml-operators.md"


def said() -> dict[str, bool]:
    rows = re.findall(r"(?m)^\| (.+?) \| (yes|no) \|", DOCUMENT.read_text())
    return {name: found == "yes" for name, found in rows}


def test_the_document_lists_every_operator_that_is_tried() -> None:
    assert set(said()) == set(OPERATORS)


@pytest.mark.parametrize("name", ["Relu", "Gemm", "CumSum"])
def test_an_operator_is_served_where_the_document_says(name: str) -> None:
    found = measure(quick=False, only=[name])["models"][name]
    assert ("error" in found) is said()[name]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_operator_is_served_where_the_document_says() -> None:
    found = measure(quick=False)["models"]
    assert {name: "error" in one for name, one in found.items()} == said()
