"""What kind of statement a text of SQL is, for a label: never the text itself."""

from __future__ import annotations

import re

from tocsin.request import OTHER

OPERATIONS = frozenset(
    (
        *("SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE", "UPSERT", "VALUES", "TABLE", "COPY", "CALL"),
        *("CREATE", "ALTER", "DROP", "TRUNCATE", "GRANT", "REVOKE", "COMMENT", "ANALYZE", "VACUUM", "REINDEX"),
        *("BEGIN", "START", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE", "LOCK", "SET", "RESET", "SHOW", "USE"),
        *("EXPLAIN", "DESCRIBE", "PRAGMA", "EXEC", "EXECUTE", "DECLARE", "FETCH", "LISTEN", "NOTIFY", "REFRESH", "DO"),
    )
)
"""First words of statements that are shown as they are; all others are `_OTHER`."""

_AFTER_WITH = frozenset(("SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE", "VALUES", "TABLE"))
_FIRST = re.compile(r"(?:\s++|--[^\n]*+|\#[^\n]*+|/\*.*?\*/|\()*+([A-Za-z]++)", re.DOTALL)
_TOKEN = re.compile(
    r"--[^\n]*|/\*.*?\*/"  # comments
    r"|'[^']*'|\"[^\"]*\"|`[^`]*`|\$(\w*)\$.*?\$\1\$"  # strings and quoted names
    r"|[()]|\w+",
    re.DOTALL,
)


def operation_of(statement: str) -> str:
    """Return the operation of a statement in upper case: `SELECT`, `INSERT`, ..., or `_OTHER`.

    Comments and parentheses before it are passed over; of `WITH ... INSERT` it is the `INSERT`.
    """
    found = _FIRST.match(statement)
    if found is None:
        return OTHER
    word = found[1].upper()
    if word == "WITH":
        return _after_with(statement, found.end())
    return word if word in OPERATIONS else OTHER


def _after_with(statement: str, start: int) -> str:
    """Return the first word outside of all parentheses that a statement can begin with."""
    depth = 0
    for found in _TOKEN.finditer(statement, start):
        word = found[0].upper()
        if word == "(":
            depth += 1
        elif word == ")":
            depth -= 1
        elif depth == 0 and word in _AFTER_WITH:
            return word
    return OTHER
