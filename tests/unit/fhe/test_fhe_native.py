"""Tree ensembles as circuits of our own, on the real engine."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pytest
from xgboost import XGBClassifier

from privacy.child import Child
from privacy.encoding import canonical_json, pack, unpack
from privacy.errors import FormatError
from privacy.fhe import FheClient
from privacy.fhe.binning import quantile_edges, threshold_edges
from privacy.fhe.keysets import TREES
from privacy.fhe.runner import Runner
from privacy.fhe.spec import parse_spec
from privacy.trees import ensemble_of

REPOSITORY = Path(__file__).resolve().parents[3]


def answers(published, keys, rows, tmp_path):
    path = tmp_path / "keys"
    path.write_bytes(keys.evaluation_keys())
    runner = Runner(published.bundle)
    output = runner.run(keys.encrypt(rows), path, lambda _: None).output
    return keys.decrypt(output, len(rows))


def test_a_forest_is_published_as_our_own_circuit_and_says_what_it_lost(forest):
    params = forest.result.params
    assert params["circuit"] == parse_spec(forest.client_json).circuit == "fhe-native"
    assert params["splits"] == "hidden"
    assert params["trees"] == 4
    assert params["look_ups"] < 20
    assert params["p_error"] == 2.0**-40
    assert params["keyset"] == TREES[0]
    assert params["batch_rows"] == [1, 8]
    assert "not_fhe_native" not in params
    assert set(params["versions"]) == {"concrete-python"}
    assert params["binned"]["rows"] == forest.result.accuracy["rows"]
    assert params["binned"]["label_agreement"] > 0.95
    assert forest.result.accuracy["label_agreement"] > 0.95


def test_a_forests_two_probabilities_come_from_one_small_ciphertext(
    forest, forest_keys, tmp_path
):
    found = answers(forest, forest_keys, forest.held[:3], tmp_path)
    assert found.shape == (3, 2)
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    assert found.argmax(1).tolist() == forest.clear[:3].argmax(1).tolist()
    # rounding alone, where binning moved no split
    close = np.abs(found - forest.clear[:3]) < 0.02
    assert close.all(axis=1).sum() >= 2
    assert forest.result.cost["output_bytes"] == 2049 * 4


def test_three_classes_give_the_clear_models_margins(margins, forest_keys, tmp_path):
    keys = FheClient(margins.client_json).share_keys(forest_keys)
    found = answers(margins, keys, margins.held[:2], tmp_path)
    steps = parse_spec(margins.client_json).output.scale
    error = np.abs(found - margins.clear[:2])
    assert (error <= np.array(steps) * 2).all()  # of two trees a class
    assert max(steps) < 0.02
    assert margins.result.params["binned"]["max_error"] < 1e-6


def test_a_regression_gives_the_clear_models_values(regression, forest_keys, tmp_path):
    keys = FheClient(regression.client_json).share_keys(forest_keys)
    at = regression.clear[:, 0].argsort()[[0, -1]]
    found = answers(regression, keys, regression.held[at], tmp_path)
    worst = regression.result.accuracy["max_error"]
    assert np.abs(found - regression.clear[at]).max() <= worst
    assert worst < 2 * regression.clear.std()
    assert "label_agreement" not in regression.result.accuracy


def test_a_sum_holds_a_bit_more_than_the_engine_was_told(
    regression, forest_keys, tmp_path
):
    spec = parse_spec(regression.client_json)
    (gate,) = json.loads(spec.program)["circuits"][0]["outputs"]
    told = gate["typeInfo"]["lweCiphertext"]["encoding"]["integer"]["width"]
    assert told == regression.result.params["n_bits"]["sum"] - 1
    keys = FheClient(regression.client_json).share_keys(forest_keys)
    greatest = regression.held[regression.clear[:, 0].argsort()[-1:]]
    ((found,),) = answers(regression, keys, greatest, tmp_path)
    (scale,), (offset,) = spec.output.scale, spec.output.offset
    assert (found - offset) / scale > 1 << told


def test_a_lone_tree_of_many_classes_answers_with_its_leaf(
    lone_tree, forest_keys, tmp_path
):
    params = lone_tree.result.params
    assert (params["answer"], params["keyset"]) == ("leaves", TREES[0])
    assert params["look_ups"] < 8
    steps = parse_spec(lone_tree.client_json).output
    assert len(steps.trees) == 1
    keys = FheClient(lone_tree.client_json).share_keys(forest_keys)
    found = answers(lone_tree, keys, lone_tree.held[:3], tmp_path)
    # splits are the model's own, so all that differs is the rounding of leaves
    assert np.abs(found - lone_tree.clear[:3]).max() < 0.005
    assert lone_tree.result.accuracy["label_agreement"] == 1.0
    assert lone_tree.result.cost["output_bytes"] == 2049 * 4


def test_a_result_that_names_no_leaf_is_refused(lone_tree, forest_keys, tmp_path):
    """As a look-up that erred may give, or a node that made up a ciphertext."""
    raw = json.loads(lone_tree.client_json)
    (table,) = raw["output"]["trees"]
    table["numbers"] = [-1] * len(table["numbers"])
    keys = FheClient(canonical_json(raw)).share_keys(forest_keys)
    with pytest.raises(FormatError, match="names no leaf") as caught:
        answers(lone_tree, keys, lone_tree.held[:1], tmp_path)
    assert caught.value.code == "fhe-result-mismatch"


def test_hidden_splits_send_quantiles_whatever_the_model(forest):
    calibration = np.load(forest.request.calibration).astype(np.float64)
    bins = forest.result.params["bins"]
    assert parse_spec(forest.client_json).quantizers == quantile_edges(
        calibration, bins
    )


def test_revealed_splits_send_the_models_thresholds(margins):
    ensemble = ensemble_of(joblib.load(margins.request.estimator))
    assert parse_spec(margins.client_json).quantizers == threshold_edges(ensemble, 13)


def test_neither_client_nor_node_loads_a_compiler(forest, tmp_path):
    np.save(tmp_path / "rows.npy", forest.held[:1])
    code = """
