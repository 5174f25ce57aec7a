"""What we send is what Alertmanager sends: captured.json is what version 0.33.1 sent for the settings of cases.yml."""

from __future__ import annotations

import contextlib
import datetime
import json
import runpy
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tocsin_alerting.model import Alert, Notification, Reason, fingerprint
from tocsin_alerting.receivers import KINDS, aws, pushover, sigv4
from tocsin_alerting.receivers.clients import Clients
from tocsin_alerting.receivers.sending import Sending
from tocsin_alerting.receivers.shared import GlobalSettings
from tocsin_alerting.templates import Templates
from tocsin_service.http import RequestError

FOLDER = Path(__file__).parent
CAPTURE = runpy.run_path(str(FOLDER / "capture.py"))
CAPTURED = json.loads((FOLDER / "captured.json").read_text())
TEMPLATES = Templates()
CASES = {case["name"]: case for case in CAPTURE["cases"]()}
RECEIVERS = [name for name, case in CASES.items() if case["kind"]]
STANDARD = CAPTURED["phases"]["firing"]["plain"][0]["json"]

# Where we do better on purpose. The first three: Alertmanager gives up there, after its search, as a text is no ADF.
GIVES_UP = {"jira-cloud", "jira-dc3", "jira-auto3"}
FAILS = {"jira-missing-transition"}
OWN_WORDS = {"telegram-long": "The message has more than the 4096 characters that Telegram takes."}


@pytest.fixture
async def clients() -> AsyncIterator[Clients]:
    result = Clients(user_agent="tocsin/test", environ={})
    yield result
    await result.close()


def notification(case: str, phase: str) -> Notification:
    """Return the message that Alertmanager had to send, rebuilt from what its webhook said of it."""
    data = CAPTURED["phases"][phase]["plain"][0]["json"]
    alerts = [
        Alert(
            labels=alert["labels"],
            annotations=alert["annotations"],
            starts_at=_seconds(alert["startsAt"]),
            ends_at=_seconds(alert["endsAt"]) if phase == "resolved" else 4e9,
            updated_at=_seconds(alert["startsAt"]),
            fingerprint=fingerprint(alert["labels"]),
            generator_url=alert["generatorURL"],
        )
        for alert in data["alerts"]
    ]
    return Notification(
        key="k",
        group_key=data["groupKey"],
        group_labels=data["groupLabels"],
        receiver=case,
        integration=CASES[case]["kind"],
        reason=Reason(data["notification_reason"]),
        now=alerts[0].starts_at + 60,
        alerts=tuple(alerts),
        external_url=data["externalURL"],
    )


def _seconds(text: str) -> float:
    return datetime.datetime.fromisoformat(text).timestamp()


async def sent(case: str, clients: Clients) -> dict[str, list[dict[str, Any]]]:
    """Send both messages of a case to a recorder, as Alertmanager did, and return what arrived in each phase."""
    kind = KINDS[CASES[case]["kind"]]
    async with CAPTURE["recorder"](list(CASES.values())) as sink:
        raw = CAPTURE["expanded"](CASES[case]["settings"], sink.url)
        settings = kind.settings.model_validate(raw).inherit(GlobalSettings())
        sending = Sending(http=clients, templates=TEMPLATES)
        more: dict[str, Any] = {}
        if kind.send is pushover.send:
            more["api"] = f"{sink.url}/1/messages.json"
        if kind.settings is KINDS["sns"].settings:
            more["environ"] = {"AWS_ENDPOINT_URL_STS": f"{sink.url}/sts"}
        result = {}
        for phase in ("firing", "resolved"):
            sink.requests = {}
            if phase == "firing" or settings.send_resolved:
                with contextlib.suppress(RequestError) if case in FAILS else contextlib.nullcontext():
                    await kind.send(notification(case, phase), settings, sending, **more)
            own = sink.requests.pop("1" if kind.send is pushover.send else case, [])
            result[phase] = own
            result[f"{phase} elsewhere"] = [request for requests in sink.requests.values() for request in requests]
    return result


