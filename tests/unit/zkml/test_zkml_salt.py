"""Salted proofs are of one job, and of an input that nobody can guess."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privacy.bundle import Bundle, open_bundle
from privacy.cli.app import run
from privacy.encoding import b64url, canonical_json
from privacy.errors import CannotVerifyError, FormatError, VerificationError
from privacy.onchain import terms_of
from privacy.zkml import Verifier, parse_params
from privacy.zkml.audit import audit
from privacy.zkml.blobs import make_input, parse_evidence
from privacy.zkml.local import prove_rows
from privacy.zkml.salt import ELEMENTS, LARGEST, elements

MINE, THEIRS = b"m" * 32, b"t" * 32


@pytest.fixture(scope="module")
def twice(salted: Bundle, rows: Any) -> tuple[Any, bytes]:
    """One row, asked about twice in one job."""
    same = np.repeat(rows[540:541], 2, axis=0)
    return same, prove_rows(salted, same, salt=MINE)


@pytest.fixture(scope="module")
def verifier() -> Any:
    with Verifier() as kept:
        yield kept


def refusal(verifier: Verifier, bundle: Bundle, evidence: bytes, **given: Any) -> str:
    with pytest.raises(VerificationError) as caught:
        verifier.verify(bundle, evidence, allow_insecure_srs=True, **given)
    return caught.value.code


def test_a_salted_proof_is_of_its_job(
    salted: Bundle, twice: Any, linear: Any, verifier: Verifier
) -> None:
    rows, evidence = twice
    outputs = verifier.verify(
        salted, evidence, rows=rows, salt=MINE, allow_insecure_srs=True
    )
    assert np.abs(outputs - linear.clear(rows)).max() < 0.05


def test_a_proof_replayed_for_another_job_about_the_same_rows_is_refused(
    salted: Bundle, twice: Any, verifier: Verifier
) -> None:
    """Whoever asks again, here or at another gateway, has drawn another salt."""
    rows, evidence = twice
    again = {"rows": rows, "salt": THEIRS}
    assert refusal(verifier, salted, evidence, **again) == "proof-not-about-input"


def test_a_proof_replayed_for_another_row_of_its_job_is_refused(
    salted: Bundle, twice: Any, verifier: Verifier
) -> None:
    rows, evidence = twice
    told = json.loads(evidence)
    told["proofs"][1] = told["proofs"][0]
    replayed = canonical_json(told)
    given = {"rows": rows, "salt": MINE}
    assert refusal(verifier, salted, replayed, **given) == "proof-not-about-input"


def test_an_unsalted_proof_of_an_earlier_job_is_as_good(
    bundle: Bundle, job: Any, verifier: Verifier
) -> None:
    """What salt is for: the answer is right, but it is not this job's."""
    verifier.verify(
        bundle, job.evidence, rows=job.rows, salt=THEIRS, allow_insecure_srs=True
    )


def test_the_right_row_cannot_be_told_without_the_salt(
    salted: Bundle, twice: Any, verifier: Verifier
) -> None:
    rows, evidence = twice
    with pytest.raises(CannotVerifyError) as caught:
        verifier.verify(salted, evidence, rows=rows, allow_insecure_srs=True)
    assert caught.value.code == "salt-missing"
    first, second = parse_evidence(
        evidence,
        instances=2,
        proof_bytes=parse_params(salted.manifest.modes["zkml"].params).proof_bytes,
    ).proofs
    assert first.instances[0] != second.instances[0]  # of one row
    assert first.instances[1] == second.instances[1]
    terms, row = terms_of(salted.manifest), rows[0].tolist()
    assert terms.describe(row, MINE) == [first.instances[0]]  # as contracts know it
    assert terms.describe(row, THEIRS) != [first.instances[0]]


def test_a_node_takes_the_salt_from_the_input(
    salted: Bundle, node: Any, rows: Any, verifier: Verifier
) -> None:
    job = node.run_blob(make_input(rows[541:542], salt=THEIRS), bundle=salted)
    given = {"rows": rows[541:542], "allow_insecure_srs": True}
    verifier.verify(salted, job.evidence, salt=THEIRS, **given)
    assert refusal(verifier, salted, job.evidence, rows=rows[541:542], salt=MINE)


def test_local_proofs_need_a_salt_too(salted: Bundle, rows: Any) -> None:
    with pytest.raises(FormatError) as caught:
        prove_rows(salted, rows[:1])
    assert caught.value.code == "salt-missing"


@pytest.mark.slow
def test_a_salted_circuit_is_rebuilt_to_the_same_key(
    salted: Bundle, tmp_path: Path
) -> None:
    assert len(audit(salted.root)["checks"]) == 6
    shutil.copytree(salted.root, tmp_path / "lying")
    path = tmp_path / "lying/manifest.json"
    path.write_text(path.read_text().replace('"salted":true', '"salted":false'))
    with pytest.raises(FormatError):  # its words no longer fit
        audit(open_bundle(tmp_path / "lying").root)


def test_the_salts_elements_are_spread_over_their_range() -> None:
    made = [elements(bytes([i]) * 32, j) for i in range(20) for j in range(20)]
    assert {len(e) for e in made} == {ELEMENTS}
    flat = np.array(made).ravel()
    assert 0 <= flat.min() < 1000 < LARGEST - 1000 < flat.max() <= LARGEST
    assert len(set(map(tuple, made))) == len(made)


def test_the_commands_keep_the_salt_beside_the_proofs(
    salted: Bundle, rows: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "rows.npy", rows[541:542])
    proofs, given = tmp_path / "p.json", ["--input", str(tmp_path / "rows.npy")]
    assert run(["zk", "prove", str(salted.root), *given, "--out", str(proofs)]) == 0
    kept = tmp_path / "p.json.salt"
    assert kept.stat().st_mode & 0o777 == 0o600
    check = ["zk", "verify", str(proofs), "--bundle", str(salted.root), *given]
    check += ["--allow-insecure-srs", "--json"]
    assert run(check) == 0
    other = tmp_path / "other.salt"
    for content, code in ((b64url(b"x" * 32) + "\n", 6), ("short", 2)):
        other.write_text(content)
        assert run([*check, "--salt-file", str(other)]) == code
    assert run([*check, "--salt-file", str(tmp_path / "none")]) == 2
    kept.write_text("no salt")
    assert run(check) == 7
    kept.unlink()
    capsys.readouterr()
    assert run(check) == 7
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "salt-missing"
