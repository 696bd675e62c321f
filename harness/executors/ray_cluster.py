"""Runs as Ray tasks: on an existing cluster by its address, otherwise on one that is started here and ends with the launch.

If a worker is killed, Ray hands its run to another one, which takes over the dead holder's lease and resumes from the last
checkpoint. Ray itself is imported only when this executor runs.
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
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import psutil

from smope_bench.harness.cancellation import Stop, StopRequest, stop_gently
from smope_bench.harness.errors import UserError
from smope_bench.harness.execution.executor_registry import executor
from smope_bench.harness.execution.job import Job, JobResult, OnEvent, failed
from smope_bench.harness.executors.remote import (
    POLL_S,
    STOP_S,
    EventFollower,
    ask_to_stop,
    for_remote,
    run_remotely,
    withdraw_stop,
)
from smope_bench.harness.hardware.gpus import only_gpus
from smope_bench.harness.provenance import code_fingerprint
from smope_bench.harness.run_options import RunOptions

RETRIES = 3
"""Killed workers that one run survives before it counts as failed: a run that kills each of its workers must end."""
CONNECT_S = 5.0
GONE_S, REMOVE_S = 20.0, 0.05
"""How long it is tried to remove the folder of a cluster that has ended, and the pause between two attempts."""
SOCKET_PATH, BELOW_FOLDER = 107, 75
"""Bytes that the path of a socket may have, and bytes that Ray appends to its folder's path."""


def _address(options: RunOptions) -> str | None:
    return options.address or os.environ.get("RAY_ADDRESS")


def starts_here(options: RunOptions) -> bool:
    """Whether the cluster is one that is started on this machine, for this launch alone."""
    return _address(options) in (None, "local")


@executor("ray", place="cluster", takes=("address",), is_here=starts_here)
def run_on_ray(jobs: Sequence[Job], options: RunOptions, on_event: OnEvent) -> Iterator[JobResult]:
    """As tasks of a Ray cluster, an existing one or one that is started on this machine.

    Raises UserError if Ray is not installed, the address does not answer or the cluster lacks what one run needs. If the
    caller stops early, runs in progress are asked to save themselves, and a cluster that was started here is shut down.
    """
    address, starts_one = _address(options), starts_here(options)
    # Ray's extension cannot be interrupted by an exception: signals are counted, and read between calls of Ray.
    with (
        stop_gently(insists=False) as stop,
        _folder_for_ray() if starts_one else contextlib.nullcontext() as folder,
        contextlib.ExitStack() as afterwards,
    ):
        ray = _import_ray(starts_one)
        start = partial(_connect, ray, address, options, len(jobs), folder)
        with _joined(ray, start, stop, folder):
            _require_resources(ray, options)
            tasks = _Tasks(ray, jobs, options, on_event, stop)
            # While the cluster ends, a task of its queue may still begin, which must find the request to stop.
            afterwards.callback(withdraw_stop, tasks.shared)
            yield from tasks.results()


class _Tasks:
    """The tasks of one launch."""

    def __init__(
        self, ray: ModuleType, jobs: Sequence[Job], options: RunOptions, on_event: OnEvent, stop: Stop
    ) -> None:
        self._ray, self._on_event, self._stop_state = ray, on_event, stop
        self._ends_with_launch = starts_here(options)
        self._follower = EventFollower(options.results, [job.run_id for job in jobs])
        self._task = ray.remote(_run_in_worker).options(
            num_cpus=options.threads or 1, num_gpus=_gpus(options), max_retries=RETRIES, retry_exceptions=False
        )
        self.shared, self._code = for_remote(options), code_fingerprint()
        self._open: dict[Any, Job] = {}
        self._tries = Counter[str]()
        for job in jobs:
            self._hand_over(job)

    def _hand_over(self, job: Job) -> None:
        self._open[self._task.remote(job, self.shared, self._code)] = job
        self._tries[job.run_id] += 1

    def results(self) -> Iterator[JobResult]:
        try:
            while self._open:
                self._stop_state.raise_if_stopped()
                for ref in self._ready():
                    job = self._open.pop(ref)
                    result = self._result(ref, job)
                    if (
                        result.state == "interrupted" and self._tries[job.run_id] <= RETRIES
                    ):  # its node is being shut down
                        self._on_event(job.run_id, {"event": "run_retried"})
                        self._hand_over(job)
                        continue
                    self._follower.forget(job.run_id, self._on_event)
                    yield result
                self._follower.notify(self._on_event)
            self._stop_state.raise_if_stopped()
        except BaseException:
            self._stop()
            raise

    def _ready(self) -> list[Any]:
        """Tasks that ended; waits up to ``POLL_S`` for the first."""
        refs = list(self._open)
        if not self._ray.wait(refs, num_returns=1, timeout=POLL_S)[0]:
            return []
        return self._ray.wait(refs, num_returns=len(refs), timeout=0)[0]

    def _result(self, ref: Any, job: Job) -> JobResult:
        try:
            return self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            return failed(job.run_id, "WorkerDied", _death(error))

    def _stop(self) -> None:
        """Ask all runs in progress to save themselves, wait, then end them. A second signal cuts the wait short."""
        ask_to_stop(self.shared)
        refs, end = list(self._open), time.monotonic() + STOP_S
        signals = self._stop_state.signals
        try:
            while refs and time.monotonic() < end and self._stop_state.signals <= max(signals, 1):
                refs = self._ray.wait(refs, num_returns=len(refs), timeout=POLL_S)[1]
        finally:
            # Cancelling a task whose result arrives at that moment makes Ray abort this process, so only those that do not
            # end are cancelled, and none in a cluster that ends now anyway.
            for ref in () if self._ends_with_launch else refs:
                with contextlib.suppress(self._ray.exceptions.RayError, ValueError):
                    self._ray.cancel(ref, force=True)


