"""Commands of operators about the audit log: list, export, verify."""

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from privacy.cli.app import ApiKey, AsJson, Gateway, HomeDir, command
from privacy.cli.output import out, print_json, progress, safe, table
from privacy.client import Client
from privacy.client.audit import (
    audit_end,
    check_lines,
    known_heads,
    page_of_audit,
    read_audit,
)
from privacy.encoding import Json, parse_object
from privacy.errors import CannotVerifyError, ConflictError, FormatError
from privacy.files import write_atomic
from privacy.key_history import read_history
from privacy.transparency.audit_chain import parse_entry

_COLUMNS = ["seq", "at", "actor", "tenant", "action", "target", "outcome"]


@command("audit list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    after: Annotated[
        int | None, typer.Option(min=0, help="From this entry on; else the newest.")
    ] = None,
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """List entries of the audit log (needs the admin scope)."""
    with Client(gateway, api_key=api_key, home=home) as client:
        if after is None:
            after = max(0, client.run(audit_end()) - limit)
        lines = client.run(page_of_audit(after, limit))
    entries = [parse_object(line, what="audit entry") for line in lines]
    if as_json:
        print_json({"entries": entries})
    else:
        table("", _COLUMNS, [[str(e.get(c, "")) for c in _COLUMNS] for e in entries])


@command("audit export")
def export(
    file: Annotated[Path, typer.Argument(help="To write; must not exist.")],
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Write the whole audit log to a file, a line an entry, after checking it."""
    if file.exists():
        raise ConflictError(f"{file} exists: give another name", code="file-exists")
    lines: list[bytes] = []
    told = _read(gateway, api_key, home, lines, quiet=as_json)
    write_atomic(file, b"".join(line + b"\n" for line in lines), private=True)
    told["file"] = str(file)
    _tell(told, f"wrote {len(lines)} entries to {safe(file)}", as_json=as_json)


@command("audit verify")
def verify(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Exports and archive files in order; else the gateway's."),
    ] = None,
    head: Annotated[
        list[Path] | None,
        typer.Option(help="A signed tree head to compare with; repeatable."),
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(help="JSON Web Key Set that signs heads, instead of the pinned."),
    ] = None,
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Check the audit log's chain, and its end by signed tree heads: exit 0, 6 or 7."""
    if not files:
        told = _read(gateway, api_key, home, [], quiet=as_json)
        done = f"entries {told['first']} to {told['last']} hold"
        _tell(told, done, as_json=as_json)
        return
    with Client(gateway, api_key=api_key, home=home) as client:
        trusted = (
            read_history(parse_object(_bytes(keys), what=str(keys)))
            if keys
            else client.home.all_trusted_keys()
        )
        notes = [_bytes(path) for path in head or ()]
        heads = known_heads(client.home, client.gateway, notes, keys=trusted)
    lines = [line for path in files for line in _bytes(path).splitlines()]
    if not lines:
        raise FormatError("there are no entries in these files", code="no-entries")
    _first_is_entry(lines[0])
    first, end = check_lines(lines, heads)
    within = [size for size in heads if first <= size <= end.size]
    told = {"first": first, "last": end.size, "sha256": end.sha256}
    told["heads"] = len(within)
    if not within:
        _no_head(end.size)
    _tell(told, f"entries {first} to {end.size} hold", as_json=as_json)


def _read(
    gateway: str | None,
    api_key: str | None,
    home: Path | None,
    lines: list[bytes],
    *,
    quiet: bool,
) -> Json:
    """Read and check a gateway's audit log; return what to tell of it."""
    with (
        progress(quiet=quiet) as notify,
        Client(gateway, api_key=api_key, home=home) as client,
    ):

        def take(page: list[bytes]) -> None:
            lines.extend(page)
            notify({"stage": "read the audit log", "entries": len(lines)})

        flow = read_audit(client.home, client.gateway, take=take)
        start, end = client.run(flow)
    return {
        "first": start.size + 1,
        "last": end.size,
        "sha256": end.sha256,
        "archived": start.size,
    }


def _tell(told: Json, done: str, *, as_json: bool) -> None:
    if as_json:
        print_json(told)
        return
    out.print(done, soft_wrap=True)
    if told["first"] > 1:
        before = told["first"] - 1
        out.print(
            f"[bold yellow]caveat[/] entries 1 to {before} were not checked: give the "
            "archive files before this one",
            soft_wrap=True,
        )


def _first_is_entry(line: bytes) -> None:
    try:
        parse_entry(line)
    except FormatError as exc:
        msg = f"the first line of the files is no audit entry: {exc.message}"
        raise FormatError(msg, code="no-entries") from exc


def _no_head(size: int) -> NoReturn:
    msg = (
        f"the chain holds up to entry {size}, but no signed tree head is known that "
        "names a part of it, so its end may be cut off: give one with --head FILE"
    )
    raise CannotVerifyError(msg, code="no-tree-head")


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise FormatError(f"there is no file {path}", code="no-such-file")
    return path.read_bytes()
