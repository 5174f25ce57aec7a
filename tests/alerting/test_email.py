from __future__ import annotations

import asyncio
import contextlib
import email
import ssl
import warnings
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from email.message import EmailMessage
from email.policy import SMTP as POLICY
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tocsin_alerting.receivers.clients import Clients
from tocsin_alerting.receivers.email import EmailSettings, canonical, message, send
from tocsin_alerting.receivers.sending import Missing, Sending
from tocsin_alerting.receivers.shared import GlobalSettings
from tocsin_alerting.templates import Templates
from tocsin_alerting.testing import NOW, alert, notification
from tocsin_service.http import Failure, RequestError
from tocsin_service.settings import Document, SettingsError

_DOWN = alert("Down", service="shop", severity="page", summary="it <is> down & öut")
_TOLD = replace(notification(_DOWN, service="shop", key="abc"), group_key='{}:{service="shop"}')


@pytest.fixture
async def sending() -> AsyncIterator[Sending]:
    clients = Clients(user_agent="tocsin/test", environ={})
    yield Sending(clients, Templates(), now=lambda: NOW + 60)
    await clients.close()


def _settings(text: str = "", **members: Any) -> EmailSettings:
    found = Document.parse(text or "{to: ops@x.example}").read(EmailSettings)
    shared = GlobalSettings.model_validate({"smtp_from": "router@x.example", "smtp_smarthost": "mail:25"} | members)
    return found.inherit(shared)


# --- the message ------------------------------------------------------------------------------------------------


def test_a_message_is_alertmanagers_html_under_its_subject(sending: Sending) -> None:
    """Sender, recipients, subject and date; the page is escaped, and everything is quoted-printable UTF-8."""
    mail = message(_TOLD, _settings(), sending)
    assert {name: str(value) for name, value in mail.items() if name not in {"Content-Type", "Message-Id"}} == {
        "Subject": "[FIRING:1] shop (Down page)",
        "To": "ops@x.example",
        "From": "router@x.example",
        "Date": "Sun, 23 Nov 2025 00:01:00 +0000",
        "MIME-Version": "1.0",
    }
    assert mail.get_content_type() == "multipart/alternative"
    (page,) = mail.iter_parts()
    assert (page.get_content_type(), page["Content-Transfer-Encoding"]) == ("text/html", "quoted-printable")
    assert page.get_content_charset() == "utf-8"
    assert "it &lt;is&gt; down &amp; öut" in page.get_content()


def test_text_comes_before_html_and_either_may_be_left_out(sending: Sending) -> None:
    """Mail programs show the last part that they can."""

    def parts(text: str) -> list[tuple[str, str]]:
        mail = message(_TOLD, _settings(text), sending)
        return [(part.get_content_subtype(), part.get_content().strip()) for part in mail.iter_parts()]

    both = '{to: a@x, text: "{{ .Status }} <>", html: "<b>{{ .CommonAnnotations.summary }}</b>"}'
    assert parts(both) == [("plain", "firing <>"), ("html", "<b>it &lt;is&gt; down &amp; öut</b>")]
    assert parts("{to: a@x, text: hello, html: ''}") == [("plain", "hello")]
    assert parts("{to: a@x, html: ''}") == [("plain", "")]


def test_the_same_message_has_the_same_id_however_often_it_is_sent(sending: Sending) -> None:
    """Made from the notification's key, under the sender's domain."""
    first, again = (message(_TOLD, _settings(), sending)["Message-Id"] for _ in range(2))
    other = message(replace(_TOLD, key="abd"), _settings(), sending)["Message-Id"]
    assert first == again != other
    assert str(first).endswith("@x.example>")


