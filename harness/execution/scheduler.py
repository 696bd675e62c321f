"""Does planned runs: hands them to an executor, waits for runs that other launchers hold, and yields how each run ended.

One failed run never stops the others. Importing this module imports no torch.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from smope_bench.harness.errors import UserError
from smope_bench.harness.execution.executor_registry import open_executors
from smope_bench.harness.execution.job import Job, JobResult
from smope_bench.harness.execution.lease import CANCEL, LeaseMonitor, LeaseState, acquire, newest, remove_leftovers_of
from smope_bench.harness.planning.planner import PlannedRun
from smope_bench.harness.records.record import RECORD_SCHEMA
from smope_bench.harness.records.store import Store
from smope_bench.harness.registry.registry import uncollected
from smope_bench.harness.run_options import RunOptions

OnUpdate = Callable[[PlannedRun, dict[str, Any]], None]

NOT_THE_RUNS_FAULT = frozenset({"WorkerDied", "OtherCode", "UserError", "OutOfMemoryRun", "DeviceLost"})
"""Kinds of failures caused by the machine or the request: they do not disprove an earlier record."""
LOOK_S = (0.25, 5.0)
"""First and longest pause between checks of a run that another launcher holds."""


@dataclass(frozen=True)
class RunStatus:
    """How one run ended: ``skipped`` if its record was there, ``interrupted`` if it was saved and is not done."""

    planned: PlannedRun
    state: Literal["done", "failed", "skipped", "interrupted", "cancelled"]
    error: str | None = None
    traceback: Path | None = None
    """File with the whole traceback of the error, where it has one."""


def merge_duplicates(planned: Iterable[PlannedRun]) -> list[PlannedRun]:
    """Each run once; planned by several suites, it observes what any of them needs."""
    runs: dict[str, PlannedRun] = {}
    for run in planned:
        known = runs.get(run.run_id)
        observe = tuple(sorted({*run.observe, *(known.observe if known else ())}))
        runs[run.run_id] = run if observe == run.observe else replace(run, observe=observe)
    return list(runs.values())


@uncollected()
def partition_finished(planned: Sequence[PlannedRun], store: Store) -> tuple[list[PlannedRun], list[PlannedRun]]:
    """(runs to do, runs whose record of this code exists with all that is to be observed), each run once."""
    parts: tuple[list[PlannedRun], list[PlannedRun]] = [], []
    for run in merge_duplicates(planned):
        parts[_is_done(run, store)].append(run)
    return parts


def execute(
    planned: Sequence[PlannedRun],
    options: RunOptions,
    on_update: OnUpdate,
    memory_mb: Mapping[str, float] | None = None,
) -> Generator[RunStatus, None, None]:
    """Do the runs and yield each one's status as soon as it is known; ``on_update`` receives the events in between.

    The results folder must be writable and the data prepared (``prepare_benchmarks``). A run that is done already is skipped
    by its worker, which checks that under the lease. Failures are recorded in the store. ``memory_mb``: MiB that runs are
    expected to need, by run id. Raises Stopped once all that could be saved is, and UserError for an unknown executor.
    """
    store, to_do, run_jobs = Store(options.results), merge_duplicates(planned), _executor(options)
    _withdraw_cancels(to_do, store)
    runs = {run.run_id: run for run in to_do}
    expected, monitor, last_good = memory_mb or {}, LeaseMonitor(), dict[str, int]()
    held: list[PlannedRun] = []

    def on_event(run_id: str, event: dict[str, Any]) -> None:
        if event.get("event") == "task_evaluated":
            last_good[run_id] = int(event["task"])
        on_update(runs[run_id], event)

    while to_do:
        jobs = [Job(run.run_id, run.spec, run.observe, expected.get(run.run_id, 0.0)) for run in to_do]
        with _closing(run_jobs(jobs, options, on_event)) as results:
            for result in results:
                run = runs[result.run_id]
                if result.state == "held":
                    held.append(run)
                    on_update(run, {"event": "held"})
                    continue
                if result.error is not None:
                    _record_failure(store, run, result.error, last_good.get(run.run_id))
                file = store.path(run.run_id) / "failure.json" if result.error and result.error["traceback"] else None
                yield RunStatus(run, result.state, result.error["error"] if result.error else None, file)
        to_do = yield from _released(held, store, monitor)


def _executor(options: RunOptions) -> Callable[..., Iterator[JobResult]]:
    return open_executors(options.plugins).load(options.executor)


@contextlib.contextmanager
def _closing(results: Iterator[JobResult]) -> Iterator[Iterator[JobResult]]:
    """Stop the executor's workers at once if the block is left early, not when the iterator is collected."""
    try:
        yield results
    finally:
        if isinstance(results, Generator):
            results.close()


def _released(
    held: list[PlannedRun], store: Store, monitor: LeaseMonitor
) -> Generator[RunStatus, None, list[PlannedRun]]:
    """Wait for runs of other launchers: yields those that they finish, returns those that they give up.

    Both kinds are removed from ``held``.
    """
    pause = LOOK_S[0]
    while held:
        # First: a network client may go on showing as free what another process took meanwhile.
        time.sleep(pause)
        pause = min(pause * 1.5, LOOK_S[1])
        free: list[PlannedRun] = []
        for run in list(held):
            if _is_done(run, store):
                held.remove(run)
                remove_leftovers_of(store.path(run.run_id))  # its worker may have died before it released the lease
                yield RunStatus(run, "skipped")
                continue
            with contextlib.suppress(OSError):  # a network file system may come back
                if monitor.is_free(store.path(run.run_id)):
                    held.remove(run)
                    free.append(run)
        if free:
            return free
    return []


def _is_done(run: PlannedRun, store: Store) -> bool:
    return store.state(run.run_id, run.spec.fingerprint, run.observe) == "done"


def _withdraw_cancels(runs: Iterable[PlannedRun], store: Store) -> None:
    """Remove earlier cancel requests for these runs, except where another launcher still has to obey one."""
    for run in runs:
        folder = store.path(run.run_id)
        with contextlib.suppress(OSError):
            if (folder / CANCEL).exists() and ((lease := newest(folder)) is None or lease.is_free):
                (folder / CANCEL).unlink(missing_ok=True)


def _record_failure(store: Store, run: PlannedRun, error: Mapping[str, Any], last_good_task: int | None) -> None:
    """Record what stopped a run, unless another process holds it, or has finished it, meanwhile.

    A record of this code stays even if it lacks what is to be observed now; one of other code stays if the run itself is not
    to blame.
    """
    with contextlib.suppress(OSError, UserError):  # a full disk must not stop the other runs
        lease = acquire(store.path(run.run_id))
        if isinstance(lease, LeaseState):
            return
        try:
            is_outer = error["kind"] in NOT_THE_RUNS_FAULT and (store.path(run.run_id) / "result.json").exists()
            if not is_outer and store.state(run.run_id, run.spec.fingerprint) != "done":
                store.write_failure(run.run_id, failure_record(run, error, last_good_task))
        finally:
            lease.release(forget=False)


def failure_record(run: PlannedRun, error: Mapping[str, Any], last_good_task: int | None) -> dict[str, Any]:
    """The content of ``failure.json``."""
    return {
        "schema_version": RECORD_SCHEMA,
        "run_id": run.run_id,
        "spec": run.spec.model_dump(mode="json"),
        "last_good_task": last_good_task,
        **error,
    }
