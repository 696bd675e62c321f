"""Progress of a launch: live bars on a terminal, timestamped lines in a file."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from smope_bench.harness.console import duration, label
from smope_bench.harness.execution.scheduler import RunStatus
from smope_bench.harness.planning.planner import PlannedRun

HEARTBEAT_S = 30.0
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


def make_display(console: Console, total: int) -> Display:
    """The display that fits the output; ``total`` counts the runs to do."""
    return LiveDisplay(console, total) if console.is_terminal else LineDisplay(console, total)


def run_label(run: PlannedRun) -> str:
    """A run in a few words: row, benchmark and seeds."""
    return label(run.row, run.benchmark, run.spec.order_seed, run.spec.train_seed)


@dataclass
class _Running:
    """Progress of a run in flight."""

    started: float
    tasks: int = 0
    tasks_done: int = 0
    resumed_at: int = 0
    within_task: float = 0.0
    faa: float | None = None

    def take(self, event: dict[str, Any]) -> None:
        match event.get("event"):
            case "run_started":
                self.tasks = int(event["total_tasks"])
                self.tasks_done = self.resumed_at = int(event.get("tasks_done", 0))
            case "step":
                self.within_task = event["step"] / max(1, event["total_steps"])
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

    @property
    def note(self) -> str:
        """Where the run is."""
        if not self.tasks:
            return "loading"
        return f"task {min(self.tasks_done + 1, self.tasks)} of {self.tasks}" if self.tasks > 1 else "all tasks at once"


class _ProgressTracker:
    """Runs in flight and work done, for both displays."""

    def __init__(self, total: int, clock: Clock) -> None:
        self.total, self.clock = total, clock
        self.started: float | None = None  # time of the first event: starting workers is not part of the pace
        self.running: dict[str, _Running] = {}
        self.finished = self.failed = 0
        self.brought_along = 0.0

    def take(self, run: PlannedRun, event: dict[str, Any]) -> _Running:
        if self.started is None:
            self.started = self.clock()
        running = self.running.setdefault(run.run_id, _Running(self.clock()))
        running.take(event)
        if event.get("event") == "run_started" and running.tasks:
            self.brought_along += running.resumed_at / running.tasks
        return running

    def end(self, status: RunStatus) -> _Running:
        self.finished += status.state in ("done", "failed", "skipped")
        self.failed += status.state == "failed"
        return self.running.pop(status.planned.run_id, _Running(self.clock()))

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


class Display:
    """Shows the progress of a launch with ``total`` runs to do; a context manager around it."""

    def __init__(self, console: Console, total: int, clock: Clock = time.monotonic) -> None:
        self._console, self._tracker, self._clock = console, _ProgressTracker(total, clock), clock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def update(self, run: PlannedRun, event: dict[str, Any]) -> None:
        """Show an event of a run."""
        raise NotImplementedError

    def finish(self, status: RunStatus) -> None:
        """Show the end of a run."""
        raise NotImplementedError


class LineDisplay(Display):
    """One plain line when a run starts, ends or fails, and a sign of life at most every 30 seconds."""

    def __init__(self, console: Console, total: int, clock: Clock = time.monotonic) -> None:
        super().__init__(console, total, clock)
        self._last = clock()

    def update(self, run: PlannedRun, event: dict[str, Any]) -> None:
        """Print that a run started, or that runs are in progress."""
        if event.get("event") in NEWS:
            word, meaning = NEWS[event["event"]]
            self._print(f"{word:<9} {run_label(run)}: {meaning}")
            return
        is_new = run.run_id not in self._tracker.running
        self._tracker.take(run, event)
        if is_new:
            self._print(f"started   {run_label(run)}")
        elif self._clock() - self._last >= HEARTBEAT_S:
            left = self._tracker.seconds_left()
            time_left = f", about {duration(left)} left" if left is not None else ""
            self._print(f"running   {self._tracker.work_done:.1f} of {self._tracker.total} runs done{time_left}")

    def finish(self, status: RunStatus) -> None:
        """Print how a run ended."""
        running = self._tracker.end(status)
        label, count = run_label(status.planned), f"[{self._tracker.finished}/{self._tracker.total}]"
        if status.state == "failed":
            self._print(f"FAILED    {label}: {status.error} {count}")
            return
        if status.state in ENDS:
            word, meaning = ENDS[status.state]
            self._print(f"{word:<9} {label}: {meaning} {count}")
            return
        faa = f"FAA {running.faa:6.2f} %  " if running.faa is not None else ""
        self._print(f"finished  {label}  {faa}{duration(self._clock() - running.started)} {count}")

    def _print(self, text: str) -> None:
        self._last = self._clock()
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        self._console.print(f"{stamp}  {text}", markup=False, highlight=False, soft_wrap=True)


class LiveDisplay(Display):
    """An overall bar, a bar for each run in flight, and a line that stays for each run that ended."""

    def __init__(self, console: Console, total: int, clock: Clock = time.monotonic) -> None:
        super().__init__(console, total, clock)
        self._bars: dict[str, TaskID] = {}
        self._notes: dict[str, str] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=28, complete_style="cyan", finished_style="green"),
            TextColumn("{task.fields[note]}", style="dim"),
            _TimeLeft(),
            console=console,
            transient=True,
        )
        self._overall = self._progress.add_task("[bold]all runs[/]", total=total, note=f"0/{total}", left=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def update(self, run: PlannedRun, event: dict[str, Any]) -> None:
        """Move the run's bar."""
        if run.run_id not in self._bars:
            self._bars[run.run_id] = self._progress.add_task(escape(run_label(run)), total=1.0, note="", left=None)
        if event.get("event") in NEWS:
            self._notes[run.run_id] = NEWS[event["event"]][1].partition(";")[0]
            self._progress.update(self._bars[run.run_id], note=self._notes[run.run_id])
            return
        running = self._tracker.take(run, event)
        if event.get("event") == "run_started":
            self._notes.pop(run.run_id, None)
        note = self._notes.get(run.run_id, running.note)
        left = running.seconds_left(self._clock())
        self._progress.update(self._bars[run.run_id], completed=running.fraction, note=note, left=left)
        self._refresh_overall()

    def finish(self, status: RunStatus) -> None:
        """Replace the run's bar by a line above the bars."""
        running = self._tracker.end(status)
        bar = self._bars.pop(status.planned.run_id, None)
        if bar is not None:
            self._progress.remove_task(bar)
        label = escape(run_label(status.planned))
        spent = duration(self._clock() - running.started)
        if status.state == "failed":
            self._console.print(f"[red]✗[/] {label}  [red]{escape(status.error or 'failed')}[/]", highlight=False)
        elif status.state in ENDS:
            self._console.print(f"[yellow]–[/] {label}  [dim]{ENDS[status.state][1]}[/]", highlight=False)
        else:
            faa = f"FAA [bold]{running.faa:.2f}[/] %  " if running.faa is not None else ""
            self._console.print(f"[green]✓[/] {label}  {faa}[dim]{spent}[/]", highlight=False)
        self._refresh_overall()

    def _refresh_overall(self) -> None:
        tracker = self._tracker
        failed = f", {tracker.failed} failed" if tracker.failed else ""
        self._progress.update(
            self._overall,
            completed=tracker.work_done,
            note=f"{tracker.finished}/{tracker.total}{failed}",
            left=tracker.seconds_left(),
        )


class _TimeLeft(ProgressColumn):
    """Time left as the display computes it: rich's own estimate ignores runs in flight."""

    def render(self, task: Task) -> Text:
        left = task.fields.get("left")
        return Text(f"{duration(left)} left" if left is not None else "")
