"""Receipts of peers, their lies, and which peer ran a job."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0002"


def upgrade() -> None:
    """Make the tables and the column."""
    op.create_table(
        "peer_receipts",
        sa.Column("job_id", sa.String, primary_key=True),
        sa.Column("tenant", sa.String, nullable=False),
        sa.Column("receipt", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "peer_lies",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("peer", sa.String, nullable=False),
        sa.Column("job_id", sa.String, nullable=False),
        sa.Column("code", sa.String, nullable=False),
        sa.Column("message", sa.String, nullable=False),
        sa.Column("said", sa.JSON, nullable=False),
        sa.Column("at", sa.String, nullable=False),
        sa.Column("distrusted_until", sa.String, nullable=False),
        sa.Index("peer_lies_by_peer", "peer", "id"),
    )
    op.add_column(
        "jobs", sa.Column("peer", sa.String, nullable=False, server_default="")
    )


def downgrade() -> None:
    """Remove them."""
    op.drop_column("jobs", "peer")
    op.drop_table("peer_lies")
    op.drop_table("peer_receipts")
