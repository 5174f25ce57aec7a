"""Which route template a request is counted under. Never a path: paths have no bound."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Host, Mount, Route, Router

import tocsin
from tocsin.asgi import local_path
from tocsin.testing import Capture, call, counted, dropped


async def plain(request: Request) -> Response:
    return PlainTextResponse("ok")


async def shared(request: Request) -> Response:
    return PlainTextResponse("shared")


async def files(scope: Any, receive: Any, send: Any) -> None:
    """A mounted application without routes, as static files are."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"file"})


def starlette() -> Starlette:
    inner = [Route("/items/{item:int}", plain), Route("/shared", shared)]
    return Starlette(
        routes=[
            Route("/", plain),
            Route("/users/{user}", plain),
            Route("/shared", shared),
            Route("/also/{name:path}", shared),
            Mount("/m", routes=inner),
            Mount("/tenants/{tenant}", app=Router(inner)),
            Mount("/outer", routes=[Mount("/inner/{n:int}", app=Starlette(routes=inner))]),
            Mount("/wrapped", app=CORSMiddleware(Router(inner), allow_origins=["*"])),
            Mount("/static", app=files),
            Host("api.example.com", app=Router([Route("/hosted/{x}", plain)])),
        ]
    )


def fastapi() -> FastAPI:
    leaf = APIRouter(prefix="/items")

    @leaf.get("/{item}")
    async def item(item: int) -> int:
        return item

    @leaf.get("/{path:path}/raw")
    async def raw(path: str) -> str:
        return path

    middle = APIRouter(prefix="/shops/{shop}")
    middle.include_router(leaf)
    middle.mount("/files", files)
    app = FastAPI()
    app.include_router(leaf, prefix="/v1")
    app.include_router(leaf, prefix="/v2")
    app.include_router(middle, prefix="/v3")
    mounted = FastAPI()
    mounted.include_router(leaf)
    app.mount("/sub/{tenant}", mounted)
    app.mount("/starlette", starlette())
    return app


STARLETTE = [
    ("/", "/"),
    ("/users/ann", "/users/{user}"),
    ("/shared", "/shared"),
    ("/also/a/b/c", "/also/{name}"),
    ("/m/items/1", "/m/items/{item}"),
    ("/m/shared", "/m/shared"),
    ("/tenants/acme/items/1", "/tenants/{tenant}/items/{item}"),
    ("/outer/inner/7/items/1", "/outer/inner/{n}/items/{item}"),
    ("/wrapped/items/3", "/wrapped/items/{item}"),
    ("/static/deep/file.css", "/static/{path}"),
    ("/nothing", ""),
    ("/m/nothing", ""),
    ("/tenants/acme/nothing", ""),
    ("/users/ann/", ""),  # redirected: no route answered
]

FASTAPI = [
    ("/v1/items/1", "/v1/items/{item}"),
    ("/v2/items/2", "/v2/items/{item}"),
    ("/v2/items/a/b/raw", "/v2/items/{path}/raw"),
    ("/v3/shops/9/items/1", "/v3/shops/{shop}/items/{item}"),
    ("/v3/files/a.css", "/v3/files/{path}"),
    ("/v1/items/not-a-number", "/v1/items/{item}"),
    ("/sub/acme/items/1", "/sub/{tenant}/items/{item}"),
    ("/sub/acme/docs", "/sub/{tenant}/docs"),
    ("/starlette/outer/inner/7/items/1", "/starlette/outer/inner/{n}/items/{item}"),
    ("/openapi.json", "/openapi.json"),
    ("/v1/items", ""),
    ("/sub/acme/nothing", ""),
]


@pytest.mark.parametrize(
    ("make", "path", "template"),
    [(starlette, *case) for case in STARLETTE] + [(fastapi, *case) for case in FASTAPI],
)
async def test_a_request_is_counted_under_the_full_template(
    make: Any, path: str, template: str, registry: CollectorRegistry, lines: Capture
) -> None:
    """Included, nested, mounted, mounted with parameters, shared endpoints; unmatched is one label value, empty."""
    app = tocsin.instrument(make(), registry=registry, log_stream=lines)
    await call(app, path)
    assert [route for _, route, _ in counted(registry)] == [template]
    assert lines.access[0]["http.route"] == template
    assert lines.access[0]["url.path"] == path
    assert dropped(registry) == {}


