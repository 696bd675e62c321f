"""The commands ``status`` and ``cancel``, for runs in progress in another terminal or on other machines."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from smope_bench.harness.cli import options as opt
from smope_bench.harness.cli.command import command

if TYPE_CHECKING:
    from rich.console import Group

    from smope_bench.harness.execution.monitoring.status import RunView

STILL_RUNNING = 1
LOOK_S = 2.0
STYLES = {"running": "cyan", "failed": "red", "dead": "red", "waiting": "yellow", "stale": "yellow"}
"""States that are shown run by run; runs of other states are counted."""


@command("status")
def status(
    suites: opt.SuitesFound = None,
    results: opt.Results = opt.RESULTS,
    as_json: opt.AsJson = False,
    watch: opt.Watch = False,
) -> None:
    """Show how far the runs of some suites are, in whatever terminal or on whatever machine they run."""
    from rich.live import Live

    from smope_bench.harness.console import make_console
    from smope_bench.harness.execution.monitoring.status import planned_cells, statuses
    from smope_bench.harness.records.index import IndexedStore

    def looked() -> list[RunView]:
        with IndexedStore(results) as store:
            return statuses(store, planned_cells(store, suites or ()))

    views = looked()
    if as_json:
        print(json.dumps([view.as_json() for view in views], indent=2, ensure_ascii=False))
        return
    console = make_console()
    if watch:
        with Live(_shown(views), console=console, auto_refresh=False, transient=True) as live:
            while any(view.state == "running" for view in views):
                time.sleep(LOOK_S)
                views = looked()
                live.update(_shown(views), refresh=True)
    console.print(_shown(views))


@command("cancel")
def cancel(suites: opt.SuitesFound = None, results: opt.Results = opt.RESULTS) -> None:
    """Save and stop these runs, in whatever terminal or on whatever machine they run; wait until they have stopped."""
    from smope_bench.harness.execution.monitoring.status import cancel_runs, planned_cells
    from smope_bench.harness.records.store import Store

    store = Store(results)
    left = cancel_runs(store, planned_cells(store, suites or ()), print)
    for view in left:
        print(f"still running: {view.label}")
    raise typer.Exit(STILL_RUNNING if left else 0)


def _shown(views: Sequence[RunView]) -> Group:
    from rich import box
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    from smope_bench.harness.execution.monitoring.status import summary

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("run", "state", "where", "pace", "machine"):
        table.add_column(heading)
    for view in views:
        if view.state in STYLES:
            state = f"[{STYLES[view.state]}]{view.state}[/]"
            table.add_row(escape(view.label), state, _where(view), _pace(view), view.owner or "")
    reasons = Counter(view.reason for view in views if view.reason)
    said = [f"failed ({count}): {reason}" for reason, count in reasons.items()]
    return Group(*([table] if table.row_count else []), *map(escape, said), summary(views))


def _where(view: RunView) -> str:
    if view.task is None or view.tasks is None:
        return ""
    steps = f", step {view.step} of {view.total_steps}" if view.step is not None else ""
    steps = f", {view.work}" if view.work is not None else steps
    return f"task {min(view.task + 1, view.tasks)} of {view.tasks}{steps}"


def _pace(view: RunView) -> str:
    from smope_bench.harness.console import duration

    return "" if view.seconds_a_task is None else f"{duration(view.seconds_a_task)} a task"
