"""The receipt log, the audit log, and the history of receipt keys."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0006"

_COUNTER = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_SQLITE = (
    """CREATE TRIGGER audit_entries_no_update BEFORE UPDATE ON audit_entries
    BEGIN SELECT RAISE(ABORT, 'entries of the audit log are never changed'); END""",
    """CREATE TRIGGER audit_entries_no_delete BEFORE DELETE ON audit_entries
    WHEN OLD.seq > (SELECT archived_size FROM audit_state)
    BEGIN SELECT RAISE(ABORT, 'entries of the audit log go only once archived'); END""",
)
_POSTGRESQL = (
    """CREATE FUNCTION audit_entries_keep() RETURNS trigger AS $$ BEGIN
    IF TG_OP <> 'DELETE' THEN
    RAISE EXCEPTION 'entries of the audit log are never changed'; END IF;
    IF OLD.seq > (SELECT archived_size FROM audit_state) THEN
    RAISE EXCEPTION 'entries of the audit log go only once archived'; END IF;
    RETURN OLD; END $$ LANGUAGE plpgsql""",
    """CREATE TRIGGER audit_entries_keep BEFORE UPDATE OR DELETE ON audit_entries
    FOR EACH ROW EXECUTE FUNCTION audit_entries_keep()""",
    """CREATE FUNCTION audit_entries_no_truncate() RETURNS trigger AS $$ BEGIN
    RAISE EXCEPTION 'entries of the audit log go only once archived';
    END $$ LANGUAGE plpgsql""",
    """CREATE TRIGGER audit_entries_no_truncate BEFORE TRUNCATE ON audit_entries
    FOR EACH STATEMENT EXECUTE FUNCTION audit_entries_no_truncate()""",
)


def upgrade() -> None:
    """Make the tables; the log gets a name of its own."""
    waiting = sa.text("log_index IS NULL AND receipt IS NOT NULL")
    op.add_column("jobs", sa.Column("log_index", sa.BigInteger))
    op.create_index(
        "jobs_not_logged",
        "jobs",
        ["finished_at"],
        postgresql_where=waiting,
        sqlite_where=waiting,
    )
    states = _logs(), _audit()
    op.create_table(
        "receipt_key_history",
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("statement", sa.JSON, nullable=False),
    )
    zeros = "0" * 64
    origin = f"privacy-compute/receipts/{secrets.token_hex(16)}"
    audit = {"size": 0, "sha256": zeros, "archived_size": 0, "archived_sha256": zeros}
    rows: tuple[dict[str, object], ...] = ({"origin": origin, "size": 0}, audit)
    for table, row in zip(states, rows, strict=True):
        op.bulk_insert(table, [{"id": 1, **row}])
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    for statement in _SQLITE if is_sqlite else _POSTGRESQL:
        op.execute(statement)


def _logs() -> sa.Table:
    state = op.create_table(
        "log_state",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("origin", sa.String, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "log_leaves",
        sa.Column("leaf_index", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("leaf_hash", sa.LargeBinary, nullable=False),
        sa.Column("logged_at", sa.String, nullable=False),
        sa.Index("log_leaves_by_hash", "leaf_hash"),
        sa.Index("log_leaves_by_time", "logged_at"),
    )
    op.create_table(
        "log_nodes",
        sa.Column("level", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "log_heads",
        sa.Column("id", _COUNTER, primary_key=True),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("audit_size", sa.BigInteger, nullable=False),
        sa.Column("signed_at", sa.String, nullable=False),
        sa.Column("note", sa.LargeBinary, nullable=False),
    )
    return state


def _audit() -> sa.Table:
    state = op.create_table(
        "audit_state",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String, nullable=False),
        sa.Column("archived_size", sa.BigInteger, nullable=False),
        sa.Column("archived_sha256", sa.String, nullable=False),
    )
    op.create_table(
        "audit_entries",
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at", sa.String, nullable=False),
        sa.Column("sha256", sa.String, nullable=False),
        sa.Column("line", sa.Text, nullable=False),
    )
    op.create_table(
        "audit_pending",
        sa.Column("id", _COUNTER, primary_key=True),
        sa.Column("act", sa.JSON, nullable=False),
    )
    return state


def downgrade() -> None:
    """Remove the tables, with all that is in them."""
    for table in (
        "receipt_key_history",
        "audit_pending",
        "audit_entries",
        "audit_state",
        "log_heads",
        "log_nodes",
        "log_leaves",
        "log_state",
    ):
        op.drop_table(table)
    if op.get_bind().dialect.name != "sqlite":
        op.execute("DROP FUNCTION audit_entries_keep()")
        op.execute("DROP FUNCTION audit_entries_no_truncate()")
    op.drop_index("jobs_not_logged", "jobs")
    op.drop_column("jobs", "log_index")
