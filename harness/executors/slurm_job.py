"""The body of a Slurm job: one run, saved and put back into the queue when Slurm gives notice."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from smope_bench.harness.cancellation import StopRequest
from smope_bench.harness.execution.job import Job, JobResult
from smope_bench.harness.execution.lease import LeaseMonitor
from smope_bench.harness.executors.remote import run_remotely
from smope_bench.harness.executors.slurm_queue import query
from smope_bench.harness.hardware.gpus import only_gpus
from smope_bench.harness.records.atomic_write import write_json_atomically
from smope_bench.harness.run_options import Gpu, RunOptions

_ALIVE = ("RUNNING", "SIGNALING", "RESIZING")
"""States of a job that goes on; while Slurm sends it a signal, that is its state."""
TAKE_OVER_S, LOOK_S = 180.0, 5.0
"""How long a requeued job waits for the lease of its own earlier attempt to expire, on a node that it cannot see."""


class SlurmRun:
    """The callable that submitit pickles and calls; it holds plain values only."""

    def __init__(self, options: RunOptions, folder: Path, fingerprint: str, gpu: Gpu | None = None) -> None:
        """``gpu``: the only one of this machine that the run may use; None leaves that to Slurm."""
        self.options, self.folder, self.fingerprint, self.gpu = options, folder, fingerprint, gpu

    def __call__(self, job: Job) -> None:
        """Do ``job`` and write its result; does not return if the job goes back into the queue."""
        with _notices() as notice, only_gpus([self.gpu] if self.gpu else []):
            result = self._attempt(job, notice.stop_request)
        if result.state == "interrupted":
            notice.go_back()
        write_json_atomically(result_file(self.folder, job.run_id), asdict(result))

    def checkpoint(self, job: Job) -> Any:
        """What submitit submits when the job is requeued: the same call, since the run keeps its own checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job)

    def _attempt(self, job: Job, stop_request: StopRequest) -> JobResult:
        patience = time.monotonic() + (TAKE_OVER_S if _restarts() else 0.0)
        monitor, folder = LeaseMonitor(), self.options.results / job.run_id
        result = run_remotely(job, self.options, self.fingerprint, stop_request)
        while result.state == "held" and not stop_request.is_set() and time.monotonic() < patience:
            time.sleep(LOOK_S)
            if monitor.is_free(folder):
                result = run_remotely(job, self.options, self.fingerprint, stop_request)
        return result


def result_file(folder: Path, run_id: str) -> Path:
    """Where a job writes its result."""
    return folder / f"{run_id}.end.json"


def read_result(folder: Path, run_id: str) -> JobResult | None:
    """The result of the run's job; ``None`` until there is one."""
    try:
        found = json.loads(result_file(folder, run_id).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # not there, or half written
        return None
    is_ours = (
        isinstance(found, dict) and found.keys() <= JobResult.__annotations__.keys() and found.get("run_id") == run_id
    )
    return JobResult(**found) if is_ours else None


@dataclass
class _Notice:
    """Signals that Slurm sent to this process during the run."""

    on_limit: Callable[[int, Any], Any] | None
    """submitit's own handler, which requeues the job and ends the process."""
    stop_request: StopRequest = field(default_factory=StopRequest)
    limit_is_near: bool = False
    was_terminated: bool = False

    def go_back(self) -> None:
        """Put the job back into the queue, unless a user cancelled it; raises SystemExit if it goes back."""
        if self.on_limit is None or not (self.limit_is_near or self.was_terminated):
            return
        state, restarts = _job_now()
        if restarts > _restarts():
            raise SystemExit("Slurm has put this job back already: its node is lost")
        if self.limit_is_near or state in _ALIVE:
            self.on_limit(_limit_signal(), None)


@contextlib.contextmanager
def _notices() -> Iterator[_Notice]:
    """Take Slurm's signals as stop requests. submitit's handler would requeue the job at once, without its last steps."""
    limit = _limit_signal()
    before = {number: signal.getsignal(number) for number in (limit, signal.SIGTERM)}
    own = before[limit]
    notice = _Notice(own if callable(own) else None)

    def take(number: int, _: object) -> None:
        if number == limit:
            notice.limit_is_near = True
        else:
            notice.was_terminated = True
        notice.stop_request.set()

    for number in before:
        signal.signal(number, take)
    try:
        yield notice
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _limit_signal() -> int:
    """The signal that Slurm sends before the time limit, by submitit's order."""
    name = f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"
    return signal.Signals[name]


def _job_now() -> tuple[str, int]:
    """This job's state, and how often it was put back; empty and 0 where Slurm does not answer.

    After SIGTERM it is alive if Slurm needs the node for another job. A job that a user cancelled is completing by then.
    """
    array, element = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    # The last element of an array has the array's own number, which stands for all of its elements.
    job = f"{array}_{element}" if array and element else os.environ.get("SLURM_JOB_ID")
    answer = (
        query("squeue", "--noheader", f"--jobs={job}", "--Format=State:30,RestartCnt:10") if job is not None else None
    )
    state, restarts = [*(answer or "").split(), "", ""][:2]
    return state, int(restarts) if restarts.isdigit() else 0


def _restarts() -> int:
    """How often this job was put back before."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)
