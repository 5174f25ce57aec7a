"""Elasticsearch and OpenSearch: `_bulk` with `create` and ids of our own.

The id is a function of file and offset, so that an event that is sent twice is stored once.
"""

from __future__ import annotations

import asyncio
import base64
import zlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import httpx

from tocsin_service import http
from tocsin_service.settings import SecretError, secret
from tocsin_ship import bulk, lines
from tocsin_ship.bulk import Fate, Outcome, Step
from tocsin_ship.config import Elasticsearch
from tocsin_ship.deadletter import Refusal
from tocsin_ship.delivery import Delivery
from tocsin_ship.lines import Block, Line

_TIMEOUT: Final = 60.0
"""Seconds for one request."""
_SUSPECT_AFTER: Final = 3
"""Answers of 500 after which one event is suspected."""
_GIVE_UP_AFTER: Final = 20
"""Answers of 500 to a request of one event, when nothing else says whether the server works."""
_LONGEST_WAIT: Final = 300.0
"""Seconds that a `Retry-After` may hold us back."""
_MISSING_AFTER: Final = 3
"""Attempts for an event whose index is not there."""


@dataclass(frozen=True, slots=True)
class _Part:
    """Events of one request, and how often it has failed in a way that may be their fault."""

    lines: Sequence[Line]
    failures: int = 0


