"""A launch, from the suites that a user names to the outcome: plan, check, prepare, execute."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

from rich.console import Console

from smope_bench.benchmarks.suites import Suite
from smope_bench.harness.cancellation import TERMINATED, Stopped
from smope_bench.harness.console import counted, duration
from smope_bench.harness.cost.estimate import count_split, trained_on
from smope_bench.harness.errors import UserError, as_user_errors, did_you_mean
from smope_bench.harness.execution.executor_registry import Executor, open_executors
from smope_bench.harness.execution.lease import remove_leftovers_of
from smope_bench.harness.execution.memory_budget import SPARE, MemoryEstimator, require_room, workers_that_fit
from smope_bench.harness.execution.monitoring.display import make_display
from smope_bench.harness.execution.monitoring.progress import run_label
from smope_bench.harness.execution.monitoring.tracked import TrackedLaunch
from smope_bench.harness.execution.scheduler import RunStatus, execute, partition_finished
from smope_bench.harness.hardware import device as hardware
from smope_bench.harness.hardware import memory
from smope_bench.harness.hardware.gpus import select_gpus
from smope_bench.harness.hardware.memory import MIB
from smope_bench.harness.main_guard import require_main_guard
from smope_bench.harness.planning.own_backbones import Notify, to_stderr
from smope_bench.harness.planning.planner import PlannedRun, Supply, plan
from smope_bench.harness.planning.selection import Selection
from smope_bench.harness.planning.suites.find import find_suite, find_suites
from smope_bench.harness.planning.summary.manifest import manifest
from smope_bench.harness.planning.summary.remarks import further_columns, notes_of, remarks
from smope_bench.harness.records.index import IndexedStore
from smope_bench.harness.records.record import Record
from smope_bench.harness.records.store import Store
from smope_bench.harness.registry.metrics import open_metrics
from smope_bench.harness.registry.plugins import run_file
from smope_bench.harness.registry.registry import KINDS, Registries, open_registries, uncollected
from smope_bench.harness.run_options import RunOptions
from smope_bench.harness.text import shell_command
from smope_bench.harness.tracking.tracker import find_trackers

FLOAT32_BYTES = 4


@dataclass(frozen=True)
class LaunchSummary:
    """Outcome of a launch: runs that had to be done, runs that were done before, and those that failed now.

    ``runs``: all of them, in the order of the plan; suites that share a run have it once each.
    """

    to_do: int
    done_before: int
    failures: tuple[RunStatus, ...] = ()
    seconds: float = 0.0
    runs: tuple[PlannedRun, ...] = ()


@uncollected()
def plan_suites(
    suites: Sequence[str],
    selection: Selection,
    options: RunOptions,
    supply: Supply | None = None,
    notify: Notify = to_stderr,
) -> tuple[list[PlannedRun], Registries]:
    """The runs of some suites, and the registries in which their names were looked up.

    ``supply`` fetches weights that are missing; without it, runs that need them are planned as lacking them.
    """
    names = list(dict.fromkeys(suites))
    known = {metric.name for metric in open_metrics(options.plugins)}
    for suite in find_suites(names):  # a typing error is answered before anything heavy is imported
        for name in suite.metrics:
            if name not in known:
                raise UserError(f"{suite.file!r}, metrics: there is no metric {name!r}{did_you_mean(name, known)}")
        _require_figures(suite, options)
    registries = open_registries(options.plugins)
    return plan(names, selection, registries, options.data, supply, notify), registries


def _require_figures(suite: Suite, options: RunOptions) -> None:
    """Raise UserError for a figure in a user's file that no package and no plugin draws."""
    if not (suite.file and suite.drawings):
        return
    # Reports stand above this package: their table of kinds is found by its name, as plugins' figures are.
    kinds, _ = import_module(KINDS["figure"].base.partition(":")[0]).find_kinds(map(run_file, options.plugins))
    for drawing in suite.drawings:
        if drawing.kind not in kinds:
            hint = did_you_mean(drawing.kind, kinds)
            raise UserError(f"{suite.file!r}, drawings: there is no figure {drawing.kind!r}{hint}")


def launch(
    suites: Sequence[str], selection: Selection, options: RunOptions, console: Console, track: Sequence[str] = ()
) -> LaunchSummary:
    """Do the runs that are not done yet and show progress; all that can be checked is checked before anything trains.

    ``track``: names of the trackers that follow the runs.
    """
    from smope_bench.harness.planning.assets import supply_weights

    def notify(text: str) -> None:
        console.print(text, markup=False)

    with as_user_errors(options.plugins, options.data, options.results):
        find_executor(options)
        require_guard(options)
        Store(options.results).require_writable()
        find_trackers(track, options.plugins)
        runs, registries = plan_suites(suites, selection, options, supply_weights(options.data, notify), notify)
        found = [find_suite(name) for name in dict.fromkeys(suites)]
        for line in further_columns(found, selection, registries, options.data):
            notify(line)
        return launch_runs(found, runs, registries, options, console, track)


