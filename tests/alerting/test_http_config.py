from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import h2.config
import h2.connection
import h2.events
import httpx
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import JSONResponse, Response

from tocsin_alerting.receivers import tls, ways
from tocsin_alerting.receivers.clients import Clients
from tocsin_alerting.receivers.http_config import HttpConfig, ProxyOptions, TlsConfig
from tocsin_alerting.receivers.proxies import proxy_for, wanted
from tocsin_service.http import Failure, RequestError
from tocsin_service.settings import Document, SettingsError
from tocsin_service.testing import Received, Sink, sink

_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

# --- reading ----------------------------------------------------------------------------------------------------


def _config(text: str, folder: Path = Path()) -> HttpConfig:
    return Document.parse(text, folder=folder).read(HttpConfig)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{basic_auth: {}, authorization: {credentials: x}}", "basic_auth and authorization stand side by side"),
        (
            "{bearer_token: x, oauth2: {client_id: a, token_url: http://t/}}",
            "oauth2 and bearer_token stand side by side",
        ),
        ("{basic_auth: {username: a, username_file: b}}", "username and username_file stand side by side"),
        ("{basic_auth: {password: a, password_file: b}}", "password and password_file stand side by side"),
        ("{authorization: {credentials: a, credentials_file: b}}", "credentials and credentials_file stand side"),
        ("{authorization: {type: Basic, credentials: a}}", "basic is not a type of authorization"),
        ("{oauth2: {client_id: a}}", '"token_url" is missing'),
        ("{oauth2: {token_url: http://t/}}", '"client_id" is missing'),
        ("{oauth2: {client_id: a, token_url: t, client_secret: b}}", "this is not a URL"),
        (
            "{oauth2: {client_id: a, token_url: http://t/, client_secret: b, client_secret_file: c}}",
            "client_secret and client_secret_file stand side by side",
        ),
        ("{tls_config: {ca: a, ca_file: b}}", "ca and ca_file stand side by side"),
        ("{tls_config: {cert: a}}", "a client certificate stands alone; expected key or key_file"),
        ("{tls_config: {key_file: a}}", "a client key stands alone; expected cert or cert_file"),
        ("{tls_config: {min_version: TLS14}}", "TLS13"),
        ("{tls_config: {min_version: TLS13, max_version: TLS12}}", "min_version is above max_version"),
        ("{proxy_url: 'ftp://a'}", "this is not the URL of a proxy"),
        ("{no_proxy: a}", "no_proxy stands without proxy_url"),
        ("{proxy_from_environment: true, proxy_url: 'http://p:1'}", "proxy_from_environment stands beside proxy_url"),
        ("{proxy_connect_header: {X: [a]}}", "proxy_connect_header stands without a proxy"),
        ("{http_headers: {AUTHORIZATION: {values: [a]}}}", "the header AUTHORIZATION cannot be set"),
        ("{tls_conf: {}}", 'unknown key "tls_conf"'),
        ("{tls_config: {verify: no}}", 'unknown key "verify"'),
    ],
)
def test_what_cannot_be_meant_is_refused_when_the_file_is_read(text: str, problem: str) -> None:
    """As Alertmanager refuses it: a value and its file, two ways to authenticate, half a certificate, unknown keys."""
    with pytest.raises(SettingsError) as caught:
        _config(text)
    assert problem in str(caught.value)


def test_defaults_are_alertmanagers_and_empty_texts_say_nothing() -> None:
    """Charts fill in `""` where nothing is set."""
    found = _config('{proxy_url: "", basic_auth: {username: a, username_file: "", password: b}, bearer_token: ""}')
    assert (found.follow_redirects, found.enable_http2, found.proxy_from_environment) == (True, True, False)
    assert found.basic_auth is not None
    assert (found.basic_auth.username, found.basic_auth.username_file) == ("a", None)


def test_files_are_looked_for_beside_the_configuration(tmp_path: Path) -> None:
    """All that stand inside http_config and tls_config."""
    found = _config("{authorization: {credentials_file: key}, tls_config: {ca_file: ca.pem}}", tmp_path)
    assert found.authorization is not None
    assert found.authorization.credentials_file == tmp_path / "key"
    assert found.tls_config.ca_file == tmp_path / "ca.pem"


# --- who we say we are ------------------------------------------------------------------------------------------


