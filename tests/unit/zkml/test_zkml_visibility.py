"""What proofs show and hide: every choice published, proven and checked for real."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privacy.bundle import Bundle, list_files, write_manifest
from privacy.encoding import canonical_json
from privacy.errors import CannotVerifyError, FormatError, VerificationError
from privacy.zkml import Verifier, parse_params, verify_proofs
from privacy.zkml.audit import audit
from privacy.zkml.local import prove_rows
from privacy.zkml.system import Visibility
from privacy.zkml.visibility import (
    instance_names,
    parse_visibility,
    verifier_learns,
    weaknesses_of,
)
from tests.unit.zkml.conftest import ONE

Publish = Callable[..., Bundle]


@pytest.fixture
def published(bundle_of: Publish, linear: Any, tmp_path: Path) -> Publish:
    return lambda **options: bundle_of(tmp_path, linear, settings=[ONE], **options)


def params_of(bundle: Bundle) -> Any:
    return parse_params(bundle.manifest.modes["zkml"].params)


def claiming(bundle: Bundle, **params: Any) -> Bundle:
    part = bundle.manifest.modes["zkml"]
    modes = {"zkml": replace(part, params={**part.params, **params})}
    return replace(bundle, manifest=replace(bundle.manifest, modes=modes))


def test_a_hidden_input_leaves_no_trace_in_the_proof(
    published: Publish, linear: Any, rows: Any
) -> None:
    bundle = published(hide=["input"])
    assert params_of(bundle).instances == ("output 1",)
    evidence = prove_rows(bundle, rows[540:541])
    outputs = verify_proofs(bundle, evidence, rows=None, allow_insecure_srs=True)
    assert np.abs(outputs - linear.clear(rows[540:541])).max() < 0.05
    with pytest.raises(CannotVerifyError) as caught:
        verify_proofs(bundle, evidence, rows=rows[540:541], allow_insecure_srs=True)
    assert caught.value.code == "input-hidden"


def test_a_shown_input_and_a_committed_model_are_compared(
    published: Publish, rows: Any
) -> None:
    bundle = published(show=["input"], commit=["model"])
    params = params_of(bundle)
    names = params.instances
    assert names[:2] == ("poseidon(model)", "input 1")
    assert names[-2:] == ("input 30", "output 1")
    mine, other = rows[540:541], rows[541:542]
    evidence = prove_rows(bundle, mine)
    assert verify_proofs(bundle, evidence, rows=mine, allow_insecure_srs=True).shape
    with pytest.raises(VerificationError) as caught:
        verify_proofs(bundle, evidence, rows=other, allow_insecure_srs=True)
    assert caught.value.code == "proof-not-about-input"
    lying = claiming(bundle, params_hash="0" * 64)
    with pytest.raises(VerificationError) as caught:
        verify_proofs(lying, evidence, rows=mine, allow_insecure_srs=True)
    assert caught.value.code == "proof-not-about-model"
    assert len(audit(bundle.root)["checks"]) == 6


@pytest.mark.slow
def test_a_committed_model_follows_the_hash_of_the_input(
    published: Publish, rows: Any
) -> None:
    bundle = published(commit=["input", "model"])
    params = params_of(bundle)
    assert params.instances[:2] == ("poseidon(input)", "poseidon(model)")
    evidence = prove_rows(bundle, rows[540:541])
    verify_proofs(bundle, evidence, rows=rows[540:541], allow_insecure_srs=True)
    with pytest.raises(FormatError):
        params_of(claiming(bundle, params_hash=""))


def test_a_kzg_commitment_is_computed_here_and_compared(
    published: Publish, rows: Any, tmp_path: Path
) -> None:
    bundle = published(commit=["input:kzg"])
    params = params_of(bundle)
    assert params.instances == ("output 1",)
    assert "can be computed" in params.verifier_learns["input"]
    mine, near = rows[540:541], rows[540:541].copy()
    near[0, 29] += 2.0**-params.input_scale_bits
    evidence = prove_rows(bundle, mine)
    with Verifier() as verifier:
        check = partial(verifier.verify, evidence=evidence, allow_insecure_srs=True)
        assert check(bundle, rows=mine).shape == (1, 1)
        for other in (near, rows[541:542]):
            with pytest.raises(VerificationError) as caught:
                check(bundle, rows=other)
            assert caught.value.code == "proof-not-about-input"
        told = json.loads(evidence)
        (theirs,) = json.loads(prove_rows(bundle, rows[541:542]))["proofs"]
        proof = told["proofs"][0]
        proof["proof"] = theirs["proof"][:128] + proof["proof"][128:]
        with pytest.raises(VerificationError) as caught:
            check(bundle, evidence=canonical_json(told), rows=rows[541:542])
        assert caught.value.code == "proof-invalid"
        lying = with_srs_of_another(bundle, tmp_path / "lying")
        relabelled = {**json.loads(evidence), "model_sha256": lying.sha256}
        with pytest.raises(VerificationError) as caught:
            check(lying, evidence=canonical_json(relabelled), rows=mine)
        assert caught.value.code == "srs-mislabelled"
        (bundle.root / "zkml/kzg.srs").unlink()
        assert check(bundle, rows=None).shape == (1, 1)  # needs no SRS
        with pytest.raises(CannotVerifyError) as missing:
            check(bundle, rows=mine)
        assert missing.value.code == "verifier-file-missing"


def with_srs_of_another(bundle: Bundle, root: Path) -> Bundle:
    """Return a bundle whose whole SRS differs from the verifier's part."""
    shutil.copytree(bundle.root, root)
    path = root / "zkml/kzg.srs"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    public = frozenset(n for n, e in bundle.manifest.files.items() if e.public)
    files = list_files(root, public)
    return write_manifest(root, replace(bundle.manifest, files=files))


