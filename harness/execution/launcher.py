"""A sweep from what the user asked to what came of it: plan, check, prepare, execute. The command line is its only caller."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from smope_bench.harness.cancellation import TERMINATED, Stopped
from smope_bench.harness.console import duration
from smope_bench.harness.errors import UserError
from smope_bench.harness.execution import memory_budget as packing
from smope_bench.harness.execution import scheduler as execute
from smope_bench.harness.execution.job import CHECKPOINT_EVERY_S, ExecuteOptions
from smope_bench.harness.execution.progress import make_display, run_label
from smope_bench.harness.execution.scheduler import RunStatus
from smope_bench.harness.hardware import device as hardware
from smope_bench.harness.hardware import memory
from smope_bench.harness.hardware.device import precision_remark
from smope_bench.harness.hardware.memory import MIB
from smope_bench.harness.planning.planner import PlannedRun, Selection, Supply, find_suite, manifest, plan
from smope_bench.harness.records.store import Record, Store
from smope_bench.harness.registry.registry import Registries, open_registries


@dataclass(frozen=True)
class ExecutorOptions:
    """By which executor, and with which promises; see ``ExecuteOptions``."""

    executor: str = "auto"
    address: str | None = None
    slurm: tuple[str, ...] = ()
    gpus_per_run: float = 1.0
    deterministic: bool = False
    checkpoint_every_s: float = CHECKPOINT_EVERY_S

    @property
    def is_local(self) -> bool:
        """Whether several runs may share this machine's memory."""
        return self.executor in ("auto", "local")

    @property
    def trains_here(self) -> bool:
        """Whether this machine's devices are the ones that runs use."""
        return self.executor != "slurm" and self.address is None

    def require_sense(self) -> None:
        """Raise UserError for a setting that the executor has no use for."""
        if self.address is not None and self.executor != "ray":
            raise UserError(f"--address {self.address} is of a Ray cluster: add --executor ray")
        if self.slurm and self.executor != "slurm":
            raise UserError(f"--slurm {self.slurm[0]} is for a batch system: add --executor slurm")


@dataclass(frozen=True)
class RunRequest:
    """What the user asked to run; ``None`` means that a default fits itself to the machine."""

    suites: Sequence[str]
    results: Path
    data: Path
    selection: Selection = field(default_factory=Selection)
    plugins: tuple[Path, ...] = ()
    workers: int | None = None
    threads: int | None = None
    device: str = "auto"
    how: ExecutorOptions = field(default_factory=ExecutorOptions)


@dataclass(frozen=True)
class LaunchSummary:
    """What came of a sweep: runs that had to be done, runs that were done before, and those that failed now."""

    to_do: int
    done_before: int
    failures: tuple[RunStatus, ...] = ()
    seconds: float = 0.0


def plan_asked(asked: RunRequest, supply: Supply | None = None) -> tuple[list[PlannedRun], Registries]:
    """The runs that are asked for, and the tables that their names were looked up in.

    ``supply`` fetches weights that are missing; without it, runs that need them are planned as lacking them.
    """
    suites = list(dict.fromkeys(asked.suites))
    for name in suites:
        find_suite(name)  # a typing error is answered before anything heavy is imported
    registries = open_registries(asked.plugins)
    return plan(suites, asked.selection, registries, asked.data, supply), registries