@pytest.fixture
async def clients() -> AsyncIterator[Clients]:
    found = Clients(user_agent="tocsin/test", environ={})
    yield found
    await found.close()


async def _post(clients: Clients, url: str, config: HttpConfig | None = None, **members: Any) -> httpx.Response:
    given = {"content": b"{}", "headers": {"Content-Type": "application/json"}, "timeout": 10.0, **members}
    return await clients.request("POST", url, config=config, **given)


async def test_a_request_says_who_sends_it_and_nothing_else(clients: Clients) -> None:
    """Without http_config no credentials are made up, and answers are asked for as they are."""
    async with sink() as got:
        await _post(clients, f"{got.url}/a")
        (request,) = await got.take(1)
    assert request.headers["user-agent"] == "tocsin/test"
    assert request.headers["accept-encoding"] == "identity"
    assert "authorization" not in request.headers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{basic_auth: {username: me, password: 'pä:ss'}}", f"Basic {base64.b64encode('me:pä:ss'.encode()).decode()}"),
        ("{basic_auth: {username_file: user, password_file: key}}", "Basic " + base64.b64encode(b"me:hidden").decode()),
        ("{authorization: {credentials: abc}}", "Bearer abc"),
        ("{authorization: {type: GenieKey, credentials_file: key}}", "GenieKey hidden"),
        ("{bearer_token: abc}", "Bearer abc"),
        ("{bearer_token_file: key}", "Bearer hidden"),
    ],
)
async def test_each_way_to_authenticate_makes_its_header(
    clients: Clients, tmp_path: Path, text: str, expected: str
) -> None:
    """From values and from files."""
    (tmp_path / "user").write_text("me\n")
    (tmp_path / "key").write_text("hidden\n")
    async with sink() as got:
        await _post(clients, got.url, _config(text, tmp_path))
        (request,) = await got.take(1)
    assert request.headers["authorization"] == expected


async def test_credentials_are_read_at_each_request(clients: Clients, tmp_path: Path) -> None:
    """So that they can be rotated; while the file is away the message waits."""
    config = _config("{authorization: {credentials_file: key}}", tmp_path)
    async with sink() as got:
        with pytest.raises(RequestError, match="cannot read the secret file") as caught:
            await _post(clients, got.url, config)
        assert not caught.value.permanent
        for key in ("one", "two"):
            (tmp_path / "key").write_text(key)
            await _post(clients, got.url, config)
        assert [each.headers["authorization"] for each in await got.take(2)] == ["Bearer one", "Bearer two"]


async def test_a_receivers_own_key_goes_before_that_of_http_config(clients: Clients) -> None:
    """Opsgenie's, or a Slack app's token."""
    async with sink() as got:
        config = _config("{authorization: {credentials: other}}")
        await _post(clients, got.url, config, headers={"Authorization": "GenieKey mine"})
        (request,) = await got.take(1)
    assert request.headers["authorization"] == "GenieKey mine"


async def test_http_headers_are_added_from_values_secrets_and_files(clients: Clients, tmp_path: Path) -> None:
    """One line each; the files are read now."""
    (tmp_path / "key").write_text("three\n")
    heads: list[str] = []

    async def answer(head: str, body: bytes) -> bytes:
        heads.append(head)
        return _OK

    async with _server(answer) as url:
        config = _config("{http_headers: {X-Key: {values: [one], secrets: [two], files: [key]}}}", tmp_path)
        await _post(clients, url, config)
    assert re.findall(r"(?m)^X-Key: (.*?)\r?$", heads[0]) == ["one", "two", "three"]


async def test_a_secret_with_a_line_break_is_not_sent_and_not_shown(clients: Clients) -> None:
    """The HTTP library's own error would quote it."""
    config = _config('{authorization: {credentials: "hidden\\nkey"}}')
    async with sink() as got:
        with pytest.raises(RequestError, match="Authorization cannot be sent: its value has a line break") as caught:
            await _post(clients, got.url, config)
        assert not got.received
    assert "hidden" not in str(caught.value)


