"""Django: routes, statuses, exceptions and streams through `WSGIHandler` and `ASGIHandler`, instrumented in place."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import django
import pytest
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.exceptions import PermissionDenied
from django.core.wsgi import get_wsgi_application
from django.http import FileResponse, Http404, HttpResponse, StreamingHttpResponse
from django.http.request import HttpRequest
from django.test import override_settings
from django.urls import URLPattern, URLResolver, include, path, re_path
from django.views import View
from prometheus_client import CollectorRegistry
from structlog.contextvars import bind_contextvars, get_contextvars
from werkzeug.test import Client

import tocsin
from tocsin.answered import is_repetition
from tocsin.integrations.django import template
from tocsin.names import HTTP_SERVER_EXCEPTIONS
from tocsin.testing import Answer, Capture, active, call, counted, dropped, seconds

KINDS = pytest.mark.parametrize("kind", ["wsgi", "asgi"])


SOURCE = Path(__file__).read_bytes()


class ShopError(Exception):
    pass


def show(request: HttpRequest, *args: object, **named: object) -> HttpResponse:
    return HttpResponse(f"{args} {named}")


def boom(request: HttpRequest) -> HttpResponse:
    raise ShopError("boom")


async def async_boom(request: HttpRequest) -> HttpResponse:
    raise ShopError("boom")


async def awaited(request: HttpRequest) -> HttpResponse:
    await asyncio.sleep(0)
    return HttpResponse("ok")


def missing(request: HttpRequest, pk: int) -> HttpResponse:
    raise Http404


def forbidden(request: HttpRequest) -> HttpResponse:
    raise PermissionDenied


def bind(request: HttpRequest) -> HttpResponse:
    before = get_contextvars()
    bind_contextvars(user="ann")
    return HttpResponse(f"{before}")


def stream(request: HttpRequest) -> StreamingHttpResponse:
    def pieces() -> Iterator[bytes]:
        for _ in range(3):
            time.sleep(0.02)
            yield b"x"

    return StreamingHttpResponse(pieces())


async def async_stream(request: HttpRequest) -> StreamingHttpResponse:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            await asyncio.sleep(0.02)
            yield b"x"

    return StreamingHttpResponse(pieces())


def broken(request: HttpRequest) -> StreamingHttpResponse:
    def pieces() -> Iterator[bytes]:
        yield b"half"
        raise ShopError("halfway")

    return StreamingHttpResponse(pieces())


async def async_broken(request: HttpRequest) -> StreamingHttpResponse:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"half"
        raise ShopError("halfway")

    return StreamingHttpResponse(pieces())


def source(request: HttpRequest) -> FileResponse:
    return FileResponse(Path(__file__).open("rb"))


class Thing(View):
    def get(self, request: HttpRequest, slug: str) -> HttpResponse:
        return HttpResponse(slug)


SHOP = [
    path("", show),
    path("items/<int:pk>/", show, name="item"),
    path("things/<slug:slug>", Thing.as_view()),
]

urlpatterns: list[URLPattern | URLResolver] = [
    path("", show),
    path("items/<int:pk>/", show),
    path("files/<path:name>", show),
    path("shops/<slug:shop>/", include((SHOP, "shop"), namespace="one")),
    re_path(r"^articles/(?P<year>[0-9]{4})/(?P<slug>[\w-]+)/$", show),
    re_path(r"^legacy/([0-9]+)/(?:page-(?P<page>\d+)/)?$", show),
    re_path(r"^v(?P<version>[12])/", include([path("users/<int:pk>", show)])),
    path("missing/<int:pk>", missing),
    path("forbidden", forbidden),
    path("boom", boom),
    path("async-boom", async_boom),
    path("async", awaited),
    path("bind", bind),
    path("stream", stream),
    path("async-stream", async_stream),
    path("broken", broken),
    path("async-broken", async_broken),
    path("source", source),
]


@pytest.fixture(scope="module", autouse=True)
def configured() -> None:
    if not settings.configured:
        settings.configure(
            ALLOWED_HOSTS=["*"],
            ROOT_URLCONF=__name__,
            MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
            USE_TZ=True,
            SECRET_KEY="a test's",
            LOGGING_CONFIG=None,
        )
        django.setup()


def make(kind: str) -> Any:
    return get_wsgi_application() if kind == "wsgi" else get_asgi_application()


async def ask(app: Any, kind: str, url: str, method: str = "GET", **options: Any) -> tuple[int, bytes]:
    """Send a request as a server of that kind would, and take all of the answer."""
    if kind == "asgi":
        answer = await call(app, url, method=method, **options)
        return answer.status, answer.body

    def take() -> tuple[int, bytes]:
        with Client(app).open(url, method=method) as response:
            return response.status_code, response.data

    return await asyncio.to_thread(take)  # where no loop runs, as in a worker; in a copy of this context


def exceptions(registry: CollectorRegistry) -> dict[tuple[str, str], int]:
    return {
        (sample.labels["http_route"], sample.labels["error_type"].rpartition(".")[2]): int(sample.value)
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == HTTP_SERVER_EXCEPTIONS.name
    }


@KINDS
@pytest.mark.parametrize(
    ("method", "url", "label", "route", "status"),
    [
        ("GET", "/", "GET", "/", 200),
        ("HEAD", "/", "HEAD", "/", 200),
        ("GET", "/items/7/", "GET", "/items/{pk}/", 200),
        ("GET", "/items/7", "GET", "", 301),
        ("GET", "/files/a/b.txt", "GET", "/files/{name}", 200),
        ("GET", "/shops/blue/", "GET", "/shops/{shop}/", 200),
        ("GET", "/shops/blue/items/7/", "GET", "/shops/{shop}/items/{pk}/", 200),
        ("GET", "/shops/blue/things/x", "GET", "/shops/{shop}/things/{slug}", 500),
        ("GET", "/articles/2024/a-b/", "GET", "/articles/{year}/{slug}/", 200),
        ("GET", "/legacy/7/page-2/", "GET", "/legacy/{0}/page-{page}/", 200),
        ("GET", "/v2/users/7", "GET", "/v{version}/users/{pk}", 200),
        ("GET", "/missing/7", "GET", "/missing/{pk}", 404),
        ("GET", "/forbidden", "GET", "/forbidden", 403),
        ("GET", "/nowhere/7", "GET", "", 404),
        ("GET", "/async", "GET", "/async", 200),
        ("BREW", "/", "_OTHER", "/", 200),
    ],
)
async def test_each_request_is_counted_under_its_route(
    kind: str,
    method: str,
    url: str,
    label: str,
    route: str,
    status: int,
    registry: CollectorRegistry,
    lines: Capture,
) -> None:
    """Method, full template and status; one line of the same; nothing in flight, nothing dropped."""
    app = tocsin.instrument(make(kind), registry=registry, log_stream=lines)
    assert (await ask(app, kind, url, method))[0] == status
    assert counted(registry) == {(label, route, str(status)): 1}
    (line,) = lines.access
    assert (line["http.request.method"], line["http.route"], line["url.path"]) == (label, route, url)
    assert active(registry) == 0
    assert dropped(registry) == {}


@KINDS
async def test_a_view_that_does_not_take_the_method_answers_405_under_its_route(
    kind: str, registry: CollectorRegistry, lines: Capture
) -> None:
    """The URL matched; the view refused."""
    urls = [path("things/<slug:slug>", Thing.as_view())]
    with override_settings(ROOT_URLCONF=tuple(urls)):
        app = tocsin.instrument(make(kind), registry=registry, log_stream=lines)
        assert (await ask(app, kind, "/things/x", "DELETE"))[0] == 405
    assert counted(registry) == {("DELETE", "/things/{slug}", "405"): 1}


@KINDS
@pytest.mark.parametrize("url", ["/boom", "/async-boom"])
async def test_an_exception_that_django_answers_is_told_in_the_line_and_counted_once(
    kind: str, url: str, registry: CollectorRegistry, lines: Capture
) -> None:
    """It never leaves the handler; type, message and stack are in the access line all the same."""
    app = tocsin.instrument(make(kind), registry=registry, log_stream=lines)
    assert (await ask(app, kind, url))[0] == 500
    assert counted(registry) == {("GET", url, "500"): 1}
    assert exceptions(registry) == {(url, "ShopError"): 1}
    (line,) = lines.access
    assert line["error.message"] == "boom"
    assert 'raise ShopError("boom")' in line["error.stack_trace"]


@KINDS
@pytest.mark.parametrize("url", ["/missing/7", "/forbidden", "/nowhere"])
async def test_exceptions_that_are_answers_are_not_told(
    kind: str, url: str, registry: CollectorRegistry, lines: Capture
) -> None:
    """Http404 and PermissionDenied are how views say no."""
    await ask(tocsin.instrument(make(kind), registry=registry, log_stream=lines), kind, url)
    assert exceptions(registry) == {}
    assert "error.type" not in lines.access[0]


async def test_an_exception_that_is_propagated_is_counted_once(registry: CollectorRegistry, lines: Capture) -> None:
    """With DEBUG_PROPAGATE_EXCEPTIONS it is noted, and leaves the handler too."""
    app = tocsin.instrument(make("wsgi"), registry=registry, log_stream=lines)
    with override_settings(DEBUG_PROPAGATE_EXCEPTIONS=True), pytest.raises(ShopError):
        await ask(app, "wsgi", "/boom")
    assert counted(registry) == {("GET", "/boom", "500"): 1}
    assert exceptions(registry) == {("/boom", "ShopError"): 1}


@pytest.mark.parametrize(("kind", "url"), [("wsgi", "/stream"), ("asgi", "/async-stream")])
async def test_a_stream_lasts_until_its_last_piece(
    kind: str, url: str, registry: CollectorRegistry, lines: Capture
) -> None:
    """The time it takes is the request's."""
    app = tocsin.instrument(make(kind), registry=registry, log_stream=lines)
    assert await ask(app, kind, url) == (200, b"xxx")
    assert counted(registry) == {("GET", url, "200"): 1}
    assert seconds(registry) >= 0.06
    assert len(lines.access) == 1


