"""`privacy zk verify` and `zk audit` on files that are not what they should be."""

import json
from pathlib import Path
from typing import Any

import pytest

from privacy.cli.app import run
from privacy.encoding import canonical_json

_MODEL = "5" * 64


def told(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str]:
    code = run(["zk", *map(str, args), "--json"])
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, value["error"]["code"]


def evidence(path: Path, **members: object) -> Path:
    claim = {"insecure_srs": True, "model_sha256": _MODEL, "proofs": [], **members}
    path.write_bytes(canonical_json(claim))
    return path


def test_a_missing_file_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(capsys, "verify", tmp_path / "none") == (2, "no-such-file")
    args = ("audit", tmp_path, "--onnx", tmp_path / "none")
    assert told(capsys, *args) == (2, "no-such-file")


@pytest.mark.parametrize("raw", [b"", b"{}", b"\x00" * 50, b"[1]", b"{" * 100_000])
def test_what_is_no_file_of_proofs_is_false(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], raw: bytes
) -> None:
    path = tmp_path / "evidence.json"
    path.write_bytes(raw)
    home = ("--home", tmp_path)
    assert told(capsys, "verify", path, *home) == (6, "evidence-malformed")


def test_a_model_that_is_not_here_leaves_proofs_unverified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, home = evidence(tmp_path / "e.json"), ("--home", tmp_path)
    assert told(capsys, "verify", path, *home) == (7, "missing-model")
    bundle = ("--bundle", tmp_path / "none")
    assert told(capsys, "verify", path, *home, *bundle) == (7, "missing-model")


def test_proofs_of_another_model_than_asked_for_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = evidence(tmp_path / "e.json")
    args = ("verify", path, "--model", "4" * 64, "--home", tmp_path)
    assert told(capsys, *args) == (6, "wrong-model")
    args = ("verify", path, "--model", "x", "--home", tmp_path)
    assert told(capsys, *args) == (2, "bad-digest")


def test_an_audit_needs_a_bundle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(capsys, "audit", tmp_path) == (4, "no-bundle")


def test_a_file_that_is_no_srs_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kzg.srs"
    assert told(capsys, "srs", path) == (2, "no-such-file")
    path.write_bytes(b"\x01\0\0\0")
    assert told(capsys, "srs", path) == (2, "bad-srs")
    assert told(capsys, "srs", path, "--fetch", 99) == (2, "no-such-srs")


def test_an_srs_that_is_not_listed_is_not_called_public(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kzg.srs"
    path.write_bytes((0).to_bytes(4, "little") + bytes(128 + 256))
    assert run(["zk", "srs", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "unlisted"
