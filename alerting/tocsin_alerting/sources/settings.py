"""What every source of alerts has: a name, default labels, and how long its alerts last without news."""

from __future__ import annotations

import re
from typing import Annotated, Final

import pydantic

from tocsin_service.settings import Duration, Settings, flaw

_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}")
RESOLVE_AFTER: Final = 86_400.0
"""A day: most senders repeat what fires every few hours at best, and say when it is over."""


def _name(value: str) -> str:
    if _NAME.fullmatch(value) is None:
        raise flaw(
            f'"{value}" cannot be a name', expected="letters, digits, - _ . (it is the end of the address to post to)"
        )
    return value


def _positive(value: float) -> float:
    if value <= 0:
        raise flaw("0 would end every alert at once", expected="a duration such as 24h")
    return value


Name = Annotated[str, pydantic.AfterValidator(_name)]
"""A word that can stand in an address and in a label."""
Positive = Annotated[Duration, pydantic.AfterValidator(_positive)]
"""A duration above zero."""


class BaseSource(Settings):
    """Settings of every kind of source.

    Args:
        labels: added to each alert that does not bring them.
        resolve_after: seconds after which a firing alert is over if it is not heard of again.
    """

    name: Name
    labels: dict[str, str] = pydantic.Field(default={})
    resolve_after: Positive = RESOLVE_AFTER