async def test_a_file_is_sent_the_servers_way(registry: CollectorRegistry, lines: Capture) -> None:
    """FileResponse goes to the server's file wrapper where there is one; here there is none."""
    app = tocsin.instrument(make("wsgi"), registry=registry, log_stream=lines)
    assert await ask(app, "wsgi", "/source") == (200, SOURCE)
    assert counted(registry) == {("GET", "/source", "200"): 1}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Django forgets a file of its own then
@pytest.mark.parametrize(("kind", "url"), [("wsgi", "/broken"), ("asgi", "/async-broken")])
async def test_a_stream_that_breaks_is_counted_as_500(
    kind: str, url: str, registry: CollectorRegistry, lines: Capture
) -> None:
    """The status line said 200, the client got half of it."""
    app = tocsin.instrument(make(kind), registry=registry, log_stream=lines)
    with pytest.raises(ShopError, match="halfway"):
        await ask(app, kind, url)
    assert counted(registry) == {("GET", url, "500"): 1}
    assert exceptions(registry) == {(url, "ShopError"): 1}
    assert active(registry) == 0
    gc.collect()


async def test_a_client_that_leaves_a_stream_is_499(registry: CollectorRegistry, lines: Capture) -> None:
    """Under ASGI the stream is cancelled; under WSGI it is closed before its end."""
    app = tocsin.instrument(make("asgi"), registry=registry, log_stream=lines)
    await call(app, "/async-stream", disconnect_after=1, answer=Answer())
    Client(tocsin.instrument(make("wsgi"), registry=registry, log_stream=lines)).get("/stream").close()
    assert counted(registry) == {("GET", "/async-stream", "499"): 1, ("GET", "/stream", "499"): 1}
    assert active(registry) == 0


