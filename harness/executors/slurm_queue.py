"""Which submitted jobs are alive, from ``squeue``: submitit uses ``sacct``, which needs an accounting database."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable
from typing import Any

ASK_S = 5.0
"""Seconds between two queries of Slurm's controller, which serves the whole cluster."""
ANSWER_S = 30.0


class SlurmQueue:
    """Slurm's queue, through its command-line tools. Handles are submitit's jobs."""

    lag_s = 10.0
    """Seconds that a job may be gone before its result must be visible: shared folders show files late."""

    def __init__(self) -> None:
        self._known: set[str] | None = None
        self._queried = float("-inf")

    def alive(self, handles: Iterable[Any]) -> set[str] | None:
        """Ids of the jobs that wait or run; ``None`` if the queue does not answer. Queried at most every ``ASK_S`` seconds."""
        del handles
        if time.monotonic() - self._queried >= ASK_S:
            self._known, self._queried = self._query(), time.monotonic()
        return self._known

    def _query(self) -> set[str] | None:
        answer = query("squeue", "--me", "--noheader", "--array", "--format=%i")
        return set(answer.split()) if answer is not None else None

    def cancel_waiting(self, handles: Iterable[Any]) -> None:
        """Take jobs that have not started out of the queue."""
        self._known, self._queried = None, float("-inf")
        if ids := [handle.job_id for handle in handles]:
            query("scancel", "--state=PENDING", *ids)

    def cancel(self, handles: Iterable[Any]) -> None:
        """End jobs."""
        if ids := [handle.job_id for handle in handles]:
            query("scancel", *ids)


class LocalQueue:
    """submitit's own processes on this machine, with the interface of ``SlurmQueue``."""

    lag_s = 0.5

    def alive(self, handles: Iterable[Any]) -> set[str] | None:
        """Ids of jobs whose process runs."""
        return {handle.job_id for handle in handles if handle.state == "RUNNING"}

    def cancel_waiting(self, handles: Iterable[Any]) -> None:
        """Nothing waits here: jobs are only submitted when there is a worker for them."""

    def cancel(self, handles: Iterable[Any]) -> None:
        """Interrupt the process of each job, whose controller kills what does not end."""
        for handle in handles:
            handle.cancel(check=False)


def query(*command: str) -> str | None:
    """Output of one of Slurm's tools; None if it fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