async def test_a_host_route_has_the_template_of_what_it_leads_to(registry: CollectorRegistry, lines: Capture) -> None:
    """The Host header makes no label."""
    app = tocsin.instrument(starlette(), registry=registry, log_stream=lines)
    await call(app, "/hosted/1", headers={"host": "api.example.com"})
    assert counted(registry) == {("GET", "/hosted/{x}", "200"): 1}


@pytest.mark.parametrize("root_path", ["/api", ""])
async def test_a_root_path_is_no_part_of_the_template(
    root_path: str, registry: CollectorRegistry, lines: Capture
) -> None:
    """Where a proxy serves the application is not the application's route."""
    app = tocsin.instrument(fastapi(), registry=registry, log_stream=lines)
    await call(app, f"{root_path}/v2/items/2", root_path=root_path)
    assert counted(registry) == {("GET", "/v2/items/{item}", "200"): 1}
    assert (await call(app, f"{root_path}/metrics", root_path=root_path)).status == 200


@pytest.mark.parametrize(
    ("root_path", "path", "local"),
    [
        ("/api", "/api/x", "/x"),
        ("/api", "/api", "/"),
        ("/api", "/apix", "/apix"),
        ("", "/x", "/x"),
        ("/api", "/x", "/x"),
    ],
)
def test_the_path_below_a_root_path(root_path: str, path: str, local: str) -> None:
    """Servers put the root path before the path; some proxies have stripped it already."""
    assert local_path({"path": path, "root_path": root_path}) == local


async def test_routes_added_later_are_found(registry: CollectorRegistry, lines: Capture) -> None:
    """The map of routes is made anew when a request shows that it is old."""
    app = FastAPI()
    tocsin.instrument(app, registry=registry, log_stream=lines)
    await call(app, "/late/1")
    app.add_api_route("/late/{n}", lambda n: n)
    await call(app, "/late/1")
    late = APIRouter(prefix="/later")
    late.add_api_route("/{n}", lambda n: n)
    app.include_router(late)
    await call(app, "/later/1")
    assert [(route, status) for _, route, status in counted(registry)] == [
        ("", "404"),
        ("/late/{n}", "200"),
        ("/later/{n}", "200"),
    ]


async def test_a_wrapped_framework_keeps_its_templates(registry: CollectorRegistry, lines: Capture) -> None:
    """Middleware around the application, outside of the framework, does not hide the routes."""
    app = tocsin.instrument(CORSMiddleware(fastapi(), allow_origins=["*"]), registry=registry, log_stream=lines)
    await call(app, "/v1/items/1")
    assert counted(registry) == {("GET", "/v1/items/{item}", "200"): 1}


async def test_an_unknown_router_costs_a_label_not_an_answer(registry: CollectorRegistry, lines: Capture) -> None:
    """A router of a shape never seen: the answer goes out, the route is empty, the loss is counted."""

    class Strange:
        @property
        def routes(self) -> list[Any]:
            raise RuntimeError("not for you")

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            scope["endpoint"] = object()
            await files(scope, receive, send)

    app = tocsin.instrument(Strange(), registry=registry, log_stream=lines)
    assert (await call(app, "/a")).body == b"file"
    assert counted(registry) == {("GET", "", "200"): 1}
    assert dropped(registry) == {("metrics", "route"): 1}


async def test_endpoints_that_no_route_shows_are_counted_as_unknown(
    registry: CollectorRegistry, lines: Capture
) -> None:
    """Endpoints made anew for each request neither grow a map nor fail."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["endpoint"] = object()
        await files(scope, receive, send)

    instrumented = tocsin.instrument(app, registry=registry, log_stream=lines)
    for _ in range(1_100):
        await call(instrumented)
    assert counted(registry) == {("GET", "", "200"): 1_100}
    assert dropped(registry) == {("metrics", "unknown_route"): 1_100}
