"""One run as a job, and doing it in this process under its lease. Importing this module imports no torch.

Every executor's worker calls ``run_job``, so that leases, cancelling and interruption are the same everywhere.
"""

from __future__ import annotations

import importlib
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from smope_bench.harness.cancellation import Interrupted, StopRequest
from smope_bench.harness.errors import UserError, without_home
from smope_bench.harness.execution.lease import CANCEL, Lease, LeaseState, acquire, remove_leftovers_of
from smope_bench.harness.hardware.device import pin_arithmetic, resolve_device
from smope_bench.harness.records.record import RECORD
from smope_bench.harness.records.store import Store
from smope_bench.harness.registry.plugins import plugin_place
from smope_bench.harness.registry.registry import open_registries
from smope_bench.harness.run_options import RunContext, RunOptions
from smope_bench.harness.run_spec import RunSpec
from smope_bench.harness.text import plain, whole_commands

OnEvent = Callable[[str, dict[str, Any]], None]
"""Receives the id of a run and one of its events."""
JobStatus = Literal["done", "skipped", "failed", "interrupted", "cancelled", "held"]
"""``skipped``: the record was there by then; ``interrupted``: saved, to be resumed; ``cancelled``: interrupted, or not begun,
because a user cancelled this run; ``held``: another process holds the lease."""


@dataclass(frozen=True)
class Job:
    """One run as it is sent to a worker."""

    run_id: str
    spec: RunSpec
    observe: tuple[str, ...] = ()
    """Names of what figures need of the run beside accuracies."""
    memory_mb: float = 0.0
    """MiB expected at its peak; 0 if unknown or irrelevant."""


@dataclass(frozen=True)
class JobResult:
    """How a job ended; ``error`` has ``kind``, ``error`` and ``traceback`` if it failed."""

    run_id: str
    state: JobStatus = "done"
    error: dict[str, Any] | None = None


DEVICE_LOST = "DeviceLost"
"""``kind`` of the error of a run whose device failed: its process cannot use that device again."""

Runner = Callable[[Job, RunOptions, RunContext], None]


def failed(run_id: str, kind: str, sentence: str) -> JobResult:
    """The result of a job that failed outside the run's own code."""
    return JobResult(run_id, "failed", {"kind": kind, "error": sentence, "traceback": ""})


def run_job(job: Job, options: RunOptions, on_event: OnEvent, stop_request: StopRequest | None = None) -> JobResult:
    """Do one run in this process under its lease; an exception of the run becomes the result's error.

    To stop the run gently, call ``stop_request.set()``.
    """
    stop_request = stop_request or StopRequest()

    def emit(event: dict[str, Any]) -> None:
        on_event(job.run_id, event)

    if not options.leases:
        return _attempt(job, options, RunContext(stop_request, emit=emit))
    try:
        lease = acquire(options.results / job.run_id, on_cancel=stop_request.set, stop_file=options.stop_file)
    except Exception as error:
        return _failure(job, error, options)
    if isinstance(lease, LeaseState):
        return JobResult(job.run_id, "held")

    judged: set[tuple[int, int] | None] = set()  # records that did not do, seen before anything was written beside them

    def may_publish() -> bool:
        # A process that slept while its lease was taken over must not publish once the other one has: it then finds no lease
        # file, or a newer one. Nor one that began because the folder was away for a moment. A record that lacked a file fits
        # again as soon as that file is made anew: it is judged before.
        if not lease.still_ours():
            return False
        found = _written(job, options.results)
        if found in judged:
            return True
        if _is_done(job, options.results):
            return False
        judged.add(found)
        return True

    result = JobResult(job.run_id, "interrupted")
    try:
        result = _under_lease(job, options, RunContext(stop_request, may_publish, emit), lease)
    finally:
        lease.release(forget=result.state in ("done", "skipped"))
    if result.state == "skipped":
        remove_leftovers_of(options.results / job.run_id)
    return result


def _written(job: Job, results: Path) -> tuple[int, int] | None:
    """When and as which file the record of a job was written; None where there is none."""
    try:
        status = (results / job.run_id / RECORD).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def _under_lease(job: Job, options: RunOptions, context: RunContext, lease: Lease) -> JobResult:
    result = _not_to_begin(job, options) or _attempt(job, options, context)
    if result.state == "interrupted":
        if _is_done(job, options.results):  # by the process that took the lease over
            return JobResult(job.run_id, "skipped")
        if lease.cancelled:
            return JobResult(job.run_id, "cancelled")
    if result.state in ("interrupted", "failed") and lease.is_lost:  # its new holder reports how the run ends
        return JobResult(job.run_id, "held")
    return result


def _not_to_begin(job: Job, options: RunOptions) -> JobResult | None:
    """The result of a job that is not to be begun, else None."""
    if _is_done(job, options.results):  # before this launcher planned it, or by another one since then
        return JobResult(job.run_id, "skipped")
    if (options.results / job.run_id / CANCEL).exists():
        return JobResult(job.run_id, "cancelled")
    if options.stop_file is not None and options.stop_file.exists():
        return JobResult(job.run_id, "interrupted")
    return None


def _attempt(job: Job, options: RunOptions, context: RunContext) -> JobResult:
    try:
        load_runner(options.runner)(job, options, context)
    except Interrupted:
        return JobResult(job.run_id, "interrupted")
    except (Exception, SystemExit) as error:  # a method that calls sys.exit fails its own run, not the launch
        return _failure(job, error, options)
    return JobResult(job.run_id)


def _is_done(job: Job, results: Path) -> bool:
    if not os.path.exists(results / job.run_id / RECORD):  # noqa: PTH110  # unlike a Path, it never raises
        return False
    return Store(results).state(job.run_id, job.spec.fingerprint, job.observe) == "done"


def load_runner(target: str) -> Runner:
    """The function named ``module:function``."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _failure(job: Job, error: BaseException, options: RunOptions) -> JobResult:
    described = describe_error(error)
    whole = whole_commands(described["error"], options.plugins, options.data, options.results)
    return JobResult(job.run_id, "failed", described | {"error": without_home(whole)})


def describe_error(error: BaseException) -> dict[str, Any]:
    """An exception as ``kind``, ``error`` and ``traceback`` of a failure record, without the user's home folder."""
    sentence = without_home(plain(error)) or type(error).__name__
    text = without_home("".join(traceback.format_exception(error)))
    if place := plugin_place(error):
        sentence = f"{type(error).__name__}: {sentence} ({without_home(place)})"
    return {"kind": type(error).__name__, "error": sentence, "traceback": text}


def train(job: Job, options: RunOptions, context: RunContext) -> None:
    """The runner of all real runs: sets up the process and trains; the trainer publishes the record."""
    if options.deterministic:  # read by CUDA's libraries when they are first used
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    from smope_bench.harness.training import trainer

    pin_arithmetic(options.threads or 1, deterministic=options.deterministic)
    here = replace(options, device=_device_here(options))
    trainer.run(job.spec, here, context, open_registries(options.plugins), observe=job.observe)


def _device_here(options: RunOptions) -> str:
    """The device of a run on this machine, which may be a node of a cluster. Raises UserError where it is missing."""
    try:
        return resolve_device(options.device)
    except UserError as error:
        if not options.is_remote:
            raise
        raise UserError(
            f"the job landed where torch sees no {options.device} device, and a run for a GPU is not done on the CPU: request"
            " one (--slurm gres=gpu:1, another --slurm partition=, Ray nodes with GPUs), or use --device cpu"
        ) from error
