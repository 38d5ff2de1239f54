"""The node's side, in the gateway's own worker process."""

import json
import os
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privacy.bundle import Bundle, list_files, write_manifest
from privacy.encoding import b64url, canonical_json
from privacy.errors import (
    BackendError,
    FormatError,
    PrivacyError,
    UnavailableError,
    VerificationError,
)
from privacy.zkml import make_input, parse_outputs
from privacy.zkml import verify_proofs as verify_strictly

verify_proofs = partial(verify_strictly, allow_insecure_srs=True)
_SALT = b64url(bytes(32))


def test_each_row_is_proven_and_reported(
    node: Any, bundle: Bundle, rows: Any, linear: Any
) -> None:
    job = node.run(rows[550:553])
    outputs = parse_outputs(job.output, outputs=1)
    assert np.abs(outputs - linear.clear(rows[550:553])).max() < 0.05
    assert [p for p in node.progress if p["stage"] == "prove"] == [
        {"stage": "prove", "done": i, "total": 3} for i in (1, 2, 3)
    ]
    assert np.array_equal(verify_proofs(bundle, job.evidence, rows=job.rows), outputs)


def test_evidence_holds_proofs_and_what_they_are_of(job: Any) -> None:
    told = json.loads(job.evidence)
    assert list(told) == ["insecure_srs", "model_sha256", "proofs"]
    assert told["insecure_srs"] is True
    for proof in job.proofs():
        assert set(proof) == {"instances", "proof"}


@pytest.mark.parametrize(
    ("blob", "code"),
    [
        (b"", "not-json"),
        (b"[]", "malformed"),
        (b'{"rows":[[NaN]],"salt":"x"}', "not-json"),
        (b"\x80\x04\x95", "not-json"),
        (canonical_json({"rows": [[0.0] * 30]}), "unknown-member"),
        (
            canonical_json({"rows": [[0.0] * 30], "salt": _SALT, "x": 1}),
            "unknown-member",
        ),
        (canonical_json({"rows": [[0.0] * 30], "salt": "AA"}), "bad-salt"),
        (canonical_json({"rows": [[0.0] * 30], "salt": 7}), "bad-salt"),
        (canonical_json({"rows": [], "salt": _SALT}), "no-rows"),
        (canonical_json({"rows": [[0.0] * 29], "salt": _SALT}), "wrong-feature-count"),
        (canonical_json({"rows": [["0"] * 30], "salt": _SALT}), "not-a-number"),
        (canonical_json({"rows": [[0.0] * 30] * 257, "salt": _SALT}), "too-many-rows"),
        (
            json.dumps({"salt": _SALT, "rows": [[0.0] * 30]}).encode(),
            "not-canonical",
        ),
    ],
)
def test_a_malformed_input_never_reaches_the_engine(
    node: Any, blob: bytes, code: str
) -> None:
    start = time.monotonic()
    with pytest.raises(FormatError) as caught:
        node.run_blob(blob)
    assert caught.value.code == code
    assert not [p for p in node.progress if p["stage"] == "prove"]
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("value", [1e308, -1e30, 2.0**40, 1e4, -60.0])
def test_a_row_out_of_range_is_refused_at_once(
    node: Any, rows: Any, value: float
) -> None:
    bad = rows[540:541].astype(np.float64)
    bad[0, 3] = value
    with pytest.raises(FormatError) as caught:
        node.run(bad)
    assert caught.value.code == "out-of-range"
    assert "column 4" in caught.value.message
    assert str(value) not in caught.value.message


def test_a_row_is_allowed_beyond_every_sample(
    node: Any, bundle: Bundle, linear: Any
) -> None:
    """At the two corners that drive this model furthest, answers still hold."""
    params = bundle.manifest.modes["zkml"].params
    low, high = np.array(params["input_minimum"]), np.array(params["input_maximum"])
    up = linear.weights > 0
    corners = np.array([np.where(up, high, low), np.where(up, low, high)])
    job = node.run(corners)
    outputs = verify_proofs(bundle, job.evidence, rows=corners)
    error = np.abs(outputs - linear.clear(corners)) / np.abs(linear.clear(corners))
    assert error.max() < 0.01


