"""Both databases, and their tables through all revisions."""

import shutil
import signal
import threading
import time
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

import gateway.app  # noqa: F401 - every module with tables
from gateway.store.away import StoreAwayError
from gateway.store.database import Database, database_engine, sqlite_engine
from gateway.store.migrate import FOLDER, HEAD, migrate
from gateway.store.tables import metadata
from privacy.errors import FormatError, UnavailableError
from tests.support.postgres import new_database, server


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """An empty database."""
    return tmp_path / "x.sqlite" if request.param == "sqlite" else new_database()


@pytest.fixture
def engine(where):
    engine = database_engine(where)
    yield engine
    engine.dispose()


def _script() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    return ScriptDirectory.from_config(config)


def _differences(engine: sa.Engine) -> list[object]:
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": False}
        )
        return compare_metadata(context, metadata)


def test_the_file_is_private_and_in_wal_mode(tmp_path: Path):
    engine = sqlite_engine(tmp_path / "x.sqlite")
    with engine.connect() as connection:
        mode = connection.execute(sa.text("PRAGMA journal_mode")).scalar_one()
    engine.dispose()
    assert mode == "wal"
    assert (tmp_path / "x.sqlite").stat().st_mode & 0o077 == 0


def test_revisions_are_one_line_and_make_the_tables_that_the_code_uses(engine):
    assert _script().get_heads() == [HEAD]
    migrate(engine)
    assert _differences(engine) == []


def test_every_revision_goes_down_and_up_again(engine):
    revisions = [s.revision for s in _script().walk_revisions()]
    assert migrate(engine) == ("", revisions[0])
    for revision in [*revisions[1:], "base"]:
        migrate(engine, to=revision)
    assert set(sa.inspect(engine).get_table_names()) <= {"alembic_version"}
    for revision in reversed(revisions):
        migrate(engine, to=revision)
    assert _differences(engine) == []
    assert migrate(engine) == (revisions[0], revisions[0])


def test_a_data_folder_without_revisions_is_one_of_the_first(engine):
    migrate(engine, to="0001")
    with engine.begin() as c:
        c.execute(sa.text("DROP TABLE alembic_version"))
        c.execute(
            sa.text("INSERT INTO uploads VALUES ('t', 'blob', 's', 7, '', 'c', 'u')")
        )
    before, now = migrate(engine)
    assert before == "0001"
    assert now == _script().get_current_head()
    with engine.connect() as c:
        assert c.execute(sa.text("SELECT bytes FROM uploads")).scalar_one() == 7


def test_a_database_newer_than_the_program_is_refused_and_left_alone(where, engine):
    migrate(engine)
    with engine.begin() as c:
        c.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(UnavailableError, match="9999") as refusal:
        Database(where)
    assert refusal.value.code == "database-newer"
    with engine.connect() as c:
        found = c.execute(sa.text("SELECT version_num FROM alembic_version"))
        assert found.scalar_one() == "9999"


def test_an_unknown_revision_is_refused(engine):
    with pytest.raises(FormatError, match="no revision"):
        migrate(engine, to="0000")


_BROKEN = """
from alembic import op
revision, down_revision = "9000", {head!r}
def upgrade():
    op.drop_table("uploads")
    raise OSError
"""


def test_a_migration_that_fails_changes_nothing(engine, tmp_path, monkeypatch):
    migrate(engine)
    folder = shutil.copytree(FOLDER, tmp_path / "migrations")
    broken = _BROKEN.format(head=_script().get_current_head())
    (folder / "versions" / "9000_broken.py").write_text(broken)
    monkeypatch.setattr("gateway.store.migrate.FOLDER", folder)
    monkeypatch.setattr("gateway.store.migrate.HEAD", "9000")
    with pytest.raises(OSError):  # noqa: PT011 - it has no message
        migrate(engine)
    assert _differences(engine) == []


def test_gateways_that_start_at_once_migrate_once(where, engine):
    opened, threads = [], []
    for _ in range(3):
        thread = threading.Thread(target=lambda: opened.append(Database(where)))
        threads.append(thread)
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 3
    for database in opened:
        database.close()
    assert _differences(engine) == []


