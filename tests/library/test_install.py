"""Putting it on, twice, late, under other names; and taking it off."""

from __future__ import annotations

import io
import logging
import sys
from typing import Any
from weakref import WeakSet

import pytest
from fastapi import FastAPI
from prometheus_client import REGISTRY, CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

import tocsin
from tocsin.testing import Capture, call, counted


async def ok(request: Request) -> Response:
    return PlainTextResponse("ok")


def starlette() -> Starlette:
    return Starlette(routes=[Route("/", ok)])


def fastapi() -> FastAPI:
    app = FastAPI()
    app.add_api_route("/", lambda: "ok")
    return app


@pytest.mark.parametrize("make", [starlette, fastapi])
async def test_frameworks_are_changed_in_place_and_once(make: Any, registry: CollectorRegistry, lines: Capture) -> None:
    """The same object comes back, and a second call changes nothing."""
    app = make()
    assert tocsin.instrument(app, registry=registry, log_stream=lines) is app
    assert tocsin.instrument(app, registry=registry, log_stream=lines) is app
    await call(app)
    assert sum(counted(registry).values()) == 1
    assert len(lines.access) == 1


async def test_other_applications_are_wrapped_once(registry: CollectorRegistry, lines: Capture) -> None:
    """A wrapper comes back that has the application's attributes; wrapping the wrapper changes nothing."""

    class Application:
        state = "mine"

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await PlainTextResponse("ok")(scope, receive, send)

    inner = Application()
    app = tocsin.instrument(inner, registry=registry, log_stream=lines)
    assert app is not inner
    assert app.state == "mine"
    assert tocsin.instrument(app, registry=registry, log_stream=lines) is app
    await call(app)
    assert sum(counted(registry).values()) == 1


@pytest.mark.parametrize("make", [starlette, fastapi])
async def test_instrumenting_works_after_the_first_request(
    make: Any, registry: CollectorRegistry, lines: Capture
) -> None:
    """The middleware that is already built is wrapped as it is."""
    app = make()
    await call(app)
    tocsin.instrument(app, registry=registry, log_stream=lines)
    await call(app)
    assert sum(counted(registry).values()) == 1


@pytest.mark.parametrize("before", [True, False])
async def test_the_order_of_middleware_does_not_matter(
    before: bool, registry: CollectorRegistry, lines: Capture
) -> None:
    """Always outermost: what middleware answers by itself is counted too."""
    app = fastapi()
    if before:
        tocsin.instrument(app, registry=registry, log_stream=lines)
    app.add_middleware(CORSMiddleware, allow_origins=["*"])
    tocsin.instrument(app, registry=registry, log_stream=lines)
    preflight = {"origin": "https://x", "access-control-request-method": "GET"}
    assert (await call(app, method="OPTIONS", headers=preflight)).status == 200
    assert counted(registry) == {("OPTIONS", "", "200"): 1}


async def test_a_rebuilt_stack_stays_instrumented(registry: CollectorRegistry, lines: Capture) -> None:
    """Libraries that build the middleware again do not lose us, nor double us."""
    app = tocsin.instrument(fastapi(), registry=registry, log_stream=lines)
    await call(app)
    app.middleware_stack = app.build_middleware_stack()
    await call(app)
    assert sum(counted(registry).values()) == 2


async def test_a_mounted_instrumented_application_counts_once(registry: CollectorRegistry, lines: Capture) -> None:
    """The outermost layer watches; the inner one lets the request pass."""
    inner_registry = CollectorRegistry()
    inner = tocsin.instrument(fastapi(), registry=inner_registry, logs=False)
    app = Starlette(routes=[Mount("/inner", app=inner)])
    tocsin.instrument(app, registry=registry, log_stream=lines)
    await call(app, "/inner/")
    assert counted(registry) == {("GET", "/inner/", "200"): 1}
    assert counted(inner_registry) == {}
    assert len(lines.access) == 1


@pytest.mark.parametrize("make", [starlette, fastapi])
@pytest.mark.parametrize("used", [True, False])
async def test_uninstrument_takes_it_off(make: Any, used: bool, registry: CollectorRegistry, lines: Capture) -> None:
    """Nothing is recorded any more, /metrics is the application's own, and it can be put on again."""
    app = tocsin.instrument(make(), registry=registry, log_stream=lines)
    if used:
        await call(app)
    assert tocsin.uninstrument(app) is app
    before = counted(registry)
    assert (await call(app)).status == 200
    assert (await call(app, "/metrics")).status == 404
    assert counted(registry) == before
    assert "build_middleware_stack" not in vars(app)
    tocsin.instrument(app, registry=registry, log_stream=lines)
    await call(app)
    assert sum(counted(registry).values()) == sum(before.values()) + 1


