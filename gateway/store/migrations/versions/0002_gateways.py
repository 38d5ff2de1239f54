"""Several gateways on one database: who lives, who runs which job, who has what."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0003"


def upgrade() -> None:
    """Add tables of gateways, enclaves and usage; name the gateway of each job."""
    op.create_table(
        "gateways",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("life", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("lease_s", sa.Double, nullable=False),
        sa.Column("beat", sa.BigInteger, nullable=False),
        sa.Column("joined_at", sa.String, nullable=False),
    )
    op.create_table(
        "enclaves",
        sa.Column("key_id", sa.String, primary_key=True),
        sa.Column("gateway", sa.String, nullable=False),
        sa.Column("seen_at", sa.String, nullable=False),
    )
    usage = op.create_table(
        "usage",
        sa.Column("tenant", sa.String, primary_key=True),
        sa.Column("bytes", sa.BigInteger, nullable=False),
    )
    uploads = sa.table("uploads", sa.column("tenant"), sa.column("bytes"))
    total = sa.cast(sa.func.sum(uploads.c.bytes), sa.BigInteger)
    sums = sa.select(uploads.c.tenant, total).group_by(uploads.c.tenant)
    op.execute(sa.insert(usage).from_select(["tenant", "bytes"], sums))
    op.add_column(
        "jobs", sa.Column("gateway", sa.String, nullable=False, server_default="")
    )
    op.add_column("jobs", sa.Column("progress", sa.JSON(none_as_null=True)))
    op.create_index("jobs_by_gateway", "jobs", ["gateway", "status"])


def downgrade() -> None:
    """Remove them; open jobs are run again by whoever starts next."""
    op.drop_index("jobs_by_gateway", "jobs")
    op.drop_column("jobs", "progress")
    op.drop_column("jobs", "gateway")
    for table in ("usage", "enclaves", "gateways"):
        op.drop_table(table)
