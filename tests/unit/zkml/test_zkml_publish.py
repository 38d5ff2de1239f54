"""Publishing with the real engine: what is written, and what is refused."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privacy.bundle import Bundle
from privacy.child import run_in_child
from privacy.encoding import sha256_file
from privacy.errors import FormatError
from privacy.publishing import PartRequest
from privacy.zkml import parse_params
from privacy.zkml.system import Visibility

_COARSE = {
    "scale_bits": 1,
    "decomp_base": 1024,
    "decomp_legs": 2,
    "num_inner_cols": 1,
    "scale_rebase_multiplier": 1,
    "logrows": 11,
}


def publish(request: dict[str, Any]) -> dict[str, Any]:
    return run_in_child("privacy.zkml.publish:handler", request, timeout_s=120)


def test_a_published_part_says_what_it_is(bundle: Bundle) -> None:
    part = bundle.manifest.modes["zkml"]
    params = parse_params(part.params)
    assert params.features == 30
    assert params.instances == ("poseidon(input)", "output 1")
    assert params.visibility == Visibility(input="hashed", params="fixed")
    assert set(params.verifier_learns) == {"input", "output", "model"}
    assert params.srs.kind == "development"
    assert params.insecure_srs
    assert params.onnx_sha256 == sha256_file(bundle.root / "zkml/model.onnx")
    assert params.srs.sha256 == sha256_file(bundle.root / "zkml/kzg.srs")
    assert part.accuracy["label_agreement"] == 1.0
    assert part.accuracy["max_error"] < 0.01
    assert 0 < part.cost["verify_s"] < part.cost["latency_s"]
    pk = (bundle.root / "zkml/pk.key").stat().st_size
    assert part.cost["proving_key_bytes"] == pk


def test_clients_get_little_and_no_proving_key(bundle: Bundle) -> None:
    public = {n for n, e in bundle.manifest.files.items() if e.public}
    assert public == {"zkml/settings.json", "zkml/vk.key", "zkml/verifier.srs"}
    assert sum(bundle.manifest.files[n].bytes for n in public) < 20_000


def test_the_declared_range_is_wider_than_every_sample(
    bundle: Bundle, rows: Any
) -> None:
    params = parse_params(bundle.manifest.modes["zkml"].params)
    assert (rows[:100].min(axis=0) > params.input_minimum).all()
    assert (rows[:100].max(axis=0) < params.input_maximum).all()


def test_the_gate_refuses_a_coarse_circuit_and_leaves_nothing(
    linear: Any, tmp_path: Path
) -> None:
    result = publish(linear.request(tmp_path / "out", settings=[_COARSE]))
    assert not result["available"]
    assert "99% are needed" in result["reason"] or "90% are needed" in result["reason"]
    assert "base 1024^2" in result["reason"]
    assert not list((tmp_path / "out").iterdir())


def test_the_gate_refuses_a_model_that_is_not_the_clear_one(
    linear: Any, tmp_path: Path
) -> None:
    """The held rows' clear outputs belong to another model: nothing may pass."""
    request = linear.request(tmp_path / "out")
    np.save(tmp_path / "clear.npy", -np.load(request["clear"]))
    result = publish({**request, "clear": str(tmp_path / "clear.npy")})
    assert not result["available"]
    assert "keep their label" in result["reason"]


@pytest.mark.parametrize(
    "options",
    [
        {"fast": True},
        {"srs": 7},
        {"settings": [{"scale_bits": 9}]},
        {"settings": [{**_COARSE, "decomp_base": 0}]},
        {"settings": [{**_COARSE, "logrows": 30}]},
        {"settings": [{**_COARSE, "disable_freivalds": 1}]},
        {"settings": 7},
        {"objective": "fame"},
        {"memory_bytes": "much"},
        {"srs": "/nowhere/kzg.srs"},
    ],
)
def test_unusable_options_are_refused(
    linear: Any, tmp_path: Path, options: dict[str, Any]
) -> None:
    result = publish(linear.request(tmp_path / "out", **options))
    assert not result["available"]
    assert "zkml" in result["reason"] or "SRS" in result["reason"]


def test_a_model_the_engine_cannot_express_says_so(linear: Any, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(linear.folder / "model.onnx")
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "odd.onnx")
    request = linear.request(tmp_path / "out")
    result = publish({**request, "onnx": str(tmp_path / "odd.onnx")})
    assert not result["available"]
    assert result["reason"]


@pytest.mark.slow
def test_a_small_forest_is_published(rows: Any, tmp_path: Path) -> None:
    """Trees arrive as hummingbird writes them: comparisons, gathers, products."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.ensemble import RandomForestClassifier

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import hummingbird.ml
        import onnx
        import onnx.utils
        import torch

        y = load_breast_cancer().target
        forest = RandomForestClassifier(20, max_depth=4, random_state=0)
        forest.fit(rows[:400], y[:400])
        made = hummingbird.ml.convert(forest, "torch", rows[:1])
        torch.onnx.export(
            made.model,
            (torch.zeros(1, 30),),
            str(tmp_path / "whole.onnx"),
            input_names=["x"],
            dynamic_axes={"x": {0: "rows"}},
        )
    whole = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "whole.onnx"))
    (label,) = (n for n in whole.graph.node if n.op_type == "ArgMax")
    core = onnx.utils.Extractor(whole).extract_model(["x"], [label.input[0]])
    onnx.save(core, tmp_path / "forest.onnx")
    np.save(tmp_path / "calibration.npy", rows[:100])
    np.save(tmp_path / "held.npy", rows[450:550])
    np.save(tmp_path / "clear.npy", forest.predict_proba(rows[450:550]))
    (tmp_path / "out").mkdir()
    result = publish(
        PartRequest(
            out=tmp_path / "out",
            onnx=tmp_path / "forest.onnx",
            estimator=None,
            calibration=tmp_path / "calibration.npy",
            held=tmp_path / "held.npy",
            clear=tmp_path / "clear.npy",
            outputs=2,
            activation="none",
            task="classification",
            options={},
        ).to_json()
    )
    assert result["available"], result["reason"]
    assert result["accuracy"]["label_agreement"] >= 0.99


def test_params_refuse_contradictions(bundle: Bundle) -> None:
    good = bundle.manifest.modes["zkml"].params
    for change in (
        {"features": 29},
        {"outputs": 2},
        {"input_scale_bits": 500},
        {"input_scale_bits": "10"},
        {"system": "other"},
        {"proof_bytes": None},
        {"input_minimum": ["a"] * 30},
        {"input_offset": [0.0] * 29},
        {"input_scale": [0.0] * 30},
        {"srs": {"kind": "trusted", "logrows": 11, "sha256": "0" * 64}},
        {"srs": {**good["srs"], "sha256": "0"}},
        {"srs": None},
        {"insecure_srs": False},
        {"insecure_srs": 1},
        {"srs": {**good["srs"], "kind": "public"}},
        {"onnx_sha256": "0"},
        {"unknown": 1},
    ):
        with pytest.raises(FormatError):
            parse_params({**good, **change})
    with pytest.raises(FormatError):
        parse_params({k: v for k, v in good.items() if k != "srs"})
