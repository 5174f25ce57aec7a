"""The console: one page that says whether it is OK, and a search in the logs. Server-rendered, no script."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import jinja2
from markdown_it import MarkdownIt
from markupsafe import Markup
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

import tocsin
from tocsin_service import ops, web
from tocsin_service.clock import Clock, SystemClock
from tocsin_stack.console import view
from tocsin_stack.console.sources import Sources
from tocsin_stack.screen import Row

_HERE = Path(__file__).parent
_FILTERS = ("q", "level", "service", "trace")


def create_app(
    sources: Sources,
    *,
    parts: Callable[[], list[Row]],
    reload: ops.Reload | None = None,
    clock: Clock | None = None,
    registry: CollectorRegistry | None = None,
) -> ASGIApp:
    """Return the console.

    Args:
        parts: what to say of the parts of this process.
        reload: takes new configuration, for `POST /-/reload`.
        registry: where its own metrics go; None is one of its own.
    """
    clock = clock or SystemClock()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=jinja2.StrictUndefined
    )

    async def home(_: Request) -> Response:
        now = clock.now()
        page = view.page(await sources.snapshot(), now)
        html = environment.get_template("home.html").render(page=page, parts=parts())
        return HTMLResponse(html, headers={"Cache-Control": "no-store"})

    async def logs(request: Request) -> Response:
        filters = {name: request.query_params.get(name, "")[:500] for name in _FILTERS}
        lines, missing = await sources.logs(**filters, limit="200")
        html = environment.get_template("logs.html").render(
            filters=filters, lines=lines, missing=missing, now=clock.now(), ago=view.ago
        )
        return HTMLResponse(html, headers={"Cache-Control": "no-store"})

    async def runbook(request: Request) -> Response:
        name = request.path_params["name"].removesuffix(".md")  # links between runbooks have it
        text = read_runbook(name)
        if text is None:
            raise HTTPException(404, f"There is no runbook {name}.")
        # HTML inside Markdown stays text: runbooks need none, and none can slip in.
        body = Markup(MarkdownIt("commonmark", {"html": False}).enable("table").render(text))  # noqa: S704
        return HTMLResponse(environment.get_template("runbook.html").render(name=name, body=body))

    app = Starlette(
        routes=[
            Route("/", home),
            Route("/logs", logs),
            Route("/runbooks/{name}", runbook),
            Mount("/static", StaticFiles(directory=_HERE / "static")),
            *ops.routes(ready=lambda: None, reload=reload),
        ]
    )
    tocsin.instrument(app, service_name="tocsin-console", registry=registry or CollectorRegistry(), logs=False)
    return web.Hardened(app)


def read_runbook(name: str) -> str | None:
    """Return the Markdown of the runbook of an alert, or None where there is none."""
    if not re.fullmatch(r"[A-Za-z0-9]{1,100}", name):
        return None
    page = files("tocsin_dashboards") / "runbooks" / f"{name}.md"
    return page.read_text(encoding="utf-8") if page.is_file() else None
