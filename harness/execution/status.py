"""What the results folder tells of runs, whoever does them and wherever: the live view from another terminal. No torch.

Which runs there are is read from what ``run`` noted of its suites; how far each is, from its claim and from what it writes.
"""

from __future__ import annotations

import contextlib
import json
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
from smope_bench.harness.provenance import code_fingerprint, with_sources
from smope_bench.harness.records.event_log import events_in, lines_of
from smope_bench.harness.records.store import Store
from smope_bench.harness.text import plain

RunState = Literal["new", "running", "waiting", "done", "failed", "stale", "dead"]
STATES: tuple[RunState, ...] = ("running", "done", "failed", "dead", "waiting", "stale", "new")
"""``waiting`` was begun and goes on when it is run again; ``dead`` is that, too, and its owner could not say so."""
_RUN_ID = re.compile(r"[0-9a-f]{16}")
CANCEL_WAIT_S, LOOK_S = 120.0, 0.5


@dataclass(frozen=True)
class Cell:
    """A run as a suite plans it."""

    run_id: str
    label: str
    plugins: Mapping[str, str] = field(default_factory=dict)
    """Hashes of the sources of its plugins, as it was planned."""


@dataclass(frozen=True)
class RunView:
    """One run as it is now."""

    run_id: str
    label: str
    state: RunState
    task: int | None = None
    """From 0, where it is known; likewise what follows."""
    tasks: int | None = None
    step: int | None = None
    total_steps: int | None = None
    seconds_a_task: float | None = None
    owner: Literal["this", "another"] | None = None
    """The machine of whoever does it."""

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


def planned_cells(store: Store, suites: Sequence[str]) -> list[Cell]:
    """Runs of these suites, or of all that were run in this folder, each once. Raises UserError where there are none."""
    noted = sorted(file.stem for file in (store.root / "suites").glob("*.json"))
    cells: dict[str, Cell] = {}
    for name in suites or noted:
        if store.read_manifest(name) is None:
            raise UserError(f"nothing was run for suite {name!r} in {str(store.root)!r}{did_you_mean(name, noted)}")
        cells |= {cell.run_id: cell for cell in _cells(store, name) if cell.run_id not in cells}
    if not cells:
        raise UserError(f"nothing was run in {str(store.root)!r}; name another folder with --results DIR")
    return list(cells.values())


def statuses(store: Store, cells: Iterable[Cell]) -> list[RunView]:
    """Each run as the results folder tells now; changes nothing that lasts."""
    now = _now(store.root)
    return [_view(store, cell, now) for cell in cells]


def summary(views: Sequence[RunView]) -> str:
    """``24 runs: 2 running, 18 done, 4 new``."""
    counts = Counter(view.state for view in views)
    return f"{len(views)} runs: " + ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])


def cancel_runs(
    store: Store, cells: Sequence[Cell], tell: Callable[[str], None], wait_s: float = CANCEL_WAIT_S
) -> list[RunView]:
    """Ask whoever does these runs to save and stop, and wait for it; returns what runs nevertheless.

    Unfinished runs that nobody has begun are marked, too: their launchers may have them in their queues. Raises UserError
    where the folder cannot be written.
    """
    before = statuses(store, cells)
    running = {view.run_id for view in before if view.state == "running"}
    if not running:
        tell("nothing is running.")
        return []
    for view in before:
        if view.state != "done":
            _mark(store.path(view.run_id))
    tell(f"asked {len(running)} of {summary(before)} to save and stop")
    mine = [cell for cell in cells if cell.run_id in running]
    end = time.monotonic() + wait_s
    while True:
        now = statuses(store, mine)
        left = [view for view in now if view.state == "running"]
        if not left or time.monotonic() > end:
            done = sum(view.state == "done" for view in now)
            tell(f"{len(now) - len(left) - done} stopped, {done} finished before that, {len(left)} still running.")
            return left
        time.sleep(LOOK_S)


def _cells(store: Store, suite: str) -> Iterator[Cell]:
    """What a suite notes of its cells, which may be of anybody's making: an id that is none could name any folder."""
    for cell in store.read_cells(suite):
        words = label(cell["row"], cell["column"], cell["order_seed"], cell["train_seed"])
        if _RUN_ID.fullmatch(cell["run_id"]):
            yield Cell(cell["run_id"], plain(words), cell.get("plugins", {}))


def _mark(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CANCEL).touch()
    except OSError as error:
        raise UserError(f"{str(folder / CANCEL)!r} cannot be written ({error.strerror}), so nobody is asked") from error


def _view(store: Store, cell: Cell, now: float) -> RunView:
    folder = store.path(cell.run_id)
    held, fingerprint = _claim(folder), with_sources(code_fingerprint(), cell.plugins)
    if held is None or held.is_released:
        state = store.state(cell.run_id, fingerprint)
        if state == "new" and (folder / "checkpoint").is_dir():
            return RunView(cell.run_id, cell.label, "waiting", **_progress(folder))
        return RunView(cell.run_id, cell.label, state)
    is_alive = not held.is_free and now - held.written < DEAD_S
    if not is_alive and store.state(cell.run_id, fingerprint) == "done":  # killed after it had published
        return RunView(cell.run_id, cell.label, "done")
    owner = "this" if held.is_here else "another"
    return RunView(cell.run_id, cell.label, "running" if is_alive else "dead", owner=owner, **_progress(folder))


def _claim(folder: Path) -> LeaseState | None:
    with contextlib.suppress(OSError):
        return newest(folder)
    return None


def _now(root: Path) -> float:
    try:
        return file_system_now(root)
    except OSError:  # a folder that may only be read: its clock is not at hand
        return time.time()


def _progress(folder: Path) -> dict[str, Any]:
    """How far a run is and its pace, as far as it has said anything."""
    found: dict[str, Any] = {}
    for event in events_in(lines_of(folder / "events.jsonl")):
        with contextlib.suppress(KeyError, TypeError, ValueError):
            match event.get("event"):
                case "run_started":
                    found |= {"tasks": int(event["total_tasks"]), "task": int(event["tasks_done"])}
                case "task_started":
                    found |= {"task": int(event["task"])}
                case "task_evaluated":
                    task = int(event["task"])
                    found |= {"task": task + 1, "seconds_a_task": float(event["t"]) / (task + 1)}
    with contextlib.suppress(OSError, KeyError, TypeError, ValueError):
        said = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
        told = {name: int(said[name]) for name in ("task", "tasks", "step", "total_steps")}
        if told["task"] >= found.get("task", 0):  # else it is of a task that has been finished since
            found |= told
    return found
