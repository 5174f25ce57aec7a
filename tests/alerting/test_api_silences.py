"""Silences and acknowledgements over HTTP: as Alertmanager's clients know them, amtool among them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from tocsin_alerting.acks import Acks
from tocsin_alerting.answers import on_http_error
from tocsin_alerting.api_silences import routes
from tocsin_alerting.silence_store import Silences
from tocsin_alerting.silences import State
from tocsin_alerting.testing import NOW, serving
from tocsin_service.clock import rfc3339
from tocsin_service.db import Database, Migrations
from tocsin_service.testing import FakeClock
from tocsin_stack import debian

_MIGRATIONS = Migrations("alerting", "tocsin_alerting.migrations")
_NOBODY = "00000000-0000-0000-0000-000000000000"
_FIRING = [{"alertname": "Down", "team": "web"}, {"alertname": "Slow", "team": "web"}, {"alertname": "Slow"}]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = await Database.open(database_url, [_MIGRATIONS])
    yield opened
    await opened.close()


@pytest.fixture
async def client(database: Database, clock: FakeClock) -> AsyncIterator[httpx.AsyncClient]:
    silences, acks = Silences(lambda: database, clock), Acks(lambda: database, clock)
    endpoints = routes(silences, acks, clock, alerts=lambda: _FIRING)
    app = Starlette(routes=endpoints, exception_handlers={HTTPException: on_http_error})
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://router") as opened:
        yield opened


def _matcher(**members: object) -> dict[str, object]:
    found = {"name": "a", "value": "b", "isRegex": False, "isEqual": True, **members}
    return {name: value for name, value in found.items() if value is not ...}


def _silence(**members: object) -> dict[str, object]:
    """Return the body of a POST; `...` leaves a member out."""
    found = {
        "matchers": [_matcher()],
        "startsAt": rfc3339(NOW),
        "endsAt": rfc3339(NOW + 3600),
        "createdBy": "me",
        "comment": "c",
        **members,
    }
    return {name: value for name, value in found.items() if value is not ...}


async def _post(client: httpx.AsyncClient, **members: object) -> str:
    answer = await client.post("/api/v2/silences", json=_silence(**members))
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["silenceID"]
    return found


async def _names(client: httpx.AsyncClient, query: str = "") -> list[str]:
    answer = await client.get(f"/api/v2/silences{query}")
    assert answer.status_code == 200, answer.text
    return [silence["id"] for silence in answer.json()]


# --- silences ----------------------------------------------------------------------------------------------------


async def test_a_silence_is_shown_as_alertmanager_shows_it(client: httpx.AsyncClient) -> None:
    """Every member that clients read; alone and in the list."""
    name = await _post(client, annotations={"k": "v", "empty": ""}, matchers=[_matcher(isRegex=True, isEqual=False)])
    answer = await client.get(f"/api/v2/silence/{name}")
    assert answer.json() == {
        "id": name,
        "status": {"state": "active"},
        "updatedAt": "2025-11-23T00:00:00.000Z",
        "comment": "c",
        "createdBy": "me",
        "startsAt": "2025-11-23T00:00:00.000Z",
        "endsAt": "2025-11-23T01:00:00.000Z",
        "matchers": [{"name": "a", "value": "b", "isRegex": True, "isEqual": False}],
        "annotations": {"empty": "", "k": "v"},
    }
    assert answer.headers["cache-control"] == "no-store"
    assert (await client.get("/api/v2/silences")).json() == [answer.json()]


async def test_annotations_are_left_out_where_there_are_none(client: httpx.AsyncClient) -> None:
    """As before they existed; null and unknown members are no harm."""
    name = await _post(client, annotations=None, id=None, status={"state": "x"}, unknown=1)
    assert "annotations" not in (await client.get(f"/api/v2/silence/{name}")).json()


async def test_a_matcher_is_positive_by_default(client: httpx.AsyncClient) -> None:
    """`isEqual` is younger than the rest."""
    for left_out in (..., None):
        name = await _post(client, matchers=[_matcher(isEqual=left_out)])
        assert (await client.get(f"/api/v2/silence/{name}")).json()["matchers"][0]["isEqual"] is True


@pytest.mark.parametrize(
    ("members", "code", "message"),
    [
        *(({name: ...}, 602, f"{name} in body is required") for name in ("matchers", "startsAt", "endsAt")),
        *(({name: None}, 602, f"{name} in body is required") for name in ("createdBy", "comment", "endsAt")),
        ({"comment": ..., "matchers": ...}, 602, "comment in body is required"),
        ({"matchers": []}, 612, "matchers in body should have at least 1 items"),
        ({"matchers": [_matcher(), _matcher(name=...)]}, 602, "matchers.1.name in body is required"),
        ({"matchers": [_matcher(value=None)]}, 602, "matchers.0.value in body is required"),
        ({"matchers": [_matcher(isRegex=...)]}, 602, "matchers.0.isRegex in body is required"),
        ({"matchers": [None]}, 602, "matchers.0 in body is required"),
    ],
)
async def test_missing_members_are_named(
    client: httpx.AsyncClient, members: dict[str, object], code: int, message: str
) -> None:
    """422, with the codes of Alertmanager's request layer."""
    answer = await client.post("/api/v2/silences", json=_silence(**members))
    assert (answer.status_code, answer.json()) == (422, {"code": code, "message": message})