def test_headers_are_templates_and_replace_ours(sending: Sending) -> None:
    """Whatever the case they are written in; a value stays one line, so that no label can add a header."""
    told = replace(_TOLD, alerts=(alert("Down", summary="one\r\nBcc: evil@x.example\ntwo"),))
    text = """
    to: ops@x.example
    headers:
      subject: "{{ .CommonAnnotations.summary }}"
      x-TEAM: "{{ .Receiver }}"
      message-id: "<own@x>"
      Content-Type: text/x-other
    """
    mail = message(told, _settings(text), sending)
    assert (mail["Subject"], mail["X-Team"]) == ("one Bcc: evil@x.example two", "team")
    assert (mail["Message-Id"], mail.get_all("To")) == ("<own@x>", ["ops@x.example"])
    assert mail["Bcc"] is None
    assert mail.get_content_type() == "multipart/alternative"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("subject", "Subject"), ("REPLY-TO", "Reply-To"), ("x-my-id", "X-My-Id"), ("Message-ID", "Message-Id")],
)
def test_headers_have_the_names_go_gives_them(name: str, expected: str) -> None:
    """Each word begins with a capital."""
    assert canonical(name) == expected


def test_a_long_subject_in_any_script_arrives_whole(sending: Sending) -> None:
    """Folded and encoded on its way."""
    title = "Größe überschritten: " + "漢字 " * 60
    mail = message(_TOLD, _settings(f"{{to: a@x, headers: {{Subject: '{title}'}}}}"), sending)
    raw = mail.as_bytes()
    assert all(len(line) <= 998 for line in raw.splitlines())
    assert email.message_from_bytes(raw, policy=POLICY)["Subject"].strip() == title.strip()


@pytest.mark.parametrize(("by_date", "day"), [("daily", "2025-11-23"), ("none", "")])
def test_messages_about_a_group_form_a_thread(sending: Sending, by_date: str, day: str) -> None:
    """The thread Alertmanager has, so that it goes on after a migration: of a day, or of all time."""
    text = f"{{to: a@x, threading: {{enabled: true, thread_by_date: {by_date}}}}}"
    mail = message(_TOLD, _settings(text), sending)
    expected = f"<alert-{_TOLD.group_hash[:16]}-{day}@alertmanager>"
    assert (mail["References"], mail["In-Reply-To"]) == (expected, expected)
    assert message(_TOLD, _settings(), sending)["References"] is None


