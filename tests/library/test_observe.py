"""`tocsin.observe` measures functions and blocks, and leaves what they are and do as it is."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import inspect
import subprocess
import sys
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from tocsin.metrics.families import families_of
from tocsin.names import OPERATION_DURATION
from tocsin.observe import observe
from tocsin.redact import redactor
from tocsin.request import CURRENT, Current, current_trace
from tocsin.testing import dropped
from tocsin.tracing.context import Trace
from tocsin.tracing.spans import Span, make_current, span_class


def counts(registry: CollectorRegistry) -> dict[tuple[str, str], int]:
    """Return how often operations ended, by (operation, outcome)."""
    return {
        (sample.labels["operation"], sample.labels["outcome"]): int(sample.value)
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == f"{OPERATION_DURATION.name}_count"
    }


def seconds(registry: CollectorRegistry) -> float:
    name = f"{OPERATION_DURATION.name}_sum"
    return sum(sample.value for metric in registry.collect() for sample in metric.samples if sample.name == name)


class Kept:
    """Keeps the spans that are over."""

    redact = redactor()
    value_limit, attribute_limit, event_limit = 1_000, 128, 128

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def put(self, item: Span) -> None:
        self.spans.append(item)

    @property
    def names(self) -> list[str]:
        return [span.details.name for span in self.spans if span.details is not None]


@pytest.fixture
def kept(registry: CollectorRegistry) -> Iterator[Kept]:
    """Be inside of a sampled request whose spans are kept."""
    kept = Kept()
    server = Span("1" * 32, "2" * 16, sampled=True)
    server.sink = kept
    token = CURRENT.set(Current(server, families_of(registry), None))
    yield kept
    CURRENT.reset(token)


# --- what is counted ------------------------------------------------------------------------------------------------


def test_a_function_is_counted_with_its_outcome(registry: CollectorRegistry) -> None:
    """Ok, error, and cancelled when somebody else wanted it to end."""

    @observe("divide", registry=registry)
    def divide(a: float, b: float) -> float:
        if a < 0:
            raise asyncio.CancelledError
        return a / b

    assert divide(6, b=3) == 2
    with pytest.raises(ZeroDivisionError):
        divide(1, 0)
    with pytest.raises(asyncio.CancelledError):
        divide(-1, 0)
    assert counts(registry) == {("divide", "ok"): 1, ("divide", "error"): 1, ("divide", "cancelled"): 1}


def test_the_bare_decorator_names_the_operation_after_the_function(registry: CollectorRegistry) -> None:
    """Its qualified name; also where only a registry is given."""

    class Cart:
        @observe(registry=registry)
        def checkout(self) -> str:
            return "done"

    @observe
    def alone() -> int:
        return 1

    assert Cart().checkout() == "done"
    prefix = "test_the_bare_decorator_names_the_operation_after_the_function.<locals>"
    assert counts(registry) == {(f"{prefix}.Cart.checkout", "ok"): 1}
    token = CURRENT.set(Current(None, families_of(registry), None))
    assert alone() == 1
    CURRENT.reset(token)
    assert counts(registry)[f"{prefix}.alone", "ok"] == 1


async def test_a_coroutine_function_is_measured_until_it_returns(registry: CollectorRegistry) -> None:
    """Not until it is called; a task that is cancelled is no error."""

    @observe("wait", registry=registry)
    async def wait(delay: float) -> str:
        await asyncio.sleep(delay)
        return "waited"

    assert await wait(0.05) == "waited"
    assert seconds(registry) >= 0.04
    task = asyncio.create_task(wait(60))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert counts(registry) == {("wait", "ok"): 1, ("wait", "cancelled"): 1}


def test_a_generator_is_measured_from_first_to_last_item(registry: CollectorRegistry) -> None:
    """Nothing is counted before it is asked, and what `send`, `throw` and `return` do is as without us."""

    @observe("numbers", registry=registry)
    def numbers(limit: int) -> Iterator[Any]:
        for number in range(limit):
            try:
                answer = yield number
            except KeyError as error:
                answer = f"caught {error}"
            if answer is not None:
                yield answer
        return "end"

    generator: Any = numbers(2)
    assert counts(registry) == {}
    assert next(generator) == 0
    assert generator.send("sent") == "sent"
    assert next(generator) == 1
    assert generator.throw(KeyError("thrown")) == "caught 'thrown'"
    with pytest.raises(StopIteration) as end:
        next(generator)
    assert end.value.value == "end"
    assert counts(registry) == {("numbers", "ok"): 1}
    assert list(numbers(3)) == [0, 1, 2]
    assert counts(registry) == {("numbers", "ok"): 2}


def test_a_generator_left_early_is_cancelled_and_cleans_up(registry: CollectorRegistry) -> None:
    """By `close`, by `break`, by being forgotten; an exception thrown in is an error."""
    cleaned: list[int] = []

    @observe("numbers", registry=registry)
    def numbers() -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            cleaned.append(1)

    closed: Any = numbers()
    next(closed)
    closed.close()
    for _ in numbers():
        break
    forgotten: Any = numbers()
    next(forgotten)
    del forgotten
    gc.collect()
    never_begun: Any = numbers()
    never_begun.close()
    assert len(cleaned) == 3
    assert counts(registry) == {("numbers", "cancelled"): 3}
    thrown: Any = numbers()
    next(thrown)
    with pytest.raises(OSError, match="gone"):
        thrown.throw(OSError("gone"))
    assert counts(registry)["numbers", "error"] == 1


async def test_an_async_generator_is_measured_like_a_generator(registry: CollectorRegistry) -> None:
    """`asend`, `athrow` and `aclose` included."""

    @observe("pages", registry=registry)
    async def pages() -> AsyncIterator[Any]:
        answer = yield 1
        try:
            yield answer
        except KeyError:
            yield "caught"
        yield 3

    generator: Any = pages()
    assert await anext(generator) == 1
    assert await generator.asend("sent") == "sent"
    assert await generator.athrow(KeyError()) == "caught"
    assert [item async for item in generator] == [3]
    assert counts(registry) == {("pages", "ok"): 1}
    early: Any = pages()
    await anext(early)
    await early.aclose()
    failing: Any = pages()
    await anext(failing)
    with pytest.raises(OSError, match="gone"):
        await failing.athrow(OSError("gone"))
    assert counts(registry) == {("pages", "ok"): 1, ("pages", "cancelled"): 1, ("pages", "error"): 1}


def test_an_async_generator_that_is_forgotten_raises_nothing(registry: CollectorRegistry) -> None:
    """The event loop closes it; warnings are errors here."""

    @observe("pages", registry=registry)
    async def pages() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)

    async def forget() -> None:
        await anext(pages())  # type: ignore[arg-type]  # an async generator is what it is
        gc.collect()
        for _ in range(5):
            await asyncio.sleep(0)

    asyncio.run(forget())
    assert counts(registry) == {("pages", "cancelled"): 1}


def test_a_block_is_measured(registry: CollectorRegistry) -> None:
    """With its outcome; a name is needed."""
    with observe("step", registry=registry):
        pass
    with pytest.raises(KeyError), observe("step", registry=registry):
        raise KeyError
    assert counts(registry) == {("step", "ok"): 1, ("step", "error"): 1}
    with pytest.raises(ValueError, match=r"tocsin\.observe"), observe(registry=registry):
        pass


async def test_an_async_block_is_measured(registry: CollectorRegistry) -> None:
    """As a block is."""
    async with observe("step", registry=registry):
        await asyncio.sleep(0)
    with pytest.raises(KeyError):
        async with observe("step", registry=registry):
            raise KeyError
    assert counts(registry) == {("step", "ok"): 1, ("step", "error"): 1}


async def test_one_object_measures_many_blocks_at_once(registry: CollectorRegistry) -> None:
    """Nested, in tasks and in threads: each block has its own time."""
    step = observe("step", registry=registry)

    async def wait(delay: float) -> None:
        with step:
            await asyncio.sleep(delay)

    def nested(depth: int) -> None:
        with step:
            if depth:
                nested(depth - 1)

    began = time.perf_counter()
    await asyncio.gather(wait(0.3), wait(0.0))
    assert 0.3 <= seconds(registry) < 0.1 + time.perf_counter() - began, "not twice the longer one"
    threads = [threading.Thread(target=nested, args=(5,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with contextlib.ExitStack() as stack:
        stack.enter_context(step)
    with step, step:
        pass
    assert counts(registry) == {("step", "ok"): 2 + 24 + 3}
    assert not step._open


def test_blocks_of_exit_stacks_do_not_take_each_others_place(kept: Kept) -> None:
    """Of two threads inside of one object at once, each ends its own span, and has none current afterwards."""
    step = observe("step")
    entered, left = threading.Event(), threading.Event()
    spans: dict[str, tuple[Trace | None, Trace | None]] = {}

    def first() -> None:
        with contextlib.ExitStack() as stack:
            own = stack.enter_context(step)
            second.start()
            assert entered.wait(20)
            stack.close()
            spans["first"] = own, kept.spans[-1]
        spans["after"] = current_trace(), server
        left.set()

    def other() -> None:
        with contextlib.ExitStack() as stack:
            own = stack.enter_context(step)
            entered.set()
            assert left.wait(20)
            stack.close()
            spans["second"] = own, kept.spans[-1]

    server = current_trace()
    second = threading.Thread(target=contextvars.copy_context().run, args=(other,))
    thread = threading.Thread(target=contextvars.copy_context().run, args=(first,))
    thread.start()
    thread.join()
    second.join()
    assert len(kept.spans) == 2
    assert spans.keys() == {"first", "second", "after"}
    assert all(one is another for one, another in spans.values())
    assert not step._open


async def test_exit_stacks_of_tasks_do_not_take_each_others_place(kept: Kept) -> None:
    """The same with tasks of one thread; one may also be left where nothing was entered."""
    step = observe("step")

    async def task(name: str, delay: int) -> bool:
        async with contextlib.AsyncExitStack() as stack:
            own = await stack.enter_async_context(step)
            for _ in range(delay):
                await asyncio.sleep(0)
            await stack.aclose()
            return kept.spans[-1] is own

    assert await asyncio.gather(*(task(str(delay), delay) for delay in (1, 9, 4))) == [True] * 3
    entered: contextlib.ExitStack = contextlib.ExitStack()
    await asyncio.create_task(_enter(entered, step))
    entered.close()
    assert len(kept.spans) == 4
    step.__exit__(None, None, None)
    assert not step._open


async def _enter(stack: contextlib.ExitStack, step: contextlib.AbstractContextManager[Any]) -> None:
    stack.enter_context(step)


# --- what stays as it is ----------------------------------------------------------------------------------------------


def test_functions_stay_what_they_are(registry: CollectorRegistry) -> None:
    """Kind, name, signature, documentation and attributes."""
    measure = observe("x", registry=registry)

    def function(a: int, *, b: str = "b") -> str:
        """Say something."""
        return f"{a}{b}"

    async def coroutine() -> None: ...

    def generator() -> Iterator[int]:
        yield 1

    async def async_generator() -> AsyncIterator[int]:
        yield 1

    function.mark = 1  # type: ignore[attr-defined]  # as a web framework's decorator would
    for original, is_kind in (
        (function, inspect.isfunction),
        (coroutine, inspect.iscoroutinefunction),
        (generator, inspect.isgeneratorfunction),
        (async_generator, inspect.isasyncgenfunction),
    ):
        measured: Any = measure(original)
        assert is_kind(measured)
        assert measured.__name__ == original.__name__
        assert measured.__doc__ == original.__doc__
        assert inspect.signature(measured) == inspect.signature(original)
        assert [check(measured) for check in _KINDS] == [check(original) for check in _KINDS]
    assert measure(function).mark == 1  # type: ignore[attr-defined]
    assert measure(function)(1, b="c") == "1c"


_KINDS: tuple[Callable[[object], bool], ...] = (
    inspect.iscoroutinefunction,
    inspect.isgeneratorfunction,
    inspect.isasyncgenfunction,
)


def test_methods_are_measured_in_either_order(registry: CollectorRegistry) -> None:
    """Below and above `@classmethod` and `@staticmethod`; abstract methods stay abstract."""
    measure = observe("method", registry=registry)

    class Shop(ABC):
        @measure
        def own(self) -> Shop:
            return self

        @classmethod
        @measure
        def below(cls) -> type[Shop]:
            return cls

        @measure
        @classmethod
        def above(cls) -> type[Shop]:
            return cls

        @measure
        @staticmethod
        def static(value: int) -> int:
            return value

        @property
        @measure
        def value(self) -> int:
            return 7

        @measure
        @abstractmethod
        def abstract(self) -> None: ...

    class Branch(Shop):
        def abstract(self) -> None: ...

    branch = Branch()
    assert branch.own() is branch
    assert (Branch.below(), branch.above(), Branch.static(3), branch.value) == (Branch, Branch, 3, 7)
    assert counts(registry) == {("method", "ok"): 5}
    with pytest.raises(TypeError, match="abstract"):
        Shop()  # type: ignore[abstract]  # that is what is tested


async def test_callable_objects_and_partials_are_measured_by_their_kind(registry: CollectorRegistry) -> None:
    """What is awaited is measured until it is done."""

    class Handler:
        async def __call__(self) -> str:
            await asyncio.sleep(0.02)
            return "handled"

    async def wait(delay: float) -> float:
        await asyncio.sleep(delay)
        return delay

    assert await observe(registry=registry)(Handler())() == "handled"
    assert await observe(registry=registry)(functools.partial(wait, 0.02))() == 0.02
    assert seconds(registry) >= 0.03
    assert {operation.rpartition(".")[2] for operation, _ in counts(registry)} == {"Handler", "wait"}


@pytest.mark.parametrize("thing", [int, property(lambda self: 1), 7])
def test_what_is_no_function_is_refused_when_it_is_decorated(thing: Any) -> None:
    """With a message that says what to do."""
    with pytest.raises(TypeError, match="Decorate the methods"):
        observe(registry=CollectorRegistry())(thing)


def test_context_managers_made_of_generators_work(registry: CollectorRegistry) -> None:
    """`@contextmanager` above: what it sets is seen by the block, and what the block raises comes in."""
    seen: list[str] = []

    @contextlib.contextmanager
    @observe("transaction", registry=registry)
    def transaction() -> Iterator[str]:
        token = CURRENT.set(None)
        try:
            yield "open"
        except OSError:
            seen.append("rolled back")
            raise
        finally:
            CURRENT.reset(token)

    with transaction() as state:
        assert state == "open"
    with pytest.raises(OSError, match="disk"), transaction():
        raise OSError("disk")
    assert seen == ["rolled back"]
    assert counts(registry) == {("transaction", "ok"): 1, ("transaction", "error"): 1}


def test_exceptions_are_raised_as_they_are(registry: CollectorRegistry) -> None:
    """The very object, with its traceback down to the line that raised it; nothing of it is kept."""

    class BrokenError(Exception):
        pass

    def broken(error: Exception) -> None:
        raise error

    measured = observe("broken", registry=registry)(broken)
    error = BrokenError("once")
    with pytest.raises(BrokenError) as caught:
        measured(error)
    assert caught.value is error
    assert error.__cause__ is error.__context__ is None
    assert [entry.name for entry in caught.traceback][-1] == "broken"
    reference = weakref.ref(error)
    del error, caught
    gc.collect()
    assert reference() is None


# --- traces -----------------------------------------------------------------------------------------------------------


async def test_work_below_a_trace_is_a_child_span(kept: Kept, registry: CollectorRegistry) -> None:
    """Nested as the work is, current while it runs, with its exception; the request's registry counts it."""

    @observe("inner")
    async def inner() -> str:
        raise ValueError("inner went wrong")

    @observe("outer")
    async def outer() -> str:
        trace = current_trace()
        assert trace is not None
        with contextlib.suppress(ValueError):
            await inner()
        assert current_trace() is trace
        return trace.span_id

    before = current_trace()
    span_id = await outer()
    assert current_trace() is before
    inner_span, outer_span = kept.spans
    assert kept.names == ["inner", "outer"]
    assert outer_span.span_id == span_id
    assert (outer_span.parent_id, inner_span.parent_id) == ("2" * 16, span_id)
    assert inner_span.details is not None
    assert [event.name for event in inner_span.details.events] == ["exception"]
    assert inner_span.details.attributes["error.type"] == "ValueError"
    assert outer_span.details is not None
    assert not outer_span.details.events
    assert counts(registry) == {("inner", "error"): 1, ("outer", "ok"): 1}