@KINDS
async def test_variables_bound_in_one_request_are_not_seen_in_the_next(
    kind: str, registry: CollectorRegistry, lines: Capture
) -> None:
    """A worker's thread answers one request after the other."""
    app = tocsin.instrument(make(kind), registry=registry, log_stream=lines)
    assert await ask(app, kind, "/bind") == (200, b"{}")
    assert await ask(app, kind, "/bind") == (200, b"{}")


@KINDS
async def test_what_a_view_logs_has_the_trace_of_its_request(
    kind: str, registry: CollectorRegistry, lines: Capture
) -> None:
    """Sync views run in a thread under ASGI; the ids go along."""
    log = tocsin.get_logger()

    def talks(request: HttpRequest) -> HttpResponse:
        log.info("here")
        return HttpResponse("ok")

    with override_settings(ROOT_URLCONF=(path("", talks),)):
        await ask(tocsin.instrument(make(kind), registry=registry, log_stream=lines), kind, "/")
    assert lines.application[0]["trace.id"] == lines.access[0]["trace.id"]


@KINDS
async def test_a_handler_stays_what_it_is(kind: str, registry: CollectorRegistry, lines: Capture) -> None:
    """The same object of the same kind, instrumented once; uninstrumented, as it was before."""
    app = make(kind)
    before, called = dict(vars(app)), type(app)
    assert tocsin.instrument(app, registry=registry, log_stream=lines) is app
    assert tocsin.instrument(app, registry=registry, log_stream=lines) is app
    assert isinstance(app, called)
    assert type(app).__name__ == called.__name__
    assert asyncio.iscoroutinefunction(app.__call__) == (kind == "asgi")
    await ask(app, kind, "/")
    assert tocsin.uninstrument(app) is app
    assert type(app) is called
    assert vars(app) == before
    await ask(app, kind, "/boom")
    assert counted(registry) == {("GET", "/", "200"): 1}


