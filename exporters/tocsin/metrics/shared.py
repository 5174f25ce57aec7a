"""The store of a process that may be one of several: cells of its own until others count too, then a segment.

While a process is alone its cells are a list, and cost nothing more than that. When it turns out to be a worker, or is
about to fork, the cells move into a segment; a forked process begins with an empty one of its own.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING
from weakref import WeakSet

from prometheus_client import CollectorRegistry

from tocsin.metrics import group
from tocsin.metrics.store import Exemplar, HeapStore, Reading, size_of
from tocsin.names import Metric

if TYPE_CHECKING:
    from tocsin.metrics.described import Adopted
    from tocsin.metrics.joint import Joint
    from tocsin.metrics.merge import Series
    from tocsin.metrics.segment import View

WATCHED: WeakSet[CollectorRegistry] = WeakSet()
"""Registries whose prometheus_client metrics are shared too, as soon as this process shares its cells."""

_ANSWERING = ("http_server_", "http_request", "starlette_request")
"""How the metrics begin that only a process has which answers requests."""

_log = logging.getLogger("tocsin")


class SharedStore(HeapStore):
    """The cells of one process and, once it shares them, those of the other workers too.

    Args:
        service: name of the service, or empty.
        number: which of the stores of this service in this process it is; the same in every worker.
        environ: where `PROMETHEUS_MULTIPROC_DIR` is looked for.
        first: the first store of this process, if it is another: what prometheus_client counts goes there, whichever
            of them shares its cells first.
    """

    def __init__(self, service: str, number: int, environ: Mapping[str, str], first: SharedStore | None = None) -> None:
        super().__init__()
        self._service = service
        self._number = number
        self._declared = group.declared_folder(environ)
        self._leader = group.leader()
        self._first: Callable[[], SharedStore | None] = weakref.ref(self if first is None else first)
        self._forget: list[Callable[[], None]] = []
        self._joint: Joint | None = None
        self._refused = False
        if self._leader.evident:
            with self.lock:
                self._publish(worker=True)

    @property
    def sharing(self) -> bool:
        """Whether other processes see these cells."""
        return self._joint is not None

    @property
    def in_group(self) -> bool:
        """Whether other processes see these cells, or will as soon as there is a series."""
        return self._joint is not None or self._joins()

    @property
    def declared(self) -> Path | None:
        """The folder that the user gave for all processes; then prometheus_client shares its own metrics there."""
        return self._declared

    def name_service(self, name: str) -> None:
        """Say what is counted here, so that two services which one process has started do not mix.

        Passed over where a server is known to have started this process: it has one service. And once the cells are
        shared, for then it is too late.
        """
        if self._joint is None and not self._leader.evident and not self._service:
            self._service = name

    # --- as a store -----------------------------------------------------------------------------------------------

    def allocate(self, metric: Metric, labels: tuple[str, ...]) -> int:
        """Return the index of the first cell of a series; cells of a new one are 0."""
        if not self.share():
            return super().allocate(metric, labels)
        joint = self._sharing()
        if metric.name.startswith(_ANSWERING):
            joint.be_worker()
        index = joint.place(joint.describe(metric), labels, size_of(metric))
        self._see(joint)
        return index

    def exemplify(self, index: int, bucket: int, exemplar: Exemplar) -> None:
        """Keep the latest exemplar of a bucket of the series that begins at this index."""
        joint = self._joint
        if joint is None:
            super().exemplify(index, bucket, exemplar)
        else:
            joint.exemplify(index, bucket, exemplar)
            self.cells = joint.segment.cells

    def readings(self) -> list[Reading]:
        """Return all series over all workers, in the order they were first seen."""
        if not self.joined():
            return super().readings()
        joint = self._sharing()
        readings = joint.readings()
        self._see(joint)
        return readings

    def on_renewal(self, forget: Callable[[], None]) -> None:
        """Call this whenever every index has become invalid: with the lock held, or right after a fork."""
        self._forget.append(forget)

    # --- the other workers, for prometheus_client's metrics and the page: with the lock held --------------------------

    def share(self) -> bool:
        """Share the cells if this process belongs to a group; return whether they are shared."""
        return self._joint is not None or (self._joins() and self._publish())

    def joined(self) -> bool:
        """Share the cells if there are other workers by now, and return whether they are shared."""
        if not self.share() and not (self._has_followers() and self._publish()):
            return False
        if self._leader.pid != os.getpid():  # who leads may show a page of its workers, and be none itself
            self._sharing().be_worker()
        return True

    def place(self, family: str, labels: tuple[str, ...], size: int) -> int:
        """Return the first cell of a series of this description."""
        joint = self._sharing()
        index = joint.place(family, labels, size)
        self._see(joint)
        return index

    def remove(self, family: str, labels: tuple[str, ...]) -> None:
        """Take a series off the page; `place` brings it back."""
        self._sharing().remove(family, labels)

    def keep(self, index: int, at: float, payload: bytes, width: int) -> None:
        """Keep the exemplar of a series with one number, if there is room for it."""
        joint = self._sharing()
        with suppress(OSError):
            joint.segment.exemplify(index, 0, at, payload, width)
        self._see(joint)

    def adopted(self) -> list[tuple[Adopted, Series]]:
        """Return what prometheus_client's metrics have counted in all workers."""
        joint = self._sharing()
        found = joint.adopted()
        self._see(joint)
        return found

    def views(self) -> tuple[list[View], list[View]]:
        """Return the segments of living workers, and all segments with the base of dead ones."""
        joint = self._sharing()
        found = joint.views()
        self._see(joint)
        return found

    # --- the life of the process --------------------------------------------------------------------------------------

    def about_to_fork(self) -> None:
        """Share what was counted until now, so that a forked worker shows it too."""
        if self._joint is None and self.lock.acquire(timeout=1.0):
            try:
                self._publish()
            finally:
                self.lock.release()

    def forked(self, caller: FrameType | None) -> None:
        """In a forked process: begin with nothing. What was counted before is the parent's.

        Args:
            caller: the function that called `os.fork`.
        """
        self.lock = threading.RLock()
        self._joint = None
        self._start_empty()
        for forget in self._forget:
            forget()
        if not self._refused and group.forked_as_worker(caller):
            self._publish(worker=True)

    def leave(self) -> None:
        """At the end of the process: note its CPU time, and take away what nobody needs any more."""
        if self._joint is not None:
            self._joint.leave()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _joins(self) -> bool:
        """Whether this process counts together with others, as far as it can know."""
        return not self._refused and (self._declared is not None or self._leader.pid != os.getpid())

    def _has_followers(self) -> bool:
        """Whether a process that this one has started counts in the folder of the two."""
        return not self._refused and group.has_folder(self._name())

    def _folder(self) -> Path:
        if self._declared is None:
            return group.root() / self._name()
        return self._declared / f"tocsin-{self._name().rpartition('-')[2]}"

    def _name(self) -> str:
        return group.folder_name(self._leader, self._service, self._number)

    def _publish(self, *, worker: bool = False) -> bool:
        """Move the cells into a segment. With the lock held. Returns whether that was possible."""
        if self._refused:
            return False
        # What a process by itself need not wait for when it starts.
        from tocsin.metrics import adopt, joint  # noqa: PLC0415

        try:
            leads = self._leader.pid == os.getpid()
            found = joint.Joint(self._folder(), own=self._declared is None, leads=leads)
            found.take(super().readings())
        except (OSError, ValueError) as error:
            self._refused = True
            _log.warning("workers are not summed, every one shows its own counts: %s", error)
            return False
        self._start_empty()
        self._joint = found
        self._see(found)
        if worker:
            found.be_worker()
        for forget in self._forget:
            forget()
        if self._declared is None:
            first = self._first() or self
            with first.lock:
                if first._joint is not None or first._publish():
                    adopt.begin(first)
        return True

    def _start_empty(self) -> None:
        self.cells = []
        self._series.clear()
        self._exemplars.clear()

    def _sharing(self) -> Joint:
        if self._joint is None:
            raise RuntimeError("this process does not share its cells")
        return self._joint

    def _see(self, joint: Joint) -> None:
        """Look at the cells where they are now."""
        self.cells = joint.segment.cells
