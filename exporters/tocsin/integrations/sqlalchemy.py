"""SQLAlchemy: how long statements take, and how the pool of connections stands.

Everything is heard through SQLAlchemy's public events, but the wait for a connection, for which there is none: there
`Pool.connect` is wrapped, on the one pool. No text of a statement, no parameter and no message of an error is kept.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import wraps
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry
from sqlalchemy import URL, Connection, Engine, ExceptionContext, ExecutionContext, event
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import NullPool, Pool, QueuePool

from tocsin import names
from tocsin.integrations.statements import operation_of
from tocsin.metrics.families import Families, families_of
from tocsin.request import current_trace, error_name
from tocsin.tracing.spans import OpenSpan, Span, span

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

ROLE_OPTION = "tocsin_role"
"""The execution option that says where one statement, connection or engine goes: `replica`."""

Gauge: TypeAlias = tuple[names.Metric, tuple[str, ...]]
Role: TypeAlias = str | Callable[[Connection], str]

_STARTED = "_tocsin_started"
_SPAN = "_tocsin_span"
_SYSTEMS = {"mssql": "microsoft.sql_server", "oracle": "oracle.db"}
"""Names of databases in OpenTelemetry's conventions, where SQLAlchemy's differ."""


def _guarded(listener: Callable[..., None]) -> Callable[..., None]:
    """Keep our errors from the application: they are counted."""

    @wraps(listener)
    def guarded(recorder: _Recorder, *args: Any) -> None:
        try:
            listener(recorder, *args)
        except Exception:  # our error is not the application's
            recorder.families.dropped("metrics", "sqlalchemy")

    return guarded


class _Recorder:
    """Records one engine. Knows no engine, so that it keeps none alive."""

    def __init__(self, engine: Engine, families: Families, pool_name: str | None, role: Role, *, spans: bool) -> None:
        self.families = families
        self.role = role
        self.pool_labels: tuple[str, ...] = (
            _pool_name(engine.url) if pool_name is None else pool_name,
            role if isinstance(role, str) else "",
        )
        self._system = _SYSTEMS.get(engine.dialect.name, engine.dialect.name)
        self._namespace = engine.url.database or ""
        self._spans = spans
        self._open: set[int] = set()  # no lock: connections are closed by the garbage collector too

    def listeners(self) -> dict[str, Callable[..., None]]:
        """Return what to call at which of SQLAlchemy's events."""
        return {
            "before_cursor_execute": self.before,
            "after_cursor_execute": self.after,
            "handle_error": self.failed,
            "engine_disposed": self.disposed,
            "connect": self.connected,
            "close": self.closed,
            "detach": self.closed,
        }

    # --- statements ---------------------------------------------------------------------------------------------------

    @_guarded
    def before(
        self,
        connection: Connection,
        cursor: object,
        statement: str,
        parameters: object,
        context: ExecutionContext | None,
        executemany: bool,
    ) -> None:
        """A statement is about to be sent."""
        # A second listener, as of an engine made with execution_options(), finds the work done.
        if context is None or _STARTED in vars(context):
            return
        if self._spans:
            opened = self._span(operation_of(statement))
            vars(context)[_SPAN] = opened, opened.__enter__()
        vars(context)[_STARTED] = self, perf_counter()

    @_guarded
    def after(
        self,
        connection: Connection,
        cursor: object,
        statement: str,
        parameters: object,
        context: ExecutionContext | None,
        executemany: bool,
    ) -> None:
        """A statement was answered; rows may still be to come."""
        if context is not None:
            self._ended(connection, statement, context, None)

    @_guarded
    def failed(self, failure: ExceptionContext) -> None:
        """Something failed; perhaps a statement."""
        context, connection = failure.execution_context, failure.connection
        if context is not None and connection is not None:
            error = failure.sqlalchemy_exception or failure.original_exception
            self._ended(connection, failure.statement or "", context, error_name(error))

    def _ended(self, connection: Connection, statement: str, context: ExecutionContext, error: str | None) -> None:
        recorder, started = vars(context).get(_STARTED, (None, 0.0))
        if recorder is not self:  # another's, or an error before the statement was sent or while rows were fetched
            return
        del vars(context)[_STARTED]
        seconds = perf_counter() - started
        trace = current_trace()
        if self._spans:
            opened, made = vars(context).pop(_SPAN)
            _close(opened, made, error)
        self.families.observe(
            names.DB_OPERATION_DURATION,
            self._system,
            operation_of(statement),
            self._role(connection, context),
            error or "",
            value=seconds,
            trace=trace,
        )

    def _role(self, connection: Connection, context: ExecutionContext) -> str:
        chosen = context.execution_options.get(ROLE_OPTION)
        if chosen is not None:
            return str(chosen)
        return self.role if isinstance(self.role, str) else self.role(connection)

    def _span(self, operation: str) -> OpenSpan:
        attributes = {"db.system.name": self._system, "db.operation.name": operation, "db.namespace": self._namespace}
        return span(f"{operation} {self._namespace}".strip(), kind="client", attributes=attributes)

    # --- the pool -----------------------------------------------------------------------------------------------------

    @_guarded
    def disposed(self, engine: Engine) -> None:
        """The engine has a new pool."""
        self._open.clear()
        self.wrap(engine.pool)

    @_guarded
    def connected(self, connection: object, record: object) -> None:
        """A connection was made."""
        self._open.add(id(record))

    @_guarded
    def closed(self, connection: object, record: object) -> None:
        """A connection was closed, or taken out of the pool for good."""
        self._open.discard(id(record))

    def gauges(self, pool: Pool) -> Iterator[tuple[Gauge, int]]:
        """Yield how the pool stands; nothing for a kind of pool of which that cannot be said."""
        if isinstance(pool, QueuePool):
            yield (names.DB_CONNECTIONS, (*self.pool_labels, "used")), max(0, pool.checkedout())
            yield (names.DB_CONNECTIONS, (*self.pool_labels, "idle")), pool.checkedin()
            most = _most(pool)
            if most is not None:
                yield (names.DB_CONNECTIONS_MAX, self.pool_labels), most
        elif isinstance(pool, NullPool):
            yield (names.DB_CONNECTIONS, (*self.pool_labels, "used")), len(self._open)

    def wrap(self, pool: Pool) -> None:
        """Measure the wait for connections of this pool."""
        connect = pool.connect
        if isinstance(getattr(connect, "__self__", None), Pool):  # not wrapped yet
            vars(pool)["connect"] = self._measured(connect)

    def _measured(self, connect: Callable[[], Any]) -> Callable[[], Any]:
        def measured() -> Any:
            started = perf_counter()
            self._waiting(1)
            try:
                return connect()
            except PoolTimeoutError:
                self._timed_out()
                raise
            finally:
                self._waiting(-1)
                self._waited(perf_counter() - started)

        return measured

    @_guarded
    def _waiting(self, change: int) -> None:
        self.families.add(names.DB_WAITING, *self.pool_labels, amount=change)

    @_guarded
    def _timed_out(self) -> None:
        self.families.add(names.DB_TIMEOUTS, *self.pool_labels)

    @_guarded
    def _waited(self, seconds: float) -> None:
        self.families.observe(names.DB_WAIT, *self.pool_labels, value=seconds, trace=current_trace())


