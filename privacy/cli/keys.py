"""Commands of the data owner about FHE keys: list, rotate, export, import, delete."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from privacy.cli.app import ApiKey, AsJson, Gateway, HomeDir, command
from privacy.cli.output import print_json, print_one, progress, safe, size, table
from privacy.cli.passphrase import (
    AllowPlaintextKeys,
    PassphraseFile,
    passphrase_from,
)
from privacy.client import Client
from privacy.client.keystore import KeyInfo
from privacy.client.passphrase import read_passphrase
from privacy.errors import AuthError

KeyId = Annotated[str, typer.Argument(help="The key's id, from `privacy keys list`.")]
_EXPORT_VARIABLE = "PRIVACY_EXPORT_PASSPHRASE"
ExportPassphraseFile = Annotated[
    Path | None,
    typer.Option(
        help=f"File whose first line is the export's passphrase; "
        f"else ${_EXPORT_VARIABLE}, else it is asked for."
    ),
]


@command("keys list")
def keys_list(home: HomeDir = None, as_json: AsJson = False) -> None:
    """List your FHE keys: for which models, how old, how large, uploaded where."""
    with Client(home=home) as client:
        found = client.keys.all()
    if as_json:
        print_json({"keys": [asdict(key) for key in found]})
    else:
        _print_keys(found)


def _print_keys(found: list[KeyInfo]) -> None:
    rows = [
        [
            key.key_id,
            key.keyset_sha256[:16],
            f"retired {key.retired_at[:10]}" if key.retired_at else "current",
            "passphrase" if key.is_protected else "NOT PROTECTED",
            key.created_at[:16],
            size(key.bytes),
            ", ".join(sorted(key.models)),
            ", ".join(sorted(key.uploads)),
        ]
        for key in found
    ]
    columns = ["id", "key set", "", "protection", "created", "size", "models"]
    table("", [*columns, "uploaded to"], rows)


@command("keys rotate")
def keys_rotate(
    key: KeyId,
    passphrase_file: PassphraseFile = None,
    allow_plaintext_keys: AllowPlaintextKeys = False,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Make new keys in place of these, which are retired: kept, but used no more."""
    with (
        progress(quiet=as_json) as notify,
        Client(
            home=home,
            passphrase=passphrase_from(passphrase_file),
            allow_plaintext_keys=allow_plaintext_keys,
            notify=notify,
        ) as client,
    ):
        made = client.rotate_keys(key)
    print_one(
        {"key": asdict(made), "retired": key},
        f"new key {made.key_id}; {safe(key)} is retired and still kept",
        as_json=as_json,
    )


@command("keys export")
def keys_export(
    key: KeyId,
    file: Annotated[Path, typer.Argument(help="To write; must not exist.")],
    export_passphrase_file: ExportPassphraseFile = None,
    passphrase_file: PassphraseFile = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Write a key to a file under a passphrase of its own: a backup, or to move it."""
    passphrase = _export_passphrase(export_passphrase_file, is_new=True)
    with Client(home=home, passphrase=passphrase_from(passphrase_file)) as client:
        client.keys.export(key, file, passphrase=passphrase)
    print_one(
        {"exported": key, "file": str(file)},
        f"exported {safe(key)} to {safe(file)}: keep it and its passphrase",
        as_json=as_json,
    )


@command("keys import")
def keys_import(
    file: Annotated[Path, typer.Argument(help="As written by `keys export`.")],
    export_passphrase_file: ExportPassphraseFile = None,
    passphrase_file: PassphraseFile = None,
    allow_plaintext_keys: AllowPlaintextKeys = False,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Keep an exported key and use it from now on; the one used before is retired."""
    passphrase = _export_passphrase(export_passphrase_file, is_new=False)
    with Client(
        home=home,
        passphrase=passphrase_from(passphrase_file),
        allow_plaintext_keys=allow_plaintext_keys,
    ) as client:
        key = client.keys.import_(file, passphrase=passphrase)
    print_one(
        {"key": asdict(key)},
        f"imported {key.key_id}: it is the current key of its key set",
        as_json=as_json,
    )


@command("keys delete")
def keys_delete(
    key: KeyId,
    keep_uploads: Annotated[
        bool,
        typer.Option(
            "--keep-uploads", help="Leave the evaluation keys at the gateways."
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Delete a key for good, and its evaluation keys at the gateways that have them."""
    with Client(home=home) as client:
        info = client.keys.info(key)
        if not yes and not as_json:
            asked = f"Delete {key}? What was encrypted under it opens no more."
            typer.confirm(asked, abort=True, err=True)
        for gateway in () if keep_uploads else sorted(info.uploads):
            with Client(
                gateway, api_key=client.home.api_key(gateway) or None, home=home
            ) as there:
                there.delete_uploaded_keys(key)
        client.keys.remove(key)
    print_one(
        {"deleted": key, "uploads_deleted": not keep_uploads},
        f"deleted {safe(key)}",
        as_json=as_json,
    )


@command("keys uploads")
def keys_uploads(
    delete: Annotated[
        str | None, typer.Option(help="Delete the upload of this SHA-256.")
    ] = None,
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """List what a gateway keeps of yours, keys and inputs, and how much it allows."""
    with Client(gateway, api_key=api_key, home=home) as client:
        if delete:
            client.delete_upload(delete)
        found = client.uploads()
    if as_json:
        print_json(found)
        return
    rows = [
        [u["kind"], u["sha256"], size(u["bytes"]), u["used_at"], u["expires_at"]]
        for u in found["uploads"]
    ]
    used, quota = size(found["used_bytes"]), size(found["quota_bytes"])
    columns = ["", "sha256", "size", "last used", "expires"]
    table(f"{used} of {quota} are used", columns, rows)


def _export_passphrase(file: Path | None, *, is_new: bool) -> str:
    """Return the passphrase of an export.

    Raises:
        AuthError: There is none.
    """
    if file is not None:
        return read_passphrase(file)
    if text := os.environ.get(_EXPORT_VARIABLE):
        return text
    ask = passphrase_from(None, what="the export")
    if callable(ask):
        return ask(is_new)
    msg = f"an export has a passphrase: give its file, or set {_EXPORT_VARIABLE}"
    raise AuthError(msg, code="passphrase-missing")
