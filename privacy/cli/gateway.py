"""Commands of operators on a gateway's own data: migrate."""

from pathlib import Path
from typing import Annotated

import typer

from privacy.cli.app import AsJson, command
from privacy.cli.operator import DEFAULT_DATA
from privacy.cli.output import out, print_json
from privacy.errors import UnavailableError


@command("gateway migrate")
def migrate(
    to: Annotated[
        str, typer.Option(help="A revision, such as 0001; else the newest.")
    ] = "head",
    data: Annotated[
        Path, typer.Option(help="Where the gateway keeps its state.")
    ] = DEFAULT_DATA,
    as_json: AsJson = False,
) -> None:
    """Bring the database's tables to a revision; a gateway's start does so itself.

    The database is that of $PRIVACY_GATEWAY_DATABASE_URL, else the one in --data. Going
    back removes what later revisions added: stop every gateway, and make a copy first.
    """
    try:
        from gateway.lock import FolderLock
        from gateway.settings import load_settings
        from gateway.store.away import passing_errors
        from gateway.store.database import database_engine
        from gateway.store.migrate import migrate as move
    except ImportError as exc:
        msg = "the gateway is not installed: pip install 'privacy-compute[gateway]'"
        raise UnavailableError(msg, code="engine-missing") from exc
    url = load_settings().database_url
    lock = None if url else FolderLock(data)
    try:
        engine = database_engine(url or data / "gateway.sqlite")
        with passing_errors():
            before, now = move(engine, to=to)
        engine.dispose()
    finally:
        if lock:
            lock.release()
    if as_json:
        print_json({"before": before or None, "now": now or None})
    else:
        out.print(f"the tables had revision {before or 'none'}, now {now or 'none'}")
