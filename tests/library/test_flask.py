"""Flask: routes, statuses, exceptions and streams of applications instrumented in place; with Flask's own client."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import flask
import pytest
from flask import Blueprint, Flask, abort, stream_with_context
from flask.views import MethodView
from prometheus_client import CollectorRegistry
from structlog.contextvars import bind_contextvars, get_contextvars
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import Client

import tocsin
from tocsin.names import HTTP_SERVER_EXCEPTIONS
from tocsin.testing import Capture, active, counted, dropped, fresh_registry, seconds


class ShopError(Exception):
    pass


def shop() -> Flask:
    """An application with a bit of everything."""
    app = Flask(__name__)
    inner = Blueprint("inner", __name__, url_prefix="/<string(length=2):lang>")
    outer = Blueprint("outer", __name__, url_prefix="/api/v1")

    @app.route("/")
    def index() -> str:
        return "ok"

    @app.route("/items/<int:number>", methods=["GET", "POST"])
    def item(number: int) -> str:
        return f"item {number}"

    @app.route("/files/<path:name>")
    def file(name: str) -> str:
        return name

    @app.route("/any/<any(red, 'a)b'):colour>/")
    def colour(colour: str) -> str:
        return colour

    @inner.route("/things/<uuid:thing>")
    def thing(lang: str, thing: str) -> str:
        return lang

    @outer.route("/users/<user>")
    def user(user: str) -> str:
        return user

    @app.route("/boom")
    def boom() -> str:
        raise ShopError("boom")

    @app.route("/meant")
    def meant() -> str:
        abort(503)

    @app.route("/teapot")
    def teapot() -> str:
        abort(418)

    @app.route("/async")
    async def asynchronous() -> str:
        assert tocsin.trace_headers()
        return "ok"

    @app.route("/stream")
    def stream() -> flask.Response:
        def pieces() -> Iterator[bytes]:
            for _ in range(3):
                time.sleep(0.02)
                yield flask.request.path.encode()

        return flask.Response(stream_with_context(pieces()))

    @app.route("/stream/broken")
    def broken() -> flask.Response:
        def pieces() -> Iterator[bytes]:
            yield b"half"
            raise ShopError("halfway")

        return flask.Response(pieces())

    class View(MethodView):
        def get(self, number: int) -> str:
            return "view"

        def put(self, number: int) -> tuple[str, int]:
            return "made", 201

    app.add_url_rule("/view/<int:number>", view_func=View.as_view("view"))
    outer.register_blueprint(inner)
    app.register_blueprint(outer)
    return app


@pytest.fixture
def app(registry: CollectorRegistry, lines: Capture) -> Flask:
    return tocsin.instrument(shop(), registry=registry, log_stream=lines)


def exceptions(registry: CollectorRegistry) -> dict[tuple[str, str], int]:
    return {
        (sample.labels["http_route"], sample.labels["error_type"].rpartition(".")[2]): int(sample.value)
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == HTTP_SERVER_EXCEPTIONS.name
    }


@pytest.mark.parametrize(
    ("method", "path", "label", "route", "status"),
    [
        ("GET", "/", "GET", "/", 200),
        ("HEAD", "/", "HEAD", "/", 200),
        ("OPTIONS", "/", "OPTIONS", "/", 200),
        ("GET", "/items/7", "GET", "/items/{number}", 200),
        ("POST", "/items/7", "POST", "/items/{number}", 200),
        ("GET", "/files/a/b/c.txt", "GET", "/files/{name}", 200),
        ("GET", "/any/red/", "GET", "/any/{colour}/", 200),
        ("GET", "/any/red", "GET", "", 308),
        ("GET", "/api/v1/users/ann", "GET", "/api/v1/users/{user}", 200),
        (
            "GET",
            "/api/v1/de/things/12345678-1234-5678-1234-567812345678",
            "GET",
            "/api/v1/{lang}/things/{thing}",
            200,
        ),
        ("PUT", "/view/3", "PUT", "/view/{number}", 201),
        ("GET", "/static/missing.css", "GET", "/static/{filename}", 404),
        ("GET", "/nowhere/7", "GET", "", 404),
        ("GET", "/items/seven", "GET", "", 404),
        ("DELETE", "/items/7", "DELETE", "", 405),
        ("BREW", "/items/7", "_OTHER", "", 405),
        ("GET", "/teapot", "GET", "/teapot", 418),
        ("GET", "/meant", "GET", "/meant", 503),
        ("GET", "/async", "GET", "/async", 200),
    ],
)
def test_each_request_is_counted_under_its_route(
    method: str,
    path: str,
    label: str,
    route: str,
    status: int,
    app: Flask,
    registry: CollectorRegistry,
    lines: Capture,
) -> None:
    """Method, full template and status; one line of the same; nothing in flight, no exception, nothing dropped."""
    with app.test_client().open(path, method=method) as response:
        assert response.status_code == status
        assert response.data or method in ("HEAD", "OPTIONS")
    assert counted(registry) == {(label, route, str(status)): 1}
    (line,) = lines.access
    assert (line["http.request.method"], line["http.route"], line["url.path"]) == (label, route, path)
    assert line["http.response.status_code"] == status
    assert "error.type" not in line
    assert active(registry) == 0
    assert exceptions(registry) == {}
    assert dropped(registry) == {}


def test_an_exception_that_flask_answers_is_told_in_the_line_and_counted_once(
    app: Flask, registry: CollectorRegistry, lines: Capture
) -> None:
    """It never leaves the application; type, message and stack are in the access line all the same."""
    with app.test_client().get("/boom") as response:
        assert response.status_code == 500
    assert counted(registry) == {("GET", "/boom", "500"): 1}
    assert exceptions(registry) == {("/boom", "ShopError"): 1}
    (line,) = lines.access
    assert line["error.message"] == "boom"
    assert 'raise ShopError("boom")' in line["error.stack_trace"]


def test_an_exception_that_is_propagated_is_counted_once_too(
    app: Flask, registry: CollectorRegistry, lines: Capture
) -> None:
    """In tests and in debug mode Flask raises it: noted and raised are one."""
    app.testing = True
    with pytest.raises(ShopError):
        app.test_client().get("/boom")
    assert counted(registry) == {("GET", "/boom", "500"): 1}
    assert exceptions(registry) == {("/boom", "ShopError"): 1}
    assert len(lines.access) == 1


@pytest.mark.parametrize(
    ("handled", "status", "told"), [(Exception, 500, 1), (ShopError, 503, 1), (ShopError, 409, 0), (500, 500, 1)]
)
def test_an_exception_with_a_handler_is_told_if_the_answer_is_a_server_error(
    handled: Any, status: int, told: int, app: Flask, registry: CollectorRegistry, lines: Capture
) -> None:
    """A handler that answers 409 means it; one that answers 5xx hides nothing."""

    def sorry(error: Exception) -> tuple[str, int]:
        return "sorry", status

    app.register_error_handler(handled, sorry)
    assert app.test_client().get("/boom").data == b"sorry"
    assert counted(registry) == {("GET", "/boom", str(status)): 1}
    assert sum(exceptions(registry).values()) == told
    assert ("error.type" in lines.access[0]) == bool(told)


@pytest.mark.parametrize("place", ["before_request", "after_request"])
def test_exceptions_around_the_view_are_told(
    place: str, app: Flask, registry: CollectorRegistry, lines: Capture
) -> None:
    """Hooks fail too; the route is known by then."""

    def hook(*_: Any) -> None:
        raise ShopError(place)

    getattr(app, place)(hook)
    with app.test_client().get("/items/7") as response:
        assert response.status_code == 500
    assert counted(registry) == {("GET", "/items/{number}", "500"): 1}
    assert lines.access[0]["error.message"] == place


def test_a_stream_lasts_until_its_last_piece(app: Flask, registry: CollectorRegistry, lines: Capture) -> None:
    """`stream_with_context` has its request, and the time it takes is the request's."""
    with app.test_client().get("/stream") as response:
        assert response.data == b"/stream" * 3
    assert counted(registry) == {("GET", "/stream", "200"): 1}
    assert seconds(registry) >= 0.06
    assert len(lines.access) == 1


