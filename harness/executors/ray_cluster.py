"""Runs as Ray tasks: on an existing cluster by its address, otherwise on one that is started here and ends with the sweep.

A worker that is killed costs nothing but time: Ray hands its run to another one, which takes over the dead owner's claim and
goes on from the last checkpoint. Ray itself is imported only when this executor is asked for.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from smope_bench.harness.cancellation import StopRequest
from smope_bench.harness.errors import UserError
from smope_bench.harness.execution.job import ExecuteOptions, Job, JobResult, OnEvent, WorkerOptions
from smope_bench.harness.executors.remote import (
    POLL_S,
    STOP_S,
    EventFollower,
    ask_to_stop,
    for_remote,
    run_remotely,
    withdraw_stop,
)
from smope_bench.harness.provenance import code_fingerprint

RETRIES = 3
"""How many killed workers one run survives before it counts as failed: a run that kills each of its workers must end."""
CONNECT_S = 5.0
SOCKET_PATH, BELOW_FOLDER = 107, 75
"""Bytes that the path of a socket may have, and those that Ray adds to its folder's."""


def ends(jobs: Sequence[Job], options: ExecuteOptions, on_event: OnEvent) -> Iterator[JobResult]:
    """Do ``jobs`` as Ray tasks and yield one end each, in the order in which they come.

    Raises UserError where Ray is not installed, the address does not answer or the cluster lacks what one run needs. When the
    caller stops early, running runs are asked to save themselves, and a cluster that was started here is taken down.
    """
    address = options.address or os.environ.get("RAY_ADDRESS")
    starts_one = address in (None, "local")
    ray = _import_ray(starts_one)
    with _folder_for_ray() if starts_one else contextlib.nullcontext() as folder:
        try:
            with _own_handler():
                _connect(ray, address, options, len(jobs), folder)
            _require_resources(ray, options)
            yield from _Sweep(ray, jobs, options, on_event).ends()
        finally:
            ray.shutdown()  # ends a cluster that was started here, and takes leave of one that was there before


class _Sweep:
    """The tasks of one sweep."""

    def __init__(self, ray: ModuleType, jobs: Sequence[Job], options: ExecuteOptions, on_event: OnEvent) -> None:
        self._ray, self._on_event = ray, on_event
        self._tail = EventFollower(options.results, [job.run_id for job in jobs])
        self._task = ray.remote(_run_in_worker).options(
            num_cpus=options.threads, num_gpus=_gpus(options), max_retries=RETRIES, retry_exceptions=False
        )
        self._shared, self._code = for_remote(options.for_workers()), code_fingerprint()
        self._open: dict[Any, Job] = {}
        self._tries = Counter[str]()
        for job in jobs:
            self._hand_over(job)

    def _hand_over(self, job: Job) -> None:
        self._open[self._task.remote(job, self._shared, self._code)] = job
        self._tries[job.run_id] += 1

    def ends(self) -> Iterator[JobResult]:
        try:
            while self._open:
                for ref in self._ready():
                    job = self._open.pop(ref)
                    end = self._end(ref, job)
                    if end.state == "interrupted" and self._tries[job.run_id] <= RETRIES:  # its node is given up
                        self._on_event(job.run_id, {"event": "run_retried"})
                        self._hand_over(job)
                        continue
                    self._tail.forget(job.run_id, self._on_event)
                    yield end
                self._tail.tell(self._on_event)
        except BaseException:
            self._stop()
            raise

    def _ready(self) -> list[Any]:
        """All tasks that ended, waiting a little for the first."""
        refs = list(self._open)
        if not self._ray.wait(refs, num_returns=1, timeout=POLL_S)[0]:
            return []
        return self._ray.wait(refs, num_returns=len(refs), timeout=0)[0]

    def _end(self, ref: Any, job: Job) -> JobResult:
        try:
            return self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            return JobResult(job.run_id, _death(error))

    def _stop(self) -> None:
        """Ask everything that runs to save itself, give it time, then end it. A second signal cuts the wait short."""
        ask_to_stop(self._shared)
        try:
            self._ray.wait(list(self._open), num_returns=len(self._open), timeout=STOP_S)
        finally:
            for ref in self._open:
                with contextlib.suppress(self._ray.exceptions.RayError, ValueError):
                    self._ray.cancel(ref, force=True)
            withdraw_stop(self._shared)


