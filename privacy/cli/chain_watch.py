"""The command that answers contracts: chain watch."""

import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from privacy.cli.app import AsJson, Gateway, command
from privacy.cli.chain_common import (
    DEFAULT_CHAIN,
    DEFAULT_FOLDER,
    DEFAULT_KEYSTORE,
    Keystore,
    MaxFee,
    gateway_jobs,
    open_chain,
    sender_of,
)
from privacy.cli.output import err, print_json, safe
from privacy.encoding import Json
from privacy.errors import UnavailableError


@command("chain watch")
def watch(
    chain: Annotated[
        list[Path] | None, typer.Option(help="A chain's file; repeatable.")
    ] = None,
    store: Annotated[Path, typer.Option(help="Folder of published models.")] = Path(
        "var/gateway/models"
    ),
    folder: Annotated[
        Path, typer.Option(help="Inputs, receipts and state.")
    ] = DEFAULT_FOLDER,
    keystore: Keystore = DEFAULT_KEYSTORE,
    gateway: Gateway = None,
    least_fee: Annotated[int, typer.Option(min=0, help="In wei.")] = 0,
    allow_loss: Annotated[
        bool, typer.Option(help="Answer also where gas costs more than the fee.")
    ] = False,
    trigger: Annotated[
        bool, typer.Option(help="Trigger rounds of subscriptions that are due.")
    ] = False,
    every_s: Annotated[float, typer.Option(min=0.1)] = 4.0,
    once: Annotated[
        bool, typer.Option(help="End when no request is open any more.")
    ] = False,
    max_fee_gwei: MaxFee = 500.0,
    as_json: AsJson = False,
) -> None:
    """Answer the requests of contracts, with proofs from a gateway."""
    from gateway.chain.watcher import Terms, Watcher, bundles_in
    from gateway.lock import FolderLock

    lock = FolderLock(folder)
    with ExitStack() as stack:
        stack.callback(lock.release)
        jobs = gateway_jobs(gateway)
        terms = Terms(
            folder, least_fee=least_fee, allow_loss=allow_loss, trigger=trigger
        )
        watchers = []
        for file in chain or [DEFAULT_CHAIN]:
            config, node = stack.enter_context(open_chain(file))
            watcher = Watcher(
                config,
                rpc=node,
                sender=sender_of(node, keystore, config.chain_id, max_fee_gwei),
                jobs=jobs,
                bundles=bundles_in(store),
                terms=terms,
                notify=_news(as_json=as_json),
            )
            stack.callback(watcher.close)
            watchers.append(watcher)
        while _rounds(watchers) or not once:
            time.sleep(every_s)
    if as_json:
        print_json({"open": 0})


def _rounds(watchers: list[Any]) -> int:
    """Give each watcher its round; one whose node is away must not stop the others."""
    still_open = 0
    for watcher in watchers:
        try:
            still_open += watcher.round()
        except UnavailableError as exc:
            err.print(f"… {safe(exc.message)}", soft_wrap=True)
            still_open += 1
    return still_open


def _news(*, as_json: bool) -> Any:
    def tell(event: Json) -> None:
        what = "request" if "request" in event else "subscription"
        words = [f"{what} {event[what]} {event['stage']}"]
        words += [
            f"{k} {v}" for k, v in event.items() if k in {"reason", "transaction"}
        ]
        line = json.dumps(event) if as_json else ", ".join(words)
        err.print(safe(line), soft_wrap=True)

    return tell
