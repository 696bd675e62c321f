"""Limits of arrays and of the queue, with made-up tools of Slurm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from smope_bench.harness.errors import UserError
from smope_bench.harness.execution.job import Job, JobResult
from smope_bench.harness.executors import slurm, slurm_limits
from smope_bench.harness.executors.slurm_limits import DEFAULT_ARRAY, SlurmLimits, is_refused_for_size, read_limits
from smope_bench.harness.executors.slurm_options import SlurmPlan
from smope_bench.harness.run_options import Gpu, RunOptions
from tests.harness.stand_ins import spec_of  # pyright: ignore[reportMissingImports]

CONFIG = "Configuration data as of now\nMaxArraySize            = 1001\nMaxJobCount = 10000\n"
ASSOC = "phys|normal|50\nchem|normal|\nphys2|long|8\n"
QOS = "normal|20\nlong|\nshort|5\n"


def tools(monkeypatch: pytest.MonkeyPatch, config: str | None = CONFIG, assoc: str | None = ASSOC) -> None:
    def answer(*command: str) -> str | None:
        if command[0] == "scontrol":
            return config
        return None if assoc is None else assoc if "assoc" in command else QOS

    monkeypatch.setattr(slurm_limits, "query", answer)


def test_the_least_limit_of_account_and_qos_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    tools(monkeypatch)
    assert read_limits("phys") == SlurmLimits(1001, 20, "MaxArraySize 1001, MaxSubmitJobsPerUser 20 of QOS normal")
    assert read_limits("phys", "long") == SlurmLimits(1001, 50, "MaxArraySize 1001, MaxSubmitJobs 50 of account phys")
    assert read_limits("phys", "short").submit == 5 and read_limits("chem", "long").submit is None
    assert read_limits().submit == 8


def test_without_accounting_and_without_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    tools(monkeypatch, assoc=None)
    assert read_limits() == SlurmLimits(1001, None, "MaxArraySize 1001")
    for size in ("0", "1"):
        tools(monkeypatch, f"MaxArraySize = {size}\n", assoc=None)
        assert read_limits().array == 1
    tools(monkeypatch, None, None)
    assert read_limits().array == DEFAULT_ARRAY


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("sbatch: error: Batch job submission failed: Invalid job array specification", True),
        ("Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)", True),
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit", True),
        ("Resource temporarily unavailable", True),
        ("Invalid partition name specified", False),
        ("Requested time limit is invalid (missing or exceeds some limit)", False),
    ],
)
def test_refusals_for_size(reason: str, expected: bool) -> None:
    assert is_refused_for_size(reason) is expected


class Cluster:
    """Stands in for submitit and the queue: takes arrays of at most ``array`` jobs and ``queue`` jobs altogether."""

    def __init__(self, array: int, queue: int, words: str = "job submit limit") -> None:
        self.array, self.queue, self.words = array, queue, words
        self.tried: list[int] = []
        self.taken: list[list[str]] = []
        self.running: dict[str, Job] = {}
        self.most = 0
        self.bodies: list[Any] = []

    def map_array(self, body: Any, jobs: list[Job]) -> list[Any]:
        self.tried.append(len(jobs))
        if len(jobs) > self.array:
            raise RuntimeError("sbatch: error: Invalid job array specification")
        if len(self.running) + len(jobs) > self.queue:
            raise RuntimeError(f"sbatch: error: {self.words}")
        self.taken.append([job.run_id for job in jobs])
        self.bodies.append(body)
        self.running |= {job.run_id: job for job in jobs}
        self.most = max(self.most, len(self.running))
        return [SimpleNamespace(job_id=job.run_id) for job in jobs]

    def alive(self, _: Any) -> set[str]:
        return set(self.running)

    def cancel_waiting(self, _: Any) -> None:
        self.running.clear()

    def cancel(self, _: Any) -> None:
        pass

    def result(self, _: Path, run_id: str) -> JobResult | None:
        """The jobs end one after the other."""
        if next(iter(self.running), None) != run_id:
            return None
        self.running.pop(run_id)
        return JobResult(run_id)


def launched(
    cluster: Cluster, limits: SlurmLimits, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **more: Any
) -> list[JobResult]:
    submitit = SimpleNamespace(AutoExecutor=lambda **_: cluster)
    monkeypatch.setattr(Cluster, "update_parameters", lambda *_, **__: None, raising=False)
    monkeypatch.setattr(slurm, "read_limits", lambda *_: limits)
    monkeypatch.setattr(slurm, "SlurmQueue", lambda: cluster)
    monkeypatch.setattr(slurm, "LocalQueue", lambda: cluster)
    monkeypatch.setattr(slurm, "read_result", cluster.result)
    monkeypatch.setattr(slurm, "POLL_S", 0.0)
    options = replace(RunOptions(tmp_path, tmp_path), **more)
    plan = SlurmPlan("local" if options.slurm else "slurm")
    jobs = [Job(spec.run_id, spec) for spec in map(spec_of, range(count))]
    return list(slurm._Batch(submitit, plan, jobs, options, lambda *_: None).run())  # pyright: ignore[reportArgumentType]


def test_arrays_have_a_size_that_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(array=4, queue=99)
    ends = launched(cluster, SlurmLimits(4), 10, tmp_path, monkeypatch)
    assert cluster.tried == [4, 4, 2] and len(ends) == 10


def test_an_array_limit_of_one_submits_single_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(array=1, queue=99)
    assert len(launched(cluster, SlurmLimits(1), 3, tmp_path, monkeypatch)) == 3 and cluster.tried == [1, 1, 1]


def test_the_rest_follows_as_room_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(array=99, queue=3)
    ends = launched(cluster, SlurmLimits(99, 3), 8, tmp_path, monkeypatch)
    assert len(ends) == 8 and cluster.most == 3
    assert cluster.tried[0] == 3 and sum(cluster.tried) == 8, "nothing that could not be taken was tried"


def test_limits_that_cannot_be_read_are_found_by_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(array=5, queue=3)
    ends = launched(cluster, SlurmLimits(), 8, tmp_path, monkeypatch)
    assert sorted(end.run_id for end in ends) == sorted(run for array in cluster.taken for run in array)
    assert len(ends) == 8 and cluster.most == 3


def test_what_is_refused_altogether_is_named_with_the_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(array=5, queue=0)
    with pytest.raises(UserError, match=r"Slurm refused a job: .*job submit limit \(MaxArraySize 5\)"):
        launched(cluster, SlurmLimits(5, None, "MaxArraySize 5"), 4, tmp_path, monkeypatch)
    assert cluster.tried == [4, 2, 1]


def test_what_was_accepted_stays_when_the_rest_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(array=2, queue=2, words="Invalid partition name specified")
    assert len(launched(cluster, SlurmLimits(2), 4, tmp_path, monkeypatch)) == 4 and cluster.most == 2


def test_a_cluster_without_gpus_is_told_from_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(array=9, queue=0, words="Invalid generic resource (gres) specification")
    with pytest.raises(UserError, match=r"\(gres\) specification .*; without GPUs, add --device cpu"):
        launched(cluster, SlurmLimits(), 4, tmp_path, monkeypatch)


def test_jobs_on_this_machine_take_turns_on_its_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, gpus = Cluster(array=9, queue=9), (Gpu("GPU-a"), Gpu("GPU-b"))
    more = {"slurm": ("cluster=local",), "workers": 2, "gpus": gpus, "device": "cuda"}
    assert len(launched(cluster, SlurmLimits(), 4, tmp_path, monkeypatch, **more)) == 4
    seen = [body.gpu.token for body in cluster.bodies]
    assert seen[:2] == ["GPU-a", "GPU-b"] and set(seen) == {"GPU-a", "GPU-b"} and cluster.most == 2


SBATCH = """#!/bin/sh
cp "$1" "{folder}/submitted.$$"
if grep -q -- "--array" "$1" && ! grep -q -- "--array=0-1%" "$1"; then
  echo "sbatch: error: Invalid job array specification" >&2
  exit 1
fi
echo "Submitted batch job $$"
"""


def test_what_sbatch_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """submitit's own scripts, with a stand-in for sbatch that takes arrays of two."""
    submitit = pytest.importorskip("submitit")
    for tool, text in {
        "sbatch": SBATCH.format(folder=tmp_path),
        "srun": "#!/bin/sh\n",
        "squeue": "#!/bin/sh\n",
    }.items():
        (tmp_path / tool).write_text(text)
        (tmp_path / tool).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    tools(monkeypatch, assoc=None)
    options = RunOptions(tmp_path / "results", tmp_path, "cuda", threads=2)
    jobs = [Job(spec.run_id, spec) for spec in map(spec_of, range(4))]
    plan = slurm.slurm_plan((), 2, gpus=True)
    batch = slurm._Batch(submitit, plan, jobs, options, lambda *_: None)
    batch._submit()
    texts = [file.read_text() for file in tmp_path.glob("submitted.*")]
    assert len(batch._open) == 4 and len(texts) == 3 and batch._waiting == []
    assert all("#SBATCH --gres=gpu:1\n" in text and "#SBATCH --cpus-per-task=8\n" in text for text in texts)
