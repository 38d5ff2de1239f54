"""One encrypted row of a small network: Concrete-ML's own serving, and ours.

The network (30-8-2, ReLU, breast cancer) is trained once a split and quantized after
training by both sides, which alternate in one run on the same row:
- `concrete_ml`: 5 bits, no rounding, `FHEModelServer.run(ciphertext, key_bytes)`; its
  default of 8 bits does not compile;
- `ours`: the node's `Runner.run`, warm, with keys uploaded before, at 2**-40;
- `fast`: the same with the `p_error` of `--fast`.
Accuracy is a mean over splits, computed in the clear by circuits that publishing holds
to their encrypted answers; `clear` is the network itself.
"""

import csv
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.measure import interleaved
from privacy.cli.output import size
from privacy.encoding import Json, unpack
from privacy.fhe import FheClient
from privacy.fhe.dense import forward, read_dense
from privacy.fhe.dense_choice import choose_dense, fit_dense, mirrors
from privacy.fhe.options import FAST_P_ERROR
from privacy.fhe.runner import Runner
from privacy.fhe.yardstick import Yardstick
from privacy.modes import Mode
from privacy.publish import publish

HIDDEN = 8
BASELINE_BITS = 5
_STEPS = 200


@dataclass(frozen=True, slots=True)
class _Split:
    """Standardised rows, labels, and the network trained on the first of them."""

    seen: Any
    kept: Any
    seen_truth: Any
    kept_truth: Any
    network: Any


def measure(*, quick: bool) -> Json:
    """Return the figures, JSON-ready; see the module."""
    splits = [_split(seed) for seed in range(2 if quick else 10)]
    calls: dict[str, Callable[[], object]] = {}
    found: Json = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for side, options in (("ours", {}), ("fast", {"p_error": FAST_P_ERROR})):
            calls[side], found[side] = _our_call(splits[0], root / side, options)
        calls["concrete_ml"], found["concrete_ml"] = _their_call(
            splits[0], root / "theirs"
        )
        timings = interleaved(calls, times=1 if quick else 3, warm=1)
    baseline = timings["concrete_ml"].p50
    for side, timing in timings.items():
        found[side]["latency_s"] = timing.p50
        found[side]["ratio"] = baseline / timing.p50
    found["splits"] = len(splits)
    found["accuracy"] = {
        "clear": _mean([_labels(_clear(s)(s.kept)) == s.kept_truth for s in splits]),
        "concrete_ml": _mean([_theirs(s) == s.kept_truth for s in splits]),
        "ours": _mean([_ours(s) == s.kept_truth for s in splits]),
    }
    return found


def show(found: Json) -> None:
    """Print the figures."""
    grid = Table(title="network 30-8-2, breast cancer, one encrypted row")
    columns = ("side", "seconds", "times", "keys", "input", "result", "right")
    for column in columns:
        grid.add_column(column, justify="right")
    right = {**found["accuracy"], "fast": found["accuracy"]["ours"]}
    for side in ("concrete_ml", "ours", "fast"):
        own = found[side]
        grid.add_row(
            side,
            f"{own['latency_s']:.3f}",
            f"{own['ratio']:.1f}",
            size(own["keys_bytes"]),
            size(own["input_bytes"]),
            size(own["result_bytes"]),
            f"{right[side]:.3f}",
        )
    Console().print(grid)
    splits, clear = found["splits"], found["accuracy"]["clear"]
    Console().print(f"accuracy over {splits} splits; clear {clear:.3f}")


def _split(seed: int) -> _Split:
    import torch
    from sklearn.datasets import load_breast_cancer
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    rows, truth = load_breast_cancer(return_X_y=True)
    seen, kept, seen_truth, kept_truth = train_test_split(
        rows, truth, random_state=seed, stratify=truth
    )
    scaler = StandardScaler().fit(seen)
    seen, kept = (scaler.transform(r).astype(np.float32) for r in (seen, kept))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = torch.nn.Sequential(
            torch.nn.Linear(seen.shape[1], HIDDEN),
            torch.nn.ReLU(),
            torch.nn.Linear(HIDDEN, 2),
        )
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02, weight_decay=1e-3)
    for _ in range(_STEPS):
        optimizer.zero_grad()
        outputs = network(torch.tensor(seen))
        torch.nn.functional.cross_entropy(outputs, torch.tensor(seen_truth)).backward()
        optimizer.step()
    return _Split(seen, kept, seen_truth, kept_truth, network.eval())


