"""Second looks at jobs: comparisons, disputes, pinned files, doubtful nodes."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0008"


def upgrade() -> None:
    """Make the four tables."""
    op.create_table(
        "comparisons",
        sa.Column("job_id", sa.String, primary_key=True),
        sa.Column("tenant", sa.String, nullable=False),
        sa.Column("mode", sa.String, nullable=False),
        sa.Column("why", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("detail", sa.String, nullable=False),
        sa.Column("second_job_id", sa.String, nullable=False),
        sa.Column("third_job_id", sa.String, nullable=False),
        sa.Column("dispute_id", sa.String, nullable=False),
        sa.Column("created_at", sa.String, nullable=False),
        sa.Column("changed_at", sa.String, nullable=False),
        sa.Index("comparisons_by_state", "state"),
        sa.Index("comparisons_by_tenant", "tenant", "created_at"),
    )
    op.create_table(
        "disputes",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("job_id", sa.String, nullable=False),
        sa.Column("tenant", sa.String, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("version", sa.String, nullable=False),
        sa.Column("model_sha256", sa.String, nullable=False),
        sa.Column("mode", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("verdict", sa.String, nullable=False),
        sa.Column("at_fault", sa.String, nullable=False),
        sa.Column("runs", sa.JSON, nullable=False),
        sa.Column("claims", sa.JSON, nullable=False),
        sa.Column("note", sa.String, nullable=False),
        sa.Column("opened_at", sa.String, nullable=False),
        sa.Column("resolved_at", sa.String, nullable=False),
        sa.Column("resolved_by", sa.String, nullable=False),
        sa.Index("disputes_by_tenant", "tenant", "opened_at"),
        sa.Index("disputes_by_state", "state"),
        sa.Index("disputes_by_fault", "at_fault"),
    )
    op.create_table(
        "pins",
        sa.Column("dispute_id", sa.String, primary_key=True),
        sa.Column("sha256", sa.String, primary_key=True),
        sa.Column("tenant", sa.String, nullable=False),
        sa.Index("pins_by_digest", "sha256"),
    )
    op.create_table(
        "node_states",
        sa.Column("node", sa.String, primary_key=True),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("why", sa.String, nullable=False),
        sa.Column("at", sa.String, nullable=False),
    )


def downgrade() -> None:
    """Remove them, with all that is in them."""
    for table in ("node_states", "pins", "disputes", "comparisons"):
        op.drop_table(table)
