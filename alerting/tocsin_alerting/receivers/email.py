"""E-mail, by one SMTP conversation per message: text and HTML side by side, under a Message-ID made from its key.

A message that is sent twice, because we died between the server's answer and our note of it, has one Message-ID, by
which most mail systems keep one copy.

Alertmanager tries again after whatever an SMTP server says; so do we, also when it refuses a recipient: then nobody
gets the message, rather than all but one, until the address is repaired.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from email.header import Header
from email.message import EmailMessage
from email.policy import EmailPolicy
from email.utils import format_datetime, getaddresses
from typing import Annotated, Final, Literal, Self

import pydantic

from tocsin_alerting.model import Notification
from tocsin_alerting.receivers import smtp
from tocsin_alerting.receivers.fields import Host, Html, SecretPath, Text, at_most_one
from tocsin_alerting.receivers.http_config import TlsConfig
from tocsin_alerting.receivers.sending import Missing, ReceiverSettings, Sending, reveal
from tocsin_alerting.receivers.shared import GlobalSettings
from tocsin_service.http import Failure, RequestError
from tocsin_service.settings import Settings, flaw

_OURS: Final = frozenset({"Content-Type", "Content-Transfer-Encoding", "Mime-Version"})
"""Headers that say how the message is built; what the configuration says of them would only be wrong."""


class Threading(Settings):
    """`threading`: mail programs show the messages about one group, of one day or of all time, as one thread."""

    enabled: bool = False
    thread_by_date: Literal["none", "daily"] | None = None

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.enabled and self.thread_by_date is None:
            raise flaw("thread_by_date is missing", expected="none or daily", fix="add it")
        return self


def canonical(name: str) -> str:
    """Return a header's name as Go writes it: `x-my-header` -> `X-My-Header`."""
    return "-".join(part[:1].upper() + part[1:].lower() for part in name.split("-"))


