"""Asks a running alert router, ours or Alertmanager, as `tocsin alerts` does; every failure is a sentence."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

import httpx

from tocsin_alerting.matchers import Matcher, MatcherError, Op, match_all, parse
from tocsin_service.http import redact_url
from tocsin_service.settings import SecretError, secret
from tocsin_stack import state

DEFAULT_URL: Final = "http://127.0.0.1:9093"
TIMEOUT: Final = 10.0
DRILL_TIMEOUT: Final = 60.0
"""Seconds that a drill may take: receivers answer one after the other."""

_FINGERPRINT: Final = re.compile(r"[0-9a-f]{4,16}")
_OPERATOR: Final = re.compile(r"[=~!]")


class AlertsError(Exception):
    """The router cannot be asked, refuses, or has nothing of that name; the message says which."""


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the router is and who asks.

    Args:
        token: for `Authorization: Bearer`; goes before `user`.
    """

    url: str
    user: str | None = None
    password: str = ""
    token: str | None = None
    ca_file: Path | None = None

    @classmethod
    def find(
        cls,
        url: str | None,
        *,
        data: Path,
        user: str | None,
        password_file: Path | None,
        token_file: Path | None,
        ca_file: Path | None,
        environ: Mapping[str, str],
    ) -> Self:
        """Put together what flags and environment say; without a URL, the router of `tocsin up` in `data`, if one runs.

        Raises:
            AlertsError: a file with a secret cannot be read.
        """
        found = url or environ.get("TOCSIN_ALERTMANAGER_URL") or _of_up(data) or DEFAULT_URL
        token = environ.get("TOCSIN_ALERTS_TOKEN") if token_file is None else _secret(token_file)
        password = environ.get("TOCSIN_ALERTS_PASSWORD", "") if password_file is None else _secret(password_file)
        return cls(
            url=found.rstrip("/"),
            user=user or environ.get("TOCSIN_ALERTS_USER"),
            password=password,
            token=token,
            ca_file=ca_file,
        )


def _of_up(data: Path) -> str | None:
    try:
        return state.read(data).urls.get("alerting")
    except state.StateError:
        return None


def _secret(file: Path) -> str:
    try:
        return secret(None, file)
    except SecretError as error:
        raise AlertsError(str(error)) from error


