"""What a request for alerts asks for: matchers, receivers and states, as Alertmanager reads its parameters. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from starlette.datastructures import QueryParams

from tocsin_alerting.answers import BadRequestError
from tocsin_alerting.config import Receiver
from tocsin_alerting.matchers import Matcher, MatcherError, Mode, compiled, match_all, parse_one
from tocsin_alerting.muting import Verdict

_TRUE: Final = frozenset({"true", "1", "on", "yes", "y", "t", "ok", "checked", "selected", "enabled"})


def flag(params: QueryParams, name: str) -> bool:
    """Return a boolean parameter; true where it is absent or empty."""
    return (params.get(name) or "true").lower() in _TRUE


def filters(params: QueryParams, mode: Mode) -> tuple[Matcher, ...]:
    """Return the matchers of `filter`, which may be repeated.

    Raises:
        BadRequestError: one cannot be read.
    """
    try:
        return tuple(parse_one(text, mode) for text in params.getlist("filter"))
    except MatcherError as error:
        raise BadRequestError(str(error)) from error


class ReceiverQuery:
    """`receiver`, a whole-name expression, and `receiver_matchers` on receivers' labels.

    Raises:
        BadRequestError: one cannot be read.
    """

    def __init__(self, params: QueryParams, receivers: Mapping[str, Receiver], mode: Mode) -> None:
        self._receivers = receivers
        self._answers: dict[str, bool] = {}
        try:
            self._name = compiled(params["receiver"]) if params.get("receiver") else None
        except MatcherError as error:
            raise BadRequestError(f"failed to parse receiver param: {error}") from error
        try:
            self._matchers = tuple(parse_one(text, mode) for text in params.getlist("receiver_matchers"))
        except MatcherError as error:
            raise BadRequestError(f"failed to parse receiver_matchers param: {error}") from error

    @property
    def open(self) -> bool:
        """Whether it takes every receiver."""
        return self._name is None and not self._matchers

    def takes(self, name: str) -> bool:
        """Return whether it takes a receiver."""
        found = self._answers.get(name)
        if found is None:
            found = self._answers[name] = self._matches(name)
        return found

    def takes_any(self, names: Iterable[str]) -> bool:
        """Return whether it takes one of several receivers."""
        return self.open or any(self.takes(name) for name in names)

    def _matches(self, name: str) -> bool:
        if self._name is not None and self._name.fullmatch(name) is None:
            return False
        receiver = self._receivers.get(name)
        return match_all(self._matchers, receiver.labels if receiver else {"name": name})


class AlertQuery:
    """Everything a request for alerts says.

    Raises:
        BadRequestError: a matcher or an expression cannot be read.
    """

    def __init__(self, params: QueryParams, receivers: Mapping[str, Receiver], mode: Mode) -> None:
        self.matchers = filters(params, mode)
        self.receivers = ReceiverQuery(params, receivers, mode)
        self.muted = flag(params, "muted")
        self._active = flag(params, "active")
        self._silenced = flag(params, "silenced")
        self._inhibited = flag(params, "inhibited")

    def shows(self, verdict: Verdict) -> bool:
        """Return whether alerts of this state are asked for."""
        if not (verdict.silenced_by or verdict.inhibited_by):
            return self._active
        return (self._silenced or not verdict.silenced_by) and (self._inhibited or not verdict.inhibited_by)