@pytest.mark.parametrize(
    "body",
    [
        *(json.dumps(_silence(**members)) for members in ({"comment": 1}, {"startsAt": 1}, {"annotations": {"k": 1}})),
        *(json.dumps(_silence(endsAt=text)) for text in ("x", "2030-01-01 00:00:00Z", "2030-13-01", " 2030-01-01")),
        *(json.dumps(_silence(endsAt=text)) for text in ("2030-01-01T00:00:00+0100", "0001-01-01T00:00:00+14:00")),
        "[]",
        "{",
        '{"comment": "\\ud800"}',
    ],
)
async def test_what_cannot_be_decoded_is_refused(client: httpx.AsyncClient, body: str) -> None:
    """400 with a code."""
    answer = await client.post("/api/v2/silences", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (400, 400), answer.text


async def test_bodies_must_be_there_and_be_json(client: httpx.AsyncClient) -> None:
    """415 for another type, 422 for none."""

    async def post(content: bytes, kind: str | None) -> tuple[int, Any]:
        headers = {"Content-Type": kind} if kind else {}
        answer = await client.post("/api/v2/silences", content=content, headers=headers)
        return answer.status_code, answer.json()

    words = 'unsupported media type "text/plain", only [application/json] are allowed'
    assert await post(b"{}", "text/plain") == (415, {"code": 415, "message": words})
    assert (await post(b"{}", None))[0] == 415
    missing = (422, {"code": 602, "message": "silence in body is required"})
    assert await post(b"", "application/json; charset=utf-8") == missing
    assert (await post(b"null", "application/json"))[1] == {"code": 602, "message": "comment in body is required"}


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-01", "2026-01-01T00:00:00.000Z"),
        ("2026-01-01T00:00", "2026-01-01T00:00:00.000Z"),
        ("2026-01-01T00:00:00", "2026-01-01T00:00:00.000Z"),
        ("2026-01-01T00:00:00.123456789-02:00", "2026-01-01T02:00:00.123Z"),
        ("2026-01-01T00:00:00,5Z", "2026-01-01T00:00:00.500Z"),
        ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59.000Z"),
    ],
)
async def test_times_are_read_as_alertmanager_reads_them(client: httpx.AsyncClient, text: str, moment: str) -> None:
    """Any zone, any fraction, a date alone."""
    name = await _post(client, endsAt=text)
    assert (await client.get(f"/api/v2/silence/{name}")).json()["endsAt"] == moment


