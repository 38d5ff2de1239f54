import shutil
from pathlib import Path

import pytest

from gateway.registry import ModelRegistry
from privacy.errors import NotFoundError
from tests.support.hand_made_bundle import write_bundle


def test_the_newest_version_is_the_one_published_last(tmp_path: Path):
    write_bundle(tmp_path, version="10", published_at="2026-01-01T00:00:00.000Z")
    write_bundle(tmp_path, version="9", published_at="2026-02-01T00:00:00.000Z")
    registry = ModelRegistry(tmp_path)
    assert registry.get("demo").manifest.version == "9"
    assert registry.get("demo", "10").manifest.version == "10"
    assert [b.manifest.version for b in registry.all()] == ["9", "10"]


def test_a_model_published_later_is_found_when_it_is_asked_for(tmp_path: Path):
    registry = ModelRegistry(tmp_path, fresh_s=1e9)
    with pytest.raises(NotFoundError) as refusal:
        registry.get("demo")
    assert refusal.value.code == "unknown-model"
    write_bundle(tmp_path)
    assert registry.get("demo").manifest.name == "demo"


def test_a_model_that_is_gone_is_forgotten(tmp_path: Path):
    write_bundle(tmp_path)
    registry = ModelRegistry(tmp_path, fresh_s=0)
    shutil.rmtree(tmp_path / "demo")
    assert registry.all() == []


def test_a_replaced_bundle_is_read_again(tmp_path: Path):
    before = write_bundle(tmp_path)
    registry = ModelRegistry(tmp_path, fresh_s=0)
    after = write_bundle(tmp_path, published_at="2026-03-01T00:00:00.000Z")
    assert registry.get("demo").sha256 == after.sha256 != before.sha256


def test_a_changed_bundle_is_skipped_and_the_others_stay(tmp_path: Path):
    write_bundle(tmp_path, name="good")
    (write_bundle(tmp_path, name="bad").root / "zkml" / "vk.key").write_bytes(b"x")
    registry = ModelRegistry(tmp_path)
    assert [b.manifest.name for b in registry.all()] == ["good"]


def test_a_bundle_under_another_name_is_skipped(tmp_path: Path):
    write_bundle(tmp_path, name="true-name")
    (tmp_path / "true-name").rename(tmp_path / "other")
    assert ModelRegistry(tmp_path).all() == []


def test_a_folder_that_does_not_exist_yet_has_no_models(tmp_path: Path):
    assert ModelRegistry(tmp_path / "none").all() == []