def test_the_span_is_the_example_of_its_bucket(kept: Kept, registry: CollectorRegistry) -> None:
    """From a slow bucket one click leads to a slow piece of work."""
    with observe("step") as work:
        work.set_attribute("order.items", 3)
    (exemplar,) = [
        sample.exemplar for metric in registry.collect() for sample in metric.samples if sample.exemplar is not None
    ]
    (span,) = kept.spans
    assert exemplar.labels == {"trace_id": "1" * 32, "span_id": span.span_id}
    assert span.details is not None
    assert span.details.attributes == {"order.items": 3}


def test_without_a_trace_there_is_no_span(registry: CollectorRegistry) -> None:
    """Code can say things about the span all the same."""
    with observe("step", registry=registry) as work:
        work.set_attribute("order.items", 3)
        assert current_trace() is None
    assert counts(registry) == {("step", "ok"): 1}


def test_the_span_of_a_generator_is_not_its_consumers(kept: Kept) -> None:
    """A generator runs in its consumer's context: between items, the consumer's own span is the current one."""

    @observe("rows")
    def rows() -> Iterator[Trace | None]:
        yield current_trace()
        with observe("parse"):
            pass
        yield current_trace()

    before = current_trace()
    generator = rows()
    first = next(generator)
    assert current_trace() is before
    with observe("consume"):
        consuming = current_trace()
        assert next(generator) is first
        assert current_trace() is consuming
        assert next(generator, None) is None
        assert current_trace() is consuming
    assert current_trace() is before
    assert first is not None
    assert kept.names == ["parse", "rows", "consume"]
    assert kept.spans[0].parent_id == first.span_id == kept.spans[1].span_id
    assert kept.spans[1].parent_id == kept.spans[2].parent_id == "2" * 16


