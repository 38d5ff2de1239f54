"""Brings a database's tables to a revision; see `gateway/store/migrations`.

A gateway does so by itself when it starts. All of it is one transaction, under a lock
that other gateways wait for, so a crash in the middle changes nothing.
"""

from pathlib import Path

import sqlalchemy as sa

from privacy.errors import FormatError, UnavailableError

FOLDER = Path(__file__).parent / "migrations"
_FIRST = "0001"
HEAD = "0012"
_LOCK = 0x70726976  # of PostgreSQL's advisory locks


def migrate(engine: sa.Engine, *, to: str = "head") -> tuple[str, str]:
    """Bring the tables to a revision; return the one before and the one now.

    A database from before there were revisions is taken as one of the first.

    Args:
        engine: Of the database.
        to: A revision such as 0001, `head` for the newest, `base` for no tables.

    Raises:
        UnavailableError: The database is newer than this program.
        FormatError: There is no such revision.
    """
    if to == "head" and _revision(engine) == HEAD:
        return HEAD, HEAD  # the usual start, which need not load alembic
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    known = [s.revision for s in ScriptDirectory.from_config(config).walk_revisions()]
    if to not in {"head", "base", *known}:
        msg = f"there is no revision {to[:20]!r} of the tables: {', '.join(known)}"
        raise FormatError(msg, code="unknown-revision")
    with engine.connect() as connection:
        _lock(connection)
        before = MigrationContext.configure(connection).get_current_revision() or ""
        if before and before not in known:
            msg = (
                f"the database has revision {before} of the tables, newer than this "
                f"program's {known[0]}: run the version that wrote it, or a newer one"
            )
            raise UnavailableError(msg, code="database-newer")
        config.attributes["connection"] = connection
        if not before and sa.inspect(connection).has_table("jobs"):
            command.stamp(config, _FIRST)
            before = _FIRST
        target = known[0] if to == "head" else "" if to == "base" else to
        if target != before:
            # `known` has the newest first; no tables at all come after the oldest.
            place = [*known, ""].index
            move = command.upgrade
            if place(target) > place(before):
                move = command.downgrade
            move(config, to)
        connection.commit()
    return before, target


def _revision(engine: sa.Engine) -> str:
    """Return the revision of a database's tables, "" if it has none."""
    query = sa.text("SELECT version_num FROM alembic_version")
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return ""
        return str(connection.execute(query).scalar_one_or_none() or "")


def _lock(connection: sa.Connection) -> None:
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:  # however long another gateway's migration takes, and ours
        for limit in ("lock_timeout", "statement_timeout"):
            connection.exec_driver_sql(f"SET LOCAL {limit} = 0")
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
