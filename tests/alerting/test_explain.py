"""Why was I not told? Every answer has a reason a person can read."""

from __future__ import annotations

import time
from typing import Any

from starlette.responses import Response

from tocsin_alerting.testing import Served, serving
from tocsin_service.clock import rfc3339
from tocsin_service.testing import eventually, sink

_CONFIG = """
route:
  receiver: nobody
  group_by: [service]
  group_wait: 0s
  group_interval: 300ms
  routes:
    - matchers: [severity=page]
      receiver: hook
      routes: [{{matchers: [team=night], receiver: hook, mute_time_intervals: [always]}}]
receivers:
  - name: nobody
  - name: hook
    webhook_configs: [{{url: "{url}"}}]
inhibit_rules: [{{name: root-cause, source_matchers: [kind=cause], target_matchers: [kind=effect], equal: [service]}}]
time_intervals: [{{name: always, time_intervals: [{{times: [{{start_time: "00:00", end_time: "24:00"}}]}}]}}]
"""


def _alert(name: str = "Down", **labels: str) -> dict[str, object]:
    return {
        "labels": {"alertname": name, "service": "shop", "severity": "page", **labels},
        "endsAt": rfc3339(time.time() + 60),
    }


async def _explained(router: Served, name: str = "Down") -> dict[str, Any]:
    alerts = (await router.client.get("/api/v2/alerts", params={"filter": f"alertname={name}"})).json()
    fingerprint = alerts[0]["fingerprint"]
    answer = await router.client.get(f"/api/v1/alerts/{fingerprint[:12]}/explain")
    found: dict[str, Any] = answer.json()
    assert found["alert"]["fingerprint"] == fingerprint
    return found


async def test_a_told_alert_shows_its_way_and_each_attempt(any_database_url: str) -> None:
    """Route, group, timers, and what the receiver answered."""
    left = [503]

    async with (
        sink(lambda _: Response(status_code=left.pop() if left else 200)) as got,
        serving(_CONFIG.format(url=got.url), database_url=any_database_url) as router,
    ):
        await router.post(_alert())

        async def told() -> bool:
            (route,) = (await _explained(router))["routes"]
            return bool(route["integrations"][0]["told"]["firing"])

        await eventually(told)
        (route,) = (await _explained(router))["routes"]
    assert route["receiver"] == "hook"
    assert [node["matchers"] for node in route["path"]] == [[], ['severity="page"']]
    assert route["group"]["key"] == '{}/{severity="page"}:{service="shop"}'
    assert (route["group"]["group_interval"], route["group"]["alerts"]) == ("300ms", 1)
    (integration,) = route["integrations"]
    assert "nothing has changed since" in integration["decision"]
    (message,) = integration["messages"]
    assert (message["reason"], message["state"]) == ("first notification", "delivered")
    assert [item["outcome"] for item in message["attempts"]] == ["not taken", "taken"]
    assert "answered 503" in message["attempts"][0]["detail"]


async def test_each_kind_of_mute_names_itself(database_url: str) -> None:
    """Silence with author and end, source and rule, interval."""
    async with sink() as got, serving(_CONFIG.format(url=got.url), database_url=database_url) as router:
        silence = {
            "matchers": [{"name": "alertname", "value": "Quiet", "isRegex": False}],
            "startsAt": rfc3339(time.time()),
            "endsAt": "2099-01-01T00:00:00.000Z",
            "createdBy": "maria",
            "comment": "deploy",
        }
        made = (await router.client.post("/api/v2/silences", json=silence)).json()["silenceID"]
        await router.post(_alert("Quiet", service="a"), _alert("Cause", kind="cause"), _alert("Effect", kind="effect"))
        await router.post(_alert("Night", team="night", service="b"))
        quiet, effect, night = [(await _explained(router, name))["routes"][0] for name in ("Quiet", "Effect", "Night")]
    (by,) = quiet["muted"]["silences"]
    assert (by["id"], by["createdBy"], by["comment"]) == (made, "maria", "deploy")
    assert quiet["muted"]["until"] == "2099-01-01T00:00:00.000Z"
    assert made in quiet["integrations"][0]["decision"]
    (source,) = effect["muted"]["inhibitedBy"]
    assert source["rule"] == "root-cause"
    assert night["muted"]["intervals"] == ["always"]
    assert "time interval always" in night["integrations"][0]["decision"]


async def test_that_somebody_was_muted_can_be_asked_in_the_morning(database_url: str) -> None:
    """Decisions to tell nobody are kept, once for each change."""
    async with sink() as got, serving(_CONFIG.format(url=got.url), database_url=database_url) as router:
        await router.post(_alert("Night", team="night"))

        async def kept() -> list[str]:
            (route,) = (await _explained(router, "Night"))["routes"]
            return [item["what"] for item in route["integrations"][0]["history"]]

        await eventually(kept)
        first = await kept()
        await eventually(lambda: router.router._dispatcher.groups.due(time.time()) == [])
        assert await kept() == first == ["muted by time interval always"]


async def test_an_alert_that_nobody_knows(database_url: str) -> None:
    """Says so."""
    async with serving(_CONFIG.format(url="http://127.0.0.1:1"), database_url=database_url) as router:
        answer = await router.client.get("/api/v1/alerts/ffff/explain")
    assert answer.status_code == 404
    assert answer.json()["message"] == 'no alert has a fingerprint that begins with "ffff"'
