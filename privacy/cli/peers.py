"""Commands about other operators' gateways that run jobs of ours."""

from typing import Annotated
from urllib.parse import quote

import typer

from privacy.cli.app import ApiKey, AsJson, Gateway, HomeDir, command
from privacy.cli.output import print_json, print_one, safe, table
from privacy.client import Client
from privacy.client.wire import Call, told, told_list
from privacy.key_history import read_history

PeerName = Annotated[str, typer.Argument(help="As the gateway's peers_file names it.")]


@command("peers key")
def key(
    gateway: Annotated[str, typer.Argument(help="The peer's address.")],
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Show the receipt key to pin; compare it with what the peer's operator told."""
    with Client(gateway, home=home) as client:
        shown = client.run(told(Call("GET", "/.well-known/jwks.json")))
    known = [k for k, v in read_history(shown).items() if v.revoked_log_size is None]
    newest = known[-1] if known else ""
    print_one(
        {"gateway": gateway, "receipt_key": newest},
        f'receipt_keys = ["{safe(newest)}"]',
        as_json=as_json,
    )


@command("peers lies")
def lies(
    name: PeerName,
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """List why a peer was distrusted, with what it said (needs the admin scope)."""
    with Client(gateway, api_key=api_key, home=home) as client:
        found = client.run(
            told_list(Call("GET", f"/v1/peers/{quote(name, safe='')}/lies"), "lies")
        )
    if as_json:
        print_json({"lies": found})
        return
    columns = ["at", "code", "message", "job_id", "distrusted_until"]
    table("", columns, [[str(lie[c]) for c in columns] for lie in found])


@command("peers trust")
def trust(
    name: PeerName,
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Give a distrusted peer jobs again (needs the admin scope)."""
    with Client(gateway, api_key=api_key, home=home) as client:
        client.run(told(Call("POST", f"/v1/peers/{quote(name, safe='')}/trust")))
    text = f"{safe(name)} gets jobs again"
    print_one({"trusted": name}, text, as_json=as_json)
