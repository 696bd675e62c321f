"""The executor seam: planned runs in, one status a run out. Serial in this process, or in local worker processes.

``execute`` is a generator of statuses, so that another executor (a cluster) only has to yield the same. One failed run
never stops the others. Importing this module imports no torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from harness.errors import UserError
from harness.plan import PlannedRun
from harness.provenance import code_fingerprint
from harness.registry import Registries, open_registries
from harness.seal import RECORD_SCHEMA
from harness.store import Store
from harness.workers import Emit, End, Job, OnEvent, WorkerOptions, WorkerPool, run_job

OnUpdate = Callable[[PlannedRun, dict[str, Any]], None]


@dataclass(frozen=True)
class ExecuteOptions:
    """How a sweep is run; nothing here changes a number, so nothing here is part of a run's identity."""

    results: Path
    data: Path
    device: str = "cpu"
    workers: int = 1
    threads: int = 1
    """torch and BLAS threads of each run: a fixed number, because CPU sums depend on it in the last bits."""
    plugins: tuple[Path, ...] = ()
    runner: str = WorkerOptions.runner

    def for_workers(self) -> WorkerOptions:
        """The part that travels to workers."""
        return WorkerOptions(self.results, self.data, self.device, self.threads, self.plugins, self.runner)


@dataclass(frozen=True)
class RunStatus:
    """How one run ended: ``skipped`` means that its record was already there."""

    planned: PlannedRun
    state: Literal["done", "failed", "skipped"]
    error: str | None = None


def split_done(planned: Sequence[PlannedRun], store: Store) -> tuple[list[PlannedRun], list[PlannedRun]]:
    """(runs to do, runs whose record of this code exists and has what is asked to be observed); each run once."""
    unique = united(planned)
    done = {run.run_id for run in unique if store.state(run.run_id, code_fingerprint(), run.observe) == "done"}
    return [run for run in unique if run.run_id not in done], [run for run in unique if run.run_id in done]


def united(planned: Iterable[PlannedRun]) -> list[PlannedRun]:
    """Each run once: planned by several suites, it observes what any of them asks for."""
    runs: dict[str, PlannedRun] = {}
    for run in planned:
        known = runs.get(run.run_id)
        asked = set(run.observe) | set(known.observe if known else ())
        runs[run.run_id] = replace(run, observe=tuple(sorted(asked)))
    return list(runs.values())


def execute(planned: Sequence[PlannedRun], options: ExecuteOptions, on_update: OnUpdate) -> Iterator[RunStatus]:
    """Do what is not done yet and yield each run's status as it is known; ``on_update`` gets the events in between.

    The results folder must be writable and the data prepared (``prepare_benchmarks``). Failures are recorded in the store.
    """
    store = Store(options.results)
    to_do, done = split_done(planned, store)
    for run in done:
        yield RunStatus(run, "skipped")
    if not to_do:
        return
    runs = {run.run_id: run for run in to_do}
    last_good: dict[str, int] = {}

    def on_event(run_id: str, event: dict[str, Any]) -> None:
        if event.get("event") == "task_evaluated":
            last_good[run_id] = int(event["task"])
        on_update(runs[run_id], event)

    for end in _ends([Job(run.run_id, run.spec, run.observe) for run in to_do], options, on_event):
        run = runs[end.run_id]
        if end.error is None:
            yield RunStatus(run, "done")
        else:
            store.write_failure(run.run_id, failure_record(run, end.error, last_good.get(run.run_id)))
            yield RunStatus(run, "failed", end.error["error"])


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


def default_workers(device: str, jobs: int) -> int:
    """One worker a core on the CPU; one on an accelerator, which runs would only share."""
    return max(1, min(usable_cores() if device == "cpu" else 1, jobs))


def usable_cores() -> int:
    """Cores this process may use, which in a container can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resolve_device(device: str) -> str:
    """``auto`` becomes ``cuda`` where there is one; an absent accelerator is the user's mistake, not a silent fallback."""
    if device == "cpu":
        return device
    import torch

    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise UserError("--device cuda: torch sees no CUDA device here; use --device cpu or --device auto.")
    return "cuda" if available else "cpu"


def run_with_engine(job: Job, options: WorkerOptions, emit: Emit) -> None:
    """The runner of all real runs: the engine publishes the record, this only sets the stage."""
    from harness import engine

    pin_arithmetic(options.threads)
    engine.run(
        job.spec,
        results_root=options.results,
        data_root=options.data,
        device=options.device,
        registries=open_registries(options.plugins),
        on_event=emit,
        observe=job.observe,
    )


def pin_arithmetic(threads: int) -> None:
    """Exactly so many threads in torch and in NumPy's BLAS, and float32 that is float32.

    On recent GPUs torch rounds convolutions to TF32, 10 bits of mantissa, and products too where the environment says so, as
    common containers do: no record would tell, and pixels would not be resized as Pillow does.
    """
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(threads)
    threadpool_limits(limits=threads)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def _ends(jobs: Sequence[Job], options: ExecuteOptions, on_event: OnEvent) -> Iterator[End]:
    shared, workers = options.for_workers(), min(options.workers, len(jobs))
    if workers > 1:
        with WorkerPool(workers, shared) as pool:
            yield from pool.run(jobs, on_event)
        return
    for job in jobs:
        yield run_job(job, shared, on_event)
