"""What runs took, for estimates."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0001"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "run_measures",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("model_sha256", sa.String, nullable=False),
        sa.Column("mode", sa.String, nullable=False),
        sa.Column("node", sa.String, nullable=False),
        sa.Column("rows", sa.Integer, nullable=False),
        sa.Column("queue_s", sa.Float, nullable=False),
        sa.Column("load_s", sa.Float, nullable=False),
        sa.Column("run_s", sa.Float, nullable=False),
        sa.Column("bytes_up", sa.BigInteger, nullable=False),
        sa.Column("bytes_down", sa.BigInteger, nullable=False),
        sa.Column("memory_bytes", sa.BigInteger, nullable=False),
        sa.Column("at", sa.String, nullable=False),
        sa.Index("run_measures_by_model", "model_sha256", "mode", "id"),
    )


def downgrade() -> None:
    """Remove it."""
    op.drop_table("run_measures")
