"""`@tocsin.observe("checkout")`: how long a piece of the application's own work takes, how it ends, and its span.

Counted in `tocsin_operation_duration_seconds{operation, outcome}`, where the request it runs in is counted, or else in
prometheus_client's default registry. Below a trace, the work is a child span, which is the example of its bucket.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import suppress
from threading import get_ident
from time import perf_counter
from types import FrameType, TracebackType
from typing import Any, TypeVar, cast, overload

from prometheus_client import CollectorRegistry

from tocsin.metrics.families import Families, families_of
from tocsin.names import OPERATION_DURATION
from tocsin.request import CURRENT
from tocsin.tracing.context import active_span
from tocsin.tracing.spans import OpenSpan, Span, leave, make_current

# The very type goes through, with parameters, overloads and all: what is decorated stays what it is.
F = TypeVar("F", bound="Callable[..., Any] | classmethod[Any, ..., Any] | staticmethod[..., Any]")

_CANCELLED = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt)


@overload
def observe(operation: F) -> F: ...


@overload
def observe(operation: str | None = None, *, registry: CollectorRegistry | None = None) -> Observation: ...


def observe(operation: Any = None, *, registry: CollectorRegistry | None = None) -> Any:
    """Measure a function or a block.

    As `@observe`, `@observe("checkout")`, `with observe("step"):` or `async with observe("step"):`. Functions,
    coroutine functions, generators and async generators, as functions or methods, stay what they are. A generator is
    measured from its first item to its end. What they raise goes on as it is.

    Args:
        operation: the name it is counted under, one of few; default: the function's qualified name.
        registry: where to count; default: where the current request is counted, else prometheus_client's REGISTRY.

    Raises:
        TypeError: what is decorated is not a function or method.
    """
    if operation is None or isinstance(operation, str):
        return Observation(operation, registry)
    return _measured(operation, None, registry)


class Observation:
    """A decorator and a context manager. One object may be used many times, also at the same time."""

    __slots__ = ("_open", "_operation", "_registry")

    def __init__(self, operation: str | None, registry: CollectorRegistry | None) -> None:
        self._operation = operation
        self._registry = registry
        self._open: dict[FrameType, list[_Work]] = {}
        """By the frame that entered it. Kept itself, not by its number, which another frame may get meanwhile."""

    def __call__(self, function: F) -> F:
        """Return the function, measured."""
        return cast("F", _measured(function, self._operation, self._registry))

    def __enter__(self) -> Span:
        """Begin to measure; what is returned takes what is to be said about the span, if there is one."""
        return self._enter(sys._getframe(1))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Measure up to here."""
        self._exit(sys._getframe(1), error)

    async def __aenter__(self) -> Span:
        """Begin to measure, as `__enter__` does."""
        return self._enter(sys._getframe(1))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Measure up to here."""
        self._exit(sys._getframe(1), error)

    def _enter(self, frame: FrameType) -> Span:
        if self._operation is None:
            raise ValueError('a block has no name of its own: write `with tocsin.observe("step"):`')
        work = _Work(self._operation, self._registry)
        work.runner = _runner()
        self._open.setdefault(frame, []).append(work)
        return work.span or _NO_SPAN

    def _exit(self, frame: FrameType, error: BaseException | None) -> None:
        entered = frame if frame in self._open else self._elsewhere()
        works = self._open.get(entered) if entered is not None else None
        if not works:
            return
        work = works.pop()
        if not works and entered is not None:
            self._open.pop(entered, None)
        work.end(error)

    def _elsewhere(self) -> FrameType | None:
        """Return the frame that entered what this one leaves, as of an ExitStack: the latest of this thread or task."""
        entered = [(frame, works[-1].runner) for frame, works in list(self._open.items()) if works]
        runner = _runner()
        own = [frame for frame, entered_by in entered if entered_by == runner]
        return own[-1] if own else entered[-1][0] if entered else None


def _runner() -> tuple[int, object]:
    """Return which thread and task this is."""
    loop = asyncio._get_running_loop()
    return get_ident(), None if loop is None else asyncio.current_task(loop)


_NO_SPAN = Span("", "", sampled=False)


class _Work:
    """One piece of work, begun when it is made. No method raises."""

    __slots__ = ("_began", "_block", "_families", "_operation", "runner", "span")

    def __init__(self, operation: str, registry: CollectorRegistry | None) -> None:
        self._operation = operation
        self._block: _Block | None = None
        self._families: Families | None = None
        self.span: Span | None = None
        self.runner: tuple[int, object] | None = None
        """Of a block: the thread and task that entered it."""
        try:
            current = CURRENT.get()
            if current is None:
                self._families = families_of(registry)
                traced = active_span() is not None
            else:
                self._families = current.families if registry is None else families_of(registry)
                traced = current.trace is not None or active_span() is not None
            if traced:  # a span of this kind begins no trace of its own
                block = _Block(operation, "internal", None, None)
                self.span = block.__enter__()
                self._block = block
        except Exception:  # a guard
            self._lost("begin")
        self._began = perf_counter()

    def end(self, error: BaseException | None) -> None:
        """Count the work, and end its span."""
        seconds = perf_counter() - self._began
        families = self._families
        try:
            if self._block is not None:
                self._block.__exit__(None if error is None else type(error), error, None)
            if families is not None:
                outcome = "ok" if error is None else "cancelled" if isinstance(error, _CANCELLED) else "error"
                families.observe(OPERATION_DURATION, self._operation, outcome, value=seconds, trace=self.span)
        except Exception:  # a guard
            self._lost("end")

    def pause(self) -> None:
        """Make current what was current before, while the consumer of a generator runs."""
        if self._block is not None:
            try:
                self._block.pause()
            except Exception:  # a guard
                self._lost("pause")

    def resume(self) -> None:
        """Make the span current again."""
        if self._block is not None:
            try:
                self._block.resume()
            except Exception:  # a guard
                self._lost("resume")

    def _lost(self, reason: str) -> None:
        with suppress(Exception):  # nothing is left to tell it to
            (self._families or families_of()).dropped("observe", reason)


class _Block(OpenSpan):
    """A span that is current at times: a generator has no context of its own, but runs in its consumer's."""

    __slots__ = ()

    def pause(self) -> None:
        leave(self._token)
        self._token = None

    def resume(self) -> None:
        if self._span is not None:
            self._token = make_current(self._span)