@pytest.mark.parametrize("start", ["", "0001-01-01T00:00:00Z", "2020-01-01T00:00:00Z"])
async def test_a_start_that_is_unset_or_past_is_now(client: httpx.AsyncClient, start: str) -> None:
    """Go's zero time is what amtool means by unset."""
    name = await _post(client, startsAt=start)
    assert (await client.get(f"/api/v2/silence/{name}")).json()["startsAt"] == "2025-11-23T00:00:00.000Z"


@pytest.mark.parametrize(
    ("members", "status", "words"),
    [
        ({"endsAt": ""}, 400, "Failed to create silence: start time must be before end time"),
        (
            {"startsAt": "2020-01-01", "endsAt": "2020-01-02"},
            400,
            "Failed to create silence: end time can't be in the past",
        ),
        (
            {"matchers": [_matcher(value="")]},
            400,
            "invalid silence: matcher set 0: at least one matcher must not match the empty string",
        ),
        ({"id": _NOBODY}, 404, "silence not found"),
        ({"id": "nobody"}, 404, "silence not found"),
    ],
)
async def test_refusals_are_bare_strings(
    client: httpx.AsyncClient, members: dict[str, object], status: int, words: str
) -> None:
    """In Alertmanager's words."""
    answer = await client.post("/api/v2/silences", json=_silence(**members))
    assert (answer.status_code, answer.json()) == (status, words)


async def test_a_silence_is_updated_in_place_or_replaced(client: httpx.AsyncClient, clock: FakeClock) -> None:
    """By a POST with its id, as it was shown."""
    name = await _post(client)
    await clock.advance(60.123)
    shown = (await client.get(f"/api/v2/silence/{name}")).json()
    assert await _post(client, **{**shown, "comment": "more"}) == name
    assert (await client.get(f"/api/v2/silence/{name}")).json()["comment"] == "more"
    assert await _post(client, **{**shown, "matchers": [_matcher(value="z")]}) != name
    assert (await client.get(f"/api/v2/silence/{name}")).json()["status"] == {"state": "expired"}


async def test_a_silence_is_ended(client: httpx.AsyncClient) -> None:
    """200 without a body, a second time too."""
    name = await _post(client)
    for _ in range(2):
        answer = await client.delete(f"/api/v2/silence/{name}")
        assert (answer.status_code, answer.content) == (200, b"")
    assert (await client.get(f"/api/v2/silence/{name}")).json()["status"]["state"] == "expired"


async def test_what_is_not_there_has_no_words(client: httpx.AsyncClient) -> None:
    """404 without a body; an id that can be none is 422."""
    for name in (_NOBODY, _NOBODY.replace("-", ""), _NOBODY.replace("0", "A")):
        for method in ("GET", "DELETE"):
            answer = await client.request(method, f"/api/v2/silence/{name}")
            assert (answer.status_code, answer.content) == (404, b"")
    answer = await client.get("/api/v2/silence/xyz")
    words = 'silenceID in path must be of type uuid: "xyz"'
    assert (answer.status_code, answer.json()) == (422, {"code": 601, "message": words})
    assert (await client.delete("/api/v2/silence/xyz")).status_code == 422


async def test_silences_are_filtered(client: httpx.AsyncClient, clock: FakeClock) -> None:
    """By what they say, and by state; a flag is false for anything that is not true."""
    ended = await _post(client, matchers=[_matcher(), _matcher(name="c", value="d.*", isRegex=True)])
    await client.delete(f"/api/v2/silence/{ended}")
    await clock.advance(1)
    pending = await _post(client, startsAt=rfc3339(NOW + 60))
    active = await _post(client, matchers=[_matcher(value="z")])
    assert await _names(client) == [active, pending, ended]
    assert await _names(client, "?filter=a=b") == [pending, ended]
    assert await _names(client, '?filter=a="b"&filter=c=~"d.*"') == [ended]
    assert await _names(client, "?filter=a=~b") == []
    for state, name in ((State.ACTIVE, active), (State.PENDING, pending), (State.EXPIRED, ended)):
        assert name not in await _names(client, f"?{state}=false")
        assert name not in await _names(client, f"?{state}=maybe")
        assert name in await _names(client, f"?{state}=")
        others = [f"{other}=no" for other in State if other is not state]
        assert await _names(client, f"?{state}=YES&{'&'.join(others)}") == [name]


