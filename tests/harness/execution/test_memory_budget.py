"""Which runs share a machine's memory, with made-up peaks."""

from pathlib import Path
from typing import Any

import pytest

from smope_bench.harness.execution import memory_budget as packing
from smope_bench.harness.execution.job import Job
from smope_bench.harness.execution.memory_budget import MemoryEstimator, Queue, workers_that_fit
from smope_bench.harness.hardware import memory
from smope_bench.harness.hardware.memory import free_mb, oom_kills, resident_mb, total_mb
from smope_bench.harness.records.record import Record
from smope_bench.harness.run_spec import BackboneRef, Component, RunSpec

SPEC = RunSpec(
    method=Component(name="m"), benchmark=Component(name="b"), backbone=BackboneRef(name="x", sha256="0"), schedule={}
)


def job(name: str, memory_mb: float = 0.0) -> Job:
    return Job(name, SPEC, memory_mb=memory_mb)


def spec(method: str, backbone: str, benchmark: str, batch: int = 8, precision: str = "fp32") -> dict[str, Any]:
    named = {"method": {"name": method}, "backbone": {"name": backbone}, "benchmark": {"name": benchmark}}
    return {**named, "schedule": {"batch_size": batch}, "precision": precision}


def record(of: dict[str, Any], peak: Any, device: str = "cpu", **costs: str) -> Record:
    return Record("id", {"spec": of, "costs": {"peak_memory_mb": peak, **costs}, "provenance": {"device": device}})


def packed(queue: Queue, slots: int) -> list[list[str]]:
    """Waves of runs that are in flight together where every wave ends before the next begins."""
    waves = []
    while True:
        wave: list[Job] = []
        while len(wave) < slots and (found := queue.take(wave)) is not None:
            wave.append(found)
        if not wave:
            return waves
        waves.append([one.run_id for one in wave])


def test_no_more_are_in_flight_than_memory_holds() -> None:
    jobs = [job("a", 600), job("b", 600), job("c", 300), job("d", 100)]
    assert packed(Queue(jobs, 1000), 3) == [["a", "c", "d"], ["b"]]
    assert packed(Queue(jobs, None), 3) == [["a", "b", "c"], ["d"]]


def test_a_run_that_fits_nowhere_gets_the_machine_to_itself() -> None:
    jobs = [job("small", 100), job("huge", 5000), job("other", 100)]
    assert packed(Queue(jobs, 1000), 2) == [["small", "other"], ["huge"]]


def test_runs_of_which_nothing_is_known_are_not_held_back() -> None:
    assert packed(Queue([job("a"), job("b"), job("c")], 10), 2) == [["a", "b"], ["c"]]


def test_what_may_have_lacked_memory_is_tried_again_alone() -> None:
    queue = Queue([job("a"), job("b"), job("c")])
    first = queue.take([])
    assert first is not None
    queue.put_back(first, alone=True)
    b = queue.take([])
    assert b is not None and b.run_id == "b"
    c = queue.take([b])
    assert c is not None and c.run_id == "c" and queue.take([b, c]) is None and queue.take([c]) is None
    again = queue.take([])
    assert again is not None and again.run_id == "a"
    queue.put_back(job("d"), alone=False)
    assert queue.take([again]) is None, "nothing starts beside it"


def test_what_died_of_something_else_is_tried_again_at_once() -> None:
    queue = Queue([job("a"), job("b")])
    first = queue.take([])
    assert first is not None
    queue.put_back(first, alone=False)
    assert packed(queue, 2) == [["a", "b"]]


@pytest.mark.parametrize(
    ("peaks", "budget", "workers"),
    [([100, 100, 100], 250, 2), ([100], 10, 1), ([], 10, 1), ([10, 900, 10], 915, 2), ([0, 0, 0], 1, 3)],
)
def test_workers_that_fit_whichever_runs_they_get(peaks: list[float], budget: float, workers: int) -> None:
    assert workers_that_fit(peaks, budget) == workers


