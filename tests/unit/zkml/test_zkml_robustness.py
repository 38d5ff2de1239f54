"""Whatever goes wrong with proofs ends as a typed error in time, and never verifies."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import privacy
from privacy.bundle import Bundle
from privacy.errors import PrivacyError
from privacy.zkml import Verifier, make_input
from tests.support.zkml_cases import CASES, DEADLINE_S, UNBOUND, Case, Lab

_SALT = b"s" * 32


@pytest.fixture(scope="module")
def lab(
    bundle: Bundle,
    other_bundle: Bundle,
    salted: Bundle,
    job: Any,
    node: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Lab]:
    mine = node.run_blob(make_input(job.rows, salt=_SALT), bundle=salted)
    with Verifier() as verifier:
        yield Lab(
            bundle=bundle,
            other=other_bundle,
            salted=salted,
            job=job,
            other_job=node.run(job.rows, bundle=other_bundle),
            salted_rows=job.rows,
            salted_evidence=mine.evidence,
            salt=_SALT,
            node=node,
            verifier=verifier,
            folder=tmp_path_factory.mktemp("lab"),
        )


def test_what_the_cases_change_verifies_unchanged(lab: Lab) -> None:
    assert len(lab.verify(lab.job.evidence)) == 2
    given = {"rows": lab.salted_rows, "salt": lab.salt}
    assert len(lab.verify(lab.salted_evidence, lab.salted, **given)) == 2


def test_the_table_names_more_than_seventy_cases() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 70


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.name, marks=[pytest.mark.slow] if case.slow else [])
        for case in CASES
    ],
)
def test_it_is_refused_in_time(lab: Lab, case: Case) -> None:
    started = time.monotonic()
    with pytest.raises(PrivacyError) as caught:
        case.run(lab)
    assert caught.value.code in case.codes.split()
    assert caught.value.message
    assert time.monotonic() - started < 2 * DEADLINE_S


@pytest.mark.parametrize("what", UNBOUND)
def test_settings_that_no_proof_binds_change_no_answer(lab: Lab, what: str) -> None:
    told = lab.verify_pinned("settings.json", UNBOUND[what](lab))
    assert np.array_equal(told, lab.verify(lab.job.evidence))


def test_nothing_but_the_backends_names_the_engine() -> None:
    root = Path(privacy.__file__).parents[1]
    found = {
        str(path.relative_to(root))
        for folder in ("privacy", "gateway")
        for path in (root / folder).rglob("*.py")
        if re.search(r"^\s*(import|from) ezkl\b", path.read_text(), re.MULTILINE)
    }
    assert found
    assert all(name.startswith("privacy/zkml/backends/") for name in found)