def _run_in_worker(job: Job, options: WorkerOptions, code: str) -> JobResult:
    """Body of a task. A worker's process is asked to end when its node is given up: its run is saved first."""
    interruption = StopRequest()
    with _own_handler(lambda *_: interruption.ask()):
        return run_remotely(job, options, code, interruption)


@contextlib.contextmanager
def _own_handler(during: Callable[..., object] | None = None) -> Iterator[None]:
    """Put back what handles SIGTERM now, which Ray replaces when it is joined; ``during`` handles it until then."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    if during is not None:
        signal.signal(signal.SIGTERM, during)
    try:
        yield
    except SystemExit as answer:
        signal.signal(signal.SIGTERM, before)
        if answer.code == signal.SIGTERM:  # Ray's answer to one that came meanwhile
            signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _folder_for_ray() -> Iterator[str | None]:
    """Where a cluster that is started here keeps its logs and sockets, which Ray would leave there for ever.

    None, which leaves it to Ray, where there is none or its path is too long for a socket.
    """
    folder = None
    with contextlib.suppress(OSError):
        folder = tempfile.mkdtemp(prefix="ray-", dir=os.environ.get("RAY_TMPDIR"))
    try:
        yield folder if folder and len(os.fsencode(folder)) + BELOW_FOLDER <= SOCKET_PATH else None
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def _import_ray(starts_one: bool) -> ModuleType:
    # Ray would report its use to its makers, and warn about a default of its own that does not matter here.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if starts_one and "RAY_AUTH_MODE" not in os.environ:
        # Whoever reaches a cluster can run code on it. Without a token of ours Ray would leave one in the home folder.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    try:
        import ray
    except ImportError as error:
        raise UserError(
            f"--executor ray needs Ray, which cannot be imported ({error}); install it with: pip install smope-bench[ray]"
        ) from error
    return ray


def _connect(ray: ModuleType, address: str | None, options: ExecuteOptions, jobs: int, folder: str | None) -> None:
    """Join the cluster at the address, or start one for this sweep alone."""
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if address and address != "local":
        _require_answer(address)
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"the Ray cluster at {address!r} cannot be joined ({_first_line(error)}); it may want a token, which"
                " RAY_AUTH_MODE=token and RAY_AUTH_TOKEN=... give, or be of another version of Ray or Python"
            ) from error
        return
    cores = max(1, min(options.workers, jobs)) * options.threads
    ray.init(address="local", num_cpus=cores, include_dashboard=False, _temp_dir=folder, **quiet)


def _require_answer(address: str) -> None:
    """Find out in seconds that nobody listens: Ray itself tries for minutes and then ends the process."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if address == "auto":
        return
    if not host or not port:
        raise UserError(f"--address {address!r} is no Ray address; write HOST:PORT, ray://HOST:PORT or auto")
    try:
        socket.create_connection((host, port), timeout=CONNECT_S).close()
    except OSError as error:
        raise UserError(
            f"no Ray cluster answers at {address!r} ({error.strerror or error}); start one with `ray start --head`, or leave"
            " out --address to use this machine alone"
        ) from error


def _require_resources(ray: ModuleType, options: ExecuteOptions) -> None:
    """A task that no node can hold would wait for ever without a word."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    need = {"CPU": float(options.threads), "GPU": _gpus(options)}
    if any(all(node.get(name, 0.0) >= amount for name, amount in need.items()) for node in nodes):
        return
    wanted = f"{options.threads} CPUs" + (f" and {need['GPU']:g} GPUs" if need["GPU"] else "")
    best = {name: max((node.get(name, 0.0) for node in nodes), default=0.0) for name in need}
    raise UserError(
        f"no node of the Ray cluster has the {wanted} that one run takes (at most {best['CPU']:g} CPUs, {best['GPU']:g} GPUs);"
        " lower --threads or --gpus-per-run, or use --device cpu"
    )


def _gpus(options: ExecuteOptions) -> float:
    return options.gpus_per_run if options.device == "cuda" else 0.0


def _death(error: Exception) -> dict[str, Any]:
    sentence = f"its Ray worker died {RETRIES + 1} times ({type(error).__name__}); the node may have run out of memory"
    return {"kind": "WorkerDied", "error": sentence, "traceback": ""}


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