def test_an_address_that_is_not_of_postgresql_is_refused_without_its_password():
    for url in ("mysql://u:secret@h/d", "postgresql://u:secret@h/d", "secret", ""):
        with pytest.raises(FormatError) as refusal:
            Database(url)
        assert "secret" not in str(refusal.value)


def test_a_lock_keeps_others_waiting_on_postgresql():
    url, order = new_database(), []
    with closing(Database(url)) as one, closing(Database(url)) as two:

        def second() -> None:
            with two.write() as c:
                two.lock(c, "x")
                order.append("second")

        with one.write() as c:
            one.lock(c, "x")
            with two.write() as other:
                two.lock(other, "y")  # another lock: no waiting
            thread = threading.Thread(target=second)
            thread.start()
            time.sleep(0.2)
            order.append("first")
        thread.join()
    assert order == ["first", "second"]


def test_a_database_that_goes_away_is_a_typed_error_and_comes_back():
    with closing(Database(new_database())) as database:
        with database.write() as c:
            c.execute(sa.text("CREATE TABLE t (n INTEGER)"))
        server().stop(signal.SIGINT)
        for use in (database.read, database.write):
            with pytest.raises(UnavailableError) as refusal, use() as c:
                c.execute(sa.text("SELECT 1"))
            assert refusal.value.code == "database-unavailable"
        server().start()
        with database.read() as c:
            assert c.execute(sa.text("SELECT count(*) FROM t")).scalar_one() == 0


@pytest.mark.parametrize(
    "before",
    [
        "SET TRANSACTION READ ONLY",  # as on a standby, after a failover
        "SET idle_in_transaction_session_timeout = '50ms'",
    ],
)
def test_a_standby_and_a_session_that_paused_are_typed_errors_too(before: str):
    with closing(Database(new_database())) as database:

        def pause() -> None:
            with database.write() as c:
                c.execute(sa.text(before))
                time.sleep(0.3)
                c.execute(sa.text("CREATE TABLE t (n INTEGER)"))

        with pytest.raises(UnavailableError) as refusal:
            pause()
        assert refusal.value.code == "database-unavailable"
        with database.write() as c:
            c.execute(sa.text("CREATE TABLE t (n INTEGER)"))


def test_a_full_disk_is_a_typed_error_and_loses_nothing(tmp_path: Path):
    with closing(Database(tmp_path / "x.sqlite")) as database:
        with database.write() as c:
            pages = c.exec_driver_sql("PRAGMA page_count").scalar_one()
        rows = [(f"{i}" * 100, "blob", "s", 7, "", "c", "u") for i in range(1000)]

        def fill() -> None:
            with database.write() as c:
                c.exec_driver_sql(f"PRAGMA max_page_count={pages}")
                c.exec_driver_sql("INSERT INTO uploads VALUES (?,?,?,?,?,?,?)", rows)

        with pytest.raises(UnavailableError) as refusal:
            fill()
        assert refusal.value.code == "storage-full"
        with database.write() as c:
            c.exec_driver_sql("PRAGMA max_page_count=100000")
            assert c.exec_driver_sql("SELECT count(*) FROM uploads").scalar_one() == 0


def test_a_defect_in_a_statement_is_not_called_an_absent_database(tmp_path: Path):
    with (
        closing(Database(tmp_path / "x.sqlite")) as database,
        pytest.raises(sa.exc.OperationalError),
        database.read() as c,
    ):
        c.execute(sa.text("SELECT * FROM absent"))


@pytest.mark.parametrize(
    ("fresh_s", "met"),
    [(0.0, nullcontext()), (60.0, pytest.raises(StoreAwayError))],
    ids=["idle", "in use"],
)
def test_a_connection_that_was_lost_is_found_out_unless_it_was_used_just_now(
    monkeypatch: pytest.MonkeyPatch, fresh_s: float, met: AbstractContextManager[object]
):
    monkeypatch.setattr("gateway.store.database._FRESH_S", fresh_s)
    url = new_database()
    with closing(Database(url)) as database, closing(Database(url)) as other:
        with other.read() as c:
            end = sa.text("SELECT pg_terminate_backend(:pid, 5000)")
            c.execute(end, {"pid": _backend(database)})
        with met:
            _backend(database)
        assert _backend(database)  # once at most


def _backend(database: Database) -> int:
    with database.read() as c:
        return int(c.execute(sa.text("SELECT pg_backend_pid()")).scalar_one())
