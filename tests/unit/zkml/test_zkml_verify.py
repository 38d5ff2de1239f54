"""Every way a node or a stranger may lie, each refused with its own code."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privacy.bundle import Bundle, list_files
from privacy.encoding import canonical_json
from privacy.errors import (
    AppraisalError,
    CannotVerifyError,
    FormatError,
    VerificationError,
)
from privacy.zkml import Verifier, parse_outputs
from privacy.zkml import verify_proofs as verify_strictly
from privacy.zkml.field import MODULUS, from_hex, to_hex

Change = Callable[[list[dict[str, Any]]], object]
verify_proofs = partial(verify_strictly, allow_insecure_srs=True)


def changed(job: Any, change: Change) -> bytes:
    proofs = job.proofs()
    change(proofs)
    return relabelled(job, proofs=proofs)


def relabelled(job: Any, **members: Any) -> bytes:
    return canonical_json({**json.loads(job.evidence), **members})


def add_to_instance(index: int, amount: int) -> Change:
    def change(proofs: list[dict[str, Any]]) -> None:
        felts = proofs[0]["instances"]
        value = from_hex(felts[index], what="felt") + amount
        felts[index] = f"{value:064x}"

    return change


def flip_byte(at: int) -> Change:
    def change(proofs: list[dict[str, Any]]) -> None:
        raw = bytearray.fromhex(proofs[0]["proof"])
        raw[at] ^= 1
        proofs[0]["proof"] = raw.hex()

    return change


def test_honest_proofs_give_the_outputs_of_the_job(
    bundle: Bundle, job: Any, linear: Any
) -> None:
    outputs = verify_proofs(bundle, job.evidence, rows=job.rows)
    assert outputs.shape == (2, 1)
    assert np.array_equal(outputs, parse_outputs(job.output, outputs=1))
    assert np.abs(outputs - linear.clear(job.rows)).max() < 0.05


def test_a_stranger_without_the_rows_gets_the_same_outputs(
    bundle: Bundle, job: Any
) -> None:
    outputs = verify_proofs(bundle, job.evidence, rows=None)
    assert np.array_equal(outputs, parse_outputs(job.output, outputs=1))


def test_a_client_needs_the_public_files_only(
    bundle: Bundle, job: Any, tmp_path: Path
) -> None:
    for name, entry in bundle.manifest.files.items():
        if entry.public:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(bundle.root / name, tmp_path / name)
    assert not (tmp_path / "zkml/pk.key").exists()
    client = replace(bundle, root=tmp_path)
    assert len(verify_proofs(client, job.evidence, rows=job.rows)) == 2


@pytest.mark.parametrize("amount", [1, -1])
def test_verify_refuses_a_changed_output(bundle: Bundle, job: Any, amount: int) -> None:
    forged = changed(job, add_to_instance(1, amount))
    with pytest.raises(VerificationError) as caught:
        verify_proofs(bundle, forged, rows=job.rows)
    assert caught.value.code == "proof-invalid"


def test_verify_refuses_a_changed_input_hash(bundle: Bundle, job: Any) -> None:
    with pytest.raises(VerificationError) as caught:
        verify_proofs(bundle, changed(job, add_to_instance(0, 1)), rows=None)
    assert caught.value.code == "proof-invalid"


@pytest.mark.parametrize("at", [0, 63, 700, 1500, -1])
def test_verify_refuses_a_flipped_proof_byte(bundle: Bundle, job: Any, at: int) -> None:
    with pytest.raises(VerificationError) as caught:
        verify_proofs(bundle, changed(job, flip_byte(at)), rows=job.rows)
    assert caught.value.code == "proof-invalid"


def _trailing(proofs: list[dict[str, Any]]) -> None:
    proofs[0]["proof"] += "00"


def _short(proofs: list[dict[str, Any]]) -> None:
    proofs[0]["proof"] = proofs[0]["proof"][:-2]


def _upper(proofs: list[dict[str, Any]]) -> None:
    proofs[0]["proof"] = proofs[0]["proof"].upper()


def _extra_member(proofs: list[dict[str, Any]]) -> None:
    proofs[0]["pretty_public_inputs"] = {"rescaled_outputs": [["9.0"]]}


def _extra_instance(proofs: list[dict[str, Any]]) -> None:
    proofs[0]["instances"].append(to_hex(0))


def _fewer_instances(proofs: list[dict[str, Any]]) -> None:
    proofs[0]["instances"].pop()


@pytest.mark.parametrize(
    "change",
    [
        add_to_instance(0, MODULUS),
        add_to_instance(1, MODULUS),
        _trailing,
        _short,
        _upper,
        _extra_member,
        _extra_instance,
        _fewer_instances,
        lambda proofs: proofs.clear(),
    ],
)
def test_verify_refuses_a_second_spelling(
    bundle: Bundle, job: Any, change: Change
) -> None:
    with pytest.raises(VerificationError) as caught:
        verify_proofs(bundle, changed(job, change), rows=job.rows)
    assert caught.value.code == "evidence-malformed"


def test_verify_refuses_unknown_members_and_loose_json(
    bundle: Bundle, job: Any
) -> None:
    proofs = job.proofs()
    for raw in (
        relabelled(job, outputs=[[1.0]]),
        relabelled(job, insecure_srs=1),
        relabelled(job, model_sha256="0"),
        canonical_json({"proofs": proofs}),
        json.dumps(json.loads(job.evidence)).encode(),
        b" " + job.evidence,
        job.evidence[:-1],
        b"",
    ):
        with pytest.raises(VerificationError) as caught:
            verify_proofs(bundle, raw, rows=job.rows)
        assert caught.value.code == "evidence-malformed"


def test_verify_refuses_a_valid_proof_about_another_row(
    bundle: Bundle, job: Any, rows: Any
) -> None:
    with pytest.raises(VerificationError) as caught:
        verify_proofs(bundle, job.evidence, rows=rows[540:543:2])
    assert caught.value.code == "proof-not-about-input"
    assert "row 2" in caught.value.message


def test_verify_tells_a_row_one_unit_apart(bundle: Bundle, job: Any) -> None:
    bits = bundle.manifest.modes["zkml"].params["input_scale_bits"]
    near = job.rows.astype(np.float64).copy()
    near[1, 7] += 2.0**-bits
    with pytest.raises(VerificationError) as caught:
        verify_proofs(bundle, job.evidence, rows=near)
    assert caught.value.code == "proof-not-about-input"


def test_verify_refuses_swapped_rows(bundle: Bundle, job: Any) -> None:
    swapped = changed(job, lambda proofs: proofs.reverse())
    with pytest.raises(VerificationError) as caught:
        verify_proofs(bundle, swapped, rows=job.rows)
    assert caught.value.code == "proof-not-about-input"


def test_verify_refuses_a_missing_or_repeated_proof(bundle: Bundle, job: Any) -> None:
    for change in (lambda p: p.pop(), lambda p: p.append(p[0])):
        with pytest.raises(VerificationError) as caught:
            verify_proofs(bundle, changed(job, change), rows=job.rows)
        assert caught.value.code == "wrong-proof-count"


def test_verify_refuses_a_proof_of_another_model(
    bundle: Bundle, other_bundle: Bundle, job: Any, node: Any
) -> None:
    other = node.run(job.rows, bundle=other_bundle)
    assert len(verify_proofs(other_bundle, other.evidence, rows=job.rows)) == 2
    for mine, theirs in ((bundle, other), (other_bundle, job)):
        with pytest.raises(VerificationError) as caught:
            verify_proofs(mine, theirs.evidence, rows=job.rows)
        assert caught.value.code == "wrong-model"
        disguised = relabelled(theirs, model_sha256=mine.sha256)
        with pytest.raises(VerificationError) as caught:
            verify_proofs(mine, disguised, rows=job.rows)
        assert caught.value.code == "proof-invalid"


def test_an_insecure_srs_is_refused_unless_allowed(bundle: Bundle, job: Any) -> None:
    with pytest.raises(AppraisalError) as caught:
        verify_strictly(bundle, job.evidence, rows=job.rows)
    assert caught.value.code == "insecure-srs"
    assert "--allow-insecure-srs" in caught.value.message


def test_a_false_proof_is_called_false_before_its_srs_is(
    bundle: Bundle, job: Any
) -> None:
    with pytest.raises(VerificationError) as caught:
        verify_strictly(bundle, changed(job, flip_byte(9)), rows=job.rows)
    assert caught.value.code == "proof-invalid"


def test_no_label_makes_an_srs_public(bundle: Bundle, job: Any) -> None:
    """Whether it is the ceremony's is seen from its bytes, whatever anyone says."""
    part = bundle.manifest.modes["zkml"]
    srs = {**part.params["srs"], "kind": "public"}
    params = {**part.params, "srs": srs, "insecure_srs": False}
    manifest = replace(bundle.manifest, modes={"zkml": replace(part, params=params)})
    lying = replace(bundle, manifest=manifest)
    for model, evidence in (
        (lying, job.evidence),
        (lying, relabelled(job, insecure_srs=False)),
        (bundle, relabelled(job, insecure_srs=False)),
    ):
        with pytest.raises(VerificationError) as caught:
            verify_proofs(model, evidence, rows=job.rows)
        assert caught.value.code == "srs-mislabelled"