def test_values_too_wide_for_the_circuit_are_refused_not_wrapped(
    node: Any, bundle: Bundle, linear: Any, tmp_path: Path
) -> None:
    """The box alone does not protect: a manifest may claim more than the circuit."""
    part = bundle.manifest.modes["zkml"]
    wide = {"input_minimum": [-1e6] * 30, "input_maximum": [1e6] * 30}
    most = 0.99 * 2.0 ** (24 - part.params["input_scale_bits"])
    modes = {"zkml": replace(part, params={**part.params, **wide})}
    (tmp_path / "zkml").symlink_to(bundle.root / "zkml")
    lying = write_manifest(tmp_path, replace(bundle.manifest, modes=modes))
    with pytest.raises(FormatError) as caught:
        node.run(np.sign(linear.weights)[None] * most, bundle=lying)
    assert caught.value.code == "out-of-range"


def test_a_job_can_follow_a_refused_one(node: Any, bundle: Bundle, rows: Any) -> None:
    with pytest.raises(PrivacyError):
        node.run_blob(b"{}")
    job = node.run(rows[:1])
    assert len(verify_proofs(bundle, job.evidence, rows=rows[:1])) == 1


def test_a_circuit_of_another_engine_version_is_not_run(
    node: Any, bundle: Bundle, rows: Any, tmp_path: Path
) -> None:
    part = bundle.manifest.modes["zkml"]
    modes = {"zkml": replace(part, params={**part.params, "system_version": "1.0"})}
    (tmp_path / "zkml").symlink_to(bundle.root / "zkml")
    old = write_manifest(tmp_path, replace(bundle.manifest, modes=modes))
    with pytest.raises(BackendError) as caught:
        node.run(rows[:1], bundle=old)
    assert caught.value.code == "engine-version"


def test_a_key_that_differs_in_a_number_never_gives_an_answer(
    node: Any, bundle: Bundle, rows: Any, tmp_path: Path
) -> None:
    """The prover "succeeds" with it; verifying at once catches it.

    With a key of another circuit EZKL may wait for ever, until the job's time limit.
    """
    shutil.copytree(bundle.root, tmp_path, dirs_exist_ok=True)
    with (tmp_path / "zkml/pk.key").open("r+b") as key:
        key.seek(-32, os.SEEK_END)  # the last element of the last polynomial
        key.write(bytes(31) + b"\1")
    files = list_files(tmp_path, frozenset())
    mixed = write_manifest(tmp_path, replace(bundle.manifest, files=files))
    with pytest.raises(BackendError) as caught:
        node.run(rows[:1], bundle=mixed)
    assert caught.value.code == "proof-inconsistent"


def test_a_file_spoilt_after_it_was_loaded_is_found_at_once(
    node: Any, bundle: Bundle, rows: Any, tmp_path: Path
) -> None:
    """The engine would wait for ever on some proving keys that were spoilt."""
    shutil.copytree(bundle.root, tmp_path, dirs_exist_ok=True)
    mine = write_manifest(tmp_path, replace(bundle.manifest, version="2"))
    assert node.run(rows[:1], bundle=mine)
    for name in ("zkml/pk.key", "zkml/network.ezkl", "zkml/kzg.srs"):
        kept = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(kept[: len(kept) // 2])
        started = time.monotonic()
        with pytest.raises(VerificationError) as caught:
            node.run(rows[:1], bundle=mine)
        assert caught.value.code == "bundle-changed"
        assert name in caught.value.message
        assert time.monotonic() - started < 5
        (tmp_path / name).write_bytes(kept)
    assert node.run(rows[:1], bundle=mine)


def test_make_input_refuses_what_no_node_would_take() -> None:
    for rows, salt in (
        ([], bytes(32)),
        ([[0.0]], bytes(8)),
        ([[float("nan")]], bytes(32)),
    ):
        with pytest.raises(FormatError):
            make_input(rows, salt=salt)


def test_a_node_with_too_little_memory_says_so_before_it_proves(
    node: Any, bundle: Bundle, rows: Any, tmp_path: Path
) -> None:
    part = bundle.manifest.modes["zkml"]
    assert 1 << 26 < part.cost["memory_bytes"] < 1 << 30
    cost = {**part.cost, "memory_bytes": 1 << 50}
    (tmp_path / "zkml").symlink_to(bundle.root / "zkml")
    modes = {"zkml": replace(part, cost=cost)}
    huge = write_manifest(tmp_path, replace(bundle.manifest, modes=modes))
    with pytest.raises(UnavailableError) as caught:
        node.run(rows[:1], bundle=huge)
    assert caught.value.code == "too-little-memory"
    assert "MiB" in caught.value.message
