"""Long-lived worker processes, one pipe each: a worker that dies costs its own run and nobody else's.

A process pool of the standard library is not used because it gives up every run in flight when one worker is killed; a
process per run is not, because importing torch takes longer than a small run. Importing this module imports no torch.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, cast

from smope_bench.harness.cancellation import Stop, StopRequest, stop_gently
from smope_bench.harness.execution.job import ExecuteOptions, Job, JobResult, OnEvent, WorkerOptions, run_job
from smope_bench.harness.execution.memory_budget import Queue
from smope_bench.harness.hardware.memory import oom_kills, resident_mb, total_mb

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext

POLL_S = 0.25
TRIES = 2
PRELOADED = ("__main__", "smope_bench.harness.training.trainer", "timm.models.vision_transformer")
"""Imported once for all workers of a sweep. They touch no GPU, and their only threads are OpenBLAS's, which allow for forks."""
SHORTAGE_S = 2.0
"""A shortage of memory may cost several workers, whose deaths are then noticed one after another."""


def serial_ends(jobs: Sequence[Job], options: ExecuteOptions, on_event: OnEvent) -> Iterator[JobResult]:
    """The executor of one run after another in this process. A signal stops the run in hand after its step, saved."""
    with stop_gently() as stop:
        told: set[str] = set()

        def tell(run_id: str, event: dict[str, Any]) -> None:
            if stop.status is not None and run_id not in told:
                told.add(run_id)
                on_event(run_id, {"event": "stopping"})
            on_event(run_id, event)

        for job in jobs:
            interruption = StopRequest()
            stop.ask = interruption.ask
            stop.require_none()
            yield run_job(job, options.for_workers(), tell, interruption)
        stop.require_none()


def pool_ends(jobs: Sequence[Job], options: ExecuteOptions, on_event: OnEvent) -> Iterator[JobResult]:
    """The executor of local processes. A signal stops all runs in flight after their step, saved."""
    workers = min(options.workers, len(jobs))
    with stop_gently() as stop, WorkerPool(workers, options.for_workers(), options.memory_mb) as pool:
        yield from pool.run(jobs, on_event, stop)
        stop.require_none()


class WorkerPool:
    """``count`` worker processes; ``run`` hands them jobs and yields what they say. Use as a context manager."""

    def __init__(self, count: int, options: WorkerOptions, memory_mb: float | None = None) -> None:
        self._options, self._memory_mb = options, memory_mb
        self._oom_kills, self._short_until = oom_kills(), 0.0
        self._slots = [_WorkerProcess(options) for _ in range(count)]

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        for slot in self._slots:
            slot.stop(politely=kind is None)
        for slot in self._slots:
            slot.join()

    def run(self, jobs: Sequence[Job], on_event: OnEvent, stop: Stop | None = None) -> Iterator[JobResult]:
        """Yield one end a job, in the order in which they come; ``on_event`` gets what the runs say in between.

        A run whose worker died is tried once more. After a ``stop``, what has not begun has no end.
        """
        stop, queue, tries = stop or Stop(), Queue(jobs, self._memory_mb), dict[str, int]()
        is_told = False
        while True:
            if stop.status is None:
                self._hand_out(queue)
            elif not is_told:
                is_told = True
                self._interrupt(on_event)
            busy = {slot.pipe: slot for slot in self._slots if slot.job is not None}
            if not busy:
                return
            for pipe in wait(list(busy), timeout=POLL_S):
                slot = busy[cast(Connection, pipe)]
                job = cast(Job, slot.job)
                told = slot.receive()
                if not isinstance(told, JobResult):
                    on_event(*told)
                    continue
                if stop.status is not None and slot.exit_code is not None:
                    told = JobResult(job.run_id, interrupted=True)
                tries[job.run_id] = tries.get(job.run_id, 0) + 1
                lacked = self._lacked_memory(slot)
                if stop.status is None and self._may_try_again(told, slot) and tries[job.run_id] < TRIES:
                    on_event(job.run_id, {"event": "run_retried"})
                    queue.put_back(job, alone=lacked is not False)
                else:
                    yield self._explained(told, slot, job, lacked)
            for slot in busy.values():
                slot.look()

    def _hand_out(self, queue: Queue) -> None:
        for i, slot in enumerate(self._slots):
            if slot.job is None:
                job = queue.take([other.job for other in self._slots if other.job is not None])
                if job is None:
                    return
                if not slot.process.is_alive():
                    self._slots[i] = _WorkerProcess(self._options)
                self._slots[i].give(job)

    def _interrupt(self, on_event: OnEvent) -> None:
        for slot in self._slots:
            if slot.job is not None:
                on_event(slot.job.run_id, {"event": "stopping"})
                slot.process.terminate()

    def _may_try_again(self, end: JobResult, slot: _WorkerProcess) -> bool:
        """Whether the run was ended from outside: its worker died, or was asked to stop when nobody stops the sweep."""
        return slot.exit_code is not None or (end.interrupted and not end.cancelled)

    def _lacked_memory(self, slot: _WorkerProcess) -> bool | None:
        """Whether the system ended a worker for want of memory; None where it may have. To be asked once a death."""
        if slot.exit_code != -signal.SIGKILL:
            return False
        before, self._oom_kills = self._oom_kills, oom_kills()
        if before is None or self._oom_kills is None:
            return None
        is_new, now = self._oom_kills > before, time.monotonic()
        if is_new:
            self._short_until = now + SHORTAGE_S
        return is_new or now < self._short_until

    def _explained(self, end: JobResult, slot: _WorkerProcess, job: Job, lacked: bool | None) -> JobResult:
        """The end of a run with what is known of why its worker died; ``lacked`` memory, None where it may have."""
        if slot.exit_code is None or end.error is None:
            return end
        error = end.error["error"]
        if lacked is not False:
            expected = f", {job.memory_mb:.0f} MiB were expected of it" if job.memory_mb else ""
            error += (
                f"; the system {'ran' if lacked else 'may have run'} out of memory: the run held {slot.peak_mb:.0f} MiB when"
                f" last seen{expected}, the machine has {total_mb():.0f} MiB; try fewer --workers"
            )
        return JobResult(end.run_id, {**end.error, "error": error})


