"""Encrypted rows of tree ensembles: Concrete-ML's own serving, and ours.

Four sets of data that scikit-learn carries; both sides are trained on the same rows, at
their defaults, and run on this machine one after the other:
- `concrete_ml`: `FHEModelServer.run(ciphertext, key_bytes)`, as its server does, at our
  chance of error, 2**-40; a single timed run where it takes long, and none where its
  compiler's cost estimate, at the best pace of the runs before, says over ten minutes:
  then that estimate stands for it;
- `hidden`, `revealed`, `leaves`: the node's `Runner.run`, warm, in a process made as a
  node makes its workers (whose keys lie in large pages), by the option `splits`,
  and for forests of many classes with hidden splits and option `answer` `leaves`; one
  row, and eight in a job (seconds are always for a row; circuits too large for batches
  take rows one by one).
One key serves all of our models of a key set; `key_sets` has their sizes. Concrete-ML
has no extra trees and no gradient boosting, so there only ours is shown.

Scores are means over splits: labels right, or for regression R2; computed in the clear
by circuits that publishing holds to their encrypted answers, with the narrowest sums
that may be chosen. `clear` is the library's
own model; `lost` says how far below it we are, in points.
"""

import importlib
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Timing, named
from privacy.activations import activate
from privacy.child import Child
from privacy.encoding import Json, unpack
from privacy.fhe import ClientKeys, FheClient
from privacy.fhe.quantizers import quantize, raw_outputs
from privacy.fhe.tree_choice import choose
from privacy.modes import Mode
from privacy.publish import publish
from privacy.trees import ensemble_of

DATA = {
    "breast cancer": "load_breast_cancer",
    "digits": "load_digits",
    "wine": "load_wine",
    "diabetes": "load_diabetes",
}
_TREES = {"n_estimators": 20, "max_depth": 4}
_BOOSTED = {"n_estimators": 20, "max_depth": 3}
MODELS: dict[str, tuple[str, str, Json]] = {
    "decision tree": ("sklearn.tree", "DecisionTree", {"max_depth": 4}),
    "xgboost 20x3": ("xgboost", "XGB", _BOOSTED),
    "random forest 20x4": ("sklearn.ensemble", "RandomForest", _TREES),
    "extra trees 20x4": ("sklearn.ensemble", "ExtraTrees", _TREES),
    "gradient boosting 20x3": ("sklearn.ensemble", "GradientBoosting", _BOOSTED),
}
SIDES: dict[str, Json] = {
    "hidden": {"splits": "hidden"},
    "revealed": {"splits": "revealed"},
    "leaves": {"splits": "hidden", "answer": "leaves"},
}
_FORESTS = {"RandomForest", "ExtraTrees"}
_THEIRS = {"DecisionTree", "XGB", "RandomForest"}
_BATCH = 8
_LONG_S = 5.0
_TOO_LONG_S = 600.0
_SERVED_S = 1800.0


def measure(*, quick: bool, only: Sequence[str] = ()) -> Json:
    """Return the figures, JSON-ready; see the module.

    Args:
        quick: Two splits, and of one set of data if none is named.
        only: Words in the names of the sets of data wanted; all if there are none.
    """
    few = named(DATA, only=only or (["breast cancer"] if quick else []))
    key_sets, pace = _KeySets(), _Pace()
    found: Json = {}
    with tempfile.TemporaryDirectory() as folder:
        for data in few:
            splits = list(_splits(data, 2 if quick else 10))
            found[data] = {}
            for at, name in enumerate(MODELS):
                print(f"{data}: {name}", file=sys.stderr, flush=True)
                own = Path(folder) / f"{data}-{at}".replace(" ", "-")
                found[data][name] = _model(
                    name, splits, own, key_sets, pace, quick=quick
                )
    return {"models": found, "key_sets": key_sets.sizes, "splits": len(splits)}


@dataclass(slots=True)
class _Pace:
    """The least seconds that its runs took for each unit of estimated cost."""

    least: float = math.inf

    def of(self, cost: float) -> float:
        """Return the least seconds that so much is likely to take, 0 if unknown."""
        return 0.0 if math.isinf(self.least) else cost * self.least


