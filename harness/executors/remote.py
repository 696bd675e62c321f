"""Shared by executors on other machines: the body of a task there, and events read from the results folder.

Only the results folder is shared. Progress is read from the files of each run, which needs no connection to the process that
does it, and continues when another worker takes the run over. Importing this module imports no torch.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from smope_bench.harness.cancellation import StopRequest
from smope_bench.harness.execution.job import Job, JobResult, OnEvent, failed, run_job
from smope_bench.harness.provenance import code_fingerprint
from smope_bench.harness.records.event_log import events_in, lines_of, read_progress
from smope_bench.harness.run_options import RunOptions

POLL_S = 0.5
LOOK_S = 0.005
"""Pause per run between two readings of the files of all runs: at most 400 requests a second to a file server."""
STOP_S = 20.0
"""How long running jobs get to save themselves before they are killed; they notice a stop file within a second."""


def for_remote(options: RunOptions) -> RunOptions:
    """The options with absolute paths, since a worker starts in another folder, and with a stop file of this launcher's own:
    another launcher may have some of the same runs, and stopping one must not stop the other's."""
    results, plugins = options.results.absolute(), tuple(plugin.absolute() for plugin in options.plugins)
    stop_file = results / f".stop-{secrets.token_hex(8)}"
    return replace(
        options, results=results, data=options.data.absolute(), plugins=plugins, stop_file=stop_file, is_remote=True
    )


def run_remotely(job: Job, options: RunOptions, fingerprint: str, stop_request: StopRequest | None = None) -> JobResult:
    """Body of a task on a cluster. ``fingerprint``: of the launcher's code; a worker with other code refuses the job."""
    if code_fingerprint() != fingerprint:
        sentence = (
            f"the worker's copy of this project has code {code_fingerprint()[:12]}, the launcher's {fingerprint[:12]};"
            " install the same version on every node, or work from one shared folder"
        )
        return failed(job.run_id, "OtherCode", sentence)
    return run_job(job, options, lambda *_: None, stop_request)  # the launcher reads the run's files instead


def ask_to_stop(options: RunOptions) -> None:
    """Ask all workers of this launcher to save their runs and stop."""
    assert options.stop_file is not None
    with contextlib.suppress(OSError):
        options.stop_file.touch()


def withdraw_stop(options: RunOptions) -> None:
    """Remove the request of ``ask_to_stop``."""
    assert options.stop_file is not None
    with contextlib.suppress(OSError):
        options.stop_file.unlink(missing_ok=True)


def wait_for_end(unfinished: Callable[[], bool], seconds: float = STOP_S) -> None:
    """Wait while ``unfinished()``, at most ``seconds``."""
    end = time.monotonic() + seconds
    while unfinished() and time.monotonic() < end:
        time.sleep(POLL_S)


class EventFollower:
    """New events of runs that write to the results folder, wherever they run; events of before are ignored."""

    def __init__(self, results: Path, run_ids: Iterable[str]) -> None:
        self._runs = {run_id: _RunFollower(results / run_id) for run_id in run_ids}
        self._next = 0.0

    def notify(self, on_event: OnEvent) -> None:
        """Pass on new events; a call too soon after another does nothing, to spare the file server."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + max(POLL_S, LOOK_S * len(self._runs))
        for run_id, follower in self._runs.items():
            for event in follower.new_events():
                on_event(run_id, event)

    def forget(self, run_id: str, on_event: OnEvent) -> None:
        """Pass on the last events of a run that ended, and follow it no longer."""
        for event in self._runs.pop(run_id).new_events():
            on_event(run_id, event)


class _RunFollower:
    """``events.jsonl`` and ``progress.json`` of one run.

    An attempt that resumes truncates the first file to its checkpoint and appends to it, without another ``run_started``.
    """

    def __init__(self, folder: Path) -> None:
        self._events, self._progress = folder / "events.jsonl", folder / "progress.json"
        self._stamps = {self._events: _stamp(self._events), self._progress: _stamp(self._progress)}
        self._lines = lines_of(self._events)
        self._is_started = False

    def new_events(self) -> Iterator[dict[str, Any]]:
        """Events since the last call; the first of an attempt has ``tasks_done`` before it."""
        if self._changed(self._events):
            yield from self._appended()
        if self._changed(self._progress) and (event := read_progress(self._progress)):
            yield from self._start(self._lines)
            yield {name: value for name, value in event.items() if name not in ("tasks", "updated")}

    def _changed(self, file: Path) -> bool:
        before, self._stamps[file] = self._stamps[file], _stamp(file)
        return self._stamps[file] not in (None, before)

    def _appended(self) -> Iterator[dict[str, Any]]:
        lines = lines_of(self._events)
        kept = _equal_lines(self._lines, lines)
        self._is_started &= kept == len(self._lines)
        self._lines = lines
        new = events_in(lines[kept:])
        starts = [i for i, event in enumerate(new) if event.get("event") == "run_started"]
        if starts:
            self._is_started = True
            yield from new[starts[-1] :]
        else:
            yield from self._start(lines[:kept])
            yield from new

    def _start(self, before: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The ``run_started`` event of an attempt that resumes after the lines ``before``, once an attempt."""
        events = [] if self._is_started else events_in(before)
        starts = [event for event in events if event.get("event") == "run_started"]
        if starts:
            self._is_started = True
            yield {**starts[-1], "tasks_done": sum(event.get("event") == "task_evaluated" for event in events)}


def _equal_lines(one: Sequence[str], other: Sequence[str]) -> int:
    """Number of equal lines at the beginning of both."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (line, same) in pairs if line != same), min(len(one), len(other)))


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
