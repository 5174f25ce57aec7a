"""What a probe means: an `Observation` and a check's conditions -> a `Result` with its sentence. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from tocsin_service import durations
from tocsin_uptime.check import Check
from tocsin_uptime.conditions import Condition, Place
from tocsin_uptime.result import Observation, Phase, Reason, Result, State

EXCERPT: Final = 200
"""Characters of an answer's body that are kept."""

_PORT_CLOSED = frozenset({Reason.CONNECT_REFUSED, Reason.CONNECT_TIMEOUT})
_WORDS = {"<": "less than", "<=": "at most", ">": "more than", ">=": "at least", "!=": "anything but", "==": ""}


def judge(check: Check, seen: Observation, at: float) -> Result:
    """Return the verdict on what a probe saw.

    Args:
        at: Unix seconds at which the probe began.
    """
    result = Result(
        at=round(at, 3),
        verdict=State.UP,
        reason=Reason.OK,
        sentence=_fine(seen),
        duration=seen.duration,
        phases=seen.phases,
        status=seen.status,
    )
    if seen.failure is not None and not _wants_closed(check, seen):
        what = seen.failure.what
        return _down(result, check, seen, seen.failure.reason, what)
    if broken := _first_broken(check.conditions, seen):
        return _down(result, check, seen, *_blame(broken, check, seen))
    if broken := _first_broken(check.degraded, seen):
        _, what = _blame(broken, check, seen)
        shown = excerpt(seen.body, check.target.secrets)
        sentence = f"{_fine(seen)}, but {what}"
        return replace(result, verdict=State.DEGRADED, reason=Reason.DEGRADED, sentence=sentence, excerpt=shown)
    return result


def unjudged(result: Result, late: float) -> Result:
    """Return a failure as unknown because the prober itself was `late` seconds late; other results as they are."""
    if result.verdict is not State.DOWN:
        return result
    sentence = f"not judged, the prober was {durations.human(late)} late itself; it saw: {result.sentence}"
    return replace(result, verdict=State.UNKNOWN, reason=Reason.LATE, sentence=sentence)


def progress(seen: Observation) -> str:
    """Return what went well: "DNS ok, connected in 3 ms, TLS ok in 12 ms"."""
    done = [phase for phase in seen.phases if seen.failure is None or phase is not seen.failure.phase]
    parts = []
    if Phase.RESOLVE in done:
        parts.append("DNS ok")
    if Phase.CONNECT in done:
        parts.append(f"connected in {durations.human(seen.phases[Phase.CONNECT])}")
    if Phase.TLS in done:
        parts.append(f"TLS ok in {durations.human(seen.phases[Phase.TLS])}")
    return ", ".join(parts)


def excerpt(body: bytes, secrets: Iterable[str] = ()) -> str:
    """Return the beginning of a body on one line, without control characters and with `secrets` masked."""
    # Masked before it is cut, so that no half of a secret is left at the end.
    text = body.decode("utf-8", "replace")
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "<secret>")
    text = " ".join(text[: 16 * EXCERPT].split())
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[:EXCERPT])


def _down(result: Result, check: Check, seen: Observation, reason: Reason, what: str) -> Result:
    shown = excerpt(seen.body, check.target.secrets)
    so_far = progress(seen)
    sentence = f"{so_far}, but {what}" if so_far else what
    return replace(result, verdict=State.DOWN, reason=reason, sentence=sentence, excerpt=shown)


def _fine(seen: Observation) -> str:
    if not seen.connected:
        return "no connection, as it should be"
    took = durations.human(seen.duration)
    return f"HTTP {seen.status} in {took}" if seen.status is not None else f"connected in {took}"


def _wants_closed(check: Check, seen: Observation) -> bool:
    """Return whether the failure is what the check hopes for: `[CONNECTED] == false` watches a closed port."""
    if seen.failure is None or seen.failure.reason not in _PORT_CLOSED:
        return False
    return any(one.place is Place.CONNECTED and one.holds(False) for one in check.conditions)


def _first_broken(conditions: Sequence[Condition], seen: Observation) -> Condition | None:
    return next((one for one in conditions if not _holds(one, seen)), None)


def _holds(condition: Condition, seen: Observation) -> bool:
    match condition.place:
        case Place.STATUS:
            return condition.holds(seen.status)
        case Place.RESPONSE_TIME:
            return condition.holds(seen.duration)
        case Place.CONNECTED:
            return condition.holds(seen.connected)
        case Place.BODY:
            # What was cut off could hold the opposite.
            return not seen.truncated and condition.holds(seen.body.decode("utf-8", "replace"))


def _blame(broken: Condition, check: Check, seen: Observation) -> tuple[Reason, str]:
    match broken.place:
        case Place.STATUS:
            found = "no HTTP answer came" if seen.status is None else f"the answer was HTTP {seen.status}"
            hint = f", a redirect to {seen.location}, and redirects are not followed" if seen.location else ""
            return Reason.STATUS, f"{found} instead of {_expected_status(broken, check.conditions)}{hint}"
        case Place.RESPONSE_TIME:
            took = durations.human(seen.duration)
            wanted = f"{_WORDS[broken.operator]} {broken.shown}".strip()
            return Reason.CONDITION, f"it took {took} instead of {wanted}"
        case Place.CONNECTED:
            return Reason.CONDITION, "a connection was made where none should be"
        case Place.BODY if seen.truncated:
            size = len(seen.body) // 1024
            return Reason.BODY_LIMIT, f"the answer is longer than {size} KiB, so [BODY] cannot be checked"
        case Place.BODY:
            wanted = "is" if broken.operator == "!=" else "is not"
            return Reason.BODY, f"the body {wanted} {broken.shown}"


def _expected_status(broken: Condition, conditions: Sequence[Condition]) -> str:
    """Return what status was hoped for; a pair of `>=` and `<` reads as a range."""
    bounds = {one.operator: one.value for one in conditions if one.place is Place.STATUS}
    if bounds.keys() == {">=", "<"} and broken.operator in bounds:
        return f"{bounds['>=']} to {int(str(bounds['<'])) - 1}"
    return f"{_WORDS[broken.operator]} {broken.shown}".strip()
