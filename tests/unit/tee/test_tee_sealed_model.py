"""What a manifest says of a sealed model is read strictly, and its file opened so."""

from dataclasses import replace

import pytest

from privacy.encoding import sha256_hex
from privacy.errors import FormatError, VerificationError
from privacy.tee.sealed_model import (
    open_model,
    seal_model,
    sealing_of,
)
from tests.support.sealed_bundle import write_sealed_bundle

BROKER = "http://broker:8401"
DIGEST = "ab" * 32


@pytest.fixture
def manifest(tmp_path):
    made = write_sealed_bundle(tmp_path / "store", tmp_path / "home", broker=BROKER)
    return made.bundle.manifest


def with_sealed(manifest, value):
    part = manifest.modes["tee"]
    part = replace(part, params={**part.params, "sealed": value})
    return replace(manifest, modes={"tee": part})


def test_a_manifest_names_the_broker_and_what_is_sealed(manifest):
    found = sealing_of(manifest)
    assert found.broker == BROKER
    assert found.as_dict() == manifest.modes["tee"].params["sealed"]
    assert sealing_of(with_sealed(manifest, None)) is None
    assert sealing_of(replace(manifest, modes={})) is None


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"broker": BROKER},
        {"broker": BROKER, "onnx_sha256": DIGEST, "more": ""},
        {"broker": BROKER, "onnx_sha256": 1},
        {"broker": BROKER, "onnx_sha256": "AB"},
        {"broker": "file:///etc/passwd", "onnx_sha256": DIGEST},
        [BROKER, DIGEST],
        True,
    ],
)
def test_another_way_to_say_it_is_refused(manifest, value):
    with pytest.raises(FormatError):
        sealing_of(with_sealed(manifest, value))


def test_a_sealed_model_opens_with_its_own_key_only():
    key, sealed = seal_model(b"weights")
    other, again = seal_model(b"weights")
    digest = sha256_hex(b"weights")
    assert open_model(sealed, key, onnx_sha256=digest) == b"weights"
    assert sealed != again
    assert b"weights" not in sealed
    for wrong in (other, key[:-1], b""):
        with pytest.raises(VerificationError) as caught:
            open_model(sealed, wrong, onnx_sha256=digest)
        assert caught.value.code == "model-unsealable"
    for changed in (sealed[:-1], sealed + b"\0", b"", again):
        with pytest.raises(VerificationError) as caught:
            open_model(changed, key, onnx_sha256=digest)
        assert caught.value.code == "model-unsealable"
    with pytest.raises(VerificationError) as caught:
        open_model(sealed, key, onnx_sha256=DIGEST)
    assert caught.value.code == "model-changed"
