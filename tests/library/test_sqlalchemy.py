"""What SQLAlchemy's engines are recorded as: statements by operation and role, and how their pools stand."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy
from prometheus_client import CollectorRegistry
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool, QueuePool, StaticPool

from tocsin import names
from tocsin.integrations.sqlalchemy import instrument, uninstrument
from tocsin.integrations.statements import operation_of
from tocsin.metrics.families import families_of
from tocsin.request import CURRENT, Current, current_trace
from tocsin.tracing.context import Trace
from tocsin.tracing.settings import trace_settings
from tocsin.tracing.spans import leave
from tocsin.tracing.testing import OtlpCollector
from tocsin.tracing.tracer import tracer_for

TRACE = Trace("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", True)


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    """Make an engine on a SQLite file, disposed of at the end."""
    engines: list[Engine] = []

    def engine(name: str = "shop.db", **options: object) -> Engine:
        made = create_engine(f"sqlite:///{tmp_path / name}", **options)
        engines.append(made)
        return made

    yield engine
    for made in engines:
        made.dispose()


@pytest.fixture
async def any_engine(any_database_url: str) -> AsyncIterator[AsyncEngine]:
    """An asynchronous engine with a pool of two connections, on SQLite and on PostgreSQL."""
    url = any_database_url.replace("sqlite:", "sqlite+aiosqlite:").replace("postgresql:", "postgresql+asyncpg:")
    engine = create_async_engine(url, pool_size=1, max_overflow=1, pool_timeout=0.2)
    yield engine
    await engine.dispose()


def statements(registry: CollectorRegistry) -> dict[tuple[str, str, str], int]:
    """Return how many statements were counted, by (operation, role, error type)."""
    _, operation, role, error = names.DB_OPERATION_DURATION.labels
    return {
        (sample.labels[operation], sample.labels[role], sample.labels[error]): int(sample.value)
        for family in registry.collect()
        for sample in family.samples
        if sample.name == f"{names.DB_OPERATION_DURATION.name}_count"
    }


def gauge(registry: CollectorRegistry, metric: names.Metric, pool: str, role: str = "primary", *more: str) -> float:
    value = registry.get_sample_value(metric.name, dict(zip(metric.labels, (pool, role, *more), strict=True)))
    assert value is not None, f"{metric.name} of {pool} is not on the page"
    return value


def used(registry: CollectorRegistry, pool: str, role: str = "primary") -> float:
    return gauge(registry, names.DB_CONNECTIONS, pool, role, "used")


def idle(registry: CollectorRegistry, pool: str, role: str = "primary") -> float:
    return gauge(registry, names.DB_CONNECTIONS, pool, role, "idle")


def waits(registry: CollectorRegistry, pool: str) -> int:
    labels = dict(zip(names.DB_WAIT.labels, (pool, "primary"), strict=True))
    return int(registry.get_sample_value(f"{names.DB_WAIT.name}_count", labels) or 0)


async def reached(condition: Callable[[], bool]) -> bool:
    """Wait until something is so; return whether it came to be."""
    for _ in range(2_000):
        if condition():
            return True
        await asyncio.sleep(0.005)
    return False


# --- the operation ----------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "operation"),
    [
        ("SELECT 1", "SELECT"),
        ("  \n\tselect 1", "SELECT"),
        ("-- who\nUPDATE item SET name = 'x'", "UPDATE"),
        ("/* shop:checkout */ -- again\n /**/ DELETE FROM item", "DELETE"),
        ("# MySQL\nINSERT INTO item VALUES (1)", "INSERT"),
        ("((SELECT 1) UNION (SELECT 2))", "SELECT"),
        ("select/* no space */1", "SELECT"),
        ("WITH a AS (SELECT 1) SELECT * FROM a", "SELECT"),
        ("WITH a AS (DELETE FROM item RETURNING id), b AS (SELECT 1) INSERT INTO gone SELECT id FROM a", "INSERT"),
        ("with recursive a(n) as (values (1) union all select n + 1 from a) update item set id = n from a", "UPDATE"),
        ("WITH a AS MATERIALIZED (SELECT ')' AS \"INSERT\", '(') /* DELETE */ SELECT * FROM a", "SELECT"),
        ("WITH a AS (SELECT $x$ ) INSERT $x$) MERGE INTO item USING a ON true", "MERGE"),
        ("WITH a AS (SELECT 1", "_OTHER"),
        ("PRAGMA journal_mode", "PRAGMA"),
        ("BEGIN IMMEDIATE", "BEGIN"),
        ("FROBNICATE everything", "_OTHER"),
        ("", "_OTHER"),
        ("-- only a comment", "_OTHER"),
        ("/* not closed SELECT", "_OTHER"),
        ("1", "_OTHER"),
    ],
)
def test_the_operation_is_the_first_word_that_does_something(statement: str, operation: str) -> None:
    """Comments, parentheses and common table expressions are passed over; what is not known is `_OTHER`."""
    assert operation_of(statement) == operation


def test_a_long_hostile_statement_costs_no_time() -> None:
    """No statement makes the search go back and forth over it."""
    begun = time.perf_counter()
    for hostile in (
        "(" * 200_000,
        "/*" * 100_000,
        "-- \n" * 50_000,
        "WITH a AS (" + "'" * 199_999,
        "WITH " + "$" * 20_000,
    ):
        assert operation_of(hostile) == "_OTHER"
    assert time.perf_counter() - begun < 5


# --- statements ----------------------------------------------------------


def test_statements_are_counted_by_operation(make: Callable[..., Engine], registry: CollectorRegistry) -> None:
    """Core, ORM and text alike; one execution is one, with many parameters or few."""
    engine = make()
    instrument(engine, registry=registry)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([Item(name="a"), Item(name="b")])
        session.commit()
        assert len(session.scalars(sqlalchemy.select(Item)).all()) == 2
    with engine.begin() as connection:
        connection.execute(text("UPDATE item SET name = :name"), [{"name": "x"}, {"name": "y"}])
    counted = statements(registry)
    assert counted["SELECT", "primary", ""] == 1
    assert counted["UPDATE", "primary", ""] == 1
    assert counted["CREATE", "primary", ""] == 1
    assert counted["INSERT", "primary", ""] >= 1


def test_a_failed_statement_is_counted_under_its_error(
    make: Callable[..., Engine], registry: CollectorRegistry
) -> None:
    """The error's type, the same whatever the driver; the application sees the very error it would have seen."""
    engine = make()
    instrument(engine, registry=registry)
    with engine.connect() as connection, pytest.raises(sqlalchemy.exc.OperationalError, match="no such table"):
        connection.execute(text("SELECT * FROM nowhere"))
    assert statements(registry) == {("SELECT", "primary", "sqlalchemy.exc.OperationalError"): 1}