def test_what_is_lost_by_hiding_is_said() -> None:
    assert weaknesses_of(Visibility()) == {}
    hidden = Visibility(input="private", params="private")
    assert set(weaknesses_of(hidden)) == {"input-hidden", "model-hidden"}
    assert "any" in verifier_learns(hidden)["model"]


def test_names_of_instances_follow_the_engines_order() -> None:
    public = Visibility(input="public", params="hashed")
    names = instance_names(public, features=2, outputs=1)
    assert names == ("poseidon(model)", "input 1", "input 2", "output 1")


@pytest.mark.parametrize(
    "options",
    [
        {"hide": "input"},
        {"hide": ["output"]},
        {"show": ["model"]},
        {"hide": ["input"], "show": ["input"]},
        {"commit": ["model", "model"]},
        {"hide": [["input"]]},
        {"commit": ["input", "input:kzg"]},
        {"hide": ["input:kzg"]},
        {"salt": ["input"]},
        {"salt": True, "hide": ["input"]},
    ],
)
def test_odd_wishes_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(FormatError) as caught:
        parse_visibility(options)
    assert caught.value.code == "bad-option"


def test_params_that_promise_other_words_are_refused(bundle: Bundle) -> None:
    for change in (
        {"verifier_learns": {"input": "nothing"}},
        {"visibility": {"input": "private", "params": "fixed", "salted": False}},
        {"visibility": {"input": "hashed", "params": "fixed", "salted": 0}},
        {"visibility": {"input": "hashed", "params": "fixed", "salted": True}},
        {"visibility": {"input": "fixed", "params": "fixed", "salted": False}},
        {"visibility": {"input": "hashed"}},
        {"visibility": "hashed"},
    ):
        with pytest.raises(FormatError):
            params_of(claiming(bundle, **change))


def test_public_files_alone_cannot_prove(
    bundle: Bundle, rows: Any, tmp_path: Path
) -> None:
    with pytest.raises(CannotVerifyError) as caught:
        prove_rows(replace(bundle, root=tmp_path), rows[:1])
    assert caught.value.code == "no-proving-key"


def test_rows_out_of_range_are_refused_here_too(bundle: Bundle) -> None:
    with pytest.raises(FormatError) as caught:
        prove_rows(bundle, np.full((1, 30), 1e6))
    assert caught.value.code == "out-of-range"


def test_proofs_made_here_are_checked_like_any_others(
    bundle: Bundle, rows: Any
) -> None:
    stages: list[dict[str, Any]] = []
    evidence = prove_rows(bundle, rows[540:542], progress=stages.append)
    verify_proofs(bundle, evidence, rows=rows[540:542], allow_insecure_srs=True)
    assert stages[-1]["done"] == 2
    renamed = evidence.replace(bundle.sha256.encode(), b"0" * 64)
    with pytest.raises(VerificationError) as caught:
        verify_proofs(bundle, renamed, rows=None, allow_insecure_srs=True)
    assert caught.value.code == "wrong-model"
