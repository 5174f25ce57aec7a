"""The table's application with Django."""

from __future__ import annotations

from typing import Any

import django
import shop
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import include, path
from django.views.decorators.http import require_safe

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
    SECRET_KEY="a test's",
    LOGGING_CONFIG=None,
    USE_TZ=True,
)
django.setup()


@require_safe
def ok(request: HttpRequest, **named: Any) -> HttpResponse:
    return HttpResponse("ok")


def boom(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("boom")


def teapot(request: HttpRequest) -> HttpResponse:
    return HttpResponse(status=418)


def big(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(shop.sync_big(request.headers["x-gate"]))


def stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(shop.sync_pieces())


def broken(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(shop.sync_broken())


def cookies(request: HttpRequest) -> HttpResponse:
    response = HttpResponse("ok")
    for name, value in shop.COOKIES:
        if name == "set-cookie":
            response.set_cookie(*value.split("="))
        else:
            response[name] = value
    return response


def context(request: HttpRequest) -> JsonResponse:
    return JsonResponse(shop.inside())


items = [path("items/<int:item>", ok)]
urlpatterns: list[Any] = [
    path("", ok),
    path("v1/", include([*items, path("shops/<str:shop>/", include(items))])),
    *items,
    path("slashed/", ok),
    path("quiet/<str:x>", ok),
    path("boom", boom),
    path("teapot", teapot),
    path("big", big),
    path("stream", stream),
    path("broken", broken),
    path("cookies", cookies),
    path("context", context),
]

application = shop.beside_wsgi(
    shop.instrumented(get_wsgi_application()), shop.instrumented(get_wsgi_application(), "second")
)