def test_the_page_shows_no_text_of_statements(make: Callable[..., Engine], registry: CollectorRegistry) -> None:
    """Nor parameters, nor messages of errors."""
    engine = make()
    instrument(engine, registry=registry)
    with engine.connect() as connection:
        connection.execute(text("SELECT 'hunter2', :secret"), {"secret": "hunter3"})
        with pytest.raises(sqlalchemy.exc.OperationalError):
            connection.execute(text("SELECT hunter4"))
    page = repr([family.samples for family in registry.collect()])
    assert "hunter" not in page
    assert "SELECT" in page


def test_a_sampled_request_is_the_example_of_its_statements(
    make: Callable[..., Engine], registry: CollectorRegistry
) -> None:
    """From a slow bucket one gets to a trace that has such a statement."""
    engine = make()
    instrument(engine, registry=registry)
    token = CURRENT.set(Current(TRACE, families_of(registry), None))
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    finally:
        CURRENT.reset(token)
    exemplars = [
        sample.exemplar.labels["trace_id"]
        for family in registry.collect()
        for sample in family.samples
        if sample.exemplar is not None and sample.name == f"{names.DB_OPERATION_DURATION.name}_bucket"
    ]
    assert exemplars == [TRACE.trace_id]


def test_spans_are_children_of_the_request_and_show_no_text(
    make: Callable[..., Engine], registry: CollectorRegistry
) -> None:
    """One for each statement, failed ones too, when asked for; named by operation and database."""
    engine = make()
    families = families_of(registry)
    instrument(engine, registry=registry, spans=True)
    with OtlpCollector() as collector:
        tracer = tracer_for(trace_settings("shop", None, 1.0, collector.environ), families)
        request = tracer.begin([])
        token = tracer.enter(request, Current(request, families, None))
        try:
            with engine.connect() as connection:
                connection.execute(text("SELECT 'hunter2', :secret"), {"secret": "hunter3"})
                with pytest.raises(sqlalchemy.exc.OperationalError):
                    connection.execute(text("DELETE FROM hunter4"))
            assert current_trace() == request
        finally:
            leave(token)
        good, bad = collector.wait_for(2)
        tracer.close()
    database = engine.url.database
    assert [(span.name, span.kind, span.status) for span in (good, bad)] == [
        (f"SELECT {database}", "client", "unset"),
        (f"DELETE {database}", "client", "error"),
    ]
    assert {(span.trace_id, span.parent_id) for span in (good, bad)} == {(request.trace_id, request.span_id)}
    assert good.attributes == {"db.system.name": "sqlite", "db.operation.name": "SELECT", "db.namespace": database}
    assert bad.attributes["error.type"] == "sqlalchemy.exc.OperationalError"
    assert "hunter" not in repr((good, bad))


