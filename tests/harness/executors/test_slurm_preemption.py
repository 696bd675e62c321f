"""A real Slurm of two nodes that takes them away: pre-emption that puts jobs back or cancels them, and a node set to DOWN.

``tests/robustness/slurm_sweep.py`` does the same with real runs and compares their bits.
"""

import contextlib
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from smope_bench.harness.execution.job import Job, JobResult
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
from tests.harness.executors.slurm_cluster import (  # pyright: ignore[reportMissingImports]
    PREEMPTION,
    NoSlurm,
    started,
)
from tests.harness.stand_ins import wait_for  # pyright: ignore[reportMissingImports]

pytest.importorskip("submitit", reason="submitit is not installed: pip install smope-bench[slurm]")


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A running Slurm of two nodes with one processor each, or a skip with the reason."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(started(tmp_path_factory.mktemp("slurm"), PREEMPTION, nodes=2, cpus=1))
        except NoSlurm as reason:
            pytest.skip(str(reason))
        yield


@pytest.fixture
def quick(options: RunOptions, monkeypatch: pytest.MonkeyPatch) -> RunOptions:  # noqa: F811
    """Options for launchers that ask Slurm often."""
    monkeypatch.setattr(slurm_queue, "ASK_S", 0.5)
    monkeypatch.setattr(SlurmQueue, "lag_s", 2.0)
    return options


def while_they_run(jobs: list[Job], options: RunOptions, *command: str) -> list[JobResult]:  # noqa: F811
    """The ends of ``jobs``, of which the first two run on both nodes when Slurm is given a command."""
    with ThreadPoolExecutor(1) as pool:
        try:
            found = pool.submit(lambda: list(run_on_slurm(jobs, options, Heard())))
            wait_for(lambda: found.done() or all(attempts(each, options) for each in jobs[:2]))
            subprocess.run(command, check=True, capture_output=True, timeout=200)
            return found.result(200)
        finally:
            subprocess.run(["scancel", "--me"], check=False)


@pytest.mark.usefixtures("two_nodes")
@pytest.mark.parametrize("partition", ["requeue", "cancel"])
def test_runs_whose_nodes_go_to_a_job_that_goes_first_are_saved_and_put_back(quick: RunOptions, partition: str) -> None:
    on_slurm, jobs = (
        replace(quick, slurm=(f"partition={partition}", "time=30")),
        [job(0, sleep=60), job(1, sleep=60), job(2)],
    )
    first = ("--partition=first", "--nodes=2", "--time=1", "--output=/dev/null", "--chdir=/", "--wrap=true")
    ends = while_they_run(jobs, on_slurm, "sbatch", "--wait", *first)
    assert [(on_slurm.results / each.run_id / "saved").exists() for each in jobs] == [True, True, False]
    assert_done_once(jobs, ends, on_slurm)


@pytest.mark.usefixtures("two_nodes")
def test_a_run_on_a_node_that_is_set_to_down_is_done_once(quick: RunOptions) -> None:
    """Slurm starts its job anew elsewhere, while its process may go on: the lease keeps the two apart."""
    on_slurm, jobs = replace(quick, slurm=("partition=requeue", "time=30")), [job(0, sleep=8), job(1, sleep=8)]
    ends = while_they_run(jobs, on_slurm, "scontrol", "update", "nodename=n0", "state=down", "reason=test")
    subprocess.run(["scontrol", "update", "nodename=n0", "state=resume"], check=True)
    assert {end.state for end in ends} <= {"done", "skipped"}
    assert [(on_slurm.results / each.run_id / "published").read_text() for each in jobs] == ["once\n"] * 2
