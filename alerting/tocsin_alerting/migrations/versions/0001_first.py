"""What receivers have been told and are to be told, the alerts, the rhythm of groups, and who of several tells."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

# SQLite numbers rows by itself only where the key is a plain INTEGER.
_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create the tables; `tocsin_alerting.tables` says what they hold."""
    _lanes()
    _history()
    op.create_table(
        "alerting_alert",
        sa.Column("fingerprint", sa.Text, primary_key=True),
        sa.Column("alert", sa.Text, nullable=False),
        sa.Column("ends_at", sa.Double, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
        sa.Column("received_at", sa.Double, nullable=False),
        sa.Column("changed_at", sa.Double, nullable=False),
        sa.Column("writer", sa.Text, nullable=False),
    )
    if op.get_bind().dialect.name != "sqlite":
        # What another replica heard since a moment ago; a file has one user.
        op.create_index("alerting_alert_changed", "alerting_alert", ["changed_at"])
    op.create_table(
        "alerting_group",
        sa.Column("group_key", sa.Text, primary_key=True),
        sa.Column("receiver", sa.Text, primary_key=True),
        sa.Column("anchor", sa.Double, nullable=False),
    )
    leader = op.create_table(
        "alerting_leader",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
    )
    op.bulk_insert(leader, [{"name": "dispatch", "holder": "", "epoch": 0, "expires_at": 0.0}])


def _lanes() -> None:
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
        sa.Column("labels", sa.Text, nullable=False),
        sa.Column("handle", sa.Text),
        sa.Column("exposed", sa.Boolean, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
    )
    op.create_table(
        "alerting_outbox",
        sa.Column("id", _NUMBER, primary_key=True),
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
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("told", sa.Text, nullable=False),
        sa.Column("notification", sa.Text, nullable=False),
    )
    # The lookups: pending rows at a start, the pending row of one lane, the messages about a group, old rows to delete.
    op.create_index("alerting_outbox_lane", "alerting_outbox", ["state", "group_key"])
    op.create_index("alerting_outbox_group", "alerting_outbox", ["group_key"])
    op.create_index("alerting_outbox_finished", "alerting_outbox", ["finished_at"])


def _history() -> None:
    op.create_table(
        "alerting_attempt",
        sa.Column("id", _NUMBER, primary_key=True),
        sa.Column("outbox_id", sa.BigInteger, nullable=False, index=True),
        sa.Column("at", sa.Double, nullable=False, index=True),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    )
    op.create_table(
        "alerting_event",
        sa.Column("id", _NUMBER, primary_key=True),
        sa.Column("at", sa.Double, nullable=False, index=True),
        sa.Column("group_key", sa.Text, nullable=False, index=True),
        sa.Column("receiver", sa.Text, nullable=False),
        sa.Column("integration", sa.Text, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("what", sa.Text, nullable=False),
    )