def test_an_error_that_the_application_replaces_is_counted(
    make: Callable[..., Engine], registry: CollectorRegistry
) -> None:
    """A listener that raises its own ends the round of listeners; no span stays current."""
    engine = make()

    @event.listens_for(engine, "handle_error")
    def replace(failure: sqlalchemy.ExceptionContext) -> None:
        raise KeyError("no such thing")

    instrument(engine, registry=registry, spans=True)
    token = CURRENT.set(Current(TRACE, families_of(registry), None))
    try:
        with engine.connect() as connection, pytest.raises(KeyError):
            connection.execute(text("SELECT * FROM nowhere"))
        assert current_trace() is TRACE
    finally:
        CURRENT.reset(token)
    assert statements(registry) == {("SELECT", "primary", "sqlalchemy.exc.OperationalError"): 1}
    uninstrument(engine)
    with engine.connect() as connection, pytest.raises(KeyError):
        connection.execute(text("SELECT * FROM nowhere"))
    assert sum(statements(registry).values()) == 1


def test_a_listener_that_fails_breaks_no_statement(make: Callable[..., Engine], registry: CollectorRegistry) -> None:
    """An error in the function that was given is counted, and the statement is answered."""

    def role(connection: Connection) -> str:
        raise LookupError("no such connection")

    engine = make()
    instrument(engine, role=role, registry=registry)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT 7")) == 7
    labels = dict(zip(names.TOCSIN_DROPPED.labels, ("metrics", "sqlalchemy"), strict=True))
    assert registry.get_sample_value(names.TOCSIN_DROPPED.name, labels) == 1


# --- roles ----------------------------------------------------------


def test_primary_and_replica_are_told_apart(make: Callable[..., Engine], registry: CollectorRegistry) -> None:
    """Two engines, each with a role: statements and pools go under it."""
    primary, replica = make(), make()
    instrument(primary, pool_name="shop", registry=registry)
    instrument(replica, pool_name="shop", role="replica", registry=registry)
    with primary.connect() as one, replica.connect() as two, replica.connect() as three:
        for connection in (one, two, three):
            connection.execute(text("SELECT 1"))
        assert used(registry, "shop") == 1
        assert used(registry, "shop", "replica") == 2
    assert statements(registry) == {("SELECT", "primary", ""): 1, ("SELECT", "replica", ""): 2}


def test_an_execution_option_names_the_role(make: Callable[..., Engine], registry: CollectorRegistry) -> None:
    """On an engine, a connection, or one statement; the nearest wins over the engine's own role."""
    engine = make()
    instrument(engine, registry=registry)
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        connection.execute(text("SELECT 1"), execution_options={"tocsin_role": "replica"})
    with engine.connect().execution_options(tocsin_role="replica") as connection:
        connection.execute(text("SELECT 1"))
    with engine.execution_options(tocsin_role="replica").connect() as connection:
        connection.execute(text("SELECT 1"))
    assert statements(registry) == {("SELECT", "primary", ""): 1, ("SELECT", "replica", ""): 3}


def test_a_function_of_the_connection_names_the_role(make: Callable[..., Engine], registry: CollectorRegistry) -> None:
    """For those who decide by what the connection knows."""
    engine = make()
    instrument(
        engine,
        role=lambda connection: "replica" if connection.get_execution_options().get("readonly") else "primary",
        registry=registry,
    )
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
    with engine.connect().execution_options(readonly=True) as connection:
        connection.execute(text("SELECT 1"))
    assert statements(registry) == {("SELECT", "primary", ""): 1, ("SELECT", "replica", ""): 1}


