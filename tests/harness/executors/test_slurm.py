"""The Slurm executor: on a real Slurm of one node where one can be started, and on submitit's local executor everywhere."""

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from smope_bench.harness.errors import UserError
from smope_bench.harness.execution.job import Job, JobResult
from smope_bench.harness.execution.lease import CANCEL
from smope_bench.harness.executors import slurm_queue
from smope_bench.harness.executors.slurm import run_on_slurm
from smope_bench.harness.executors.slurm_queue import SlurmQueue
from smope_bench.harness.run_options import RunOptions
from tests.harness.executors.cluster_runs import (  # noqa: F401  # pyright: ignore[reportMissingImports]
    Heard,
    assert_done_once,
    attempts,
    job,
    options,
)
from tests.harness.executors.slurm_cluster import slurm  # noqa: F401  # pyright: ignore[reportMissingImports]
from tests.harness.stand_ins import wait_for  # pyright: ignore[reportMissingImports]

pytest.importorskip("submitit", reason="submitit is not installed: pip install smope-bench[slurm]")


@pytest.fixture
def here(options: RunOptions) -> RunOptions:  # noqa: F811
    """Options for submitit's own executor on this machine."""
    return replace(options, slurm=("cluster=local",))


@pytest.fixture
def on_slurm(
    slurm: Path,  # noqa: F811
    options: RunOptions,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> RunOptions:
    """Options for the real Slurm."""
    monkeypatch.setattr(slurm_queue, "ASK_S", 0.5)
    monkeypatch.setattr(SlurmQueue, "lag_s", 2.0)
    return replace(options, slurm=("partition=test", "time=30"))


def logs(options: RunOptions) -> list[Path]:  # noqa: F811
    return list((options.results / ".slurm").glob("*/*"))


def check_an_array(options: RunOptions) -> None:  # noqa: F811
    jobs, bad, dead, heard = [job(0), job(1, sleep=0.5), job(2)], job(3, fail=True), job(4, die=1), Heard()
    assert_done_once(jobs, list(run_on_slurm(jobs, options, heard)), options)
    assert [heard.names(done.run_id) for done in jobs] == [["run_started", "task_evaluated", "task_evaluated"]] * 3
    assert logs(options) == []  # nothing is left of what went well
    found = {end.run_id: end for end in run_on_slurm([bad, dead], options, Heard())}
    assert (found[bad.run_id].error or {})["error"] == "loss is nan"
    assert (found[dead.run_id].error or {})["kind"] == "WorkerDied"
    assert "left the queue without a result" in (found[dead.run_id].error or {})["error"]
    assert any(file.suffix == ".err" for file in logs(options))
    again, heard = [dead], Heard()
    assert_done_once(again, list(run_on_slurm(again, options, heard)), options)
    assert heard.names(dead.run_id) == ["run_started", "task_evaluated"]
    assert heard.events[dead.run_id][0]["tasks_done"] == 1  # it resumed, and did not write that it started


def traces_of_a_stop(options: RunOptions) -> list[Path]:  # noqa: F811
    return [*options.results.glob(f"*/{CANCEL}"), *options.results.glob(".stop-*")]


def check_a_stop(options: RunOptions, runs: int) -> None:  # noqa: F811
    jobs = [job(seed, sleep=60) for seed in range(runs)]

    def stop_once_something_runs(run_id: str, event: dict[str, object]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(run_on_slurm(jobs, options, stop_once_something_runs))
    assert list(options.results.glob("*/result.json")) == [] and traces_of_a_stop(options) == []
    begun = [run for run in jobs if attempts(run, options)]
    assert begun and [(options.results / run.run_id / "saved").exists() for run in begun] == [True] * len(begun)


def test_an_array_on_this_machine(here: RunOptions) -> None:
    check_an_array(here)


def test_a_stop_on_this_machine_saves_what_runs(here: RunOptions) -> None:
    check_a_stop(replace(here, workers=1), runs=2)


def test_an_array_on_slurm(on_slurm: RunOptions) -> None:
    check_an_array(on_slurm)


def test_a_stop_on_slurm_empties_the_queue_and_saves_what_runs(on_slurm: RunOptions) -> None:
    check_a_stop(on_slurm, runs=4)
    wait_for(lambda: not squeue())


def squeue(*more: str) -> list[str]:
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i", *more]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@contextlib.contextmanager
def meanwhile(jobs: list[Job], options: RunOptions) -> Iterator[Future[list[JobResult]]]:  # noqa: F811
    """The ends of ``jobs``, which are waited for in a thread; nothing of them outlives the test."""
    with ThreadPoolExecutor(1) as pool:
        try:
            yield pool.submit(lambda: list(run_on_slurm(jobs, options, Heard())))
        finally:
            subprocess.run(["scancel", "--me"], check=False)


@pytest.mark.parametrize("signal", ["USR2", "TERM"], ids=["time limit", "pre-emption"])
def test_a_run_that_slurm_gives_notice_goes_back_into_the_queue(on_slurm: RunOptions, signal: str) -> None:
    long = job(0, sleep=60)
    with meanwhile([long], on_slurm) as found:
        wait_for(lambda: attempts(long, on_slurm) == 1)
        subprocess.run(["scancel", f"--signal={signal}", *squeue()], check=True)  # to the job's steps, as Slurm does
        assert_done_once([long], found.result(120), on_slurm)
    assert attempts(long, on_slurm) == 2 and (on_slurm.results / long.run_id / "saved").exists()


def test_a_job_that_somebody_cancels_saves_its_run_and_is_not_put_back(on_slurm: RunOptions) -> None:
    long = job(0, sleep=60)
    with meanwhile([long], on_slurm) as found:
        wait_for(lambda: attempts(long, on_slurm) == 1)
        subprocess.run(["scancel", *squeue()], check=True)
        (end,) = found.result(120)
    assert end.state in ("interrupted", "failed")
    assert (on_slurm.results / long.run_id / "saved").exists() and attempts(long, on_slurm) == 1
    wait_for(lambda: not squeue())


def test_a_machine_without_slurm_is_told_what_to_do(
    options: RunOptions,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    with pytest.raises(UserError, match=r"there is no Slurm here.*--executor local.*cluster=local"):
        next(run_on_slurm([job()], options, Heard()))
    assert logs(options) == []


def test_a_gpu_where_slurm_has_none_is_refused_with_the_remedy(on_slurm: RunOptions) -> None:
    with pytest.raises(UserError, match=r"Slurm refused a job: .*; without GPUs, add --device cpu"):
        next(run_on_slurm([job()], replace(on_slurm, device="cuda"), Heard()))


def test_what_slurm_refuses_is_said_in_its_own_words(on_slurm: RunOptions) -> None:
    with pytest.raises(UserError, match=r"Slurm refused a job: .*Invalid partition name specified \(MaxArraySize 2\)"):
        next(run_on_slurm([job()], replace(on_slurm, slurm=("partition=nowhere",)), Heard()))


def test_a_missing_package_is_named_with_the_remedy(
    options: RunOptions,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"pip install 'smope-bench\[slurm\]'"):
        next(run_on_slurm([job()], options, Heard()))