def launch_runs(
    suites: Sequence[Suite],
    runs: Sequence[PlannedRun],
    registries: Registries,
    options: RunOptions,
    console: Console,
    track: Sequence[str] = (),
) -> LaunchSummary:
    """``launch`` of runs that have been planned, each for one of these suites."""
    from smope_bench.harness.planning.assets import prepare_benchmarks

    def notify(text: str) -> None:
        console.print(text, markup=False)

    started, store, executor = time.monotonic(), Store(options.results), find_executor(options)
    store.require_writable()
    trackers = find_trackers(track, options.plugins)
    device, options = placed(executor, options)
    for remark in _device_remarks(executor, runs, device, options):
        notify(f"note: {remark}")
    with IndexedStore(options.results) as known:
        to_do, done = partition_finished(runs, known)
    for run in done:  # what a process that was killed just after publishing left there
        remove_leftovers_of(store.path(run.run_id))
    if (
        executor.place == "machine"
        and len(to_do) > 1
        and _workers_and_threads(options, device, to_do, registries)[0] > 1
    ):
        require_main_guard()  # before anything is downloaded
    held = prepare_benchmarks(to_do, registries, options.data, notify)
    for line in launch_remarks(to_do, registries, options.data):
        notify(line)
    for suite in suites:
        with uncollected():
            is_other = store.write_manifest(suite.name, manifest(suite, runs, registries))
        if is_other:
            notify(
                f"note: suite {suite.name!r} was planned from other rows or columns before: its tables show the present plan."
            )
    if trackers and done:
        named = [word for one in trackers for word in ("--to", one.name)]
        command = shell_command("track", str(options.results), *named, plugins=options.plugins)
        notify(f"note: only runs that are to do are tracked; for the finished ones, too: {command}")
    if not to_do:
        console.print(f"{len(done)} of {len(done)} runs are already done; nothing trained.")
        return LaunchSummary(0, len(done), runs=tuple(runs))
    fits_memory = executor.place == "machine" and len(to_do) > 1
    needs = expected_memory(options, device, to_do, registries) if fits_memory else {}
    fitted = fitted_options(options, device, to_do, registries, needs, one_by_one=executor.place == "process")
    already = f" ({len(done)} of {len(to_do) + len(done)} are already done)" if done else ""
    console.print(f"{counted(len(to_do), 'run')} to do{already}: {counted(fitted.workers or 1, 'worker')} on {device}")
    failures, unfinished = [], 0
    tracking = TrackedLaunch(trackers, options, notify)
    with (
        tracking,
        make_display(console, len(to_do)) as display,
        contextlib.closing(execute(to_do, fitted, tracking.after(display.update), needs)) as statuses,
    ):
        for status in statuses:
            display.finish(status)
            tracking.finish(status)
            unfinished += status.state in ("cancelled", "interrupted")
            if status.state == "failed":
                failures.append(status)
    for line in tracking.looks():
        notify(line)
    del held  # until here `data remove` refuses to delete the images of these runs
    if unfinished:
        raise Stopped(TERMINATED)
    return LaunchSummary(len(to_do), len(done), tuple(failures), time.monotonic() - started, tuple(runs))


def _device_remarks(executor: Executor, runs: Sequence[PlannedRun], device: str, options: RunOptions) -> Iterator[str]:
    """What to know of computing there: what is slow, or not supported. Raises UserError for what is impossible."""
    if not executor.trains_here(options):
        if options.device == "auto":
            yield "each job requests a GPU; --device cpu requests none"
        return
    for precision in sorted({run.spec.precision for run in runs}):
        remarks_there = (
            hardware.precision_remark(precision, device),
            hardware.unsupported_remark(device, precision, options.deterministic),
        )
        yield from (remark for remark in remarks_there if remark)


def launch_remarks(runs: Sequence[PlannedRun], registries: Registries, data: Path) -> list[str]:
    """What to know of the runs before they start, one line each. Counts training images only: a search reads no others."""
    counts: dict[str, int | None] = {}

    def images(run: PlannedRun) -> int | None:
        component = run.spec.benchmark
        if (key := component.model_dump_json()) not in counts:
            counts[key] = count_split(registries, component, data, "train")
        found = counts[key]
        return None if found is None else trained_on(found, run.spec)

    return remarks(runs, [notes_of(run, registries, images) for run in runs])


