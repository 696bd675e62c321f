"""Runs as Slurm jobs, one element of a job array each, through submitit.

A run that is pre-empted or reaches its time limit saves itself, goes back into the queue and resumes from its checkpoint, even
if the launcher is gone by then. submitit keeps what it submits as a pickle in ``results/.slurm``: the only pickles of this
project, written and read by its own jobs. The launcher reads none: jobs report how they ended in JSON.
"""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from smope_bench.harness.errors import UserError, without_home
from smope_bench.harness.execution.executor_registry import executor
from smope_bench.harness.execution.job import Job, JobResult, OnEvent, failed
from smope_bench.harness.executors.local import safe_path
from smope_bench.harness.executors.remote import (
    POLL_S,
    EventFollower,
    ask_to_stop,
    for_remote,
    wait_for_end,
    withdraw_stop,
)
from smope_bench.harness.executors.slurm_job import SlurmRun, read_result
from smope_bench.harness.executors.slurm_limits import SlurmLimits, is_refused_for_size, read_limits
from smope_bench.harness.executors.slurm_options import SlurmPlan, slurm_plan
from smope_bench.harness.executors.slurm_queue import LocalQueue, SlurmQueue
from smope_bench.harness.provenance import IMPORT_ROOT, code_fingerprint
from smope_bench.harness.run_options import Gpu, RunOptions
from smope_bench.harness.text import plain

RETRY_S = 60.0
"""Seconds until jobs that were refused while others were in the queue are submitted again, unless one of those ends before."""
REQUEUES = 1000
"""How often one run may reach its time limit: a run of a week in jobs of an hour must be possible."""


def starts_here(options: RunOptions) -> bool:
    """Whether jobs are submitit's processes on this machine."""
    return any(text.replace(" ", "").lstrip("-") == "cluster=local" for text in options.slurm)


@executor("slurm", place="cluster", takes=("slurm",), is_here=starts_here)
def run_on_slurm(jobs: Sequence[Job], options: RunOptions, on_event: OnEvent) -> Iterator[JobResult]:
    """As jobs of Slurm arrays.

    Raises UserError if submitit or Slurm is missing, or ``options.slurm`` cannot be understood. If the caller stops early,
    waiting jobs are taken out of the queue and running ones are asked to save themselves before they are ended.
    """
    submitit = _import_submitit()
    plan = slurm_plan(options.slurm, options.threads or 1, gpus=options.device != "cpu")
    _require_slurm(plan)
    yield from _Batch(submitit, plan, jobs, options, on_event).run()