def _clear(split: _Split) -> Callable[[Any], Any]:
    import torch

    def outputs(rows: Any) -> Any:
        with torch.no_grad():
            return split.network(torch.tensor(rows)).numpy()

    return outputs


def _labels(outputs: Any) -> Any:
    return np.asarray(outputs).argmax(axis=1)


def _mean(right: list[Any]) -> float:
    return float(np.mean([r.mean() for r in right]))


def _our_call(
    split: _Split, folder: Path, options: Json
) -> tuple[Callable[[], object], Json]:
    import torch

    folder.mkdir()
    model, table = folder / "network.pt", folder / "rows.csv"
    traced = torch.jit.trace(split.network, torch.tensor(split.seen[:2]))
    torch.jit.save(traced, str(model))
    with table.open("w", newline="") as file:
        names = [f"x{i}" for i in range(split.seen.shape[1])]
        rows = zip(split.seen.tolist(), split.seen_truth.tolist(), strict=True)
        csv.writer(file).writerows([[*names, "y"], *([*r, y] for r, y in rows)])
    bundle = publish(
        model,
        table,
        name="network",
        store=folder / "models",
        modes=(Mode.FHE,),
        label="y",
        task="classification",
        activation="softmax",
        options={Mode.FHE: {"circuit": "fhe-native", **options}},
        home=folder / "home",
    )
    part = bundle.manifest.modes[Mode.FHE]
    if not part.available:
        raise RuntimeError(part.reason)
    keys = FheClient(bundle.path("fhe/client.json").read_bytes()).generate_keys()
    path = folder / "keys"
    path.write_bytes(keys.evaluation_keys())
    runner, blob = Runner(bundle), keys.encrypt(split.kept[:1].astype(np.float64))
    output = runner.run(blob, path, lambda _: None).output
    keys.decrypt(output, 1)
    sizes = {
        "keys_bytes": path.stat().st_size,
        "input_bytes": len(blob),
        "result_bytes": len(unpack(output, what="output")[0]),
        "circuit": {k: part.params[k] for k in ("n_bits", "clip", "look_ups")},
        "p_error": part.params["p_error"],
        "label_agreement": part.accuracy["label_agreement"],
    }
    return lambda: runner.run(blob, path, lambda _: None), sizes


def _their_call(split: _Split, folder: Path) -> tuple[Callable[[], object], Json]:
    from concrete.ml.deployment import FHEModelClient, FHEModelDev, FHEModelServer
    from concrete.ml.torch.compile import compile_torch_model

    module = compile_torch_model(
        split.network, split.seen, n_bits=BASELINE_BITS, p_error=2.0**-40
    )
    FHEModelDev(str(folder), module).save()
    client = FHEModelClient(str(folder), key_dir=str(folder / "secret"))
    client.generate_private_and_evaluation_keys()
    keys = client.get_serialized_evaluation_keys()
    ciphertext = client.quantize_encrypt_serialize(split.kept[:1])
    server = FHEModelServer(str(folder))
    server.load()
    result = server.run(ciphertext, keys)
    client.deserialize_decrypt_dequantize(result)
    sizes = {
        "keys_bytes": len(keys),
        "input_bytes": len(ciphertext),
        "result_bytes": len(result),
    }
    return lambda: server.run(ciphertext, keys), sizes


def _theirs(split: _Split) -> Any:
    """Return Concrete-ML's labels on a split's test rows, computed in the clear."""
    from concrete.ml.torch.compile import build_quantized_module

    module = build_quantized_module(split.network, split.seen, n_bits=BASELINE_BITS)
    return _labels(module.forward(split.kept, fhe="disable"))


def _ours(split: _Split) -> Any:
    """Return our circuit's labels on a split's test rows, computed in the clear."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "core.onnx"
        names = {"input_names": ["input"], "output_names": ["output"]}
        zeros = torch.zeros(1, split.seen.shape[1])
        torch.onnx.export(split.network, zeros, str(path), opset_version=14, **names)
        layers = read_dense(path, split.seen.shape[1])
    rows = split.seen.astype(np.float64)
    yardstick = Yardstick(
        rows, forward(layers, rows), split.seen_truth, "softmax", "classification"
    )
    shape = choose_dense(layers, yardstick).shape
    fit = fit_dense(layers, shape, mirror=mirrors(layers, "softmax"))
    return _labels(fit(rows)(split.kept.astype(np.float64)))
