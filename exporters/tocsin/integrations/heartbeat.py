"""Heartbeats: tell a prober that a job ran, so that it rings when the job stops running.

One background thread sends them, three tries each. Per job only the newest event is waiting: a prober wants to know how
the job is now, and a prober that is down makes no queue grow. What could not be delivered is counted in
`tocsin_dropped_total{signal="heartbeat"}` and said once. URLs are secrets (whoever has one can keep an alert quiet), so
logs and errors show the host alone.
"""

from __future__ import annotations

import logging
import os
import threading
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from time import monotonic
from typing import Final, Literal
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from tocsin import lifecycle
from tocsin.metrics.families import Families

Event = Literal["start", "success", "fail"]

TIMEOUT_SECONDS: Final = 5.0
BACKOFF_SECONDS: Final = (0.5, 2.0)
"""How long to wait after the first and the second try; there are three."""
WAITING_LIMIT: Final = 1_000
"""Heartbeats that may wait at once; one for each URL."""
_AGAIN_STATUSES: Final = frozenset((408, 425, 429))
_log = logging.getLogger("tocsin")


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Where a job reports: to `url` after each success, and if asked for to `url/start` and `url/fail`."""

    url: str
    start: bool = False
    """Report the beginning of each run to `url/start`, so that the prober knows how long runs take."""
    fail: bool = False
    """Report a failed run to `url/fail`, so that the prober need not wait for the next one to be late."""

    def address(self, event: Event) -> str | None:
        """Return the URL to call for an event, or None if this heartbeat does not report it."""
        if event == "success":
            return self.url
        if not (self.start if event == "start" else self.fail):
            return None
        parts = urlsplit(self.url)
        return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{event}"))


def heartbeats_of(given: Mapping[str, str | Heartbeat]) -> dict[str, Heartbeat]:
    """Return the heartbeats by job; a plain URL is one that reports successes.

    Raises:
        ValueError: a URL is not http or https, or has no host. Says for which job.
    """
    found = {job: Heartbeat(value) if isinstance(value, str) else value for job, value in given.items()}
    for job, heartbeat in found.items():
        parts = _split(heartbeat.url)
        if parts is None or parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(
                f"heartbeat of job {job!r}: expected a URL like https://prober.example/heartbeat/..., "
                f"found {_shown(heartbeat.url)}"
            )
    return found


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for a port that is no number
    except ValueError:
        return None
    return parts


def _shown(url: str) -> str:
    """Return the URL without what is secret in it."""
    parts = _split(url)
    return f"{parts.scheme}://{parts.hostname or ''}/..." if parts is not None and parts.scheme else "no URL"


@dataclass(slots=True)
class _Ping:
    job: str
    heartbeat: Heartbeat
    address: str
    families: Families
    due: float
    """On the monotonic clock."""
    tries: int = 0


class Sender:
    """Sends heartbeats from one background thread, which starts with the first. Thread-safe and fork-safe."""

    def __init__(self, timeout: float = TIMEOUT_SECONDS, backoff: tuple[float, ...] = BACKOFF_SECONDS) -> None:
        """Make a sender and have it flushed when the process ends.

        Args:
            timeout: seconds a try may take for each step (connecting, the answer).
            backoff: seconds between tries; one try more than there are pauses.
        """
        self._timeout = timeout
        self._backoff = backoff
        self._reset()
        self._failing: set[str] = set()
        lifecycle.register(self)
        # What waits is the parent's to send, and its thread does not come along.
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._waiting: dict[str, _Ping] = {}
        self._sending: _Ping | None = None
        self._thread: threading.Thread | None = None
        self._stopping = False

    def send(self, job: str, heartbeat: Heartbeat, event: Event, families: Families) -> None:
        """Queue a heartbeat; never blocks for the network, never raises.

        Args:
            job: named in the log line if it cannot be delivered.
            heartbeat: where to.
            event: what happened; nothing is sent if the heartbeat does not report it.
            families: where it is counted if it is lost.
        """
        address = heartbeat.address(event)
        if address is None:
            return
        with self._changed:
            if heartbeat.url not in self._waiting and len(self._waiting) >= WAITING_LIMIT:
                families.dropped("heartbeat", "queue_full")
                return
            # In place of an older event: a late `start` after a `success` would make the prober wait for an end.
            self._waiting[heartbeat.url] = _Ping(job, heartbeat, address, families, monotonic())
            try:
                self._ensure_thread()
            except RuntimeError:  # the interpreter is ending
                del self._waiting[heartbeat.url]
                families.dropped("heartbeat", "closed")
            self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Wait until nothing is left to send, tries that fail included; return whether that was within the seconds."""
        with self._changed:
            return self._changed.wait_for(self._idle, timeout)

    def shutdown(self, timeout: float) -> bool:
        """Send what is left without pauses between tries, then end the thread; `send` starts another one."""
        deadline = monotonic() + timeout
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            done = self._changed.wait_for(self._idle, timeout)
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(max(0.0, deadline - monotonic()))
        return done

    def _idle(self) -> bool:
        return not self._waiting and self._sending is None

    def _ensure_thread(self) -> None:
        self._stopping = False
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._work, name="tocsin-heartbeat", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while (ping := self._take()) is not None:
            try:
                reason, again = deliver(ping.address, self._timeout)
            except Exception:  # a guard: the thread goes on
                reason, again = "internal", False
            self._settle(ping, reason, again=again)

    def _take(self) -> _Ping | None:
        """Return the next ping when it is due, or None when it is time to end."""
        with self._changed:
            while True:
                ping = min(self._waiting.values(), key=lambda ping: ping.due, default=None)
                now = monotonic()
                if ping is not None and (self._stopping or ping.due <= now):
                    self._sending = self._waiting.pop(ping.heartbeat.url)
                    return ping
                if self._stopping:
                    self._thread = None
                    return None
                self._changed.wait(None if ping is None else ping.due - now)

    def _settle(self, ping: _Ping, reason: str | None, *, again: bool) -> None:
        url = ping.heartbeat.url
        report = False
        with self._changed:
            self._sending = None
            if reason is None:
                self._failing.discard(url)
            elif url in self._waiting:
                pass  # superseded meanwhile by a newer event, which has tries of its own
            elif again and ping.tries < len(self._backoff):
                ping.due = monotonic() + self._backoff[ping.tries]
                ping.tries += 1
                self._waiting[url] = ping
            else:
                report = url not in self._failing
                self._failing.add(url)
                ping.families.dropped("heartbeat", reason)
            self._changed.notify_all()
        if report:
            _log.warning(
                "heartbeat of job %r not delivered to %s: %s (try %d); counted from now on. The prober may ring for "
                "this job although it runs.",
                ping.job,
                _shown(url),
                reason,
                ping.tries + 1,
            )


