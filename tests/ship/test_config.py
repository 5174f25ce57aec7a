"""The configuration: what may be left out, and every mistake with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from tocsin_service.settings import Document, SettingsError
from tocsin_ship import config
from tocsin_ship.config import Elasticsearch, LogstashTcp, Store

INPUTS = "inputs:\n  - path: logs/*.json.log\n"


def load(text: str) -> config.Config:
    return config.load(Document.parse(text, file="ship.yml", folder=Path("/etc/tocsin")))


def problems(text: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(text)
    return [str(problem) for problem in caught.value.problems]


def test_all_settings() -> None:
    """Paths are taken from the folder of the file; names are the kinds unless given."""
    found = load(
        INPUTS
        + """
    service: shop
    format: json
outputs:
  - {kind: logstash_tcp, host: "127.0.0.1:50000"}
  - {kind: elasticsearch, url: "https://es:9200/", username: elastic, password_file: pw}
  - {kind: elasticsearch, name: second, url: "http://es/prefix", index: logs-shop-prod, api_key: k}
  - {kind: store, retention: 12h, max_bytes: 500000000}
"""
    )
    (files,) = found.inputs
    assert (files.path, files.service) == (Path("/etc/tocsin/logs/*.json.log"), "shop")
    tcp, first, second, store = found.outputs
    assert isinstance(tcp, LogstashTcp)
    assert (tcp.name, str(tcp.host)) == ("logstash_tcp", "127.0.0.1:50000")
    assert isinstance(first, Elasticsearch)
    assert (first.url, first.index, first.password_file) == (
        "https://es:9200",
        "logs-tocsin-default",
        Path("/etc/tocsin/pw"),
    )
    assert isinstance(second, Elasticsearch)
    assert (second.name, second.url, second.index) == ("second", "http://es/prefix", "logs-shop-prod")
    assert isinstance(store, Store)
    assert (store.retention, store.max_bytes) == (43_200.0, 500_000_000)


def test_the_store_keeps_three_days_by_default() -> None:
    """Without a limit on its size."""
    (store,) = load(INPUTS + "outputs: [{kind: store}]\n").outputs
    assert isinstance(store, Store)
    assert (store.retention, store.max_bytes) == (3 * 86_400.0, None)


def test_a_part_of_a_larger_file() -> None:
    """The shipper's section of tocsin.yml."""
    document = Document.parse("ship:\n  inputs: [{path: a}]\n  outputs: [{kind: store}]\n", folder=Path("/x"))
    assert config.load(document, "ship").inputs[0].path == Path("/x/a")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("outputs: [{kind: store}]\n", '"inputs" is missing'),
        (INPUTS, '"outputs" is missing'),
        (INPUTS + "outputs: []\n", "ship.yml:3:1: outputs is empty"),
        (INPUTS + "outputs: [{kind: kafka}]\n", "ship.yml:3:11: "),
        (INPUTS + "outputs: [{kind: store, retention: 3}]\n", "has no unit"),
        (INPUTS + "outputs: [{kind: store, retention: 0s}]\n", "nothing would be kept"),
        (INPUTS + "outputs: [{kind: store, days: 3}]\n", 'unknown key "days"'),
        (INPUTS + "outputs: [{kind: store}, {kind: store, name: b}]\n", "there is a store already"),
        (INPUTS + "outputs: [{kind: store, name: ../x}]\n", "cannot be a name"),
        (INPUTS + "outputs: [{kind: logstash_tcp}]\n", '"host" is missing'),
        (INPUTS + "outputs: [{kind: logstash_tcp, host: logstash}]\n", "is not an address"),
        (INPUTS + 'outputs: [{kind: logstash_tcp, host: ":5000"}]\n', "names no server"),
        (INPUTS + "outputs: [{kind: elasticsearch, url: es}]\n", "this is not a server's address"),
        (INPUTS + 'outputs: [{kind: elasticsearch, url: "http://e:x"}]\n', "this is not a server's address"),
        (INPUTS + 'outputs: [{kind: elasticsearch, url: "http://e", index: Logs}]\n', "cannot be the name"),
        (INPUTS + 'outputs: [{kind: elasticsearch, url: "http://e", username: u}]\n', "username has no password"),
        (INPUTS + 'outputs: [{kind: elasticsearch, url: "http://e", password: u}]\n', "has no user name"),
        (
            INPUTS + 'outputs: [{kind: elasticsearch, url: "http://e", api_key: a, api_key_file: b}]\n',
            "api_key and api_key_file are both given",
        ),
        (
            INPUTS + 'outputs: [{kind: elasticsearch, url: "http://e", api_key: a, username: b}]\n',
            "an API key and a user name are both given",
        ),
    ],
)
def test_mistakes_are_named(text: str, expected: str) -> None:
    """With file, line and column, and what to do."""
    (problem,) = problems(text)
    assert expected in problem
    assert problem.startswith("ship.yml:")


def test_two_outputs_of_a_kind_need_names() -> None:
    """The name is the label of metrics and the file of positions."""
    text = INPUTS + 'outputs:\n  - {kind: logstash_tcp, host: "a:1"}\n  - {kind: logstash_tcp, host: "b:1"}\n'
    assert problems(text) == ['ship.yml:5:5: two outputs are called "logstash_tcp"; fix: give one of them a name']


def test_credentials_in_the_address_are_refused_and_not_shown() -> None:
    """Addresses end up in logs and pages."""
    (problem,) = problems(INPUTS + 'outputs: [{kind: elasticsearch, url: "http://u:hunter2@e:9200"}]\n')
    assert "holds credentials" in problem
    assert "hunter2" not in problem
