import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from privacy.bundle import FileEntry, list_files, write_manifest
from privacy.errors import NotFoundError, VerificationError
from privacy.tee_zkml.circuit import FILES, circuit_sha256, hold, hold_circuit
from tests.support.hand_made_bundle import write_bundle


@pytest.fixture
def bundle(tmp_path):
    made = write_bundle(tmp_path)
    for name in FILES:
        (made.root / "zkml" / name).write_bytes(name.encode() * 1000)
    files = list_files(made.root, frozenset())
    return write_manifest(made.root, replace(made.manifest, files=files))


def test_a_held_file_is_found_by_path_and_cannot_be_changed(tmp_path):
    path = tmp_path / "key"
    path.write_bytes(b"a key" * 1_000_000)
    fd, digest = hold(path)
    path.write_bytes(b"another key")
    found = Path(f"/proc/self/fd/{fd}").read_bytes()
    assert hashlib.sha256(found).hexdigest() == digest
    assert found == b"a key" * 1_000_000
    for change in (
        lambda: os.pwrite(fd, b"x", 0),
        lambda: os.ftruncate(fd, 1),
        lambda: os.pwrite(fd, b"x", len(found)),
    ):
        with pytest.raises(PermissionError):
            change()
    os.close(fd)


def test_a_circuit_is_held_as_the_manifest_names_it(bundle):
    circuit = hold_circuit(bundle)
    for path in (circuit.network, circuit.proving_key, circuit.verifier_srs):
        assert path.parent.name == "fd"
    assert circuit.proving_key.read_bytes() == b"pk.key" * 1000


@pytest.mark.parametrize("name", FILES)
def test_a_changed_or_missing_file_of_a_circuit_is_refused(bundle, name):
    path = bundle.root / "zkml" / name
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(VerificationError) as caught:
        hold_circuit(bundle)
    assert caught.value.code == "bundle-changed"
    path.unlink()
    with pytest.raises(VerificationError):
        hold_circuit(bundle)


@pytest.mark.parametrize("name", FILES)
def test_the_digest_of_a_circuit_covers_every_file(bundle, name):
    files = dict(bundle.manifest.files)
    before = circuit_sha256(bundle.manifest)
    files[f"zkml/{name}"] = FileEntry("ab" * 32, 1, public=False)
    assert circuit_sha256(replace(bundle.manifest, files=files)) != before


def test_a_bundle_without_a_circuit_has_none_to_hold(tmp_path):
    with pytest.raises(NotFoundError):
        hold_circuit(write_bundle(tmp_path))