class _WorkerProcess:
    """A worker process, its end of the pipe and the job it has."""

    def __init__(self, options: WorkerOptions) -> None:
        context = _context(options.runner)
        self.pipe, theirs = context.Pipe()
        self.job: Job | None = None
        self.exit_code: int | None = None
        """How the process ended, where it died on its job."""
        self.peak_mb, self._looked = 0.0, 0.0
        self.process: BaseProcess = context.Process(target=_work, args=(theirs, options, dict(os.environ)), daemon=True)
        with _signals_held():
            self.process.start()
        theirs.close()  # so that the death of the worker reads as the end of the pipe

    def give(self, job: Job) -> None:
        self.job, self.peak_mb = job, 0.0
        with contextlib.suppress(OSError):  # a worker that died meanwhile is noticed by `receive`
            self.pipe.send(job)

    def receive(self) -> JobResult | tuple[str, dict[str, Any]]:
        """The end of the job in hand, or (its run id, an event of it)."""
        job = self.job
        assert job is not None
        try:
            told: JobResult | tuple[str, dict[str, Any]] = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(timeout=5)
            if self.process.is_alive():  # it hangs at its exit; while it lives, the run counts as held
                self.process.kill()
                self.process.join(timeout=5)
            self.exit_code = self.process.exitcode or 0
            error = f"the worker process {_death(self.exit_code)}"
            told = JobResult(job.run_id, {"kind": "WorkerDied", "error": error, "traceback": ""})
            self.pipe.close()
        if isinstance(told, JobResult):
            self.job = None
        return told

    def look(self) -> None:
        """Note how much memory the worker holds, once a second: whoever is killed for it cannot say."""
        now = time.monotonic()
        if self.job is not None and self.process.pid is not None and now - self._looked >= 1.0:
            self._looked = now
            self.peak_mb = max(self.peak_mb, resident_mb(self.process.pid))

    def stop(self, politely: bool) -> None:
        with contextlib.suppress(OSError):
            if politely:
                self.pipe.send(None)
            else:
                self.process.kill()  # a request would only end the step in hand

    def join(self) -> None:
        self.process.join(timeout=3)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()


class _WorkerState:
    """What a worker's signal handler must know: whether there is a run to interrupt."""

    def __init__(self) -> None:
        self.interruption: StopRequest | None = None
        self.is_orphan = False

    def terminate(self, number: int, _: object) -> None:
        """Interrupt the run in hand, which is then saved, or end at once where there is none."""
        if self.interruption is None:
            raise SystemExit(128 + number)
        self.interruption.ask()


def _work(pipe: Connection, options: WorkerOptions, environment: dict[str, str]) -> None:
    """Body of a worker: jobs in, events and ends out, until told to stop or the parent is gone."""
    os.environ.clear()  # that of the server is as old as the server
    os.environ.update(environment)
    desk = _WorkerState()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides what it means
    signal.signal(signal.SIGTERM, desk.terminate)
    _let_signals_in()

    def tell(message: JobResult | tuple[str, dict[str, Any]]) -> None:
        try:
            pipe.send(message)
        except OSError:  # nobody is listening any more: the run is saved, and resumes under another parent
            desk.is_orphan = True
            if desk.interruption is not None:
                desk.interruption.ask()

    while not desk.is_orphan:
        try:
            job = pipe.recv()
        except (EOFError, OSError):
            return
        if job is None:
            return
        desk.interruption = StopRequest()
        end = run_job(job, options, lambda run_id, event: tell((run_id, event)), desk.interruption)
        tell(end)
        desk.interruption = None  # from here on, a signal ends the process


def _context(runner: str) -> ForkServerContext | SpawnContext:
    """How workers start: on Linux as forks of one server process that has imported what is slow to import, elsewhere spawned."""
    if not sys.platform.startswith("linux"):
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    if runner == WorkerOptions.runner:
        context.set_forkserver_preload(list(PRELOADED))  # effective before the first worker starts
    return context


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Block what a child inherits, so that no signal can hit a worker before it has its handlers."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _let_signals_in() -> None:
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})


def _death(exit_code: int) -> str:
    if exit_code < 0:
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-exit_code).name}"
    return f"ended with status {exit_code}"