class Client:
    """The requests; a context manager."""

    def __init__(self, connection: Connection) -> None:
        self._url = connection.url
        headers = {"Authorization": f"Bearer {connection.token}"} if connection.token else {}
        auth = (connection.user, connection.password) if connection.user and not connection.token else None
        try:
            verify = ssl.create_default_context(cafile=connection.ca_file)
        except OSError as error:
            raise AlertsError(
                f"cannot read {connection.ca_file}: {error.strerror or 'no certificates in it'}"
            ) from error
        self._client = httpx.Client(headers=headers, auth=auth, verify=verify, timeout=TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def alerts(self, matchers: Sequence[Matcher] = (), **query: str) -> list[dict[str, Any]]:
        """Return alerts that satisfy all of `matchers`."""
        found: list[dict[str, Any]] = self._get("/api/v2/alerts", [("filter", str(each)) for each in matchers], query)
        return found

    def silences(self) -> list[dict[str, Any]]:
        """Return all silences."""
        found: list[dict[str, Any]] = self._get("/api/v2/silences")
        return found

    def explain(self, fingerprint: str) -> dict[str, Any]:
        """Return why an alert was told or not."""
        found: dict[str, Any] = self._get(f"/api/v1/alerts/{quote(fingerprint, safe='')}/explain")
        return found

    def silence(self, body: Mapping[str, Any]) -> str:
        """Make or change a silence and return its id."""
        return str(self._call("POST", "/api/v2/silences", json=body)["silenceID"])

    def unsilence(self, name: str) -> None:
        """End a silence."""
        self._call("DELETE", f"/api/v2/silence/{quote(name, safe='')}")

    def acks(self) -> list[dict[str, Any]]:
        """Return acknowledgements in force; a router that has none has none in force."""
        try:
            found: list[dict[str, Any]] = self._get("/api/v1/acks")
        except Refused as error:
            if error.status not in {404, 410}:
                raise
            return []
        return [each for each in found if each["status"]["state"] == "active"]

    def acknowledge(self, body: Mapping[str, Any]) -> str:
        """Make an acknowledgement and return its id."""
        try:
            return str(self._call("POST", "/api/v1/acks", json=body)["id"])
        except Refused as error:
            if error.status not in {404, 410}:
                raise
            message = "this router takes no acknowledgements (Alertmanager does not); use: tocsin alerts silence"
            raise AlertsError(message) from error

    def unacknowledge(self, name: str) -> None:
        """Take an acknowledgement back."""
        self._call("DELETE", f"/api/v1/acks/{quote(name, safe='')}")

    def drill(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Have the router rehearse an alert, or send it as a drill."""
        found: dict[str, Any] = self._call("POST", "/api/v1/test", json=body, timeout=DRILL_TIMEOUT)
        return found

    def _get(self, path: str, *queries: Sequence[tuple[str, str]] | Mapping[str, str]) -> Any:
        pairs = [pair for each in queries for pair in (each.items() if isinstance(each, Mapping) else each)]
        return self._call("GET", path, params=pairs)

    def _call(self, method: str, path: str, **options: Any) -> Any:
        try:
            answer = self._client.request(method, self._url + path, **options)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            hint = "is it running? Name another with --alertmanager.url"
            raise AlertsError(f"{redact_url(self._url)} does not answer ({error}); {hint}") from error
        if answer.is_success:
            return answer.json() if answer.content else None
        if answer.status_code == 401:
            raise AlertsError(f"{redact_url(self._url)} wants to know who asks: use --user and --password-file")
        raise Refused(answer.status_code, _reason(answer))


class Refused(AlertsError):  # noqa: N818 it is what happened, in the client's words
    """The router said no."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _reason(answer: httpx.Response) -> str:
    """Return what the router said: a bare JSON string, `{"message"}`, or text."""
    try:
        said = answer.json()
    except ValueError:
        said = answer.text.strip()[:300]
    if isinstance(said, Mapping):
        said = said.get("message")
    return str(said or f"the router answered {answer.status_code}")


def matchers(words: Sequence[str]) -> list[Matcher]:
    """Read matchers from the command line; a word without an operator is the name of an alert.

    Raises:
        AlertsError: one is not a matcher.
    """
    found: list[Matcher] = []
    for word in words:
        if not _OPERATOR.search(word):
            found.append(Matcher("alertname", Op.EQUAL, word))
            continue
        try:
            found += parse(word)
        except MatcherError as error:
            raise AlertsError(str(error)) from error
    return found


def plain(found: Sequence[Matcher]) -> list[dict[str, Any]]:
    """Return matchers as API v2 wants them."""
    return [
        {
            "name": each.name,
            "value": each.value,
            "isRegex": each.op in {Op.REGEX, Op.NOT_REGEX},
            "isEqual": each.op in {Op.EQUAL, Op.REGEX},
        }
        for each in found
    ]


def acknowledged(alert: Mapping[str, Any], acks: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the acknowledgement of an alert that holds longest, if there is one."""
    held = [ack for ack in acks if _covers(ack, alert)]
    return max(held, key=lambda ack: str(ack["endsAt"]), default=None)


def _covers(ack: Mapping[str, Any], alert: Mapping[str, Any]) -> bool:
    if ack.get("fingerprint"):
        return bool(ack["fingerprint"] == alert["fingerprint"])
    return match_all((_matcher(each) for each in ack.get("matchers", ())), alert["labels"])


def _matcher(each: Mapping[str, Any]) -> Matcher:
    ops = {(False, True): Op.EQUAL, (False, False): Op.NOT_EQUAL, (True, True): Op.REGEX, (True, False): Op.NOT_REGEX}
    return Matcher(each["name"], ops[bool(each["isRegex"]), bool(each.get("isEqual", True))], each["value"])


def is_fingerprint(words: Sequence[str]) -> bool:
    """Return whether `words` may be the beginning of one fingerprint."""
    return len(words) == 1 and _FINGERPRINT.fullmatch(words[0]) is not None


def pick(client: Client, words: Sequence[str]) -> list[dict[str, Any]]:
    """Return the alerts that `words` name: the beginning of one fingerprint, or matchers.

    Raises:
        AlertsError: there are none.
    """
    if is_fingerprint(words):
        found = [alert for alert in client.alerts() if alert["fingerprint"].startswith(words[0])]
        if found:
            return found
    found = client.alerts(matchers(words))
    if not found:
        raise AlertsError(f"no alert that fires is {' '.join(words)}; see: tocsin alerts list --silenced --inhibited")
    return found
