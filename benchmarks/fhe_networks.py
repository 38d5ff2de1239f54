"""One encrypted row of a small network: Concrete-ML's own serving, and ours.

The network (8 hidden units, ReLU) is trained once a split on each of the four sets of
data that scikit-learn carries, and quantized after training by both sides, which
alternate in one run on the same row:
- `concrete_ml`: 5 bits, no rounding, `FHEModelServer.run(ciphertext, key_bytes)`; its
  default of 8 bits does not compile. It has a process of its own and ten minutes for
  each step: circuit and keys, then one row. What takes longer is a lower bound;
- `ours`: the node's `Runner.run`, warm, with keys uploaded before, at 2**-40;
- `fast`: the same with the `p_error` of `--fast`.
The share of labels that are right, or for regression R2, is a mean over splits,
computed in the clear by circuits that publishing holds to their encrypted answers;
`clear` is the network itself, `lost` how far below it we are, in points.
"""

import csv
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.fhe_trees import DATA
from benchmarks.measure import interleaved, named
from privacy.child import Child, ChildDied, Handler, Progress
from privacy.cli.output import size
from privacy.encoding import Json, unpack
from privacy.errors import BackendError
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
_LONG_S = 10.0
_LIMIT_S = 600.0


@dataclass(frozen=True, slots=True)
class _Split:
    """Standardised rows, what is true of them, and the network trained on the first."""

    seen: Any
    kept: Any
    seen_truth: Any
    kept_truth: Any
    network: Any

    @property
    def is_regression(self) -> bool:
        return np.asarray(self.seen_truth).dtype.kind == "f"

    @property
    def task(self) -> str:
        return "regression" if self.is_regression else "classification"

    @property
    def activation(self) -> str:
        return "none" if self.is_regression else "softmax"


def measure(*, quick: bool, only: Sequence[str] = ()) -> Json:
    """Return the figures of each set of data, JSON-ready; see the module.

    Args:
        quick: Two splits, and of one set of data if none is named.
        only: Words in the names of the sets of data wanted; all if there are none.
    """
    found: Json = {}
    for data in named(DATA, only=only or (["breast cancer"] if quick else [])):
        print(f"network: {data}", file=sys.stderr, flush=True)
        splits = [_split(data, seed) for seed in range(2 if quick else 10)]
        with tempfile.TemporaryDirectory() as folder:
            found[data] = _measure(data, splits, Path(folder))
    return found


def _measure(data: str, splits: list[_Split], root: Path) -> Json:
    calls: dict[str, Callable[[], object]] = {}
    found: Json = {}
    for side, options in (("ours", {}), ("fast", {"p_error": FAST_P_ERROR})):
        calls[side], found[side] = _our_call(splits[0], root / side, options)
    with Child("benchmarks.fhe_networks:handler") as theirs:
        _time(data, calls, theirs, root / "theirs", found)
    found["splits"] = len(splits)
    found["network"] = "-".join(
        map(str, (splits[0].seen.shape[1], HIDDEN, _outputs(splits[0].seen_truth)))
    )
    found["score"] = {
        "clear": _mean([_score(_clear(s)(s.kept), s) for s in splits]),
        "concrete_ml": _mean([_score(_theirs(s), s) for s in splits]),
        "ours": _mean([_score(_ours(s), s) for s in splits]),
    }
    found["lost"] = 100 * (found["score"]["clear"] - found["score"]["ours"])
    return found


def _time(
    data: str,
    calls: dict[str, Callable[[], object]],
    theirs: Child,
    folder: Path,
    found: Json,
) -> None:
    """Add what a row takes each side, in turn, unless Concrete-ML takes too long."""
    try:
        request = {"data": data, "folder": str(folder)}
        found["concrete_ml"] = theirs.call(request, timeout_s=_LIMIT_S)
        started = time.perf_counter()
        theirs.call({}, timeout_s=_LIMIT_S)
        long = time.perf_counter() - started > _LONG_S
        calls["concrete_ml"] = lambda: theirs.call({}, timeout_s=_LIMIT_S)
    except ChildDied:
        long = False
        stopped = found.setdefault("concrete_ml", {"keys": "too long"})
        stopped["longer_than_s"] = _LIMIT_S
    except BackendError as exc:  # no parameters at this precision
        found["no_concrete_ml"] = exc.message
        long = False
    timings = interleaved(calls, times=1 if long else 3, warm=0 if long else 1)
    for side, timing in timings.items():
        found[side]["latency_s"] = timing.p50
    base = found.get("concrete_ml", {})
    seconds = base.get("latency_s") or base.get("longer_than_s")
    for side in ("ours", "fast", "concrete_ml"):
        if seconds and "latency_s" in found.get(side, {}):
            found[side]["ratio"] = seconds / found[side]["latency_s"]


def show(found: Json) -> None:
    """Print the figures."""
    columns = ("data", "side", "seconds", "times", "keys", "input", "result", "score")
    grid = Table(title="a small network, one encrypted row")
    for column in columns:
        grid.add_column(column, justify="right")
    for data, own in found.items():
        score = own["score"]  # none of `fast`: errors at its rate are not in it
        for side in ("concrete_ml", "ours", "fast"):
            if side not in own:
                grid.add_row(data, side, own["no_concrete_ml"])
                continue
            if "latency_s" not in own[side]:
                grid.add_row(data, side, f"> {own[side]['longer_than_s']:.0f}")
                continue
            ratio = own[side].get("ratio")
            grid.add_row(
                f"{data} {own['network']}",
                side,
                f"{own[side]['latency_s']:.3f}",
                "" if ratio is None else f"{ratio:.1f}",
                size(own[side]["keys_bytes"]),
                size(own[side]["input_bytes"]),
                size(own[side]["result_bytes"]) if side != "concrete_ml" else "",
                f"{score[side]:.3f}" if side in score else "",
            )
    Console().print(grid)
    for data, own in found.items():
        clear, lost = own["score"]["clear"], own["lost"]
        said = f"clear {clear:.3f}, {lost:.2f} points lost over {own['splits']} splits"
        Console().print(f"{data}: {said}")


