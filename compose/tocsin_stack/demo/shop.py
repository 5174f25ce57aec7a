"""The shop: a FastAPI application as a small team writes it, instrumented in one line; its parts can be broken."""

from __future__ import annotations

import asyncio
import math
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Final

from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Request
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry
from pydantic import BaseModel, Field

import tocsin
from tocsin_stack.demo.guards import Issuer, Limiter, RefusedError

PARTS: Final = ("products", "cart", "checkout", "search", "account")
"""What can be broken."""

PRODUCTS: Final = {
    1: {"id": 1, "name": "Brass hand bell", "cents": 2490},
    2: {"id": 2, "name": "Door knocker", "cents": 3900},
    3: {"id": 3, "name": "Bicycle bell", "cents": 990},
    4: {"id": 4, "name": "Ship's bell", "cents": 11900},
}

_TROUBLE: Final = {
    "products": "catalogue: the database has no free connection",
    "cart": "cart: the cache refused the connection",
    "checkout": "payment provider: connection refused",
    "search": "search index: no shard is available",
    "account": "accounts: the database is read-only",
}


class BrokenError(Exception):
    """A part of the shop is broken; the message is what the shop's log says."""


@dataclass
class Shop:
    """What the shop keeps in memory."""

    issuer: Issuer = field(default_factory=Issuer)
    logins: Limiter = field(default_factory=lambda: Limiter(rate=0.5, burst=5))
    broken: set[str] = field(default_factory=set)
    now: Callable[[], float] = time.time
    pause: Callable[[float, float], float] = random.uniform
    """Chooses the seconds a piece of work takes, between two bounds."""

    async def work(self, part: str, least: float, most: float) -> None:
        """Take some time, and fail where `part` is broken."""
        await asyncio.sleep(self.pause(least, most))
        if part in self.broken:
            raise BrokenError(_TROUBLE[part])


class Item(BaseModel):
    """A line of a cart."""

    product: int
    count: Annotated[int, Field(ge=1, le=100)] = 1


class Login(BaseModel):
    """Who wants a token; the demo has no passwords, and nothing behind it is worth one."""

    user: Annotated[str, Field(min_length=1, max_length=40)]