def test_an_engine_made_of_another_counts_each_statement_once(
    make: Callable[..., Engine], registry: CollectorRegistry
) -> None:
    """`engine.execution_options()` shares pool and listeners with its engine."""
    engine = make()
    copy = engine.execution_options(tocsin_role="replica")
    instrument(engine, pool_name="shop", registry=registry)
    instrument(copy, pool_name="shop", registry=registry)
    with copy.connect() as connection:
        connection.execute(text("SELECT 1"))
        with pytest.raises(sqlalchemy.exc.OperationalError):
            connection.execute(text("SELECT * FROM nowhere"))
        assert used(registry, "shop") == 1
    assert (used(registry, "shop"), idle(registry, "shop")) == (0, 1)
    failed = "sqlalchemy.exc.OperationalError"
    assert statements(registry) == {("SELECT", "replica", ""): 1, ("SELECT", "replica", failed): 1}
    assert waits(registry, "shop") == 1
    uninstrument(engine)
    copy.connect().close()
    assert waits(registry, "shop") == 2
    uninstrument(copy)
    copy.connect().close()
    assert waits(registry, "shop") == 2


def test_every_statement_of_a_transaction_is_counted(make: Callable[..., Engine], registry: CollectorRegistry) -> None:
    """Savepoints; many rows at once are one statement, or one for each batch that is sent; rows that stream are one."""
    engine = make(insertmanyvalues_page_size=2)
    instrument(engine, registry=registry)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        savepoint = connection.begin_nested()
        connection.execute(text("INSERT INTO item VALUES (:id, 'x')"), [{"id": 7}, {"id": 8}, {"id": 9}])
        savepoint.rollback()
        connection.begin_nested().commit()
        rows = [{"name": str(number)} for number in range(5)]
        connection.execute(sqlalchemy.insert(Item).returning(Item.id), rows)
        streamed = connection.execution_options(yield_per=2).execute(sqlalchemy.select(Item.id))
        assert len(streamed.all()) == 5
    found = {operation: count for (operation, _, error), count in statements(registry).items() if not error}
    assert {name: found[name] for name in ("SAVEPOINT", "ROLLBACK", "RELEASE", "INSERT", "SELECT")} == {
        "SAVEPOINT": 2,
        "ROLLBACK": 1,
        "RELEASE": 1,
        "INSERT": 1 + 3,
        "SELECT": 1,
    }


# --- pools ----------------------------------------------------------


def test_the_pool_shows_used_idle_and_most(make: Callable[..., Engine], registry: CollectorRegistry) -> None:
    """As it stands when the page is read, also after the pool was replaced."""
    engine = make(poolclass=QueuePool, pool_size=2, max_overflow=3)
    instrument(engine, pool_name="shop", registry=registry)
    for _ in range(2):
        with engine.connect(), engine.connect():
            assert (used(registry, "shop"), idle(registry, "shop")) == (2, 0)
        assert (used(registry, "shop"), idle(registry, "shop")) == (0, 2)
        assert gauge(registry, names.DB_CONNECTIONS_MAX, "shop") == 5
        engine.dispose()
        assert idle(registry, "shop") == 0
    assert waits(registry, "shop") == 4


def test_a_connection_that_is_invalidated_is_neither_used_nor_idle_twice(
    make: Callable[..., Engine], registry: CollectorRegistry
) -> None:
    """With or without a pool, also while many threads take, lose and give back connections."""
    for pool, options in ((QueuePool, {"pool_size": 2, "max_overflow": 1, "pool_timeout": 60}), (NullPool, {})):
        engine = make(poolclass=pool, **options)
        instrument(engine, pool_name=pool.__name__, registry=registry)
        with engine.connect() as connection:
            connection.invalidate()
            connection.execute(text("SELECT 1"))
            assert used(registry, pool.__name__) == 1

        def work(engine: Engine = engine) -> None:
            for turn in range(20):
                with engine.connect() as connection:
                    connection.execute(text("SELECT 1"))
                    if turn % 3 == 0:
                        connection.invalidate()

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            states = [s for f in registry.collect() for s in f.samples if "_connection_" in s.name]
            assert min(s.value for s in states) >= 0
        assert used(registry, pool.__name__) == 0
        assert gauge(registry, names.DB_WAITING, pool.__name__) == 0
        assert waits(registry, pool.__name__) == 2 + 6 * 20, "another one for what was invalidated"
    assert idle(registry, "QueuePool") <= 2


