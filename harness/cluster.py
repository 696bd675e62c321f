"""What executors on other machines share: the body of a task there, and what the results folder tells of a run from afar.

Only the results folder is shared. Progress is read from what each run writes there, which needs no connection to the process
that runs it and goes on where a killed worker's successor goes on. Importing this module imports no torch.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.claims import CANCEL
from harness.interruption import Interruption
from harness.jobs import End, Job, OnEvent, WorkerOptions, run_job
from harness.provenance import code_fingerprint

POLL_S = 0.5
LOOK_S = 0.005
"""Pause per run between looks at the files of all: a server of files with hundreds of runs is asked 400 times a second."""
STOP_S = 20.0
"""How long running work gets to save itself before it is killed; a stop is noticed within a heartbeat of five seconds."""


def travelling(options: WorkerOptions) -> WorkerOptions:
    """The options with absolute paths: a worker elsewhere starts in another folder."""
    plugins = tuple(plugin.absolute() for plugin in options.plugins)
    return replace(options, results=options.results.absolute(), data=options.data.absolute(), plugins=plugins)


def run_remotely(job: Job, options: WorkerOptions, fingerprint: str, interruption: Interruption | None = None) -> End:
    """Body of a task on a cluster. ``fingerprint`` is of the launcher's code: other code would publish other numbers."""
    if code_fingerprint() != fingerprint:
        sentence = (
            f"the worker's copy of this project has code {code_fingerprint()[:12]}, the launcher's {fingerprint[:12]};"
            " install the same version on every node, or work from one shared folder"
        )
        return End(job.run_id, {"kind": "OtherCode", "error": sentence, "traceback": ""})
    return run_job(job, options, _nobody_listens, interruption)


def _nobody_listens(run_id: str, event: dict[str, Any]) -> None:
    """The launcher reads what the run writes."""


def ask_to_stop(results: Path, run_ids: Iterable[str]) -> None:
    """Ask whoever does these runs to save them and stop."""
    for run_id in run_ids:
        with contextlib.suppress(OSError):
            (results / run_id).mkdir(exist_ok=True)
            (results / run_id / CANCEL).touch()


def withdraw_stop(results: Path, run_ids: Iterable[str]) -> None:
    """Forget what ``ask_to_stop`` asked, so that the next attempt is not stopped by it; a folder made for it goes too."""
    for run_id in run_ids:
        with contextlib.suppress(OSError):
            (results / run_id / CANCEL).unlink(missing_ok=True)
            (results / run_id).rmdir()  # refused where anything was written


def wait_for_end(unfinished: Callable[[], bool], seconds: float = STOP_S) -> None:
    """Wait while ``unfinished()``, at most so long."""
    end = time.monotonic() + seconds
    while unfinished() and time.monotonic() < end:
        time.sleep(POLL_S)


class Tail:
    """New events of runs that write to the results folder, wherever they run. What was there before is old news."""

    def __init__(self, results: Path, run_ids: Iterable[str]) -> None:
        self._runs = {run_id: _RunTail(results / run_id) for run_id in run_ids}
        self._next = 0.0

    def tell(self, on_event: OnEvent) -> None:
        """Pass on what is new; calls too soon after another do nothing, to spare the file server."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + max(POLL_S, LOOK_S * len(self._runs))
        for run_id, tail in self._runs.items():
            for event in tail.news():
                on_event(run_id, event)

    def forget(self, run_id: str, on_event: OnEvent) -> None:
        """Pass on the last events of a run that ended, and look no more."""
        for event in self._runs.pop(run_id).news():
            on_event(run_id, event)


class _RunTail:
    """``events.jsonl`` and ``progress.json`` of one run. A new attempt rewrites the first from where it resumes."""

    def __init__(self, folder: Path) -> None:
        self._events, self._progress = folder / "events.jsonl", folder / "progress.json"
        self._stamps = {self._events: _stamp(self._events), self._progress: _stamp(self._progress)}
        self._told = _lines(self._events)

    def news(self) -> Iterator[dict[str, Any]]:
        """Events since the last call."""
        if self._changed(self._events):
            yield from self._new_events()
        if self._changed(self._progress):
            with contextlib.suppress(OSError, ValueError, TypeError):
                step = json.loads(self._progress.read_text(encoding="utf-8"))
                kept = {key: step[key] for key in ("task", "phase", "step", "total_steps") if key in step}
                if "step" in kept and "total_steps" in kept:
                    yield {"event": "step", **kept}

    def _changed(self, file: Path) -> bool:
        before, self._stamps[file] = self._stamps[file], _stamp(file)
        return self._stamps[file] not in (None, before)

    def _new_events(self) -> Iterator[dict[str, Any]]:
        lines = _lines(self._events)
        told, self._told = self._told, lines
        goes_on = lines[: len(told)] == told
        events = [event for line in (lines[len(told) :] if goes_on else lines) if (event := _event(line))]
        starts = [i for i, event in enumerate(events) if event.get("event") == "run_started"]
        # Before its start come an earlier attempt's lines, about tasks that are not repeated.
        yield from events[starts[-1] if starts else 0 :]


def _lines(file: Path) -> list[str]:
    """Whole lines: the last one may be half written."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    except OSError:
        return []


def _event(line: str) -> dict[str, Any] | None:
    with contextlib.suppress(ValueError):
        event = json.loads(line)
        return event if isinstance(event, dict) else None
    return None


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