def test_a_stream_that_breaks_is_counted_as_500(app: Flask, registry: CollectorRegistry, lines: Capture) -> None:
    """The status line said 200, the client got half of it."""
    with pytest.raises(ShopError, match="halfway"):
        app.test_client().get("/stream/broken", buffered=True)
    assert counted(registry) == {("GET", "/stream/broken", "500"): 1}
    assert exceptions(registry) == {("/stream/broken", "ShopError"): 1}
    assert lines.access[0]["error.message"] == "halfway"


def test_a_client_that_leaves_a_stream_is_499(app: Flask, registry: CollectorRegistry) -> None:
    """Closed before its end."""
    response = app.test_client().get("/stream")
    response.close()
    assert counted(registry) == {("GET", "/stream", "499"): 1}
    assert active(registry) == 0


def test_work_after_the_answer_is_no_time_the_client_waited(
    app: Flask, registry: CollectorRegistry, lines: Capture
) -> None:
    """`call_on_close` and teardown functions run when the answer is out; their log lines belong to the request."""
    log = tocsin.get_logger()

    @app.after_request
    def later(response: flask.Response) -> flask.Response:
        def work() -> None:
            time.sleep(0.3)
            log.info("worked")

        response.call_on_close(work)
        return response

    with app.test_client().get("/") as response:
        assert response.data == b"ok"
    assert seconds(registry) < 0.25
    assert lines.application[0]["trace.id"] == lines.access[0]["trace.id"]


