"""One key serves every model of a key set, and batches take it too."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.bundle import Bundle
from privacy.encoding import canonical_json, pack, unpack
from privacy.errors import FormatError
from privacy.fhe import FheClient
from privacy.fhe.keysets import TREES, keyset_sha256, shipped
from privacy.fhe.results import packed_bytes
from privacy.fhe.runner import Runner
from privacy.fhe.spec import Batch, parse_spec
from privacy.publishing import PartRequest

SOME_TREES = [TREES[0], *(pytest.param(n, marks=pytest.mark.slow) for n in TREES[1:])]
REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def keys_file(forest_keys, tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_bytes(forest_keys.evaluation_keys())
    return path


@pytest.mark.parametrize("name", SOME_TREES)
def test_a_shipped_key_set_is_what_its_script_makes(name):
    made = subprocess.run(
        [sys.executable, "-W", "ignore", "scripts/make_keyset.py", name],
        capture_output=True,
        check=True,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    path = REPOSITORY / "privacy" / "fhe" / "keysets" / f"{name}.json"
    assert json.loads(made.stdout) == json.loads(path.read_bytes())


def test_models_of_all_kinds_and_publishers_have_the_shipped_key_set(
    forest, margins, regression, tree
):
    for model in (forest, margins, regression):
        assert model.result.params["keyset"] == TREES[0]
        assert model.result.params["keyset_sha256"] == shipped(TREES[0]).sha256
        assert FheClient(model.client_json).keyset_sha256 == shipped(TREES[0]).sha256
    assert FheClient(tree.client_json).keyset_sha256 != shipped(TREES[0]).sha256
    assert 1e6 < forest.result.cost["keys_bytes"] <= 30e6


def test_any_change_of_the_parameters_is_another_key_set():
    keyset = shipped(TREES[0]).keyset
    (key,) = keyset["lweKeyswitchKeys"]
    changed = {**key, "params": {**key["params"], "variance": 5e-11}}
    other = keyset_sha256("concrete", {**keyset, "lweKeyswitchKeys": [changed]})
    assert len({other, shipped(TREES[0]).sha256, keyset_sha256("else", keyset)}) == 3


def test_a_key_made_for_one_model_answers_for_another(
    regression, forest_keys, keys_file
):
    keys = FheClient(regression.client_json).share_keys(forest_keys)
    blob = keys.encrypt(regression.held[:1])
    output = Runner(regression.bundle).run(blob, keys_file, lambda _: None).output
    worst = regression.result.accuracy["max_error"]
    assert np.abs(keys.decrypt(output, 1) - regression.clear[:1]).max() <= worst


def test_a_saved_key_is_loaded_by_another_model_of_the_key_set(margins, forest_keys):
    keys = FheClient(margins.client_json).load_keys(forest_keys.to_bytes())
    assert keys.evaluation_keys() == forest_keys.evaluation_keys()


def test_keys_are_not_shared_with_a_model_of_another_key_set(tree, forest_keys):
    with pytest.raises(FormatError, match="generate keys for it") as caught:
        FheClient(tree.client_json).share_keys(forest_keys)
    assert caught.value.code == "fhe-keys-mismatch"


@pytest.mark.slow
def test_another_error_than_the_key_sets_has_keys_of_its_own(
    forest, publisher, tmp_path
):
    request: PartRequest = replace(
        forest.request,
        out=tmp_path,
        options={"circuit": "fhe-native", "engine_rows": 1, "p_error": 1e-3},
    )
    params = publisher.call(request.to_json(), timeout_s=200)["params"]
    assert params["keyset"] == "own"
    assert params["keyset_sha256"] != shipped(TREES[0]).sha256


# Batches


@pytest.mark.parametrize("rows", [7, 8, 9])
def test_a_batch_gives_the_answers_of_single_rows(forest, forest_keys, keys_file, rows):
    bundle = eager(forest.bundle, forest)
    keys = FheClient(bundle.path("fhe/client.json").read_bytes())
    keys = keys.share_keys(forest_keys)
    blob, seen = keys.encrypt(forest.held[:rows]), []
    frames = 1 if rows <= 8 else 2
    assert len(unpack(blob, what="blob")) == frames
    output = Runner(bundle).run(blob, keys_file, seen.append).output
    found = keys.decrypt(output, rows)
    assert [e["done"] for e in seen] == [8, 9][:frames]
    spec, model = parse_spec(forest.client_json), joblib.load(forest.request.estimator)
    assert found.shape == (rows, 2)
    limit = forest.result.accuracy["max_error"] + max(spec.output.scale)
    clear = model.predict_proba(forest.held[:rows].astype(np.float32))
    assert np.abs(found - clear).max() <= limit
    assert len(np.unique(found[:, 0])) > 2


def eager(bundle: Bundle, forest) -> Bundle:
    """Return a bundle whose batch pays from two rows on, whatever was measured."""
    value = json.loads(forest.client_json)
    value["batches"][1]["pays_from"] = 2
    raw = canonical_json(value)

    class Changed(Bundle):
        def path(self, name):
            if name != "fhe/client.json":
                return super().path(name)
            path = self.root / "changed.json"
            path.write_bytes(raw)
            return path

    return Changed(bundle.root, bundle.manifest, bundle.sha256)


def test_a_batchs_result_is_refused_where_a_rows_is_expected(forest, forest_keys):
    spec = parse_spec(forest.client_json)
    batch = spec.batches[1]
    whole = bytes(packed_bytes(batch.result, batch.word_bytes))
    with pytest.raises(FormatError) as caught:
        forest_keys.decrypt(pack([whole]), 1)
    assert caught.value.code == "fhe-result-mismatch"


def test_a_job_with_room_for_too_many_rows_is_refused(forest, forest_keys, keys_file):
    eight = forest_keys.encrypt(forest.held[:8])
    frames = unpack(eight, what="blob") * 33
    spec = parse_spec(forest.client_json)
    if len(frames) == 33:
        with pytest.raises(FormatError, match="room for 264 rows"):
            Runner(forest.bundle).run(pack(frames), keys_file, lambda _: None)
    else:
        assert spec.batches[1].pays_from > 8


@given(rows=st.integers(1, 256), pays_from=st.integers(1, 8))
def test_rows_are_split_into_batches_with_no_row_left_out(forest, rows, pays_from):
    spec = parse_spec(forest.client_json)
    one, many = spec.batches
    spec = replace(spec, batches=(one, replace(many, pays_from=pays_from)))
    found = spec.split(rows)
    room = sum(b.rows for b in found)
    assert rows <= room < rows + 8
    assert room - found[-1].rows < rows  # the last is needed
    assert [b.rows for b in found] == sorted((b.rows for b in found), reverse=True)


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 7},
        {"rows": 1},
        {"rows": 0},
        {"rows": "8"},
        {"rows": 512},
        {"pays_from": 0},
        {"pays_from": 9},
        {"pays_from": 1.5},
        {"function": "other"},
        {"function": []},
        {"ciphertext": {}},
        {"more": 1},
    ],
)
def test_a_changed_batch_is_refused(forest, change):
    value = json.loads(forest.client_json)
    value["batches"][1] |= change
    with pytest.raises(FormatError):
        parse_spec(canonical_json(value))


@pytest.mark.parametrize("batches", [[], {}, [1], "x"])
def test_batches_of_another_shape_are_refused(forest, batches):
    value = json.loads(forest.client_json) | {"batches": batches}
    with pytest.raises(FormatError):
        parse_spec(canonical_json(value))


def test_a_batch_alone_is_refused(forest):
    value = json.loads(forest.client_json)
    with pytest.raises(FormatError):
        parse_spec(canonical_json({**value, "batches": value["batches"][1:]}))
    assert isinstance(parse_spec(forest.client_json).batches[1], Batch)
