"""POST /api/v1/sources/{name}, over real HTTP."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy.exc import OperationalError
from starlette.applications import Starlette

from tocsin_alerting.model import Alert, Incoming, fingerprint
from tocsin_alerting.sources import SourceSettings, endpoint
from tocsin_alerting.sources.telemetry import SourceTelemetry
from tocsin_service.testing import FakeClock, serving

_FILE = """
sources:
  - {name: grafana, kind: grafana, token: sesame, labels: {severity: ticket, team: shop}}
  - {name: upstream, kind: alertmanager, basic_auth: {username: am, password: sesame}}
  - {name: sentry, kind: sentry, client_secret: key, labels: {severity: ticket}}
  - {name: deploys, kind: json, token_file: token, mapping: {alerts: $.events, labels: {alertname: $.title}}}
"""
_BEARER = {"Authorization": "Bearer sesame"}


@dataclass
class Router:
    """Stands for the core: keeps what it is given, and what fires."""

    sources: tuple[SourceSettings, ...]
    accepted: list[list[Incoming]] = field(default_factory=list)
    firing: list[Alert] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    fault: Exception | None = None
    clock: FakeClock = field(default_factory=FakeClock)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    client: httpx.AsyncClient = field(default_factory=httpx.AsyncClient)

    async def accept(self, alerts: list[Incoming]) -> list[str]:
        if self.fault is not None:
            raise self.fault
        self.accepted.append(alerts)
        return self.problems

    async def post(self, name: str, body: bytes, **headers: str) -> httpx.Response:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        return await self.client.post(f"/api/v1/sources/{name}", content=body, headers=named)

    async def sentry(self, resource: str, body: bytes) -> httpx.Response:
        signature = hmac.new(b"key", body, hashlib.sha256).hexdigest()
        return await self.post("sentry", body, Sentry_Hook_Resource=resource, Sentry_Hook_Signature=signature)

    def requests(self, source: str, code: int) -> float | None:
        labels = {"source": source, "code": str(code)}
        return self.registry.get_sample_value("tocsin_alerting_source_requests_total", labels)

    def fires(self, alert: Incoming) -> None:
        now = self.clock.now()
        name = fingerprint(alert.labels)
        self.firing.append(Alert(alert.labels, alert.annotations, now - 60, now + 600, now, name))


@pytest.fixture
async def router(configured: Callable[[str], tuple[SourceSettings, ...]], tmp_path: Path) -> AsyncIterator[Router]:
    (tmp_path / "token").write_text("sesame")
    made = Router(configured(_FILE))
    routes = endpoint.routes(
        sources=lambda: made.sources,
        accept=made.accept,
        firing=lambda: made.firing,
        clock=made.clock,
        telemetry=SourceTelemetry(made.registry),
    )
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving(Starlette(routes=routes)))
        made.client = await stack.enter_async_context(httpx.AsyncClient(base_url=url))
        yield made


async def test_one_post_is_applied_as_one(router: Router, payload: Callable[[str], bytes]) -> None:
    """All its alerts in one call, with the default labels of the source where they bring none of their own."""
    answer = await router.post("grafana", payload("grafana"), **_BEARER)
    assert (answer.status_code, answer.json()) == (200, {"accepted": 2})
    (alerts,) = router.accepted
    assert [(alert.labels["severity"], alert.labels["team"]) for alert in alerts] == [("page", "shop")] * 2
    assert router.requests("grafana", 200) == 1


async def test_an_empty_label_is_one_that_is_missing(router: Router) -> None:
    """As everywhere in Prometheus."""
    body = b'{"alerts": [{"status": "firing", "labels": {"alertname": "A", "severity": ""}}]}'
    await router.post("grafana", body, **_BEARER)
    assert router.accepted[0][0].labels == {"alertname": "A", "severity": "ticket", "team": "shop"}


async def test_put_is_taken_too(router: Router, payload: Callable[[str], bytes]) -> None:
    """Grafana offers both."""
    answer = await router.client.put("/api/v1/sources/grafana", content=payload("grafana"), headers=_BEARER)
    assert answer.status_code == 200
    assert (await router.client.get("/api/v1/sources/grafana", headers=_BEARER)).status_code == 405


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer sesam"}, {"Authorization": "Basic YTpi"}])
async def test_strangers_are_refused(
    router: Router, payload: Callable[[str], bytes], headers: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """With a plain sentence, counted, and logged once a minute without what they said."""
    for _ in range(3):
        answer = await router.post("grafana", payload("grafana"), **headers)
        assert answer.status_code == 401
        assert answer.json()["problems"] == ["the credentials of this source are missing or wrong"]
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert router.accepted == []
    assert router.requests("grafana", 401) == 3
    logged = "".join(capsys.readouterr())
    assert logged.count("credentials are missing or wrong") <= 1
    assert "sesam" not in logged


async def test_a_user_with_a_password(router: Router, payload: Callable[[str], bytes]) -> None:
    """As Alertmanager's `http_config.basic_auth` sends them."""
    path = "/api/v1/sources/upstream"
    good = await router.client.post(path, content=payload("alertmanager"), auth=("am", "sesame"))
    bad = await router.client.post(path, content=payload("alertmanager"), auth=("am", "other"))
    assert (good.status_code, bad.status_code) == (200, 401)
    assert bad.headers["WWW-Authenticate"] == 'Basic realm="tocsin"'


