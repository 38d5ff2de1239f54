"""The share of a tenant's own of jobs that are looked at twice."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the column."""
    op.add_column("tenants", sa.Column("verify_share", sa.Float))


def downgrade() -> None:
    """Remove it."""
    op.drop_column("tenants", "verify_share")
