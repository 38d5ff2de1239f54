"""The command of operators on a gateway's receipt keys: rotate-key."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from privacy.cli.app import AsJson, command
from privacy.cli.operator import DEFAULT_DATA
from privacy.cli.output import out, print_json
from privacy.clock import now
from privacy.encoding import Json
from privacy.errors import FormatError, UnavailableError


@command("gateway rotate-key")
def rotate_key(
    data: Annotated[
        Path, typer.Option(help="Where the gateway keeps its state.")
    ] = DEFAULT_DATA,
    overlap_s: Annotated[
        int,
        typer.Option(
            min=0,
            help="How long the old key's receipts still count, for gateways "
            "that share it: copy them the new file meanwhile.",
        ),
    ] = 300,
    stolen_since: Annotated[
        str,
        typer.Option(
            help="The old key is in the wrong hands since then (RFC 3339): revoke it."
        ),
    ] = "",
    revoke: Annotated[
        str,
        typer.Option(help="Make no new key: revoke this earlier one, by its id."),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Make a new receipt key, vouched for by the old; old receipts stay verifiable.

    The gateway may run: it signs with the new key within a second.
    """
    try:
        from gateway.opening import open_database
        from gateway.settings import load_settings
        from gateway.signing import KEY_FILE, ReceiptKeys
        from gateway.store.receipt_log import ReceiptLog
    except ImportError as exc:
        msg = "the gateway is not installed: pip install 'privacy-compute[gateway]'"
        raise UnavailableError(msg, code="engine-missing") from exc
    since = _moment(stolen_since) if stolen_since else ""
    if revoke and not since:
        msg = "--revoke needs --stolen-since: the log shows which receipts are older"
        raise FormatError(msg, code="usage")
    settings = load_settings()
    path = settings.receipt_key or data / KEY_FILE
    if not path.is_file():
        msg = (
            f"there is no receipt key at {path}: start the gateway once, or give --data"
        )
        raise FormatError(msg, code="no-such-file")
    database = open_database(data, settings.database_url)
    try:
        keys = ReceiptKeys(path, database)
        size = ReceiptLog(database).size_at(since) if since else None
        if revoke:
            keys.revoke(revoke, log_size=size or 0, since=since)
            told: Json = {"kid": keys.key_id, "revoked": revoke}
        else:
            told = keys.rotate(overlap_s=overlap_s, log_size=size, since=since)
            told["revoked"] = told["previous"] if since else None
    finally:
        database.close()
    told["log_size"] = size
    if as_json:
        print_json(told)
        return
    out.print(f"receipts are signed by key {told['kid']}", soft_wrap=True)
    if told["revoked"]:
        out.print(
            f"key {told['revoked']} is revoked: of its receipts the first {size} "
            "entries of the log still count",
            soft_wrap=True,
        )


def _moment(text: str) -> str:
    """Return a time as we write it.

    Raises:
        FormatError: It is none, has no zone, or is to come.
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError as exc:
        msg = f"{text[:40]!r} is no time such as 2026-01-31T12:00:00Z"
        raise FormatError(msg, code="bad-time") from exc
    if at.tzinfo is None:
        raise FormatError(f"{text[:40]} has no zone: end it with Z", code="bad-time")
    moment = at.astimezone(UTC).isoformat(timespec="milliseconds")
    moment = moment.replace("+00:00", "Z")
    if moment > now():
        raise FormatError(f"{moment} is to come", code="bad-time")
    return moment
