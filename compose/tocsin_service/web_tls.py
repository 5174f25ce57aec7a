"""TLS of a listener: a context from the settings, made anew for the next handshake when a file of it has changed."""

from __future__ import annotations

import ssl
import tempfile
from pathlib import Path
from typing import Any, Final

from tocsin_service import telemetry
from tocsin_service.settings import Problem, SettingsError
from tocsin_service.web_config import CIPHERS, ClientAuth, Stamp, TlsServer, TlsVersion, WebFile, stamp

_VERSIONS: Final = {
    TlsVersion.TLS10: ssl.TLSVersion.TLSv1,
    TlsVersion.TLS11: ssl.TLSVersion.TLSv1_1,
    TlsVersion.TLS12: ssl.TLSVersion.TLSv1_2,
    TlsVersion.TLS13: ssl.TLSVersion.TLSv1_3,
}


class Rotating(ssl.SSLContext):
    """What an asyncio server is given once; each handshake uses the context that the files make now.

    Certificates that cannot be used (half written, or a key that belongs to another) are said once, and the former
    ones stay in use.

    Raises:
        SettingsError: there is no usable certificate at the start.
    """

    _file: WebFile
    _current: ssl.SSLContext
    _stamp: Stamp
    _tls: TlsServer

    def __new__(cls, file: WebFile) -> Rotating:
        """Make the outer context, which does no handshake itself."""
        self = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        tls = file.settings().tls_server_config
        if tls is None:
            raise SettingsError([Problem(str(file.path), 1, 1, "tls_server_config is missing")])
        self._file, self._tls, self._stamp = file, tls, stamp(*tls.files())
        try:
            self._current = context(tls)
        except (OSError, ValueError) as error:
            raise SettingsError([Problem(str(file.path), 1, 1, reason(tls, error))]) from error
        return self

    def wrap_bio(self, *arguments: Any, **named: Any) -> ssl.SSLObject:
        """Begin a handshake; asyncio and uvloop call this for each connection."""
        self._refresh()
        return self._current.wrap_bio(*arguments, **named)

    def _refresh(self) -> None:
        # TLS is switched on or off only by a restart: a port does not change what it speaks.
        tls = self._file.settings().tls_server_config or self._tls
        seen = stamp(*tls.files())
        if tls is self._tls and seen == self._stamp:
            return
        self._tls, self._stamp = tls, seen
        log = telemetry.logger("tocsin.web")
        try:
            self._current = context(tls)
        except (OSError, ValueError) as error:
            log.error("the certificate cannot be used, the old one stays", reason=reason(tls, error))
        else:
            log.info("certificate taken", file=str(tls.cert_file or "inline"))


def context(tls: TlsServer) -> ssl.SSLContext:
    """Return a server's context.

    Raises:
        OSError, ValueError: a file cannot be read, or does not hold what it should.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = _VERSIONS[tls.min_version]
    made.maximum_version = _VERSIONS[tls.max_version]
    if named := [CIPHERS[name] for name in tls.cipher_suites if CIPHERS[name]]:
        made.set_ciphers(":".join(named))
    if tls.prefer_server_cipher_suites:
        made.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    made.set_alpn_protocols(["http/1.1"])
    _load_certificate(made, tls)
    _load_clients(made, tls)
    return made


def _load_certificate(made: ssl.SSLContext, tls: TlsServer) -> None:
    def refuse_password() -> str:
        raise ValueError("the key is protected by a password; only keys without one can be used")

    # Python reads keys from files only; the folder is ours alone and gone at once.
    with tempfile.TemporaryDirectory(prefix="tocsin-tls-") as folder:
        cert, key = tls.cert_file, tls.key_file
        if cert is None:
            cert = Path(folder, "cert.pem")
            cert.write_text(tls.cert or "", encoding="utf-8")
        if key is None:
            key = Path(folder, "key.pem")
            key.write_text(tls.key.get_secret_value() if tls.key else "", encoding="utf-8")
        made.load_cert_chain(cert, key, password=refuse_password)


def _load_clients(made: ssl.SSLContext, tls: TlsServer) -> None:
    auth = tls.client_auth_type
    if auth in {ClientAuth.NONE, ClientAuth.REQUEST}:
        return  # what is not verified need not be asked for: nobody looks at it
    made.verify_mode = ssl.CERT_REQUIRED if auth.required else ssl.CERT_OPTIONAL
    made.load_verify_locations(cafile=tls.client_ca_file, cadata=tls.client_ca)
    if tls.client_allowed_sans is not None:
        made.sslobject_class = _checking(frozenset(tls.client_allowed_sans))


def _checking(allowed: frozenset[str]) -> type[ssl.SSLObject]:
    """Return an SSLObject whose handshake fails for a certificate with none of the names in `allowed`."""

    class Checked(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            if not allowed & set(names(self.getpeercert() or {})):
                raise ssl.SSLCertVerificationError("the client's certificate has none of client_allowed_sans")

    return Checked


def names(certificate: dict[str, Any]) -> list[str]:
    """Return the subject alternative names of a certificate as `getpeercert` gives it: DNS, IP, e-mail and URI."""
    return [str(value) for _, value in certificate.get("subjectAltName", ())]


def reason(tls: TlsServer, error: Exception) -> str:
    """Return what is wrong with the files, naming them and never their content."""
    if isinstance(error, ssl.SSLError):
        where = f"{tls.cert_file or 'cert'} and {tls.key_file or 'key'}"
        return {
            "KEY_VALUES_MISMATCH": f"the key does not belong to the certificate ({where})",
            "NO_CERTIFICATE_OR_CRL_FOUND": f"there is no certificate in {tls.client_ca_file or 'client_ca'}",
        }.get(error.reason or "", f"no usable PEM certificate and key in {where}: {error.reason or 'not PEM'}")
    if isinstance(error, OSError):
        return f"cannot read {error.filename or ' or '.join(map(str, tls.files()))}: {error.strerror}"
    return str(error)
