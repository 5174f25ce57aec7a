"""One SMTP conversation: TLS as it is required, a login by what the server offers, one message handed over.

Its failures are named so that anyone may read them, and all of them are worth another try.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from dataclasses import dataclass, field
from typing import Final

import aiosmtplib

from tocsin_alerting.receivers import tls
from tocsin_alerting.receivers.http_config import TlsConfig
from tocsin_alerting.receivers.revealing import concealed
from tocsin_service.http import Failure, RequestError

TIMEOUT: Final = 30.0
"""Seconds for the whole conversation: mail servers take their time over strangers."""
_GOODBYE: Final = 2.0
_IMPLICIT_TLS_PORT: Final = 465
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Login:
    """Who we are, if a server asks; without a user name we do not say.

    Args:
        password: for PLAIN and LOGIN.
        secret: for CRAM-MD5.
        identity: whom we act for, where that is somebody else (PLAIN only).
    """

    username: str = ""
    password: str = field(default="", repr=False)
    secret: str = field(default="", repr=False)
    identity: str = ""

    @property
    def plain(self) -> bytes:
        """The one message of PLAIN (RFC 4616)."""
        return base64.b64encode("\0".join((self.identity, self.username, self.password)).encode())

    @property
    def secrets(self) -> tuple[str, ...]:
        """All that a server could quote."""
        if not self.password:
            return (self.secret,)
        encoded = base64.b64encode(self.password.encode()).decode()
        return self.password, self.secret, encoded, self.plain.decode()


@dataclass(frozen=True, slots=True)
class Server:
    """Where mail is handed over.

    Args:
        address: `host:port`; on port 465 TLS is spoken from the first byte.
        hello: what we call ourselves.
        require_tls: nothing is said before STARTTLS, where TLS is not spoken from the first byte.
        implicit_tls: whether it is, where that does not follow from the port.
    """

    address: str
    hello: str
    require_tls: bool
    implicit_tls: bool | None
    tls_config: TlsConfig
    login: Login

    @property
    def implicit(self) -> bool:
        """Whether TLS is spoken from the first byte."""
        by_port = self.address.endswith(f":{_IMPLICIT_TLS_PORT}")
        return by_port if self.implicit_tls is None else self.implicit_tls

    @property
    def private(self) -> bool:
        """Whether nothing is said before TLS is spoken."""
        return self.implicit or self.require_tls


async def hand_over(server: Server, content: bytes, sender: str, recipients: list[str]) -> None:
    """Have a message taken for all recipients, or for none.

    Raises:
        RequestError: it was not taken; its words hold no password.
    """
    client = _client(server)
    try:
        async with asyncio.timeout(TIMEOUT):
            await _converse(client, server, content, sender, recipients)
    except (TimeoutError, aiosmtplib.SMTPTimeoutError) as error:
        raise RequestError(f"{server.address} did not answer in time", reason=Failure.TIMEOUT) from error
    except (aiosmtplib.SMTPException, ssl.SSLError, OSError, ValueError) as error:
        raise concealed(_failure(server, error), *server.login.secrets) from error
    else:
        # It is taken; how the server says goodbye must not make it be sent again.
        with contextlib.suppress(aiosmtplib.SMTPException, OSError):
            await client.quit(timeout=_GOODBYE)
    finally:
        client.close()


def _client(server: Server) -> aiosmtplib.SMTP:
    host, _, port = server.address.rpartition(":")
    try:
        return aiosmtplib.SMTP(
            hostname=host.strip("[]"),
            port=int(port),
            use_tls=server.implicit,
            start_tls=False,
            tls_context=tls.context(tls.material(server.tls_config)) if server.private else None,
            local_hostname=server.hello,
            timeout=TIMEOUT,
        )
    except ValueError as error:
        message = f"{server.address} cannot be called: {_line(error)}"
        raise RequestError(message, reason=Failure.OTHER, permanent=True) from error


async def _converse(
    client: aiosmtplib.SMTP, server: Server, content: bytes, sender: str, recipients: list[str]
) -> None:
    await client.connect()
    await client.ehlo()
    if server.private and not server.implicit:
        if not client.supports_extension("starttls"):
            raise aiosmtplib.SMTPNotSupported("it offers no STARTTLS, and require_tls is true")
        await client.starttls()
        await client.ehlo()
    if server.login.username and client.supports_extension("auth"):
        await _identify(client, server.login, private=server.private or client.hostname in _LOOPBACK)
    international = not all(address.isascii() for address in (sender, *recipients))
    options, encoding = (["SMTPUTF8"], "utf-8") if international else ([], "ascii")
    await client.mail(sender, options=options, encoding=encoding)
    for recipient in recipients:  # all, or nobody
        await client.rcpt(recipient, encoding=encoding)
    await client.data(content)


async def _identify(client: aiosmtplib.SMTP, login: Login, *, private: bool) -> None:
    """Use the first way in the server's list for which there is a secret."""
    for mechanism in client.server_auth_methods:
        if mechanism == "cram-md5" and login.secret:
            await client.auth_crammd5(login.username, login.secret)
            return
        if mechanism == "plain" and login.password:
            if not private:
                raise aiosmtplib.SMTPNotSupported("the password for PLAIN would go in the clear; set require_tls")
            answer = await client.execute_command(b"AUTH", b"PLAIN", login.plain)
            if answer.code != aiosmtplib.SMTPStatus.auth_successful:
                raise aiosmtplib.SMTPAuthenticationError(answer.code, answer.message)
            return
        if mechanism == "login" and login.password:
            await client.auth_login(login.username, login.password)
            return
    offered = ", ".join(client.server_auth_methods).upper() or "nothing"
    what = f"it offers {offered} to log in, for which there is no auth_password or auth_secret"
    raise aiosmtplib.SMTPNotSupported(what)


def _failure(server: Server, error: Exception) -> RequestError:
    name = server.address
    if isinstance(error, aiosmtplib.SMTPAuthenticationError):
        return RequestError(f"{name} does not let us in: {_said(error)}", reason=Failure.AUTH_ERROR)
    if isinstance(error, aiosmtplib.SMTPRecipientRefused):
        what = f"{name} refuses the recipient {error.recipient}: {_said(error)}"
        return RequestError(what, reason=Failure.CLIENT_ERROR)
    if isinstance(error, aiosmtplib.SMTPResponseException):
        reason = Failure.CLIENT_ERROR if error.code >= 500 else Failure.SERVER_ERROR
        return RequestError(f"{name} answered {_said(error)}", reason=reason)
    words = next((each for each in (getattr(error, name, None) for name in _WORDS) if each), type(error).__name__)
    return RequestError(f"{name}: {_line(words)}", reason=Failure.OTHER)


_WORDS: Final = ("message", "reason", "strerror")
"""Where exceptions of SMTP, TLS and the operating system keep theirs."""


def _said(error: aiosmtplib.SMTPResponseException) -> str:
    return f"{error.code} {_line(error.message)}"


def _line(text: object) -> str:
    return " ".join(str(text).split())[:200]