# --- settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{}", '"to" is missing'),
        ("{to: ''}", "to: found text"),
        ("{to: a@x, smarthost: mail}", "this is not an address"),
        ("{to: a@x, auth_password: a, auth_password_file: b}", "auth_password and auth_password_file"),
        ("{to: a@x, auth_secret: a, auth_secret_file: b}", "auth_secret and auth_secret_file"),
        ("{to: a@x, headers: {X-A: '1', x-a: '2'}}", "the header X-A stands here twice"),
        ("{to: a@x, headers: {'X A': '1'}}", '"X A" is not the name of a header'),
        ("{to: a@x, threading: {enabled: true}}", "thread_by_date is missing"),
        ("{to: a@x, threading: {enabled: true, thread_by_date: weekly}}", "daily"),
        (
            "{to: a@x, headers: {references: '<a@b>'}, threading: {enabled: true, thread_by_date: none}}",
            "threading sets the header References itself",
        ),
        ("{to: a@x, html: '{{ .Broken'}", "broken template"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(text: str, problem: str) -> None:
    """When the file is read."""
    with pytest.raises(SettingsError) as caught:
        Document.parse(text).read(EmailSettings)
    assert problem in str(caught.value)


def test_what_is_not_said_is_taken_from_global() -> None:
    """A password and its file together; own values go before."""
    shared = {
        "smtp_hello": "router.example",
        "smtp_auth_username": "me",
        "smtp_auth_password": "secret",
        "smtp_auth_identity": "id",
        "smtp_require_tls": False,
        "smtp_force_implicit_tls": True,
        "smtp_tls_config": {"server_name": "mail.example"},
    }
    found = _settings(
        "{to: a@x, from: b@x, smarthost: 'other:587', auth_password_file: own, require_tls: true}", **shared
    )
    assert (found.from_, found.smarthost, found.hello) == ("b@x", "other:587", "router.example")
    assert (found.auth_username, found.auth_identity) == ("me", "id")
    assert (found.auth_password, found.auth_password_file) == (None, Path("own"))
    assert (found.require_tls, found.force_implicit_tls) == (True, True)
    assert found.tls_config is not None
    assert found.tls_config.server_name == "mail.example"
    own = Document.parse("{to: a@x}").read(EmailSettings)
    for given, problem in (({}, "no server"), ({"smtp_smarthost": "m:25"}, "no sender")):
        with pytest.raises(Missing, match=problem):
            own.inherit(GlobalSettings.model_validate(given))


# --- the conversation -------------------------------------------------------------------------------------------


@dataclass
class _Mailbox:
    """What a mail server was handed, and how it is to behave."""

    address: str = ""
    taken: list[Envelope] = field(default_factory=list)
    logins: list[tuple[str, Any]] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)
    hello: list[str] = field(default_factory=list)
    refuse: dict[str, str] = field(default_factory=dict)

    async def handle_EHLO(  # noqa: N802 - aiosmtpd's names
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        self.hello.append(hostname)
        return responses

    async def handle_RCPT(  # noqa: N802 - likewise
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.refuse:
            return self.refuse[address]
        envelope.rcpt_tos.append(address)
        return "250 fine"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - likewise
        self.encrypted.append(session.ssl is not None)
        self.taken.append(envelope)
        return self.refuse.get("DATA", "250 fine")

    def mail(self, index: int = -1) -> EmailMessage:
        content = self.taken[index].content
        assert isinstance(content, bytes)
        found = email.message_from_bytes(content, policy=POLICY)
        assert isinstance(found, EmailMessage)
        return found

    def authenticate(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        login = data if isinstance(data, LoginPassword) else LoginPassword(b"", b"")
        self.logins.append((mechanism, (login.login.decode(), login.password.decode())))
        good = login.password == b"hidden"
        # Some servers repeat what they were told.
        said = "535 5.7.8 no: " + login.password.decode()
        return AuthResult(success=good, handled=False, message=None if good else said)


@contextlib.asynccontextmanager
async def _mail_server(
    mailbox: _Mailbox, *, implicit: ssl.SSLContext | None = None, server: type[SMTP] = SMTP, **options: Any
) -> AsyncIterator[_Mailbox]:
    loop = asyncio.get_running_loop()
    made: list[SMTP] = []

    def factory() -> SMTP:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of logins in the clear, which some tests are about
            one = server(mailbox, hostname="mail.example", loop=loop, **options)
        made.append(one)
        return one

    listening = await loop.create_server(factory, "127.0.0.1", 0, ssl=implicit)
    mailbox.address = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield mailbox
    finally:
        listening.close()
        for one in made:
            if one.transport is not None:
                one.transport.close()
        tasks = [one._handler_coroutine for one in made if one._handler_coroutine is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def _context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names or ("127.0.0.1",)).configure_cert(context)
    return context


def _to(mailbox: _Mailbox, text: str = "{to: ops@x.example}", **members: Any) -> EmailSettings:
    return _settings(text, **{"smtp_smarthost": mailbox.address, **members})


async def test_a_message_is_handed_to_every_recipient(sending: Sending) -> None:
    """The list is a template; names beside the addresses stay in the header."""
    text = """
    to: "{{ .CommonLabels.service }}@x.example, Ops <ops@x.example>"
    from: "Router <r@x.example>"
    hello: me.example
    """
    async with _mail_server(_Mailbox()) as mailbox:
        await send(_TOLD, _to(mailbox, text, smtp_require_tls=False), sending)
    (envelope,) = mailbox.taken
    assert (envelope.mail_from, envelope.rcpt_tos) == ("r@x.example", ["shop@x.example", "ops@x.example"])
    assert (mailbox.mail()["To"], mailbox.hello) == ("shop@x.example, Ops <ops@x.example>", ["me.example"])
    (page,) = mailbox.mail().iter_parts()
    assert "it &lt;is&gt; down &amp; öut" in page.get_content()


async def test_starttls_is_required_by_default(sending: Sending) -> None:
    """A server without it gets nothing, and the message waits."""
    async with _mail_server(_Mailbox()) as mailbox:
        with pytest.raises(RequestError, match="offers no STARTTLS, and require_tls is true") as caught:
            await send(_TOLD, _to(mailbox), sending)
    assert not caught.value.permanent
    assert not mailbox.taken


async def test_starttls_protects_the_message(sending: Sending, authority: trustme.CA) -> None:
    """The certificate is checked, for the server's name or the one configured."""
    trusting = {"ca": authority.cert_pem.bytes().decode()}
    async with _mail_server(_Mailbox(), tls_context=_context(authority, "mail.example")) as mailbox:
        with pytest.raises(RequestError, match=r"(?i)certificate") as caught:
            await send(_TOLD, _to(mailbox, smtp_tls_config=trusting), sending)
        assert not caught.value.permanent
        named = {**trusting, "server_name": "mail.example"}
        await send(_TOLD, _to(mailbox, smtp_tls_config=named), sending)
    assert mailbox.encrypted == [True]


async def test_implicit_tls_speaks_tls_from_the_first_byte(sending: Sending, authority: trustme.CA) -> None:
    """Where it is forced; on port 465 without a word."""
    trusting = {"ca": authority.cert_pem.bytes().decode()}
    async with _mail_server(_Mailbox(), implicit=_context(authority)) as mailbox:
        settings = _to(mailbox, smtp_tls_config=trusting, smtp_force_implicit_tls=True)
        await send(_TOLD, settings, sending)
    assert len(mailbox.taken) == 1


def _auth(mailbox: _Mailbox, **options: Any) -> dict[str, Any]:
    return {"authenticator": mailbox.authenticate, "auth_require_tls": False, "auth_required": True, **options}


@pytest.mark.parametrize(("excluded", "mechanism"), [([], "LOGIN"), (["LOGIN"], "PLAIN")])
async def test_we_log_in_by_the_first_way_the_server_lists(
    sending: Sending, tmp_path: Path, excluded: list[str], mechanism: str
) -> None:
    """With the password of a file, read now."""
    (tmp_path / "password").write_text("hidden\n")
    mailbox = _Mailbox()
    async with _mail_server(mailbox, **_auth(mailbox, auth_exclude_mechanism=excluded)):
        members = {"smtp_auth_username": "me", "smtp_auth_password_file": tmp_path / "password"}
        await send(_TOLD, _to(mailbox, smtp_require_tls=False, **members), sending)
    assert mailbox.logins == [(mechanism, ("me", "hidden"))]
    assert len(mailbox.taken) == 1


async def test_cram_md5_proves_the_secret_without_telling_it(sending: Sending) -> None:
    """`auth_secret` is for it alone."""

    class CramMd5(SMTP):
        async def auth_CRAM__MD5(self, server: SMTP, args: list[str]) -> AuthResult:  # noqa: N802 - aiosmtpd's names
            answer = await self.challenge_auth("<1@mail.example>")
            assert isinstance(answer, bytes)
            mailbox.logins.append(("CRAM-MD5", answer.decode()))
            return AuthResult(success=True)

    mailbox = _Mailbox()
    options = _auth(mailbox, auth_exclude_mechanism=["LOGIN", "PLAIN"])
    async with _mail_server(mailbox, server=CramMd5, **options):
        members = {"smtp_auth_username": "me", "smtp_auth_secret": "shared"}
        await send(_TOLD, _to(mailbox, smtp_require_tls=False, **members), sending)
    # hmac.new(b"shared", b"<1@mail.example>", "md5").hexdigest()
    assert mailbox.logins == [("CRAM-MD5", "me 2438dad3013c9d5b08a626e13005e37f")]


async def test_a_login_that_fails_waits_and_shows_no_password(sending: Sending) -> None:
    """Though the server repeats it."""
    mailbox = _Mailbox()
    async with _mail_server(mailbox, **_auth(mailbox)):
        members = {"smtp_auth_username": "me", "smtp_auth_password": "wrong-password"}
        with pytest.raises(RequestError, match="does not let us in: 535") as caught:
            await send(_TOLD, _to(mailbox, smtp_require_tls=False, **members), sending)
    assert (caught.value.reason, caught.value.permanent) == (Failure.AUTH_ERROR, False)
    assert "wrong-password" not in str(caught.value)


async def test_without_what_the_server_asks_for_we_say_what_is_missing(sending: Sending) -> None:
    """A user name alone is not enough."""
    mailbox = _Mailbox()
    async with _mail_server(mailbox, **_auth(mailbox)):
        with pytest.raises(RequestError, match="offers LOGIN, PLAIN to log in, for which there is no auth_password"):
            await send(_TOLD, _to(mailbox, smtp_require_tls=False, smtp_auth_username="me"), sending)


async def test_nobody_gets_a_message_that_one_recipient_cannot_get(sending: Sending) -> None:
    """Whatever the server says, it is tried again: somebody will repair the address."""
    mailbox = _Mailbox(refuse={"gone@x.example": "550 5.1.1 nobody here"})
    async with _mail_server(mailbox):
        settings = _to(mailbox, "{to: 'ops@x.example, gone@x.example'}", smtp_require_tls=False)
        with pytest.raises(RequestError, match=r"refuses the recipient gone@x\.example: 550 5\.1\.1 nobody") as caught:
            await send(_TOLD, settings, sending)
    assert (caught.value.permanent, mailbox.taken) == (False, [])


@pytest.mark.parametrize(
    ("answer", "reason"),
    [("451 4.7.1 greylisted", Failure.SERVER_ERROR), ("554 5.7.1 spam", Failure.CLIENT_ERROR)],
)
async def test_a_message_that_is_not_taken_is_tried_again(sending: Sending, answer: str, reason: Failure) -> None:
    """Also after a 5xx, as Alertmanager does."""
    async with _mail_server(_Mailbox(refuse={"DATA": answer})) as mailbox:
        with pytest.raises(RequestError, match=answer) as caught:
            await send(_TOLD, _to(mailbox, smtp_require_tls=False), sending)
    assert (caught.value.reason, caught.value.permanent) == (reason, False)


async def test_a_server_that_is_away_is_tried_again(sending: Sending) -> None:
    """Or hangs up in the middle."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for expected in (None, "refused|connect"):
            with pytest.raises(RequestError, match=expected) as caught:
                await send(_TOLD, _settings(smtp_smarthost=address), sending)
            assert (caught.value.reason, caught.value.permanent) == (Failure.OTHER, False)
            server.close()


async def test_a_server_that_does_not_say_goodbye_has_taken_the_message(sending: Sending) -> None:
    """Sending it again would be a second copy."""

    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hi\r\n")
        for answer in (b"250 hi", b"250 ok", b"250 ok", b"354 go"):
            await reader.readline()
            writer.write(answer + b"\r\n")
        await reader.readuntil(b"\r\n.\r\n")
        writer.write(b"250 taken\r\n")
        await reader.readline()
        writer.close()

    async with await asyncio.start_server(rude, "127.0.0.1", 0) as server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await send(_TOLD, _settings(smtp_smarthost=address, smtp_require_tls=False), sending)


async def test_addresses_in_any_script_are_handed_over(sending: Sending) -> None:
    """To a server that knows SMTPUTF8."""
    async with _mail_server(_Mailbox(), enable_SMTPUTF8=True) as mailbox:
        await send(_TOLD, _to(mailbox, "{to: bücher@x.example}", smtp_require_tls=False), sending)
    assert mailbox.taken[0].rcpt_tos == ["bücher@x.example"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{to: '{{ .CommonLabels.none }}'}", '"to" of the e-mail renders to something that is no list of addresses'),
        ("{to: 'ops'}", '"to" of the e-mail renders to something that is no list of addresses'),
        ("{to: a@x, from: 'a@x, b@x'}", "the sender is 2 addresses, not one"),
        ("{to: '{{ index 1 2 }}'}", "a template failed"),
    ],
)
async def test_what_no_server_can_mend_is_final(sending: Sending, text: str, problem: str) -> None:
    """Templates that fail, and addresses that are none: said at once, without calling anybody."""
    with pytest.raises(RequestError, match=problem) as caught:
        await send(_TOLD, _settings(text, smtp_smarthost="127.0.0.1:1"), sending)
    assert caught.value.permanent
