"""Commands about a gateway's log of receipts: fetch, head, audit."""

import base64
from pathlib import Path
from typing import Annotated

import typer

from privacy.cli.app import ApiKey, AsJson, Gateway, HomeDir, command
from privacy.cli.output import out, print_json, progress, safe
from privacy.client import Client
from privacy.client.log import own_receipts
from privacy.encoding import Json
from privacy.transparency.inclusion import SUFFIX


@command("log fetch")
def fetch(
    receipt: Annotated[
        Path | None,
        typer.Argument(help="Else every receipt of this gateway's that has no entry."),
    ] = None,
    wait_s: Annotated[
        float, typer.Option(min=0, help="How long to wait until it is logged.")
    ] = 3.0,
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Get a receipt's place in the gateway's log, for `privacy verify --log`."""
    with (
        progress(quiet=as_json) as notify,
        Client(gateway, api_key=api_key, home=home) as client,
    ):
        client.log_head()  # the gateway's keys are known from here on
        wanted = [receipt] if receipt else _without_entry(client)
        notify({"stage": f"fetch {len(wanted)} log entries"})
        entries = client.fetch_log_entries(wanted, wait_s=wait_s)
    if as_json:
        print_json({"entries": [str(e) for e in entries]})
        return
    for entry in entries:
        out.print(f"in the log: {safe(entry)}", soft_wrap=True)
    if not entries:
        out.print("every receipt of this gateway's has its log entry")


def _without_entry(client: Client) -> list[Path]:
    own = own_receipts(client.home, client.gateway)
    return [path for path, *_ in own if not path.with_suffix(SUFFIX).exists()]


@command("log head")
def head(
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Show the log's signed head, compared with those seen before."""
    with Client(gateway, api_key=api_key, home=home) as client:
        found = client.log_head()
    told: Json = {
        "origin": found.origin,
        "size": found.size,
        "root": base64.b64encode(found.root).decode(),
        "time": found.time,
        "audit_size": found.audit_size,
        "audit_sha256": found.audit_sha256,
    }
    if as_json:
        print_json(told)
    else:
        line = f"{found.size} receipts in {safe(found.origin)}, signed {found.time}"
        out.print(f"{line}; it only added to what was seen before", soft_wrap=True)


@command("log audit")
def audit(
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Read all of the log: it makes the signed root and has every receipt of yours."""
    with (
        progress(quiet=as_json) as notify,
        Client(gateway, api_key=api_key, home=home) as client,
    ):
        notify({"stage": "read the log"})
        found = client.audit_log()
    if as_json:
        print_json(found)
    else:
        line = f"{found['size']} receipts make the signed root"
        own = f"all {found['own_receipts']} of this gateway's that are kept here"
        out.print(f"{line}; {own} are among them", soft_wrap=True)
