"""A sweep from what the user asked to what came of it: plan, check, prepare, execute. The command line is its only caller."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from harness import execute
from harness.execute import ExecuteOptions, RunStatus
from harness.plan import PlannedRun, Selection, Supply, find_suite, manifest, plan
from harness.progress import duration, make_display, run_label
from harness.registry import Registries, open_registries
from harness.store import Store


@dataclass(frozen=True)
class Asked:
    """What the user asked to run; ``None`` means that a default fits itself to the machine."""

    suites: Sequence[str]
    results: Path
    data: Path
    selection: Selection = field(default_factory=Selection)
    plugins: tuple[Path, ...] = ()
    workers: int | None = None
    threads: int | None = None
    device: str = "auto"


@dataclass(frozen=True)
class Outcome:
    """What came of a sweep: runs that had to be done, runs that were done before, and those that failed now."""

    to_do: int
    done_before: int
    failures: tuple[RunStatus, ...] = ()
    seconds: float = 0.0


def plan_asked(asked: Asked, supply: Supply | None = None) -> tuple[list[PlannedRun], Registries]:
    """The runs that are asked for, and the tables that their names were looked up in.

    ``supply`` fetches weights that are missing; without it, runs that need them are planned as lacking them.
    """
    suites = list(dict.fromkeys(asked.suites))
    for name in suites:
        find_suite(name)  # a typing error is answered before anything heavy is imported
    registries = open_registries(asked.plugins)
    return plan(suites, asked.selection, registries, asked.data, supply), registries


def sweep(asked: Asked, console: Console) -> Outcome:
    """Do the runs that are not done yet, showing progress; everything that can be checked is, before anything trains."""
    from harness.prepare import supply_weights

    started, store = time.monotonic(), Store(asked.results)
    store.require_writable()

    def tell(text: str) -> None:
        console.print(text, markup=False)

    runs, registries = plan_asked(asked, supply_weights(asked.data, tell))
    device = execute.resolve_device(asked.device)
    to_do, done = execute.split_done(runs, store)
    execute.prepare_benchmarks(to_do, registries, asked.data, tell)
    for suite in dict.fromkeys(asked.suites):
        store.write_manifest(suite, manifest(suite, runs, registries))
    if not to_do:
        console.print(f"{len(done)} of {len(done)} runs are already done; nothing trained.")
        return Outcome(0, len(done))
    options = fitted_options(asked, device, to_do, registries)
    already = f" ({len(done)} of {len(to_do) + len(done)} are already done)" if done else ""
    console.print(f"{_count(len(to_do), 'run')} to do{already}: {_count(options.workers, 'worker')} on {device}")
    failures = []
    with make_display(console, len(to_do)) as display:
        for status in execute.execute(to_do, options, display.update):
            display.finish(status)
            if status.state == "failed":
                failures.append(status)
    return Outcome(len(to_do), len(done), tuple(failures), time.monotonic() - started)


def fitted_options(asked: Asked, device: str, to_do: Sequence[PlannedRun], registries: Registries) -> ExecuteOptions:
    """Workers and threads for this machine. Tiny runs always take one thread, so that any worker count gives the same bits."""
    workers = min(asked.workers or execute.default_workers(device, len(to_do)), len(to_do))
    tiny = all(registries.backbones.load(run.spec.backbone.name).is_tiny for run in to_do)
    threads = asked.threads or (1 if tiny else max(1, execute.usable_cores() // workers))
    return ExecuteOptions(asked.results, asked.data, device, workers, threads, registries.plugins)


def print_outcome(console: Console, outcome: Outcome) -> None:
    """Say how many runs finished, on standard output, and which failed and why, on standard error."""
    if outcome.to_do:
        finished = outcome.to_do - len(outcome.failures)
        console.print(f"{finished} of {_count(outcome.to_do, 'run')} finished in {duration(outcome.seconds)}.")
    for status in outcome.failures:
        print(f"failed: {run_label(status.planned)}: {status.error}", file=sys.stderr)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
