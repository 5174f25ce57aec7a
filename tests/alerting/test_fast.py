"""The way in for alerts: what is answered before any framework, and when all the usual guards stand before it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpx
import pytest
from starlette.responses import PlainTextResponse

from tocsin_alerting.dispatch import NotDurableError
from tocsin_alerting.fast import fast
from tocsin_alerting.intake import RefusedError
from tocsin_service import web
from tocsin_service.testing import serving

PATH = "/api/v2/alerts"
JSON = {"Content-Type": "application/json"}


@dataclass
class Taker:
    """Takes bodies, and answers what it is told to."""

    bodies: list[bytes] = field(default_factory=list)
    answer: list[str] | Exception = field(default_factory=list)
    client: httpx.AsyncClient = field(default_factory=httpx.AsyncClient)

    async def accept(self, body: bytes) -> list[str]:
        self.bodies.append(body)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def post(self, content: bytes = b"[]", **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(PATH, content=content, headers=JSON | named)


@pytest.fixture
async def taker() -> AsyncIterator[Taker]:
    made = Taker()
    app = fast(PlainTextResponse("the app behind", status_code=418), PATH, made.accept)
    async with serving(app) as url, httpx.AsyncClient(base_url=url) as made.client:
        yield made


async def test_a_taken_request_is_answered_200_without_a_body(taker: Taker) -> None:
    """With the headers that Alertmanager sends."""
    answer = await taker.post(b'[{"labels": {}}]')
    assert (answer.status_code, answer.content, taker.bodies) == (200, b"", [b'[{"labels": {}}]'])
    assert (answer.headers["cache-control"], answer.headers["vary"]) == ("no-store", "Origin")
    assert answer.headers["content-length"] == "0"


async def test_other_paths_and_methods_are_for_the_app_behind(taker: Taker) -> None:
    """Also the same path with GET, and what is below it."""
    for method, path in (("GET", PATH), ("POST", PATH + "/groups"), ("POST", "/"), ("DELETE", PATH)):
        assert (await taker.client.request(method, path, headers=JSON)).status_code == 418
    assert taker.bodies == []


async def test_what_is_wrong_with_alerts_is_one_bare_string(taker: Taker) -> None:
    """All reasons, a line each."""
    taker.answer = ["at least one label pair required", 'invalid label set: invalid name ""']
    answer = await taker.post()
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/json")
    assert answer.json() == 'at least one label pair required\ninvalid label set: invalid name ""'


async def test_a_refused_request_has_a_code_and_a_message(taker: Taker) -> None:
    """As the request layer of Alertmanager gives them."""
    taker.answer = RefusedError(422, 602, "0.labels in body is required")
    answer = await taker.post()
    assert (answer.status_code, answer.json()) == (422, {"code": 602, "message": "0.labels in body is required"})


async def test_alerts_that_could_not_be_written_down_are_answered_500(taker: Taker) -> None:
    """So that whoever sent them counts it."""
    taker.answer = NotDurableError("send them again")
    answer = await taker.post()
    assert (answer.status_code, answer.json()) == (500, "send them again")


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("text/plain", "text/plain"),
        ("application/x-www-form-urlencoded", "application/x-www-form-urlencoded"),
        ("", "application/octet-stream"),
        ("; charset=utf-8", "application/octet-stream"),
    ],
)
async def test_another_type_of_content_is_refused(taker: Taker, kind: str, named: str) -> None:
    """Nothing of it is read."""
    answer = await taker.client.post(PATH, content=b"[]", headers={"Content-Type": kind})
    assert (answer.status_code, taker.bodies) == (415, [])
    assert answer.json() == {
        "code": 415,
        "message": f'unsupported media type "{named}", only [application/json] are allowed',
    }


async def test_parameters_of_the_type_do_not_matter(taker: Taker) -> None:
    """Nor does its case."""
    for kind in ("application/json; charset=utf-8", "Application/JSON"):
        assert (await taker.client.post(PATH, content=b"[]", headers={"Content-Type": kind})).status_code == 200


async def test_a_body_in_chunks_is_put_together(taker: Taker) -> None:
    """A client may not know its length."""

    async def chunks() -> AsyncIterator[bytes]:
        for part in (b"[", b"1,", b"2]"):
            yield part

    answer = await taker.client.post(PATH, content=chunks(), headers=JSON)
    assert (answer.status_code, taker.bodies) == (200, [b"[1,2]"])


async def test_a_body_that_is_too_large_is_refused(taker: Taker) -> None:
    """Whether its length is said or not."""
    large = b" " * (web.DEFAULT_BODY_LIMIT + 1)

    async def chunks() -> AsyncIterator[bytes]:
        yield large

    for content in (large, chunks()):
        answer = await taker.client.post(PATH, content=content, headers=JSON)
        assert answer.status_code == 413
    assert taker.bodies == []
    almost = b" " * (web.DEFAULT_BODY_LIMIT - 1)
    assert (await taker.post(almost)).status_code == 200


async def test_a_foreign_page_cannot_post(taker: Taker) -> None:
    """A browser names the page a request comes from; our own pages may."""
    assert (await taker.post(Origin="https://evil.example")).status_code == 403
    assert taker.bodies == []
    assert (await taker.post(Origin=str(taker.client.base_url))).status_code == 200
