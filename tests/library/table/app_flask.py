"""The table's application with Flask."""

from __future__ import annotations

import shop
from flask import Blueprint, Flask, Response, abort, request


def items(name: str) -> Blueprint:
    found = Blueprint(name, __name__)

    @found.get("/items/<int:item>")
    def item(item: int, shop: str = "") -> str:
        return str(item)

    return found


def make() -> Flask:
    app = Flask(__name__)
    first = Blueprint("first", __name__)
    first.register_blueprint(items("items"))
    first.register_blueprint(items("nested"), url_prefix="/shops/<shop>")
    app.register_blueprint(first, url_prefix="/v1")

    @app.get("/")
    def ok() -> str:
        return "ok"

    @app.get("/quiet/<x>")
    def quiet(x: str) -> str:
        return x

    @app.get("/slashed/")
    def slashed() -> str:
        return "ok"

    @app.get("/boom")
    def boom() -> str:
        raise RuntimeError("boom")

    @app.get("/teapot")
    def teapot() -> str:
        abort(418)

    @app.get("/big")
    def big() -> Response:
        return Response(shop.sync_big(request.headers["x-gate"]))

    @app.get("/stream")
    def stream() -> Response:
        return Response(shop.sync_pieces())

    @app.get("/broken")
    def broken() -> Response:
        return Response(shop.sync_broken())

    @app.get("/cookies")
    def cookies() -> Response:
        response = Response("ok")
        for name, value in shop.COOKIES:
            response.headers.add(name, value)
        return response

    @app.get("/context")
    def context() -> dict[str, str]:
        return shop.inside()

    return app


second = Flask("second")
second.register_blueprint(items("items"))
application = shop.beside_wsgi(shop.instrumented(make()), shop.instrumented(second, "second"))