@pytest.mark.parametrize("name", ["settings.json", "vk.key", "verifier.srs"])
def test_verify_refuses_files_that_the_manifest_does_not_pin(
    bundle: Bundle, other_bundle: Bundle, job: Any, tmp_path: Path, name: str
) -> None:
    shutil.copytree(bundle.root, tmp_path / "b")
    path = tmp_path / "b" / "zkml" / name
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(VerificationError) as caught:
        verify_proofs(replace(bundle, root=tmp_path / "b"), job.evidence, rows=job.rows)
    assert caught.value.code == "bundle-changed"


def test_a_missing_verifying_key_is_not_a_false_proof(
    bundle: Bundle, job: Any, tmp_path: Path
) -> None:
    with pytest.raises(CannotVerifyError) as caught:
        verify_proofs(replace(bundle, root=tmp_path), job.evidence, rows=job.rows)
    assert caught.value.code == "verifier-file-missing"


def test_an_engine_that_takes_too_long_is_ended(bundle: Bundle, job: Any) -> None:
    with pytest.raises(CannotVerifyError) as caught:
        verify_proofs(bundle, job.evidence, rows=job.rows, timeout_s=0.01)
    assert caught.value.code == "verify-died"


def test_a_kept_verifier_loads_the_engine_once_until_it_dies(
    bundle: Bundle, job: Any
) -> None:
    def engine(verifier: Verifier) -> int:
        verifier.verify(bundle, job.evidence, rows=job.rows, allow_insecure_srs=True)
        assert verifier._child
        return verifier._child.pid

    with Verifier() as verifier:
        first = engine(verifier)
        assert engine(verifier) == first
        os.kill(first, signal.SIGKILL)
        assert verifier._child
        verifier._child._process.wait(30)
        assert engine(verifier) != first


