"""POST /api/v1/sources/{name}: authenticate, read, hand over all alerts at once, and answer when they are kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Final

import orjson
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tocsin_alerting.model import Alert, Incoming
from tocsin_alerting.sources import KINDS, SourceSettings
from tocsin_alerting.sources.report import Report, UnreadableError
from tocsin_alerting.sources.telemetry import SourceTelemetry
from tocsin_service.clock import Clock
from tocsin_service.settings import SecretError

Accept = Callable[[list[Incoming]], Awaitable[list[str]]]
"""Takes alerts in, all at once, and returns when they are durable; the result is what was wrong with some."""

BODY_LIMIT: Final = 4 * 1024 * 1024
"""Bytes; some 3,000 alerts."""
_LATER: Final = {"Retry-After": "5"}


def routes(
    *,
    sources: Callable[[], Sequence[SourceSettings]],
    accept: Accept,
    firing: Callable[[], Iterable[Alert]],
    clock: Clock,
    telemetry: SourceTelemetry,
) -> list[Route]:
    """Return the endpoint.

    Args:
        sources: asked at each request, so that a reload needs no new routes.
        firing: the alerts that fire now, for messages that end alerts without naming all their labels.
    """
    endpoint = _Endpoint(sources, accept, firing, clock, telemetry)
    # Grafana offers PUT beside POST.
    return [Route("/api/v1/sources/{name}", endpoint.answer, methods=["POST", "PUT"])]


@dataclasses.dataclass(frozen=True, slots=True)
class _Endpoint:
    sources: Callable[[], Sequence[SourceSettings]]
    accept: Accept
    firing: Callable[[], Iterable[Alert]]
    clock: Clock
    telemetry: SourceTelemetry

    async def answer(self, request: Request) -> Response:
        name = request.path_params["name"]
        settings = next((source for source in self.sources() if source.name == name), None)
        if settings is None:
            response = _answer(404, ["no source has this name; sources stand in the file given to --tocsin.config"])
        else:
            response = await self._received(request, settings)
        self.telemetry.answered(settings.name if settings else "", response.status_code)
        return response

    async def _received(self, request: Request, settings: SourceSettings) -> Response:
        try:
            check = settings.check()
        except SecretError as error:
            self.telemetry.no_secret(settings.name, error)
            return _answer(503, ["this source cannot check credentials now; the router's log says why"], headers=_LATER)
        # Where the credentials are a header, nothing is read from whom we do not know.
        if not check.reads_body and not check.passes(request.headers, b""):
            return self._stranger(settings, check.challenge)
        body = await _body(request)
        if body is None:
            return _answer(413, [f"the body is larger than {BODY_LIMIT} bytes; send fewer alerts at once"])
        if check.reads_body and not check.passes(request.headers, body):
            return self._stranger(settings, check.challenge)
        return await self._taken(body, request, settings)

    def _stranger(self, settings: SourceSettings, challenge: str) -> Response:
        self.telemetry.strangers(settings.name, self.clock.now())
        headers = {"WWW-Authenticate": challenge} if challenge else {}
        return _answer(401, ["the credentials of this source are missing or wrong"], headers=headers)

    async def _taken(self, body: bytes, request: Request, settings: SourceSettings) -> Response:
        now = self.clock.now()
        try:
            report = KINDS[settings.kind](body, request.headers, settings, now)
        except UnreadableError as error:
            report = Report(problems=(str(error),))
        alerts = [_labelled(alert, settings.labels) for alert in report.alerts]
        problems = list(report.problems)
        ended = list(self._ended(report, alerts, now))
        if alerts or ended:
            try:
                refused = await self.accept([*alerts, *ended])
            except (SQLAlchemyError, OSError) as error:
                self.telemetry.not_stored(settings.name, error)
                return _answer(503, ["the database cannot be used; send it again"], headers=_LATER)
            problems += refused
            accepted = len(alerts) - len(refused)
        else:
            accepted = 0
        if report.truncated:
            self.telemetry.truncated(settings.name, report.truncated)
        if problems:
            self.telemetry.problems(settings.name, problems)
        return _answer(report.status if problems else 200, problems, accepted=max(0, accepted), note=report.note)

    def _ended(self, report: Report, alerts: Sequence[Incoming], now: float) -> Iterator[Incoming]:
        """Yield the ends of what the report says is over."""
        if not report.over:
            return
        over = report.over.items()
        named = [alert.labels for alert in alerts]
        for alert in self.firing():
            if over <= alert.labels.items() and alert.labels not in named:
                yield Incoming(alert.labels, alert.annotations, alert.starts_at, now, alert.generator_url)


def _labelled(alert: Incoming, defaults: dict[str, str]) -> Incoming:
    """Add the labels of the source. An empty label is one that is not there, as everywhere in Prometheus."""
    return dataclasses.replace(alert, labels=defaults | {name: value for name, value in alert.labels.items() if value})


async def _body(request: Request) -> bytes | None:
    """Return the body, or None if it is too large."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > BODY_LIMIT:
        return None
    chunks: list[bytes] = []
    left = BODY_LIMIT
    async for chunk in request.stream():
        left -= len(chunk)
        if left < 0:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def _answer(
    status: int, problems: Sequence[str], *, accepted: int = 0, note: str = "", headers: dict[str, str] | None = None
) -> Response:
    data: dict[str, object] = {"accepted": accepted}
    if problems:
        data["problems"] = list(problems)
    if note:
        data["note"] = note
    return Response(
        orjson.dumps(data, option=orjson.OPT_APPEND_NEWLINE),
        status_code=status,
        media_type="application/json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )
