"""HTTP: silences as Alertmanager's API v2 has them, and our acknowledgements. Thin: what may be is decided below."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Endpoint

from tocsin_alerting.acks import Ack, AckError, Acks
from tocsin_alerting.answers import HEADERS, BadRequestError, json_answer, problem
from tocsin_alerting.leadership import DATABASE_ERRORS
from tocsin_alerting.matchers import Matcher, MatcherError, Mode, Op
from tocsin_alerting.model import ZERO_TIME
from tocsin_alerting.query import filters, flag
from tocsin_alerting.silence_store import Silences
from tocsin_alerting.silences import Draft, Silence, SilenceError, State, preview
from tocsin_service import durations, telemetry
from tocsin_service.clock import Clock, parse_rfc3339, rfc3339

_PATIENCE: Final = 1.0
"""Seconds that an answer waits to hear of what other replicas changed."""

_UUID: Final = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}", re.IGNORECASE)
_TIME: Final = re.compile(
    r"\d{4}-\d\d-\d\d(?:[Tt]\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)?(?:[Zz]|[+-]\d\d:\d\d)?)?", re.ASCII
)
_OPS: Final = {
    (False, True): Op.EQUAL,
    (False, False): Op.NOT_EQUAL,
    (True, True): Op.REGEX,
    (True, False): Op.NOT_REGEX,
}

_T = TypeVar("_T")


class _RefusedError(Exception):
    """A request that the request layer of Alertmanager refuses."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class _PostedMatcher(msgspec.Struct):
    name: str | None = None
    value: str | None = None
    is_regex: bool | None = msgspec.field(default=None, name="isRegex")
    is_equal: bool | None = msgspec.field(default=None, name="isEqual")


class _PostedSilence(msgspec.Struct):
    """The body of a POST; what is missing is None, so that it can be named as Alertmanager names it."""

    id: str | None = None
    matchers: list[_PostedMatcher | None] | None = None
    starts_at: str | None = msgspec.field(default=None, name="startsAt")
    ends_at: str | None = msgspec.field(default=None, name="endsAt")
    created_by: str | None = msgspec.field(default=None, name="createdBy")
    comment: str | None = None
    annotations: dict[str, str | None] | None = None


class _PostedAck(msgspec.Struct):
    matchers: list[_PostedMatcher | None] | None = None
    fingerprint: str | None = None
    created_by: str | None = msgspec.field(default=None, name="createdBy")
    comment: str | None = None
    duration: str | None = None
    ends_at: str | None = msgspec.field(default=None, name="endsAt")


class _PostedPreview(msgspec.Struct):
    matchers: list[_PostedMatcher | None] | None = None


class _Api:
    def __init__(
        self,
        silences: Silences,
        acks: Acks,
        clock: Clock,
        mode: Mode,
        alerts: Callable[[], Iterable[Mapping[str, str]]],
    ) -> None:
        self._silences = silences
        self._acks = acks
        self._clock = clock
        self._mode = mode
        self._alerts = alerts
        self._log = telemetry.logger("tocsin.alerting")

    # --- silences ---------------------------------------------------------------------------------------------

    async def silences(self, request: Request) -> Response:
        if request.method == "POST":
            body = _decode(_PostedSilence, await _body(request, "silence"), "silence")
            return json_answer({"silenceID": await self._written(self._silences.post(_draft(body)))})
        params = request.query_params
        held = filters(params, self._mode)
        states = [state for state in State if flag(params, state)]
        await self._fresh(self._silences.refresh)
        now = self._clock.now()
        return json_answer([_silence(silence, now) for silence in self._silences.list(held, states)])

    async def silence(self, request: Request) -> Response:
        name = _identifier(request)
        if request.method == "DELETE":
            await self._written(self._silences.expire(name))
            return Response(headers=HEADERS)
        await self._fresh(self._silences.refresh)
        found = self._silences.get(name)
        return _absent() if found is None else json_answer(_silence(found, self._clock.now()))

    async def preview(self, request: Request) -> Response:
        body = _decode(_PostedPreview, await _body(request, "silence"), "silence")
        matchers = _matchers(_triples(body.matchers))
        alerts = list(self._alerts())
        return json_answer({"matching": preview(matchers, alerts), "alerts": len(alerts)})

    # --- acknowledgements -------------------------------------------------------------------------------------

    async def acks(self, request: Request) -> Response:
        if request.method == "POST":
            body = _decode(_PostedAck, await _body(request, "ack"), "ack")
            posted = self._acks.post(
                matchers=_matchers(_triples(body.matchers)) if body.matchers else (),
                fingerprint=(body.fingerprint or "").lower(),
                created_by=body.created_by or "",
                comment=body.comment or "",
                ends_at=self._end(body),
            )
            return json_answer(_ack(await self._written(posted), self._clock.now()))
        await self._fresh(self._acks.refresh)
        now = self._clock.now()
        return json_answer([_ack(ack, now) for ack in self._acks.list()])

    async def ack(self, request: Request) -> Response:
        await self._written(self._acks.withdraw(_identifier(request)))
        return Response(headers=HEADERS)

    def _end(self, body: _PostedAck) -> float:
        ends_at = _moment(body.ends_at, "ack", "endsAt")
        if (ends_at is None) == (not body.duration):
            raise BadRequestError('an acknowledgement needs a "duration" such as "2h", or "endsAt", and not both')
        if ends_at is not None:
            return ends_at
        try:
            return self._clock.now() + durations.parse(body.duration or "")
        except ValueError as error:
            raise BadRequestError(f"duration: {error}") from error

    # --- the database -----------------------------------------------------------------------------------------

    async def _written(self, step: Awaitable[_T]) -> _T:
        try:
            return await step
        except DATABASE_ERRORS as error:
            self._log.error("the database cannot be used, nothing was changed", error=_first_line(error))
            raise _RefusedError(503, 503, "the database cannot be used: nothing was changed, try again") from error

    async def _fresh(self, refresh: Callable[[], Awaitable[bool]]) -> None:
        """Hear of what other replicas changed a moment ago; without the database, what is known is answered."""
        try:
            async with asyncio.timeout(_PATIENCE):
                await refresh()
        except DATABASE_ERRORS as error:
            self._log.warning("the database cannot be used, answering what is known", error=_first_line(error))


def routes(
    silences: Silences,
    acks: Acks,
    clock: Clock,
    *,
    mode: Mode = Mode.FALLBACK,
    alerts: Callable[[], Iterable[Mapping[str, str]]] = tuple,
) -> list[Endpoint]:
    """Return the endpoints of silences and acknowledgements.

    Args:
        mode: in which notation `filter` is read.
        alerts: gives the labels of all alerts that fire now, for previews.
    """
    api = _Api(silences, acks, clock, mode, alerts)
    return [
        Endpoint("/api/v2/silences", _refusing(api.silences), methods=["GET", "POST"]),
        Endpoint("/api/v2/silence/{id}", _refusing(api.silence), methods=["GET", "DELETE"]),
        Endpoint("/api/v1/silences/preview", _refusing(api.preview), methods=["POST"]),
        Endpoint("/api/v1/acks", _refusing(api.acks), methods=["GET", "POST"]),
        Endpoint("/api/v1/acks/{id}", _refusing(api.ack), methods=["DELETE"]),
    ]