def sweep(asked: RunRequest, console: Console) -> LaunchSummary:
    """Do the runs that are not done yet, showing progress; everything that can be checked is, before anything trains."""
    from smope_bench.harness.planning.assets import supply_weights

    asked.how.require_sense()
    started, store = time.monotonic(), Store(asked.results)
    store.require_writable()

    def tell(text: str) -> None:
        console.print(text, markup=False)

    runs, registries = plan_asked(asked, supply_weights(asked.data, tell))
    device = hardware.resolve_device(asked.device) if asked.how.trains_here else asked.device
    if asked.how.trains_here and (remark := precision_remark(asked.selection.precision, device)):
        tell(f"note: {remark}")
    to_do, done = execute.partition_finished(runs, store)
    execute.remove_leftovers(done, store)
    execute.prepare_benchmarks(to_do, registries, asked.data, tell)
    for suite in dict.fromkeys(asked.suites):
        store.write_manifest(suite, manifest(suite, runs, registries))
    if not to_do:
        console.print(f"{len(done)} of {len(done)} runs are already done; nothing trained.")
        return LaunchSummary(0, len(done))
    memory = expected_memory(asked, device, to_do, registries) if asked.how.is_local and len(to_do) > 1 else {}
    options = fitted_options(asked, device, to_do, registries, memory)
    already = f" ({len(done)} of {len(to_do) + len(done)} are already done)" if done else ""
    console.print(f"{_count(len(to_do), 'run')} to do{already}: {_count(options.workers, 'worker')} on {device}")
    failures, unfinished = [], 0
    with (
        make_display(console, len(to_do)) as display,
        contextlib.closing(execute.execute(to_do, options, display.update, memory)) as statuses,
    ):
        for status in statuses:
            display.finish(status)
            unfinished += status.state in ("cancelled", "interrupted")
            if status.state == "failed":
                failures.append(status)
    if unfinished:
        raise Stopped(TERMINATED)
    return LaunchSummary(len(to_do), len(done), tuple(failures), time.monotonic() - started)


def fitted_options(
    asked: RunRequest,
    device: str,
    to_do: Sequence[PlannedRun],
    registries: Registries,
    memory_mb: Mapping[str, float] | None = None,
) -> ExecuteOptions:
    """Workers and threads for this machine.

    ``memory_mb`` is what runs are expected to need, by run id: no more are in flight than fit.
    """
    tiny = all(registries.backbones.load(run.spec.backbone.name).is_tiny for run in to_do)
    threads = asked.threads or hardware.default_threads(is_tiny=tiny)
    workers = min(asked.workers or hardware.default_workers(device, len(to_do), threads), len(to_do))
    workers = 1 if asked.how.executor == "serial" else workers
    budget = packing.SPARE * memory.free_mb(device) if memory_mb and workers > 1 else None
    if budget is not None and asked.workers is None:
        workers = min(workers, packing.workers_that_fit(list((memory_mb or {}).values()), budget))
    return ExecuteOptions(
        asked.results,
        asked.data,
        device,
        workers,
        threads,
        registries.plugins,
        **vars(asked.how),
        memory_mb=budget,
    )


def expected_memory(
    asked: RunRequest, device: str, to_do: Sequence[PlannedRun], registries: Registries
) -> dict[str, float]:
    """MiB by run id: of finished runs of the kind, else reckoned from the backbone's size.

    A number of workers that the user gave is reduced by what was measured only, never by what was reckoned.
    """
    peaks = packing.MemoryEstimator(
        (found for found in Store(asked.results).scan() if isinstance(found, Record)), device
    )
    weights: dict[str, float] = {}
    needs: dict[str, float] = {}
    for run in to_do:
        name = run.spec.backbone.name
        found = peaks.measured(run.spec.model_dump())
        if found is None and asked.workers is None:
            if name not in weights:
                skeleton = registries.backbones.load(name).at(asked.data).skeleton()
                weights[name] = sum(p.numel() * p.element_size() for p in skeleton.parameters()) / MIB
            found = peaks.guessed(weights[name])
        needs[run.run_id] = found or 0.0
    return needs


def print_summary(console: Console, outcome: LaunchSummary) -> None:
    """Say how many runs finished, on standard output, and which failed and why, on standard error."""
    if outcome.to_do:
        finished = outcome.to_do - len(outcome.failures)
        console.print(f"{finished} of {_count(outcome.to_do, 'run')} finished in {duration(outcome.seconds)}.")
    for status in outcome.failures:
        print(f"failed: {run_label(status.planned)}: {status.error}", file=sys.stderr)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