async def test_a_body_must_be_the_one_that_was_signed(router: Router, payload: Callable[[str], bytes]) -> None:
    """Whoever has a signature of one cannot send another."""
    body = payload("sentry_event_alert")
    assert (await router.sentry("event_alert", body)).json() == {"accepted": 1}
    signature = hmac.new(b"key", body, hashlib.sha256).hexdigest()
    forged = body.replace(b'"error"', b'"fatal"')
    answer = await router.post("sentry", forged, Sentry_Hook_Resource="event_alert", Sentry_Hook_Signature=signature)
    assert answer.status_code == 401
    assert len(router.accepted) == 1


async def test_a_resolved_issue_ends_the_alert_that_fires(router: Router, payload: Callable[[str], bytes]) -> None:
    """Even if its level has changed since; alerts about others go on."""
    await router.sentry("event_alert", payload("sentry_event_alert"))
    ((fired,),) = router.accepted
    router.fires(fired)
    router.fires(Incoming(fired.labels | {"issue": "2"}))
    await router.sentry("issue", payload("sentry_issue_resolved"))
    ends = router.accepted[1]
    now = router.clock.now()
    assert {(end.labels["issue"], end.labels["level"], end.ends_at) for end in ends} == {
        ("1117540176", "fatal", now),
        ("1117540176", "error", now),
    }
    assert all(end.labels["severity"] == "ticket" for end in ends)


async def test_a_new_level_ends_the_old_one(router: Router, payload: Callable[[str], bytes]) -> None:
    """One issue is one alert."""
    body = payload("sentry_metric_alert")
    await router.sentry("metric_alert", body.replace(b'"action": "critical"', b'"action": "warning"'))
    router.fires(router.accepted[0][0])
    answer = await router.sentry("metric_alert", body)
    now = router.clock.now()
    assert answer.json() == {"accepted": 1}
    assert [(alert.labels["level"], alert.ends_at) for alert in router.accepted[1]] == [
        ("critical", now + 86_400),
        ("warning", now),
    ]


async def test_what_is_passed_over_is_said(router: Router) -> None:
    """So that nobody waits for an alert that will not come."""
    answer = await router.sentry("comment", b'{"action": "created", "data": {}}')
    assert answer.json() == {"accepted": 0, "note": "comment is no alert and was passed over"}
    assert router.accepted == []


async def test_good_alerts_are_taken_beside_bad_ones(router: Router, payload: Callable[[str], bytes]) -> None:
    """400, with the position of each bad one."""
    data = json.loads(payload("grafana"))
    data["alerts"][1]["startsAt"] = "noon"
    answer = await router.post("grafana", json.dumps(data).encode(), **_BEARER)
    assert answer.status_code == 400
    assert answer.json()["accepted"] == 1
    assert answer.json()["problems"][0].startswith("alerts[1]: startsAt: not a time")
    assert len(router.accepted[0]) == 1


async def test_what_the_core_refuses_is_passed_on(router: Router, payload: Callable[[str], bytes]) -> None:
    """And not counted as accepted."""
    router.problems = ["start time must be before end time"]
    answer = await router.post("grafana", payload("grafana"), **_BEARER)
    assert (answer.status_code, answer.json()) == (400, {"accepted": 1, "problems": router.problems})


async def test_a_mapping_that_finds_nothing_is_422(router: Router) -> None:
    """The answer names the path."""
    answer = await router.post("deploys", b'{"event": {}}', **_BEARER)
    assert answer.status_code == 422
    assert answer.json()["problems"] == ["alerts: $.events finds nothing in this body"]


async def test_nothing_is_confirmed_that_is_not_kept(router: Router, payload: Callable[[str], bytes]) -> None:
    """503 while the database is away: senders try again."""
    router.fault = OperationalError("insert", {}, Exception("disk full"))
    answer = await router.post("grafana", payload("grafana"), **_BEARER)
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "5"


async def test_a_secret_that_cannot_be_read_lets_nobody_in(
    router: Router, tmp_path: Path, payload: Callable[[str], bytes]
) -> None:
    """It is our fault, not the sender's, so that they keep trying; the answer does not name the file."""
    (tmp_path / "token").unlink()
    answer = await router.post("deploys", b"{}", **_BEARER)
    assert answer.status_code == 503
    assert str(tmp_path) not in answer.text


async def test_bodies_are_limited(router: Router) -> None:
    """By what they say they are and by what comes."""
    large = b" " * (endpoint.BODY_LIMIT + 1)
    assert (await router.post("grafana", large, **_BEARER)).status_code == 413

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b" " * (1024 * 1024)

    answer: Any = await router.client.post("/api/v1/sources/grafana", content=chunks(), headers=_BEARER)
    assert answer.status_code == 413


async def test_a_reload_takes_effect(router: Router, payload: Callable[[str], bytes]) -> None:
    """A source that is gone is not known, and unknown names make no new series."""
    router.sources = router.sources[1:]
    answer = await router.post("grafana", payload("grafana"), **_BEARER)
    assert answer.status_code == 404
    assert "--tocsin.config" in answer.json()["problems"][0]
    assert (router.requests("grafana", 404), router.requests("", 404)) == (None, 1)