def _refusing(handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """Return `handler` with its refusals made answers, in the forms of Alertmanager."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except _RefusedError as error:
            return json_answer(problem(error.code, str(error)), error.status)
        except BadRequestError as error:
            return json_answer(str(error), 400)
        except (SilenceError, AckError) as error:
            # Asked for by its path, what is not there has no words; named in a body, it has.
            return _absent() if error.status == 404 and request.path_params else json_answer(str(error), error.status)

    return answer


# --- requests ----------------------------------------------------------------------------------------------------


async def _body(request: Request, what: str) -> bytes:
    kind = request.headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise _RefusedError(415, 415, f'unsupported media type "{kind}", only [application/json] are allowed')
    body = await request.body()
    if not body:
        raise _RefusedError(422, 602, f"{what} in body is required")
    return body


def _decode(kind: type[_T], body: bytes, what: str) -> _T:
    try:
        found = msgspec.json.decode(body, type=kind | None)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _undecodable(what, str(error)) from error
    return kind() if found is None else found


def _undecodable(what: str, reason: str) -> _RefusedError:
    return _RefusedError(400, 400, f"parsing {what} body failed: {reason}")


def _missing(where: str) -> _RefusedError:
    return _RefusedError(422, 602, f"{where} in body is required")


def _required(value: _T | None, where: str) -> _T:
    if value is None:
        raise _missing(where)
    return value


def _draft(body: _PostedSilence) -> Draft:
    # In the order of their names, which is that in which Alertmanager misses them.
    comment = _required(body.comment, "comment")
    created_by = _required(body.created_by, "createdBy")
    _required(body.ends_at, "endsAt")
    matchers = _triples(body.matchers)
    _required(body.starts_at, "startsAt")
    return Draft(
        matchers=matchers,
        starts_at=_moment(body.starts_at, "silence", "startsAt"),
        ends_at=_moment(body.ends_at, "silence", "endsAt"),
        created_by=created_by,
        comment=comment,
        annotations={name: value or "" for name, value in sorted((body.annotations or {}).items())},
        id=body.id or "",
    )


def _triples(posted: list[_PostedMatcher | None] | None) -> tuple[tuple[str, Op, str], ...]:
    if posted is None:
        raise _missing("matchers")
    if not posted:
        raise _RefusedError(422, 612, "matchers in body should have at least 1 items")
    found = []
    for index, item in enumerate(posted):
        matcher = _required(item, f"matchers.{index}")
        is_regex = _required(matcher.is_regex, f"matchers.{index}.isRegex")
        name = _required(matcher.name, f"matchers.{index}.name")
        value = _required(matcher.value, f"matchers.{index}.value")
        found.append((name, _OPS[is_regex, matcher.is_equal is not False], value))
    return tuple(found)


def _matchers(triples: Iterable[tuple[str, Op, str]]) -> tuple[Matcher, ...]:
    try:
        return tuple(Matcher(*triple) for triple in triples)
    except MatcherError as error:
        raise BadRequestError(str(error)) from error


def _moment(text: str | None, what: str, member: str) -> float | None:
    """Return Unix seconds; None for unset, which Go's zero time is too."""
    if not text or text == ZERO_TIME:
        return None
    refusal = _undecodable(what, f'{member}: "{text[:50]}" is not an RFC 3339 time')
    if _TIME.fullmatch(text) is None:
        raise refusal
    try:
        moment = parse_rfc3339(text.upper())
        rfc3339(moment)  # a zone can move it out of the years that can be written
    except (ValueError, OverflowError) as error:
        raise refusal from error
    return moment


def _identifier(request: Request) -> str:
    name: str = request.path_params["id"]
    if _UUID.fullmatch(name) is None:
        member = "silenceID" if "/silence/" in request.url.path else "id"
        raise _RefusedError(422, 601, f'{member} in path must be of type uuid: "{name[:50]}"')
    return name


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


# --- answers -----------------------------------------------------------------------------------------------------


def _absent() -> Response:
    return Response(status_code=404, headers=HEADERS)


def _silence(silence: Silence, now: float) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": silence.id,
        "status": {"state": silence.state(now)},
        "updatedAt": rfc3339(silence.updated_at),
        "comment": silence.comment,
        "createdBy": silence.created_by,
        "endsAt": rfc3339(silence.ends_at),
        "matchers": [_matcher(matcher) for matcher in silence.matchers],
        "startsAt": rfc3339(silence.starts_at),
    }
    return shown | ({"annotations": silence.annotations} if silence.annotations else {})


def _matcher(matcher: Matcher) -> dict[str, Any]:
    return {
        "isEqual": matcher.op in {Op.EQUAL, Op.REGEX},
        "isRegex": matcher.op in {Op.REGEX, Op.NOT_REGEX},
        "name": matcher.name,
        "value": matcher.value,
    }


def _ack(ack: Ack, now: float) -> dict[str, Any]:
    about = {"fingerprint": ack.fingerprint} if ack.fingerprint else {"matchers": [_matcher(m) for m in ack.matchers]}
    return {
        "id": ack.id,
        **about,
        "createdBy": ack.created_by,
        "comment": ack.comment,
        "via": ack.via,
        "startsAt": rfc3339(ack.starts_at),
        "endsAt": rfc3339(ack.ends_at),
        "updatedAt": rfc3339(ack.updated_at),
        "status": {"state": "active" if ack.holds(now) else "expired"},
    }
