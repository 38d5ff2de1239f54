import dataclasses

import pytest

from privacy.bundle import (
    Column,
    Manifest,
    ModePart,
    check_name,
    list_files,
    open_bundle,
    parse_manifest,
    standardise,
    write_manifest,
)
from privacy.encoding import canonical_json, parse_object
from privacy.errors import FormatError, NotFoundError, VerificationError
from privacy.modes import Mode


@pytest.fixture
def bundle(tmp_path):
    (tmp_path / "tee").mkdir()
    (tmp_path / "tee/model.onnx").write_bytes(b"onnx")
    (tmp_path / "tee/notes.txt").write_bytes(b"for all")
    manifest = Manifest(
        name="toy",
        version="1",
        task="classification",
        columns=(Column("a", 0.0, 1.0), Column("b", -1.0, 3.0, 1.0, 2.0)),
        outputs=1,
        activation="sigmoid",
        classes=("no", "yes"),
        clear_accuracy={},
        modes={
            "tee": ModePart(available=True),
            "fhe": ModePart(available=False, reason="too deep"),
        },
        files=list_files(tmp_path, frozenset({"tee/notes.txt"})),
        published_at="2026-01-01T00:00:00Z",
        tool="test",
    )
    return write_manifest(tmp_path, manifest)


def test_a_bundle_opens_as_it_was_written(bundle):
    again = open_bundle(bundle.root)
    assert again == bundle
    assert again.manifest.files["tee/notes.txt"].public
    assert not again.manifest.files["tee/model.onnx"].public


def test_a_changed_file_is_refused(bundle):
    (bundle.root / "tee/model.onnx").write_bytes(b"onnX")
    with pytest.raises(VerificationError, match=r"tee/model\.onnx"):
        open_bundle(bundle.root)


def test_a_missing_file_is_refused(bundle):
    (bundle.root / "tee/model.onnx").unlink()
    with pytest.raises(VerificationError, match="nothing"):
        open_bundle(bundle.root)


def test_an_empty_folder_is_no_bundle(tmp_path):
    with pytest.raises(NotFoundError):
        open_bundle(tmp_path)


def test_a_mode_that_is_not_offered_says_why_and_what_is(bundle):
    with pytest.raises(NotFoundError, match=r"too deep; it offers tee"):
        bundle.manifest.mode(Mode.FHE)
    with pytest.raises(NotFoundError, match="was not published"):
        bundle.manifest.mode(Mode.ZKML)


def test_an_unknown_file_is_not_found(bundle):
    with pytest.raises(NotFoundError):
        bundle.path("manifest.json")


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"name": "../evil"},
        {"activation": "tanh"},
        {"columns": []},
        {"columns": [{"name": "a"}]},
        {"surprise": 1},
        {"files": {"../x": {"sha256": "0" * 64, "bytes": 1, "public": True}}},
        {"files": {"/x": {"sha256": "0" * 64, "bytes": 1, "public": True}}},
        {"files": {"x": {"sha256": "0", "bytes": 1, "public": True}}},
        {"modes": {"fhe": {}}},
        {"modes": {"magic": {"available": False}}},
        {"modes": {"fhe": {"available": 1}}},
        {"modes": {"fhe": {"available": True, "params": []}}},
        {"name": 1},
        {"task": "guess"},
        {"outputs": True},
        {"outputs": 0},
        {"classes": ["only one"]},
        {"classes": ["no", 1]},
        {"classes": ["no", "yes", "more"]},
        {"columns": [{"name": "a", "minimum": 0, "maximum": 1, "scale": 0}]},
        {"columns": [{"name": "a", "minimum": "0", "maximum": 1}]},
        {"columns": [{"name": "a", "minimum": 0, "maximum": 1}] * 2},
        {"files": {"x": {"sha256": 1, "bytes": 1, "public": True}}},
        {"files": {"x": {"sha256": "0" * 64, "bytes": -1, "public": True}}},
        {"files": {"x": {"sha256": "0" * 64, "bytes": 1, "public": "no"}}},
        {"files": {"x\0": {"sha256": "0" * 64, "bytes": 1, "public": True}}},
    ],
)
def test_a_malformed_manifest_is_refused(bundle, change):
    value = parse_object(bundle.manifest.to_bytes(), what="manifest")
    with pytest.raises(FormatError):
        parse_manifest(canonical_json({**value, **change}))


@pytest.mark.parametrize("name", ["", "A", "a/b", "..", ".a", "a" * 64, "a b", "ä"])
def test_names_are_plain(name):
    with pytest.raises(FormatError):
        check_name(name)


def test_standardise_uses_each_columns_offset_and_scale(bundle):
    out = standardise([[0.5, 3.0]], bundle.manifest.columns)
    assert out.tolist() == [[0.5, 1.0]]


def test_the_digest_changes_with_any_field(bundle):
    other = dataclasses.replace(bundle.manifest, classes=("yes", "no"))
    assert other.to_bytes() != bundle.manifest.to_bytes()
