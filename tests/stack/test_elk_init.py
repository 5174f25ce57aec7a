"""A new Elasticsearch gets its users, with as few rights as they need."""

from __future__ import annotations

import asyncio
import base64

import pytest
from starlette.responses import JSONResponse, Response

from tocsin_service.testing import Received, sink
from tocsin_stack import elk_init

SECRETS = {
    "ELASTIC_PASSWORD": "e-secret",
    "KIBANA_PASSWORD": "k-secret",
    "WRITER_PASSWORD": "w-secret",
    "READER_PASSWORD": "r-secret",
}


async def apply(url: str) -> None:
    await asyncio.to_thread(elk_init.apply, {**SECRETS, "ELASTICSEARCH_URL": url})


async def test_kibana_writer_and_reader_are_set_up() -> None:
    """As `elastic`, in an order in which roles come before their users; the writer cannot read or delete."""
    async with sink(lambda _: JSONResponse({})) as server:
        await apply(server.url)
    assert [(each.method, each.path) for each in server.received] == [
        ("POST", "/_security/user/kibana_system/_password"),
        ("PUT", "/_security/role/tocsin_writer"),
        ("PUT", "/_security/role/tocsin_reader"),
        ("PUT", "/_security/user/tocsin_writer"),
        ("PUT", "/_security/user/tocsin_reader"),
    ]
    elastic = base64.b64encode(b"elastic:e-secret").decode()
    assert {each.headers["authorization"] for each in server.received} == {f"Basic {elastic}"}
    kibana, writer_role, reader_role, writer, reader = (each.json() for each in server.received)
    assert kibana == {"password": "k-secret"}
    (indices,) = writer_role["indices"]
    assert indices == {"names": ["logs-*-*"], "privileges": ["auto_configure", "create_doc"]}
    assert reader_role == {"indices": [{"names": ["logs-*-*"], "privileges": ["read", "view_index_metadata"]}]}
    assert (writer, reader) == (
        {"password": "w-secret", "roles": ["tocsin_writer"]},
        {"password": "r-secret", "roles": ["tocsin_reader"]},
    )


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "refuses ELASTIC_PASSWORD; it keeps the one of its first start"), (500, "was answered 500")],
)
async def test_a_refusal_says_what_to_do_and_no_password(status: int, words: str) -> None:
    """The first refusal ends it; what Elasticsearch echoes is not shown."""

    def refuse(received: Received) -> Response:
        return Response(received.body, status_code=status)

    async with sink(refuse) as server:
        with pytest.raises(elk_init.InitError, match=words) as caught:
            await apply(server.url)
    assert len(server.received) == 1
    assert "secret" not in str(caught.value)


def test_a_missing_variable_is_named() -> None:
    """Before anything is asked of Elasticsearch."""
    with pytest.raises(elk_init.InitError, match=r"ELASTICSEARCH_URL, READER_PASSWORD not set; write it into"):
        elk_init.apply({**SECRETS, "READER_PASSWORD": ""})
