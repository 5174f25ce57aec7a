"""When heartbeats were last heard, and since when they are missing."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create the table; `tocsin_alerting.heartbeat_store` says what it holds."""
    op.create_table(
        "alerting_heartbeat",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("last_heard", sa.Double, nullable=False),
        sa.Column("missing_since", sa.Double),
    )