def create_app(
    shop: Shop | None = None,
    *,
    log_file: str | os.PathLike[str] | None = None,
    registry: CollectorRegistry | None = None,
) -> FastAPI:
    """Return the shop as an application.

    Args:
        log_file: where its JSON log goes; None is stdout.
        registry: where its metrics are kept; None is one of its own.
    """
    app = FastAPI(title="Bell shop", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.shop = shop or Shop()
    app.include_router(_routes)
    # This is the line the demo is about. What asks for the shop's health is not a customer and is not counted.
    tocsin.instrument(
        app,
        service_name="shop",
        log_file=log_file,
        registry=registry or CollectorRegistry(),
        exclude=("/healthz*", "/demo/*"),
    )
    return app


_routes = APIRouter()


def _shop(request: Request) -> Shop:
    shop: Shop = request.app.state.shop
    return shop


_ShopOf = Annotated[Shop, Depends(_shop)]


def _user(shop: _ShopOf, authorization: Annotated[str | None, Header()] = None) -> str:
    try:
        return shop.issuer.user(authorization)
    except RefusedError as error:
        tocsin.auth_failed(error.reason)
        raise HTTPException(401, f"sign in first: {error.reason}", {"WWW-Authenticate": "Bearer"}) from error


_UserOf = Annotated[str, Depends(_user)]

# --- what customers use -----------------------------------------------------------------------------------------


@_routes.get("/")
async def front_page() -> dict[str, str]:
    """Answer as long as the process lives, whatever is broken."""
    return {"shop": "Bells and knockers", "products": "/products"}


@_routes.get("/products")
async def products(shop: _ShopOf) -> list[dict[str, object]]:
    """List everything for sale."""
    await shop.work("products", 0.002, 0.01)
    return list(PRODUCTS.values())


@_routes.get("/products/{number}")
async def product(number: int, shop: _ShopOf) -> dict[str, object]:
    """Return one product."""
    await shop.work("products", 0.002, 0.008)
    if number not in PRODUCTS:
        raise HTTPException(404, f"there is no product {number}")
    return PRODUCTS[number]


@_routes.post("/cart", status_code=201)
async def cart(item: Item, shop: _ShopOf) -> dict[str, object]:
    """Put something into the cart."""
    await shop.work("cart", 0.003, 0.015)
    if item.product not in PRODUCTS:
        raise HTTPException(404, f"there is no product {item.product}")
    return {"product": item.product, "count": item.count}


@_routes.post("/checkout", status_code=201)
async def checkout(shop: _ShopOf, user: _UserOf) -> dict[str, object]:
    """Place an order; for signed-in customers."""
    await shop.work("checkout", 0.01, 0.05)
    order = f"{random.getrandbits(32):08x}"
    tocsin.get_logger("shop.orders").info("order placed", order=order, user=user)
    return {"order": order}


@_routes.get("/search")
async def search(shop: _ShopOf, q: str = "") -> list[dict[str, object]]:
    """Find products; slow, as search is."""
    await shop.work("search", 0.1, 0.5)
    return [found for found in PRODUCTS.values() if q.lower() in str(found["name"]).lower()]


@_routes.get("/account")
async def account(shop: _ShopOf, user: _UserOf) -> dict[str, str]:
    """Return who is signed in."""
    await shop.work("account", 0.002, 0.01)
    return {"user": user}


@_routes.post("/login")
async def login(wish: Login, request: Request, shop: _ShopOf) -> dict[str, str]:
    """Issue a token; each client may ask for five at once and for one every two seconds."""
    client = f"{request.client.host if request.client else ''}/{wish.user}"
    if wait := shop.logins.wait(client, shop.now()):
        tocsin.rate_limited("/login", "per-client")
        # Rounded up: who comes back a moment too early is refused again.
        raise HTTPException(429, "too many logins, wait a moment", {"Retry-After": str(math.ceil(wait))})
    return {"token": shop.issuer.issue(wish.user, shop.now()), "type": "bearer"}


# --- what operators use -----------------------------------------------------------------------------------------


@_routes.get("/healthz")
async def healthz(shop: _ShopOf) -> JSONResponse:
    """Say whether everything works, and name what does not."""
    return _health(sorted(shop.broken))


@_routes.get("/healthz/{part}")
async def healthz_of(part: str, shop: _ShopOf) -> JSONResponse:
    """Say whether one part works."""
    return _health([each for each in _named(part) if each in shop.broken])


def _health(broken: list[str]) -> JSONResponse:
    if not broken:
        return JSONResponse({"status": "ok"})
    reasons = {part: _TROUBLE[part] for part in broken}
    return JSONResponse({"status": "broken", "broken": reasons}, status_code=503)


@_routes.get("/demo/state")
async def state(shop: _ShopOf) -> dict[str, list[str]]:
    """Say what is broken now."""
    return {"broken": sorted(shop.broken)}


@_routes.post("/demo/break/{what}")
async def break_part(what: str, shop: _ShopOf) -> dict[str, list[str]]:
    """Break a part, or all."""
    shop.broken |= set(_named(what))
    return await state(shop)


@_routes.post("/demo/fix")
@_routes.post("/demo/fix/{what}")
async def fix(shop: _ShopOf, what: str = "all") -> dict[str, list[str]]:
    """Mend a part, or all."""
    shop.broken -= set(_named(what))
    return await state(shop)


def _named(what: str) -> tuple[str, ...]:
    if what == "all":
        return PARTS
    if what in PARTS:
        return (what,)
    raise HTTPException(404, f'there is no "{what}" here; there are {", ".join(PARTS)} and all')
