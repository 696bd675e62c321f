"""How a launch shows its progress and the time left: bars on a terminal, lines in a file and where no cursor can be moved.

On a terminal nothing is wider than it; where room is short, numbers stay and labels are cut.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID
from rich.table import Column
from rich.text import Text

from smope_bench.harness.console import duration
from smope_bench.harness.execution.monitoring.progress import ENDS, NEWS, Clock, LaunchProgress, run_label
from smope_bench.harness.execution.scheduler import RunStatus
from smope_bench.harness.planning.planner import PlannedRun

HEARTBEAT_S = 30.0
LOOK_S = 1.0
"""How often a display looks whether a sign of life is due."""
WIDE, MIDDLE = 100, 60
"""Columns of a terminal from which labels stand first and bars are long, and from which there are bars."""
LEAST = 8
"""Characters that a label keeps where room is short."""


def make_display(console: Console, total: int) -> Display:
    """The display that fits the output; ``total`` counts the runs to do."""
    is_live = console.is_terminal and not console.is_dumb_terminal
    return LiveDisplay(console, total) if is_live else LineDisplay(console, total)


class Display:
    """Shows the progress of a launch with ``total`` runs to do; a context manager around it."""

    def __init__(self, console: Console, total: int, clock: Clock = time.monotonic) -> None:
        self._console, self._launch, self._clock = console, LaunchProgress(total, clock), clock
        self._unsaved: set[str] = set()

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

    def _new_warning(self, run: PlannedRun, event: dict[str, Any]) -> str | None:
        """What is said when the first checkpoint of a run cannot be written; None otherwise."""
        if event.get("event") != "checkpoint_failed" or run.run_id in self._unsaved:
            return None
        self._unsaved.add(run.run_id)
        reason = event.get("reason", "unknown")
        return f"{run_label(run)}: a checkpoint cannot be written ({reason}); the run goes on, and stopped now it would lose work"


class LineDisplay(Display):
    """One plain line when a run starts, ends or fails, and a sign of life every 30 seconds, whether or not runs report."""

    def __init__(self, console: Console, total: int, clock: Clock = time.monotonic) -> None:
        super().__init__(console, total, clock)
        self._last = clock()
        self._lock, self._ended = threading.RLock(), threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, name="sign of life", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()

    def update(self, run: PlannedRun, event: dict[str, Any]) -> None:
        """Print that a run started, or that runs are in progress."""
        with self._lock:
            if event.get("event") in NEWS:
                word, meaning = NEWS[event["event"]]
                self._print(word, f"{run_label(run)}: {meaning}")
                return
            if warning := self._new_warning(run, event):
                self._print("warning", warning)
            is_new = run.run_id not in self._launch.running
            self._launch.take(run, event)
            if is_new:
                self._print("started", run_label(run))
                if remark := event.get("prompt_remark"):
                    self._print("warning", f"{run_label(run)}: {remark}")
            else:
                self.beat()

    def beat(self) -> None:
        """Print a sign of life if nothing was printed for 30 seconds while runs are in flight."""
        with self._lock:
            if not self._launch.running or self._clock() - self._last < HEARTBEAT_S:
                return
            left, quiet = self._launch.seconds_left(), self._launch.quietest
            done, total = f"{self._launch.work_done:.1f}", self._launch.total
            is_short = self._console.is_terminal
            text = f"{done}/{total}" if is_short else f"{done} of {total} runs done"
            text += f", {'' if is_short else 'about '}{duration(left)} left" if left is not None else ""
            self._print("running", f"{text}; {quiet.label}: {quiet.note(self._clock())}" if quiet is not None else text)

    def finish(self, status: RunStatus) -> None:
        """Print how a run ended."""
        with self._lock:
            running = self._launch.end(status)
            label, count = run_label(status.planned), f"[{self._launch.finished}/{self._launch.total}]"
            if status.state == "failed":
                self._print("FAILED", f"{label}: {status.error}", count)
            elif status.state in ENDS:
                word, meaning = ENDS[status.state]
                self._print(word, f"{label}: {meaning}", count)
            else:
                faa = f"FAA {running.faa:6.2f} %  " if running.faa is not None else ""
                self._print("finished", label, f"{faa}{duration(self._clock() - running.started)} {count}")

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_S):
            self.beat()

    def _print(self, word: str, text: str, end: str = "") -> None:
        """One line: when, the word, text, and its end; on a terminal short, the end before the text, and cut at its width."""
        self._last = self._clock()
        if self._console.is_terminal:
            line = f"{time.strftime('%H:%M')} {word} {f'{end}  ' if end else ''}{text}"
            self._console.print(line, markup=False, highlight=False, no_wrap=True, overflow="ellipsis")
            return
        gap = "  " if word == "finished" else " "
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {word:<9} {text}{f'{gap}{end}' if end else ''}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class LiveDisplay(Display):
    """An overall bar, a bar for each run in flight, and a line that stays for each run that ended."""

    def __init__(self, console: Console, total: int, clock: Clock = time.monotonic) -> None:
        super().__init__(console, total, clock)
        self._bars: dict[str, TaskID] = {}
        self._notes: dict[str, str] = {}
        label, note, left = _Label(self), _Note(self), _TimeLeft(" left" if console.width >= MIDDLE else "")
        if console.width >= WIDE:
            columns = [label, BarColumn(bar_width=28, complete_style="cyan", finished_style="green"), note, left]
        elif console.width >= MIDDLE:
            columns = [BarColumn(bar_width=10, complete_style="cyan", finished_style="green"), left, note, label]
        else:
            columns = [note, left, label]
        self._progress = Progress(*columns, console=console, transient=True, expand=console.width < WIDE)
        self._overall = self._progress.add_task("all runs", total=total, left=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def update(self, run: PlannedRun, event: dict[str, Any]) -> None:
        """Move the run's bar."""
        if run.run_id not in self._bars:
            self._bars[run.run_id] = self._progress.add_task(run_label(run), total=1.0, left=None, run=run.run_id)
        if event.get("event") in NEWS:
            self._notes[run.run_id] = NEWS[event["event"]][1].partition(";")[0]
            return
        if warning := self._new_warning(run, event):
            self._console.print(f"! {warning}", style="yellow", markup=False, highlight=False, soft_wrap=True)
        running = self._launch.take(run, event)
        if event.get("event") == "run_started":
            self._notes[run.run_id] = str(event.get("prompt_remark", "")).partition(":")[0]
        left = running.seconds_left(self._clock())
        self._progress.update(self._bars[run.run_id], completed=running.fraction, left=left)
        self._refresh_overall()

    def finish(self, status: RunStatus) -> None:
        """Replace the run's bar by a line above the bars."""
        running = self._launch.end(status)
        bar = self._bars.pop(status.planned.run_id, None)
        if bar is not None:
            self._progress.remove_task(bar)
        if status.state == "failed":
            mark, end = ("✗", "red"), Text(f"  {status.error or 'failed'}", "red")
        elif status.state in ENDS:
            mark, end = ("–", "yellow"), Text(f"  {ENDS[status.state][1]}", "dim")
        else:
            faa = ("  FAA ", (f"{running.faa:.2f}", "bold"), " %") if running.faa is not None else ()
            mark, end = ("✓", "green"), Text.assemble(*faa, (f"  {duration(self._clock() - running.started)}", "dim"))
        label = Text(run_label(status.planned))
        label.truncate(max(LEAST, self._console.width - len(end) - 2), overflow="ellipsis")
        line = Text.assemble(mark, " ", label, end)
        self._console.print(line, highlight=False, no_wrap=True, overflow="ellipsis")
        self._refresh_overall()

    def note_of(self, run_id: str | None) -> str:
        """Where a run is, or for None, how many runs have ended."""
        if run_id is None:
            failed = f", {self._launch.failed} failed" if self._launch.failed else ""
            return f"{self._launch.finished}/{self._launch.total}{failed}"
        running, is_narrow = self._launch.running.get(run_id), self._console.width < WIDE
        where = running.note(self._clock(), short=is_narrow) if running is not None else ""
        return self._notes.get(run_id) or where

    def _refresh_overall(self) -> None:
        self._progress.update(self._overall, completed=self._launch.work_done, left=self._launch.seconds_left())


class _Label(ProgressColumn):
    """The label of a run, cut where the terminal is narrow."""

    def __init__(self, display: Display) -> None:
        is_wide = display._console.width >= WIDE
        super().__init__(Column(ratio=None if is_wide else 1, no_wrap=True, overflow="ellipsis"))

    def render(self, task: Task) -> Text:
        return Text(task.description, "" if "run" in task.fields else "bold")


class _Note(ProgressColumn):
    """Where a run is; read when it is drawn, so that silence is seen."""

    def __init__(self, display: LiveDisplay) -> None:
        super().__init__(Column(no_wrap=True, overflow="ellipsis"))
        self._display = display

    def render(self, task: Task) -> Text:
        return Text(self._display.note_of(task.fields.get("run")), "dim")


class _TimeLeft(ProgressColumn):
    """Time left as the display computes it: rich's own estimate ignores runs in flight."""

    def __init__(self, word: str) -> None:
        super().__init__(Column(no_wrap=True, overflow="ellipsis"))
        self._word = word

    def render(self, task: Task) -> Text:
        left = task.fields.get("left")
        return Text(f"{duration(left)}{self._word}" if left is not None else "")
