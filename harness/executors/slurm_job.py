"""What runs inside a Slurm job: one run, saved and put back into the queue when Slurm gives notice."""

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
from smope_bench.harness.execution.job import Job, JobResult, WorkerOptions
from smope_bench.harness.execution.lease import LeaseMonitor
from smope_bench.harness.executors.remote import run_remotely
from smope_bench.harness.executors.slurm_queue import ask
from smope_bench.harness.records.store import write_json

TAKE_OVER_S, LOOK_S = 180.0, 5.0
"""How long a job that was put back waits for the claim of its own earlier attempt to die, on a node that it cannot see."""


class SlurmRun:
    """The callable that submitit keeps and calls. It holds plain values only, since it is pickled."""

    def __init__(self, options: WorkerOptions, folder: Path, fingerprint: str) -> None:
        self.options, self.folder, self.fingerprint = options, folder, fingerprint

    def __call__(self, job: Job) -> None:
        """Do ``job`` and note how it ended; does not return where Slurm's notice put the job back into the queue."""
        with _notices() as notice:
            end = self._attempt(job, notice.interruption)
        if end.state == "interrupted" and notice.calls_for_another_job():
            notice.requeue()
        write_json(end_file(self.folder, job.run_id), asdict(end))

    def checkpoint(self, job: Job) -> Any:
        """What submitit submits in place of this call when the job is put back: the same, since the run keeps its own state."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job)

    def _attempt(self, job: Job, interruption: StopRequest) -> JobResult:
        was_put_back = int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0
        patience = time.monotonic() + (TAKE_OVER_S if was_put_back else 0.0)
        watch, folder = LeaseMonitor(), self.options.results / job.run_id
        end = run_remotely(job, self.options, self.fingerprint, interruption)
        while end.state == "held" and not interruption.asked() and time.monotonic() < patience:
            time.sleep(LOOK_S)
            if watch.is_free(folder):
                end = run_remotely(job, self.options, self.fingerprint, interruption)
        return end


def end_file(folder: Path, run_id: str) -> Path:
    """Where a job says how its run ended."""
    return folder / f"{run_id}.end.json"


def read_end(folder: Path, run_id: str) -> JobResult | None:
    """How the run's job ended; ``None`` while it has not said."""
    try:
        found = json.loads(end_file(folder, run_id).read_text(encoding="utf-8"))
        return JobResult(**found) if found["run_id"] == run_id else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


@dataclass
class _Notice:
    """What Slurm said to this process while the run went on."""

    on_limit: Callable[[int, Any], Any] | None
    """submitit's own handler, which puts the job back into the queue and ends the process."""
    interruption: StopRequest = field(default_factory=StopRequest)
    limit_is_near: bool = False
    was_terminated: bool = False

    def calls_for_another_job(self) -> bool:
        """Whether the run goes on in this job's next life: not where somebody cancelled it."""
        return self.on_limit is not None and (self.limit_is_near or (self.was_terminated and _is_preempted()))

    def requeue(self) -> None:
        """Have submitit put the job back; raises SystemExit."""
        assert self.on_limit is not None
        self.on_limit(_limit_signal(), None)


@contextlib.contextmanager
def _notices() -> Iterator[_Notice]:
    """Take Slurm's signals as requests to stop. submitit would put the job back at once, its last steps lost."""
    limit = _limit_signal()
    before = {number: signal.getsignal(number) for number in (limit, signal.SIGTERM)}
    own = before[limit]
    notice = _Notice(own if callable(own) else None)

    def take(number: int, _: object) -> None:
        if number == limit:
            notice.limit_is_near = True
        else:
            notice.was_terminated = True
        notice.interruption.ask()

    for number in before:
        signal.signal(number, take)
    try:
        yield notice
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _limit_signal() -> int:
    """The signal that submitit has Slurm send ahead of the time limit."""
    name = f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"
    return signal.Signals[name]


def _is_preempted() -> bool:
    """After SIGTERM: whether Slurm wants the room for another job. A job that somebody cancelled is completing by now."""
    job = os.environ.get("SLURM_JOB_ID")
    answer = ask("squeue", "--noheader", f"--jobs={job}", "--format=%T") if job is not None else None
    return answer is not None and answer.split()[:1] == ["RUNNING"]