def test_a_full_pool_shows_who_waits_and_who_gave_up(make: Callable[..., Engine], registry: CollectorRegistry) -> None:
    """Waiting callers are a gauge while they wait; those that gave up are counted, with the time they waited."""
    engine = make(poolclass=QueuePool, pool_size=1, max_overflow=0, pool_timeout=1.0)
    instrument(engine, pool_name="shop", registry=registry)
    refused: list[BaseException] = []

    def ask() -> None:
        try:
            engine.connect().close()
        except sqlalchemy.exc.TimeoutError as error:
            refused.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    with engine.connect():
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 10
        while gauge(registry, names.DB_WAITING, "shop") != 2:
            assert time.monotonic() < deadline
        for thread in threads:
            thread.join(10)
    assert len(refused) == 2
    assert gauge(registry, names.DB_WAITING, "shop") == 0
    assert gauge(registry, names.DB_TIMEOUTS, "shop") == 2
    assert waits(registry, "shop") == 3
    labels = dict(zip(names.DB_WAIT.labels, ("shop", "primary"), strict=True))
    assert (registry.get_sample_value(f"{names.DB_WAIT.name}_sum", labels) or 0) >= 2.0


def test_a_database_that_refuses_is_no_timeout_of_the_pool(tmp_path: Path, registry: CollectorRegistry) -> None:
    """Nobody waits any more, and the application gets the database's error."""
    engine = create_engine(f"sqlite:///{tmp_path}/missing/shop.db")
    instrument(engine, pool_name="shop", registry=registry)
    with pytest.raises(sqlalchemy.exc.OperationalError):
        engine.connect()
    assert gauge(registry, names.DB_WAITING, "shop") == 0
    assert waits(registry, "shop") == 1
    assert statements(registry) == {}
    assert registry.get_sample_value(names.DB_TIMEOUTS.name, {}) is None


def test_a_pool_without_a_limit_has_no_most(make: Callable[..., Engine], registry: CollectorRegistry) -> None:
    """No number at all is better than a wrong one."""
    engine = make(poolclass=QueuePool, pool_size=1, max_overflow=-1)
    instrument(engine, pool_name="shop", registry=registry)
    with engine.connect(), engine.connect():
        assert used(registry, "shop") == 2
    labels = dict(zip(names.DB_CONNECTIONS_MAX.labels, ("shop", "primary"), strict=True))
    assert registry.get_sample_value(names.DB_CONNECTIONS_MAX.name, labels) is None


def test_connections_without_a_pool_are_counted_while_they_are_open(
    make: Callable[..., Engine], registry: CollectorRegistry
) -> None:
    """NullPool, as behind pgbouncer: detached, broken and forgotten connections leave nothing behind."""
    engine = make(poolclass=NullPool)
    instrument(engine, pool_name="shop", registry=registry)
    with engine.connect() as one, engine.connect() as two:
        assert used(registry, "shop") == 2
        one.invalidate()
        assert used(registry, "shop") == 1
        two.detach()
        assert used(registry, "shop") == 0
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        assert used(registry, "shop") == 1
    assert used(registry, "shop") == 0


