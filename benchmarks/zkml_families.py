"""Kinds of models that docs/models.md lists apart, published for proofs alone.

Small ones, trained here in a second or two, to see whether a circuit can hold them and
keep their answers. `python -m benchmarks zkml-families` prints the document's table.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.zkml_networks import train_module
from privacy.encoding import Json
from privacy.errors import BackendError
from privacy.modes import Mode
from privacy.publish import publish

Made = tuple[Any, Any, str, str]
"""A module, its rows, its task and its activation."""


def _images() -> tuple[Any, Any]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return (x / 16).astype(np.float32), y


def _flowers() -> tuple[Any, Any]:
    from sklearn.datasets import load_iris

    x, y = load_iris(return_X_y=True)
    return ((x - x.mean(0)) / x.std(0)).astype(np.float32), y


def _k_means() -> Made:
    """Return squared distances to three centres; the nearest is the answer."""
    import torch
    from sklearn.cluster import KMeans

    rows, _ = _flowers()
    centres = KMeans(3, n_init=3, random_state=0).fit(rows).cluster_centers_

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.centres = torch.nn.Parameter(torch.tensor(centres).float())

        def forward(self, x: Any) -> Any:
            apart = x.unsqueeze(1) - self.centres
            return -(apart * apart).sum(2)

    return Net(), rows, "classification", "margin"


def _autoencoder() -> Made:
    import torch

    rows, _ = _images()
    narrow = [torch.nn.Linear(64, 12), torch.nn.ReLU(), torch.nn.Linear(12, 64)]
    return train_module(torch.nn.Sequential(*narrow), rows, rows), rows, "raw", "none"


def _recurrent(kind: str) -> Callable[[], Made]:
    """Return a network that reads an image's eight lines, one after the other."""

    def make() -> Made:
        import torch

        rows, truth = _images()

        class Net(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.read = getattr(torch.nn, kind)(8, 12, batch_first=True)
                self.classes = torch.nn.Linear(12, 10)

            def forward(self, x: Any) -> Any:
                seen, _ = self.read(x.reshape(-1, 8, 8))
                return self.classes(seen[:, -1])

        net = train_module(Net(), rows, truth)
        return net, rows, "classification", "softmax"

    return make


def _transformer() -> Made:
    """Return an encoder layer of PyTorch's own, with layer norms."""
    import torch

    rows, truth = _images()

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.after = torch.nn.LayerNorm(8), torch.nn.LayerNorm(8)
            self.ask, self.offer, self.value, self.join = (
                torch.nn.Linear(8, 8) for _ in range(4)
            )
            self.wide, self.narrow = torch.nn.Linear(8, 16), torch.nn.Linear(16, 8)
            self.classes = torch.nn.Linear(64, 10)

        def forward(self, x: Any) -> Any:
            tokens = x.reshape(-1, 8, 8)
            y = self.before(tokens)
            scores = self.ask(y) @ self.offer(y).transpose(1, 2) / 8**0.5
            tokens = tokens + self.join(torch.softmax(scores, 2) @ self.value(y))
            y = self.after(tokens)
            tokens = tokens + self.narrow(torch.relu(self.wide(y)))
            return self.classes(tokens.reshape(-1, 64))

    return train_module(Net(), rows, truth), rows, "classification", "softmax"


def _svm() -> Made:
    """Return a kernel machine as a graph: exp(-d²/4) over 38 vectors."""
    import torch

    rows, truth = _flowers()
    torch.manual_seed(0)
    few = torch.tensor(rows[::4])

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vectors = torch.nn.Parameter(few, requires_grad=False)
            self.classes = torch.nn.Linear(len(few), 3)

        def forward(self, x: Any) -> Any:
            apart = x.unsqueeze(1) - self.vectors
            return self.classes(torch.exp(-0.25 * (apart * apart).sum(2)))

    return train_module(Net(), rows, truth), rows, "classification", "margin"


FAMILIES: dict[str, Callable[[], Made]] = {
    "k-means": _k_means,
    "autoencoder 64-12-64": _autoencoder,
    "kernel machine (RBF)": _svm,
    "RNN": _recurrent("RNN"),
    "LSTM": _recurrent("LSTM"),
    "GRU": _recurrent("GRU"),
    "transformer with layer norms": _transformer,
}


def measure(*, quick: bool, only: Sequence[str] = ()) -> Json:
    """Return, by family, what publishing found or why it could not.

    Args:
        quick: The first two.
        only: Families whose names contain one of these.
    """
    names = list(FAMILIES)[: 2 if quick else None]
    if only:
        names = [n for n in FAMILIES if any(word in n for word in only)]
    found = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = _publish(name, Path(folder))
        Console().print(f"{name}: {found[name]}")
    return summary(found)


def summary(models: Json) -> Json:
    """Return the figures, with how many families are served."""
    return {"models": models, "served": sum("error" in m for m in models.values())}


def _publish(name: str, folder: Path) -> Json:
    module, rows, task, activation = FAMILIES[name]()
    try:
        bundle = publish(
            module,
            rows,
            name="model",
            store=folder / "models",
            modes=[Mode.ZKML],
            task=task,
            activation=activation,
            options={Mode.ZKML: {"hide": ["input"]}},
            home=folder / "home",
        )
    except BackendError as exc:
        return {"reason": exc.message}
    part = bundle.manifest.mode(Mode.ZKML)
    return {
        "error": part.accuracy["max_error"],
        "label_agreement": part.accuracy.get("label_agreement"),
        **{k: part.cost[k] for k in ("latency_s", "proof_bytes", "proving_key_bytes")},
    }


def show(found: Json) -> None:
    """Print the document's table."""
    print("| Model | Proof | Answers |")
    print("|---|---|---|")
    for name, one in found["models"].items():
        if "reason" in one:
            print(f"| {name} | no | {one['reason'][:200]} |")
            continue
        agree = one["label_agreement"]
        labels = "" if agree is None else f", labels {agree:.0%}"
        proof, key = one["proof_bytes"] / 1e3, one["proving_key_bytes"] / 1e6
        cost = f"{one['latency_s']:.1f} s, {proof:.1f} kB, key {key:.0f} MB"
        print(f"| {name} | {cost} | error {one['error']:.2g}{labels} |")
