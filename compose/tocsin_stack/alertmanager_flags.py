"""What Alertmanager's flags mean here: those that mean nothing, durations, external URL, features. Pure."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from tocsin_service import durations

_GOSSIP: Final = "tocsin replicates through --storage.url postgresql://...; gossip is not used"
_DURABLE: Final = "state is written as it changes; there are no snapshots to time"

WITHOUT_EFFECT: Final[Mapping[str, str]] = {
    "--cluster.listen-address": _GOSSIP,
    "--cluster.advertise-address": _GOSSIP,
    "--cluster.peer": _GOSSIP,
    "--cluster.peer-name": _GOSSIP,
    "--cluster.peers-resolve-timeout": _GOSSIP,
    "--cluster.peer-timeout": _GOSSIP,
    "--cluster.gossip-interval": _GOSSIP,
    "--cluster.pushpull-interval": _GOSSIP,
    "--cluster.tcp-timeout": _GOSSIP,
    "--cluster.probe-timeout": _GOSSIP,
    "--cluster.probe-interval": _GOSSIP,
    "--cluster.settle-timeout": _GOSSIP,
    "--cluster.reconnect-interval": _GOSSIP,
    "--cluster.reconnect-timeout": _GOSSIP,
    "--cluster.allow-insecure-public-advertise-address-discovery": _GOSSIP,
    "--cluster.label": _GOSSIP,
    "--cluster.tls-config": _GOSSIP,
    "--data.maintenance-interval": _DURABLE,
    "--dispatch.maintenance-interval": "groups that have ended are dropped at once",
    "--web.ui-path": "the web page is part of tocsin",
}
"""Flags that are accepted and do nothing, and why."""

_SWITCHES: Final = frozenset(
    {
        "--cluster.allow-insecure-public-advertise-address-discovery",
        "--web.systemd-socket",
        "--log.silences",
        "--version",
        "--help",
        "-h",
    }
)
"""Flags that take no value."""

FEATURES: Final = frozenset(
    {
        "utf8-strict-mode",
        "classic-mode",
        "receiver-name-in-metrics",
        "group-key-in-metrics",
        "alert-names-in-metrics",
        "auto-gomemlimit",
        "auto-gomaxprocs",
        "event-recorder",
    }
)

_GO_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_GO_PART: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_SYSTEMD_FIRST: Final = 3
"""The first descriptor that systemd hands over."""


class FlagError(Exception):
    """A flag with a value it cannot have; the message names it."""


def sort(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the arguments that mean something, and the flags that do not.

    Switches are brought to the form click reads: `--log.silences=false` -> `--no-log.silences`. What comes after the
    name of a subcommand is left alone.
    """
    kept: list[str] = []
    unused: list[str] = []
    rest = list(arguments)
    while rest and rest[0].startswith("-") and rest[0] != "--":
        argument = rest.pop(0)
        flag, equals, value = argument.partition("=")
        plain = "--" + flag.removeprefix("--no-") if flag.startswith("--no-") else flag
        taken = [argument]
        if plain in _SWITCHES:
            if equals:
                on = value.lower() not in {"false", "0", "f"}
                taken = [flag] if on else [_opposite(flag)]
        elif not equals and rest:
            taken.append(rest.pop(0))
        if plain in WITHOUT_EFFECT:
            unused.append(plain)
        elif taken != ["--no-web.systemd-socket"]:
            kept += taken
    return kept + rest, unused


def _opposite(flag: str) -> str:
    return "--" + flag.removeprefix("--no-") if flag.startswith("--no-") else "--no-" + flag.removeprefix("--")


def without_effect(flags: Iterable[str]) -> dict[str, list[str]]:
    """Return each reason with the flags it is given for, so that it is said once."""
    found: dict[str, list[str]] = {}
    for flag in dict.fromkeys(flags):
        found.setdefault(WITHOUT_EFFECT[flag], []).append(flag)
    return found


def duration(text: str | float) -> float:
    """Return the seconds of a duration in Prometheus' notation, or in Go's with its fractions: `120h`, `5d`, `1.5h`.

    The command line hands over defaults too, which are seconds already.

    Raises:
        ValueError: it is neither.
    """
    if not isinstance(text, str):
        return float(text)
    parts = _GO_PART.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return sum(float(number) * _GO_UNITS[unit] for number, unit in parts)
    return durations.parse(text)


def external_url(given: str | None, listening: str, *, hostname: str) -> str:
    """Return where people reach the router, without a slash at its end.

    Args:
        listening: the URL of the first listener; without `given`, its port on this machine's name is taken.

    Raises:
        FlagError: `given` is not an http(s) URL.
    """
    if not given:
        parts = urlsplit(listening)
        return f"{parts.scheme}://{hostname}:{parts.port}"
    try:
        parts = urlsplit(given)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and not parts.query and not parts.fragment
    except ValueError:
        good = False
    if not good:
        raise FlagError(f'--web.external-url: "{given}" is not a URL; write https://alerts.example/prefix')
    path = "/".join(part for part in parts.path.split("/") if part)
    return f"{parts.scheme}://{parts.netloc}" + (f"/{path}" if path else "")


def route_prefix(given: str | None, url: str) -> str:
    """Return the prefix of every path, empty or `/prefix`: the given one, or the path of the external URL."""
    path = urlsplit(url).path if given is None else given
    path = "/".join(part for part in path.split("/") if part)
    return f"/{path}" if path else ""


def features(given: Iterable[str]) -> frozenset[str]:
    """Return the names in `--enable-feature`, each a comma list.

    Raises:
        FlagError: a name that nobody knows.
    """
    found = frozenset(name.strip() for each in given for name in each.split(",")) - {""}
    if unknown := sorted(found - FEATURES):
        known = ", ".join(sorted(FEATURES))
        raise FlagError(f"--enable-feature: unknown {', '.join(unknown)}; expected {known}")
    if {"classic-mode", "utf8-strict-mode"} <= found:
        raise FlagError("--enable-feature: classic-mode and utf8-strict-mode exclude one another")
    return found


def systemd_sockets(environ: Mapping[str, str], pid: int) -> list[socket.socket]:
    """Return the sockets that systemd has opened for this process (sd_listen_fds(3)).

    Raises:
        FlagError: there are none.
    """
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(pid) or not count.isdecimal() or int(count) < 1:
        raise FlagError("--web.systemd-socket: systemd handed over no socket; start it from a .socket unit")
    sockets = [socket.socket(fileno=_SYSTEMD_FIRST + index) for index in range(int(count))]
    for each in sockets:
        each.setblocking(False)
    return sockets
