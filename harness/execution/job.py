"""A run as it travels to where it is done, and doing one there under its claim. Importing this module imports no torch.

Every executor's worker ends in ``run_job``, so that claims, cancelling and interruption are the same everywhere.
"""

from __future__ import annotations

import importlib
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from smope_bench.harness.cancellation import Interrupted, StopRequest
from smope_bench.harness.errors import without_home
from smope_bench.harness.execution.lease import CANCEL, Lease, LeaseState, acquire, remove_leftovers_of
from smope_bench.harness.hardware.device import pin_arithmetic, resolve_device
from smope_bench.harness.records.store import Store
from smope_bench.harness.registry.registry import open_registries
from smope_bench.harness.run_spec import RunSpec
from smope_bench.harness.text import plain

Emit = Callable[[dict[str, Any]], None]
OnEvent = Callable[[str, dict[str, Any]], None]
JobStatus = Literal["done", "skipped", "failed", "interrupted", "cancelled", "held"]

CHECKPOINT_EVERY_S = 300.0


@dataclass(frozen=True)
class Job:
    """One run as it travels to a worker."""

    run_id: str
    spec: RunSpec
    observe: tuple[str, ...] = ()
    """What figures need of the run beside accuracies, by name."""
    memory_mb: float = 0.0
    """What it is expected to need at its peak; 0 where that does not matter or nobody knows."""


@dataclass(frozen=True)
class WorkerOptions:
    """What all runs of a sweep share. ``runner`` is ``module:function``: workers import it themselves."""

    results: Path
    data: Path
    device: str = "cpu"
    threads: int = 1
    plugins: tuple[Path, ...] = ()
    runner: str = "smope_bench.harness.execution.job:run_with_engine"
    deterministic: bool = False
    """Whether operations without a deterministic form are refused: a promise of bits on a GPU, at its cost."""
    checkpoint_every_s: float = CHECKPOINT_EVERY_S
    claims: bool = True
    """Whether runs are claimed: not where the caller holds a lock over all of them."""
    stop_file: Path | None = None
    """Where this exists, the launcher that handed out the run asks for it to be saved and stopped."""


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
    executor: str = "auto"
    """``auto`` is ``serial`` for one worker, else ``local``; the others are the names of ``smope_bench.harness.execution.scheduler.EXECUTORS``."""
    address: str | None = None
    """Of an existing Ray cluster."""
    slurm: tuple[str, ...] = ()
    """``KEY=VALUE`` for the batch system, for example ``partition=gpu``."""
    gpus_per_run: float = 1.0
    deterministic: bool = False
    checkpoint_every_s: float = CHECKPOINT_EVERY_S
    memory_mb: float | None = None
    """What runs in flight may need together on this machine; None is no limit."""

    def for_workers(self) -> WorkerOptions:
        """The part that travels to workers."""
        return WorkerOptions(
            self.results,
            self.data,
            self.device,
            self.threads,
            self.plugins,
            self.runner,
            self.deterministic,
            self.checkpoint_every_s,
        )


@dataclass(frozen=True)
class JobResult:
    """How a job ended: done, where nothing else is said."""

    run_id: str
    error: dict[str, Any] | None = None
    """``kind``, ``error`` and ``traceback`` where it failed."""
    interrupted: bool = False
    """It was saved and goes on another time."""
    cancelled: bool = False
    """It was interrupted, or not begun, because somebody asked for that run to stop."""
    held: bool = False
    """Somebody else has it."""
    skipped: bool = False
    """Its record was there by then."""

    @property
    def state(self) -> JobStatus:
        """The same in one word."""
        if self.error is not None:
            return "failed"
        states: tuple[JobStatus, ...] = ("cancelled", "interrupted", "held", "skipped")
        for state in states:
            if getattr(self, state):
                return state
        return "done"


@dataclass(frozen=True)
class Control:
    """What a runner is given beside its job: where to speak (it is called like an ``Emit``) and whether to go on."""

    emit: Emit
    interruption: StopRequest
    may_publish: Callable[[], bool] = lambda: True

    def __call__(self, event: dict[str, Any]) -> None:
        self.emit(event)


Runner = Callable[[Job, WorkerOptions, Control], None]
"""A function that takes a plain ``Emit`` in the last place is one, too."""


