from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tocsin_alerting.testing import Served, serving
from tocsin_service.testing import eventually

_CONFIG = """
route:
  receiver: all
  group_by: [service]
  routes: [{matchers: ['severity="page"'], receiver: page, continue: true}, {matchers: ['team="web"'], receiver: web}]
receivers: [{name: all, webhook_configs: [{url: "http://127.0.0.1:1/hidden"}]}, {name: page}, {name: web}]
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


async def _get(router: Served, path: str) -> list[dict[str, object]]:
    answer = await router.client.get(f"/api/v2{path}")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, object]] = answer.json()
    return found


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
        ("?active=false", ""),
        ("?active=true&silenced=false&inhibited=false&unprocessed=false", "AB"),
    ],
)
async def test_queries_filter_alerts(router: Served, query: str, names: str) -> None:
    """By matchers, by receiver and by state."""
    await router.post(_PAGE, _PLAIN)
    found = await _get(router, f"/alerts{query}")
    assert sorted(str(item["labels"]["alertname"]) for item in found) == list(names)  # type: ignore[index]  # JSON


async def test_groups_list_one_entry_per_route_and_labels(router: Served) -> None:
    """An alert that goes to two receivers stands in two groups."""
    await router.post(_PAGE, _PLAIN)
    found = await _get(router, "/alerts/groups")
    assert [(item["labels"], item["receiver"]) for item in found] == [
        ({"service": "blog"}, {"name": "all"}),
        ({"service": "shop"}, {"name": "page"}),
        ({"service": "shop"}, {"name": "web"}),
    ]
    (alert,) = found[1]["alerts"]  # type: ignore[misc]  # JSON
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
    ("path", "answer"),
    [
        ("/alerts?filter={a=b}", "unexpected open or close brace: {a=b}"),
        ("/alerts?filter=a=b,c=d", "expected 1 matcher, found 2: a=b,c=d"),
        ("/alerts/groups?receiver=(", '"(" is not a regular expression (RE2): missing ): ('),
        ("/alerts?receiver_matchers=a=b", "receiver_matchers is not supported yet; use receiver=REGEX"),
    ],
)
async def test_a_filter_that_cannot_be_read_is_a_bare_string(router: Served, path: str, answer: str) -> None:
    """As Alertmanager's handlers answer."""
    response = await router.client.get(f"/api/v2{path}")
    assert (response.status_code, response.json()) == (400, answer)


async def test_requests_that_cannot_be_decoded_name_a_code(router: Served) -> None:
    """Wrong type of content, broken JSON, missing members, unknown paths and methods."""
    post = router.client.post
    plain = await post("/api/v2/alerts", content=b"[]", headers={"Content-Type": "text/plain"})
    assert (plain.status_code, plain.json()["code"]) == (415, 415)
    charset = await post("/api/v2/alerts", content=b"[]", headers={"Content-Type": "application/json; charset=utf-8"})
    assert charset.status_code == 200
    broken = await post("/api/v2/alerts", content=b"[", headers={"Content-Type": "application/json"})
    assert (broken.status_code, broken.json()["code"]) == (400, 400)
    missing = await post("/api/v2/alerts", json=[{}])
    assert (missing.status_code, missing.json()["code"]) == (422, 602)
    unknown = await router.client.get("/api/v2/silences")
    assert (unknown.status_code, unknown.json()["code"]) == (404, 404)
    method = await router.client.delete("/api/v2/alerts")
    assert (method.status_code, method.json()["code"]) == (405, 405)
    assert "GET" in method.headers["allow"]


async def test_status_says_what_runs_and_holds_no_secret(router: Served) -> None:
    """Clients read versionInfo, cluster and config."""
    answer = await router.client.get("/api/v2/status")
    status = answer.json()
    assert status["cluster"]["status"] == "disabled"
    assert status["versionInfo"]["branch"] == "tocsin"
    assert "receiver: all" in status["config"]["original"]
    assert "hidden" not in answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert await _get(router, "/receivers") == [{"name": "all"}, {"name": "page"}, {"name": "web"}]


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
        "tocsin_alerting_outbox_pending 0.0",
        'tocsin_alerting_notification_latency_seconds_count{integration="webhook"} 0.0',
    ):
        assert line in page.splitlines()


async def test_metrics_count_what_comes_in(router: Served) -> None:
    """Firing, resolved and invalid alerts."""
    await router.post(_PAGE, {"labels": {}}, _PLAIN | {"endsAt": "2020-01-01T00:00:00Z"})
    page = (await router.client.get("/metrics")).text.splitlines()
    assert 'alertmanager_alerts_received_total{status="firing",version="v2"} 2.0' in page
    assert 'alertmanager_alerts_received_total{status="resolved",version="v2"} 1.0' in page
    assert 'alertmanager_alerts_invalid_total{version="v2"} 1.0' in page
    assert 'alertmanager_alerts{state="active"} 1.0' in page
    assert "alertmanager_dispatcher_aggregation_groups 2.0" in page


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