_recorders: WeakKeyDictionary[Engine, _Recorder] = WeakKeyDictionary()
_shown: WeakKeyDictionary[Families, dict[Gauge, int]] = WeakKeyDictionary()
"""The gauges as they were set last: those of an engine that is gone go to 0."""
_lock = threading.Lock()
_fork_hooks: list[Callable[[], None]] = []


def instrument(
    engine: Engine | AsyncEngine,
    *,
    pool_name: str | None = None,
    role: Role = "primary",
    registry: CollectorRegistry | None = None,
    spans: bool = False,
) -> None:
    """Record the statements of an engine, and its pool of connections. Twice is once.

    Args:
        engine: an `Engine` or an `AsyncEngine`.
        pool_name: the label of its pool; default: `host:port/database` of its URL.
        role: `primary` or `replica`, or a function of the connection that says so. `execution_options(
            tocsin_role="replica")` of a statement, a connection or an engine goes before it.
        registry: where it is counted; default: prometheus_client's REGISTRY.
        spans: make a child span of each statement, without its text. `opentelemetry-instrumentation-sqlalchemy` makes
            richer ones; not both.
    """
    sync = engine if isinstance(engine, Engine) else engine.sync_engine
    families = families_of(registry)
    with _lock:
        if not _fork_hooks:
            _fork_hooks.append(_after_fork)
            os.register_at_fork(after_in_child=_after_fork)
        if sync in _recorders:
            return
        _recorders[sync] = recorder = _Recorder(sync, families, pool_name, role, spans=spans)
    for name, listener in recorder.listeners().items():
        event.listen(sync, name, listener)
    _hear_of_errors_first(sync)
    recorder.wrap(sync.pool)
    families.before_collect(_read_pools)