@pytest.mark.parametrize("text", ["{a=b}", "a", "", 'a=~"("'])
async def test_a_filter_that_cannot_be_read_is_refused(client: httpx.AsyncClient, text: str) -> None:
    """With a bare string."""
    answer = await client.get("/api/v2/silences", params={"filter": text})
    assert answer.status_code == 400
    assert isinstance(answer.json(), str)


async def test_other_methods_are_named_with_those_that_are_allowed(client: httpx.AsyncClient) -> None:
    """405 with `Allow`."""
    answer = await client.put("/api/v2/silences", json={})
    assert (answer.status_code, answer.json()["code"]) == (405, 405)
    assert {"GET", "POST"} <= set(answer.headers["allow"].replace(" ", "").split(","))
    assert (await client.post(f"/api/v2/silence/{_NOBODY}", json={})).status_code == 405


async def test_without_the_database_nothing_is_promised(client: httpx.AsyncClient, database: Database) -> None:
    """A change is refused with 503, a question is answered with what is known."""
    name = await _post(client)
    async with database.write() as connection:
        await connection.execute(sa.text("alter table alerting_revision rename to gone"))
    words = "the database cannot be used: nothing was changed, try again"
    for answer in (
        await client.post("/api/v2/silences", json=_silence()),
        await client.delete(f"/api/v2/silence/{name}"),
    ):
        assert (answer.status_code, answer.json()) == (503, {"code": 503, "message": words})
    assert await _names(client) == [name]
    assert (await client.get(f"/api/v2/silence/{name}")).json()["status"]["state"] == "active"


async def test_a_preview_says_what_would_be_silenced(client: httpx.AsyncClient) -> None:
    """Of the alerts that fire now."""
    path = "/api/v1/silences/preview"
    answer = await client.post(path, json={"matchers": [_matcher(name="team", value="web")]})
    assert answer.json() == {"matching": 2, "alerts": 3}
    answer = await client.post(path, json={"matchers": [_matcher(value="(", isRegex=True)]})
    assert answer.status_code == 400
    assert (await client.post(path, json={})).json() == {"code": 602, "message": "matchers in body is required"}


# --- acknowledgements --------------------------------------------------------------------------------------------


async def test_alerts_are_acknowledged(client: httpx.AsyncClient, clock: FakeClock) -> None:
    """By matchers or by fingerprint, for a while or until an instant."""
    body: dict[str, object] = {"matchers": [_matcher()], "createdBy": "ann", "comment": "on it", "duration": "2h"}
    answer = await client.post("/api/v1/acks", json=body)
    first = answer.json()
    assert {name: value for name, value in first.items() if name != "id"} == {
        "matchers": [{"name": "a", "value": "b", "isRegex": False, "isEqual": True}],
        "createdBy": "ann",
        "comment": "on it",
        "via": "api",
        "startsAt": "2025-11-23T00:00:00.000Z",
        "endsAt": "2025-11-23T02:00:00.000Z",
        "updatedAt": "2025-11-23T00:00:00.000Z",
        "status": {"state": "active"},
    }
    body = {"fingerprint": "D258EFC389808447", "createdBy": "bob", "endsAt": rfc3339(NOW + 60)}
    second = (await client.post("/api/v1/acks", json=body)).json()
    assert (second["fingerprint"], second["comment"]) == ("d258efc389808447", "")
    assert (await client.get("/api/v1/acks")).json() == [second, first]
    await clock.advance(30)
    answer = await client.delete(f"/api/v1/acks/{first['id']}")
    assert (answer.status_code, answer.content) == (200, b"")
    states = [ack["status"]["state"] for ack in (await client.get("/api/v1/acks")).json()]
    assert states == ["active", "expired"]


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"duration": None}, 'needs a "duration" such as "2h", or "endsAt"'),
        ({"endsAt": rfc3339(NOW + 9)}, 'needs a "duration" such as "2h", or "endsAt"'),
        ({"duration": "2 hours"}, '"2 hours" is not a duration'),
        ({"duration": "0"}, "not in the future"),
        ({"matchers": None}, "needs matchers or a fingerprint"),
        ({"matchers": [_matcher(value="(", isRegex=True)]}, "is not a regular expression"),
        ({"createdBy": None}, "needs a name under createdBy"),
    ],
)
async def test_acknowledgements_that_cannot_be_are_refused(
    client: httpx.AsyncClient, members: dict[str, object], words: str
) -> None:
    """With what is missing."""
    body = {"matchers": [_matcher()], "createdBy": "ann", "duration": "2h", **members}
    answer = await client.post("/api/v1/acks", json=body)
    assert answer.status_code == 400
    assert words in answer.json()