def test_variables_bound_in_one_request_are_not_seen_in_the_next(app: Flask, lines: Capture) -> None:
    """They are in the line of their request."""
    seen = []

    @app.before_request
    def bind() -> None:
        seen.append(get_contextvars())
        bind_contextvars(user=flask.request.path)

    client = app.test_client()
    for path in ("/", "/items/1"):
        with client.get(path):
            pass
    assert seen == [{}, {}]
    assert [line["user"] for line in lines.access] == ["/", "/items/1"]


def mounted() -> Flask:
    inner = Flask("inner")

    @inner.route("/users/<int:number>")
    def user(number: int) -> str:
        return flask.request.script_root

    @inner.route("/boom")
    def boom() -> str:
        raise ShopError("inner")

    return inner


def plain(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"plain"]


@pytest.mark.parametrize(
    ("path", "route", "status"),
    [
        ("/", "/", 200),
        ("/api/users/7", "/api/users/{number}", 200),
        ("/api/nowhere", "", 404),
        ("/api/boom", "/api/boom", 500),
        ("/deep/er/users/7", "/deep/er/users/{number}", 200),
        ("/plain/any/thing", "/plain/{path}", 200),
        ("/nowhere", "", 404),
    ],
)
def test_mounted_applications_show_where_they_are_mounted(
    path: str, route: str, status: int, registry: CollectorRegistry, lines: Capture
) -> None:
    """One count by the outer application, with the template of the inner one behind its mount."""
    app = shop()
    mounts: dict[str, Any] = {"/api": mounted(), "/deep/er": mounted(), "/plain": plain}
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, mounts)  # type: ignore[method-assign]  # as Flask advises
    tocsin.instrument(app, registry=registry, log_stream=lines)
    with app.test_client().get(path) as response:
        assert response.status_code == status
        assert response.data
    assert counted(registry) == {("GET", route, str(status)): 1}
    assert lines.access[0]["url.path"] == path
    assert exceptions(registry) == ({(route, "ShopError"): 1} if status == 500 else {})


