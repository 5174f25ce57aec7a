"""What receivers have been told, what they are still to be told, and the alerts they were told of."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables; `tocsin_alerting.storage` says what they hold."""
    op.create_table(
        "alerting_group_state",
        sa.Column("group_key", sa.Text, primary_key=True),
        sa.Column("receiver", sa.Text, primary_key=True),
        sa.Column("integration", sa.Text, primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("intended", sa.Text),
        sa.Column("told", sa.Text),
        sa.Column("told_sequence", sa.BigInteger, nullable=False),
        sa.Column("exposed", sa.Boolean, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
    )
    op.create_table(
        "alerting_outbox",
        # SQLite numbers rows by itself only where the key is a plain INTEGER.
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("key", sa.Text, nullable=False, unique=True),
        sa.Column("group_key", sa.Text, nullable=False),
        sa.Column("receiver", sa.Text, nullable=False),
        sa.Column("integration", sa.Text, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("finished_at", sa.Double),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("told", sa.Text, nullable=False),
        sa.Column("notification", sa.Text, nullable=False),
    )
    # The lookups: pending rows at a start, the pending row of one lane, old rows to delete.
    op.create_index("alerting_outbox_lane", "alerting_outbox", ["state", "group_key"])
    op.create_index("alerting_outbox_finished", "alerting_outbox", ["finished_at"])
    op.create_table(
        "alerting_alert",
        sa.Column("fingerprint", sa.Text, primary_key=True),
        sa.Column("alert", sa.Text, nullable=False),
        sa.Column("ends_at", sa.Double, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
    )
