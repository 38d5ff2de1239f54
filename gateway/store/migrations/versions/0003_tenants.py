"""Tenants as rows; API keys that rotate and say when they were used last."""

import sqlalchemy as sa
from alembic import op

from privacy.clock import now

revision = "0003"
down_revision = "0007"

_NEW = ("previous_sha256", "previous_until", "last_used_at")


def upgrade() -> None:
    """Make the table, with every tenant that has a key, an upload or a job."""
    tenants = op.create_table(
        "tenants",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("quota_bytes", sa.BigInteger),
        sa.Column("max_queued_jobs", sa.Integer),
        sa.Column("submits_per_minute", sa.Integer),
        sa.Column("uploads_per_minute", sa.Integer),
        sa.Column("reads_per_minute", sa.Integer),
        sa.Column("created_at", sa.String, nullable=False),
        sa.Column("changed_at", sa.String, nullable=False),
    )
    for name in _NEW:
        op.add_column("api_keys", sa.Column(name, sa.String))
    op.create_index(
        "api_keys_by_previous", "api_keys", ["previous_sha256"], unique=True
    )
    known = {"default"}
    for table in ("api_keys", "uploads", "jobs"):
        tenant = sa.table(table, sa.column("tenant")).c.tenant
        known |= set(op.get_bind().execute(sa.select(tenant).distinct()).scalars())
    at = now()
    common = {"name": "", "state": "active", "created_at": at, "changed_at": at}
    op.bulk_insert(tenants, [{"id": tenant, **common} for tenant in sorted(known)])


def downgrade() -> None:
    """Remove it; keys of suspended tenants work again, of rotated keys the newest."""
    op.drop_index("api_keys_by_previous", "api_keys")
    for name in _NEW:
        op.drop_column("api_keys", name)
    op.drop_table("tenants")
