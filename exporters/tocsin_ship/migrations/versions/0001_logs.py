"""Log lines and their full-text index (SQLite's FTS5)."""

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE logs (
            id INTEGER PRIMARY KEY,
            uid TEXT NOT NULL UNIQUE,  -- file and offset: a line that comes twice is stored once
            at REAL NOT NULL,          -- Unix seconds
            level TEXT NOT NULL,
            service TEXT NOT NULL,
            message TEXT NOT NULL,
            trace_id TEXT NOT NULL,
            extra TEXT NOT NULL,       -- the words of the other fields
            line TEXT NOT NULL         -- the event as JSON
        )
        """
    )
    op.execute("CREATE INDEX logs_at ON logs (at)")
    op.execute("CREATE INDEX logs_trace ON logs (trace_id) WHERE trace_id != ''")
    # The index refers to the table instead of holding the text once more; triggers keep the two together.
    op.execute(
        "CREATE VIRTUAL TABLE logs_text USING fts5 (message, extra, content = 'logs', content_rowid = 'id', "
        "tokenize = 'unicode61 remove_diacritics 2')"
    )
    op.execute(
        "CREATE TRIGGER logs_added AFTER INSERT ON logs BEGIN "
        "INSERT INTO logs_text (rowid, message, extra) VALUES (new.id, new.message, new.extra); END"
    )
    op.execute(
        "CREATE TRIGGER logs_deleted AFTER DELETE ON logs BEGIN "
        "INSERT INTO logs_text (logs_text, rowid, message, extra) "
        "VALUES ('delete', old.id, old.message, old.extra); END"
    )
