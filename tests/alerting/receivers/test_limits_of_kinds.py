"""Limits that Alertmanager handles worse, or in words of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
from starlette.responses import Response

from tocsin_alerting.receivers import incidentio, telegram, webex
from tocsin_alerting.receivers.clients import Clients
from tocsin_alerting.receivers.incidentio import IncidentIoSettings
from tocsin_alerting.receivers.sending import Sending
from tocsin_alerting.receivers.shared import GlobalSettings
from tocsin_alerting.receivers.telegram import TelegramSettings
from tocsin_alerting.receivers.webex import WebexSettings
from tocsin_alerting.templates import Templates
from tocsin_alerting.testing import alert, notification
from tocsin_service.http import RequestError
from tocsin_service.testing import sink


@pytest.fixture
async def clients() -> AsyncIterator[Clients]:
    result = Clients(user_agent="tocsin/test", environ={})
    yield result
    await result.close()


def test_webex_counts_bytes() -> None:
    """Two bytes a character; Alertmanager 0.33.1 ends with a panic here."""
    settings = WebexSettings.model_validate({"room_id": "r", "message": "é" * 4000})
    text = webex.payload(settings, lambda source: source)["markdown"]
    assert text == "é" * 3718 + "…"
    assert len(text.encode()) == 7439


def test_incidentio_gets_the_first_alert_where_all_are_too_much() -> None:
    """How many were left out is said."""
    alerts = [alert(instance=f"web{number}", description=f"{number}" * 200_000) for number in range(3)]
    settings = IncidentIoSettings.model_validate({"url": "http://x", "alert_source_token": "t"})
    body = incidentio.payload(notification(*alerts), settings)
    assert [each["labels"]["instance"] for each in body["alerts"]] == ["web0"]
    assert (body["truncatedAlerts"], body["version"], body["status"]) == (2, "1", "firing")
    assert len(incidentio.payload(notification(*alerts[:2]), settings)["alerts"]) == 2


def test_telegram_gets_a_notice_instead_of_torn_html() -> None:
    """It says what the message was about, and what to do."""
    settings = TelegramSettings.model_validate({"bot_token": "t", "chat_id": 1})
    message = notification(alert("Disk <full>"), alertname="Disk <full>")
    text = telegram.fitted(message, settings, "<b>" + "x" * 4096 + "</b>")
    assert "Disk &lt;full&gt;" in text
    assert "Shorten its template" in text
    assert telegram.fitted(message, settings, "x" * 4096) == "x" * 4096


async def test_a_chat_may_stand_in_a_file(tmp_path: Path, clients: Clients) -> None:
    """It is read for each message; what is no number is said with the name of the file."""
    file = tmp_path / "chat"
    async with sink(lambda _: Response('{"ok": true}')) as server:
        given = {"bot_token": "t", "chat_id_file": str(file), "api_url": server.url, "message": "m"}
        settings = TelegramSettings.model_validate(given).inherit(GlobalSettings())
        sending = Sending(http=clients, templates=Templates())
        for text in ("-100123\n", "5"):
            file.write_text(text)
            await telegram.send(notification(alert()), settings, sending)
        assert [orjson.loads(each.body)["chat_id"] for each in server.received] == ["-100123", "5"]
        file.write_text("@channel")
        with pytest.raises(RequestError, match="holds no chat_id"):
            await telegram.send(notification(alert()), settings, sending)
