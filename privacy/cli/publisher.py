"""The command of publishers and operators: whose bundles are loaded."""

import json
from pathlib import Path
from typing import Annotated

import typer

from privacy.cli.app import AsJson, HomeDir, command
from privacy.cli.output import out, print_json, table
from privacy.errors import FormatError
from privacy.files import default_home, write_atomic
from privacy.jws import key_id, public_jwk
from privacy.publisher import (
    KEY_FILE,
    TRUST_FILE,
    distrust_publisher,
    publisher_key,
    trust_publisher,
    trusted_publishers,
)


@command("publisher")
def publisher(
    export: Annotated[
        Path | None, typer.Option(help="Write your public key there, for operators.")
    ] = None,
    trust: Annotated[
        Path | None, typer.Option(help="Trust the publisher with this public key.")
    ] = None,
    distrust: Annotated[
        str | None, typer.Option(help="Trust the publisher of this key id no more.")
    ] = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Show who publishes here and whose bundles are loaded; change whom to trust."""
    root = home or default_home()
    if trust:
        _trust(root, trust)
    if distrust:
        distrust_publisher(root, distrust)
    own = _own(root, export)
    trusted = sorted(trusted_publishers(root / TRUST_FILE))
    if as_json:
        print_json({"own": own or None, "trusted": trusted})
        return
    rows = [[k, "yours" if k == own else "another's"] for k in trusted]
    if own and own not in trusted:
        rows.insert(0, [own, "yours, not trusted"])
    table("publishers whose bundles a gateway of this home loads", ["key", ""], rows)
    if not own:
        out.print("no key of yours yet: the first `privacy publish` makes it")


def _trust(root: Path, file: Path) -> None:
    if not file.is_file():
        raise FormatError(f"there is no file {file}", code="no-such-file")
    for public_key in trusted_publishers(file).values():
        trust_publisher(root, public_key)


def _own(root: Path, export: Path | None) -> str:
    """Return the id of this home's key, "" if it has none; write it out if asked."""
    if not export and not (root / KEY_FILE).exists():
        return ""
    public_key = publisher_key(root).public_key()
    if export:
        write_atomic(export, json.dumps(public_jwk(public_key), indent=1).encode())
    return key_id(public_key)
