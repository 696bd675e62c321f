"""The executor seam: planned runs in, one status a run out, wherever they are done.

An executor is a function ``ends(jobs, options, on_event) -> Iterator[End]`` and nothing else. One failed run never stops the
others; runs that another launcher has are waited for. Importing this module imports no torch.
"""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from smope_bench.harness.errors import UserError, did_you_mean
from smope_bench.harness.execution.job import ExecuteOptions, Job, JobResult, OnEvent
from smope_bench.harness.execution.lease import CANCEL, LeaseMonitor, LeaseState, acquire, newest, remove_leftovers_of
from smope_bench.harness.planning.planner import PlannedRun
from smope_bench.harness.records.checksum import RECORD_SCHEMA
from smope_bench.harness.records.store import Store
from smope_bench.harness.registry.registry import Registries

OnUpdate = Callable[[PlannedRun, dict[str, Any]], None]
Executor = Callable[[Sequence[Job], ExecuteOptions, OnEvent], Iterator[JobResult]]

EXECUTORS: Mapping[str, str] = {
    "serial": "smope_bench.harness.executors.local:serial_ends",
    "local": "smope_bench.harness.executors.local:pool_ends",
    "ray": "smope_bench.harness.executors.ray_cluster:ends",
    "slurm": "smope_bench.harness.executors.slurm:ends",
}
"""By name, each ``module:function``: its module is imported when it is asked for."""
OUTER = frozenset({"WorkerDied", "OtherCode", "UserError", "OutOfMemoryRun"})
"""Kinds of failures that come of the machine or of what was asked for: they say nothing against a record of before."""
LOOK_S = (0.25, 5.0)
"""Pauses between looks at what another launcher does: the first, and the longest."""


@dataclass(frozen=True)
class RunStatus:
    """How one run ended: ``skipped`` means that its record was there, ``interrupted`` that it was saved and is not done."""

    planned: PlannedRun
    state: Literal["done", "failed", "skipped", "interrupted", "cancelled"]
    error: str | None = None


def partition_finished(planned: Sequence[PlannedRun], store: Store) -> tuple[list[PlannedRun], list[PlannedRun]]:
    """(runs to do, runs whose record of this code exists and has what is asked to be observed); each run once."""
    unique = merge_duplicates(planned)
    done = {run.run_id for run in unique if store.state(run.run_id, run.spec.fingerprint, run.observe) == "done"}
    return [run for run in unique if run.run_id not in done], [run for run in unique if run.run_id in done]


def remove_leftovers(done: Iterable[PlannedRun], store: Store) -> None:
    """Remove from finished runs what a process that was killed just after publishing left there."""
    for run in done:
        remove_leftovers_of(store.path(run.run_id))


def merge_duplicates(planned: Iterable[PlannedRun]) -> list[PlannedRun]:
    """Each run once: planned by several suites, it observes what any of them asks for."""
    runs: dict[str, PlannedRun] = {}
    for run in planned:
        known = runs.get(run.run_id)
        asked = set(run.observe) | set(known.observe if known else ())
        runs[run.run_id] = replace(run, observe=tuple(sorted(asked)))
    return list(runs.values())


def execute(
    planned: Sequence[PlannedRun],
    options: ExecuteOptions,
    on_update: OnUpdate,
    memory_mb: Mapping[str, float] | None = None,
) -> Generator[RunStatus, None, None]:
    """Do what is not done yet and yield each run's status as it is known; ``on_update`` gets the events in between.

    The results folder must be writable and the data prepared (``prepare_benchmarks``). Failures are recorded in the store.
    ``memory_mb`` is what runs are expected to need, by run id. Raises Stopped, after what could be saved was.
    """
    store = Store(options.results)
    to_do, done = partition_finished(planned, store)
    remove_leftovers(done, store)
    for run in done:
        yield RunStatus(run, "skipped")
    _withdraw_cancels(to_do, store)
    runs = {run.run_id: run for run in to_do}
    expected, watch, last_good = memory_mb or {}, LeaseMonitor(), dict[str, int]()
    held: list[PlannedRun] = []

    def on_event(run_id: str, event: dict[str, Any]) -> None:
        if event.get("event") == "task_evaluated":
            last_good[run_id] = int(event["task"])
        on_update(runs[run_id], event)

    while to_do:
        jobs = [Job(run.run_id, run.spec, run.observe, expected.get(run.run_id, 0.0)) for run in to_do]
        with _closing(open_executor(options, len(jobs))(jobs, options, on_event)) as ends:
            for end in ends:
                run = runs[end.run_id]
                if end.held:
                    held.append(run)
                    on_update(run, {"event": "held"})
                else:
                    yield _status(store, run, end, last_good.get(run.run_id))
        to_do = yield from _freed(held, store, watch)


