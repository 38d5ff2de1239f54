"""Commands about collateral: attest collateral fetch, attest collateral show."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from privacy.cli.app import AsJson, command
from privacy.cli.output import out, print_json, progress, table
from privacy.errors import FormatError
from privacy.files import default_home
from privacy.tee.cache import CollateralCache
from privacy.tee.collateral import Collateral, FileCollateral
from privacy.tee.detect import MAX_BYTES
from privacy.tee.fetch import VendorCollateral
from privacy.tee.inventory import inventory
from privacy.tee.services import SERVICES
from privacy.tee.trust import TrustStore, hardware_trust_store, simulated_trust_store

Cache = Annotated[
    Path | None,
    typer.Option(help="Folder for the vendors' answers; else in $PRIVACY_HOME."),
]
Service = Annotated[
    list[str] | None,
    typer.Option(
        help=f"NAME=URL: where else to ask; NAME is {', '.join(SERVICES)}. Repeatable."
    ),
]
Product = Annotated[
    str | None,
    typer.Option(help="AMD family of a report that does not name it: Milan, Genoa."),
]


@command("attest collateral fetch")
def fetch(
    file: Annotated[Path, typer.Argument(help="The evidence to get it for.")],
    collateral: Annotated[
        list[Path] | None,
        typer.Option(help="Certificates that came with it; repeatable."),
    ] = None,
    cache: Cache = None,
    service: Service = None,
    product: Product = None,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Ask also for what is kept.")
    ] = False,
    allow_simulated: Annotated[
        bool, typer.Option("--allow-simulated", help="For simulated evidence.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Ask the vendors for what evidence is verified with, and keep it."""
    store = simulated_trust_store() if allow_simulated else hardware_trust_store()
    raw = _read(file)
    beside = FileCollateral(tuple(collateral or ())).collateral()
    with vendors(
        store,
        cache,
        service,
        product=product,
        beside=beside,
        refresh=refresh,
        quiet=as_json,
    ) as source:
        found = source.collateral(raw)
    _print(found, datetime.now(UTC), as_json=as_json)
    if not as_json:
        out.print(f"kept in {_folder(cache)}", soft_wrap=True)


@command("attest collateral show")
def show(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="Files or folders; what was fetched by default."),
    ] = None,
    at: Annotated[
        str | None, typer.Option(help="What counts then, RFC 3339; now by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List collateral: what it is about, and from when to when it counts."""
    now = datetime.now(UTC) if at is None else parse_time(at)
    given = tuple(paths or (_folder(None),))
    _print(FileCollateral(given).collateral(), now, as_json=as_json)


@contextmanager
def vendors(
    store: TrustStore,
    cache: Path | None,
    services: list[str] | None,
    *,
    product: str | None,
    beside: Collateral,
    quiet: bool,
    refresh: bool = False,
) -> Iterator[VendorCollateral]:
    """Give the vendors' services, with progress shown while the body runs."""
    with progress(quiet=quiet) as tell:
        yield VendorCollateral(
            store,
            CollateralCache(_folder(cache), datetime.now(UTC)),
            services=_services(services or []),
            product=product,
            beside=beside.certificates,
            refresh=refresh,
            progress=lambda words: tell({"stage": f"asking for {words}"}),
        )


def parse_time(text: str) -> datetime:
    """Return the time that an option names.

    Raises:
        FormatError: It is none, or has no time zone.
    """
    try:
        when = datetime.fromisoformat(text)
    except ValueError as exc:
        msg = f"{text!r} is no time, expected one like 2025-06-20T12:00:00Z"
        raise FormatError(msg, code="bad-time") from exc
    if when.tzinfo is None:
        msg = f"{text!r} has no time zone: write Z behind it for UTC"
        raise FormatError(msg, code="bad-time")
    return when


def _services(pairs: list[str]) -> dict[str, str]:
    found = dict(pair.partition("=")[::2] for pair in pairs)
    if unknown := set(found) - set(SERVICES):
        names = ", ".join(SERVICES)
        msg = f"{min(unknown)!r} is no service, expected NAME=URL with one of {names}"
        raise FormatError(msg, code="usage")
    return found


def _folder(cache: Path | None) -> Path:
    return cache or default_home() / "collateral"


def _print(collateral: Collateral, now: datetime, *, as_json: bool) -> None:
    entries = inventory(collateral)
    if as_json:
        print_json([entry.as_dict(now) for entry in entries])
        return
    rows = [
        [
            entry.kind,
            entry.about,
            f"{entry.starts:%Y-%m-%d}",
            f"{entry.ends:%Y-%m-%d}" if entry.ends else "",
            "yes" if entry.counts(now) else "no",
            entry.sha256[:12],
        ]
        for entry in entries
    ]
    columns = ["kind", "about", "from", "until", "counts", "sha256"]
    table("collateral, not verified", columns, rows)


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise FormatError(f"there is no file {path}", code="no-such-file")
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)