def test_without_the_engine_nothing_is_verified(
    bundle: Bundle, job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ezkl.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(CannotVerifyError) as caught:
        verify_proofs(bundle, job.evidence, rows=job.rows)
    assert caught.value.code == "engine-missing"
    assert "privacy-compute[zkml]" in caught.value.message


def test_an_unusable_key_that_is_pinned_cannot_be_verified_with(
    bundle: Bundle, job: Any, tmp_path: Path
) -> None:
    """A publisher's fault, not the node's: exit code 7, not 6."""
    shutil.copytree(bundle.root / "zkml", tmp_path / "zkml")
    (tmp_path / "zkml" / "vk.key").write_bytes(b"no key")
    files = list_files(tmp_path, frozenset())
    broken = replace(
        bundle, root=tmp_path, manifest=replace(bundle.manifest, files=files)
    )
    with Verifier() as verifier:
        with pytest.raises(CannotVerifyError) as caught:
            verifier.verify(broken, job.evidence, rows=job.rows)
        assert verifier._child is None  # no engine that failed is asked again
    assert caught.value.code == "verify-failed"


def test_verify_refuses_rows_that_could_not_have_been_the_input(
    bundle: Bundle, job: Any
) -> None:
    bad = job.rows.copy()
    bad[0, 0] = np.nan
    for rows in (bad, job.rows[:, :5], job.rows[0]):
        with pytest.raises(FormatError):
            verify_proofs(bundle, job.evidence, rows=rows)


def test_importing_the_verifier_loads_no_engine() -> None:
    code = (
        "import sys, privacy.zkml; "
        "sys.exit(bool({'ezkl', 'onnx', 'onnxruntime', 'torch'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], check=False)
    assert run.returncode == 0


@pytest.mark.slow
def test_no_single_bit_of_the_evidence_can_be_flipped(bundle: Bundle, job: Any) -> None:
    """300 flips, spread over the whole blob: text, instances and proof."""
    rng = np.random.default_rng(7)
    for at in rng.choice(len(job.evidence), 300, replace=False):
        raw = bytearray(job.evidence)
        raw[at] ^= 1 << int(rng.integers(8))
        with pytest.raises((VerificationError, CannotVerifyError)):
            verify_proofs(bundle, bytes(raw), rows=job.rows)
