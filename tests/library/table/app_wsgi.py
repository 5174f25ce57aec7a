"""The table's application as a bare WSGI callable."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import shop

TEXT = [("Content-Type", "text/plain")]


def answer(environ: Any, start_response: Any) -> Any:
    path, status, headers = environ["PATH_INFO"], "200 OK", TEXT
    body: Iterable[bytes] = [b"ok"]
    if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
        status, body = "405 Method Not Allowed", []
    elif path == "/boom":
        raise RuntimeError("boom")
    elif path == "/teapot":
        status = "418 I'm a teapot"
    elif path == "/big":
        body = shop.sync_big(environ["HTTP_X_GATE"])
    elif path == "/stream":
        body = shop.sync_pieces()
    elif path == "/broken":
        body = shop.sync_broken()
    elif path == "/cookies":
        headers = shop.COOKIES
    elif path == "/context":
        body = [json.dumps(shop.inside()).encode()]
    elif path != "/" and not path.startswith(("/v1/", "/quiet", "/items/")):
        status = "404 Not Found"
    start_response(status, headers)
    return body


def other(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", TEXT)
    return [b"ok"]


application = shop.beside_wsgi(shop.instrumented(answer), shop.instrumented(other, "second"))
