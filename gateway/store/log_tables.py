"""The tables of the receipt log, the audit log and the history of receipt keys.

Rows are only ever added, but for the one row of each `…_state`, which whoever adds
locks first, and for what waits in `audit_pending`. Triggers keep it so for the audit
log; see the migrations.
"""

import sqlalchemy as sa

from gateway.store.tables import metadata

COUNTER = sa.BigInteger().with_variant(sa.Integer, "sqlite")

log_state = sa.Table(
    "log_state",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("origin", sa.String, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
)

log_leaves = sa.Table(
    "log_leaves",
    metadata,
    sa.Column("leaf_index", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("leaf_hash", sa.LargeBinary, nullable=False),
    sa.Column("logged_at", sa.String, nullable=False),
    sa.Index("log_leaves_by_hash", "leaf_hash"),
    sa.Index("log_leaves_by_time", "logged_at"),
)

log_nodes = sa.Table(
    "log_nodes",
    metadata,
    sa.Column("level", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
)

log_heads = sa.Table(
    "log_heads",
    metadata,
    sa.Column("id", COUNTER, primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("audit_size", sa.BigInteger, nullable=False),
    sa.Column("signed_at", sa.String, nullable=False),
    sa.Column("note", sa.LargeBinary, nullable=False),
)

audit_state = sa.Table(
    "audit_state",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String, nullable=False),
    sa.Column("archived_size", sa.BigInteger, nullable=False),
    sa.Column("archived_sha256", sa.String, nullable=False),
)

audit_entries = sa.Table(
    "audit_entries",
    metadata,
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at", sa.String, nullable=False),
    sa.Column("sha256", sa.String, nullable=False),
    sa.Column("line", sa.Text, nullable=False),
)

audit_pending = sa.Table(
    "audit_pending",
    metadata,
    sa.Column("id", COUNTER, primary_key=True),
    sa.Column("act", sa.JSON, nullable=False),
)

receipt_key_history = sa.Table(
    "receipt_key_history",
    metadata,
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("statement", sa.JSON, nullable=False),
)