@dataclass(slots=True)
class _KeySets:
    """One client's keys, by key set."""

    made: dict[str, ClientKeys] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def keys(self, client: FheClient, name: str) -> ClientKeys:
        """Return keys for a model, made if none of its key set are there."""
        if client.keyset_sha256 not in self.made:
            keys = self.made[client.keyset_sha256] = client.generate_keys()
            self.sizes[name] = len(keys.evaluation_keys())
        return client.share_keys(self.made[client.keyset_sha256])


@dataclass(frozen=True, slots=True)
class _Split:
    train: Any
    test: Any
    train_truth: Any
    test_truth: Any

    @property
    def is_regression(self) -> bool:
        return np.asarray(self.train_truth).dtype.kind == "f"


def _splits(data: str, count: int) -> Iterator[_Split]:
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    rows, truth = getattr(datasets, DATA[data])(return_X_y=True)
    rows, stratify = rows.astype(np.float32), None if data == "diabetes" else truth
    for seed in range(count):
        yield _Split(
            *train_test_split(rows, truth, random_state=seed, stratify=stratify)
        )


def _model(
    name: str,
    splits: list[_Split],
    folder: Path,
    key_sets: _KeySets,
    pace: _Pace,
    *,
    quick: bool,
) -> Json:
    module, family, options = MODELS[name]
    kind = "Regressor" if splits[0].is_regression else "Classifier"
    options = {**options, "random_state": 0}
    mine = [_trained(module, family + kind, options, s) for s in splits]
    sides: dict[str, Json] = {}
    for side in _sides_of(family, splits[0]):
        sides[side] = _our_side(mine[0], splits[0], folder, side, key_sets, quick=quick)
        scores = [_our_score(m, s, side) for m, s in zip(mine, splits, strict=True)]
        sides[side]["score"] = float(np.mean(scores))
    clear = [_score(m.predict(s.test), s) for m, s in zip(mine, splits, strict=True)]
    found: Json = {"clear": float(np.mean(clear)), **sides}
    if family in _THEIRS:
        theirs = [
            _trained("concrete.ml.sklearn", family + kind, options, s) for s in splits
        ]
        found["concrete_ml"] = _their_side(theirs[0], splits[0], folder, pace)
        scores = [
            _score(t.predict(s.test), s) for t, s in zip(theirs, splits, strict=True)
        ]
        found["concrete_ml"]["score"] = float(np.mean(scores))
    for side in sides:
        found[side]["lost"] = 100 * (found["clear"] - found[side]["score"])
        if family in _THEIRS:
            base = found["concrete_ml"]
            for key in ("latency_s", "batch_latency_s"):
                ratio = base["latency_s"] / found[side][key]
                found[side][key.replace("latency_s", "ratio")] = ratio
            if "result_bytes" in base:
                smaller = base["result_bytes"] / found[side]["result_bytes"]
                found[side]["result_ratio"] = smaller
    return found


def _sides_of(family: str, split: _Split) -> list[str]:
    classes = 0 if split.is_regression else len(np.unique(split.train_truth))
    with_leaves = family in _FORESTS and classes > 2  # noqa: PLR2004 - two are one sum
    return [side for side in SIDES if side != "leaves" or with_leaves]


def _trained(module: str, family: str, options: Json, split: _Split) -> Any:
    model = getattr(importlib.import_module(module), family)(**options)
    model.fit(split.train, split.train_truth)
    return model


