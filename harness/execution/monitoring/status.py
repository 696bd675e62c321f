"""The state of runs as the results folder shows it, on whatever machine they are done. Importing this module imports no torch.

The runs are read from the manifests of the suites; how far each is, from its lease and its log.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from smope_bench.harness.console import label
from smope_bench.harness.errors import UserError, did_you_mean
from smope_bench.harness.execution.lease import CANCEL, DEAD_S, LeaseState, file_system_now, newest
from smope_bench.harness.planning.suites.find import name_in_results
from smope_bench.harness.provenance import code_fingerprint, with_sources
from smope_bench.harness.records.event_log import EVENTS, PROGRESS, events_in, lines_of, read_progress
from smope_bench.harness.records.store import Store
from smope_bench.harness.registry.registry import uncollected
from smope_bench.harness.text import plain

RunState = Literal["new", "running", "waiting", "done", "failed", "stale", "dead"]
STATES: tuple[RunState, ...] = ("running", "done", "failed", "dead", "waiting", "stale", "new")
"""``waiting``: begun, resumes when it is run again; ``dead``: the same, but its holder ended without releasing the lease."""
_RUN_ID = re.compile(r"[0-9a-f]{16}")
CANCEL_WAIT_S, LOOK_S = 120.0, 0.5


@dataclass(frozen=True)
class Cell:
    """A run of a suite's manifest."""

    run_id: str
    label: str
    plugins: Mapping[str, str] = field(default_factory=dict)
    """Hashes of its plugins' sources when it was planned."""


@dataclass(frozen=True)
class RunView:
    """One run as it is now."""

    run_id: str
    label: str
    state: RunState
    task: int | None = None
    """From 0; None if unknown, as the fields below."""
    tasks: int | None = None
    step: int | None = None
    total_steps: int | None = None
    seconds_a_task: float | None = None
    owner: Literal["this", "another"] | None = None
    """The machine of the lease's holder."""
    reason: str | None = None
    """Why it failed, in one line."""
    work: str | None = None
    """What it does beside training steps, as ``evaluation 512 of 10,000 images``."""

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


@uncollected()
def planned_cells(store: Store, suites: Sequence[str]) -> list[Cell]:
    """Runs of these suites, or of all that were run in this folder, each once. Raises UserError if there are none."""
    suites = [name_in_results(name) for name in suites]
    noted = sorted(file.stem for file in (store.root / "suites").glob("*.json"))
    cells: dict[str, Cell] = {}
    for name in suites or noted:
        if name not in noted:
            raise UserError(f"nothing was run for suite {name!r} in {str(store.root)!r}{did_you_mean(name, noted)}")
        cells |= {cell.run_id: cell for cell in _cells(store, name) if cell.run_id not in cells}
    if not cells:
        raise UserError(f"nothing was run in {str(store.root)!r}; name another folder with --results DIR")
    return list(cells.values())


@uncollected()
def statuses(store: Store, cells: Iterable[Cell]) -> list[RunView]:
    """The present state of each run; writes nothing that lasts."""
    now = _now(store.root)
    return [_view(store, cell, now) for cell in cells]


def summary(views: Sequence[RunView]) -> str:
    """``24 runs: 2 running, 18 done, 4 new``."""
    counts = Counter(view.state for view in views)
    return f"{len(views)} runs: " + ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])


def cancel_runs(
    store: Store, cells: Sequence[Cell], notify: Callable[[str], None], wait_s: float = CANCEL_WAIT_S
) -> list[RunView]:
    """Ask for these runs to be saved and stopped, and wait at most ``wait_s`` seconds; returns those that still run.

    Runs that have not begun are cancelled, too: launchers may have them in their queues. Raises UserError if the folder cannot
    be written.
    """
    before = statuses(store, cells)
    running = {view.run_id for view in before if view.state == "running"}
    if not running:
        notify("nothing is running.")
        return []
    for view in before:
        if view.state != "done":
            _cancel(store.path(view.run_id))
    notify(f"asked {len(running)} of {summary(before)} to save and stop")
    mine = [cell for cell in cells if cell.run_id in running]
    end = time.monotonic() + wait_s
    while True:
        now = statuses(store, mine)
        left = [view for view in now if view.state == "running"]
        if not left or time.monotonic() > end:
            done = sum(view.state == "done" for view in now)
            notify(f"{len(now) - len(left) - done} stopped, {done} finished before that, {len(left)} still running.")
            return left
        time.sleep(LOOK_S)


def _cells(store: Store, suite: str) -> Iterator[Cell]:
    """The runs of a suite's manifest, whose ids are checked: anything else could name any folder."""
    for cell in store.read_cells(suite):
        words = label(cell["row"], cell["column"], cell["order_seed"], cell["train_seed"])
        if _RUN_ID.fullmatch(cell["run_id"]):
            yield Cell(cell["run_id"], plain(words), cell.get("plugins", {}))


def _cancel(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CANCEL).touch()
    except OSError as error:
        raise UserError(f"{str(folder / CANCEL)!r} cannot be written ({error.strerror}), so nobody is asked") from error


def _view(store: Store, cell: Cell, now: float) -> RunView:
    folder = store.path(cell.run_id)
    lease, fingerprint = _lease(folder), with_sources(code_fingerprint(), cell.plugins)
    if lease is None or lease.is_released:
        state = store.state(cell.run_id, fingerprint)
        if state == "new" and (folder / "checkpoint").is_dir():
            return RunView(cell.run_id, cell.label, "waiting", **_progress(folder))
        reason = plain(str((store.failure(cell.run_id) or {}).get("error", ""))) if state == "failed" else ""
        return RunView(cell.run_id, cell.label, state, reason=reason or None)
    is_alive = not lease.is_free and now - lease.written < DEAD_S
    if not is_alive and store.state(cell.run_id, fingerprint) == "done":  # killed after it published
        return RunView(cell.run_id, cell.label, "done")
    owner = "this" if lease.is_here else "another"
    return RunView(cell.run_id, cell.label, "running" if is_alive else "dead", owner=owner, **_progress(folder))


def _lease(folder: Path) -> LeaseState | None:
    with contextlib.suppress(OSError):
        return newest(folder)
    return None


def _now(root: Path) -> float:
    try:
        return file_system_now(root)
    except OSError:  # a read-only folder: its file system's clock cannot be read
        return time.time()


def _progress(folder: Path) -> dict[str, Any]:
    """Progress and pace of a run, as far as its log has them."""
    found: dict[str, Any] = {}
    for event in events_in(lines_of(folder / EVENTS)):
        match event:
            case {"event": "run_started", "total_tasks": int(tasks), "tasks_done": int(done)}:
                found |= {"tasks": tasks, "task": done}
            case {"event": "task_started", "task": int(task)}:
                found |= {"task": task}
            case {"event": "task_evaluated", "task": int(task), "t": int() | float() as seconds} if task >= 0:
                found |= {"task": task + 1}
                with contextlib.suppress(OverflowError):  # a damaged log may hold any number
                    found["seconds_a_task"] = seconds / (task + 1)
    shown = read_progress(folder / PROGRESS) or {}
    numbers = {
        name: shown[name] for name in ("task", "tasks", "step", "total_steps") if isinstance(shown.get(name), int)
    }
    if numbers.get("task", -1) >= found.get("task", 0):  # else the task was finished since
        found |= numbers
        if shown["event"] == "work":
            found["work"] = plain(
                f"{shown.get('phase', 'work')} {shown['done']:,} of {shown['total']:,} {shown.get('unit', '')}"
            )
    return found