async def test_a_receiver_that_quotes_our_credentials_does_not_spread_them(clients: Clients, tmp_path: Path) -> None:
    """Errors are logged, stored and shown."""
    echo = sink(lambda got: Response(json.dumps(dict(got.headers)), status_code=400))
    texts = [
        "{authorization: {credentials: hidden}}",
        "{basic_auth: {username: me, password: hidden}}",
        "{http_headers: {A: {secrets: [hidden], values: [open]}}}",
    ]
    async with echo as got:
        for text in texts:
            with pytest.raises(RequestError, match="answered 400") as caught:
                await _post(clients, got.url, _config(text), headers={})
            assert "hidden" not in str(caught.value)
            assert base64.b64encode(b"me:hidden").decode() not in str(caught.value)


# --- OAuth2 -----------------------------------------------------------------------------------------------------


@dataclass
class _Grants:
    """A server with a token endpoint and something behind it that takes the last token only."""

    style: str = "header"
    expires_in: float | None = 3600
    asked: list[dict[str, list[str]]] = field(default_factory=list)
    valid: str = ""

    def __call__(self, got: Received) -> Response:
        if got.path == "/token":
            return self.token(got)
        good = got.headers.get("authorization") == f"Bearer {self.valid}"
        return Response("ok") if good else Response("who?", status_code=401)

    def token(self, got: Received) -> Response:
        form = parse_qs(got.body.decode())
        basic = "Basic " + base64.b64encode(b"me:hidden%2B1").decode()
        in_header, in_body = got.headers.get("authorization") == basic, form.get("client_secret") == ["hidden+1"]
        known = {"header": in_header, "body": in_body, "never": False}[self.style]
        if not known:
            return JSONResponse({"error": "invalid_client", "error_description": "hidden+1"}, status_code=401)
        self.asked.append(form)
        self.valid = f"token-{len(self.asked)}"
        answer: dict[str, object] = {"access_token": self.valid, "token_type": "bearer"}
        return JSONResponse(answer | ({} if self.expires_in is None else {"expires_in": self.expires_in}))


def _oauth(got: Sink) -> HttpConfig:
    return _config(
        f"""
        oauth2:
          client_id: me
          client_secret: hidden+1
          scopes: [alerts, more]
          token_url: {got.url}/token
          endpoint_params: {{audience: ops}}
        """
    )


@pytest.mark.parametrize("style", ["header", "body"])
async def test_a_token_is_fetched_once_and_kept(clients: Clients, style: str) -> None:
    """Whether the server wants the client's secret in a header or in the form."""
    grants = _Grants(style)
    async with sink(grants) as got:
        config = _oauth(got)
        await asyncio.gather(*(_post(clients, f"{got.url}/hook", config) for _ in range(3)))
        await _post(clients, f"{got.url}/hook", config)
        hooks = [each for each in got.received if each.path == "/hook"]
    assert {each.headers["authorization"] for each in hooks} == {"Bearer token-1"}
    (form,) = grants.asked
    assert (form["grant_type"], form["scope"], form["audience"]) == (["client_credentials"], ["alerts more"], ["ops"])


async def test_a_token_is_fetched_anew_shortly_before_its_end() -> None:
    """Ten seconds early, so that it does not end on its way; one without an end is kept."""
    now = 1000.0
    found = Clients(user_agent="t", environ={}, monotonic=lambda: now)
    grants = _Grants(expires_in=60)
    async with sink(grants) as got:
        config = _oauth(got)
        for now, count in ((1000.0, 1), (1049.0, 1), (1050.0, 2)):  # noqa: B007 - the clock reads it
            await _post(found, f"{got.url}/hook", config)
            assert len(grants.asked) == count
        grants.expires_in = None
        for now, count in ((1200.0, 3), (9e9, 3)):  # noqa: B007 - likewise
            await _post(found, f"{got.url}/hook", config)
            assert len(grants.asked) == count
    await found.close()


async def test_a_token_that_is_not_taken_any_more_is_replaced_at_once(clients: Clients) -> None:
    """Withdrawn before its time: the message goes out with a fresh one, in the same attempt, once."""
    grants = _Grants()
    async with sink(grants) as got:
        config = _oauth(got)
        await _post(clients, f"{got.url}/hook", config)
        grants.valid = "none"
        await _post(clients, f"{got.url}/hook", config)
        assert len(grants.asked) == 2


async def test_without_a_token_the_message_waits_and_nothing_is_shown(clients: Clients) -> None:
    """The server's reason is; what it quotes is not."""
    async with sink(_Grants("never")) as got:
        with pytest.raises(RequestError, match=r"no OAuth2 token: .* answered 401: invalid_client") as caught:
            await _post(clients, f"{got.url}/hook", _oauth(got))
        assert not [each for each in got.received if each.path == "/hook"]
    assert (caught.value.permanent, caught.value.reason) == (False, Failure.AUTH_ERROR)
    assert "hidden" not in str(caught.value)


