"""Events of a run: sent to a listener, logged in ``events.jsonl``, and summarised for other processes in ``progress.json``."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TextIO

from smope_bench.harness.records.atomic_write import write_json_atomically

OnEvent = Callable[[dict[str, Any]], None]

EVENTS, PROGRESS = "events.jsonl", "progress.json"
EVENT_INTERVAL_S, PROGRESS_INTERVAL_S = 0.2, 2.0
"""Least seconds between two steps that the listener is sent, and between two states of ``progress.json``; no step is logged."""


class RunLog:
    """The log of one run. A log that cannot be written, for example on a full disk, does not stop the run."""

    def __init__(self, folder: Path, listener: OnEvent) -> None:
        self._folder = folder
        self._listener = listener
        self._file: TextIO | None = None
        self._started = time.monotonic()
        self._step_event_at = self._progress_at = self._started

    def open(self, mark: tuple[int, float]) -> None:
        """Continue from ``mark``, a result of ``mark()`` of an earlier attempt; later lines are removed. Raises OSError."""
        self.close()
        file, (size, seconds) = self._folder / EVENTS, mark
        _truncate(file, size)
        self._file = file.open("a", encoding="utf-8")
        self._started = time.monotonic() - seconds

    def close(self) -> None:
        """Close the file; it can be opened again."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def mark(self) -> tuple[int, float]:
        """Bytes written so far, durably, and seconds since the first line."""
        seconds = time.monotonic() - self._started
        if self._file is None:
            return 0, seconds
        with contextlib.suppress(OSError):
            self._file.flush()
            os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size, seconds

    def log(self, event: str, **facts: Any) -> None:
        """Write an event to the log and send it to the listener."""
        if self._file is not None:
            seconds = round(time.monotonic() - self._started, 3)
            with contextlib.suppress(OSError):
                self._file.write(json.dumps({"t": seconds, "event": event, **facts}) + "\n")
                self._file.flush()
        self.notify(event, **facts)

    def notify(self, event: str, **facts: Any) -> None:
        """Send an event to the listener alone: the log has it already or does not need it."""
        self._listener({"event": event, **facts})

    def step(self, task: int, tasks: int, phase: str, step: int, total: int) -> None:
        """Report the progress of training; most calls are skipped, so that it may be called after every step."""
        self._progress("step", tasks, {"task": task, "phase": phase, "step": step, "total_steps": total}, step == total)

    def work(self, task: int, tasks: int, phase: str, done: int, total: int, unit: str) -> None:
        """Report the progress of work without training steps, such as evaluation; most calls are skipped, likewise."""
        facts = {"task": task, "phase": phase, "done": done, "total": total, "unit": unit}
        self._progress("work", tasks, facts, done == total)

    def _progress(self, event: str, tasks: int, facts: dict[str, Any], is_last: bool) -> None:
        now = time.monotonic()
        if now - self._step_event_at >= EVENT_INTERVAL_S or is_last:
            self._step_event_at = now
            self.notify(event, **facts)
        if now - self._progress_at >= PROGRESS_INTERVAL_S:
            self._progress_at = now
            with contextlib.suppress(OSError):
                write_json_atomically(self._folder / PROGRESS, {"tasks": tasks, **facts, "updated": time.time()})


def _truncate(file: Path, size: int) -> None:
    """Keep the complete lines among the first ``size`` bytes."""
    with contextlib.suppress(FileNotFoundError), file.open("rb+") as stream:
        stream.truncate(stream.read(size).rfind(b"\n") + 1)


def lines_of(file: Path) -> list[str]:
    """Complete lines of a log, of which the last may be half written."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    except OSError:
        return []


def events_in(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The events among ``lines``; other lines are ignored."""
    events: list[dict[str, Any]] = []
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            event = json.loads(line)
            events += [event] if isinstance(event, dict) else []
    return events


_COUNTS = {"step": ("step", "total_steps"), "work": ("done", "total")}
"""Events that ``progress.json`` may hold, and the numbers that each must have."""


def read_progress(file: Path) -> dict[str, Any] | None:
    """The event that ``progress.json`` holds, ``step`` or ``work``; None where it is missing, damaged or of another form."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    for event, counts in _COUNTS.items():
        if isinstance(found, dict) and all(isinstance(found.get(name), int) for name in counts):
            return {**found, "event": event}
    return None
