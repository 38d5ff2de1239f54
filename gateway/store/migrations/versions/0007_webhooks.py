"""Webhooks and what is to be delivered to them."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0004"


def upgrade() -> None:
    """Make the two tables, and find jobs by their end."""
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("tenant", sa.String, nullable=False, index=True),
        sa.Column("url", sa.String, nullable=False),
        sa.Column("events", sa.JSON, nullable=False),
        sa.Column("key_id", sa.String, nullable=False),
        sa.Column("secret_number", sa.Integer, nullable=False),
        sa.Column("old_secret_until", sa.String, nullable=False),
        sa.Column("created_at", sa.String, nullable=False),
        sa.Column("seen_until", sa.String, nullable=False),
        sa.Column("failing_since", sa.String, nullable=False),
        sa.Column("disabled_at", sa.String, nullable=False),
    )
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("webhook_id", sa.String, nullable=False),
        sa.Column("about", sa.String, nullable=False),
        sa.Column("event", sa.String, nullable=False),
        sa.Column("payload", sa.String, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("created_at", sa.String, nullable=False),
        sa.Column("next_at", sa.String, nullable=False),
        sa.Column("ended_at", sa.String, nullable=False),
        sa.Column("answer", sa.String, nullable=False),
        sa.UniqueConstraint("webhook_id", "about"),
        sa.Index("webhook_deliveries_due", "status", "next_at"),
    )
    op.create_index("jobs_by_end", "jobs", ["tenant", "finished_at"])


def downgrade() -> None:
    """Remove them."""
    op.drop_index("jobs_by_end", "jobs")
    op.drop_table("webhook_deliveries")
    op.drop_table("webhooks")
