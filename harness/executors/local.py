"""Runs on this machine: one after another in this process, or in long-lived worker processes with one pipe each.

A worker that dies costs its own run and no other's. ``concurrent.futures`` is not used because its pool gives up every run in
flight when one worker is killed; nor a process for each run, because importing torch takes longer than a small run. Importing
this module imports no torch.
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
from pathlib import Path
from typing import Any, cast

from smope_bench.harness.cancellation import Stop, StopRequest, signals_held, stop_gently
from smope_bench.harness.execution.executor_registry import executor
from smope_bench.harness.execution.job import DEVICE_LOST, Job, JobResult, OnEvent, failed, run_job
from smope_bench.harness.execution.memory_budget import Queue, gpu_budget_mb
from smope_bench.harness.hardware.gpus import only_gpus, visible_gpus
from smope_bench.harness.hardware.memory import oom_kills, resident_mb, total_mb
from smope_bench.harness.main_guard import require_main_guard
from smope_bench.harness.run_options import Gpu, RunOptions

POLL_S = 0.25
TRIES = 2
SHORTAGE_S = 2.0
"""One shortage of memory may kill several workers, whose deaths are noticed one after another."""
SAFE_PATH = "PYTHONSAFEPATH"
"""Set for a new Python process, it imports no module from the current folder: ``random.py`` there would break it."""

Message = JobResult | tuple[str, dict[str, Any]]
"""What a worker sends: the result of its job, or (run id, event)."""


@executor("auto", place="machine")
def run_by_workers(jobs: Sequence[Job], options: RunOptions, on_event: OnEvent) -> Iterator[JobResult]:
    """In worker processes of this machine, or in this process where one worker is enough."""
    chosen = run_in_processes if min(options.workers or 1, len(jobs)) > 1 else run_serially
    yield from chosen(jobs, options, on_event)


@executor("serial", place="process")
def run_serially(jobs: Sequence[Job], options: RunOptions, on_event: OnEvent) -> Iterator[JobResult]:
    """One run after another in this process."""
    with stop_gently() as stop:
        stopping: set[str] = set()

        def notify(run_id: str, event: dict[str, Any]) -> None:
            if stop.status is not None and run_id not in stopping:
                stopping.add(run_id)
                on_event(run_id, {"event": "stopping"})
            on_event(run_id, event)

        lost: str | None = None
        with only_gpus(options.gpus[:1]):
            for job in jobs:
                stop_request = StopRequest()
                stop.on_stop = stop_request.set
                stop.raise_if_stopped()
                if lost is not None:  # CUDA does not recover inside of a process
                    yield failed(job.run_id, DEVICE_LOST, f"not begun, because an earlier run lost its device: {lost}")
                    continue
                result = run_job(job, options, notify, stop_request)
                if result.error is not None and stop.signals > 1:
                    stop.raise_if_stopped()  # an extension made another error of what the second signal raised in it
                lost = result.error["error"] if result.error and result.error["kind"] == DEVICE_LOST else None
                yield result
        stop.raise_if_stopped()


@executor("local", place="machine")
def run_in_processes(jobs: Sequence[Job], options: RunOptions, on_event: OnEvent) -> Iterator[JobResult]:
    """In worker processes of this machine."""
    require_main_guard()
    with stop_gently() as stop, WorkerPool(min(options.workers or 1, len(jobs)), options) as pool:
        yield from pool.run(jobs, on_event, stop)
        stop.raise_if_stopped()


class WorkerPool:
    """``count`` worker processes; ``run`` hands them jobs and yields results. Use as a context manager."""

    def __init__(self, count: int, options: RunOptions) -> None:
        self._options = options
        self._oom_kills, self._short_until = oom_kills(), 0.0
        gpus = options.gpus
        self._workers = [_WorkerProcess(options, gpus[i % len(gpus)] if gpus else None) for i in range(count)]

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        for worker in self._workers:
            worker.stop(politely=kind is None)
        for worker in self._workers:
            worker.join()

    def run(self, jobs: Sequence[Job], on_event: OnEvent, stop: Stop | None = None) -> Iterator[JobResult]:
        """Yield one result a job, in the order in which they end; ``on_event`` receives the events in between.

        A run whose worker died is tried once more. After a ``stop``, jobs that have not begun have no result.
        """
        stop, queue, tries = stop or Stop(), Queue(jobs, self._options.memory_mb), dict[str, int]()
        is_stopping = False
        while True:
            if stop.status is None:
                self._hand_out(queue)
            elif not is_stopping:
                is_stopping = True
                self._interrupt(on_event)
            busy = {worker.pipe: worker for worker in self._workers if worker.job is not None}
            if not busy:
                for job in queue.take_all() if stop.status is None else ():
                    yield failed(
                        job.run_id, DEVICE_LOST, "not begun, because no GPU is left of those that the launch had"
                    )
                return
            for pipe in wait(list(busy), timeout=POLL_S):
                worker = busy[cast(Connection, pipe)]
                job = cast(Job, worker.job)
                message = worker.receive()
                if not isinstance(message, JobResult):
                    on_event(*message)
                    continue
                has_died = worker.exit_code is not None
                if stop.status is not None and has_died:
                    message = JobResult(job.run_id, "interrupted")
                if message.error is not None and message.error["kind"] == DEVICE_LOST:
                    worker.retire()
                tries[job.run_id] = tries.get(job.run_id, 0) + 1
                lacked = self._lacked_memory(worker)
                # Ended from outside: its worker died, or was asked to stop although nothing stops the launch.
                may_try_again = has_died or message.state == "interrupted"
                if stop.status is None and may_try_again and tries[job.run_id] < TRIES:
                    on_event(job.run_id, {"event": "run_retried"})
                    queue.put_back(job, alone=lacked is not False)
                else:
                    yield self._explained(message, worker, job, lacked)
            for worker in busy.values():
                worker.measure()

    def _hand_out(self, queue: Queue) -> None:
        for i, worker in enumerate(self._workers):
            if worker.job is None and not worker.is_retired:
                busy = [other for other in self._workers if other.job is not None]
                beside = [cast(Job, other.job) for other in busy if other.gpu == worker.gpu]
                budget = None if worker.gpu is None else gpu_budget_mb(worker.gpu)
                job = queue.take([cast(Job, other.job) for other in busy], beside, budget)
                if job is None:
                    continue
                if not worker.process.is_alive():
                    self._workers[i] = _WorkerProcess(self._options, worker.gpu)
                self._workers[i].give(job)

    def _interrupt(self, on_event: OnEvent) -> None:
        for worker in self._workers:
            if worker.job is not None:
                on_event(worker.job.run_id, {"event": "stopping"})
                worker.process.terminate()

    def _lacked_memory(self, worker: _WorkerProcess) -> bool | None:
        """Whether the system killed the worker because memory ran out; None if unknown. To be called once a death."""
        if worker.exit_code != -signal.SIGKILL:
            return False
        before, self._oom_kills = self._oom_kills, oom_kills()
        if before is None or self._oom_kills is None:
            return None
        is_new, now = self._oom_kills > before, time.monotonic()
        if is_new:
            self._short_until = now + SHORTAGE_S
        return is_new or now < self._short_until

    def _explained(self, result: JobResult, worker: _WorkerProcess, job: Job, lacked: bool | None) -> JobResult:
        """The result with what is known of why its worker died; ``lacked`` memory, None if it may have."""
        if worker.exit_code is None or result.error is None or lacked is False:
            return result
        expected = f", {job.memory_mb:.0f} MiB were expected of it" if job.memory_mb else ""
        sentence = (
            f"{result.error['error']}; the system {'ran' if lacked else 'may have run'} out of memory: the run held"
            f" {worker.peak_mb:.0f} MiB when last seen{expected}, the machine has {total_mb():.0f} MiB; try fewer --workers"
        )
        return JobResult(result.run_id, result.state, {**result.error, "error": sentence})


class _WorkerProcess:
    """A worker process, this side's end of its pipe, and the job that it has."""

    def __init__(self, options: RunOptions, gpu: Gpu | None = None) -> None:
        """``gpu``: the only one that the process sees."""
        context = multiprocessing.get_context("spawn")
        self.gpu, self.is_retired = gpu, False
        self.pipe, theirs = context.Pipe()
        self.job: Job | None = None
        self.exit_code: int | None = None
        """How the process ended, if it died on its job."""
        self.peak_mb, self._measured = 0.0, 0.0
        self.process: BaseProcess = context.Process(target=_work, args=(theirs, options), daemon=True)
        gpus = only_gpus([gpu] if gpu else [])  # CUDA reads it when torch is first used
        with safe_path(), _no_missing_script(), gpus:
            _start(self.process)
        theirs.close()  # so that the death of the worker reads as the end of the pipe

    def give(self, job: Job) -> None:
        self.job, self.peak_mb = job, 0.0
        with contextlib.suppress(OSError):  # `receive` notices a worker that died meanwhile
            self.pipe.send(job)

    def receive(self) -> Message:
        """The next message of the worker; its death is a failed result."""
        job = self.job
        assert job is not None
        try:
            message: Message = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(timeout=5)
            if self.process.is_alive():  # it hangs at its exit; while it lives, its lease counts as held
                self.process.kill()
                self.process.join(timeout=5)
            self.exit_code = self.process.exitcode or 0
            message = failed(job.run_id, "WorkerDied", f"the worker process {_death(self.exit_code)}")
            self.pipe.close()
        if isinstance(message, JobResult):
            self.job = None
        return message

    def measure(self) -> None:
        """Record how much memory the worker holds, once a second: a killed process cannot report it."""
        now = time.monotonic()
        if self.job is not None and self.process.pid is not None and now - self._measured >= 1.0:
            self._measured = now
            self.peak_mb = max(self.peak_mb, resident_mb(self.process.pid))

    def retire(self) -> None:
        """After its device was lost: end the process, whose CUDA context is broken, and start none if the GPU is gone."""
        self.process.kill()
        self.process.join()
        self.pipe.close()
        self.is_retired = self.gpu is not None and all(gpu.token != self.gpu.token for gpu in visible_gpus())

    def stop(self, politely: bool) -> None:
        with contextlib.suppress(OSError):
            if politely:
                self.pipe.send(None)
            else:
                self.process.kill()  # SIGTERM would only end the current step

    def join(self) -> None:
        self.process.join(timeout=3)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()