def open_executor(options: ExecuteOptions, jobs: int) -> Executor:
    """The executor that is asked for. Raises UserError for an unknown name."""
    name = options.executor
    if name == "auto":
        name = "local" if min(options.workers, jobs) > 1 else "serial"
    if name not in EXECUTORS:
        raise UserError(f"unknown executor {name!r}{did_you_mean(name, ['auto', *EXECUTORS])}")
    module, _, function = EXECUTORS[name].partition(":")
    return getattr(importlib.import_module(module), function)


@contextlib.contextmanager
def _closing(ends: Iterator[JobResult]) -> Iterator[Iterator[JobResult]]:
    """An executor that is left early stops its workers at once, not when somebody collects it."""
    try:
        yield ends
    finally:
        if isinstance(ends, Generator):
            ends.close()


def _status(store: Store, run: PlannedRun, end: JobResult, last_good_task: int | None) -> RunStatus:
    """What became of a run; a failure is recorded first."""
    assert end.state != "held"
    if end.error is None:
        return RunStatus(run, end.state)
    _note_failure(store, run, end.error, last_good_task)
    return RunStatus(run, end.state, end.error["error"])


def _freed(held: list[PlannedRun], store: Store, watch: LeaseMonitor) -> Generator[RunStatus, None, list[PlannedRun]]:
    """Wait for what others do: yields runs that they finish, returns those that they give up as soon as there are any.

    Both kinds are taken from ``held``.
    """
    pause = LOOK_S[0]
    while held:
        free: list[PlannedRun] = []
        for run in list(held):
            if store.state(run.run_id, run.spec.fingerprint, run.observe) == "done":
                held.remove(run)
                remove_leftovers([run], store)  # its worker may have died before it gave its claim back
                yield RunStatus(run, "skipped")
                continue
            with contextlib.suppress(OSError):  # a network's file system comes back
                if watch.is_free(store.path(run.run_id)):
                    held.remove(run)
                    free.append(run)
        if free:
            return free
        if held:
            time.sleep(pause)
            pause = min(pause * 1.5, LOOK_S[1])
    return []


def _withdraw_cancels(runs: Iterable[PlannedRun], store: Store) -> None:
    """Asked for anew, a run is not stopped by what was asked before; one that another launcher has is still its to stop."""
    for run in runs:
        folder = store.path(run.run_id)
        with contextlib.suppress(OSError):
            if (folder / CANCEL).exists() and ((held := newest(folder)) is None or held.is_free):
                (folder / CANCEL).unlink(missing_ok=True)


def _note_failure(store: Store, run: PlannedRun, error: Mapping[str, Any], last_good_task: int | None) -> None:
    """Record what stopped a run, unless somebody else has taken it up, or done it, meanwhile.

    A record of this code stays though it lacks what is asked to be observed now; one of other code stays where the run itself
    did nothing wrong.
    """
    with contextlib.suppress(OSError, UserError):  # a disk that is full is no reason to stop the others
        claim = acquire(store.path(run.run_id))
        if isinstance(claim, LeaseState):
            return
        try:
            is_outer = error["kind"] in OUTER and (store.path(run.run_id) / "result.json").exists()
            is_done = store.state(run.run_id, run.spec.fingerprint) == "done"
            if not is_outer and not is_done:
                store.write_failure(run.run_id, failure_record(run, error, last_good_task))
        finally:
            claim.release(forget=False)


def failure_record(run: PlannedRun, error: Mapping[str, Any], last_good_task: int | None) -> dict[str, Any]:
    """The content of ``failure.json``."""
    return {
        "schema_version": RECORD_SCHEMA,
        "run_id": run.run_id,
        "spec": run.spec.model_dump(mode="json"),
        "last_good_task": last_good_task,
        **error,
    }


def prepare_benchmarks(
    planned: Iterable[PlannedRun], registries: Registries, data: Path, progress: Callable[[str], None]
) -> None:
    """Fetch, verify and convert the data of each distinct benchmark, before anything trains.

    Benchmarks that differ in protocol or augmentation alone share their images, gigabytes that are read through once.
    """
    distinct = {run.spec.benchmark.model_dump_json(): run.spec.benchmark for run in planned}
    ready: set[str] = set()
    for component in distinct.values():
        benchmark = registries.benchmarks.load(component.name)
        opened = benchmark(benchmark.Config(**component.config), data)
        if (images := f"{component.name} {opened.images_key()}") not in ready:
            opened.prepare(progress)
            ready.add(images)
        opened.task_sizes()  # an impossible split is said here, before anything trains
