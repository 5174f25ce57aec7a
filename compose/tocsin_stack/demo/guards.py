"""Who may call the shop, and how often: tokens (JWT, HS256) and a token bucket for each client. Pure."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

import jwt

AUDIENCE: Final = "shop"
LIFETIME: Final = 900.0
"""Seconds a token is good for."""


class RefusedError(Exception):
    """Credentials that are not taken; `reason` is one that `tocsin.auth_failed` counts."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Issuer:
    """Issues and checks tokens with a key of this run: those of an earlier run are refused."""

    key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def issue(self, user: str, now: float, *, lifetime: float = LIFETIME) -> str:
        """Return a token for `user` that expires `lifetime` seconds after `now`."""
        return jwt.encode({"sub": user, "aud": AUDIENCE, "exp": int(now + lifetime)}, self.key, algorithm="HS256")

    def user(self, authorization: str | None) -> str:
        """Return whom the value of an Authorization header stands for.

        Raises:
            RefusedError: nobody.
        """
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise RefusedError("missing")
        try:
            claims = jwt.decode(token, self.key, algorithms=["HS256"], audience=AUDIENCE, options={"require": ["exp"]})
        except jwt.ExpiredSignatureError as error:
            raise RefusedError("expired") from error
        except jwt.InvalidAudienceError as error:
            raise RefusedError("bad_audience") from error
        except jwt.InvalidTokenError as error:
            raise RefusedError("bad_signature") from error
        return str(claims.get("sub", ""))


class Limiter:
    """A token bucket for each client: `burst` calls at once, `rate` more each second.

    Args:
        clients: how many clients are remembered; those seen longest ago are forgotten.
    """

    def __init__(self, *, rate: float, burst: float, clients: int = 1000) -> None:
        self._rate = rate
        self._burst = burst
        self._clients = clients
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str, now: float) -> float:
        """Take a token and return 0, or return the seconds until there is one."""
        left, seen = self._buckets.pop(client, (self._burst, now))
        left = min(self._burst, left + max(0.0, now - seen) * self._rate)
        taken = left >= 1
        self._buckets[client] = (left - 1 if taken else left, now)
        if len(self._buckets) > self._clients:
            self._buckets.popitem(last=False)
        return 0.0 if taken else (1 - left) / self._rate
