"""A circuit built anew from its source serves the keys and inputs of the old one."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from privacy.bundle import open_bundle, write_manifest
from privacy.errors import BackendError, FormatError, VerificationError
from privacy.fhe.runner import Runner
from privacy.fhe.source import OPTIONS, build, read_source
from privacy.publish.rebuild import rebuild
from privacy.publisher import publisher_key, sign_bundle


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def root(forest, tmp_path, home):
    """The forest's bundle in a store, signed."""
    place = tmp_path / "models" / "forest" / "1"
    shutil.copytree(forest.bundle.root, place)
    write_manifest(place, forest.bundle.manifest)
    sign_bundle(place, publisher_key(home))
    return place


@pytest.mark.parametrize("name", ["linear", "tree", "forest"])
def test_every_kind_of_circuit_comes_out_the_same(request, name, tmp_path):
    published = request.getfixturevalue(name)
    fhe = published.bundle.root / "fhe"
    program = fhe / "circuit" / "program_info.concrete.params.json"
    build(read_source(fhe / "source"), program.read_text(), tmp_path)
    assert (tmp_path / program.name).read_bytes() == program.read_bytes()
    assert (tmp_path / "sharedlib.so").stat().st_size > 0


def test_a_rebuilt_bundle_answers_the_same_keys_and_inputs_alike(
    root, forest, forest_keys, tmp_path, home
):
    (root / "fhe" / "nobody-signed-this.json").write_bytes(b"{}")
    made = rebuild(root, store=tmp_path / "models", home=home)
    assert made.manifest.files.keys() == forest.bundle.manifest.files.keys()
    assert not list(made.root.rglob("nobody-signed-this.json"))
    assert (made.manifest.name, made.manifest.version) == ("forest", "2")
    assert made.manifest.modes["fhe"].params["rebuilt_from"] == open_bundle(root).sha256
    assert made.publisher
    made.check_files()
    path = tmp_path / "keys"
    path.write_bytes(forest_keys.evaluation_keys())
    blob = forest_keys.encrypt(forest.held[:2])
    old, new = (
        forest_keys.decrypt(Runner(b).run(blob, path, lambda _: None).output, 2)
        for b in (forest.bundle, made)
    )
    assert np.array_equal(old, new)


def test_a_rebuilt_circuit_that_answers_otherwise_than_signed_is_refused(
    root, forest, tmp_path, home
):
    part = forest.bundle.manifest.modes["fhe"]
    least = part.params["samples"]["least"]
    assert len(least) == 2  # so many sample rows were run when it was published
    assert part.params["samples"]["most"] == least
    other = (np.array(least) + 1).tolist()
    params = {**part.params, "samples": {"least": other, "most": other}}
    modes = {**forest.bundle.manifest.modes, "fhe": replace(part, params=params)}
    write_manifest(root, replace(forest.bundle.manifest, modes=modes))
    sign_bundle(root, publisher_key(home))
    with pytest.raises(BackendError) as caught:
        rebuild(root, store=tmp_path / "models", home=home)
    assert caught.value.code == "fhe-rebuild-differs"
    assert "sample rows" in caught.value.message
    assert not (tmp_path / "models" / "forest" / "2").exists()


def test_a_bundle_of_a_stranger_is_not_built(root, tmp_path):
    with pytest.raises(VerificationError) as caught:
        rebuild(root, store=tmp_path / "models", home=tmp_path / "other-home")
    assert caught.value.code == "publisher-untrusted"


def test_a_changed_source_is_not_built(root, tmp_path, home):
    mlir = root / "fhe" / "source" / "circuit.mlir"
    mlir.write_text(mlir.read_text() + "\n")
    with pytest.raises(VerificationError):
        rebuild(root, store=tmp_path / "models", home=home)


def test_a_source_that_makes_another_program_is_refused(forest, linear, tmp_path):
    spec = Runner(forest.bundle)._spec
    source = read_source(linear.bundle.root / "fhe" / "source")
    with pytest.raises(BackendError) as caught:
        build(source, spec.program, tmp_path)
    assert caught.value.code == "fhe-rebuild-differs"
    assert not list(tmp_path.iterdir())


def test_malformed_options_are_refused(forest, tmp_path):
    shutil.copytree(forest.bundle.root / "fhe" / "source", tmp_path / "source")
    for odd in (b"{}", b'{"format":"privacy-compute/fhe-source/1"}', b"x"):
        (tmp_path / "source" / OPTIONS).write_bytes(odd)
        with pytest.raises(FormatError):
            read_source(tmp_path / "source")
