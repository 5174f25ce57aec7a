"""The page for people: static files that ask the API; Alertmanager's links (`#/alerts?...`) lead to it.

All addresses in it are relative, so that it works under any route prefix.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

_HERE: Final = Path(__file__).parent / "static"
_FRESH: Final = {"Cache-Control": "no-cache"}
"""A browser asks each time whether what it has is still right: after an update all files must be of one version."""


def routes() -> list[BaseRoute]:
    """Return the routes of the page and of its files."""
    return [Route("/", _page, methods=["GET"]), Mount("/static", _Fresh(directory=_HERE))]


async def _page(_: Request) -> Response:
    return FileResponse(_HERE / "index.html", media_type="text/html", headers=_FRESH)


class _Fresh(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_FRESH)
        return response