# --- redirects --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "method", "body"),
    [(301, "POST", b"{}"), (302, "GET", b""), (303, "GET", b""), (307, "POST", b"{}"), (308, "POST", b"{}")],
)
async def test_redirects_are_followed(clients: Clients, status: int, method: str, body: bytes) -> None:
    """302 and 303 ask for a look elsewhere; after the others the message itself goes on."""

    def answer(got: Received) -> Response:
        return Response("ok") if got.path == "/there" else Response(status_code=status, headers={"Location": "/there"})

    async with sink(answer) as got:
        await _post(clients, f"{got.url}/here", _config("{authorization: {credentials: abc}}"))
        _, there = await got.take(2)
    assert (there.method, there.body, there.headers["authorization"]) == (method, body, "Bearer abc")


async def test_another_server_gets_no_credentials_by_a_redirect(clients: Clients) -> None:
    """Neither Authorization nor headers that are ours; what it answers is not quoted."""
    config = _config("{basic_auth: {username: me, password: hidden}, http_headers: {X-Key: {secrets: [hidden]}}}")
    async with sink(lambda _: Response("secret page", status_code=404)) as other:
        async with sink(lambda _: Response(status_code=307, headers={"Location": f"{other.url}/there"})) as got:
            with pytest.raises(RequestError, match=r"answered 404$"):
                await _post(clients, got.url, config, headers={"X-Auth-Token": "hidden", "Content-Type": "text/plain"})
        (there,) = await other.take(1)
    assert "hidden" not in str(there.headers)
    assert "authorization" not in there.headers
    assert (there.body, there.headers["content-type"]) == (b"{}", "text/plain")


async def test_redirects_that_are_not_wanted_are_failures(clients: Clients) -> None:
    """A webhook that has moved is not a webhook that has taken the message."""
    async with sink(lambda _: Response(status_code=302, headers={"Location": "/"})) as got:
        with pytest.raises(RequestError, match="answered 302") as caught:
            await _post(clients, got.url, _config("{follow_redirects: false}"))
        assert (len(got.received), caught.value.permanent) == (1, True)
        with pytest.raises(RequestError, match="redirects without end"):
            await _post(clients, got.url)
        assert len(got.received) == 12


# --- TLS --------------------------------------------------------------------------------------------------------


_Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@contextlib.asynccontextmanager
async def _listening(handle: _Handle, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve connections on a free port of loopback, which is given, and let go of all of them at the end."""
    running: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            await handle(reader, writer)
            writer.close()
            await writer.wait_closed()
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, asyncio.CancelledError):
            pass  # whoever called has gone, or the test has ended
        finally:
            running.discard(task)
            writer.transport.abort()  # a client that keeps its connection would be waited for

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        ending = list(running)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)


@contextlib.asynccontextmanager
async def _server(
    answer: Callable[[str, bytes], Coroutine[Any, Any, bytes]], context: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """Run a bare HTTP/1.1 server: `answer` gets head and body of each request and returns the whole answer."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = re.search(r"(?i)content-length: (\d+)", head)
            body = await reader.readexactly(int(length[1]) if length else 0)
            writer.write(await answer(head, body))
            await writer.drain()

    async with _listening(handle, context) as port:
        yield f"{'https' if context else 'http'}://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def _served_by(authority: trustme.CA, *names: str, client: trustme.CA | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names or ("127.0.0.1",)).configure_cert(context)
    if client is not None:
        client.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


async def _ok(head: str, body: bytes) -> bytes:
    return _OK


async def test_a_server_is_trusted_by_the_authority_that_is_named(clients: Clients, authority: trustme.CA) -> None:
    """Inline; without it, nobody knows the server."""
    pem = authority.cert_pem.bytes().decode()
    async with _server(_ok, _served_by(authority)) as url:
        assert (await _post(clients, url, HttpConfig(tls_config=TlsConfig(ca=pem)))).text == "ok"
        with pytest.raises(RequestError, match="certificate verify failed") as caught:
            await _post(clients, url)
        assert (caught.value.permanent, caught.value.reason) == (False, Failure.OTHER)
        assert (await _post(clients, url, _config("{tls_config: {insecure_skip_verify: true}}"))).text == "ok"


async def test_a_new_authority_is_picked_up_without_a_reload(
    clients: Clients, authority: trustme.CA, tmp_path: Path
) -> None:
    """ca_file is read at each request; connections made with the old one are not used for the new."""
    config = _config("{tls_config: {ca_file: ca.pem}}", tmp_path)
    async with _server(_ok, _served_by(authority)) as url:
        with pytest.raises(RequestError, match=r"cannot read .*ca\.pem of tls_config"):
            await _post(clients, url, config)
        trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
        with pytest.raises(RequestError, match="certificate verify failed"):
            await _post(clients, url, config)
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        assert (await _post(clients, url, config)).text == "ok"
        trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
        with pytest.raises(RequestError, match="certificate verify failed"):
            await _post(clients, url, config)


async def test_server_name_is_the_name_on_the_certificate(clients: Clients, authority: trustme.CA) -> None:
    """And the one that is asked for, whatever address is called; through a tunnel as well."""
    pem = authority.cert_pem.bytes().decode()
    context = _served_by(authority, "alerts.example")
    asked: list[str | None] = []
    context.sni_callback = lambda _, name, __: asked.append(name)
    named = TlsConfig(ca=pem, server_name="alerts.example")
    async with _server(_ok, context) as url, _proxy() as proxy:
        with pytest.raises(RequestError, match="certificate is not valid for"):
            await _post(clients, url, HttpConfig(tls_config=TlsConfig(ca=pem)))
        await _post(clients, url, HttpConfig(tls_config=named))
        await _post(clients, url, HttpConfig.model_validate({"tls_config": named, "proxy_url": proxy.url}))
    assert asked[-2:] == ["alerts.example"] * 2


@pytest.mark.parametrize("where", ["files", "inline"])
async def test_a_client_certificate_is_shown_and_rotated(
    clients: Clients, authority: trustme.CA, tmp_path: Path, where: str
) -> None:
    """From files and inline."""
    ours = trustme.CA()

    def config() -> HttpConfig:
        pair = ours.issue_cert("router.example")
        members: dict[str, Any] = {"ca": authority.cert_pem.bytes().decode()}
        if where == "files":
            pair.private_key_pem.write_to_path(tmp_path / "key")
            pair.cert_chain_pems[0].write_to_path(tmp_path / "cert")
            members |= {"key_file": tmp_path / "key", "cert_file": tmp_path / "cert"}
        else:
            members |= {"key": pair.private_key_pem.bytes().decode(), "cert": pair.cert_chain_pems[0].bytes().decode()}
        return HttpConfig.model_validate({"tls_config": members})

    context = _served_by(authority, client=ours)
    async with _server(_ok, context) as url:
        only_trusting = TlsConfig(ca=authority.cert_pem.bytes().decode())
        with pytest.raises(RequestError):
            await _post(clients, url, HttpConfig(tls_config=only_trusting))
        for _ in range(2):
            assert (await _post(clients, url, config())).text == "ok"


async def test_tls_versions_are_bounded(clients: Clients, authority: trustme.CA) -> None:
    """A server that has only older ones is not spoken to."""
    context = _served_by(authority)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    pem = authority.cert_pem.bytes().decode()
    async with _server(_ok, context) as url:
        with pytest.raises(RequestError):  # what it says depends on who hangs up first
            await _post(clients, url, HttpConfig(tls_config=TlsConfig(ca=pem, min_version="TLS13")))
        for only in (TlsConfig(ca=pem, max_version="TLS12"), TlsConfig(ca=pem, min_version="TLS10")):
            assert (await _post(clients, url, HttpConfig(tls_config=only))).text == "ok"


@pytest.mark.parametrize(
    "members",
    [{"ca": "rubbish"}, {"ca": "ünïcode"}, {"cert": "rubbish", "key": "hidden"}],
)
async def test_material_that_is_none_is_named_and_not_quoted(clients: Clients, members: dict[str, Any]) -> None:
    """It may be repaired while the message waits."""
    with pytest.raises(RequestError, match="tls_config cannot be used") as caught:
        await _post(clients, "https://127.0.0.1:1", HttpConfig.model_validate({"tls_config": members}))
    assert not caught.value.permanent
    assert "hidden" not in str(caught.value)


def test_secret_material_is_not_printed() -> None:
    """A traceback, a log, an assertion: none shows a key."""
    material = tls.material(TlsConfig.model_validate({"cert": "c", "key": "hidden"}))
    assert "hidden" not in repr(material)


async def test_a_redirect_out_of_tls_is_refused(clients: Clients, authority: trustme.CA) -> None:
    """The message would go in the clear."""

    async def out(head: str, body: bytes) -> bytes:
        return b"HTTP/1.1 307 Go\r\nLocation: http://127.0.0.1:1/there\r\nContent-Length: 0\r\n\r\n"

    async with _server(out, _served_by(authority)) as url:
        with pytest.raises(RequestError, match="redirects from https to http"):
            await _post(clients, url, _config("{tls_config: {insecure_skip_verify: true}}"))


# --- HTTP/2 -----------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _http2(authority: trustme.CA) -> AsyncIterator[tuple[str, list[str]]]:
    """Run a server that speaks HTTP/2, or 1.1 with who does not; gives its URL and what was spoken."""
    spoken: list[str] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        protocol = writer.get_extra_info("ssl_object").selected_alpn_protocol()
        spoken.append(protocol)
        if protocol != "h2":
            await reader.readuntil(b"\r\n\r\n")
            writer.write(_OK)
            return
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()
        while data := await reader.read(65536):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.StreamEnded):
                    connection.send_headers(event.stream_id, [(":status", "200")])
                    connection.send_data(event.stream_id, b"ok", end_stream=True)
            writer.write(connection.data_to_send())

    context = _served_by(authority)
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with _listening(handle, context) as port:
        yield f"https://127.0.0.1:{port}", spoken


