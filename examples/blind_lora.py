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
from privacy.errors import PrivacyError
from privacy.hybrid import HybridSpec
from privacy.publish.hybrid import client_state, publish_layers

VAR = Path(__file__).resolve().parents[1] / "var" / "blind_lora"
WIDTH, RANK, BATCH, SCANS = 48, 8, 32, 200
LEARNT, SLOW_S = 0.1, 10.0
LAYERS = ("0", "2")
console = Console(highlight=False)


class Adapted(nn.Module):
    """A layer, plus a product of two thin matrices that starts at zero."""

    def __init__(self, layer: Any, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layer = layer
        self.lora_a = nn.Linear(inputs, RANK, bias=False)
        self.lora_b = nn.Linear(RANK, outputs, bias=False)
        nn.init.zeros_(self.lora_b.weight)

    def forward(self, x: Any) -> Any:
        """Return what the layer says, corrected."""
        return self.layer(x) + self.lora_b(self.lora_a(x))


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


def fit(model: Any, x: Any, y: Any, *, steps: int, rate: float) -> None:
    """Train what of the model asks for gradients; say how it goes if it is slow."""
    wanted = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(wanted, lr=rate)
    started = time.monotonic()
    picks = torch.Generator().manual_seed(1)
    for step in range(steps):
        at = torch.randint(len(x), (BATCH,), generator=picks)
        loss = functional.cross_entropy(model(x[at]), y[at])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (took := time.monotonic() - started) > SLOW_S:
            console.print(f"step {step + 1}: loss {loss:.3f}, {duration(took)}")
            started += took


@torch.no_grad()
def right(model: Any, x: Any, y: Any) -> float:
    """Return the share of digits that are read rightly."""
    return float((model(x).argmax(dim=1) == y).float().mean())


def adapt(model: nn.Sequential, x: Any, y: Any, *, steps: int) -> None:
    """Freeze a network, put adapters around two of its layers, and train those."""
    model.requires_grad_(requires_grad=False)
    torch.manual_seed(2)
    model[0] = Adapted(model[0], 64, WIDTH)
    model[2] = Adapted(model[2], WIDTH, WIDTH)
    fit(model, x, y, steps=steps, rate=2e-2)


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
    fit(base, upright[seen], truth[seen], steps=1500, rate=3e-3)
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
        adapt(blind, scans[seen], truth[seen], steps=args.steps)
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
