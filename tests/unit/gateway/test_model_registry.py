import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from structlog.testing import capture_logs

from gateway import registry as registry_module
from gateway.registry import ModelRegistry
from privacy.bundle import SIGNATURE, Bundle, ModePart, write_manifest
from privacy.errors import FormatError, NotFoundError, UnavailableError
from privacy.files import default_home
from privacy.jws import key_id
from privacy.publisher import (
    TRUST_FILE,
    Trust,
    distrust_publisher,
    load_trust,
    publisher_key,
    sign_bundle,
    trust_publisher,
)
from privacy.tee.measure import measure
from tests.support.hand_made_bundle import write_bundle


def make_registry(models_dir: Path, **more: Any) -> ModelRegistry:
    return ModelRegistry(models_dir, lambda: load_trust(default_home()), **more)


def test_the_newest_version_is_the_one_published_last(tmp_path: Path):
    write_bundle(tmp_path, version="10", published_at="2026-01-01T00:00:00.000Z")
    write_bundle(tmp_path, version="9", published_at="2026-02-01T00:00:00.000Z")
    registry = make_registry(tmp_path)
    assert registry.get("demo").manifest.version == "9"
    assert registry.get("demo", "10").manifest.version == "10"
    assert [b.manifest.version for b in registry.all()] == ["9", "10"]


def test_a_model_published_later_is_found_when_it_is_asked_for(tmp_path: Path):
    registry = make_registry(tmp_path, fresh_s=1e9)
    with pytest.raises(NotFoundError) as refusal:
        registry.get("demo")
    assert refusal.value.code == "unknown-model"
    write_bundle(tmp_path)
    assert registry.get("demo").manifest.name == "demo"


def test_a_model_that_is_gone_is_forgotten(tmp_path: Path):
    write_bundle(tmp_path)
    registry = make_registry(tmp_path, fresh_s=0)
    shutil.rmtree(tmp_path / "demo")
    assert registry.all() == []


def test_a_replaced_bundle_is_read_again(tmp_path: Path):
    before = write_bundle(tmp_path)
    registry = make_registry(tmp_path, fresh_s=0)
    after = write_bundle(tmp_path, published_at="2026-03-01T00:00:00.000Z")
    assert registry.get("demo").sha256 == after.sha256 != before.sha256


def test_a_changed_bundle_is_skipped_and_the_others_stay(tmp_path: Path):
    write_bundle(tmp_path, name="good")
    (write_bundle(tmp_path, name="bad").root / "zkml" / "vk.key").write_bytes(b"x")
    registry = make_registry(tmp_path)
    assert [b.manifest.name for b in registry.all()] == ["good"]


def test_a_bundle_of_a_stranger_is_skipped_until_they_are_trusted(tmp_path: Path):
    stranger, home = Ed25519PrivateKey.generate(), tmp_path / "home"
    sign_bundle(write_bundle(tmp_path / "models").root, stranger)
    with capture_logs() as logs:
        registry = ModelRegistry(
            tmp_path / "models", lambda: load_trust(home), fresh_s=0
        )
    assert [line["code"] for line in logs] == ["publisher-untrusted"]
    assert registry.all() == []
    trust_publisher(home, stranger.public_key())
    (found,) = registry.all()
    assert found.publisher == key_id(stranger.public_key())
    distrust_publisher(home, found.publisher)
    assert registry.all() == []


def test_a_bundle_whose_signature_is_gone_is_skipped(tmp_path: Path):
    bundle = write_bundle(tmp_path)
    registry = make_registry(tmp_path, fresh_s=0)
    assert len(registry.all()) == 1
    (bundle.root / SIGNATURE).unlink()
    assert registry.all() == []


def test_while_a_trust_file_is_broken_only_accepted_jobs_find_their_model(
    tmp_path: Path,
):
    home, private_key = tmp_path / "home", Ed25519PrivateKey.generate()
    sign_bundle(write_bundle(tmp_path / "models").root, private_key)
    trust_publisher(home, private_key.public_key())
    registry = ModelRegistry(tmp_path / "models", lambda: load_trust(home), fresh_s=0)
    whole = (home / TRUST_FILE).read_bytes()
    (home / TRUST_FILE).write_text("{")
    for ask in (registry.all, lambda: registry.get("demo"), registry.check_trust):
        with capture_logs() as logs, pytest.raises(UnavailableError) as refusal:
            ask()
        assert refusal.value.code == "trust-unreadable"
        assert str(home) not in refusal.value.message
        assert {line["event"] for line in logs} <= {"trust-unreadable"}
    assert registry.accepted("demo", "1").manifest.name == "demo"
    with pytest.raises(FormatError):
        ModelRegistry(tmp_path / "models", lambda: load_trust(home))
    (home / TRUST_FILE).write_bytes(whole)
    assert len(registry.all()) == 1


def test_a_bundle_under_another_name_is_skipped(tmp_path: Path):
    write_bundle(tmp_path, name="true-name")
    (tmp_path / "true-name").rename(tmp_path / "other")
    assert make_registry(tmp_path).all() == []


def test_a_folder_that_does_not_exist_yet_has_no_models(tmp_path: Path):
    assert make_registry(tmp_path / "none").all() == []


def test_a_bundle_that_was_found_half_copied_is_read_again_when_it_is_whole(
    tmp_path: Path,
):
    late = write_bundle(tmp_path).root / "zkml" / "vk.key"
    content = late.read_bytes()
    late.unlink()
    registry = make_registry(tmp_path, fresh_s=0)
    assert registry.all() == []
    late.write_bytes(content)
    assert [b.manifest.name for b in registry.all()] == ["demo"]


def test_a_slow_reading_of_a_new_bundle_makes_nobody_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_bundle(tmp_path)
    registry = make_registry(tmp_path, fresh_s=0)
    write_bundle(tmp_path, name="large")
    reading, go_on = threading.Event(), threading.Event()
    real = registry_module._open

    def slow(root: Path, trust: Trust) -> Bundle:
        reading.set()
        assert go_on.wait(30)
        return real(root, trust)

    monkeypatch.setattr(registry_module, "_open", slow)
    reader = threading.Thread(target=registry.all)
    reader.start()
    assert reading.wait(30)
    assert registry.get("demo").manifest.name == "demo"
    go_on.set()
    reader.join(30)
    assert registry.get("large").manifest.name == "large"


def _warnings(models_dir: Path) -> list[dict[str, Any]]:
    with capture_logs() as logs:
        registry = make_registry(models_dir, fresh_s=0)
        for _ in range(3):
            registry.all()
    return [line for line in logs if line["event"] == "enclave-measurements-differ"]


def test_an_enclave_that_clients_will_refuse_is_warned_of_once(tmp_path: Path):
    bundle = write_bundle(tmp_path)
    model = bundle.root / "tee" / "model.onnx"
    measured = measure(model).as_dict()
    _publish(bundle, {**measured, "rtmr1": "0" * 96})
    (warning,) = _warnings(tmp_path)
    assert (warning["bundle"], warning["registers"]) == ("demo/1", ["rtmr1"])
    assert "publish" in warning["todo"]
    _publish(bundle, measured)
    assert _warnings(tmp_path) == []


def _publish(bundle: Bundle, measurements: dict[str, str]) -> None:
    part = ModePart(available=True, params={"measurements": measurements})
    modes = {**bundle.manifest.modes, "tee": part}
    write_manifest(bundle.root, replace(bundle.manifest, modes=modes))
    sign_bundle(bundle.root, publisher_key(default_home()))
