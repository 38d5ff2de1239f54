"""One encrypted row of a tree ensemble: Concrete-ML's own serving, and ours.

Both sides are trained on the same rows, at their defaults, and alternate in one run:
- `concrete_ml`: `FHEModelServer.run(ciphertext, key_bytes)`, as its server does;
- `ours`: the node's `Runner.run` on the same row, warm, with keys uploaded before;
- `revealed`: the same with the option `splits` so.
Accuracy is a mean over splits, computed in the clear by circuits that publishing holds
to their encrypted answers; `clear` is the library's own model.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import interleaved
from privacy.activations import activate
from privacy.encoding import Json, unpack
from privacy.fhe import FheClient
from privacy.fhe.draft import choose
from privacy.fhe.quantizers import quantize, raw_outputs
from privacy.fhe.runner import Runner
from privacy.modes import Mode
from privacy.publish import publish
from privacy.trees import ensemble_of

MODELS: dict[str, tuple[str, str, Json]] = {
    "decision tree": ("sklearn.tree", "DecisionTreeClassifier", {"max_depth": 4}),
    "xgboost 20x3": (
        "xgboost",
        "XGBClassifier",
        {"n_estimators": 20, "max_depth": 3},
    ),
    "random forest 20x4": (
        "sklearn.ensemble",
        "RandomForestClassifier",
        {"n_estimators": 20, "max_depth": 4},
    ),
}


def measure(*, quick: bool) -> Json:
    """Return the figures, JSON-ready; see the module."""
    return {name: _model(name, quick=quick) for name in MODELS}


def _model(name: str, *, quick: bool) -> Json:
    module, family, options = MODELS[name]
    options = {**options, "random_state": 0}
    splits = list(_splits(2 if quick else 10))
    mine = [_trained(module, family, options, s) for s in splits]
    theirs = [_trained("concrete.ml.sklearn", family, options, s) for s in splits]
    with tempfile.TemporaryDirectory() as folder:
        calls, sizes = _both(mine[0], theirs[0], splits[0], Path(folder))
        timings = interleaved(calls, times=1 if quick else 3, warm=1)
    found: Json = {
        side: {"latency_s": timings[side].p50, **sizes[side]} for side in timings
    }
    for side in ("ours", "revealed"):
        found[side]["ratio"] = timings["concrete_ml"].p50 / timings[side].p50
    found["splits"] = len(splits)
    labels = {
        "clear": [m.predict(s[1]) for m, s in zip(mine, splits, strict=True)],
        "concrete_ml": [t.predict(s[1]) for t, s in zip(theirs, splits, strict=True)],
        "ours": [_ours(m, s, "hidden") for m, s in zip(mine, splits, strict=True)],
        "revealed": [
            _ours(m, s, "revealed") for m, s in zip(mine, splits, strict=True)
        ],
    }
    found["accuracy"] = {
        side: float(
            np.mean([(a == s[3]).mean() for a, s in zip(each, splits, strict=True)])
        )
        for side, each in labels.items()
    }
    return found


def _splits(count: int) -> Iterator[Any]:
    """Yield training rows, test rows and their labels."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.model_selection import train_test_split

    rows, truth = load_breast_cancer(return_X_y=True)
    rows = rows.astype(np.float32)
    for seed in range(count):
        yield train_test_split(rows, truth, random_state=seed, stratify=truth)


def _trained(module: str, family: str, options: Json, split: Any) -> Any:
    import importlib

    model = getattr(importlib.import_module(module), family)(**options)
    model.fit(split[0], split[2])
    return model


def _both(
    mine: Any, theirs: Any, split: Any, folder: Path
) -> tuple[dict[str, Callable[[], object]], dict[str, Json]]:
    """Return one call a side on the first test row, checked once, and what is sent."""
    row = split[1][:1].astype(np.float64)
    both = {
        "concrete_ml": _their_call(theirs, split, row, folder),
        "ours": _our_call(mine, split, row, folder / "hidden", "hidden"),
        "revealed": _our_call(mine, split, row, folder / "revealed", "revealed"),
    }
    calls = {side: call for side, (call, _) in both.items()}
    return calls, {side: sizes for side, (_, sizes) in both.items()}


def _our_call(
    model: Any, split: Any, row: Any, folder: Path, splits: str
) -> tuple[Callable[[], object], Json]:
    bundle = publish(
        model,
        split[0],
        name="trees",
        store=folder / "models",
        modes=(Mode.FHE,),
        options={Mode.FHE: {"circuit": "fhe-native", "splits": splits}},
    )
    part = bundle.manifest.modes[Mode.FHE]
    if not part.available:
        raise RuntimeError(part.reason)
    keys = FheClient(bundle.path("fhe/client.json").read_bytes()).generate_keys()
    path = folder / "keys"
    path.write_bytes(keys.evaluation_keys())
    runner, blob = Runner(bundle), keys.encrypt(row)
    output = runner.run(blob, path, lambda _: None).output
    keys.decrypt(output, 1)
    sizes = {
        "keys_bytes": path.stat().st_size,
        "input_bytes": len(blob),
        "result_bytes": len(unpack(output, what="output")[0]),
        "circuit": {k: part.params[k] for k in ("n_bits", "bins", "look_ups")},
        "label_agreement": part.accuracy["label_agreement"],
    }
    return lambda: runner.run(blob, path, lambda _: None), sizes


def _their_call(
    model: Any, split: Any, row: Any, folder: Path
) -> tuple[Callable[[], object], Json]:
    from concrete.ml.deployment import FHEModelClient, FHEModelDev, FHEModelServer

    model.compile(split[0])
    FHEModelDev(str(folder / "theirs"), model).save()
    client = FHEModelClient(str(folder / "theirs"), key_dir=str(folder / "secret"))
    client.generate_private_and_evaluation_keys()
    keys = client.get_serialized_evaluation_keys()
    ciphertext = client.quantize_encrypt_serialize(row)
    server = FHEModelServer(str(folder / "theirs"))
    server.load()
    result = server.run(ciphertext, keys)
    client.deserialize_decrypt_dequantize(result)
    sizes = {
        "keys_bytes": len(keys),
        "input_bytes": len(ciphertext),
        "result_bytes": len(result),
    }
    return lambda: server.run(ciphertext, keys), sizes


def _ours(model: Any, split: Any, splits: str) -> Any:
    """Return our circuit's labels on a split's test rows, computed in the clear."""
    ensemble = ensemble_of(model)
    if ensemble is None:
        raise RuntimeError(f"{type(model).__name__} has no trees")
    calibration = split[0].astype(np.float64)
    draft = choose(ensemble, calibration, splits=splits, task="classification")[0]
    bits = quantize(split[1].astype(np.float64), draft.edges)
    raw = raw_outputs(draft.sums(bits), draft.output)
    return activate(raw, ensemble.activation).argmax(axis=1)