def deliver(address: str, timeout: float) -> tuple[str | None, bool]:
    """Call a heartbeat URL with POST, or with GET where POST is not allowed.

    Returns (None, False) if it was taken, else (why not, whether another try may help). Why is one of: `timeout`,
    `unreachable`, `protocol`, `status_3xx`, `status_4xx`, `status_5xx`.
    """
    status = _call(address, "POST", timeout)
    if status == 405:
        status = _call(address, "GET", timeout)
    if isinstance(status, str):
        return status, True
    if 200 <= status < 300:
        return None, False
    return f"status_{status // 100}xx", status >= 500 or status in _AGAIN_STATUSES


def _call(address: str, method: str, timeout: float) -> int | str:
    """Return the status of the answer, or why there was none."""
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    request = urllib.request.Request(  # noqa: S310 - heartbeats_of lets only http and https through
        urlunsplit(parts._replace(netloc=host, fragment="")),
        data=b"" if method == "POST" else None,
        headers={"User-Agent": "tocsin"},
        method=method,
    )
    if parts.username is not None:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        # Not to where a redirect leads.
        request.add_unredirected_header("Authorization", f"Basic {b64encode(credentials.encode()).decode()}")
    try:
        with urllib.request.build_opener().open(request, timeout=timeout) as answer:
            return int(answer.status)
    except HTTPError as error:
        error.close()
        return error.code
    except TimeoutError:
        return "timeout"
    except URLError as error:
        return "timeout" if isinstance(error.reason, TimeoutError) else "unreachable"
    except OSError:
        return "unreachable"
    except (HTTPException, ValueError):
        return "protocol"


class _Process:
    sender: Sender | None = None
    lock = threading.Lock()
    watches_forks = False

    @classmethod
    def after_fork(cls) -> None:
        cls.lock = threading.Lock()  # what another thread held at the fork is held for ever


def sender() -> Sender:
    """Return the process's sender, made when first asked for."""
    if not _Process.watches_forks:
        _Process.watches_forks = True
        os.register_at_fork(after_in_child=_Process.after_fork)
    with _Process.lock:
        if _Process.sender is None:
            _Process.sender = Sender()
        return _Process.sender
