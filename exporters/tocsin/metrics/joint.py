"""What workers count together: this process's own segment, and those of all others read as one.

Only loaded in a process that shares its cells.
"""

from __future__ import annotations

import logging
import os
import struct
import time
from collections.abc import Iterable
from pathlib import Path
from typing import cast

from tocsin import names
from tocsin.metrics import group
from tocsin.metrics.described import Adopted, described, is_adopted, text_of
from tocsin.metrics.members import Members, locked, sweep
from tocsin.metrics.merge import Example, Merger, Series, copy, fold
from tocsin.metrics.segment import CPU, LOST, OLDEST, SPARE, SPARE_CELLS, STARTS, View, undisturbed
from tocsin.metrics.store import Exemplar, Reading
from tocsin.names import Metric

_EXEMPLAR = struct.Struct("<d24s")
_Key = tuple[str, tuple[str, ...]]

_log = logging.getLogger("tocsin")


class Joint:
    """One process among others. Not thread-safe: used with the lock of its store held.

    Args:
        folder: of the group.
        own: whether the folder is ours, so that the ones beside it that nobody needs are removed.
        leads: whether this process leads the group, so that the folder goes when this one is dropped.

    Raises:
        OSError: there is no such folder and none can be made, or no room.
    """

    def __init__(self, folder: Path, *, own: bool, leads: bool) -> None:
        self._members = Members(folder, fold, leads=own and leads)
        self._last = own and leads
        if own:
            sweep(folder.parent, group.forsaken, time.time())
        self._pid = os.getpid()
        self._started = group.started(self._pid)
        self.segment = self._members.join(self._pid, self._started)
        self.segment.cells[OLDEST] = group.start_time(self._pid)
        self._places: dict[_Key, int] = {}
        self._removed: dict[_Key, int] = {}
        self._ours = Merger(lambda family: not is_adopted(family))
        self._adopted = Merger(is_adopted)

    # --- this process -------------------------------------------------------------------------------------------------

    def take(self, readings: Iterable[Reading]) -> None:
        """Go on with what was counted before.

        Raises:
            OSError: there is no room.
        """
        for reading in readings:
            examples = {
                bucket: Example(exemplar.at, packed(exemplar), _EXEMPLAR.size)
                for bucket, exemplar in reading.exemplars.items()
            }
            family = text_of(reading.metric)
            series = Series(family, reading.labels, reading.values, examples)
            self._places[family, reading.labels] = copy(series, self.segment)

    @staticmethod
    def describe(metric: Metric) -> str:
        """Return the description of a metric of ours, as `place` wants it."""
        return text_of(metric)

    def place(self, family: str, labels: tuple[str, ...], size: int) -> int:
        """Return the first cell of a series. The cells may be other ones afterwards.

        Args:
            family: description of the metric.
            labels: what tells the series from others of the family.
            size: how many cells it has.

        Raises:
            OSError: no room, not even among the spare cells.
        """
        key = (family, labels)
        index = self._places.get(key)
        if index is None:
            with undisturbed():
                index = self._removed.pop(key, None)
                if index is None:
                    index = self._new(key, size)
                else:
                    self.segment.remove(index, removed=False)
                self._places[key] = index
        return index

    def remove(self, family: str, labels: tuple[str, ...]) -> None:
        """Take a series off the page; `place` brings it back."""
        index = self._places.pop((family, labels), None)
        if index is not None:
            self._removed[family, labels] = index
            self.segment.remove(index)

    def exemplify(self, index: int, bucket: int, exemplar: Exemplar) -> None:
        """Keep an exemplar of a series of ours, if there is room for it."""
        try:
            self.segment.exemplify(index, bucket, exemplar[3], packed(exemplar), _EXEMPLAR.size)
        except (OSError, ValueError):  # ValueError: ids that are no hexadecimal digits
            return  # not contextlib.suppress: that alone takes longer than the rest

    def be_worker(self) -> None:
        """Count as a worker from now on: a process that answers requests."""
        self.segment.cells[STARTS] = 1.0

    def leave(self) -> None:
        """At the end of the process: note its CPU time; if it leads, the folder goes when nobody else is in it."""
        self.segment.cells[CPU] = max(self.segment.cells[CPU], sum(os.times()[:2]))
        if self._last:
            self._members.leave()

    # --- all processes ------------------------------------------------------------------------------------------------

    def readings(self) -> list[Reading]:
        """Return all series of ours."""
        views = self.look()
        found = [_reading(series) for series in self._ours.read(views)]
        lost = sum(view.cells[LOST] for view in views)
        if lost:
            found.append(Reading(names.TOCSIN_DROPPED, ("metrics", "no_room"), [lost], {}))
        return found

    def adopted(self) -> list[tuple[Adopted, Series]]:
        """Return what prometheus_client's metrics have counted."""
        found = []
        for series in self._adopted.read(self.look()):
            family = described(series.family)
            if isinstance(family, Adopted):
                found.append((family, series))
        return found

    def views(self) -> tuple[list[View], list[View]]:
        """Return the segments of living workers, and all segments with the base of dead ones."""
        everyone = self.look()
        living = self._members.living()
        return [view for view in living if view.cells[STARTS]] or living, everyone

    def look(self) -> list[View]:
        """Return all segments, dead ones folded. The cells may be other ones afterwards.

        Should the files have been removed, this process writes its own again, with everything it has counted.
        """
        members = self._members
        try:
            with locked(members.folder) as held:
                views = members.refresh(fold=held)
            if members.own_view() is not None:
                return views
            raise FileNotFoundError(members.own)
        except OSError:
            members.join(self._pid, self._started, moved=self.segment)
            return members.refresh(fold=False)

    def _new(self, key: _Key, size: int) -> int:
        segment = self.segment
        try:
            return segment.add(*key, size)
        except OSError as error:
            if not segment.cells[LOST]:
                _log.warning("no room to share new series: they are not counted: %s", error)
            segment.cells[LOST] += 1.0
            if size > SPARE_CELLS:
                raise
            return SPARE


def packed(exemplar: Exemplar) -> bytes:
    """Return an exemplar of ours as it is kept.

    Raises:
        ValueError: its ids are no hexadecimal digits.
    """
    trace_id, span_id, value, _ = exemplar
    return _EXEMPLAR.pack(value, bytes.fromhex(trace_id + span_id))


def _reading(series: Series) -> Reading:
    exemplars = {bucket: _exemplar(example) for bucket, example in series.examples.items()}
    return Reading(cast("Metric", described(series.family)), series.labels, series.values, exemplars)


def _exemplar(example: Example) -> Exemplar:
    value, ids = _EXEMPLAR.unpack(example.payload)
    text = ids.hex()
    return Exemplar(text[:32], text[32:], value, example.at)
