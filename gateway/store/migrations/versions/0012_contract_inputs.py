"""Inputs for contracts: blobs that rows name, not files in a folder."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "contract_inputs",
        sa.Column("tenant", sa.String, primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("sha256", sa.String, nullable=False),
        sa.Column("created_at", sa.String, nullable=False),
        sa.Index("contract_inputs_by_name", "name", "created_at"),
    )


def downgrade() -> None:
    """Remove it."""
    op.drop_table("contract_inputs")
