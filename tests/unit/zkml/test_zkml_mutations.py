"""No forgery verifies: thousands of changed proofs, instances, settings and keys."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privacy.bundle import Bundle
from privacy.child import run_in_child


def campaign(
    bundle: Bundle, job: Any, folder: Path, *, seed: int, count: int
) -> dict[str, Any]:
    (folder / "evidence").write_bytes(job.evidence)
    np.save(folder / "rows.npy", job.rows)
    return run_in_child(
        "tests.support.zkml_mutations:handler",
        {
            "bundle": str(bundle.root),
            "model_sha256": bundle.sha256,
            "work": str(folder / "work"),
            "evidence": str(folder / "evidence"),
            "rows": str(folder / "rows.npy"),
            "seed": seed,
            "count": count,
        },
        timeout_s=3500,
    )


def refusals(found: dict[str, Any], *, least: int) -> set[str]:
    assert found["accepted"] == []
    assert sum(found["refused"].values()) >= least
    return set(found["refused"])


def test_no_forgery_verifies_in_a_few_hundred_tries(
    bundle: Bundle, job: Any, tmp_path: Path
) -> None:
    found = campaign(bundle, job, tmp_path, seed=1, count=300)
    codes = refusals(found, least=280)
    assert {"evidence-malformed", "proof-invalid", "bundle-changed"} <= codes


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_forgery_verifies_in_ten_thousand_tries(
    bundle: Bundle, job: Any, tmp_path: Path
) -> None:
    found = campaign(bundle, job, tmp_path, seed=2, count=10_500)
    codes = refusals(found, least=10_000)
    assert {"wrong-model", "srs-mislabelled", "proof-not-about-input"} <= codes
