import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gateway.executors import worker
from gateway.executors.worker import handler
from privacy.bundle import SIGNATURE, Bundle
from privacy.errors import BackendError, ConflictError, VerificationError
from privacy.runs import RowStore, RunResult
from privacy.warm import Warm
from tests.support.hand_made_bundle import write_bundle


class _CountingRunner:
    made: list[str] = []  # noqa: RUF012 - reset by the fixture

    def __init__(self, bundle: Bundle) -> None:
        self.made.append(bundle.sha256)

    def run(
        self, input_blob: bytes, keys: Path | None, progress: Any, rows: RowStore
    ) -> RunResult:
        progress({"stage": "prove", "done": 1, "total": 1})
        return RunResult(input_blob[::-1], str(keys).encode(), "proof")


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> type[_CountingRunner]:
    _CountingRunner.made = []
    monkeypatch.setattr(worker, "SHARED", Warm(1 << 40))
    module = ModuleType("privacy.zkml.runner")
    module.Runner = _CountingRunner  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "privacy.zkml.runner", module)
    return _CountingRunner


def _request(folder: Path, bundle: Bundle, **changes: Any) -> dict[str, Any]:
    (folder / "input").write_bytes(b"abc")
    paths = {n: str(folder / n) for n in ("input", "output", "evidence", "rows")}
    return {
        "mode": "zkml",
        "bundle": str(bundle.root),
        "model_sha256": bundle.sha256,
        "publisher": bundle.publisher,
        "keys": None,
        **paths,
        **changes,
    }


def test_a_run_leaves_output_and_evidence_in_files(tmp_path: Path, runner):
    request = _request(tmp_path, write_bundle(tmp_path), keys="/k")
    reports: list[Any] = []
    answer = handler()(request, reports.append)
    assert answer["evidence_kind"] == "proof"
    assert answer["memory_bytes"] > 1 << 20
    assert (tmp_path / "output").read_bytes() == b"cba"
    assert (tmp_path / "evidence").read_bytes() == b"/k"
    assert [r["stage"] for r in reports] == ["load", "loaded", "prove"]


def test_a_model_is_loaded_once(tmp_path: Path, runner):
    bundles = [write_bundle(tmp_path, name=f"m{i}") for i in range(5)]
    for bundle in [bundles[0], bundles[0], *bundles[1:], bundles[4], bundles[0]]:
        handler()(_request(tmp_path, bundle), lambda _: None)
    assert runner.made == [b.sha256 for b in bundles]


def test_models_go_when_memory_is_short(tmp_path: Path, runner, monkeypatch):
    monkeypatch.setattr(worker, "SHARED", Warm(0))
    bundles = [write_bundle(tmp_path, name=f"m{i}") for i in range(2)]
    for bundle in [bundles[0], bundles[1], bundles[1], bundles[0]]:
        answer = handler()(_request(tmp_path, bundle), lambda _: None)
        assert answer["warm"] == [bundle.sha256]
    assert runner.made == [bundles[i].sha256 for i in (0, 1, 0)]


def test_a_changed_file_of_the_mode_is_refused_before_it_is_loaded(
    tmp_path: Path, runner
):
    bundle = write_bundle(tmp_path)
    (bundle.root / "zkml" / "vk.key").write_bytes(b"other")
    with pytest.raises(VerificationError) as refusal:
        handler()(_request(tmp_path, bundle), lambda _: None)
    assert refusal.value.code == "bundle-changed"
    assert runner.made == []


def test_a_bundle_whose_signature_was_taken_away_is_refused(tmp_path: Path, runner):
    bundle = write_bundle(tmp_path)
    request = _request(tmp_path, bundle)
    (bundle.root / SIGNATURE).unlink()
    with pytest.raises(ConflictError):
        handler()(request, lambda _: None)
    assert not runner.made


def test_a_replaced_bundle_is_refused(tmp_path: Path, runner):
    old = write_bundle(tmp_path)
    write_bundle(tmp_path, published_at="2026-05-05T00:00:00.000Z")
    with pytest.raises(ConflictError) as refusal:
        handler()(_request(tmp_path, old), lambda _: None)
    assert refusal.value.code == "model-changed"


def test_a_missing_engine_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "privacy.zkml.runner", None)
    with pytest.raises(BackendError, match=r"privacy-compute\[zkml\]") as refusal:
        handler()(_request(tmp_path, write_bundle(tmp_path)), lambda _: None)
    assert refusal.value.code == "engine-missing"


def test_the_request_is_json(tmp_path: Path):
    assert json.loads(json.dumps(_request(tmp_path, write_bundle(tmp_path))))