async def test_http2_is_spoken_where_both_can(clients: Clients, authority: trustme.CA) -> None:
    """Unless `enable_http2` is false."""
    trusting = TlsConfig(ca=authority.cert_pem.bytes().decode())
    async with _http2(authority) as (url, spoken):
        for enabled in (True, False):
            answer = await _post(clients, url, HttpConfig(tls_config=trusting, enable_http2=enabled))
            assert answer.text == "ok"
    assert spoken == ["h2", "http/1.1"]


# --- proxies ----------------------------------------------------------------------------------------------------


@dataclass
class _Proxy:
    url: str = ""
    heads: list[str] = field(default_factory=list)


@contextlib.asynccontextmanager
async def _proxy() -> AsyncIterator[_Proxy]:
    """Run a forward proxy: tunnels by CONNECT, whole requests by absolute URIs; it notes the heads it sees."""
    found = _Proxy()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        found.heads.append(head)
        method, target, _ = head.split(" ", 2)
        parts = urlsplit(target if method != "CONNECT" else f"//{target}")
        far_reader, far_writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Go\r\n\r\n")
            else:
                far_writer.write(head.replace(target, parts.path or "/", 1).encode())
            await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
        finally:
            far_writer.close()

    async with _listening(handle) as port:
        found.url = f"http://127.0.0.1:{port}"
        yield found


async def test_requests_go_through_the_proxy_that_is_named(clients: Clients, authority: trustme.CA) -> None:
    """Those in the clear whole, those over TLS through a tunnel; the proxy's password goes to the proxy."""
    async with _proxy() as proxy, sink() as got, _server(_ok, _served_by(authority)) as secure:
        config = HttpConfig.model_validate(
            {
                "proxy_url": proxy.url.replace("//", "//me:hidden@"),
                "proxy_connect_header": {"X-Tunnel": ["a", "b"]},
                "tls_config": {"ca": authority.cert_pem.bytes().decode()},
            }
        )
        await _post(clients, f"{got.url}/plain", config)
        (plain,) = await got.take(1)
        await _post(clients, f"{secure}/secret-path", config)
    forwarded, tunnel = proxy.heads
    assert forwarded.startswith(f"POST {got.url}/plain HTTP/1.1")
    assert tunnel.startswith(f"CONNECT {secure.removeprefix('https://')} HTTP/1.1")
    login = "Proxy-Authorization: Basic " + base64.b64encode(b"me:hidden").decode()
    assert login in forwarded
    assert login in tunnel
    assert re.findall(r"X-Tunnel: (\w)", tunnel) == ["a", "b"]
    assert "X-Tunnel" not in forwarded  # it would have gone on to the receiver
    assert "secret-path" not in tunnel
    assert plain.path == "/plain"


