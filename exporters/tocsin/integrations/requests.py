"""requests: what its sessions send, counted by server and status, each request carrying the trace on.

What is wrapped is `HTTPAdapter.send`, where each request goes out once, redirects and digest logins included (urllib3's
retries are inside of it). An adapter that inherits nothing from `HTTPAdapter` is not seen.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry
from requests import PreparedRequest, Response, Session
from requests.adapters import BaseAdapter, HTTPAdapter

from tocsin.integrations.outgoing import Outgoing, carry_trace
from tocsin.metrics.families import Families, families_of

_sessions: WeakKeyDictionary[Session, Families] = WeakKeyDictionary()
_adapters: WeakKeyDictionary[BaseAdapter, Families] = WeakKeyDictionary()
"""Those of instrumented sessions, noted whenever a session takes one: it may get others later."""
_all: list[Families] = []
_wrapped: list[tuple[type, str, Any, Any]] = []
"""(class, attribute, what was there, what is there now)"""
_lock = threading.Lock()


def instrument(session: Session | None = None, *, registry: CollectorRegistry | None = None) -> None:
    """Count the requests of a session, and add the headers of the current trace to them. Twice is once.

    Args:
        session: one session; None: all of this process, also those made later and those of `requests.get(...)`.
        registry: where they are counted; default: prometheus_client's REGISTRY.
    """
    families = families_of(registry)
    with _lock:
        if session is None:
            _all[:] = [families]
        else:
            _sessions[session] = families
        if not _wrapped:
            _wrap(HTTPAdapter, "send", _recorded(HTTPAdapter.send))
            _wrap(Session, "get_adapter", _noting(Session.get_adapter))


def uninstrument(session: Session | None = None) -> None:
    """Undo `instrument`, for this session, or for all that were not named."""
    with _lock:
        if session is None:
            _all.clear()
        elif _sessions.pop(session, None) is not None:
            for adapter in session.adapters.values():
                _adapters.pop(adapter, None)
        if not _all and not _sessions:
            _adapters.clear()
            _unwrap()


def _wrap(owner: type, name: str, wrapper: Callable[..., object]) -> None:
    _wrapped.append((owner, name, getattr(owner, name), wrapper))
    setattr(owner, name, wrapper)


def _unwrap() -> None:
    # Another library may have wrapped ours since; then ours stays and lets everything pass.
    if all(getattr(owner, name) is wrapper for owner, name, _, wrapper in _wrapped):
        while _wrapped:
            owner, name, original, _ = _wrapped.pop()
            setattr(owner, name, original)


def _noting(get_adapter: Callable[..., BaseAdapter]) -> Callable[..., BaseAdapter]:
    @functools.wraps(get_adapter)
    def noting(session: Session, *args: Any, **kwargs: Any) -> BaseAdapter:
        adapter = get_adapter(session, *args, **kwargs)
        families = _sessions.get(session)
        if families is not None:
            _adapters[adapter] = families
        return adapter

    return noting


def _recorded(send: Callable[..., Response]) -> Callable[..., Response]:
    @functools.wraps(send)
    def recorded(adapter: HTTPAdapter, request: PreparedRequest, *args: Any, **kwargs: Any) -> Response:
        families = _adapters.get(adapter)
        if families is None:
            families = next(iter(_all), None)
        if families is None:
            return send(adapter, request, *args, **kwargs)
        carry_trace(families, request)
        outgoing = Outgoing(families, request.method or "", _host(request.url))
        try:
            response = send(adapter, request, *args, **kwargs)
        except BaseException as error:
            outgoing.ended(None, error)
            raise
        outgoing.ended(response.status_code)
        return response

    return recorded


def _host(url: str | None) -> str | None:
    try:
        return urlsplit(url or "").hostname
    except ValueError:  # brackets that do not close; requests will say so
        return None
