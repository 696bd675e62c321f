"""Long-lived worker processes, one pipe each: a worker that dies costs its own run and nobody else's.

A process pool of the standard library is not used because it gives up every run in flight when one worker is killed; a
process per run is not, because importing torch takes longer than a small run. Importing this module imports no torch.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

from harness.spec import RunSpec

Emit = Callable[[dict[str, Any]], None]
OnEvent = Callable[[str, dict[str, Any]], None]
Runner = Callable[["Job", "WorkerOptions", Emit], None]


@dataclass(frozen=True)
class Job:
    """One run as it travels to a worker."""

    run_id: str
    spec: RunSpec
    observe: tuple[str, ...] = ()
    """What figures need of the run beside accuracies, by name."""


@dataclass(frozen=True)
class WorkerOptions:
    """What all runs of a sweep share. ``runner`` is ``module:function``: workers import it themselves."""

    results: Path
    data: Path
    device: str = "cpu"
    threads: int = 1
    plugins: tuple[Path, ...] = ()
    runner: str = "harness.execute:run_with_engine"


@dataclass(frozen=True)
class End:
    """How a job ended; ``error`` (kind, error, traceback) where it failed."""

    run_id: str
    error: dict[str, Any] | None = None


def run_job(job: Job, options: WorkerOptions, on_event: OnEvent) -> End:
    """Do one run in this process; an exception of the run becomes its end."""
    try:
        load_runner(options.runner)(job, options, lambda event: on_event(job.run_id, event))
    except (Exception, SystemExit) as error:  # a method that calls sys.exit has failed, the sweep has not
        return End(job.run_id, describe_error(error))
    return End(job.run_id)


def load_runner(target: str) -> Runner:
    """The function named ``module:function``."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def describe_error(error: BaseException) -> dict[str, Any]:
    """An exception as the ``kind``, ``error`` and ``traceback`` of a failure record, the user's home folder taken out."""
    sentence = " ".join(str(error).split()) or type(error).__name__
    text = "".join(traceback.format_exception(error))
    home = str(Path.home())
    if len(home) > 1:
        text, sentence = text.replace(home, "~"), sentence.replace(home, "~")
    return {"kind": type(error).__name__, "error": sentence, "traceback": text}


class WorkerPool:
    """``count`` spawned processes; ``run`` hands them jobs and yields what they say. Use as a context manager."""

    def __init__(self, count: int, options: WorkerOptions) -> None:
        self._options = options
        self._slots = [_Slot(options) for _ in range(count)]

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        for slot in self._slots:
            slot.stop(politely=kind is None)
        for slot in self._slots:
            slot.join()

    def run(self, jobs: Sequence[Job], on_event: OnEvent) -> Iterator[End]:
        """Yield one end a job, in the order in which they come; ``on_event`` gets what the runs say in between."""
        waiting = list(reversed(jobs))
        while True:
            for i, slot in enumerate(self._slots):
                if slot.job is None and waiting:
                    if not slot.process.is_alive():
                        self._slots[i] = _Slot(self._options)
                    self._slots[i].give(waiting.pop())
            busy = {slot.pipe: slot for slot in self._slots if slot.job is not None}
            if not busy:
                return
            for pipe in wait(list(busy)):
                told = busy[cast(Connection, pipe)].receive()
                if isinstance(told, End):
                    yield told
                else:
                    on_event(*told)


class _Slot:
    """A worker process, its end of the pipe and the job it has."""

    def __init__(self, options: WorkerOptions) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.job: Job | None = None
        self.process: BaseProcess = context.Process(target=_work, args=(theirs, options), daemon=True)
        with _interrupts_held():
            self.process.start()
        theirs.close()  # so that the death of the worker reads as the end of the pipe

    def give(self, job: Job) -> None:
        self.job = job
        with contextlib.suppress(OSError):  # a worker that died meanwhile is noticed by `receive`
            self.pipe.send(job)

    def receive(self) -> End | tuple[str, dict[str, Any]]:
        """The end of the job in hand, or (its run id, an event of it)."""
        job = self.job
        assert job is not None
        try:
            told: End | tuple[str, dict[str, Any]] = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(timeout=5)
            told = End(job.run_id, _death(self.process.exitcode))
            self.pipe.close()
        if isinstance(told, End):
            self.job = None
        return told

    def stop(self, politely: bool) -> None:
        with contextlib.suppress(OSError):
            if politely:
                self.pipe.send(None)
            else:
                self.process.terminate()

    def join(self) -> None:
        self.process.join(timeout=3)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()


def _work(pipe: Connection, options: WorkerOptions) -> None:
    """Body of a worker: jobs in, events and ends out, until told to stop or the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides what it means

    def tell(message: End | tuple[str, dict[str, Any]]) -> None:
        try:
            pipe.send(message)
        except OSError:
            os._exit(1)  # nobody is listening any more: the run resumes under another parent

    while True:
        try:
            job = pipe.recv()
        except (EOFError, OSError):
            return
        if job is None:
            return
        tell(run_job(job, options, lambda run_id, event: tell((run_id, event))))


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Block SIGINT, which a child inherits, so that Ctrl-C cannot hit a worker before it ignores it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _death(exit_code: int | None) -> dict[str, Any]:
    if exit_code is not None and exit_code < 0:
        with contextlib.suppress(ValueError):
            name = signal.Signals(-exit_code).name
            hint = "; the system may have run out of memory, try fewer --workers" if name == "SIGKILL" else ""
            return {"kind": "WorkerDied", "error": f"the worker process was ended by {name}{hint}", "traceback": ""}
    return {"kind": "WorkerDied", "error": f"the worker process ended with status {exit_code}", "traceback": ""}