def test_peaks_are_of_the_same_kind_else_of_the_backbone() -> None:
    records = [
        record(spec("m", "x", "b"), 700.0),
        record(spec("m", "x", "b"), 650.0),
        record(spec("n", "x", "b"), 900.0),
        record(spec("m", "x", "b"), 9.0, "cuda:0"),
        record(spec("m", "y", "b"), "much"),
        record({"method": "forged"}, 5000.0),
    ]
    peaks = MemoryEstimator(records, "cpu")
    assert peaks.measured(spec("m", "x", "b")) == 700.0
    assert peaks.measured(spec("other", "x", "b")) == 900.0
    assert peaks.measured(spec("m", "y", "b")) is None
    assert MemoryEstimator(records, "cuda").measured(spec("m", "x", "b")) == 9.0 + packing.CUDA_BASE_MB
    assert peaks.guessed(344.0) == packing.CPU_BASE_MB + packing.COPIES * 344.0


def test_peaks_of_other_batches_and_precisions_tell_nothing() -> None:
    peaks = MemoryEstimator([record(spec("m", "x", "b", 8), 700.0), record(spec("n", "x", "b", 128), 9000.0)], "cpu")
    assert [peaks.measured(spec("m", "x", "b", batch)) for batch in (8, 128, 64)] == [700.0, 9000.0, None]
    assert peaks.measured(spec("m", "x", "b", 8, "bf16")) is None


def test_a_run_that_made_do_with_less_memory_tells_nothing() -> None:
    short = record(spec("m", "x", "b"), 300.0, memory_plan="1 image at a time")
    assert MemoryEstimator([short], "cpu").measured(spec("m", "x", "b")) is None
    assert MemoryEstimator([short, record(spec("m", "x", "b"), 700.0)], "cpu").measured(spec("m", "x", "b")) == 700.0


def limit(group: Path, limit: str, used_mb: int, cache_mb: int = 0) -> None:
    group.mkdir(parents=True, exist_ok=True)
    (group / "memory.max").write_text(f"{limit}\n")
    (group / "memory.current").write_text(f"{used_mb * 2**20}\n")
    (group / "memory.stat").write_text(f"anon 1\ninactive_file {cache_mb * 2**20}\n")


def test_a_container_s_limit_is_the_machine_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "OWN_CGROUP", tmp_path / "untold")
    monkeypatch.setattr(memory, "CGROUP", tmp_path / "none")
    unlimited, group = free_mb("cpu"), tmp_path / "group"
    limit(group, str(64 * 2**20), 40, 16)
    monkeypatch.setattr(memory, "CGROUP", group)
    assert (free_mb("cpu"), total_mb()) == (40.0, 64.0) and unlimited > 40
    limit(group, "max", 40, 16)
    assert free_mb("cpu") > 40


@pytest.mark.parametrize(
    ("own", "free", "total"),
    [
        ("0::/system/job_7/step_0", 24.0, 32.0),
        ("1:name=systemd:/x\n0::/system", 59.0, 64.0),
        ("0::/../../elsewhere", 59.0, 64.0),
        ("", 59.0, 64.0),
    ],
)
def test_the_least_limit_of_all_groups_around_counts(
    own: str, free: float, total: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a batch system nests them: the job is limited, its step is not."""
    limit(tmp_path / "group", str(64 * 2**20), 5)
    limit(tmp_path / "group" / "system", "max", 5)
    limit(tmp_path / "group" / "system" / "job_7", str(32 * 2**20), 8)
    limit(tmp_path / "group" / "system" / "job_7" / "step_0", "max", 8)
    (tmp_path / "own").write_text(f"{own}\n")
    monkeypatch.setattr(memory, "CGROUP", tmp_path / "group")
    monkeypatch.setattr(memory, "OWN_CGROUP", tmp_path / "own")
    assert (free_mb("cpu"), total_mb()) == (free, total)


def test_kills_for_want_of_memory_are_counted_where_the_system_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    monkeypatch.setattr(memory, "OWN_CGROUP", tmp_path / "own")
    monkeypatch.setattr(memory, "VMSTAT", tmp_path / "vmstat")
    assert oom_kills() is None
    (tmp_path / "memory.events").write_text("low 0\noom 5\noom_kill 2\n")
    (tmp_path / "vmstat").write_text("nr_free_pages 10\noom_kill 3\n")
    assert oom_kills() == 5
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "memory.events").write_text("oom_kill 1\n")
    (tmp_path / "own").write_text("0::/job\n")
    assert oom_kills() == 4, "kills in other groups are none of ours"


def test_what_a_process_holds() -> None:
    import os

    assert resident_mb(os.getpid()) > 10
    assert resident_mb(2**22 + 1) == 0.0