# --- functions ----------------------------------------------------------------------------------------------------


def _measured(function: Any, operation: str | None, registry: CollectorRegistry | None) -> Any:
    if isinstance(function, classmethod | staticmethod):
        return type(function)(_measured(function.__func__, operation, registry))
    if isinstance(function, type) or not callable(function):
        raise TypeError(
            f"tocsin.observe measures functions and methods, found {function!r}. "
            "Decorate the methods of a class; put observe below @property."
        )
    name = operation if operation is not None else _name(function)
    body = function if inspect.isroutine(function) or isinstance(function, functools.partial) else function.__call__
    if inspect.iscoroutinefunction(body):
        return _coroutine_function(function, name, registry)
    if inspect.isasyncgenfunction(body):
        return _async_generator_function(function, name, registry)
    if inspect.isgeneratorfunction(body):
        return _generator_function(function, name, registry)
    return _function(function, name, registry)


def _name(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def _function(function: Callable[..., Any], name: str, registry: CollectorRegistry | None) -> Callable[..., Any]:
    @functools.wraps(function)
    def measured(*args: Any, **kwargs: Any) -> Any:
        work = _Work(name, registry)
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            work.end(error)
            raise
        work.end(None)
        return result

    return measured


def _coroutine_function(
    function: Callable[..., Awaitable[Any]], name: str, registry: CollectorRegistry | None
) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(function)
    async def measured(*args: Any, **kwargs: Any) -> Any:
        work = _Work(name, registry)
        try:
            result = await function(*args, **kwargs)
        except BaseException as error:
            work.end(error)
            raise
        work.end(None)
        return result

    return measured


# --- generators -----------------------------------------------------------------------------------------------------


def _generator_function(
    function: Callable[..., Generator[Any, Any, Any]], name: str, registry: CollectorRegistry | None
) -> Callable[..., Generator[Any, Any, Any]]:
    @functools.wraps(function)
    def measured(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        # What `yield from` does (PEP 380), with a look at each step.
        work = _Work(name, registry)
        try:
            generator = function(*args, **kwargs)
            item = next(generator)
            while True:
                work.pause()
                try:
                    sent = yield item
                except GeneratorExit:
                    work.resume()
                    generator.close()
                    raise
                except BaseException as error:
                    work.resume()
                    item = generator.throw(error)
                else:
                    work.resume()
                    item = generator.send(sent)
        except StopIteration as end:
            work.end(None)
            return end.value
        except BaseException as error:
            work.end(error)
            raise

    return measured


def _async_generator_function(
    function: Callable[..., AsyncGenerator[Any, Any]], name: str, registry: CollectorRegistry | None
) -> Callable[..., AsyncGenerator[Any, Any]]:
    @functools.wraps(function)
    async def measured(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        work = _Work(name, registry)
        try:
            generator = function(*args, **kwargs)
            item = await anext(generator)
            while True:
                work.pause()
                try:
                    sent = yield item
                except GeneratorExit:
                    work.resume()
                    await generator.aclose()
                    raise
                except BaseException as error:
                    work.resume()
                    item = await generator.athrow(error)
                else:
                    work.resume()
                    item = await generator.asend(sent)
        except StopAsyncIteration:
            work.end(None)
        except BaseException as error:
            work.end(error)
            raise

    return measured