def test_a_prefix_nobody_lists_is_not_in_the_route(registry: CollectorRegistry, lines: Capture) -> None:
    """Middleware that takes a tenant from the path, or a prefix from a header, has no bound on them."""
    app = shop()
    inner = app.wsgi_app

    def tenants(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        _, tenant, rest = environ["PATH_INFO"].split("/", 2)
        environ["SCRIPT_NAME"], environ["PATH_INFO"] = f"/{tenant}", f"/{rest}"
        return inner(environ, start_response)

    app.wsgi_app = tenants  # type: ignore[method-assign]  # as Flask advises
    tocsin.instrument(app, registry=registry, log_stream=lines)
    with app.test_client().get("/blue/items/7"):
        pass
    assert counted(registry) == {("GET", "/items/{number}", "200"): 1}
    assert lines.access[0]["url.path"] == "/blue/items/7"


def test_middleware_outside_and_inside_changes_nothing(registry: CollectorRegistry, lines: Capture) -> None:
    """ProxyFix before or after `instrument`: the same route, once."""
    app = shop()
    app.wsgi_app = ProxyFix(app.wsgi_app)  # type: ignore[method-assign]  # as Flask advises
    tocsin.instrument(app, registry=registry, log_stream=lines)
    app.wsgi_app = ProxyFix(app.wsgi_app)  # type: ignore[method-assign]  # as Flask advises
    with app.test_client().get("/items/7"):
        pass
    assert counted(registry) == {("GET", "/items/{number}", "200"): 1}


def test_an_application_inside_a_bare_callable_has_its_routes(registry: CollectorRegistry, lines: Capture) -> None:
    """`application = tocsin.instrument(ProxyFix(app))`: exceptions and templates are found all the same."""
    app = shop()
    layer: Any = tocsin.instrument(ProxyFix(app), registry=registry, log_stream=lines)
    client = Client(layer)
    for path in ("/items/7", "/boom"):
        with client.get(path):
            pass
    assert counted(registry) == {("GET", "/items/{number}", "200"): 1, ("GET", "/boom", "500"): 1}
    assert exceptions(registry) == {("/boom", "ShopError"): 1}


def test_several_applications_of_a_factory_are_told_apart(lines: Capture) -> None:
    """Each has its own registry; what one does is none of the other's."""
    registries = [fresh_registry(), fresh_registry()]
    apps = [tocsin.instrument(shop(), registry=registry, log_stream=lines) for registry in registries]
    with apps[0].test_client().get("/items/7"):
        pass
    with apps[1].test_client().get("/boom"):
        pass
    assert counted(registries[0]) == {("GET", "/items/{number}", "200"): 1}
    assert counted(registries[1]) == {("GET", "/boom", "500"): 1}
    assert exceptions(registries[0]) == {}


def test_uninstrument_gives_back_what_was(registry: CollectorRegistry, lines: Capture) -> None:
    """The very methods of the class again, and nothing recorded; instrumenting twice changes nothing."""
    app = shop()
    before = dict(vars(app))
    assert tocsin.instrument(app, registry=registry, log_stream=lines) is app
    changed = app.wsgi_app
    assert tocsin.instrument(app, registry=registry, log_stream=lines) is app
    assert app.wsgi_app is changed
    assert tocsin.uninstrument(app) is app
    assert vars(app) == before
    with app.test_client().get("/boom"):
        pass
    assert counted(registry) == {}
    assert lines.access == []


def test_the_metrics_page_is_served_and_hidden_from_the_routes(app: Flask, registry: CollectorRegistry) -> None:
    """Answered by the layer, not by a view; not counted."""
    page = app.test_client().get("/metrics")
    assert "# TYPE http_server_request_duration_seconds histogram" in page.text
    assert "/metrics" not in {rule.rule for rule in app.url_map.iter_rules()}
    assert counted(registry) == {}