async def test_the_span_of_an_async_generator_is_not_its_consumers(kept: Kept) -> None:
    """Also when it is left early."""

    @observe("rows")
    async def rows() -> AsyncIterator[Trace | None]:
        yield current_trace()
        yield current_trace()

    before = current_trace()
    generator: Any = rows()
    first = await anext(generator)
    assert current_trace() is before
    assert await anext(generator) is first
    await generator.aclose()
    assert current_trace() is before
    assert kept.names == ["rows"]


def test_a_generator_closed_in_another_context_raises_nothing(kept: Kept, registry: CollectorRegistry) -> None:
    """As when a framework runs a dependency's cleanup in another thread."""

    @observe("session")
    def session() -> Iterator[int]:
        yield 1

    generator: Any = session()
    next(generator)
    thread = threading.Thread(target=generator.close)
    thread.start()
    thread.join()
    assert kept.names == ["session"]
    assert counts(registry) == {("session", "cancelled"): 1}
    assert dropped(registry) == {}


def test_a_block_left_in_another_context_raises_nothing(kept: Kept, registry: CollectorRegistry) -> None:
    """The same, with the block inside the generator."""

    def session() -> Iterator[int]:
        with observe("session"):
            yield 1

    generator: Any = session()
    contextvars.copy_context().run(next, generator)
    generator.close()
    assert counts(registry) == {("session", "cancelled"): 1}
    assert dropped(registry) == {}