def _headers(value: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, text in value.items():
        if not name.isascii() or not name.isprintable() or set(name) & {":", " "} or not name:
            raise flaw(f'"{name}" is not the name of a header', expected="letters, digits and hyphens")
        if canonical(name) in found:
            raise flaw(f"the header {canonical(name)} stands here twice", fix="keep one of them")
        found[canonical(name)] = text
    return found


class EmailSettings(ReceiverSettings):
    """`email_configs`; what is not said is taken from the `smtp_...` keys of `global`."""

    send_resolved: bool = False
    to: Text = pydantic.Field(min_length=1)
    from_: Text = pydantic.Field("", alias="from")
    smarthost: Host | None = None
    hello: str = ""
    auth_username: str = ""
    auth_password: pydantic.SecretStr | None = None
    auth_password_file: SecretPath | None = None
    auth_secret: pydantic.SecretStr | None = None
    auth_secret_file: SecretPath | None = None
    auth_identity: str = ""
    headers: Annotated[dict[str, Text], pydantic.AfterValidator(_headers)] = pydantic.Field(default_factory=dict)
    html: Html = '{{ template "email.default.html" . }}'
    text: Text = ""
    require_tls: bool | None = None
    tls_config: TlsConfig | None = None
    force_implicit_tls: bool | None = None
    threading: Threading = Threading()

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        at_most_one(self, "auth_password", "auth_password_file")
        at_most_one(self, "auth_secret", "auth_secret_file")
        if self.threading.enabled and (taken := {"References", "In-Reply-To"} & self.headers.keys()):
            raise flaw(f"threading sets the header {min(taken)} itself", fix="remove the header, or threading")
        return self

    def inherit(self, shared: GlobalSettings) -> Self:
        """Take what is not said from `global`.

        Raises:
            Missing: neither names a server, or a sender.
        """
        found: dict[str, object] = {
            "from_": self.from_ or shared.smtp_from,
            "smarthost": self.smarthost or shared.smtp_smarthost,
            "hello": self.hello or shared.smtp_hello,
            "auth_username": self.auth_username or shared.smtp_auth_username,
            "auth_identity": self.auth_identity or shared.smtp_auth_identity,
            "tls_config": self.tls_config or shared.smtp_tls_config,
        }
        for name in ("require_tls", "force_implicit_tls"):
            own = getattr(self, name)
            found[name] = getattr(shared, f"smtp_{name}") if own is None else own
        for name in ("auth_password", "auth_secret"):
            if getattr(self, name) is None and getattr(self, f"{name}_file") is None:
                found |= {each: getattr(shared, f"smtp_{each}") for each in (name, f"{name}_file")}
        if not found["smarthost"]:
            fix = "add smarthost here, or smtp_smarthost under global"
            raise Missing("e-mail has no server", expected="smarthost: host:port", fix=fix)
        if not found["from_"]:
            fix = "add from here, or smtp_from under global"
            raise Missing("e-mail has no sender", expected="from: an address", fix=fix)
        return super().inherit(shared).model_copy(update=found)


async def send(notification: Notification, settings: EmailSettings, sending: Sending) -> None:
    """Send the message.

    Raises:
        RequestError: it was not taken. Only a template, or an address that is none, is final.
    """
    mail = message(notification, settings, sending)
    sender = _addresses(sending.text(settings.from_, notification), "from")
    if len(sender) != 1:
        message_ = f"the sender is {len(sender)} addresses, not one"
        raise RequestError(message_, reason=Failure.CLIENT_ERROR, permanent=True)
    recipients = _addresses(sending.text(settings.to, notification), "to")
    international = not all(address.isascii() for address in (*sender, *recipients))
    content = mail.as_bytes(policy=WIRE.clone(utf8=international))
    await smtp.hand_over(_server(settings), content, sender[0], recipients)


def _server(settings: EmailSettings) -> smtp.Server:
    """Return where the message goes; secrets are read from their files now.

    Raises:
        RequestError: a file cannot be read.
    """
    secrets: dict[str, str] = {}
    for name in ("password", "secret"):
        value, file = getattr(settings, f"auth_{name}"), getattr(settings, f"auth_{name}_file")
        given = settings.auth_username and (value is not None or file is not None)
        secrets[name] = reveal(value, file) if given else ""
    return smtp.Server(
        address=settings.smarthost or "",
        hello=settings.hello or "localhost",
        require_tls=settings.require_tls is not False,
        implicit_tls=settings.force_implicit_tls,
        tls_config=settings.tls_config or TlsConfig(),
        login=smtp.Login(settings.auth_username, identity=settings.auth_identity, **secrets),
    )


class _Wire(EmailPolicy):
    """How a message is written out: lines end as SMTP wants them, and other scripts arrive letter by letter.

    The standard library's own folding loses the blanks between encoded words.
    """

    def fold(self, name: str, value: str) -> str:
        """Return one header as it is sent."""
        if str(value).isascii() or hasattr(value, "addresses"):
            folded: str = super().fold(name, value)
            return folded
        encoded = Header(str(value), "utf-8", header_name=name).encode(linesep=self.linesep)
        return f"{name}: {encoded}{self.linesep}"

    def fold_binary(self, name: str, value: str) -> bytes:
        """Return the same as bytes."""
        return self.fold(name, value).encode()


WIRE: Final = _Wire(linesep="\r\n")


def message(notification: Notification, settings: EmailSettings, sending: Sending) -> EmailMessage:
    """Return the message, complete, without sending it.

    Raises:
        RequestError: a template fails, or a header cannot be made of what it renders to.
    """
    mail = EmailMessage(policy=WIRE)
    headers = {
        "Subject": '{{ template "email.default.subject" . }}',
        "To": settings.to,
        "From": settings.from_,
        **settings.headers,
    }
    try:
        for name in [each for each in headers if each not in _OURS]:
            mail[name] = " ".join(sending.text(headers[name], notification).splitlines())
        if "Message-Id" not in headers:
            mail["Message-Id"] = _message_id(notification, str(mail["From"]))
        if settings.threading.enabled:
            mail["References"] = mail["In-Reply-To"] = _thread(notification, settings.threading)
        if "Date" not in headers:
            mail["Date"] = format_datetime(datetime.fromtimestamp(sending.now(), UTC))
    except (ValueError, LookupError, AttributeError) as error:
        text = f"the header {name} cannot be made of what its template renders to"
        raise RequestError(text, reason=Failure.CLIENT_ERROR, permanent=True) from error
    mail["MIME-Version"] = "1.0"
    mail.make_alternative()
    if settings.text or not settings.html:
        _part(mail, sending.text(settings.text, notification), "plain")
    if settings.html:  # the richest part comes last (RFC 2046 section 5.1.4)
        _part(mail, sending.html(settings.html, notification), "html")
    return mail


def _part(mail: EmailMessage, content: str, subtype: str) -> None:
    mail.add_alternative(content, subtype=subtype, charset="utf-8", cte="quoted-printable")


def _message_id(notification: Notification, sender: str) -> str:
    # The same for every attempt, another for every other message.
    name = hashlib.sha256(notification.key.encode()).hexdigest()[:32]
    domain = sender.rpartition("@")[2].strip("<> ")
    return f"<{name}@{domain if domain.isascii() and domain and ' ' not in domain else 'tocsin.invalid'}>"


def _thread(notification: Notification, threading: Threading) -> str:
    """Return the Message-ID of a message that never was, under which mail programs gather the others.

    It is Alertmanager's, so that threads go on after a migration.
    """
    day = datetime.fromtimestamp(notification.now, UTC)
    date = f"{day:%Y-%m-%d}" if threading.thread_by_date == "daily" else ""
    return f"<alert-{notification.group_hash[:16]}-{date}@alertmanager>"


def _addresses(text: str, name: str) -> list[str]:
    found = [address for _, address in getaddresses([text])]
    if not found or any("@" not in address or " " in address for address in found):
        message_ = f'"{name}" of the e-mail renders to something that is no list of addresses'
        raise RequestError(message_, reason=Failure.CLIENT_ERROR, permanent=True)
    return found
