"""The Ray executor on real local clusters. Workers are real processes and are really killed; what they do is a stand-in."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from smope_bench.harness.cancellation import INTERRUPTED, TERMINATED, Stopped, stop_signals
from smope_bench.harness.errors import UserError
from smope_bench.harness.execution.lease import CANCEL
from smope_bench.harness.executors import ray_cluster as executor_ray
from smope_bench.harness.executors.ray_cluster import run_on_ray
from smope_bench.harness.run_options import RunOptions
from tests.harness.executors.cluster_runs import (  # noqa: F401  # pyright: ignore[reportMissingImports]
    Heard,
    assert_done_once,
    attempts,
    job,
    options,
)

# Ray is not imported here: it remembers how clusters are joined from its import on, and tests set that.
pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install smope-bench[ray]")


@pytest.fixture(autouse=True)
def _no_process_survives(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every Ray process that a test starts has the test's mark in its environment, which is how it is found again."""
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    monkeypatch.setenv("SMOPE_TEST_MARK", mark)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")  # with one of our own, or Ray would leave one in the home folder
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef" * 4)
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "0")  # a machine short of memory would cost workers
    yield
    end = time.monotonic() + 60
    while (left := marked(mark)) and time.monotonic() < end:
        time.sleep(0.1)
    for process in left:
        process.kill()
    assert not left, f"still there after the test: {left}"


def marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get("SMOPE_TEST_MARK") == mark:
                found.append(process)
        except psutil.Error:
            continue
    return [process for process in found if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def test_killed_workers_cost_no_run_and_no_run_is_done_twice(
    options: RunOptions,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(executor_ray, "RETRIES", 2)
    jobs = [job(0, die=1), job(1), job(2, sleep=0.5), job(3, die=2), job(4)]
    jobs.append(job(7, sleep=60, terminate=1))
    bad, deadly, heard = job(5, fail=True), job(6, die=9), Heard()
    found = {end.run_id: end for end in run_on_ray([*jobs, bad, deadly], options, heard)}
    failed, dead = found.pop(bad.run_id).error, found.pop(deadly.run_id).error
    assert failed is not None and failed["error"] == "loss is nan"
    assert dead is not None and dead["kind"] == "WorkerDied" and "died 3 times" in dead["error"]
    assert_done_once(jobs, list(found.values()), options)
    assert [attempts(done, options) for done in (*jobs, bad, deadly)] == [2, 1, 1, 3, 1, 2, 1, 3]
    assert "run_retried" in heard.names(jobs[-1].run_id) and (options.results / jobs[-1].run_id / "saved").exists()
    for done in jobs:
        names = [name for name in heard.names(done.run_id) if name != "run_retried"]
        assert names == ["run_started", "task_evaluated", "task_evaluated"]
    assert not sys.modules["ray"].is_initialized()


def test_a_stop_saves_what_runs_and_begins_nothing(
    options: RunOptions,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept_by_ray = Path(tempfile.mkdtemp(prefix="t-"))  # short, as the path of a socket has to be
    monkeypatch.setenv("RAY_TMPDIR", str(kept_by_ray))
    jobs = [job(0, sleep=60), job(1, sleep=60)]

    def stop_once_something_runs(run_id: str, event: dict[str, object]) -> None:
        os.kill(os.getpid(), signal.SIGTERM)  # Ray would answer it in its own way

    with stop_signals(), pytest.raises(Stopped) as stopped:
        list(run_on_ray(jobs, replace(options, workers=1), stop_once_something_runs))
    assert stopped.value.status == TERMINATED
    kept_by_ray.rmdir()  # nothing is left of the cluster
    assert sorted(attempts(run, options) for run in jobs) == [0, 1]
    assert len(list(options.results.glob("*/saved"))) == 1
    assert list(options.results.glob("*/result.json")) == [] and list(options.results.glob(f"*/{CANCEL}")) == []
    assert list(options.results.glob(".stop-*")) == []
    assert not sys.modules["ray"].is_initialized()


def test_a_stop_during_the_start_of_ray_ends_as_any_other(
    options: RunOptions,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept_by_ray = Path(tempfile.mkdtemp(prefix="t-"))
    monkeypatch.setenv("RAY_TMPDIR", str(kept_by_ray))
    connect = executor_ray._connect

    def interrupted_start(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        connect(*arguments)

    monkeypatch.setattr(executor_ray, "_connect", interrupted_start)
    with stop_signals(), pytest.raises(Stopped) as stopped:
        list(run_on_ray([job(0, sleep=60)], replace(options, workers=1), Heard()))
    assert stopped.value.status == INTERRUPTED and attempts(job(0, sleep=60), options) == 0
    kept_by_ray.rmdir()
    assert not sys.modules["ray"].is_initialized()


def test_a_second_signal_does_not_wait_for_a_start_that_hangs(
    options: RunOptions,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hanging_start(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)

    monkeypatch.setattr(executor_ray, "_connect", hanging_start)
    started = time.monotonic()
    with stop_signals(), pytest.raises(Stopped) as stopped:
        list(run_on_ray([job()], options, Heard()))
    assert stopped.value.status == INTERRUPTED and time.monotonic() - started < 20


def test_a_ray_that_does_not_start_is_one_sentence(
    options: RunOptions,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ray

    def fail(**_: Any) -> None:
        raise Exception("The current node timed out during startup.\nmore")  # as Ray raises it

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(UserError, match=r"Ray does not start.*timed out during startup\..*--executor local") as found:
        next(run_on_ray([job()], options, Heard()))
    assert "\n" not in str(found.value)


@pytest.fixture
def existing(options: RunOptions) -> Iterator[str]:  # noqa: F811
    """The address of a cluster that somebody else started, where the stand-in can be imported."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={port}"]
    command += ["--num-cpus=2", "--include-dashboard=false", "--disable-usage-stats", "--node-ip-address=127.0.0.1"]
    folder = tempfile.mkdtemp(prefix="t-")
    command.append(f"--temp-dir={folder}")
    quiet = subprocess.DEVNULL
    head = subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True)
    try:
        end = time.monotonic() + 60
        while True:
            assert time.monotonic() < end and head.poll() is None, "`ray start` did not come up"
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        for process in [*psutil.Process(head.pid).children(recursive=True), head]:
            with contextlib.suppress(psutil.NoSuchProcess):  # children end by themselves when another is killed
                process.kill()
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def test_an_existing_cluster_is_used_and_left_running(existing: str, options: RunOptions) -> None:  # noqa: F811
    there = replace(options, address=existing)
    jobs = [job(0), job(1, die=1)]
    assert_done_once(jobs, list(run_on_ray(jobs, there, Heard())), options)
    more = [job(2)]
    assert_done_once(more, list(run_on_ray(more, there, Heard())), options)  # it is still there
    with pytest.raises(
        UserError, match=r"no node of the Ray cluster has the 64 CPUs that one run takes \(at most 2 CPUs"
    ):
        next(run_on_ray([job(3)], replace(there, threads=64), Heard()))
    with pytest.raises(UserError, match=r"1 CPUs and 0\.5 GPUs"):
        next(run_on_ray([job(3)], replace(there, device="cuda", gpus_per_run=0.5), Heard()))


def test_an_address_where_nobody_listens_is_said_at_once(options: RunOptions) -> None:  # noqa: F811
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match=f"no Ray cluster answers at '{address}'.*ray start --head"):
            next(run_on_ray([job()], replace(options, address=address), Heard()))
    for wrong in ("somewhere", "host:port", "ray://"):
        with pytest.raises(UserError, match="write HOST:PORT"):
            next(run_on_ray([job()], replace(options, address=wrong), Heard()))


def test_a_missing_package_is_named_with_the_remedy(
    options: RunOptions,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'smope-bench\[ray\]'"):
        next(run_on_ray([job()], options, Heard()))
