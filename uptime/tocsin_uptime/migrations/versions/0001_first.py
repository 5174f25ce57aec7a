"""The first tables: results one by one, and where each check stands."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "probe_result",
        sa.Column("check_name", sa.String(100), primary_key=True),
        # Milliseconds as integers: they divide into hours the same way on every database.
        sa.Column("at_ms", sa.BigInteger, primary_key=True),
        sa.Column("verdict", sa.String(10), nullable=False),
        sa.Column("reason", sa.String(24), nullable=False),
        sa.Column("duration", sa.Double, nullable=False),
        sa.Column("phases", sa.JSON, nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("sentence", sa.Text, nullable=False),
        sa.Column("excerpt", sa.Text, nullable=False),
        # Clustered by check: the history of one is one read.
        sqlite_with_rowid=False,
    )
    # Retention deletes by age, whatever the check.
    op.create_index("probe_result_at_ms", "probe_result", ["at_ms"])
    op.create_table(
        "probe_state",
        sa.Column("check_name", sa.String(100), primary_key=True),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("since_ms", sa.BigInteger, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("successes", sa.Integer, nullable=False),
        sa.Column("row_began_ms", sa.BigInteger),
    )
