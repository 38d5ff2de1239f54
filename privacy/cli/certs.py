"""Commands about certificates of a private authority."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from privacy.certs import Authority, Certificates, Issued
from privacy.certs.make import KINDS
from privacy.certs.store import AUTHORITY_DAYS, LEAF_DAYS
from privacy.cli.app import AsJson, HomeDir, command
from privacy.cli.output import out, print_json, print_one, safe, table
from privacy.client.passphrase import read_passphrase
from privacy.files import default_home

_VARIABLE = "PRIVACY_CA_PASSPHRASE"
Folder = Annotated[
    Path | None, typer.Option("--dir", help="The authority's folder; else HOME/certs.")
]
CaPassphrase = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        help="File whose first line is the passphrase of the authority's key; "
        f"else ${_VARIABLE}, else the key is kept without one.",
    ),
]
Name = Annotated[str, typer.Argument(help="Whose certificate: a machine's name.")]
LeafDays = Annotated[float, typer.Option("--days", help="How long it is valid.")]
AuthorityDays = Annotated[float, typer.Option("--days", help="How long it is valid.")]


def _opened(
    folder: Path | None, home: Path | None, passphrase: Path | None = None
) -> Certificates:
    given = read_passphrase(passphrase) if passphrase else os.environ.get(_VARIABLE)
    where = folder or (home or default_home()) / "certs"
    return Certificates(where, passphrase=given or None)


@command("certs init")
def init(
    name: Annotated[str, typer.Option(help="What to call it.")] = "privacy-compute",
    days: AuthorityDays = AUTHORITY_DAYS,
    passphrase_file: CaPassphrase = None,
    folder: Folder = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a private certificate authority."""
    certs = _opened(folder, home, passphrase_file)
    made = certs.init(name, days=days)
    _print_authority(certs, made, "made", as_json=as_json)


@command("certs issue")
def issue(
    name: Name,
    kind: Annotated[str, typer.Option(help=f"One of {', '.join(KINDS)}.")] = "gateway",
    host: Annotated[
        list[str] | None,
        typer.Option(help="DNS name or IP address it serves under; repeatable."),
    ] = None,
    days: LeafDays = LEAF_DAYS,
    passphrase_file: CaPassphrase = None,
    folder: Folder = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a certificate with a new private key for one machine."""
    certs = _opened(folder, home, passphrase_file)
    made = certs.issue(name, kind=kind, hosts=host or [], days=days)
    where = certs.files(name)
    print_one(
        {**asdict(made), "files": str(where)},
        f"{safe(kind)} [bold]{safe(name)}[/] until {made.expires_at}: copy tls.crt, "
        f"tls.key and trust.pem from {safe(where)} to it",
        as_json=as_json,
    )


@command("certs renew")
def renew(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Whose; else all that are due, as a daily job would."),
    ] = None,
    days: LeafDays = LEAF_DAYS,
    passphrase_file: CaPassphrase = None,
    folder: Folder = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Issue certificates anew, with new private keys."""
    certs = _opened(folder, home, passphrase_file)
    done = certs.renew(names or [], days=days)
    where = certs.folder / "issued"
    text = f"renewed {safe(', '.join(done))}: copy them from {safe(where)}"
    print_one(
        {"renewed": done, "files": str(where)},
        text if done else "nothing is due",
        as_json=as_json,
    )


@command("certs revoke")
def revoke(
    name: Name,
    passphrase_file: CaPassphrase = None,
    folder: Folder = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Revoke a certificate; machines refuse it once they have the new trust.pem."""
    certs = _opened(folder, home, passphrase_file)
    gone = certs.revoke(name)
    print_one(
        {**asdict(gone), "trust": str(certs.trust)},
        f"revoked {safe(name)}: copy {safe(certs.trust)} to every machine",
        as_json=as_json,
    )


@command("certs rotate")
def rotate(
    days: AuthorityDays = AUTHORITY_DAYS,
    passphrase_file: CaPassphrase = None,
    folder: Folder = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a new authority beside the old one, which stays trusted until `retire`."""
    certs = _opened(folder, home, passphrase_file)
    made = certs.rotate(days=days)
    _print_authority(certs, made, "signs from now on", as_json=as_json)
    if not as_json:
        text = "next: copy trust.pem everywhere, `privacy certs renew`, copy those"
        out.print(f"{text}, then `privacy certs retire`", soft_wrap=True)


@command("certs retire")
def retire(
    folder: Folder = None, home: HomeDir = None, as_json: AsJson = False
) -> None:
    """End a rotation: trust the old authority no more."""
    certs = _opened(folder, home)
    _print_authority(certs, certs.retire(), "is trusted no more", as_json=as_json)


def _print_authority(
    certs: Certificates, one: Authority, what: str, *, as_json: bool
) -> None:
    print_one(
        {**asdict(one), "trust": str(certs.trust)},
        f"authority {safe(one.name)} {one.id[:12]} {what}, until {one.expires_at}: "
        f"every machine needs {safe(certs.trust)}",
        as_json=as_json,
    )


@command("certs list")
def list_(folder: Folder = None, home: HomeDir = None, as_json: AsJson = False) -> None:
    """List authorities and certificates, and which are due to be renewed."""
    certs = _opened(folder, home)
    authorities, issued = certs.all()
    due = {i.name for i in issued if not i.revoked_at and certs.due(i, authorities[-1])}
    if as_json:
        found = [{**asdict(i), "due": i.name in due} for i in issued]
        by = [asdict(a) for a in authorities]
        print_json({"authorities": by, "certificates": found})
        return
    rows = [[a.name, a.id[:12], a.made_at, a.expires_at] for a in authorities]
    table("authorities, the one that signs last", ["name", "id", "made", "until"], rows)
    columns = ["name", "kind", "hosts", "authority", "until", ""]
    table("", columns, [_row(i, due) for i in issued])


def _row(one: Issued, due: set[str]) -> list[str]:
    state = "due: renew it" if one.name in due else ""
    if one.revoked_at:
        state = f"revoked {one.revoked_at}"
    hosts = ", ".join(one.hosts)
    return [one.name, one.kind, hosts, one.authority[:12], one.expires_at, state]
