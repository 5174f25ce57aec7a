import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tocsin_service.db import Database, DatabaseError, Migrations, sqlite_url

FIRST = """
import sqlalchemy as sa
from alembic import op
revision, down_revision, branch_labels, depends_on = "0001", None, None, None
def upgrade():
    op.create_table("note", sa.Column("id", sa.Integer, primary_key=True), sa.Column("text", sa.Text))
"""
SECOND = """
import sqlalchemy as sa
from alembic import op
revision, down_revision, branch_labels, depends_on = "0002", "0001", None, None
def upgrade():
    op.add_column("note", sa.Column("author", sa.Text))
"""
BROKEN = SECOND.replace(
    'op.add_column("note"', 'op.execute("insert into note (text) values (1)"); op.add_column("none"'
)


@pytest.fixture
def migrations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    versions = tmp_path / "notes_part" / "versions"
    versions.mkdir(parents=True)
    (tmp_path / "notes_part" / "__init__.py").touch()
    (versions / "0001_first.py").write_text(FIRST)
    monkeypatch.syspath_prepend(tmp_path)
    yield versions
    sys.modules.pop("notes_part", None)


NOTES = Migrations("notes", "notes_part")


async def test_tables_are_brought_up_to_date_and_kept(any_database_url: str, migrations: Path) -> None:
    """A first start makes the tables, a newer version changes them, and what was there stays."""
    url = any_database_url
    database = await Database.open(url, [NOTES])
    async with database.write() as connection:
        await connection.execute(sa.text("insert into note (text) values ('kept')"))
    await database.close()
    (migrations / "0002_author.py").write_text(SECOND)
    for _ in range(2):
        database = await Database.open(url, [NOTES])
        async with database.read() as connection:
            rows = (await connection.execute(sa.text("select text, author from note"))).all()
        await database.close()
        assert [tuple(row) for row in rows] == [("kept", None)]


async def test_a_failed_migration_changes_nothing(tmp_path: Path, migrations: Path) -> None:
    """Half a migration is none."""
    url = sqlite_url(tmp_path / "x.db")
    await (await Database.open(url, [NOTES])).close()
    (migrations / "0002_broken.py").write_text(BROKEN)
    with pytest.raises(DatabaseError, match="cannot use the database"):
        await Database.open(url, [NOTES])
    (migrations / "0002_broken.py").unlink()
    database = await Database.open(url, [NOTES])
    async with database.read() as connection:
        assert (await connection.execute(sa.text("select count(*) from note"))).scalar_one() == 0
    await database.close()


async def test_a_database_of_a_newer_version_is_refused_in_words(tmp_path: Path, migrations: Path) -> None:
    """After a downgrade the tables are not what this version knows; it says so instead of guessing."""
    url = sqlite_url(tmp_path / "x.db")
    (migrations / "0002_author.py").write_text(SECOND)
    await (await Database.open(url, [NOTES])).close()
    (migrations / "0002_author.py").unlink()
    with pytest.raises(DatabaseError, match=r"cannot use the database .*0002"):
        await Database.open(url, [NOTES])


async def test_writers_that_are_cancelled_lock_nobody_out(any_database_url: str, migrations: Path) -> None:
    """Wherever a cancellation hits, all or nothing is written and the next writer gets its turn."""
    database = await Database.open(any_database_url, [NOTES])
    insert = sa.text("insert into note (text) values (:text)")

    async def two(number: int) -> None:
        async with database.write() as connection:
            for text in ("first", "second"):
                await connection.execute(insert, {"text": f"{text} {number}"})

    for turns in range(40):
        tasks = [asyncio.create_task(two(turns)) for _ in range(2)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(4), database.write() as connection:
        await connection.execute(insert, {"text": "after"})
        counts = sa.text("select count(*) from note where text like :text")
        first, second = [
            (await connection.execute(counts, {"text": text})).scalar_one() for text in ("first %", "second %")
        ]
    assert first == second
    await database.close()


async def test_a_transaction_that_fails_leaves_nothing(any_database_url: str, migrations: Path) -> None:
    """State change and outbox row stand or fall together."""
    database = await Database.open(any_database_url, [NOTES])

    async def fail() -> None:
        async with database.write() as connection:
            await connection.execute(sa.text("insert into note (text) values ('lost')"))
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await fail()
    async with database.read() as connection:
        assert (await connection.execute(sa.text("select count(*) from note"))).scalar_one() == 0
    await database.close()


async def test_many_writers_never_see_a_locked_database(tmp_path: Path, migrations: Path) -> None:
    """Writers of one process queue up, also beside those of another connection pool on the same file."""
    url = sqlite_url(tmp_path / "x.db")
    databases = [await Database.open(url, [NOTES]) for _ in range(2)]

    async def add(number: int) -> None:
        async with databases[number % 2].write() as connection:
            await connection.execute(sa.text("select count(*) from note"))
            await connection.execute(sa.text("insert into note (text) values (:text)"), {"text": str(number)})

    await asyncio.gather(*(add(number) for number in range(50)))
    async with databases[0].read() as connection:
        assert (await connection.execute(sa.text("select count(*) from note"))).scalar_one() == 50
        mode = (await connection.execute(sa.text("pragma journal_mode"))).scalar_one()
    assert mode == "wal"
    for database in databases:
        await database.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://u:s3cret@h/x", "mysql is not supported"),
        ("nonsense", "not a database URL"),
        ("postgresql://u:s3cret@h:many/x", "not a database URL"),
        ("postgresql://u:s3cret@127.0.0.1:1/x", "cannot use the database .*: .*Connect call failed"),
        ("sqlite:////proc/nowhere/x.db", "cannot use the database .*: .*No such file or directory"),
        ("sqlite://", "in memory forgets everything"),
    ],
)
async def test_a_database_that_cannot_be_used_is_named_without_its_password(url: str, message: str) -> None:
    """The error says what to use instead."""
    with pytest.raises(DatabaseError, match=message) as caught:
        await Database.open(url)
    assert "s3cret" not in str(caught.value)


async def test_tasks_cancelled_in_the_middle_leave_a_database_that_works_and_closes(
    tmp_path: Path, migrations: Path
) -> None:
    """Shutdown cancels loops wherever they are, also twice; the database still writes then, and closes at once."""
    database = await Database.open(sqlite_url(tmp_path / "x.db"), [NOTES])

    async def add() -> None:
        while True:
            async with database.write() as connection:
                await connection.execute(sa.text("insert into note (text) values ('x')"))
            async with database.read() as connection:
                await connection.execute(sa.text("select count(*) from note"))

    for turn in range(200):
        tasks = [asyncio.create_task(add()) for _ in range(3)]
        for _ in range(turn % 40):
            await asyncio.sleep(0)
        await asyncio.sleep(turn / 20_000)
        for _ in range(3):
            for task in tasks:
                task.cancel()
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(5), database.write() as connection:
        await connection.execute(sa.text("insert into note (text) values ('last')"))
    async with asyncio.timeout(5):
        await database.close()
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    _, pending = await asyncio.wait(left, timeout=5) if left else (set(), set())
    assert pending == set()