def _split(data: str, seed: int) -> _Split:
    import torch
    from sklearn import datasets
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    rows, truth = getattr(datasets, DATA[data])(return_X_y=True)
    regression = data == "diabetes"
    if regression:
        truth = ((truth - truth.mean()) / truth.std()).astype(np.float32)
    seen, kept, seen_truth, kept_truth = train_test_split(
        rows, truth, random_state=seed, stratify=None if regression else truth
    )
    scaler = StandardScaler().fit(seen)
    seen, kept = (scaler.transform(r).astype(np.float32) for r in (seen, kept))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = torch.nn.Sequential(
            torch.nn.Linear(seen.shape[1], HIDDEN),
            torch.nn.ReLU(),
            torch.nn.Linear(HIDDEN, _outputs(truth)),
        )
    wanted = torch.tensor(seen_truth[:, None] if regression else seen_truth)
    loss = torch.nn.MSELoss() if regression else torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02, weight_decay=1e-3)
    for _ in range(_STEPS):
        optimizer.zero_grad()
        loss(network(torch.tensor(seen)), wanted).backward()
        optimizer.step()
    return _Split(seen, kept, seen_truth, kept_truth, network.eval())


def _outputs(truth: Any) -> int:
    return 1 if truth.dtype.kind == "f" else int(truth.max()) + 1


def _clear(split: _Split) -> Callable[[Any], Any]:
    import torch

    def outputs(rows: Any) -> Any:
        with torch.no_grad():
            return split.network(torch.tensor(rows)).numpy()

    return outputs


def _score(outputs: Any, split: _Split) -> float:
    """Return the share of labels that are right, or R2."""
    truth, outputs = split.kept_truth, np.asarray(outputs)
    if split.is_regression:
        return float(1 - np.mean((outputs[:, 0] - truth) ** 2) / np.var(truth))
    return float((outputs.argmax(axis=1) == truth).mean())


def _mean(scores: list[float]) -> float:
    return float(np.mean(scores))


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
        task=split.task,
        activation=split.activation,
        options={Mode.FHE: {"circuit": "fhe-native", **options}},
        home=folder / "home",
    )
    part = bundle.manifest.modes[Mode.FHE]
    if not part.available:
        raise RuntimeError(part.reason)
    keys = FheClient(bundle.path("fhe/client.json").read_bytes()).generate_keys()
    path = folder / "keys"
    path.write_bytes(keys.evaluation_keys())
    row = split.kept[:1].astype(np.float64)
    runner, blob = Runner(bundle), keys.encrypt(row, allow_clipped=True)
    output = runner.run(blob, path, lambda _: None).output
    keys.decrypt(output, 1)
    sizes = {
        "keys_bytes": path.stat().st_size,
        "input_bytes": len(blob),
        "result_bytes": len(unpack(output, what="output")[0]),
        "circuit": {k: part.params[k] for k in ("n_bits", "clip", "look_ups")},
        "p_error": part.params["p_error"],
        "accuracy": part.accuracy,
    }
    return lambda: runner.run(blob, path, lambda _: None), sizes


def handler() -> Handler:
    """Return what makes Concrete-ML's circuit and keys, and then runs rows."""
    run: list[Callable[[], object]] = []

    def serve(request: Json, progress: Progress) -> Json:
        _ = progress
        if run:
            run[0]()
            return {}
        split = _split(request["data"], 0)
        try:
            call, sizes = _their_call(split, Path(request["folder"]))
        except RuntimeError as exc:
            raise BackendError(str(exc).splitlines()[0]) from exc
        run.append(call)
        return sizes

    return serve


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
    sizes = {"keys_bytes": len(keys), "input_bytes": len(ciphertext)}
    return lambda: server.run(ciphertext, keys), sizes


def _theirs(split: _Split) -> Any:
    """Return Concrete-ML's outputs on a split's test rows, computed in the clear."""
    from concrete.ml.torch.compile import build_quantized_module

    module = build_quantized_module(split.network, split.seen, n_bits=BASELINE_BITS)
    return module.forward(split.kept, fhe="disable")


def _ours(split: _Split) -> Any:
    """Return our circuit's outputs on a split's test rows, computed in the clear."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "core.onnx"
        names = {"input_names": ["input"], "output_names": ["output"]}
        zeros = torch.zeros(1, split.seen.shape[1])
        torch.onnx.export(split.network, zeros, str(path), opset_version=14, **names)
        layers = read_dense(path, split.seen.shape[1])
    rows = split.seen.astype(np.float64)
    truth = None if split.is_regression else split.seen_truth
    yardstick = Yardstick(
        rows, forward(layers, rows), truth, split.activation, split.task
    )
    shape = choose_dense(layers, yardstick).shape
    fit = fit_dense(layers, shape, mirror=mirrors(layers, split.activation))
    return fit(rows)(split.kept.astype(np.float64))
