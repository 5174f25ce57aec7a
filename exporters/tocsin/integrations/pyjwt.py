"""PyJWT: counts refused tokens by reason in `tocsin_auth_failures_total`.

Either `instrument()` once, which watches every decoding and key lookup of PyJWT in the process, or `counting()` around
the code that checks credentials. Errors go on to the caller as they are. No token, claim or key is kept or logged.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, ClassVar, TypeVar, cast

import jwt
import jwt.api_jwt
from jwt.exceptions import (
    DecodeError,
    ExpiredSignatureError,
    InvalidAudienceError,
    InvalidSignatureError,
    MissingRequiredClaimError,
    PyJWKClientConnectionError,
    PyJWKClientError,
    PyJWTError,
)
from prometheus_client import CollectorRegistry

from tocsin.events import auth_failed
from tocsin.request import CURRENT, OTHER

F = TypeVar("F", bound=Callable[..., Any])

_REASONS = (
    (ExpiredSignatureError, "expired"),
    (InvalidSignatureError, "bad_signature"),  # before DecodeError, of which it is one
    (InvalidAudienceError, "bad_audience"),
    (DecodeError, "malformed"),
)
_CAUSES_LIMIT = 8
_NOT_GIVEN = "not given"

_deciding: ContextVar[bool] = ContextVar("tocsin_jwt_deciding", default=False)
"""Whether something further out will count what fails: a `counting` block, or a call of PyJWT that makes others."""

_counted: ContextVar[tuple[object, int] | None] = ContextVar("tocsin_jwt_counted", default=None)
"""The request (its server span, else itself) and the hash of the token that were counted last."""


def reason_of(error: BaseException, token: str | bytes | None = _NOT_GIVEN) -> str:
    """Return why credentials were refused, as a label value.

    Args:
        error: what PyJWT raised.
        token: what was decoded, if known: PyJWT raises the same for an empty one and for a broken one.

    Returns `expired`, `bad_signature`, `bad_audience` (wrong or none where one is required), `unknown_kid` (the key set
    has no such key), `missing` (no token), `malformed` (no JWT at all), else `_OTHER`: a wrong issuer or algorithm, not
    valid yet, another required claim missing, the key set out of reach.
    """
    if not token:
        return "missing"
    if isinstance(error, MissingRequiredClaimError):
        return "bad_audience" if error.claim == "aud" else OTHER
    if isinstance(error, PyJWKClientError):
        return "unknown_kid" if _no_key(error) else OTHER
    return next((reason for kind, reason in _REASONS if isinstance(error, kind)), OTHER)


def _no_key(error: PyJWKClientError) -> bool:
    """Whether the key set was read and the key is not in it. PyJWT has one class for this and for broken key sets."""
    return not isinstance(error, PyJWKClientConnectionError) and "signing key" in str(error)


def _refusal(error: BaseException | None) -> PyJWTError | None:
    """Return PyJWT's error: this one, or one it was raised from or after (`raise HTTPException(401) from error`)."""
    for _ in range(_CAUSES_LIMIT):
        if error is None or isinstance(error, PyJWTError):
            return error
        error = error.__cause__ or error.__context__
    return None


# --- around the application's own code ----------------------------------------------------------------------------