async def test_the_environments_proxy_is_used_where_the_configuration_says_so() -> None:
    """Not otherwise; and never for this machine's loopback, as Go's clients have it."""
    async with _proxy() as proxy, sink() as got:
        found = Clients(user_agent="t", environ={"HTTP_PROXY": proxy.url.removeprefix("http://")})
        await _post(found, got.url)
        await _post(found, got.url, _config("{proxy_from_environment: true}"))
        await got.take(2)
        assert not proxy.heads
        await found.close()
    options = ProxyOptions(proxy_from_environment=True)
    environ = {"HTTP_PROXY": "proxy:1", "https_proxy": "https://proxy:2", "NO_PROXY": "in.example"}
    assert proxy_for("http://a.example/", options, environ) == "http://proxy:1"
    assert proxy_for("https://a.example/", options, environ) == "https://proxy:2"
    assert proxy_for("https://x.in.example/", options, environ) is None
    assert proxy_for("http://a.example/", options, {**environ, "REQUEST_METHOD": "GET"}) is None


async def test_a_proxy_that_is_away_or_says_no_is_named_without_its_password(clients: Clients) -> None:
    """The message waits."""

    async def no(head: str, body: bytes) -> bytes:
        return b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n"

    async with _server(no) as url:
        proxy = url.replace("//", "//me:hidden@")
        with pytest.raises(RequestError, match="407") as caught:
            await _post(clients, "https://alerts.example/", HttpConfig.model_validate({"proxy_url": proxy}))
    assert not caught.value.permanent
    assert "hidden" not in str(caught.value)
    with pytest.raises(RequestError) as caught:
        await _post(clients, "https://alerts.example/", HttpConfig.model_validate({"proxy_url": proxy}))
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("no_proxy", "url", "expected"),
    [
        ("", "http://a.example/", True),
        ("", "http://localhost:9/", False),
        ("", "http://127.9.9.9/", False),
        ("", "http://[::1]/", False),
        ("*", "http://a.example/", False),
        ("a.example", "http://a.example/", False),
        ("a.example", "http://x.a.example/", False),
        ("a.example", "http://xa.example/", True),
        (".a.example", "http://x.a.example/", False),
        (".a.example", "http://a.example/", True),
        ("*.a.example", "http://x.a.example/", False),
        ("*.a.example", "http://a.example/", True),
        ("A.Example", "http://a.EXAMPLE./", False),
        ("a.example:80", "http://a.example/", False),
        ("a.example:443", "https://a.example/", False),
        ("a.example:8080", "http://a.example/", True),
        ("10.0.0.0/8", "http://10.1.2.3/", False),
        ("10.0.0.0/8", "http://11.1.2.3/", True),
        ("10.0.0.0/8", "http://a.example/", True),
        ("fd00::/8", "http://[fd00::1]/", False),
        ("[fd00::1]:80", "http://[fd00::1]/", False),
        ("fd00::1", "http://[fd00::1]:9/", False),
        ("10.1.2.3", "http://10.1.2.3:9/", False),
        ("rubbish/x", "http://10.1.2.3/", True),
        ("b.example, a.example", "http://a.example/", False),
    ],
)
def test_no_proxy_is_read_as_go_reads_it(no_proxy: str, url: str, expected: bool) -> None:
    """Names with what is below them, addresses, networks, ports; loopback is always called directly."""
    assert wanted(url, no_proxy) is expected


def test_a_proxy_url_alone_takes_loopback_too() -> None:
    """With `no_proxy` beside it, it does not: so has Go it."""
    alone = ProxyOptions.model_validate({"proxy_url": "http://proxy:1"})
    beside = ProxyOptions.model_validate({"proxy_url": "http://proxy:1", "no_proxy": "x.example"})
    assert proxy_for("http://127.0.0.1/", alone, {}) == "http://proxy:1"
    assert proxy_for("http://127.0.0.1/", beside, {}) is None


@given(st.text(), st.text(alphabet="abc.:/[]*0123456789", max_size=20))
def test_no_proxy_never_fails(no_proxy: str, entry: str) -> None:
    """Whatever people write into it."""
    wanted("http://a.example/", f"{no_proxy},{entry}")