import sys
from pathlib import Path
import numpy as np
from privacy.bundle import open_bundle
from privacy.fhe import FheClient
from privacy.fhe.keysets import TREES
from privacy.fhe.runner import Runner
root, scratch = Path(sys.argv[1]), Path(sys.argv[2])
keys = FheClient((root / "fhe" / "client.json").read_bytes()).generate_keys()
(scratch / "keys").write_bytes(keys.evaluation_keys())
blob = keys.encrypt(np.load(scratch / "rows.npy"))
output = Runner(open_bundle(root)).run(blob, scratch / "keys", lambda _: None).output
assert keys.decrypt(output, 1).shape == (1, 2)
heavy = {"torch", "sklearn", "xgboost", "concrete.ml", "concrete.fhe", "onnx"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(forest.bundle.root), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
    )
    assert done.stdout.strip() == "[]"


def test_hostile_bytes_are_refused_or_run_and_never_kill_the_worker(
    forest, forest_keys, tmp_path
):
    spec = parse_spec(forest.client_json)
    (frame,) = unpack(forest_keys.encrypt(forest.held[:1]), what="input")
    whole = forest_keys.evaluation_keys()
    with Child(
        "tests.unit.fhe.fhe_worker:handler", env={"PYTHONPATH": str(REPOSITORY)}
    ) as worker:

        def job(ciphertext, keys):
            (tmp_path / "input").write_bytes(pack([ciphertext]))
            (tmp_path / "keys").write_bytes(keys)
            paths = {n: str(tmp_path / n) for n in ("input", "keys", "output")}
            worker.call({"bundle": str(forest.bundle.root), **paths}, timeout_s=60)
            return (tmp_path / "output").read_bytes()

        hostile = [b"", frame[:-8], frame + bytes(8), bytes(len(frame))]
        hostile += [
            _flipped(frame, at * 8) for at, _ in spec.batches[0].ciphertext.words
        ]
        for ciphertext in hostile:
            with pytest.raises(FormatError, match="encrypt for forest 1"):
                job(ciphertext, whole)
        for keys in (whole[:-8], bytes(len(whole))):
            with pytest.raises(FormatError, match="make keys for forest 1"):
                job(frame, keys)
        for seed in range(3):
            scrambled = _scrambled(frame, spec.batches[0].ciphertext, seed)
            output = job(scrambled, whole)
            assert forest_keys.decrypt(output, 1).shape == (1, 2)
        assert worker.alive


def _flipped(raw, at):
    changed = bytearray(raw)
    changed[at] ^= 1
    return bytes(changed)


def _scrambled(raw, template, seed):
    words = np.random.default_rng(seed).integers(
        0, 2**64, size=len(raw) // 8, dtype=np.uint64
    )
    for at, value in template.words:
        words[at] = value
    return words.tobytes()


# What cannot be one


def part(publisher, request, tmp_path, **options):
    out = tmp_path / "out"
    out.mkdir()
    request = replace(request, out=out, options={"engine_rows": 1, **options})
    return publisher.call(request.to_json(), timeout_s=200), out


def test_a_linear_model_is_refused_where_only_our_own_circuits_are_wanted(
    linear, publisher, tmp_path
):
    answer, _ = part(publisher, linear.request, tmp_path, circuit="fhe-native")
    assert answer["available"] is False
    assert "LogisticRegression is no ensemble of trees" in answer["reason"]


@pytest.mark.slow
def test_trees_we_cannot_express_fall_back_to_concrete_ml_with_the_reason(
    data, tree, publisher, tmp_path
):
    model = XGBClassifier(n_estimators=1, max_depth=1, objective="binary:hinge")
    model.fit(data[0], data[2])
    joblib.dump(model, tmp_path / "model.joblib")
    clear = np.asarray(model.predict(data[1], output_margin=True), np.float64)
    np.save(tmp_path / "clear.npy", clear.reshape(-1, 1))
    request = replace(
        tree.request,
        estimator=tmp_path / "model.joblib",
        clear=tmp_path / "clear.npy",
        outputs=1,
        activation="sigmoid",
    )
    answer, out = part(publisher, request, tmp_path, n_bits=3)
    assert answer["available"] is True, answer["reason"]
    assert answer["params"]["circuit"] == "concrete-ml"
    assert "objective binary:hinge" in answer["params"]["not_fhe_native"]
    spec = json.loads((out / "client.json").read_bytes())
    assert spec["circuit"] == "concrete-ml"


def test_a_gate_that_both_circuits_fail_names_both_and_leaves_no_files(
    tree, publisher, tmp_path
):
    answer, out = part(publisher, tree.request, tmp_path, n_bits=3, max_keys_bytes=9)
    assert answer["available"] is False
    assert answer["reason"].count("evaluation keys take about") == 2
    assert list(out.iterdir()) == []