async def test_uninstrument_unwraps_a_wrapper(registry: CollectorRegistry) -> None:
    """The application itself comes back; the wrapper, if still used, lets everything pass."""
    inner = PlainTextResponse("ok")
    app = tocsin.instrument(inner, registry=registry, logs=False)
    assert tocsin.uninstrument(app) is inner
    await call(app)
    assert counted(registry) == {}
    assert tocsin.uninstrument(inner) is inner


async def test_the_environment_is_read_when_called(
    registry: CollectorRegistry, lines: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OTEL_SERVICE_NAME names the service unless the argument does; without both it is unknown_service."""
    names = []
    for argument, environment in ((None, None), (None, "from-env"), ("from-code", "from-env")):
        if environment:
            monkeypatch.setenv("OTEL_SERVICE_NAME", environment)
        capture = Capture()
        await call(
            tocsin.instrument(PlainTextResponse("ok"), service_name=argument, registry=registry, log_stream=capture)
        )
        names.append(capture.access[0]["service.name"])
    assert names == ["unknown_service", "from-env", "from-code"]


async def test_the_default_registry_is_prometheus_clients() -> None:
    """Without a registry everything is where prometheus_client keeps it, as often as one likes."""
    for _ in range(2):
        app = tocsin.instrument(PlainTextResponse("ok"), service_name="default", logs=False)
        await call(app)
    assert b"python_info" in (await call(app, "/metrics")).body
    assert counted(REGISTRY)["GET", "", "200"] >= 2


async def later(scope: Any) -> str:
    return "later"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exclude": "/healthz"}, "several paths"),
        ({"exclude": ["healthz"]}, "must begin with '/'"),
        ({"metrics_path": "metrics"}, "must begin with '/'"),
        ({"log_level": "loud"}, "expected one of"),
        ({"buckets": (0.1, float("nan"))}, "rising numbers"),
        ({"buckets": (float("nan"),)}, "rising numbers"),
        ({"labels": {"tenant": later}}, "plain function"),
        ({"log_stream": io.StringIO(), "log_file": "x"}, "give one of them"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str, registry: CollectorRegistry) -> None:
    """At once, with what was found and what is expected."""
    with pytest.raises(ValueError, match=message):
        tocsin.instrument(PlainTextResponse("ok"), registry=registry, **options)


async def test_what_fails_halfway_leaves_nothing(
    registry: CollectorRegistry, lines: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that is missing is told, and the application is as it was; it can be instrumented otherwise."""
    monkeypatch.setitem(sys.modules, "opentelemetry.instrumentation.fastapi", None)
    app = fastapi()
    with pytest.raises(ModuleNotFoundError, match="pip install"):
        tocsin.instrument(app, registry=registry, log_stream=lines, traces="opentelemetry")
    assert "build_middleware_stack" not in vars(app)
    tocsin.instrument(app, registry=registry, log_stream=lines)
    await call(app)
    assert counted(registry) == {("GET", "/", "200"): 1}
    assert len(lines.access) == 1


@pytest.mark.parametrize(
    "app",
    ["app:app", object(), lambda: None, lambda _scope: None],
    ids=["text", "object", "no arguments", "one argument"],
)
def test_what_is_no_application_is_refused(app: Any, registry: CollectorRegistry) -> None:
    """Neither ASGI nor WSGI by its signature: better to say so when the process starts."""
    with pytest.raises(TypeError, match="takes a FastAPI, Starlette, Litestar, Flask or Django application"):
        tocsin.instrument(app, registry=registry)


def test_uvicorns_access_log_is_silent_until_the_last_application_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two applications in one process: taking one off does not double the lines of the other."""
    monkeypatch.setattr("tocsin.install._quieting", WeakSet())
    access = logging.getLogger("uvicorn.access")
    one, two = (
        tocsin.instrument(PlainTextResponse("ok"), registry=CollectorRegistry(), log_stream=Capture()) for _ in range(2)
    )
    tocsin.uninstrument(one)
    assert access.disabled
    tocsin.uninstrument(two)
    assert not access.disabled
