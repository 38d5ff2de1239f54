"""Sealing at publish: what leaves the publisher, and what is taken back."""

import pytest

from privacy.bundle import ModePart
from privacy.encoding import sha256_hex
from privacy.errors import BackendError, FormatError
from privacy.modes import Mode
from privacy.publish.seal import (
    Seal,
    deposit,
    modes_to_publish,
    seal_part,
    shown_by,
)
from privacy.tee.sealed_model import open_model
from tests.support.sealed_bundle import write_sealed_bundle

SEAL = Seal("http://broker:8401/", lambda _bundle, _key: None)
MODEL = b"weights " * 100


def test_a_sealed_model_is_published_in_modes_that_hide_it_unless_named():
    assert modes_to_publish(None, SEAL) == (Mode.TEE,)
    assert modes_to_publish(None, None) == tuple(Mode)
    named = (Mode.FHE, Mode.TEE)
    assert modes_to_publish(named, SEAL) == named
    assert set(shown_by(named)) == {Mode.FHE}
    assert set(shown_by(tuple(Mode))) == {Mode.FHE, Mode.ZKML}
    with pytest.raises(FormatError):
        modes_to_publish((Mode.FHE,), SEAL)


@pytest.mark.parametrize(
    "broker",
    [
        "",
        "broker:8401",
        "ftp://broker",
        "http://",
        "http://user@broker",
        "http://broker:99999",
        "http://broker/?x",
        "http://broker/#x",
        "http://bro\nker",
        "http://" + "b" * 300,
    ],
)
def test_an_address_that_nobody_could_reach_is_refused_before_the_work(broker):
    with pytest.raises(FormatError) as caught:
        modes_to_publish(None, Seal(broker, SEAL.keep))
    assert caught.value.code == "bad-broker"


def test_sealing_leaves_ciphertext_only_and_names_the_broker(tmp_path):
    (tmp_path / "tee").mkdir()
    (tmp_path / "tee" / "model.onnx").write_bytes(MODEL)
    part, key = seal_part(tmp_path, ModePart(available=True, params={"a": 1}), SEAL)
    (file,) = (tmp_path / "tee").iterdir()
    assert file.name == "model.sealed"
    assert b"weights" not in file.read_bytes()
    digest = sha256_hex(MODEL)
    assert part.params == {
        "a": 1,
        "sealed": {"broker": "http://broker:8401", "onnx_sha256": digest},
    }
    assert open_model(file.read_bytes(), key, onnx_sha256=digest) == MODEL


def test_a_model_that_the_mode_cannot_serve_is_not_sealed(tmp_path):
    part = ModePart(available=False, reason="too odd")
    with pytest.raises(BackendError) as caught:
        seal_part(tmp_path, part, SEAL)
    assert "too odd" in caught.value.message


def test_a_bundle_whose_key_could_not_be_deposited_is_taken_back(tmp_path):
    made = write_sealed_bundle(tmp_path / "store", tmp_path / "home", broker="http://b")

    def fail(bundle, key):
        assert (bundle, key) == (made.bundle, made.content_key)
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        deposit(made.bundle, made.content_key, Seal("http://b", fail))
    assert not made.bundle.root.exists()