def _our_side(
    model: Any,
    split: _Split,
    folder: Path,
    side: str,
    key_sets: _KeySets,
    *,
    quick: bool,
) -> Json:
    folder = folder / side
    bundle = publish(
        model,
        split.train,
        name="trees",
        store=folder / "models",
        modes=(Mode.FHE,),
        options={Mode.FHE: {"circuit": "fhe-native", **SIDES[side]}},
    )
    part = bundle.manifest.modes[Mode.FHE]
    if not part.available:
        raise RuntimeError(part.reason)
    client = FheClient(bundle.path("fhe/client.json").read_bytes())
    keys, path = key_sets.keys(client, part.params["keyset"]), folder / "keys"
    path.write_bytes(keys.evaluation_keys())
    rows = split.test[:_BATCH].astype(np.float64)
    batched = _BATCH in part.params["batch_rows"]
    for count in (1, _BATCH) if batched else (1,):
        (folder / str(count)).write_bytes(keys.encrypt(rows[:count]))
    request: Json = {"bundle": str(bundle.root), "keys": str(path)}
    request |= {"folder": str(folder), "times": 3 if quick else 5}
    request["blobs"] = ["1", str(_BATCH)] if batched else ["1"]
    with Child("benchmarks.fhe_served:handler") as worker:
        served = worker.call(request, timeout_s=_SERVED_S)
    output = (folder / "output").read_bytes()
    keys.decrypt(output, 1)
    timings = {name: Timing(tuple(took)) for name, took in served.items()}
    wanted = ("n_bits", "bins", "look_ups", "input_bits", "keyset", "batch_rows")
    return {
        "latency_s": timings["1"].p50,
        "batch_latency_s": (
            timings[str(_BATCH)].p50 / _BATCH if batched else timings["1"].p50
        ),
        "keys_bytes": path.stat().st_size,
        "input_bytes": len(unpack(keys.encrypt(rows[:1]), what="input")[0]),
        "result_bytes": len(unpack(output, what="output")[0]),
        "circuit": {k: part.params[k] for k in wanted},
        "label_agreement": part.accuracy.get("label_agreement"),
    }


def _their_side(model: Any, split: _Split, folder: Path, pace: _Pace) -> Json:
    from concrete.ml.deployment import FHEModelClient, FHEModelDev, FHEModelServer

    cost = model.compile(split.train, p_error=2.0**-40).complexity
    if pace.of(cost) > _TOO_LONG_S:
        return {"latency_s": pace.of(cost), "estimated": True}
    FHEModelDev(str(folder / "theirs"), model).save()
    client = FHEModelClient(str(folder / "theirs"), key_dir=str(folder / "secret"))
    client.generate_private_and_evaluation_keys()
    keys = client.get_serialized_evaluation_keys()
    ciphertext = client.quantize_encrypt_serialize(split.test[:1].astype(np.float64))
    server = FHEModelServer(str(folder / "theirs"))
    server.load()
    seconds: list[float] = []
    while not seconds or (len(seconds) < 3 and seconds[0] < _LONG_S):  # noqa: PLR2004
        started = time.perf_counter()
        result = server.run(ciphertext, keys)
        seconds.append(time.perf_counter() - started)
    client.deserialize_decrypt_dequantize(result)
    pace.least = min(pace.least, float(np.median(seconds)) / cost)
    return {
        "latency_s": float(np.median(seconds)),
        "keys_bytes": len(keys),
        "input_bytes": len(ciphertext),
        "result_bytes": len(result),
    }


def _our_score(model: Any, split: _Split, side: str) -> float:
    """Return our circuit's score on a split's test rows, computed in the clear."""
    ensemble = ensemble_of(model)
    if ensemble is None:
        raise RuntimeError(f"{type(model).__name__} has no trees")
    task = "regression" if split.is_regression else "classification"
    calibration = split.train.astype(np.float64)
    draft = choose(ensemble, calibration, task=task, **SIDES[side])[0]
    bits = quantize(split.test.astype(np.float64), draft.edges)
    raw = raw_outputs(draft.sums(bits), draft.output)
    answer = activate(raw, ensemble.activation)
    return _score(answer[:, 0] if split.is_regression else answer.argmax(axis=1), split)


def _score(answer: Any, split: _Split) -> float:
    """Return the share of labels that are right, or R2."""
    truth = split.test_truth
    if not split.is_regression:
        return float((answer == truth).mean())
    return float(1 - np.mean((answer - truth) ** 2) / np.var(truth))
