"""What a run says while it goes on: to its listener, to its ``events.jsonl``, and to ``progress.json`` for other processes."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TextIO

from smope_bench.harness.records.store import write_json

OnEvent = Callable[[dict[str, Any]], None]

EVENTS, PROGRESS = "events.jsonl", "progress.json"
EVENT_INTERVAL_S = 0.2
PROGRESS_INTERVAL_S = 2.0


class RunLog:
    """The log of one run. A log that cannot be written, on a full disk for example, stops nobody."""

    def __init__(self, folder: Path, listener: OnEvent) -> None:
        self._folder = folder
        self._listener = listener
        self._file: TextIO | None = None
        self._started = time.monotonic()
        self._spoken = self._shown = self._started

    def open(self, mark: tuple[int, float]) -> None:
        """Go on from ``mark``, as an earlier attempt gave it: what was written after it is dropped. Raises OSError."""
        self.close()
        file, (size, seconds) = self._folder / EVENTS, mark
        _cut(file, size)
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
        """Tell the listener and the log."""
        if self._file is not None:
            seconds = round(time.monotonic() - self._started, 3)
            with contextlib.suppress(OSError):
                self._file.write(json.dumps({"t": seconds, "event": event, **facts}) + "\n")
                self._file.flush()
        self.notify(event, **facts)

    def notify(self, event: str, **facts: Any) -> None:
        """Tell the listener what the log has already, or need not have."""
        self._listener({"event": event, **facts})

    def step(self, task: int, tasks: int, phase: str, step: int, total: int) -> None:
        """Say how far training is, as often as anybody can read it."""
        now = time.monotonic()
        if now - self._spoken >= EVENT_INTERVAL_S or step == total:
            self._spoken = now
            self.notify("step", task=task, phase=phase, step=step, total_steps=total)
        if now - self._shown >= PROGRESS_INTERVAL_S:
            self._shown = now
            shown = {"task": task, "tasks": tasks, "phase": phase, "step": step, "total_steps": total}
            with contextlib.suppress(OSError):
                write_json(self._folder / PROGRESS, {**shown, "updated": time.time()})


def _cut(file: Path, size: int) -> None:
    """Keep the first ``size`` bytes, and of those only whole lines."""
    try:
        with file.open("rb+") as stream:
            kept = stream.read(size)
            stream.truncate(kept.rfind(b"\n") + 1)
    except FileNotFoundError:
        return


def lines_of(file: Path) -> list[str]:
    """Whole lines of a log: the last one may be half written."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    except OSError:
        return []


def events_in(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The events among the lines."""
    events: list[dict[str, Any]] = []
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            event = json.loads(line)
            events += [event] if isinstance(event, dict) else []
    return events