class Counting:
    """Counts a refusal that leaves the block or function; what is caught inside is none. See `counting`."""

    __slots__ = ("_outermost", "_registry", "_token", "_undo")

    def __init__(self, registry: CollectorRegistry | None, token: str | bytes | None) -> None:
        self._registry = registry
        self._token = token
        self._outermost = False
        self._undo: Token[bool] | None = None

    def __call__(self, function: F) -> F:
        """Count what leaves each call of a function or coroutine function."""
        registry, token = self._registry, self._token
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def counted_coroutine(*args: Any, **kwargs: Any) -> Any:
                with Counting(registry, token):
                    return await function(*args, **kwargs)

            return cast("F", counted_coroutine)

        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            with Counting(registry, token):
                return function(*args, **kwargs)

        return cast("F", counted)

    def __enter__(self) -> None:
        self._outermost = not _deciding.get()
        self._undo = _deciding.set(True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._undo is not None:
            with suppress(ValueError):  # left in another context than entered, as in a threaded dependency
                _deciding.reset(self._undo)
        refusal = _refusal(error) if self._outermost and error is not None else None
        if refusal is not None:
            _count(refusal, self._token, self._registry)


def counting(*, registry: CollectorRegistry | None = None, token: str | bytes | None = _NOT_GIVEN) -> Counting:
    """Count the refusal of a token that leaves a `with` block or a decorated function, once.

    Right where several keys are tried in turn: only what is refused in the end counts. Also where PyJWT's error is
    replaced by one of the web framework.

        with counting():
            claims = decode_with_any_of(keys, token)

    Args:
        registry: where to count; default: where the current request is counted, else prometheus_client's REGISTRY.
        token: what is being decoded, if at hand; tells a missing token from a broken one. Not kept.
    """
    return Counting(registry, token)


def _count(error: PyJWTError, token: str | bytes | None, registry: CollectorRegistry | None) -> None:
    with suppress(Exception):  # a guard: the application goes on to raise its own error
        if _first(token):
            auth_failed(reason_of(error, token), registry=registry)


def _first(token: str | bytes | None) -> bool:
    """Whether this is not the same token again, later in the same request: that is no second refusal."""
    current = CURRENT.get()
    if current is None:
        return True
    # Not its trace's id: a client that tries again may send the same. Not its number in memory: the next request of the
    # thread may get the same.
    request: object = current if current.trace is None else (current.trace.trace_id, current.trace.span_id)
    refused = (request, hash(token))
    if _counted.get() == refused:
        return False
    _counted.set(refused)
    return True


# --- around PyJWT itself ------------------------------------------------------------------------------------------


class _Hooks:
    """What is replaced in PyJWT, for the whole process: (owner, attribute, original, ours)."""

    installed: ClassVar[list[tuple[Any, str, Any, Any]]] = []
    registry: CollectorRegistry | None = None


def instrument(registry: CollectorRegistry | None = None) -> None:
    """Count every token that PyJWT refuses from now on, and every key its JWKS client does not find.

    `jwt.decode`, `jwt.decode_complete`, `PyJWT` objects and `PyJWKClient` are watched; called again, only the registry
    is changed. A `from jwt import decode_complete` must come after this; `from jwt import decode` may come before.
    Where several keys are tried in turn, each refusal counts once per request and token, even if a later key fits:
    use `counting` there.

    Args:
        registry: where to count; default: where the current request is counted, else prometheus_client's REGISTRY.
    """
    _Hooks.registry = registry
    if _Hooks.installed:
        return
    _replace(jwt.PyJWT, "decode_complete", _token)
    _replace(jwt.PyJWKClient, "get_signing_key_from_jwt", _token)
    _replace(jwt.PyJWKClient, "get_signing_key", lambda _args, _kwargs: _NOT_GIVEN)
    # These were bound when PyJWT was imported, so they lead past the class. `jwt.decode` does not: it calls the above.
    for module in (jwt, jwt.api_jwt):
        _replace(module, "decode_complete", lambda args, kwargs: _token((None, *args), kwargs))


def uninstrument() -> None:
    """Leave PyJWT as it was found."""
    while _Hooks.installed:
        owner, name, original, ours = _Hooks.installed.pop()
        if vars(owner).get(name) is ours:  # else somebody has wrapped ours since; it only passes on from now on
            setattr(owner, name, original)
    _Hooks.registry = None


def _token(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the token that a method was called with: the first argument after `self`."""
    return args[1] if len(args) > 1 else kwargs.get("jwt", kwargs.get("token"))


def _replace(owner: Any, name: str, token_of: Callable[[tuple[Any, ...], dict[str, Any]], Any]) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    def watched(*args: Any, **kwargs: Any) -> Any:
        if not _Hooks.installed:
            return original(*args, **kwargs)
        with Counting(_Hooks.registry, token_of(args, kwargs)):
            return original(*args, **kwargs)

    setattr(owner, name, watched)
    _Hooks.installed.append((owner, name, original, watched))