def test_a_span_of_somebody_else_is_left_current(kept: Kept) -> None:
    """What the consumer makes current between items stays so."""

    @observe("rows")
    def rows() -> Iterator[int]:
        yield from range(3)

    other = span_class()("1" * 32, "9" * 16, sampled=True)
    generator = rows()
    next(generator)
    make_current(other)
    next(generator)
    assert current_trace() is other
    list(generator)
    assert current_trace() is other
    make_current(None)


# --- typing and cost --------------------------------------------------------------------------------------------------

PROGRAM = """
from collections.abc import AsyncIterator, Iterator
from typing import assert_type, overload
from tocsin.observe import observe

@observe
def bare(a: int, *, b: str = "") -> float:
    return a + len(b)

@observe("named")
async def named(a: int) -> str:
    return str(a)

@observe()
def rows(limit: int) -> Iterator[int]:
    yield limit

@observe("pages")
async def pages() -> AsyncIterator[bytes]:
    yield b""

@overload
def either(a: int) -> int: ...
@overload
def either(a: str) -> str: ...
@observe("either")
def either(a: int | str) -> int | str:
    return a

class Cart:
    @observe("total")
    def total(self, tax: float) -> float:
        return tax

    @observe("make")
    @classmethod
    def make(cls, size: int) -> "Cart":
        return cls()

    @classmethod
    @observe
    def below(cls) -> "Cart":
        return cls()

    @observe
    @staticmethod
    def count(of: list[int]) -> int:
        return len(of)

async def use() -> None:
    assert_type(bare(1, b="x"), float)
    assert_type(await named(1), str)
    assert_type(rows(1), Iterator[int])
    assert_type(pages(), AsyncIterator[bytes])
    assert_type(either(1), int)
    assert_type(either("a"), str)
    cart = Cart.make(3)
    assert_type(cart, Cart)
    assert_type(Cart.below(), Cart)
    assert_type(cart.total(0.2), float)
    assert_type(Cart.count([1]), int)
    with observe("step") as work:
        work.set_attribute("a", 1)
    async with observe("step"):
        pass

def wrong() -> None:
    bare("x")  # type: ignore[arg-type]
    bare(1, c=2)  # type: ignore[call-arg]
    Cart().total()  # type: ignore[call-arg]
    observe(7)  # type: ignore[call-overload]
"""


def test_mypy_sees_what_is_decorated_as_it_is(tmp_path: Path) -> None:
    """Strict, with wrong calls found: an unused `type: ignore` would be an error."""
    (tmp_path / "program.py").write_text(PROGRAM)
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--config-file=",
            "--cache-dir",
            str(tmp_path / "cache"),
            "program.py",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_measuring_costs_little(registry: CollectorRegistry) -> None:
    """A few microseconds (the bound is loose: other tests run on this machine); the benchmark has the numbers."""

    def nothing() -> None: ...

    measured = observe("nothing", registry=registry)(nothing)

    def best(function: Callable[[], None]) -> float:
        found = []
        for _ in range(7):
            began = time.perf_counter()
            for _ in range(5_000):
                function()
            found.append(time.perf_counter() - began)
        return min(found) / 5_000

    cost = best(measured) - best(nothing)
    print(f"observe: {cost * 1e6:.2f} us")
    assert cost < 20e-6
