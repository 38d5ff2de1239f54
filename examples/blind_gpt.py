"""A small transformer writes text; its linear layers run encrypted on a node.

The publisher trains a character-level GPT and publishes the eight linear layers of its
blocks. The data owner gets everything else (embeddings, norms), runs it here, and sends
each layer's input encrypted. The text is compared with that of the clear model.

    python examples/blind_gpt.py [--prompt "Beautiful is"] [--count 24] [--folder DIR]
"""

import argparse
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
from local_gateway import gateway
from rich.console import Console
from rich.table import Table
from tiny_gpt import CONTEXT, LINEAR_LAYERS, TinyGpt, train, zen

from privacy.cli.output import duration, fail, progress, size
from privacy.client import Client
from privacy.client.hybrid import LayerUsage, connect
from privacy.errors import PrivacyError
from privacy.hybrid import HybridSpec, parse_hybrid
from privacy.modes import Mode, who_sees_what
from privacy.publish.hybrid import client_state, publish_layers

VAR = Path(__file__).resolve().parents[1] / "var" / "blind_gpt"
console = Console(highlight=False)


def main() -> int:
    """Run it and return 0 if both models wrote the same."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompt", default="Beautiful is")
    parser.add_argument("--count", type=int, default=24, help="characters to write")
    parser.add_argument("--folder", type=Path, default=VAR)
    args = parser.parse_args()
    unknown = set(args.prompt) - set(zen())
    if unknown or not 0 < len(args.prompt) <= CONTEXT - args.count:
        parser.error(f"use characters of the Zen of Python, {CONTEXT} with the answer")
    shutil.rmtree(args.folder, ignore_errors=True)
    console.rule("1. the publisher trains, and publishes the linear layers")
    model, spec = published(args.folder)
    console.rule("2. the data owner writes, blind")
    with (
        gateway(args.folder) as (url, api_key),
        Client(
            url,
            api_key=api_key,
            home=args.folder / "owner",
            passphrase="of the example",  # noqa: S106 - no secret
        ) as client,
    ):
        blind, usage = received(args.folder, model.characters, client)
        started = time.monotonic()
        told, scores = blind.generate(args.prompt, args.count)
        took = time.monotonic() - started
    clear, clear_scores = model.generate(args.prompt, args.count)
    console.print(f"clear     {args.prompt!r} → {clear!r}")
    console.print(f"encrypted {args.prompt!r} → {told!r}")
    if told == clear:
        off = float((scores - clear_scores).abs().max())
        console.print(
            f"the same; scores differ by at most {off:.3f}, of a spread of "
            f"{float(clear_scores.std()):.1f}"
        )
    console.print(f"{duration(took)}, {duration(took / args.count)} a character")
    show(spec, usage)
    return 0 if told == clear else 1


def published(folder: Path) -> tuple[TinyGpt, HybridSpec]:
    """Train and publish; write what data owners get, and return the clear model."""
    started = time.monotonic()
    model = train()
    console.print(f"trained in {duration(time.monotonic() - started)}")
    with progress(quiet=False) as notify:
        spec = publish_layers(
            model,
            LINEAR_LAYERS,
            name="tiny-gpt",
            store=folder / "models",
            home=folder / "publisher",
            progress=lambda event: notify({"mode": event["layer"], **event}),
        )
    handed = folder / "for-data-owners"
    handed.mkdir()
    (handed / "hybrid.json").write_bytes(spec.to_bytes())
    torch.save(client_state(model, spec), handed / "client.pt")
    weights = sum(p.numel() for p in model.parameters())
    kept = sum(layer.inputs * layer.outputs for layer in spec.layers)
    console.print(
        f"published {len(spec.layers)} layers in "
        f"{duration(time.monotonic() - started)}: {kept / weights:.0%} of {weights} "
        "weights stay with the node"
    )
    return model, spec


def received(
    folder: Path, characters: str, client: Client
) -> tuple[TinyGpt, dict[str, LayerUsage]]:
    """Return the data owner's model, made of what the publisher handed over."""
    handed = folder / "for-data-owners"
    blind = TinyGpt(characters).eval()
    usage = connect(blind, parse_hybrid((handed / "hybrid.json").read_bytes()), client)
    blind.load_state_dict(torch.load(handed / "client.pt", weights_only=True))
    return blind, usage


def show(spec: HybridSpec, usage: dict[str, LayerUsage]) -> None:
    """Print what each layer took, and who saw what."""
    table = Table(title="what each encrypted layer took")
    for column in ("layer", "size", "jobs", "rows", "time", "up", "down"):
        table.add_column(column)
    for layer in spec.layers:
        used = usage[layer.path]
        table.add_row(
            layer.path,
            f"{layer.inputs} to {layer.outputs}",
            str(used.jobs),
            str(used.rows),
            duration(used.seconds),
            size(used.bytes_up),
            size(used.bytes_down),
        )
    console.print(table)
    seen: Any = who_sees_what(Mode.FHE)
    checks = sorted(set().union(*(used.checks for used in usage.values())))
    console.print(f"the node saw the layers' inputs: {seen.operator_sees_input}")
    console.print(f"the node saw the layers' outputs: {seen.operator_sees_output}")
    console.print("the data owner saw: all but the published layers' weights")
    console.print(f"proven: {seen.answer_is_proven}")
    console.print(f"verified for each job: {', '.join(checks)}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PrivacyError as error:
        sys.exit(fail(error, as_json=False))
