"""Runs as Ray tasks: on an existing cluster by its address, otherwise on one that is started here and ends with the sweep.

A worker that is killed costs nothing but time: Ray hands its run to another one, which takes over the dead owner's claim and
goes on from the last checkpoint. Ray itself is imported only when this executor is asked for.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from harness.cluster import POLL_S, STOP_S, Tail, ask_to_stop, run_remotely, travelling, withdraw_stop
from harness.errors import UserError
from harness.jobs import End, ExecuteOptions, Job, OnEvent
from harness.provenance import code_fingerprint

RETRIES = 3
"""How many killed workers one run survives before it counts as failed: a run that kills each of its workers must end."""
CONNECT_S = 5.0


def ends(jobs: Sequence[Job], options: ExecuteOptions, on_event: OnEvent) -> Iterator[End]:
    """Do ``jobs`` as Ray tasks and yield one end each, in the order in which they come.

    Raises UserError where Ray is not installed, the address does not answer or the cluster lacks what one run needs. When the
    caller stops early, running runs are asked to save themselves, and a cluster that was started here is taken down.
    """
    address = options.address or os.environ.get("RAY_ADDRESS")
    ray = _import_ray(starts_one=address in (None, "local"))
    _connect(ray, address, options, len(jobs))
    try:
        _require_resources(ray, options)
        yield from _Sweep(ray, jobs, options, on_event).ends()
    finally:
        ray.shutdown()  # ends a cluster that was started here, and takes leave of one that was there before


class _Sweep:
    """The tasks of one sweep."""

    def __init__(self, ray: ModuleType, jobs: Sequence[Job], options: ExecuteOptions, on_event: OnEvent) -> None:
        self._ray, self._results, self._on_event = ray, options.results, on_event
        self._tail = Tail(options.results, [job.run_id for job in jobs])
        task = ray.remote(run_remotely).options(
            num_cpus=options.threads, num_gpus=_gpus(options), max_retries=RETRIES, retry_exceptions=False
        )
        shared, code = travelling(options.for_workers()), code_fingerprint()
        self._open: dict[Any, Job] = {task.remote(job, shared, code): job for job in jobs}

    def ends(self) -> Iterator[End]:
        try:
            while self._open:
                for ref in self._ready():
                    job = self._open.pop(ref)
                    end = self._end(ref, job)
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

    def _end(self, ref: Any, job: Job) -> End:
        try:
            return self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            return End(job.run_id, _death(error))

    def _stop(self) -> None:
        """Ask everything that runs to save itself, give it time, then end it. A second signal cuts the wait short."""
        left = {job.run_id for job in self._open.values()}
        ask_to_stop(self._results, left)
        try:
            self._ray.wait(list(self._open), num_returns=len(self._open), timeout=STOP_S)
        finally:
            for ref in self._open:
                with contextlib.suppress(self._ray.exceptions.RayError, ValueError):
                    self._ray.cancel(ref, force=True)
            withdraw_stop(self._results, left)


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


def _connect(ray: ModuleType, address: str | None, options: ExecuteOptions, jobs: int) -> None:
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
    ray.init(address="local", num_cpus=cores, include_dashboard=False, **quiet)


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