# --- time and measure -------------------------------------------------------------------------------------------


async def test_the_time_of_an_attempt_is_bounded_as_a_whole(clients: Clients) -> None:
    """A receiver that drips a byte now and then holds nothing up."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for char in "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n" + "x" * 99:
            writer.write(char.encode())
            await writer.drain()
            await asyncio.sleep(0.02)

    async with _listening(drip) as port:
        url = f"http://127.0.0.1:{port}/hidden"
        with pytest.raises(RequestError, match="did not answer in time") as caught:
            await _post(clients, url, timeout=0.3)
    assert (caught.value.reason, caught.value.permanent) == (Failure.TIMEOUT, False)
    assert "hidden" not in str(caught.value)


async def test_receivers_that_hang_do_not_hold_up_others(clients: Clients) -> None:
    """More of them than any pool has connections."""
    hanging = asyncio.Event()

    async def hang(head: str, body: bytes) -> bytes:
        await hanging.wait()
        return _OK

    async with _server(hang) as slow, sink() as got:
        waiting = [asyncio.create_task(_post(clients, slow, timeout=60)) for _ in range(150)]
        await asyncio.sleep(0)
        assert (await _post(clients, got.url, timeout=30)).text == "ok"
        hanging.set()
        await asyncio.gather(*waiting)


async def test_only_the_beginning_of_an_endless_answer_is_read(clients: Clients) -> None:
    """A receiver cannot fill our memory."""
    async with sink(lambda _: Response(b"x" * (ways.BODY_LIMIT + 5000))) as got:
        assert len((await _post(clients, got.url)).content) == ways.BODY_LIMIT


async def test_clients_are_kept_while_they_are_used_and_not_for_ever(authority: trustme.CA) -> None:
    """Each rotated certificate makes a new one."""
    found = ways.Ways(user_agent="t")
    async with sink() as got:
        for number in range(ways.KEPT + 3):
            way = ways.Way(None, False, None, (("X-Number", str(number)),))
            await found.call(way, "GET", got.url, headers=[], content=None)
        assert len(found._open) == ways.KEPT
    await found.close()
    assert not found._open


async def test_cookies_are_not_kept(clients: Clients) -> None:
    """One receiver's sessions are nothing to the next message."""
    async with sink(lambda _: Response("ok", headers={"Set-Cookie": "a=b"})) as got:
        for _ in range(2):
            await _post(clients, got.url)
        assert all("cookie" not in each.headers for each in await got.take(2))


@pytest.mark.parametrize(
    ("status", "headers", "retry", "expected"),
    [
        (400, {}, set(), (Failure.CLIENT_ERROR, True, None)),
        (401, {}, set(), (Failure.AUTH_ERROR, True, None)),
        (403, {}, {403}, (Failure.AUTH_ERROR, False, None)),
        (403, {"Retry-After": "3"}, {403}, (Failure.AUTH_ERROR, False, 3.0)),
        (404, {"Retry-After": "3"}, set(), (Failure.CLIENT_ERROR, True, None)),
        (429, {}, set(), (Failure.RATE_LIMITED, True, None)),
        (429, {}, {429}, (Failure.RATE_LIMITED, False, None)),
        (429, {"Retry-After": "3"}, set(), (Failure.RATE_LIMITED, False, 3.0)),
        (503, {"Retry-After": "3"}, set(), (Failure.SERVER_ERROR, False, 3.0)),
    ],
)
async def test_what_is_tried_again(
    clients: Clients,
    status: int,
    headers: dict[str, str],
    retry: set[int],
    expected: tuple[Failure, bool, float | None],
) -> None:
    """5xx always; 429 where the receiver says when, or its kind lists it; other 4xx where the kind lists them."""
    async with sink(lambda _: Response("no", status_code=status, headers=headers)) as got:
        with pytest.raises(RequestError, match=f"answered {status}: no") as caught:
            await _post(clients, got.url, retry=frozenset(retry))
    found = caught.value
    assert (found.reason, found.permanent, found.retry_after) == expected


@pytest.mark.parametrize("url", ["ftp://a.example/", "http://[", "nothing"])
async def test_what_is_no_url_is_final(clients: Clients, url: str) -> None:
    """A url_file may hold anything."""
    with pytest.raises(RequestError, match="is not a URL that can be called") as caught:
        await _post(clients, url)
    assert caught.value.permanent
