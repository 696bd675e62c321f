"""Progress of a launch, for its displays: the state of each run in flight, the share of the work done, seconds left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from smope_bench.harness.console import duration, label
from smope_bench.harness.execution.scheduler import RunStatus
from smope_bench.harness.planning.planner import PlannedRun

SILENT_S = 60.0
"""Seconds without an event after which a display says so."""
NEWS = {
    "held": ("waiting", "waiting for another launcher, which has it"),
    "run_retried": ("again", "its worker died; it goes on from its last checkpoint"),
    "stopping": ("stopping", "finishes its step and is saved; a second signal stops at once"),
}
"""Events around a run: a word for lines, and what they mean."""
ENDS = {
    "skipped": ("skipped", "another launcher has done it"),
    "interrupted": ("saved", "the same command goes on from there"),
    "cancelled": ("cancelled", "as was asked; what it has done is kept"),
}
"""States that are neither success nor failure, likewise."""
Clock = Callable[[], float]


def run_label(run: PlannedRun) -> str:
    """A run in a few words: row, benchmark and seeds."""
    return label(run.row, run.benchmark, run.spec.order_seed, run.spec.train_seed)


@dataclass
class RunningRun:
    """Progress of a run in flight."""

    started: float
    label: str
    heard: float
    """Time of its last event."""
    tasks: int = 0
    tasks_done: int = 0
    resumed_at: int = 0
    within_task: float = 0.0
    faa: float | None = None
    work: tuple[str, int, int, str] | None = None
    """What it does beside training steps: the phase, how much is done, of how much, and the unit, as ``images``."""

    def take(self, event: dict[str, Any], now: float) -> None:
        self.heard = now
        if event.get("event") != "work":
            self.work = None
        match event.get("event"):
            case "run_started":
                self.tasks = int(event["total_tasks"])
                self.tasks_done = self.resumed_at = int(event.get("tasks_done", 0))
            case "step":
                self.within_task = event["step"] / max(1, event["total_steps"])
            case "work":
                self.work = str(event.get("phase", "work")), event["done"], event["total"], str(event.get("unit", ""))
            case "task_evaluated":
                self.tasks_done, self.within_task = self.tasks_done + 1, 0.0
            case "run_finished":
                self.faa = event.get("faa")

    @property
    def fraction(self) -> float:
        """Share of the run that is done, from 0 to 1."""
        return min(1.0, (self.tasks_done + self.within_task) / self.tasks) if self.tasks else 0.0

    def seconds_left(self, now: float) -> float | None:
        """Extrapolated from the run's own pace; None while too little is done."""
        done_here = self.fraction - (self.resumed_at / self.tasks if self.tasks else 0.0)
        return (now - self.started) * (1 - self.fraction) / done_here if done_here > 0.05 else None

    def note(self, now: float, *, short: bool = False) -> str:
        """Where the run is, what it does there, and for how long nothing was heard of it; ``short``: for narrow terminals."""
        silence, parts = now - self.heard, [self._task(short)]
        if self.work is not None:
            phase, done, total, unit = self.work
            share = f" {100 * done // max(1, total)} %" if short else f" {done:,} of {total:,} {unit}".rstrip()
            parts.append(phase + share)
        if silence >= SILENT_S:
            parts.append(f"{'silent' if short else 'no news'} for {duration(silence)}")
        return (" " if short else ", ").join(parts)

    def _task(self, short: bool) -> str:
        if not self.tasks:
            return "loading"
        task = min(self.tasks_done + 1, self.tasks)
        if short:
            return f"{task}/{self.tasks}"
        return f"task {task} of {self.tasks}" if self.tasks > 1 else "all tasks at once"


class LaunchProgress:
    """Runs in flight and work done."""

    def __init__(self, total: int, clock: Clock) -> None:
        self.total, self.clock = total, clock
        self.started: float | None = None  # time of the first event: starting workers is not part of the pace
        self.running: dict[str, RunningRun] = {}
        self.finished = self.failed = 0
        self.brought_along = 0.0

    def take(self, run: PlannedRun, event: dict[str, Any]) -> RunningRun:
        now = self.clock()
        if self.started is None:
            self.started = now
        running = self.running.setdefault(run.run_id, RunningRun(now, run_label(run), now))
        running.take(event, now)
        if event.get("event") == "run_started" and running.tasks:
            self.brought_along += running.resumed_at / running.tasks
        return running

    def end(self, status: RunStatus) -> RunningRun:
        self.finished += status.state in ("done", "failed", "skipped")
        self.failed += status.state == "failed"
        now = self.clock()
        return self.running.pop(status.planned.run_id, RunningRun(now, run_label(status.planned), now))

    @property
    def quietest(self) -> RunningRun | None:
        """The run in flight that takes no training steps, or of which nothing was heard for longest; None if all take steps."""
        found = [run for run in self.running.values() if run.work or self.clock() - run.heard >= SILENT_S]
        return min(found, key=lambda run: run.heard, default=None)

    @property
    def work_done(self) -> float:
        """Number of runs done; those in flight count by their share."""
        return self.finished + sum(running.fraction for running in self.running.values())

    def seconds_left(self) -> float | None:
        """Extrapolated from the pace so far; None while too little is done."""
        if self.started is None:
            return None
        done_here, spent = self.work_done - self.brought_along, self.clock() - self.started
        return spent * (self.total - self.work_done) / done_here if done_here > 0.05 and spent > 2.0 else None