async def test_what_nobody_acknowledged_cannot_be_withdrawn(client: httpx.AsyncClient) -> None:
    """404, or 422 for what can be no id."""
    assert (await client.delete(f"/api/v1/acks/{_NOBODY}")).status_code == 404
    assert (await client.delete("/api/v1/acks/x")).json()["message"] == 'id in path must be of type uuid: "x"'


# --- amtool ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def amtool() -> Path:
    found = debian.find("amtool")
    if found is None:
        debian.fetch("prometheus-alertmanager")
        found = debian.find("amtool")
    assert found is not None, "no amtool: install prometheus-alertmanager, or put amtool on PATH"
    return found


async def test_amtool_manages_silences(amtool: Path, database_url: str, tmp_path: Path) -> None:
    """Alertmanager's own client adds, finds, prolongs, exports, imports and ends them."""
    text = "route: {receiver: nobody}\nreceivers: [{name: nobody}]"
    async with serving(text, database_url=database_url) as router:

        async def run(*arguments: str) -> str:
            command = [str(amtool), "silence", *arguments, "--alertmanager.url", router.url]
            pipe = asyncio.subprocess.PIPE
            process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
            out, err = await asyncio.wait_for(process.communicate(), 30)
            assert process.returncode == 0, err.decode()
            return out.decode().strip()

        name = await run("add", "alertname=Down", "team=~web|db", "--comment", "work", "--author", "ann", "-d", "1h")
        pending = await run("add", "x!=y", "-c", "later", "--start", "2100-01-01T00:00:00Z", "-d", "1h")
        assert sorted((await run("query", "-q")).split()) == sorted((name, pending))
        assert await run("query", "-q", "alertname=Down") == name
        assert await run("query", "-q", "--created-by", "ann") == name
        assert 'team=~"web|db"' in await run("query", "-o", "extended")

        longer = await run("update", "--duration", "3h", "--comment", "more work", name)
        assert name in longer
        (shown,) = json.loads(await run("query", "-o", "json", "alertname=Down"))
        assert (shown["id"], shown["comment"]) == (name, "more work")

        exported = tmp_path / "silences.json"
        exported.write_text(await run("query", "-o", "json"))
        await run("expire", name, pending)
        assert await run("query", "-q") == ""
        assert sorted((await run("query", "--expired", "-q")).split()) == sorted((name, pending))

        # Both ids are known and have ended: each is made anew.
        imported = (await run("import", str(exported))).split()
        assert sorted((await run("query", "-q")).split()) == sorted(imported)
        # An id that nobody knows is not found; amtool then asks again without it.
        foreign = json.loads(exported.read_text())
        exported.write_text(json.dumps([silence | {"id": _NOBODY} for silence in foreign]))
        assert len((await run("import", str(exported))).split()) == 2
        assert len((await run("query", "-q")).split()) == 4