async def test_a_handler_inside_middleware_has_its_routes(registry: CollectorRegistry, lines: Capture) -> None:
    """`application = tocsin.instrument(middleware(get_wsgi_application()))` finds templates and exceptions."""

    class Middleware:
        def __init__(self, application: Any) -> None:
            self.application = application

        def __call__(self, environ: Any, start_response: Any) -> Any:
            return self.application(environ, start_response)

    app = tocsin.instrument(Middleware(make("wsgi")), registry=registry, log_stream=lines)
    await ask(app, "wsgi", "/shops/blue/items/7/")
    await ask(app, "wsgi", "/boom")
    assert counted(registry) == {("GET", "/shops/{shop}/items/{pk}/", "200"): 1, ("GET", "/boom", "500"): 1}
    assert exceptions(registry) == {("/boom", "ShopError"): 1}


async def test_the_metrics_page_and_excluded_paths_are_none_of_djangos(
    registry: CollectorRegistry, lines: Capture
) -> None:
    """Answered by the layer; not counted."""
    app = tocsin.instrument(make("wsgi"), registry=registry, log_stream=lines, exclude=("/async",))
    assert (await ask(app, "wsgi", "/async"))[0] == 200
    status, page = await ask(app, "wsgi", "/metrics")
    assert status == 200
    assert b"# TYPE http_server_request_duration_seconds histogram" in page
    assert counted(registry) == {}


@pytest.mark.parametrize(
    ("route", "shown"),
    [
        ("", "/"),
        ("a/<int:x>/<y>/", "/a/{x}/{y}/"),
        (r"^a/(?P<x>(?:b|c)[)(]\))/$", "/a/{x}/"),
        (r"a\.b/(\d+)-(\w+)/?$", "/a.b/{0}-{1}/"),
        (r"^(?i)a/(?=b)b/\Z", "/a/b/"),
        (r"^x/(?:y/(?P<z>\d+))?/$", "/x/y/{z}/"),
        (r"^open/(?P<x>", "/open/{x}"),
        ("^api/<int:x>/(?P<y>.*)$", "/api/{x}/{y}"),
        ("i18n/en/<uuid:x>", "/i18n/en/{x}"),
    ],
)
def test_patterns_become_templates(route: str, shown: str) -> None:
    """Readable, and the same for every request: what a path may contain is not in there."""
    assert template(route) == shown


def test_djangos_own_log_of_an_exception_is_recognised_as_a_repetition(
    registry: CollectorRegistry, lines: Capture, caplog: pytest.LogCaptureFixture
) -> None:
    """`django.request` logs the stack that the access line has; our handler may leave it out."""
    app = tocsin.instrument(make("wsgi"), registry=registry, log_stream=lines)
    with Client(app).get("/boom"), Client(app).get("/nowhere"):
        pass
    records = [record for record in caplog.records if record.name == "django.request"]
    assert [(record.levelno, is_repetition(record)) for record in records] == [
        (logging.ERROR, True),
        (logging.WARNING, False),
    ]