class ElasticsearchOutput:
    """See `tocsin_ship.outputs.Output`.

    Args:
        denied: seconds between attempts while the server refuses our credentials.
        transport: where requests go; None is the network.
    """

    kind = "elasticsearch"
    read_size = 1024 * 1024

    def __init__(
        self,
        config: Elasticsearch,
        delivery: Delivery,
        *,
        denied: float = 30.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._config = config
        self._delivery = delivery
        self._denied = denied
        self._url = f"{config.url}/{config.index}/_bulk?{bulk.QUERY}"
        self._client = httpx.AsyncClient(transport=transport, timeout=_TIMEOUT, headers={"User-Agent": "tocsin"})
        self._taken = 0

    @property
    def settled(self) -> int:
        """Blocks that are done with: each one that was sent."""
        return self._taken

    @property
    def acked(self) -> int:
        return self._taken

    async def open(self) -> None:
        """Nothing to do: a server that is away may come."""

    async def send(self, blocks: Sequence[Block]) -> None:
        """Return when each event is stored or a dead letter."""
        now = self._delivery.clock.now()
        parts = deque([_Part(await asyncio.to_thread(lines.documents, blocks, now=now))])
        works = False
        while parts:
            part = parts.popleft()
            if part.lines:
                left, taken = await self._attempt(part, works=works)
                works = works or taken
                # Others first, so that a part that fails does not hold them up.
                parts.extend(left)
        self._taken += len(blocks)

    async def rest(self) -> None:
        """Nothing to do between blocks."""

    async def close(self) -> None:
        await self._client.aclose()

    async def _attempt(self, part: _Part, *, works: bool) -> tuple[list[_Part], bool]:
        """Send one request; return what of it is to be sent again, and whether the server took anything."""
        count = len(part.lines)
        try:
            response = await self._post(part.lines)
            step = bulk.step(response.status_code)
            found = bulk.outcomes(response.content, count) if step is Step.ITEMS else []
        except SecretError as error:
            await self._delivery.again("secret", count, str(error), after=self._denied, blocked=True)
            return [part], False
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            reason = "timeout" if isinstance(error, TimeoutError | httpx.TimeoutException) else "connection"
            words = str(error) or type(error).__name__
            await self._delivery.again(reason, count, f"{http.redact_url(self._url)}: {words}")
            return [part], False
        except bulk.AnswerError as error:
            await self._delivery.again("answer", count, f"{http.redact_url(self._url)}: {error}")
            return [part], False
        if step is Step.ITEMS:
            return await self._sort(part, found)
        return await self._refused(part, step, response, works=works), False

    async def _post(self, events: Sequence[Line]) -> httpx.Response:
        body = await asyncio.to_thread(_body, events)
        headers = {"Content-Type": "application/x-ndjson", "Content-Encoding": "gzip", **self._sign_in()}
        async with asyncio.timeout(_TIMEOUT):
            return await self._client.post(self._url, content=body, headers=headers)

    def _sign_in(self) -> dict[str, str]:
        # Read for each request, so that a secret can be rotated under us.
        config = self._config
        if config.api_key is not None or config.api_key_file is not None:
            return {"Authorization": f"ApiKey {_encoded(secret(config.api_key, config.api_key_file))}"}
        if config.username is not None:
            password = secret(config.password, config.password_file)
            pair = base64.b64encode(f"{config.username}:{password}".encode()).decode()
            return {"Authorization": f"Basic {pair}"}
        return {}

    async def _sort(self, part: _Part, found: Sequence[Outcome]) -> tuple[list[_Part], bool]:
        """Act on the fate of each event."""
        delivered = sum(item.fate is Fate.DELIVERED for item in found)
        self._delivery.acked(delivered)
        pairs = [(line, item) for line, item in zip(part.lines, found, strict=True) if item.fate is not Fate.DELIVERED]
        gone = {Fate.REJECTED, Fate.MISSING} if part.failures + 1 >= _MISSING_AFTER else {Fate.REJECTED}
        refusals = [Refusal(line, item.reason, item.status, item.error) for line, item in pairs if item.fate in gone]
        await self._delivery.refuse(refusals)
        rest = [(line, item) for line, item in pairs if item.fate not in gone]
        if not rest:
            self._delivery.working()
            return [], True
        first = rest[0][1]
        waits = any(item.fate is Fate.WAIT for _, item in rest)
        missing = any(item.fate is Fate.MISSING for _, item in rest)
        message = f"{http.redact_url(self._url)} did not take {len(rest)} lines: {first.status} {first.error}"
        after = self._denied if waits else None
        await self._delivery.again(first.reason, len(rest), message, after=after, blocked=waits or missing)
        failures = part.failures + 1 if missing else 0
        return [_Part([line for line, _ in rest], failures)], delivered > 0

    async def _refused(self, part: _Part, step: Step, response: httpx.Response, *, works: bool) -> list[_Part]:
        """Act on an answer to the request as a whole; return what is to be sent."""
        status = response.status_code
        message = str(http.refused(self._url, status, response.headers, response.text))
        alone = len(part.lines) == 1
        failures = part.failures + 1
        if step is Step.SUSPECT:
            # A server in trouble answers 500 to everything. Only one that takes the rest accuses an event.
            given_up = alone and failures >= (_SUSPECT_AFTER if works else _GIVE_UP_AFTER)
            if not given_up:
                await self._delivery.again(f"status_{status}", len(part.lines), message)
                return [_Part(part.lines, failures)] if alone or failures < _SUSPECT_AFTER else _halves(part)
        if step in {Step.AGAIN, Step.DENIED}:
            denied = step is Step.DENIED
            after = self._denied if denied else _patience(response)
            await self._delivery.again(f"status_{status}", len(part.lines), message, after=after, blocked=denied)
            return [part]
        if alone:
            await self._delivery.refuse([Refusal(part.lines[0], f"status_{status}", status, message)])
            return []
        return _halves(part)


def _halves(part: _Part) -> list[_Part]:
    middle = len(part.lines) // 2
    return [_Part(part.lines[:middle]), _Part(part.lines[middle:])]


def _patience(response: httpx.Response) -> float | None:
    """Return the seconds the server asks us to wait, within reason, or None."""
    asked = http.retry_after(response.headers)
    return None if asked is None else min(asked, _LONGEST_WAIT)


def _body(events: Sequence[Line]) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)  # 31: with gzip's header
    return packer.compress(bulk.encode(events)) + packer.flush()


def _encoded(key: str) -> str:
    """Return the ready form of an API key; `id:key` is put into it."""
    return base64.b64encode(key.encode()).decode() if ":" in key else key