def test_one_shared_connection_works_as_before(registry: CollectorRegistry) -> None:
    """StaticPool, as for SQLite in memory: statements are counted, and there is no pool to show."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    instrument(engine, registry=registry)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
    assert statements(registry) == {("SELECT", "primary", ""): 1}
    engine.dispose()


def test_pools_of_one_name_are_added_up_and_one_that_is_gone_is_zero(
    tmp_path: Path, registry: CollectorRegistry
) -> None:
    """An engine for each tenant: one more does not hide the others, and nothing keeps it alive."""
    engines = [create_engine(f"sqlite:///{tmp_path}/{tenant}.db") for tenant in "ab"]
    for engine in engines:
        instrument(engine, pool_name="tenants", registry=registry)
    with engines[0].connect(), engines[1].connect():
        assert used(registry, "tenants") == 2
    assert idle(registry, "tenants") == 2
    while engines:
        engines.pop().dispose()
    del engine
    gc.collect()
    assert idle(registry, "tenants") == 0
    assert gauge(registry, names.DB_CONNECTIONS_MAX, "tenants") == 0


def test_the_pool_is_named_after_the_database_without_password(registry: CollectorRegistry) -> None:
    """`host:port/database`, as OpenTelemetry advises."""
    engine = create_async_engine("postgresql+asyncpg://shop:hunter2@db.example:5433/orders")
    instrument(engine, registry=registry)
    assert gauge(registry, names.DB_CONNECTIONS_MAX, "db.example:5433/orders") == 15
    assert "hunter2" not in repr([family.samples for family in registry.collect()])


# --- asynchronous engines, on SQLite and PostgreSQL ----------------------------------------------------------


async def test_an_async_engine_is_recorded(any_engine: AsyncEngine, registry: CollectorRegistry) -> None:
    """Statements, the errors of any driver by one name, and the pool."""
    instrument(any_engine, pool_name="shop", registry=registry)
    async with any_engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(text("INSERT INTO item (id, name) VALUES (1, 'a')"))
    with pytest.raises(sqlalchemy.exc.IntegrityError):
        async with any_engine.begin() as connection:
            await connection.execute(text("INSERT INTO item (id, name) VALUES (1, 'again')"))
    counted = statements(registry)
    assert counted["INSERT", "primary", ""] == 1
    assert counted["INSERT", "primary", "sqlalchemy.exc.IntegrityError"] == 1
    systems = {
        sample.labels["db_system_name"]
        for family in registry.collect()
        for sample in family.samples
        if sample.name == f"{names.DB_OPERATION_DURATION.name}_count"
    }
    assert systems == {any_engine.dialect.name}


async def test_an_async_pool_shows_who_waits_and_who_gave_up(
    any_engine: AsyncEngine, registry: CollectorRegistry
) -> None:
    """With one connection and one more over it, the third caller waits and is refused, the fourth is cancelled."""
    instrument(any_engine, pool_name="shop", registry=registry)

    async def ask() -> None:
        async with any_engine.connect():
            pass

    async with any_engine.connect(), any_engine.connect():
        assert used(registry, "shop") == 2
        assert gauge(registry, names.DB_CONNECTIONS_MAX, "shop") == 2
        third, fourth = asyncio.create_task(ask()), asyncio.create_task(ask())
        assert await reached(lambda: gauge(registry, names.DB_WAITING, "shop") == 2)
        fourth.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fourth
        with pytest.raises(sqlalchemy.exc.TimeoutError):
            await third
    assert gauge(registry, names.DB_WAITING, "shop") == 0
    assert gauge(registry, names.DB_TIMEOUTS, "shop") == 1
    assert waits(registry, "shop") == 4


async def test_a_cancelled_statement_is_counted(postgresql: str, registry: CollectorRegistry) -> None:
    """A caller that went away in the middle of a slow statement."""
    engine = create_async_engine(f"{postgresql}/postgres".replace("postgresql:", "postgresql+asyncpg:"))
    instrument(engine, registry=registry)
    async with engine.connect() as connection:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await connection.execute(text("SELECT pg_sleep(30)"))
    await engine.dispose()
    assert statements(registry)["SELECT", "primary", "asyncio.exceptions.CancelledError"] == 1


# --- in and out ----------------------------------------------------------


def test_instrumenting_twice_counts_once_and_uninstrumenting_ends_it(
    make: Callable[..., Engine], registry: CollectorRegistry
) -> None:
    """After it the engine is as it was, and can be instrumented again."""
    engine = make()
    heard: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *arguments: heard.append(arguments[2]))

    def ask() -> None:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))

    instrument(engine, pool_name="shop", registry=registry)
    instrument(engine, pool_name="shop", registry=registry)
    ask()
    uninstrument(engine)
    uninstrument(engine)
    assert "connect" not in vars(engine.pool)
    ask()
    assert statements(registry) == {("SELECT", "primary", ""): 1}
    assert waits(registry, "shop") == 1
    instrument(engine, pool_name="shop", registry=registry)
    ask()
    assert statements(registry) == {("SELECT", "primary", ""): 2}
    assert heard == ["SELECT 1"] * 3
