"""TLS of outgoing connections: what `tls_config` names, read now, and the context made from it."""

from __future__ import annotations

import ssl
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from tocsin_alerting.receivers.http_config import TlsConfig, TlsVersion
from tocsin_service.http import Failure, RequestError

_VERSIONS: Final = {
    "TLS10": ssl.TLSVersion.TLSv1,
    "TLS11": ssl.TLSVersion.TLSv1_1,
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}
_OLD: Final = frozenset({"TLS10", "TLS11"})


@dataclass(frozen=True, slots=True)
class Material:
    """A `tls_config` with its files read: equal materials make equal contexts, a rotated certificate another one."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = field(default=None, repr=False)
    server_name: str | None = None
    insecure: bool = False
    minimum: TlsVersion | None = None
    maximum: TlsVersion | None = None


def material(config: TlsConfig) -> Material:
    """Read the files of `config`.

    Raises:
        RequestError: one cannot be read; somebody may yet put it there.
    """
    return Material(
        ca=_text(config.ca, config.ca_file),
        cert=_text(config.cert, config.cert_file),
        key=_text(config.key.get_secret_value() if config.key else None, config.key_file),
        server_name=config.server_name,
        insecure=config.insecure_skip_verify,
        minimum=config.min_version,
        maximum=config.max_version,
    )


def context(found: Material, *, named: bool = True) -> ssl.SSLContext:
    """Return a context; making it takes milliseconds, so keep it.

    Args:
        named: use `server_name`; a proxy on the way has a name of its own.

    Raises:
        RequestError: what was read is no certificate or key.
    """
    made = _Named(ssl.PROTOCOL_TLS_CLIENT)
    made.server_name = found.server_name if named else None
    try:
        _trust(made, found)
        _versions(made, found)
        if found.cert is not None and found.key is not None:
            _identify(made, found.cert, found.key)
    except (ssl.SSLError, ValueError, TypeError) as error:
        # OpenSSL's words name no content; Python's other errors are about an empty or non-ASCII text.
        message = f"tls_config cannot be used: {getattr(error, 'reason', None) or 'this is not PEM'}"
        raise RequestError(message, reason=Failure.OTHER) from error
    return made


class _Named(ssl.SSLContext):
    """A context that checks the peer's certificate against `server_name`, whatever address was called.

    httpx knows such a name only for direct connections, not for those through a proxy, and smtplib's kin not at all.
    """

    server_name: str | None = None

    def wrap_bio(self, *args: Any, **named: Any) -> ssl.SSLObject:
        incoming, outgoing, server_side, server_hostname, session = (*args, False, None, None)[:5]
        server_hostname = named.get("server_hostname", server_hostname)
        return super().wrap_bio(
            incoming,
            outgoing,
            server_side=named.get("server_side", server_side),
            server_hostname=self.server_name or server_hostname,
            session=named.get("session", session),
        )


def _trust(made: ssl.SSLContext, found: Material) -> None:
    if found.insecure:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    elif found.ca is not None:
        made.load_verify_locations(cadata=found.ca)
    elif _system_has_authorities():
        made.load_default_certs()
    else:
        # A bare container: the bundle that comes with httpx.
        made.load_verify_locations(cadata=_bundle())


def _system_has_authorities() -> bool:
    paths = ssl.get_default_verify_paths()
    folder = Path(paths.capath) if paths.capath else None
    return paths.cafile is not None or (folder is not None and folder.is_dir() and any(folder.iterdir()))


def _bundle() -> str:
    authorities = httpx.create_ssl_context(trust_env=False).get_ca_certs(binary_form=True)
    return "".join(map(ssl.DER_cert_to_PEM_cert, authorities))


def _versions(made: ssl.SSLContext, found: Material) -> None:
    minimum = found.minimum or (found.maximum if found.maximum in _OLD else "TLS12")
    if minimum in _OLD:
        # OpenSSL's default security level has none of their signatures left; whoever names them wants them.
        made.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of what the configuration asks for
        made.minimum_version = _VERSIONS[minimum]
        if found.maximum is not None:
            made.maximum_version = _VERSIONS[found.maximum]


def _identify(made: ssl.SSLContext, cert: str, key: str) -> None:
    # The standard library takes files only; this one is ours alone, and gone at once.
    with tempfile.TemporaryDirectory() as folder:
        pair = Path(folder, "pair.pem")
        pair.touch(mode=0o600)
        pair.write_text(f"{key}\n{cert}\n", encoding="utf-8")
        # Without a password of its own, OpenSSL would ask for one on the terminal.
        made.load_cert_chain(pair, password="")


def _text(value: str | None, file: Path | None) -> str | None:
    if value is not None or file is None:
        return value
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise RequestError(f"cannot read {file} of tls_config: {reason}", reason=Failure.OTHER) from error
