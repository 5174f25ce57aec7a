"""`python -m tocsin_stack.elk_init`: gives a new Elasticsearch the users of this stack. Doing it again changes nothing.

`kibana_system` gets its password, `tocsin_writer` may add to logs, `tocsin_reader` may read them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import httpx

VARIABLES: Final = ("ELASTICSEARCH_URL", "ELASTIC_PASSWORD", "KIBANA_PASSWORD", "WRITER_PASSWORD", "READER_PASSWORD")
LOGS: Final = "logs-*-*"


@dataclass(frozen=True, slots=True)
class Call:
    """One request to Elasticsearch's security API."""

    method: str
    path: str
    body: Mapping[str, object]


class InitError(Exception):
    """Elasticsearch could not be set up; the message says what to do, and holds no password."""


def calls(environ: Mapping[str, str]) -> list[Call]:
    """Return what is to be asked for, in order."""
    writer = {"names": [LOGS], "privileges": ["auto_configure", "create_doc"]}
    reader = {"names": [LOGS], "privileges": ["read", "view_index_metadata"]}
    return [
        Call("POST", "/_security/user/kibana_system/_password", {"password": environ["KIBANA_PASSWORD"]}),
        # Logstash asks for the licence before it writes: monitor.
        Call("PUT", "/_security/role/tocsin_writer", {"cluster": ["monitor"], "indices": [writer]}),
        Call("PUT", "/_security/role/tocsin_reader", {"indices": [reader]}),
        Call("PUT", "/_security/user/tocsin_writer", _user(environ["WRITER_PASSWORD"], "tocsin_writer")),
        Call("PUT", "/_security/user/tocsin_reader", _user(environ["READER_PASSWORD"], "tocsin_reader")),
    ]


def apply(environ: Mapping[str, str]) -> None:
    """Make all calls.

    Raises:
        InitError: a variable is missing, or Elasticsearch refused or did not answer.
    """
    if missing := [name for name in VARIABLES if not environ.get(name)]:
        raise InitError(f"{', '.join(missing)} not set; write it into compose/.env, see docs/compose.md")
    auth = httpx.BasicAuth("elastic", environ["ELASTIC_PASSWORD"])
    with httpx.Client(base_url=environ["ELASTICSEARCH_URL"], auth=auth, timeout=30.0) as client:
        for call in calls(environ):
            try:
                answer = client.request(call.method, call.path, json=dict(call.body))
            except httpx.HTTPError as error:
                raise InitError(f"elasticsearch does not answer: {error}") from error
            if answer.status_code == 401:
                raise InitError(
                    "elasticsearch refuses ELASTIC_PASSWORD; it keeps the one of its first start: "
                    "put that back into compose/.env"
                )
            if answer.is_error:
                raise InitError(f"{call.method} {call.path} was answered {answer.status_code}")


def _user(password: str, role: str) -> dict[str, object]:
    return {"password": password, "roles": [role]}


def main() -> int:
    """Set up the Elasticsearch that the environment names and return the exit code."""
    try:
        apply(os.environ)
    except InitError as error:
        sys.stderr.write(f"elk-init: {error}\n")
        return 1
    sys.stderr.write("elk-init: users are ready\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