def _run_in_worker(job: Job, options: RunOptions, code: str) -> JobResult:
    """Body of a task. SIGTERM, which Ray sends when a node is shut down, saves the run first."""
    stop_request = StopRequest()
    with _own_handler(lambda *_: stop_request.set()):
        return run_remotely(job, options, code, stop_request)


@contextlib.contextmanager
def _own_handler(during: Callable[..., object]) -> Iterator[None]:
    """``during`` handles SIGTERM in this block, in place of the handler that Ray has set in its worker."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, during)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _joined(ray: ModuleType, start: Callable[[], None], stop: Stop, folder: str | None) -> Iterator[None]:
    """The cluster that ``start`` starts or joins; afterwards, one that was started is ended, an existing one is left running.

    ``start`` is called in a thread of its own, where Ray sets no signal handlers and no signal interrupts it. The thread lives
    as long as the block: Linux ends Ray's processes with the thread that started them, by the signal that they ask for when
    their parent dies. After one signal the start is waited for, since a cluster that is half started cannot be shut down; at a
    second, the processes that Ray has started for ``folder`` are killed. Raises Stopped in either case.
    """
    errors, started, over = list[BaseException](), threading.Event(), threading.Event()

    def run() -> None:
        try:
            start()
        except BaseException as error:
            errors.append(error)
        started.set()
        over.wait()

    threading.Thread(target=run, name="ray start", daemon=True).start()
    try:
        while not started.wait(POLL_S / 5):
            if stop.signals > 1:
                _kill_processes_of(folder)
                started.wait(POLL_S)
                stop.raise_if_stopped()
        stop.handle_again()  # Ray's extension has set a handler of its own, which prints a stack
        stop.raise_if_stopped()  # also where Ray failed because its processes were stopped, too
        if errors:
            raise errors[0]
        yield
    finally:
        ray.shutdown()
        over.set()


def _kill_processes_of(folder: str | None) -> None:
    """Kill this process's descendants that have ``folder``, which is Ray's, in their command line."""
    for process in psutil.Process().children(recursive=True) if folder else ():
        with contextlib.suppress(psutil.Error):
            if any(str(folder) in word for word in process.cmdline()):
                process.kill()


@contextlib.contextmanager
def _folder_for_ray() -> Iterator[str | None]:
    """Temporary folder for logs and sockets of a cluster that is started here; Ray would never remove its own.

    None, which leaves the choice to Ray, if there is none or its path is too long for a socket.
    """
    folder = None
    with contextlib.suppress(OSError):
        folder = tempfile.mkdtemp(prefix="ray-", dir=os.environ.get("RAY_TMPDIR"))
    try:
        yield folder if folder and len(os.fsencode(folder)) + BELOW_FOLDER <= SOCKET_PATH else None
    finally:
        end = time.monotonic() + GONE_S
        while folder and os.path.lexists(folder) and time.monotonic() < end:
            # Ray's helpers end shortly after it and write until then, so that a folder may not be empty when it is removed.
            shutil.rmtree(folder, ignore_errors=True)
            time.sleep(REMOVE_S)


def _import_ray(starts_one: bool) -> ModuleType:
    # No usage report to Ray's makers, and no warning about a default that does not matter here.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if starts_one and "RAY_AUTH_MODE" not in os.environ:
        # Anyone who reaches a cluster can run code on it. Without this token Ray would write one to the home folder.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    try:
        import ray
    except ImportError as error:
        raise UserError(
            f"--executor ray needs Ray, which cannot be imported ({error}); install it with: pip install 'smope-bench[ray]'"
        ) from error
    return ray


def _connect(ray: ModuleType, address: str | None, options: RunOptions, jobs: int, folder: str | None) -> None:
    """Join the cluster at the address, or start one for this launch alone."""
    logging.getLogger("ray").setLevel(logging.ERROR)  # it warns that it sets no signal handlers, as it must not
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
    cores = max(1, min(options.workers or 1, jobs)) * (options.threads or 1)
    try:
        with only_gpus(options.gpus):
            ray.init(address="local", num_cpus=cores, include_dashboard=False, _temp_dir=folder, **quiet)
    except (Exception, SystemExit) as error:  # Ray raises plain Exceptions where its processes do not come up
        raise UserError(
            f"Ray does not start on this machine ({type(error).__name__}: {_first_line(error)}); look at the memory, the disk"
            " and RAY_TMPDIR, or use --executor local"
        ) from error


def _require_answer(address: str) -> None:
    """Raise UserError within seconds if nothing listens: Ray itself tries for minutes and then ends the process."""
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


def _require_resources(ray: ModuleType, options: RunOptions) -> None:
    """Raise UserError if no node can hold a task: Ray would wait for ever without a message."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    threads = options.threads or 1
    need = {"CPU": float(threads), "GPU": _gpus(options)}
    if any(all(node.get(name, 0.0) >= amount for name, amount in need.items()) for node in nodes):
        return
    wanted = f"{threads} CPUs" + (f" and {need['GPU']:g} GPUs" if need["GPU"] else "")
    best = {name: max((node.get(name, 0.0) for node in nodes), default=0.0) for name in need}
    raise UserError(
        f"no node of the Ray cluster has the {wanted} that one run takes (at most {best['CPU']:g} CPUs, {best['GPU']:g} GPUs);"
        " lower --threads or --gpus-per-run, or use --device cpu"
    )


def _gpus(options: RunOptions) -> float:
    return options.gpus_per_run if options.device != "cpu" else 0.0


def _death(error: Exception) -> str:
    return f"its Ray worker died {RETRIES + 1} times ({type(error).__name__}); the node may have run out of memory"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
