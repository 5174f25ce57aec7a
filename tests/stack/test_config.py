from pathlib import Path

import pytest

from tocsin_service import web
from tocsin_service.settings import Document, SettingsError
from tocsin_stack import config, quick

ALERTING = """
route: {receiver: team}
receivers: [{name: team, webhook_configs: [{url: "http://127.0.0.1:1/x"}]}]
"""


def load(text: str, folder: Path = Path()) -> config.StackConfig:
    return config.load(Document.parse(text, file="tocsin.yml", folder=folder, environ={}), environ={})


def refused(text: str, folder: Path = Path()) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(text, folder)
    return [str(problem) for problem in caught.value.problems]


def test_an_empty_file_is_a_configuration() -> None:
    """Every section has a default: nothing probed, alerts to the console."""
    stack = load("")
    assert stack.listen["console"] == config.Listen(web.Address("127.0.0.1", 9095))


def test_problems_of_all_sections_come_at_once() -> None:
    """One run shows the mistakes of every part, each at its line."""
    found = refused(
        """
uptime:
  endpoints:
    - {name: shop, url: "https://shop.example", intervall: 5s}
alerting:
  route: {receiver: nobody}
  receivers: []
ship:
  inputs: [{pth: x}]
prometheus:
  scrape_interval: 5
console:
  listen_address: here
  colour: red
extra: 1
"""
    )
    places = [problem.split(": ")[0] for problem in found]
    lines = {int(place.split(":")[1]) for place in places}
    assert {4, 6, 9, 11, 13, 14, 15} <= lines
    assert all(place.startswith("tocsin.yml:") for place in places)
    assert any('did you mean "interval"?' in problem for problem in found)


def test_a_section_may_live_in_its_own_file(tmp_path: Path) -> None:
    """An unmodified alertmanager.yml is named, and its problems carry its own name."""
    (tmp_path / "alertmanager.yml").write_text(ALERTING)
    stack = load("alerting: {config_file: alertmanager.yml, listen_address: '127.0.0.1:9999'}", tmp_path)
    assert stack.listen["alerting"] == config.Listen(web.Address("127.0.0.1", 9999), asked=True)
    assert tmp_path / "alertmanager.yml" in stack.files
    (tmp_path / "alertmanager.yml").write_text(ALERTING.replace("receiver: team", "receiver: taem"))
    assert refused("alerting: {config_file: alertmanager.yml}", tmp_path)[0].startswith(
        f"{tmp_path}/alertmanager.yml:2:"
    )


def test_the_routers_messages_are_ours_unless_its_file_is_alertmanagers(tmp_path: Path) -> None:
    """A section of tocsin.yml and the default are worded by us; `tocsin` beside config_file is our second file."""
    (tmp_path / "alertmanager.yml").write_text(ALERTING)
    assert load("").alerting.extras.messages == "tocsin"
    section = ALERTING.strip().replace("\n", "\n  ")
    assert load(f"alerting:\n  {section}").alerting.extras.messages == "tocsin"
    assert load("alerting: {config_file: alertmanager.yml}", tmp_path).alerting.extras.messages == "alertmanager"
    own = "alerting: {config_file: alertmanager.yml, tocsin: {resolve_muted: at_once}}"
    assert load(own, tmp_path).alerting.extras.resolve_muted == "at_once"
    assert refused(own.replace("at_once", "never"), tmp_path)[0].startswith("tocsin.yml:1:52: alerting.tocsin")


def test_a_section_in_two_places_is_refused(tmp_path: Path) -> None:
    """Keys beside config_file would be silently ignored otherwise."""
    (tmp_path / "alertmanager.yml").write_text(ALERTING)
    found = refused("alerting:\n  config_file: alertmanager.yml\n  route: {receiver: x}\n", tmp_path)
    assert found == [
        'tocsin.yml:3:3: "route" stands beside config_file; fix: move it into that file, or remove config_file'
    ]


def test_flags_make_the_same_configuration_as_a_file(tmp_path: Path) -> None:
    """`tocsin up --probe URL --slack-webhook-file F` needs no file."""
    secret = tmp_path / "slack"
    secret.write_text("https://hooks.slack.example/x")
    flags = quick.Flags(probe=("https://shop.example/",), slack_webhook_file=secret, scrape=("shop=127.0.0.1:8000",))
    document = Document(quick.document(flags), file="<flags>", folder=Path(), positions={})
    stack = config.load(document, environ={})
    assert [check.name for check in stack.uptime.checks] == ["shop.example"]


def test_a_probed_url_names_its_service() -> None:
    """Without the port and the brackets of IPv6."""
    flags = quick.Flags(probe=("http://[::1]:8000/x", "tcp://db.example:5432"))
    stack = config.load(Document(quick.document(flags), file="<flags>", folder=Path(), positions={}), environ={})
    assert [check.service for check in stack.uptime.checks] == ["::1", "db.example"]


def test_a_scrape_flag_without_a_service_says_what_to_write() -> None:
    """The message holds an example."""
    with pytest.raises(quick.FlagError, match="service=host:port"):
        quick.document(quick.Flags(scrape=("127.0.0.1:8000",)))


def test_the_demo_is_a_valid_configuration(tmp_path: Path) -> None:
    """What `--demo` makes passes the same checks as a person's file."""
    data = quick.demo(quick.Flags(), shop="http://127.0.0.1:8000", log_file=tmp_path / "shop.log")
    stack = config.load(Document(data, file="<demo>", folder=Path(), positions={}), environ={})
    assert len(stack.uptime.checks) == 4