def uninstrument(engine: Engine | AsyncEngine) -> None:
    """Undo `instrument`. What was counted stays."""
    sync = engine if isinstance(engine, Engine) else engine.sync_engine
    with _lock:
        recorder = _recorders.pop(sync, None)
    if recorder is None:
        return
    for name, listener in recorder.listeners().items():
        event.remove(sync, name, listener)
    vars(sync.pool).pop("connect", None)
    for other, its in list(_recorders.items()):
        if other.pool is sync.pool:  # one made of the other with execution_options()
            its.wrap(sync.pool)


def _hear_of_errors_first(engine: Engine) -> None:
    """Go before listeners that raise an error of their own: that ends the round. `insert=True` is ignored there."""
    listeners = getattr(engine.dialect.dispatch.handle_error, "listeners", None)
    if isinstance(listeners, deque):  # not public: without it, only those errors are not counted
        listeners.rotate(1)


def _after_fork() -> None:
    global _lock  # noqa: PLW0603  # what another thread held at the fork is held for ever
    _lock = threading.Lock()


def _read_pools(families: Families) -> None:
    """Set the gauges of all pools on this page; pools of the same name and role are added up."""
    with _lock:
        found: dict[Pool, _Recorder] = {}
        for engine, recorder in _recorders.items():
            if recorder.families is families:  # engines made of one another have one pool
                found.setdefault(engine.pool, recorder)
        shown = _shown.setdefault(families, {})
        shown.update(dict.fromkeys(shown, 0))
        for pool, recorder in found.items():
            for gauge, value in recorder.gauges(pool):
                shown[gauge] = shown.get(gauge, 0) + value
        gauges = dict(shown)
    for (metric, labels), value in gauges.items():
        families.set(metric, *labels, value=value)


def _most(pool: QueuePool) -> int | None:
    """Return how many connections a pool may have, or None for any number."""
    overflow: int = getattr(pool, "_max_overflow", -1)  # not public: without it this one gauge is missing
    return pool.size() + overflow if pool.size() and overflow >= 0 else None


def _close(opened: OpenSpan, made: Span, error: str | None) -> None:
    """End a span; the error by its name only, for its message may hold the statement and its values."""
    if error is not None:
        made.set_attribute("error.type", error)
        made.set_status("error", error)
    opened.__exit__(None, None, None)


def _pool_name(url: URL) -> str:
    """Return which database it is, without user and password."""
    host = "" if url.host is None else url.host if url.port is None else f"{url.host}:{url.port}"
    return f"{host}/{url.database or ''}" if host else url.database or url.get_backend_name()
