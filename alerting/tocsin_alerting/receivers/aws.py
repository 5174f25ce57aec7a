"""Who we are at AWS: keys of the settings, the environment or the shared files, and those of a role we assume.

Files and environment are read for every message, so that keys can be rotated; keys of a role are kept until five
minutes before their end.
"""

from __future__ import annotations

import configparser
import hashlib
import re
import secrets
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlencode

import pydantic

from tocsin_alerting.receivers import sigv4
from tocsin_alerting.receivers.sending import ReceiverSettings, Sending, concealed
from tocsin_alerting.receivers.sigv4 import Keys
from tocsin_service.http import Failure, RequestError
from tocsin_service.settings import Settings, flaw

FORM: Final = "application/x-www-form-urlencoded"
_ROLE_SECONDS: Final = 900
_EARLY: Final = 300.0
"""Seconds before the end of a role's keys at which new ones are fetched."""


class SigV4Settings(Settings):
    """`sigv4`. Without keys those of the environment (`AWS_ACCESS_KEY_ID`, ...) or of the shared files are used."""

    region: str = ""
    access_key: str = ""
    secret_key: pydantic.SecretStr | None = None
    profile: str = ""
    role_arn: str = ""
    external_id: str = ""
    use_fips_sts_endpoint: bool = False
    service_name: str = ""

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.access_key) != bool(self.secret_key and self.secret_key.get_secret_value()):
            raise flaw("access_key and secret_key belong together", expected="both, or neither of them")
        if self.external_id and not self.role_arn:
            raise flaw("external_id stands without role_arn", expected="role_arn beside it", fix="add it")
        return self


def region(settings: SigV4Settings, environ: Mapping[str, str], arn: str) -> str:
    """Return the region: of the settings, the environment, the profile, or else that of the topic itself.

    Raises:
        RequestError: nobody says.
    """
    named = settings.region or environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    profile = settings.profile or environ.get("AWS_PROFILE", "default")
    section = profile if profile == "default" else f"profile {profile}"
    found = named or _profile(_file(environ, "AWS_CONFIG_FILE", "config"), section).get("region")
    if not found and arn.startswith("arn:"):
        found = (arn.split(":") + [""] * 4)[3]
    if not found:
        message = "AWS has no region; write it into sigv4, or set AWS_REGION"
        raise RequestError(message, reason=Failure.CLIENT_ERROR, permanent=True)
    return found


def own_keys(settings: SigV4Settings, environ: Mapping[str, str]) -> Keys:
    """Return our own credentials.

    Raises:
        RequestError: there are none.
    """
    if settings.access_key and settings.secret_key is not None:
        return Keys(settings.access_key, settings.secret_key.get_secret_value())
    profile = settings.profile or environ.get("AWS_PROFILE", "default")
    places = [
        _profile(_file(environ, "AWS_SHARED_CREDENTIALS_FILE", "credentials"), profile),
        {name.lower(): value for name, value in environ.items() if name.startswith("AWS_")},
    ]
    if not settings.profile:
        places.reverse()  # the environment goes before files, unless the settings name a profile
    for place in places:
        access, secret = place.get("aws_access_key_id"), place.get("aws_secret_access_key")
        if access and secret:
            return Keys(access, secret, place.get("aws_session_token", ""))
    message = (
        "there are no AWS credentials; write access_key and secret_key into sigv4, set AWS_ACCESS_KEY_ID and "
        f'AWS_SECRET_ACCESS_KEY, or add the profile "{profile}" to the shared credentials file'
    )
    raise RequestError(message, reason=Failure.AUTH_ERROR)


async def keys(
    settings: SigV4Settings, sending: Sending, config: ReceiverSettings, *, region: str, environ: Mapping[str, str]
) -> Keys:
    """Return the credentials to sign with: our own, or those of `role_arn`.

    Args:
        config: whose `http_config` AWS is called with.

    Raises:
        RequestError: there are none, or the role was not given.
    """
    own = own_keys(settings, environ)
    if not settings.role_arn:
        return own
    said = "\0".join((own.access_key, settings.role_arn, settings.external_id, region))
    name = f"sns role {hashlib.sha256(said.encode()).hexdigest()}"
    kept = sending.memory.get(name)
    if not isinstance(kept, Keys) or kept.until - _EARLY <= sending.now():
        kept = sending.memory[name] = await _assumed(settings, sending, config, own, region, environ)
    return kept


async def _assumed(
    settings: SigV4Settings,
    sending: Sending,
    config: ReceiverSettings,
    own: Keys,
    region: str,
    environ: Mapping[str, str],
) -> Keys:
    fips = "-fips" if settings.use_fips_sts_endpoint else ""
    url = environ.get("AWS_ENDPOINT_URL_STS") or f"https://sts{fips}.{region}.{domain(region)}/"
    asked = {
        "Action": "AssumeRole",
        "DurationSeconds": str(_ROLE_SECONDS),
        "RoleArn": settings.role_arn,
        "RoleSessionName": f"tocsin-{secrets.token_hex(8)}",
        "Version": "2011-06-15",
    }
    if settings.external_id:
        asked["ExternalId"] = settings.external_id
    answer = await call(url, asked, sending, config, keys=own, region=region, service="sts")
    # Four elements of a fixed answer, which hold neither markup nor escapes.
    found = dict(re.findall(r"<(\w+)>([^<]+)</\1>", answer))
    try:
        until = datetime.fromisoformat(found["Expiration"]).timestamp()
        return Keys(found["AccessKeyId"], found["SecretAccessKey"], found["SessionToken"], until)
    except (KeyError, ValueError) as error:
        raise RequestError("AWS gave no credentials for the role", reason=Failure.OTHER) from error


async def call(
    url: str,
    form: Mapping[str, str],
    sending: Sending,
    config: ReceiverSettings,
    *,
    keys: Keys,
    region: str,
    service: str,
) -> str:
    """Call an action of AWS' Query API and return the answer.

    Raises:
        RequestError: it was refused; 5xx may be tried again.
    """
    content = urlencode(sorted(form.items())).encode()
    headers = sigv4.sign(
        "POST",
        url,
        {"Content-Type": FORM},
        content,
        keys=keys,
        region=region,
        service=service,
        now=sending.now(),
    )
    hidden = (keys.secret_key, keys.session_token)
    try:
        answer = await sending.request("POST", url, config, content=content, headers=headers, secrets=hidden)
    except RequestError as error:
        # AWS quotes what it was asked to check where a signature is wrong.
        raise concealed(error, headers["Authorization"].rpartition("=")[2]) from None
    return answer.text


def domain(region: str) -> str:
    """Return the domain of AWS' services in a region."""
    return "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"


def _file(environ: Mapping[str, str], variable: str, name: str) -> Path:
    return Path(environ.get(variable) or Path(environ.get("HOME") or Path.home(), ".aws", name))


def _profile(file: Path, section: str) -> Mapping[str, str]:
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, configparser.Error):
        return {}  # as if it were not there; what is missing then is said by who needs it
    return dict(parser.items(section)) if parser.has_section(section) else {}