def _start(process: BaseProcess) -> None:
    """Start a worker with both signals blocked until ``_work`` handles them.

    The first start in a process starts multiprocessing's resource tracker too, which ends by unblocking both signals, whether or
    not they were blocked before; so it is started on its own.
    """
    if sys.platform != "win32":
        from multiprocessing import resource_tracker

        with signals_held():
            resource_tracker.ensure_running()
    with signals_held():
        process.start()


class _WorkerState:
    """What a worker's signal handler needs to know."""

    def __init__(self) -> None:
        self.stop_request: StopRequest | None = None
        """Of the run in progress."""
        self.is_orphan = False

    def terminate(self, number: int, _: object) -> None:
        """Interrupt the run in progress, which is then saved, or exit at once if there is none."""
        if self.stop_request is None:
            raise SystemExit(128 + number)
        self.stop_request.set()


def _work(pipe: Connection, options: RunOptions) -> None:
    """Body of a worker: jobs in, events and results out, until None arrives or the parent is gone."""
    state = _WorkerState()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides what it means
    signal.signal(signal.SIGTERM, state.terminate)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})

    def send(message: Message) -> None:
        try:
            pipe.send(message)
        except OSError:  # the parent is gone: the run is saved, and resumes under another one
            state.is_orphan = True
            if state.stop_request is not None:
                state.stop_request.set()

    while not state.is_orphan:
        try:
            job = pipe.recv()
        except (EOFError, OSError):
            return
        if job is None:
            return
        state.stop_request = StopRequest()
        send(run_job(job, options, lambda run_id, event: send((run_id, event)), state.stop_request))
        state.stop_request = None  # from here on, a signal ends the process


@contextlib.contextmanager
def safe_path() -> Iterator[None]:
    """Python processes that are started in this block import nothing from the current folder."""
    before = os.environ.get(SAFE_PATH)
    os.environ[SAFE_PATH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SAFE_PATH]
        else:
            os.environ[SAFE_PATH] = before


@contextlib.contextmanager
def _no_missing_script() -> Iterator[None]:
    """A program that was read from standard input names the file ``<stdin>``, which new Python processes would look for."""
    main = vars(sys.modules["__main__"])
    file = main.get("__file__")
    if file is None or Path(file).exists():
        yield
        return
    del main["__file__"]
    try:
        yield
    finally:
        main["__file__"] = file


def _death(exit_code: int) -> str:
    if exit_code < 0:
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-exit_code).name}"
    return f"ended with status {exit_code}"
