"""Adapt a published network to private data; its weights run encrypted on a node.

The publisher's network reads digits. The data owner's scanner turns them upside down,
and those scans may be seen by no one. So the owner trains two small adapters (LoRA)
around the network's layers: activations go to the node encrypted, and so do gradients.
The adapters and the data never leave.

    python examples/blind_lora.py [--steps 30] [--folder DIR]
"""

import argparse
import copy
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from local_gateway import gateway
from rich.console import Console
from torch import nn
from torch.nn import functional

from privacy.cli.output import duration, fail, progress, size
from privacy.client import Client
from privacy.client.hybrid import connect
from privacy.client.lora import LoraTrainer
from privacy.encoding import Json
from privacy.errors import PrivacyError
from privacy.hybrid import HybridSpec
from privacy.publish.hybrid import client_state, publish_layers

VAR = Path(__file__).resolve().parents[1] / "var" / "blind_lora"
WIDTH, RANK, BATCH, SCANS = 48, 8, 32, 200
LEARNT, SLOW_S = 0.1, 10.0
LAYERS = ("0", "2")
console = Console(highlight=False)


def network() -> nn.Sequential:
    """Return an untrained reader of digits: 64 points in, ten scores out."""
    return nn.Sequential(
        nn.Linear(64, WIDTH),
        nn.ReLU(),
        nn.Linear(WIDTH, WIDTH),
        nn.ReLU(),
        nn.Linear(WIDTH, 10),
    )


def digits() -> tuple[Any, Any, Any]:
    """Return images as they are, the same upside down, and what they show."""
    from sklearn.datasets import load_digits

    images, truth = load_digits(return_X_y=True)
    x = torch.tensor(images / 16.0, dtype=torch.float32)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], torch.tensor(truth)[order]
    return x, x.flip(1), y


def batches(x: Any, y: Any, steps: int) -> Iterator[tuple[Any, Any]]:
    """Yield rows drawn at random, and what they show."""
    picks = torch.Generator().manual_seed(1)
    for _ in range(steps):
        at = torch.randint(len(x), (BATCH,), generator=picks)
        yield x[at], y[at]


def fit(model: nn.Module, x: Any, y: Any) -> None:
    """Train a network, all of it, in the clear."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for given, wanted in batches(x, y, 1500):
        loss = functional.cross_entropy(model(given), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def right(model: Any, x: Any, y: Any) -> float:
    """Return the share of digits that are read rightly."""
    return float((model(x).argmax(dim=1) == y).float().mean())


def adapt(model: nn.Sequential, x: Any, y: Any, *, steps: int) -> LoraTrainer:
    """Put adapters around two layers of a network, and train those."""
    torch.manual_seed(2)
    trainer = LoraTrainer(model, LAYERS, rank=RANK, rate=2e-2)
    started = time.monotonic()

    def tell(event: Json) -> None:
        nonlocal started
        if (took := time.monotonic() - started) > SLOW_S:
            step, loss = event["done"], event["loss"]
            console.print(f"step {step}: loss {loss:.3f}, {duration(took)}")
            started += took

    trainer.fit(batches(x, y, steps), functional.cross_entropy, progress=tell)
    return trainer


def main() -> int:
    """Run it; return 0 if the adapters taught the network something."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--folder", type=Path, default=VAR)
    args = parser.parse_args()
    shutil.rmtree(args.folder, ignore_errors=True)
    upright, scans, truth = digits()
    seen, kept = slice(0, 1200), slice(1200, 1200 + SCANS)
    console.rule("1. the publisher trains, and publishes two layers")
    torch.manual_seed(0)
    base = network()
    fit(base, upright[seen], truth[seen])
    read = right(base, upright[kept], truth[kept])
    console.print(f"upright digits read rightly: {read:.1%}")
    spec = published(base, args.folder)
    console.rule("2. the data owner trains adapters, blind")
    with (
        gateway(args.folder) as (url, api_key),
        Client(url, api_key=api_key, home=args.folder / "owner") as client,
    ):
        blind = network()
        usage = connect(blind, spec, client)
        blind.load_state_dict(client_state(base, spec))
        started = time.monotonic()
        trainer = adapt(blind, scans[seen], truth[seen], steps=args.steps)
        torch.save(trainer.state(), args.folder / "adapters.pt")
        took = time.monotonic() - started
        after = right(blind, scans[kept], truth[kept])
    clear = copy.deepcopy(base)
    adapt(clear, scans[seen], truth[seen], steps=args.steps)
    expected = right(clear, scans[kept], truth[kept])
    before = right(base, scans[kept], truth[kept])
    console.print(
        f"scans read rightly: {before:.1%} before, {after:.1%} with adapters trained "
        f"blind, {expected:.1%} with adapters trained in the clear"
    )
    jobs = sum(used.jobs for used in usage.values())
    down = sum(used.bytes_down for used in usage.values())
    console.print(
        f"{args.steps} steps of {BATCH} scans in {duration(took)}; with the check "
        f"{jobs} jobs, {size(down)} of encrypted answers"
    )
    console.print("the node saw: ciphertexts of activations and of gradients")
    console.print("the data owner saw: all but the two layers' weights")
    return 0 if after - before > LEARNT else 1


def published(base: nn.Sequential, folder: Path) -> HybridSpec:
    """Publish the layers, forwards and backwards."""
    with progress(quiet=False) as notify:
        return publish_layers(
            base,
            LAYERS,
            name="digits",
            store=folder / "models",
            home=folder / "publisher",
            trainable=True,
            progress=lambda event: notify({"mode": event["layer"], **event}),
        )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PrivacyError as error:
        sys.exit(fail(error, as_json=False))
