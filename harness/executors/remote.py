"""What executors on other machines share: the body of a task there, and what the results folder tells of a run from afar.

Only the results folder is shared. Progress is read from what each run writes there, which needs no connection to the process
that runs it and goes on where a killed worker's successor goes on. Importing this module imports no torch.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from smope_bench.harness.cancellation import StopRequest
from smope_bench.harness.execution.job import Job, JobResult, OnEvent, WorkerOptions, run_job
from smope_bench.harness.provenance import code_fingerprint
from smope_bench.harness.records.event_log import events_in, lines_of

POLL_S = 0.5
LOOK_S = 0.005
"""Pause per run between looks at the files of all: a server of files with hundreds of runs is asked 400 times a second."""
STOP_S = 20.0
"""How long running work gets to save itself before it is killed; a stop is noticed within a heartbeat of five seconds."""


def for_remote(options: WorkerOptions) -> WorkerOptions:
    """The options with absolute paths, for a worker elsewhere starts in another folder, and with a stop file of this launcher's
    own: another may have some of the same runs, and stopping one must not stop the other's."""
    results, plugins = options.results.absolute(), tuple(plugin.absolute() for plugin in options.plugins)
    stop_file = results / f".stop-{secrets.token_hex(8)}"
    return replace(options, results=results, data=options.data.absolute(), plugins=plugins, stop_file=stop_file)


def run_remotely(
    job: Job, options: WorkerOptions, fingerprint: str, interruption: StopRequest | None = None
) -> JobResult:
    """Body of a task on a cluster. ``fingerprint`` is of the launcher's code: other code would publish other numbers."""
    if code_fingerprint() != fingerprint:
        sentence = (
            f"the worker's copy of this project has code {code_fingerprint()[:12]}, the launcher's {fingerprint[:12]};"
            " install the same version on every node, or work from one shared folder"
        )
        return JobResult(job.run_id, {"kind": "OtherCode", "error": sentence, "traceback": ""})
    return run_job(job, options, _nobody_listens, interruption)


def _nobody_listens(run_id: str, event: dict[str, Any]) -> None:
    """The launcher reads what the run writes."""


def ask_to_stop(options: WorkerOptions) -> None:
    """Ask whoever does a run for this launcher to save it and stop."""
    assert options.stop_file is not None
    with contextlib.suppress(OSError):
        options.stop_file.touch()


def withdraw_stop(options: WorkerOptions) -> None:
    """Forget what ``ask_to_stop`` asked."""
    assert options.stop_file is not None
    with contextlib.suppress(OSError):
        options.stop_file.unlink(missing_ok=True)


def wait_for_end(unfinished: Callable[[], bool], seconds: float = STOP_S) -> None:
    """Wait while ``unfinished()``, at most so long."""
    end = time.monotonic() + seconds
    while unfinished() and time.monotonic() < end:
        time.sleep(POLL_S)


class EventFollower:
    """New events of runs that write to the results folder, wherever they run. What was there before is old news."""

    def __init__(self, results: Path, run_ids: Iterable[str]) -> None:
        self._runs = {run_id: _RunFollower(results / run_id) for run_id in run_ids}
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


class _RunFollower:
    """``events.jsonl`` and ``progress.json`` of one run. A new attempt cuts the first back to where it resumes and adds to it.

    One that resumes does not write again that it started, so that its log reads like that of a run that was never stopped.
    """

    def __init__(self, folder: Path) -> None:
        self._events, self._progress = folder / "events.jsonl", folder / "progress.json"
        self._stamps = {self._events: _stamp(self._events), self._progress: _stamp(self._progress)}
        self._told = lines_of(self._events)
        self._is_started = False

    def news(self) -> Iterator[dict[str, Any]]:
        """Events since the last call; the first of an attempt tells how much was done before it."""
        if self._changed(self._events):
            yield from self._new_events()
        if self._changed(self._progress):
            with contextlib.suppress(OSError, ValueError, TypeError):
                step = json.loads(self._progress.read_text(encoding="utf-8"))
                kept = {key: step[key] for key in ("task", "phase", "step", "total_steps") if key in step}
                if "step" in kept and "total_steps" in kept:
                    yield from self._start(self._told)
                    yield {"event": "step", **kept}

    def _changed(self, file: Path) -> bool:
        before, self._stamps[file] = self._stamps[file], _stamp(file)
        return self._stamps[file] not in (None, before)

    def _new_events(self) -> Iterator[dict[str, Any]]:
        lines = lines_of(self._events)
        kept = _equal_lines(self._told, lines)
        self._is_started &= kept == len(self._told)
        self._told = lines
        new = events_in(lines[kept:])
        starts = [i for i, event in enumerate(new) if event.get("event") == "run_started"]
        if starts:
            self._is_started = True
            yield from new[starts[-1] :]
        else:
            yield from self._start(lines[:kept])
            yield from new

    def _start(self, before: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The start of an attempt that goes on from the lines ``before``, if it is not told yet and they have one."""
        events = [] if self._is_started else events_in(before)
        starts = [event for event in events if event.get("event") == "run_started"]
        if starts:
            self._is_started = True
            yield {**starts[-1], "tasks_done": sum(event.get("event") == "task_evaluated" for event in events)}


def _equal_lines(one: Sequence[str], other: Sequence[str]) -> int:
    """How many lines both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (line, same) in pairs if line != same), min(len(one), len(other)))


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
