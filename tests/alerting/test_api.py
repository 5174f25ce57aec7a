"""Alertmanager's API v2 as its clients know it, and the metrics that its dashboards read."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tocsin_alerting.listing import AT_ONCE
from tocsin_alerting.model import fingerprint
from tocsin_alerting.options import Options
from tocsin_alerting.testing import Served, serving
from tocsin_service.testing import eventually

_CONFIG = """
route:
  receiver: all
  group_by: [service]
  routes:
  - {matchers: ['severity="page"'], receiver: page, continue: true}
  - {matchers: ['team="web"'], receiver: web}
  - {matchers: ['service="night"'], receiver: web, mute_time_intervals: [always]}
receivers:
- {name: all, webhook_configs: [{url: "http://127.0.0.1:1/hidden"}]}
- {name: page, labels: {owner: ops}}
- {name: web}
inhibit_rules:
- {source_matchers: [alertname=Dark], target_matchers: [alertname=Dim], equal: [service]}
time_intervals: [{name: always, time_intervals: [{times: [{start_time: "00:00", end_time: "24:00"}]}]}]
"""
_PAGE = {"labels": {"alertname": "A", "service": "shop", "severity": "page", "team": "web"}}
_PLAIN = {
    "labels": {"alertname": "B", "service": "blog"},
    "annotations": {"summary": "s"},
    "generatorURL": "http://prometheus.example/graph",
}


@pytest.fixture
async def router(database_url: str) -> AsyncIterator[Served]:
    async with serving(_CONFIG, database_url=database_url) as served:
        yield served


async def _get(router: Served, path: str) -> list[dict[str, Any]]:
    answer = await router.client.get(f"/api/v2{path}")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()
    return found


def _alert(name: str, service: str = "shop", **labels: str) -> dict[str, Any]:
    return {"labels": {"alertname": name, "service": service, **labels}}


async def _silence(router: Served, name: str) -> str:
    matcher = {"name": "alertname", "value": name, "isRegex": False}
    body = {
        "matchers": [matcher],
        "startsAt": "2020-01-01T00:00:00Z",
        "endsAt": "2100-01-01T00:00:00Z",
        "createdBy": "ann",
        "comment": "known",
    }
    answer = await router.client.post("/api/v2/silences", json=body)
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["silenceID"]
    return found


def _names(alerts: list[dict[str, Any]]) -> str:
    return "".join(sorted(alert["labels"]["alertname"] for alert in alerts))


async def test_alerts_are_shown_as_alertmanager_shows_them(router: Served) -> None:
    """Every member that clients read, with times in UTC and three decimals."""
    answer = await router.post(_PLAIN)
    assert (answer.status_code, answer.content) == (200, b"")
    (found,) = await _get(router, "/alerts")
    assert found.keys() == {
        *("labels", "annotations", "startsAt", "endsAt", "updatedAt", "fingerprint", "receivers", "status"),
        "generatorURL",
    }
    assert found["status"] == {"state": "active", "silencedBy": [], "inhibitedBy": [], "mutedBy": []}
    assert found["receivers"] == [{"name": "all"}]
    assert (found["labels"], found["annotations"]) == (_PLAIN["labels"], _PLAIN["annotations"])
    assert found["generatorURL"] == _PLAIN["generatorURL"]
    assert found["fingerprint"] == fingerprint(_PLAIN["labels"])
    assert str(found["startsAt"]).endswith("Z")
    assert len(str(found["startsAt"])) == len("2026-11-23T00:00:00.123Z")


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", "AB"),
        ("?filter=alertname=A", "A"),
        ('?filter=service=~"s.*"&filter=alertname!=B', "A"),
        ("?filter=missing=", "AB"),
        ("?receiver=pa.e", "A"),
        ("?receiver=pa", ""),
        ("?receiver_matchers=owner%3Dops", "A"),
        ("?receiver_matchers=owner%3Dops&receiver=web", ""),
        ("?receiver_matchers=name%3D~.*&receiver=", "AB"),
        ("?active=false", ""),
        ("?active=true&silenced=false&inhibited=false&unprocessed=false", "AB"),
    ],
)
async def test_queries_filter_alerts(router: Served, query: str, names: str) -> None:
    """By matchers, by receiver and by state."""
    await router.post(_PAGE, _PLAIN)
    assert _names(await _get(router, f"/alerts{query}")) == names


async def test_groups_list_one_entry_per_route_and_labels(router: Served) -> None:
    """An alert that goes to two receivers stands in two groups."""
    await router.post(_PAGE, _PLAIN)
    found = await _get(router, "/alerts/groups")
    assert [(item["labels"], item["receiver"]) for item in found] == [
        ({"service": "blog"}, {"name": "all"}),
        ({"service": "shop"}, {"name": "page"}),
        ({"service": "shop"}, {"name": "web"}),
    ]
    (alert,) = found[1]["alerts"]
    assert alert["receivers"] == [{"name": "page"}, {"name": "web"}]


async def test_valid_alerts_are_kept_when_others_are_refused(router: Served) -> None:
    """The answer is 400 with all reasons."""
    answer = await router.post({"labels": {}}, _PLAIN, {"labels": {"": "x"}})
    assert answer.status_code == 400
    assert answer.json() == 'at least one label pair required\ninvalid label set: invalid name ""'
    assert len(await _get(router, "/alerts")) == 1


async def test_resolved_alerts_are_not_listed(router: Served) -> None:
    """Once they are over."""
    await router.post(_PLAIN)
    await router.post(_PLAIN | {"endsAt": "2020-01-01T00:00:00Z", "startsAt": "2019-01-01T00:00:00Z"})
    assert await _get(router, "/alerts") == []


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", ["Dark", "Dim", "Loud", "Still"]),
        ("?active=false", ["Dim", "Still"]),
        ("?silenced=false", ["Dark", "Dim", "Loud"]),
        ("?inhibited=no", ["Dark", "Loud", "Still"]),
        ("?silenced=0&inhibited=nonsense", ["Dark", "Loud"]),
        ("?active=&silenced=TRUE&inhibited=Yes", ["Dark", "Dim", "Loud", "Still"]),
    ],
)
async def test_alerts_are_asked_for_by_state(router: Served, query: str, names: list[str]) -> None:
    """Active is what nobody mutes; an empty flag is its default, and what is no word for true is false."""
    await router.post(*map(_alert, ("Dark", "Dim", "Loud", "Still")))
    await _silence(router, "Still")
    for path in ("/alerts", "/alerts/groups"):
        found = await _get(router, path + query)
        alerts = found if path == "/alerts" else [alert for group in found for alert in group["alerts"]]
        assert sorted(alert["labels"]["alertname"] for alert in alerts) == names


async def test_the_status_says_who_mutes_an_alert(router: Served) -> None:
    """Silences by id, sources by fingerprint, time intervals by name; the last in groups only, as they belong there."""
    await router.post(_alert("Dark"), _alert("Dim"), _alert("Still"), _alert("Loud", "night"))
    name = await _silence(router, "Still")
    status = {alert["labels"]["alertname"]: alert["status"] for alert in await _get(router, "/alerts")}
    nobody: dict[str, Any] = {"state": "active", "silencedBy": [], "inhibitedBy": [], "mutedBy": []}
    assert status == {
        "Dark": nobody,
        "Dim": nobody | {"state": "suppressed", "inhibitedBy": [fingerprint(_alert("Dark")["labels"])]},
        "Still": nobody | {"state": "suppressed", "silencedBy": [name]},
        "Loud": nobody,
    }
    (night,) = [group for group in await _get(router, "/alerts/groups") if group["labels"] == {"service": "night"}]
    assert night["alerts"][0]["status"] == nobody | {"state": "suppressed", "mutedBy": ["always"]}
    shown = await _get(router, "/alerts/groups?muted=false")
    assert [group["labels"] for group in shown] == [{"service": "shop"}]


async def test_alerts_are_sorted_by_fingerprint_and_long_lists_are_whole(router: Served) -> None:
    """Also where they are sent in pieces, and where alerts have come and gone."""
    alerts = [_alert("Many", number=str(number)) for number in range(2 * AT_ONCE + 1)]
    for start in range(0, len(alerts), 1000):
        await router.post(*alerts[start : start + 1000])
    found = await _get(router, "/alerts")
    names = [alert["fingerprint"] for alert in found]
    assert names == sorted(fingerprint(alert["labels"]) for alert in alerts)
    (last,) = await _get(router, f"/alerts?filter=number%3D{2 * AT_ONCE}")
    assert last["labels"] == alerts[-1]["labels"]
    assert await _get(router, "/alerts?filter=number%3Dnone") == []
    (group,) = await _get(router, "/alerts/groups")
    assert len(group["alerts"]) == len(alerts)


async def test_what_was_posted_is_shown_as_json_whatever_it_holds(router: Served) -> None:
    """Quotes, line ends, characters of every script, and what Go writes as an escape."""
    labels = {"alertname": 'a"\\\n', "é": "<&>\u2028", "empty": ""}
    body = json.dumps([{"labels": labels, "annotations": {"x": "\U0001f514", "y": ""}}], separators=(",", ":"))
    body = body.replace("<", "\\u003c").replace("&", "\\u0026")
    answer = await router.client.post("/api/v2/alerts", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200
    (found,) = await _get(router, "/alerts")
    assert found["labels"] == {name: value for name, value in labels.items() if value}
    assert found["annotations"] == {"x": "\U0001f514", "y": ""}


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/alerts?filter={a=b}", "unexpected open or close brace: {a=b}"),
        ("/alerts/groups?receiver=(", 'failed to parse receiver param: "(" is not a regular expression'),
        ("/alerts?receiver_matchers=team", "failed to parse receiver_matchers param: "),
        ("/receivers?receiver_matchers={team}", "failed to parse receiver_matchers param: unexpected open or close"),
    ],
)
async def test_a_parameter_that_cannot_be_read_is_answered_with_a_bare_string(
    router: Served, path: str, answer: str
) -> None:
    """As Alertmanager's handlers answer."""
    response = await router.client.get(f"/api/v2{path}")
    assert response.status_code == 400
    assert response.json().startswith(answer)


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        ("[", 400, 400),
        ("", 422, 602),
        ("[{}]", 422, 602),
        ('[{"labels": {"a": 1}}]', 400, 400),
        ('[{"labels": {"a": "b"}, "startsAt": "now"}]', 400, 400),
        ('[{"labels": {"a": "b"}, "generatorURL": "there"}]', 422, 601),
    ],
)
async def test_requests_that_cannot_be_decoded_name_a_code(
    router: Served, content: str, status: int, code: int
) -> None:
    """Broken JSON and times are 400, missing and ill-formed members 422."""
    headers = {"Content-Type": "application/json"}
    answer = await router.client.post("/api/v2/alerts", content=content.encode(), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_unknown_paths_and_wrong_methods_are_answered_as_alertmanager_does(router: Served) -> None:
    """As JSON below the API, as text elsewhere."""
    unknown = await router.client.get("/api/v2/bells")
    assert (unknown.status_code, unknown.json()) == (404, {"code": 404, "message": "path /api/v2/bells was not found"})
    method = await router.client.delete("/api/v2/alerts")
    assert (method.status_code, method.json()["code"]) == (405, 405)
    assert method.json()["message"].startswith("method DELETE is not allowed, but [")
    assert {"GET", "POST"} <= set(method.headers["allow"].replace(" ", "").split(","))
    elsewhere = await router.client.get("/bells")
    assert (elsewhere.status_code, elsewhere.text) == (404, "404 page not found\n")


@pytest.mark.parametrize("path", ["status", "receivers", "alerts", "silences", "silence/1"])
async def test_the_first_version_of_the_api_is_gone(router: Served, path: str) -> None:
    """Who asks for it learns where to ask; our own paths there are others."""
    answer = await router.client.get(f"/api/v1/{path}")
    assert (answer.status_code, answer.json()["status"]) == (410, "deprecated")
    assert "/api/v2" in answer.json()["error"]


async def test_answers_are_not_kept_and_not_for_other_origins(router: Served) -> None:
    """Alertmanager lets every page read them; who wants that has a proxy for it."""
    for path in ("alerts", "alerts/groups", "receivers", "status"):
        answer = await router.client.get(f"/api/v2/{path}", headers={"Origin": "https://elsewhere.example"})
        assert (answer.headers["cache-control"], answer.headers["vary"]) == ("no-store", "Origin")
        assert "access-control-allow-origin" not in answer.headers


async def test_status_says_what_runs_and_holds_no_secret(router: Served) -> None:
    """Clients read versionInfo, cluster and config."""
    answer = await router.client.get("/api/v2/status")
    status = answer.json()
    assert status["cluster"]["status"] == "disabled"
    assert status["versionInfo"]["branch"] == "tocsin"
    assert "receiver: all" in status["config"]["original"]
    assert "hidden" not in answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert await _get(router, "/receivers") == [
        {"name": "all", "labels": {"name": "all"}},
        {"name": "page", "labels": {"name": "page", "owner": "ops"}},
        {"name": "web", "labels": {"name": "web"}},
    ]
    assert [item["name"] for item in await _get(router, "/receivers?receiver_matchers=owner!%3Dops")] == ["all", "web"]


async def test_the_operators_endpoints_answer(router: Served) -> None:
    """Health, readiness, and metrics with every counter at zero from the start."""
    for path in ("/-/healthy", "/-/ready"):
        assert (await router.client.get(path)).text == "OK"
    page = (await router.client.get("/metrics")).text
    for line in (
        'alertmanager_notifications_total{integration="slack"} 0.0',
        'alertmanager_notifications_failed_total{integration="pagerduty",reason="rateLimited"} 0.0',
        'alertmanager_alerts_received_total{status="firing",version="v2"} 0.0',
        'alertmanager_alerts{state="suppressed"} 0.0',
        'alertmanager_notifications_suppressed_total{reason="inhibition"} 0.0',
        'alertmanager_notification_latency_seconds_bucket{integration="sns",le="5.0"} 0.0',
        'alertmanager_silences{state="active"} 0.0',
        "alertmanager_receivers 3.0",
        "alertmanager_integrations 1.0",
        "alertmanager_inhibition_rules 1.0",
        "alertmanager_config_last_reload_successful 1.0",
        "alertmanager_cluster_enabled 0.0",
        "tocsin_alerting_leader 1.0",
        "tocsin_alerting_outbox_pending 0.0",
        'tocsin_alerting_notification_latency_seconds_count{integration="webhook"} 0.0',
    ):
        assert line in page.splitlines()


async def test_metrics_count_what_comes_in(router: Served) -> None:
    """Firing, resolved and invalid alerts, and the state of those that fire."""
    await router.post(_PAGE, {"labels": {}}, _PLAIN | {"endsAt": "2020-01-01T00:00:00Z"}, _alert("Still"))
    await _silence(router, "Still")
    page = (await router.client.get("/metrics")).text.splitlines()
    assert 'alertmanager_alerts_received_total{status="firing",version="v2"} 3.0' in page
    assert 'alertmanager_alerts_received_total{status="resolved",version="v2"} 1.0' in page
    assert 'alertmanager_alerts_invalid_total{version="v2"} 1.0' in page
    assert 'alertmanager_alerts{state="active"} 1.0' in page
    assert 'alertmanager_alerts{state="suppressed"} 1.0' in page
    assert 'alertmanager_silences{state="active"} 1.0' in page
    name = 'handler="/api/v2/alerts",method="post"'
    assert f'alertmanager_http_request_duration_seconds_count{{code="200",{name}}} 0.0' not in page
    assert any(line.startswith("alertmanager_http_response_size_bytes_count") and name in line for line in page)


async def test_features_add_labels_to_metrics(database_url: str) -> None:
    """As in Alertmanager: the receiver to what is counted of notifications, the group key to the alerts."""
    names = ("receiver-name-in-metrics", "group-key-in-metrics", "alert-names-in-metrics")
    options = Options(features=frozenset(names), per_alertname_limit=1)
    async with serving(_CONFIG, database_url=database_url, options=options) as router:
        await router.post(_alert("A", "shop"), _alert("A", "blog"))
        page = (await router.client.get("/metrics")).text.splitlines()
        shop = r'group_key="{}:{service=\"shop\"}"'
        assert f'alertmanager_alerts{{{shop},state="active"}} 1.0' in page
        assert 'alertmanager_notifications_total{integration="webhook",receiver_name="all"} 0.0' in page
        assert not any(line.startswith('alertmanager_notifications_total{integration="slack"') for line in page)
        assert "alertmanager_alerts_per_alert_limit 1.0" in page
        assert 'alertmanager_alerts_limited_total{alertname="A"} 1.0' in page


async def test_a_foreign_page_cannot_post_alerts(router: Served) -> None:
    """A browser names the page a request comes from."""
    answer = await router.client.post("/api/v2/alerts", json=[_PLAIN], headers={"Origin": "https://evil.example"})
    assert answer.status_code == 403
    assert await _get(router, "/alerts") == []


async def test_notifications_are_listed_newest_first(database_url: str) -> None:
    """With what became of them, in the words people were sent."""
    printed: list[str] = []
    text = """
route: {receiver: screen, group_wait: 0s, group_by: [alertname]}
receivers: [{name: screen, console_configs: [{}]}]
"""
    async with serving(text, database_url=database_url, terminal=printed.append) as router:
        await router.post(_PLAIN)
        await eventually(lambda: len(printed) == 1)
        await router.post(_PAGE)

        async def both_delivered() -> bool:
            return [item["state"] for item in await router.notifications()] == ["delivered", "delivered"]

        await eventually(both_delivered)
        newest, first = await router.notifications()
        assert newest["title"] == "ALERT page shop A: team=web"
        assert {name: first[name] for name in first if name not in {"id", "at", "text"}} == {
            "receiver": "screen",
            "integration": "console",
            "status": "firing",
            "reason": "first notification",
            "state": "delivered",
            "attempts": 1,
            "error": None,
            "title": "ALERT blog B: s",
            "group_labels": {"alertname": "B"},
            "alerts": 1,
        }
        one = await router.client.get("/api/v1/notifications?limit=1")
        assert [item["id"] for item in one.json()] == [newest["id"]]
        bad = await router.client.get("/api/v1/notifications?limit=x")
        assert (bad.status_code, bad.json()) == (400, "limit must be a number from 1 to 500")
