"""httpx: the requests its clients make, counted by server and status, each carrying the trace on.

What is wrapped is the step in which a client sends one request over a transport, whichever that is: mounts, proxies and
event hooks work as they did, and a client has nothing of ours in it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakKeyDictionary

import httpx
from prometheus_client import CollectorRegistry

from tocsin.integrations.outgoing import Outgoing, carry_trace
from tocsin.metrics.families import Families, families_of

Client = httpx.Client | httpx.AsyncClient

_STEP = "_send_single_request"
"""httpx has no public place that sees each redirect and each error. Without this one there is only less to see."""

_log = logging.getLogger("tocsin")
_clients: WeakKeyDictionary[Client, Families] = WeakKeyDictionary()
_all: list[Families] = []
_wrapped: list[tuple[type[Client], Any, Any]] = []
"""(class, its step, what stands there now)"""
_lock = threading.Lock()


def instrument(client: Client | None = None, *, registry: CollectorRegistry | None = None) -> None:
    """Count the requests of a client, and add the headers of the current trace to them. Twice is once.

    Args:
        client: a `Client` or `AsyncClient`; None: all of this process, those that are made later included.
        registry: where they are counted; default: prometheus_client's REGISTRY.
    """
    families = families_of(registry)
    with _lock:
        if client is None:
            _all[:] = [families]
        else:
            _clients[client] = families
        if not _wrapped:
            _wrap(httpx.Client, _recorded)
            _wrap(httpx.AsyncClient, _recorded_async)


def uninstrument(client: Client | None = None) -> None:
    """Undo `instrument`, for this client, or for all that were not named."""
    with _lock:
        if client is None:
            _all.clear()
        else:
            _clients.pop(client, None)
        if not _all and not _clients:
            _unwrap()


def _families(client: Client) -> Families | None:
    found = _clients.get(client)
    return found if found is not None else next(iter(_all), None)


def _wrap(kind: type[Client], recorded: Callable[[Any], Callable[..., object]]) -> None:
    original = getattr(kind, _STEP, None)
    if original is None:
        _log.warning("httpx %s is not recorded: %s.%s is gone. Upgrade tocsin.", httpx.__version__, kind, _STEP)
        return
    wrapper = recorded(original)
    _wrapped.append((kind, original, wrapper))
    setattr(kind, _STEP, wrapper)


def _unwrap() -> None:
    # Another library may have wrapped ours since; then ours stays and lets everything pass.
    if all(getattr(kind, _STEP) is wrapper for kind, _, wrapper in _wrapped):
        while _wrapped:
            kind, original, _ = _wrapped.pop()
            setattr(kind, _STEP, original)


def _recorded(send: Callable[[httpx.Client, httpx.Request], httpx.Response]) -> Callable[..., httpx.Response]:
    def send_single_request(client: httpx.Client, request: httpx.Request) -> httpx.Response:
        families = _families(client)
        if families is None:
            return send(client, request)
        carry_trace(families, request)
        outgoing = Outgoing(families, request.method, request.url.host)
        try:
            response = send(client, request)
        except BaseException as error:
            outgoing.ended(None, error)
            raise
        outgoing.ended(response.status_code)
        return response

    return send_single_request


def _recorded_async(
    send: Callable[[httpx.AsyncClient, httpx.Request], Awaitable[httpx.Response]],
) -> Callable[..., Awaitable[httpx.Response]]:
    async def send_single_request(client: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
        families = _families(client)
        if families is None:
            return await send(client, request)
        carry_trace(families, request)
        outgoing = Outgoing(families, request.method, request.url.host)
        try:
            response = await send(client, request)
        except BaseException as error:
            outgoing.ended(None, error)
            raise
        outgoing.ended(response.status_code)
        return response

    return send_single_request