def comparable(request: dict[str, Any]) -> dict[str, Any]:
    """Return a request without what differs by nature: signatures, times, and the order of headers."""
    kept = {"authorization", "content-type", "x-auth-token", "x-user-id"}
    headers = {name: text for name, text in request["headers"].items() if name in kept}
    if "form" in request:
        del headers["authorization"]
    body = request.get("form") or request.get("json") or request.get("text")
    if isinstance(body, dict):
        body = {name: value for name, value in body.items() if name != "routeLabels"}  # since Alertmanager 0.34
    return {**{name: request[name] for name in ("method", "path", "query")}, "headers": headers, "body": body}


@pytest.mark.parametrize("case", [name for name in RECEIVERS if name not in GIVES_UP])
async def test_our_requests_equal_those_of_alertmanager(case: str, clients: Clients) -> None:
    """Method, path, query, headers that matter and body are equal, when alerts fire and when they are resolved."""
    ours = await sent(case, clients)
    for phase in ("firing", "resolved"):
        expected = [comparable(request) for request in CAPTURED["phases"][phase].get(case, [])]
        found = [comparable(request) for request in ours[phase]]
        if case == "sns-fifo":  # SNS drops what has an id it has seen: ours is the message's, theirs the group's
            assert [request["body"].pop("MessageDeduplicationId") for request in found] == ["k"]
            del expected[0]["body"]["MessageDeduplicationId"]
        if case in OWN_WORDS:
            assert OWN_WORDS[case] in found[0]["body"].pop("text")
            expected[0]["body"].pop("text")
        assert found == expected


@pytest.mark.parametrize("case", sorted(GIVES_UP))
async def test_a_text_is_made_a_document_for_jiras_version_3(case: str, clients: Clients) -> None:
    """The search is the same; where Alertmanager then finds the description to be no JSON, we wrap it."""
    ours = await sent(case, clients)
    assert [comparable(each) for each in ours["firing"][:1]] == [
        comparable(each) for each in CAPTURED["phases"]["firing"][case]
    ]
    assert ours["firing"][1]["json"]["fields"]["description"]["type"] == "doc"


async def test_a_role_is_assumed_as_alertmanager_does(clients: Clients) -> None:
    """STS is asked once for keys of the role; we also say the external id, which 0.33.1 keeps to itself."""
    ours = await sent("sns-role", clients)
    (request,) = ours["firing elsewhere"]
    expected = CAPTURED["phases"]["firing"]["sts"][0]["form"]
    assert request["form"].pop("ExternalId") == "ext"
    assert {**request["form"], "RoleSessionName": ""} == {**expected, "RoleSessionName": ""}
    assert ours["resolved elsewhere"] == []
    assert ours["firing"][0]["headers"]["x-amz-security-token"] == "passing/token=="


@pytest.mark.parametrize(
    ("case", "request_"),
    [
        (case, request)
        for requests in CAPTURED["phases"].values()
        for case, found in requests.items()
        for request in found
        if request.get("raw") and "<" not in request["raw"]
    ],
)
def test_our_signature_is_that_of_the_aws_sdk(case: str, request_: dict[str, Any]) -> None:
    """For the same request, keys and second the `Authorization` is equal, byte for byte."""
    captured = request_["headers"]
    role = "x-amz-security-token" in captured
    keys = sigv4.Keys("ASIAPASSING", "passing-secret", "passing/token==") if role else ROOT
    signed = captured["authorization"].split("SignedHeaders=")[1].split(",")[0].split(";")
    extra = {name: captured[name] for name in signed if name not in {"host", "x-amz-date", "x-amz-security-token"}}
    stamp = datetime.datetime.strptime(captured["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.UTC)
    headers = sigv4.sign(
        "POST",
        f"http://{captured['host']}{request_['path']}",
        extra,
        request_["raw"].encode(),
        keys=keys,
        region="us-east-2",
        service=captured["authorization"].split("/")[3],
        now=stamp.timestamp(),
    )
    assert headers["Authorization"] == captured["authorization"]


ROOT = aws.own_keys(
    aws.SigV4Settings.model_validate({"access_key": "AKIDEXAMPLE", "secret_key": "aws-secret-aws-secret"}), {}
)


def test_the_group_is_known_by_the_hash_that_alertmanager_uses() -> None:
    """Issues, alerts and entities opened by Alertmanager are found and closed by us."""
    alias = CAPTURED["phases"]["firing"]["opsgenie"][0]["json"]["alias"]
    assert notification("opsgenie", "firing").group_hash == alias
    assert STANDARD["groupKey"] == '{}/{}:{alertname="Disk <full>"}'