class _Batch:
    """The submitted jobs of one launch, in a folder of their own."""

    def __init__(
        self, submitit: ModuleType, plan: SlurmPlan, jobs: Sequence[Job], options: RunOptions, on_event: OnEvent
    ) -> None:
        self._results, self._on_event = options.results.absolute(), on_event
        self._folder = self._results / ".slurm" / uuid.uuid4().hex[:12]
        self._folder.mkdir(parents=True)
        self._executor = submitit.AutoExecutor(
            folder=self._folder, cluster=plan.cluster, slurm_max_num_timeout=REQUEUES, local_max_num_timeout=REQUEUES
        )
        self._executor.update_parameters(**plan.parameters)
        self._queue = SlurmQueue() if plan.cluster == "slurm" else LocalQueue()
        self._is_slurm = plan.cluster == "slurm"
        self._limits = read_limits(*plan.pays) if self._is_slurm else SlurmLimits()
        self._size, self._retry_at = self._limits.array, float("-inf")
        # submitit's local executor starts all that it is given at once.
        self._at_once, self._gpus = options.workers or 1, options.gpus
        self._shared = for_remote(options)
        self._body = SlurmRun(self._shared, self._folder, code_fingerprint())
        self._follower = EventFollower(self._results, [job.run_id for job in jobs])
        self._waiting = list(jobs)
        self._open: dict[str, Any] = {}
        self._gpu_of: dict[str, Gpu] = {}
        self._gone_since: dict[str, float] = {}
        self._all_well = True

    def run(self) -> Iterator[JobResult]:
        try:
            while self._waiting or self._open:
                self._submit()
                for result in self._ended():
                    self._retry_at = float("-inf")
                    self._all_well &= result.error is None
                    self._follower.forget(result.run_id, self._on_event)
                    yield result
                self._follower.notify(self._on_event)
                time.sleep(POLL_S)
        except BaseException:
            self._stop()
            raise
        if self._all_well:  # the logs of a failed job are kept
            shutil.rmtree(self._folder, ignore_errors=True)

    def _submit(self) -> None:
        """Submit as many jobs as there is room for, on Slurm in arrays; the rest follows as room appears."""
        while self._waiting and (room := self._room()) > 0:
            array = self._waiting[:room]
            before = os.environ.get("PYTHONPATH")
            # Jobs import this very copy of the project, and nothing from the folder where they start.
            os.environ["PYTHONPATH"] = os.pathsep.join([str(IMPORT_ROOT), *([before] if before else [])])
            try:
                with safe_path():
                    submitted = self._executor.map_array(self._placed(array), array)
            except Exception as error:  # submitit has no error class of its own for failures of sbatch
                self._refused(array, error)
                continue
            finally:
                os.environ.pop("PYTHONPATH")
                if before is not None:
                    os.environ["PYTHONPATH"] = before
            self._waiting = self._waiting[len(array) :]
            self._open |= {job.run_id: handle for job, handle in zip(array, submitted, strict=True)}

    def _room(self) -> int:
        """How many jobs may be submitted now."""
        if not self._is_slurm:
            free = self._at_once - len(self._open)
            return min(free, 1) if self._gpus else free
        if time.monotonic() < self._retry_at:
            return 0
        if self._limits.submit is None:
            return self._size
        return min(self._size, self._limits.submit - max(len(self._queue.alive(()) or ()), len(self._open)))

    def _placed(self, array: Sequence[Job]) -> SlurmRun:
        """The body of these jobs; on this machine, of one job on the GPU that has the fewest."""
        if self._is_slurm or not self._gpus:
            return self._body
        busy = Counter(self._gpu_of[run_id].token for run_id in self._open)
        gpu = min(self._gpus, key=lambda gpu: busy[gpu.token])
        self._gpu_of |= {job.run_id: gpu for job in array}
        return SlurmRun(self._shared, self._folder, code_fingerprint(), gpu)

    def _refused(self, array: Sequence[Job], error: Exception) -> None:
        """Try a smaller array, or wait while jobs are in the queue. Raises UserError where neither would help."""
        reason = _last_line(str(error))
        if is_refused_for_size(str(error)):
            if len(array) > 1:
                self._size = len(array) // 2
                return
            if self._open or self._queue.alive(()):
                self._retry_at = time.monotonic() + RETRY_S
                return
        elif self._open:  # what was accepted is not lost for what is refused now
            self._retry_at = time.monotonic() + RETRY_S
            return
        jobs = "the jobs" if len(array) > 1 else "a job"
        limits = f" ({self._limits.source})" if self._is_slurm else ""
        hint = "; without GPUs, add --device cpu" if re.search("gres|gpu|node configuration", reason, re.I) else ""
        raise UserError(f"Slurm refused {jobs}: {reason}{limits}; see the options after --slurm{hint}") from error

    def _ended(self) -> Iterator[JobResult]:
        alive = self._queue.alive(self._open.values())
        for run_id, handle in list(self._open.items()):
            result = read_result(self._folder, run_id)
            if result is None and alive is not None and handle.job_id not in alive:
                first = self._gone_since.setdefault(run_id, time.monotonic())
                if time.monotonic() - first > self._queue.lag_s:
                    result = read_result(self._folder, run_id) or _death(run_id, handle.paths.stderr)
            elif result is None:
                self._gone_since.pop(run_id, None)
            if result is not None:
                del self._open[run_id]
                yield result

    def _stop(self) -> None:
        """Empty the queue, have running jobs save themselves, then end them. A second signal cuts the wait short."""
        left, handles = list(self._open), list(self._open.values())
        self._queue.cancel_waiting(handles)
        ask_to_stop(self._shared)
        try:
            wait_for_end(lambda: any(read_result(self._folder, run_id) is None for run_id in self._running(left)))
        finally:
            self._queue.cancel(handles)
            withdraw_stop(self._shared)

    def _running(self, run_ids: Sequence[str]) -> list[str]:
        alive = self._queue.alive(self._open.values())
        return [run_id for run_id in run_ids if alive is None or self._open[run_id].job_id in alive]


def _import_submitit() -> ModuleType:
    try:
        import submitit
    except ImportError as error:
        raise UserError(
            f"--executor slurm needs submitit, which cannot be imported ({error}); install it with:"
            " pip install 'smope-bench[slurm]'"
        ) from error
    return submitit


def _require_slurm(plan: SlurmPlan) -> None:
    if plan.cluster == "slurm" and not all(shutil.which(tool) for tool in ("sbatch", "srun", "squeue", "scancel")):
        raise UserError(
            "--executor slurm: there is no Slurm here (sbatch, srun, squeue and scancel are not all found); use --executor local,"
            " or --slurm cluster=local to run the jobs on this machine"
        )


def _death(run_id: str, log: Path) -> JobResult:
    """The result of a job that left the queue without one, with the last line of its log."""
    try:
        line = _last_line(log.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        line = ""
    sentence = "its job left the queue without a result; it may have run out of memory or been cancelled"
    return failed(run_id, "WorkerDied", f"{sentence}{f' (its last line: {line})' if line else ''}")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return plain(without_home(lines[-1]), 300) if lines else ""
