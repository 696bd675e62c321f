"""Hands runs to trackers: those of a launch while they go on, in a thread of its own, and those of a finished folder.

Each run is written from the beginning of its event log, whatever an earlier launch has written of it, and no point twice:
resuming and repeating double nothing. A tracker that fails is left out from then on; that is printed once.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from smope_bench.harness.metrics import Metric
from smope_bench.harness.records.event_log import EVENTS, events_in, lines_of
from smope_bench.harness.records.record import Record
from smope_bench.harness.records.store import Store
from smope_bench.harness.text import sentence, shell_command
from smope_bench.harness.tracking.points import LOGGED, events_of, flat, points_of, recorded_points, summary_of
from smope_bench.harness.tracking.tracker import Point, RunWriter, TrackedRun, Tracker

READ_EVERY_S = 2.0
"""Seconds between two readings of one run's log."""
WAIT_S = 60.0
"""How long the end of a launch waits for a tracker, as for one that sends to a server."""
FOLDER = "tracked"
"""Folder among results where trackers write, each in a folder of its name, unless the user names another."""

End = Literal["done", "failed", "stopped"]
Notify = Callable[[str], None]


@dataclass(frozen=True)
class RunFacts:
    """A run as its plan or its record has it."""

    run_id: str
    name: str
    suite: str
    spec: Mapping[str, Any]


@dataclass
class _Open:
    """A run that is being written."""

    run: TrackedRun
    writers: dict[str, RunWriter] = field(default_factory=dict)
    written: set[tuple[str, int]] = field(default_factory=set)


class TrackWriter:
    """Writes runs with some trackers, each below ``out``; a tracker that fails is left out."""

    def __init__(
        self,
        trackers: Sequence[Tracker],
        store: Store,
        out: Path,
        metrics: Sequence[Metric],
        notify: Notify,
        plugins: Sequence[Path] = (),
        *,
        has_records: bool = True,
    ) -> None:
        """``has_records``: whether the store keeps the runs, so that they can be written later."""
        self._has_records = has_records
        self._trackers = {one.name: one for one in trackers}
        self._store, self._out, self._metrics, self._notify = store, out, metrics, notify
        self._plugins = plugins
        self._runs: dict[str, _Open] = {}
        self.working = sorted(self._trackers)
        """Names of the trackers that have not failed."""

    def write(self, run: RunFacts, end: End | None = None) -> None:
        """Write what is new in a run's log; with ``end``, the last of it, and close the run."""
        events = events_in(lines_of(self._store.path(run.run_id) / EVENTS))
        record = self._store.load(run.run_id) if end == "done" else None
        result = record.result if isinstance(record, Record) else None
        if result is not None and not any(event.get("event") == "task_evaluated" for event in events):
            events = events_of(result)
        if not events and end is None:
            return
        found = self._runs.setdefault(run.run_id, _Open(self._tracked(run, events)))
        points = [*points_of(events), *(recorded_points(result) if result is not None else ())]
        new = [point for point in points if (point.name, point.step) not in found.written]
        found.written |= {(point.name, point.step) for point in new}
        summary = summary_of(result, self._metrics) if result is not None else {}
        for name in list(self.working):
            with self._guarded(name):
                self._write(found, name, new, end, summary)
        if end is not None:
            del self._runs[run.run_id]

    def close(self) -> None:
        """Close the runs that are still being written: they were stopped."""
        for found in self._runs.values():
            for name in found.writers.keys() & set(self.working):
                with self._guarded(name):
                    found.writers[name].end("stopped", {})
        self._runs.clear()

    def _write(
        self, found: _Open, name: str, points: Sequence[Point], end: End | None, summary: Mapping[str, float]
    ) -> None:
        if name not in found.writers:
            folder = self._out / name
            folder.mkdir(parents=True, exist_ok=True)
            found.writers[name] = self._trackers[name].open(found.run, folder)
        if points:
            found.writers[name].write(points)
        if end is not None:
            found.writers[name].end(end, summary)

    def _tracked(self, run: RunFacts, events: Sequence[Mapping[str, Any]]) -> TrackedRun:
        last = next((event["t"] for event in reversed(events) if isinstance(event.get("t"), int | float)), 0.0)
        try:
            written = (self._store.path(run.run_id) / EVENTS).stat().st_mtime
        except OSError:
            written = time.time()
        return TrackedRun(run.run_id, run.name, run.suite, flat(run.spec), written - last)

    @contextlib.contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        try:
            yield
        except (Exception, SystemExit) as error:
            if name not in self.working:  # the launch has ended without it
                return
            self.working.remove(name)
            self._notify(f"note: tracking with {name} has ended ({sentence(error)}); {self._remedy(name)}")

    def give_up(self) -> None:
        """Print that the trackers have not come to an end."""
        for name in self.working:
            self._notify(f"note: tracking with {name} has not ended within {WAIT_S:.0f} s; {self._remedy(name)}")
        self.working = []

    def _remedy(self, name: str) -> str:
        if not self._has_records:
            return "no trial is lost by it"
        again = shell_command(
            "track", str(self._store.root), "--to", name, "--out", str(self._out), plugins=self._plugins
        )
        return f"no run is lost by it. Once the cause is mended, write all of them with: {again}"

    def looks(self) -> list[str]:
        """Sentences that name the commands which show what was written."""
        shown = [(name, self._trackers[name].look_at(self._out / name)) for name in self.working]
        return [
            f"tracked in {str(self._out / name)!r}{f'; see it with: {look}' if look else ''}" for name, look in shown
        ]


class Tracking:
    """Writes the runs of a launch in a thread, so that no server and no disk holds up a run. A context manager around it."""

    def __init__(self, writer: TrackWriter | None, clock: Callable[[], float] = time.monotonic) -> None:
        """``writer`` None tracks nothing."""
        self._writer, self._clock = writer, clock
        self._todo: queue.SimpleQueue[tuple[RunFacts, End | None] | None] = queue.SimpleQueue()
        self._read: dict[str, float] = {}
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)

    def __enter__(self) -> Self:
        if self._writer is not None:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer is None:
            return
        self._todo.put(None)
        self._thread.join(WAIT_S)
        if self._thread.is_alive():
            self._writer.give_up()

    def update(self, run: RunFacts, event: Mapping[str, Any]) -> None:
        """Take notice of an event of a run; its log is read at most every two seconds."""
        if self._writer is None or event.get("event") not in LOGGED:
            return
        now = self._clock()
        if now - self._read.get(run.run_id, -READ_EVERY_S) >= READ_EVERY_S:
            self._read[run.run_id] = now
            self._todo.put((run, None))

    def finish(self, run: RunFacts, end: End) -> None:
        """Take notice of a run's end."""
        if self._writer is not None:
            self._todo.put((run, end))

    def _work(self) -> None:
        assert self._writer is not None
        while (item := self._todo.get()) is not None:
            self._writer.write(*item)
        self._writer.close()