def run_job(job: Job, options: WorkerOptions, on_event: OnEvent, interruption: StopRequest | None = None) -> JobResult:
    """Do one run in this process under its claim; an exception of the run becomes its end.

    Whoever stops this process gently calls ``interruption.ask()``.
    """
    interruption = interruption or StopRequest()

    def emit(event: dict[str, Any]) -> None:
        on_event(job.run_id, event)

    if not options.claims:
        return _attempt(job, options, Control(emit, interruption))
    try:
        claim = acquire(options.results / job.run_id, on_cancel=interruption.ask, stop_file=options.stop_file)
    except Exception as error:
        return JobResult(job.run_id, describe_error(error))
    if isinstance(claim, LeaseState):
        return JobResult(job.run_id, held=True)
    end = JobResult(job.run_id, interrupted=True)

    def may_publish() -> bool:  # a sleeper whose heir is done finds no claim, or one made after that
        return claim.still_ours() and not _is_done(job, options.results)

    try:
        end = _under_claim(job, options, Control(emit, interruption, may_publish), claim)
    finally:
        claim.release(forget=end.state in ("done", "skipped"))
    if end.state == "skipped":
        remove_leftovers_of(options.results / job.run_id)
    return end


def _under_claim(job: Job, options: WorkerOptions, control: Control, claim: Lease) -> JobResult:
    if (early := _not_begun(job, options)) is not None:
        return early
    end = _attempt(job, options, control)
    if end.state == "interrupted" and _is_done(job, options.results):  # by whoever took it over, since it began
        return JobResult(job.run_id, skipped=True)
    if end.state == "interrupted" and claim.cancelled:
        return JobResult(job.run_id, interrupted=True, cancelled=True)
    if end.state in ("interrupted", "failed") and claim.is_lost:  # whoever took it over also says how it ended
        return JobResult(job.run_id, held=True)
    return end


def _not_begun(job: Job, options: WorkerOptions) -> JobResult | None:
    """The end of a run that is not to be begun."""
    if _is_done(job, options.results):  # by another launcher, since this one looked
        return JobResult(job.run_id, skipped=True)
    is_cancelled = (options.results / job.run_id / CANCEL).exists()
    if is_cancelled or (options.stop_file is not None and options.stop_file.exists()):
        return JobResult(job.run_id, interrupted=True, cancelled=is_cancelled)
    return None


def _attempt(job: Job, options: WorkerOptions, control: Control) -> JobResult:
    try:
        load_runner(options.runner)(job, options, control)
    except Interrupted:
        return JobResult(job.run_id, interrupted=True)
    except (Exception, SystemExit) as error:  # a method that calls sys.exit has failed, the sweep has not
        return JobResult(job.run_id, describe_error(error))
    return JobResult(job.run_id)


def _is_done(job: Job, results: Path) -> bool:
    if not os.path.exists(results / job.run_id / "result.json"):  # noqa: PTH110  # unlike a Path, it never raises
        return False
    return Store(results).state(job.run_id, job.spec.fingerprint, job.observe) == "done"


def load_runner(target: str) -> Runner:
    """The function named ``module:function``."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def describe_error(error: BaseException) -> dict[str, Any]:
    """An exception as the ``kind``, ``error`` and ``traceback`` of a failure record, the user's home folder taken out."""
    sentence = without_home(plain(error)) or type(error).__name__
    text = without_home("".join(traceback.format_exception(error)))
    return {"kind": type(error).__name__, "error": sentence, "traceback": text}


def run_with_engine(job: Job, options: WorkerOptions, control: Control) -> None:
    """The runner of all real runs: the engine publishes the record, this only sets the stage."""
    if options.deterministic:  # read by the device's libraries when they are first used
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    from smope_bench.harness.training import trainer as engine

    pin_arithmetic(options.threads, deterministic=options.deterministic)
    engine.run(
        job.spec,
        results_root=options.results,
        data_root=options.data,
        device=resolve_device(options.device),  # a cluster's machine finds its own
        registries=open_registries(options.plugins),
        on_event=control,
        observe=job.observe,
        interruption=control.interruption,
        checkpoint_every_s=options.checkpoint_every_s,
        may_publish=control.may_publish,
    )