def find_executor(options: RunOptions) -> Executor:
    """The executor that is chosen. Raises UserError if it is unknown or an option is given that it has no use for."""
    executor: Executor = open_executors(options.plugins).load(options.executor)
    if options.address is not None and "address" not in executor.takes:
        raise UserError(f"--address {options.address} is of a Ray cluster: add --executor ray")
    if options.slurm and "slurm" not in executor.takes:
        raise UserError(f"--slurm {options.slurm[0]} is for a batch system: add --executor slurm")
    return executor


def placed(executor: Executor, options: RunOptions) -> tuple[str, RunOptions]:
    """(device, options with the GPUs of this machine that its runs get). On a cluster, ``auto`` is a GPU that jobs request.

    Raises UserError for a device or a GPU that is not there, and for ``--gpus`` where GPUs are not this launch's to give.
    """
    numbers = options.gpu_numbers
    if not executor.trains_here(options):
        if numbers:
            raise UserError(
                f"--gpus {','.join(map(str, numbers))} chooses among this machine's GPUs, but --executor {executor.name} runs"
                " elsewhere: leave it out"
            )
        return "cuda" if options.device == "auto" else options.device, options
    device = hardware.resolve_device(options.device)
    if device != "cuda":
        if numbers:
            raise UserError(f"--gpus {','.join(map(str, numbers))}: runs are on the {device} here; leave out --gpus.")
        return device, options
    return device, replace(options, gpus=tuple(select_gpus(numbers)))


def require_guard(options: RunOptions) -> None:
    """Raise UserError in a script that asks for several workers and would be run again by each. Imports no torch."""
    if (options.workers or 1) > 1 and find_executor(options).place == "machine":
        require_main_guard()


def fitted_options(
    options: RunOptions,
    device: str,
    to_do: Sequence[PlannedRun],
    registries: Registries,
    memory_mb: Mapping[str, float] | None = None,
    *,
    one_by_one: bool = False,
) -> RunOptions:
    """The options with device, workers and threads for this machine.

    ``memory_mb``: MiB that runs are expected to need, by run id; no more are in flight than fit.
    """
    workers, threads = _workers_and_threads(options, device, to_do, registries)
    workers = 1 if one_by_one else workers
    budget = SPARE * memory.free_mb("cpu") if memory_mb and workers > 1 and device == "cpu" else None
    if budget is not None and options.workers is None:
        workers = min(workers, workers_that_fit(list((memory_mb or {}).values()), budget))
    if options.workers is not None and memory_mb is not None:
        require_room(workers, options.gpus, list(memory_mb.values()))
    plugins = registries.plugins
    return replace(options, device=device, workers=workers, threads=threads, plugins=plugins, memory_mb=budget)


def _workers_and_threads(
    options: RunOptions, device: str, to_do: Sequence[PlannedRun], registries: Registries
) -> tuple[int, int]:
    """Runs at a time, if memory holds them, and threads of each."""
    weights = max(registries.backbone(run.spec.backbone, options.data).weight_count for run in to_do)
    threads = options.threads or hardware.default_threads(weights)
    default = hardware.default_workers(device, len(to_do), threads, max(1, len(options.gpus)))
    return min(options.workers or default, len(to_do)), threads


def expected_memory(
    options: RunOptions, device: str, to_do: Sequence[PlannedRun], registries: Registries
) -> dict[str, float]:
    """MiB by run id: measured by finished runs of the kind, else estimated from the backbone's size.

    A number of workers that the user gave is reduced by measurements only, never by estimates.
    """
    with IndexedStore(options.results) as store:
        estimator = MemoryEstimator((found for found in store.scan() if isinstance(found, Record)), device)
    needs: dict[str, float] = {}
    for run in to_do:
        found = estimator.measured(run.spec.model_dump())
        if found is None and options.workers is None:
            backbone = registries.backbone(run.spec.backbone, options.data)
            found = estimator.guessed(FLOAT32_BYTES * backbone.weight_count / MIB)
        needs[run.run_id] = found or 0.0
    return needs


def print_summary(console: Console, summary: LaunchSummary) -> None:
    """Print how many runs finished to standard output, and which failed and why to standard error."""
    if summary.to_do:
        finished = summary.to_do - len(summary.failures)
        console.print(f"{finished} of {counted(summary.to_do, 'run')} finished in {duration(summary.seconds)}.")
    for status in summary.failures:
        file = status.traceback
        where = f"; its traceback is in {str(file)!r}" if file is not None and file.is_file() else ""
        print(f"failed: {run_label(status.planned)}: {status.error}{where}", file=sys.stderr)
