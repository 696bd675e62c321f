"""Which runs share a machine's memory, with made-up peaks."""

from pathlib import Path
from typing import Any

import pytest

from harness import packing
from harness.jobs import Job
from harness.packing import Peaks, Queue, free_mb, oom_kills, resident_mb, total_mb, workers_that_fit
from harness.spec import BackboneRef, Component, RunSpec
from harness.store import Record

SPEC = RunSpec(
    method=Component(name="m"), benchmark=Component(name="b"), backbone=BackboneRef(name="x", sha256="0"), schedule={}
)


def job(name: str, memory_mb: float = 0.0) -> Job:
    return Job(name, SPEC, memory_mb=memory_mb)


def record(method: str, backbone: str, benchmark: str, peak: Any, device: str = "cpu") -> Record:
    spec = {"method": {"name": method}, "backbone": {"name": backbone}, "benchmark": {"name": benchmark}}
    result = {"spec": spec, "costs": {"peak_memory_mb": peak}, "provenance": {"device": device}}
    return Record("id", result)


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
        record("m", "x", "b", 700.0),
        record("m", "x", "b", 650.0),
        record("n", "x", "b", 900.0),
        record("m", "x", "b", 9.0, "cuda:0"),
        record("m", "y", "b", "much"),
    ]
    peaks = Peaks(records, "cpu")
    assert peaks.measured("m", "x", "b") == 700.0
    assert peaks.measured("other", "x", "b") == 900.0
    assert peaks.measured("m", "y", "b") is None
    assert Peaks(records, "cuda").measured("m", "x", "b") == 9.0 + packing.CUDA_BASE_MB
    assert peaks.guessed(344.0) == packing.CPU_BASE_MB + packing.COPIES * 344.0


def test_a_container_s_limit_is_the_machine_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "CGROUP", tmp_path / "none")
    unlimited = free_mb("cpu")
    group = tmp_path / "group"
    group.mkdir()
    (group / "memory.max").write_text(f"{64 * 2**20}\n")
    (group / "memory.current").write_text(f"{40 * 2**20}\n")
    (group / "memory.stat").write_text(f"anon 1\ninactive_file {16 * 2**20}\n")
    monkeypatch.setattr(packing, "CGROUP", group)
    assert (free_mb("cpu"), total_mb()) == (40.0, 64.0) and unlimited > 40
    (group / "memory.max").write_text("max\n")
    assert free_mb("cpu") > 40


def test_kills_for_want_of_memory_are_counted_where_the_system_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "CGROUP", tmp_path)
    monkeypatch.setattr(packing, "VMSTAT", tmp_path / "vmstat")
    assert oom_kills() is None
    (tmp_path / "memory.events").write_text("low 0\noom 5\noom_kill 2\n")
    (tmp_path / "vmstat").write_text("nr_free_pages 10\noom_kill 3\n")
    assert oom_kills() == 5


def test_what_a_process_holds() -> None:
    import os

    assert resident_mb(os.getpid()) > 10
    assert resident_mb(2**22 + 1) == 0.0
