"""OAuth2 client credentials (RFC 6749 section 4.4): a token is fetched, kept until it ends, and fetched anew."""

from __future__ import annotations

import asyncio
import base64
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote_plus, urlencode

import httpx
import orjson

from tocsin_alerting.receivers.http_config import OAuth2
from tocsin_alerting.receivers.revealing import reveal
from tocsin_alerting.receivers.ways import Way, Ways
from tocsin_service.http import Failure, RequestError, redact_url

MARGIN: Final = 10.0
"""Seconds before its end from which a token is not used any more."""
KEPT: Final = 64
"""Grants whose tokens are kept."""

_FORM: Final = ("Content-Type", "application/x-www-form-urlencoded")


@dataclass(frozen=True, slots=True)
class _Grant:
    """All that a token depends on."""

    url: str
    client_id: str
    client_secret: str = field(repr=False)
    parameters: tuple[tuple[str, str], ...]
    way: Way


class Tokens:
    """Tokens by what they were granted for.

    Args:
        monotonic: seconds that only go forward.
    """

    def __init__(self, ways: Ways, *, environ: Mapping[str, str], monotonic: Callable[[], float]) -> None:
        self._ways = ways
        self._environ = environ
        self._monotonic = monotonic
        self._kept: OrderedDict[_Grant, _Kept] = OrderedDict()

    async def authorization(self, config: OAuth2, *, refused: str | None = None) -> str:
        """Return the `Authorization` header of a request.

        Args:
            refused: such a header that the receiver did not take; the token in it is not used again.

        Raises:
            RequestError: there is no token to be had now.
        """
        grant = self._grant(config)
        kept = self._kept.setdefault(grant, _Kept())
        self._kept.move_to_end(grant)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        async with kept.fetching:  # one fetch serves all who wait
            if kept.header is None or kept.header == refused or kept.until <= self._monotonic():
                kept.header = None
                answer = await self._fetch(grant, kept)
                kept.header, kept.until = self._read(grant, answer)
            return kept.header

    def _grant(self, config: OAuth2) -> _Grant:
        parameters = {"grant_type": "client_credentials"}
        if config.scopes:
            parameters["scope"] = " ".join(config.scopes)
        parameters |= config.endpoint_params
        way = Way.to(config.token_url, config, config.tls_config, self._environ, http2=False)
        return _Grant(config.token_url, config.client_id, _secret(config), tuple(parameters.items()), way)

    async def _fetch(self, grant: _Grant, kept: _Kept) -> httpx.Response:
        """Ask for a token in the two ways servers know, the one that worked before first."""
        ways_to_ask = [kept.in_body] if kept.in_body is not None else [False, True]
        for in_body in ways_to_ask:
            headers, parameters = [_FORM], list(grant.parameters)
            if in_body:
                parameters += [("client_id", grant.client_id)]
                parameters += [("client_secret", grant.client_secret)] if grant.client_secret else []
            else:
                pair = f"{quote_plus(grant.client_id)}:{quote_plus(grant.client_secret)}"
                headers.append(("Authorization", f"Basic {base64.b64encode(pair.encode()).decode()}"))
            content = urlencode(parameters).encode()
            answer = await self._ways.call(grant.way, "POST", grant.url, headers=headers, content=content)
            if answer.is_success:
                kept.in_body = in_body
                return answer
        # The message was not refused, only the token: it is tried again.
        reason = Failure.AUTH_ERROR if answer.is_client_error else Failure.SERVER_ERROR
        what = f"no OAuth2 token: {redact_url(grant.url)} answered {answer.status_code}{_why(answer)}"
        raise RequestError(what, reason=reason)

    def _read(self, grant: _Grant, answer: httpx.Response) -> tuple[str, float]:
        found = _object(answer)
        token, kind = found.get("access_token"), str(found.get("token_type") or "Bearer")
        if not isinstance(token, str) or not token:
            what = f"no OAuth2 token: {redact_url(grant.url)} answered {answer.status_code} without access_token"
            raise RequestError(what, reason=Failure.AUTH_ERROR)
        try:
            seconds = float(found.get("expires_in") or "inf")
        except (TypeError, ValueError):
            seconds = float("inf")
        header = f"{'Bearer' if kind.lower() == 'bearer' else kind} {token}"
        return header, self._monotonic() + seconds - MARGIN


class _Kept:
    """The token of one grant, and how its server wants to be asked."""

    def __init__(self) -> None:
        self.header: str | None = None
        self.until = 0.0
        self.in_body: bool | None = None
        self.fetching = asyncio.Lock()


def _secret(config: OAuth2) -> str:
    given = config.client_secret is not None or config.client_secret_file is not None
    return reveal(config.client_secret, config.client_secret_file) if given else ""


def _object(answer: httpx.Response) -> dict[str, Any]:
    try:
        found = orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _why(answer: httpx.Response) -> str:
    """Return the `error` of RFC 6749 section 5.2, the only part of the answer that cannot quote a secret."""
    error = str(_object(answer).get("error", ""))
    return f": {error}" if error.replace("_", "").isalpha() and len(error) <= 40 else ""
