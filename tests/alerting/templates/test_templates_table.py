"""What Alertmanager's amtool renders, we render, byte for byte."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tocsin_alerting.model import Alert, Notification, Reason
from tocsin_alerting.templates import Data, TemplateError, Templates, data
from tocsin_service.clock import parse_rfc3339
from tocsin_stack import debian

NOW = parse_rfc3339("2026-11-23T01:00:00Z")


def _golden() -> ModuleType:
    path = Path(__file__).with_name("regenerate.py")
    spec = importlib.util.spec_from_file_location("templates_golden", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


GOLDEN = _golden()
TABLE = GOLDEN.table()
TEMPLATES = Templates(clock=lambda: NOW)


def notification(message: dict[str, Any]) -> Notification:
    """Return the notification that Alertmanager would have made `message` of."""
    alerts = [
        Alert(
            labels=alert["labels"],
            annotations=alert["annotations"],
            starts_at=parse_rfc3339(alert["startsAt"]),
            ends_at=NOW + 300 if alert["status"] == "firing" else parse_rfc3339(alert["endsAt"]),
            updated_at=NOW,
            fingerprint=alert["fingerprint"],
            generator_url=alert["generatorURL"],
        )
        for alert in message["alerts"]
    ]
    return Notification(
        key="k",
        group_key="{}:{}",
        group_labels=message["groupLabels"],
        # The name is escaped again on its way into the data.
        receiver=message["receiver"].replace("\\", ""),
        integration="slack",
        reason=Reason(message["notification_reason"]),
        now=NOW,
        alerts=tuple(alerts),
        external_url=message["externalURL"],
    )


DATA: dict[str, Data] = {name: data(notification(message)) for name, message in GOLDEN.messages().items()}


@pytest.mark.parametrize("row", TABLE, ids=[f"{index}-{row.group}" for index, row in enumerate(TABLE)])
def test_renders_as_amtool_does(row: Any) -> None:
    """The output is the same to the byte, and what amtool refuses is a `TemplateError`."""
    render = TEMPLATES.html if row.html else TEMPLATES.text
    if row.output is None:
        with pytest.raises(TemplateError):
            render(row.source, DATA[row.data])
    else:
        assert render(row.source, DATA[row.data]) == row.output


def test_table_is_of_the_rows() -> None:
    """table.json was made of rows.yml as it is now."""
    assert [(row.source, row.data, row.html) for row in TABLE] == [
        (row.source, row.data, row.html) for row in GOLDEN.rows()
    ]


def test_an_amtool_at_hand_agrees_with_the_table(tmp_path: Path) -> None:
    """A part of the table, rendered now: rows of functions that this amtool does not know yet are left out."""
    program = debian.find("amtool") or debian.fetch("prometheus-alertmanager") / "amtool"
    assert program.exists(), "no amtool: install prometheus-alertmanager, or put amtool on PATH"
    folder = program.parent.parent / "share/prometheus/alertmanager"
    amtool = GOLDEN.Amtool(program, folder if folder.exists() else None, tmp_path)
    version = amtool.version()
    able = [row for row in TABLE if tuple(map(int, row.needs.split("."))) <= version]
    assert able
    for row in able[::5]:
        assert amtool.render(row) == row.output, row
