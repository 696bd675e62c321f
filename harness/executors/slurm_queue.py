"""Which submitted jobs are still alive, asked of ``squeue``: submitit would ask ``sacct``, which needs an accounting database."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable
from typing import Any, Protocol

ASK_S = 5.0
"""Seconds between two questions to Slurm's controller, which serves the whole cluster."""
ANSWER_S = 30.0


class Queue(Protocol):
    """What is asked of a queue. Handles are submitit's jobs."""

    lag_s: float
    """How long a job may be gone before its last words must be visible: shared folders show files late."""

    def alive(self, handles: Iterable[Any]) -> set[str] | None:
        """Ids of the jobs that wait or run; ``None`` where the queue does not answer, which says nothing about the jobs."""
        ...

    def cancel_waiting(self, handles: Iterable[Any]) -> None:
        """Take jobs that have not started out of the queue."""
        ...

    def cancel(self, handles: Iterable[Any]) -> None:
        """End jobs."""
        ...


class SlurmQueue:
    """Slurm's queue as its own tools tell it."""

    lag_s = 10.0

    def __init__(self) -> None:
        self._known: set[str] | None = None
        self._asked = float("-inf")

    def alive(self, handles: Iterable[Any]) -> set[str] | None:
        """Asked at most every few seconds. A job that was submitted since then counts as alive."""
        del handles
        if time.monotonic() - self._asked >= ASK_S:
            self._known, self._asked = self._ask(), time.monotonic()
        return self._known

    def _ask(self) -> set[str] | None:
        answer = ask("squeue", "--me", "--noheader", "--array", "--format=%i")
        return set(answer.split()) if answer is not None else None

    def cancel_waiting(self, handles: Iterable[Any]) -> None:
        """Take jobs that have not started out of the queue."""
        self._known, self._asked = None, float("-inf")
        if ids := [handle.job_id for handle in handles]:
            ask("scancel", "--state=PENDING", *ids)

    def cancel(self, handles: Iterable[Any]) -> None:
        """End jobs."""
        if ids := [handle.job_id for handle in handles]:
            ask("scancel", *ids)


class LocalQueue:
    """submitit's own processes on this machine."""

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


def ask(*command: str) -> str | None:
    """What one of Slurm's tools answers; None where it fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
