"""One logistic regression published for real, a second one, and a job on the first."""

import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privacy.bundle import (
    Bundle,
    Column,
    Manifest,
    ModePart,
    list_files,
    write_manifest,
)
from privacy.child import Child, run_in_child
from privacy.publishing import TOOL, PartRequest
from privacy.zkml import make_input

_FEATURES = 30
ONE = {
    "scale_bits": 9,
    "decomp_base": 512,
    "decomp_legs": 3,
    "num_inner_cols": 1,
    "scale_rebase_multiplier": 1,
    "logrows": 12,
}
"""A circuit that needs no search."""


@dataclass(frozen=True)
class Linear:
    """A linear model on standardised breast-cancer data, with its request's files."""

    folder: Path
    weights: Any
    bias: float
    rows: Any

    def clear(self, rows: Any) -> Any:
        return rows @ self.weights[:, None] + self.bias

    def request(self, out: Path, **options: Any) -> dict[str, Any]:
        out.mkdir(parents=True, exist_ok=True)
        return PartRequest(
            out=out,
            onnx=self.folder / "model.onnx",
            estimator=None,
            calibration=self.folder / "calibration.npy",
            held=self.folder / "held.npy",
            clear=self.folder / "clear.npy",
            outputs=1,
            activation="sigmoid",
            task="classification",
            options=options,
        ).to_json()


@dataclass(frozen=True)
class Job:
    """A finished job: rows, and what the node gave back."""

    rows: Any
    output: bytes
    evidence: bytes

    def proofs(self) -> list[dict[str, Any]]:
        proofs: list[dict[str, Any]] = json.loads(self.evidence)["proofs"]
        return proofs


class Node:
    """The gateway's own worker process, holding one bundle."""

    def __init__(self, child: Child, bundle: Bundle, folder: Path) -> None:
        self._child, self._bundle, self._folder = child, bundle, folder
        self.progress: list[dict[str, Any]] = []
        self.timeout_s = 200.0

    def run_blob(self, blob: bytes, *, bundle: Bundle | None = None) -> Job:
        used = bundle or self._bundle
        paths = {n: self._folder / n for n in ("input", "output", "evidence")}
        paths["input"].write_bytes(blob)
        self.progress.clear()
        answer = self._child.call(
            {
                "mode": "zkml",
                "bundle": str(used.root),
                "model_sha256": used.sha256,
                "publisher": "",
                "keys": None,
                "rows": None,
                **{n: str(p) for n, p in paths.items()},
            },
            timeout_s=self.timeout_s,
            progress=self.progress.append,
        )
        assert answer["evidence_kind"] == "proof"
        return Job(None, paths["output"].read_bytes(), paths["evidence"].read_bytes())

    def run(self, rows: Any, *, bundle: Bundle | None = None) -> Job:
        job = self.run_blob(make_input(rows, salt=bytes(32)), bundle=bundle)
        return Job(rows, job.output, job.evidence)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def rows() -> Any:
    from sklearn.datasets import load_breast_cancer

    x, _ = load_breast_cancer(return_X_y=True)
    return ((x - x.mean(axis=0)) / x.std(axis=0)).astype(np.float32)


@pytest.fixture(scope="session")
def linear(rows: Any, tmp_path_factory: pytest.TempPathFactory) -> Linear:
    from sklearn.datasets import load_breast_cancer
    from sklearn.linear_model import LogisticRegression

    y = load_breast_cancer().target
    fitted = LogisticRegression().fit(rows[:400], y[:400])
    weights = fitted.coef_[0].astype(np.float32)
    folder = tmp_path_factory.mktemp("linear")
    return _export(folder, weights, float(fitted.intercept_[0]), rows)


@pytest.fixture(scope="session")
def other_linear(
    linear: Linear, rows: Any, tmp_path_factory: pytest.TempPathFactory
) -> Linear:
    """Another model of the same shape."""
    return _export(tmp_path_factory.mktemp("other"), -linear.weights, 0.5, rows)


def _export(folder: Path, weights: Any, bias: float, rows: Any) -> Linear:
    import torch

    layer = torch.nn.Linear(_FEATURES, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weights)[None])
        layer.bias.fill_(bias)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            layer,
            (torch.zeros(1, _FEATURES),),
            str(folder / "model.onnx"),
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "rows"}, "y": {0: "rows"}},
        )
    model = Linear(folder, weights, bias, rows)
    np.save(folder / "calibration.npy", rows[:100])
    np.save(folder / "held.npy", rows[500:530])
    np.save(folder / "clear.npy", model.clear(rows[500:530]).astype(np.float64))
    return model


def make_bundle(root: Path, model: Linear, **options: Any) -> Bundle:
    """Publish the zkml part of a model, and the manifest around it."""
    result = run_in_child(
        "privacy.zkml.publish:handler",
        model.request(root / "zkml", **options),
        timeout_s=280,
    )
    assert result["available"], result["reason"]
    public = frozenset(f"zkml/{name}" for name in result.pop("public"))
    manifest = Manifest(
        name="linear",
        version="1",
        task="classification",
        columns=tuple(Column(f"x{i}", -9, 9) for i in range(_FEATURES)),
        outputs=1,
        activation="sigmoid",
        classes=("malignant", "benign"),
        clear_accuracy={},
        modes={"zkml": ModePart(**result)},
        files=list_files(root, public),
        published_at="2026-01-01T00:00:00Z",
        tool=TOOL,
    )
    return write_manifest(root, manifest)


@pytest.fixture(scope="session")
def bundle_of() -> Callable[..., Bundle]:
    return make_bundle


@pytest.fixture(scope="session")
def bundle(linear: Linear, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle"), linear)


@pytest.fixture(scope="session")
def other_bundle(
    other_linear: Linear, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """Published apart, but sharing the development SRS."""
    return make_bundle(tmp_path_factory.mktemp("other-bundle"), other_linear)


@pytest.fixture(scope="session")
def salted(linear: Linear, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    root = tmp_path_factory.mktemp("salted")
    return make_bundle(root, linear, settings=[ONE], salt=True)


@pytest.fixture(scope="session")
def node(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with Child("gateway.executors.worker:handler") as child:
        yield Node(child, bundle, tmp_path_factory.mktemp("node"))


@pytest.fixture(scope="session")
def job(node: Node, rows: Any) -> Job:
    return node.run(rows[540:542])
