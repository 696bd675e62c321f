"""The bench of sweeps measures what it says: dispatch by real workers, and overhead as all that is not arithmetic or I/O."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from smope_bench.benchmarks.stream import View
from smope_bench.harness.errors import UserError
from smope_bench.harness.execution.scheduler import OnUpdate, RunStatus
from smope_bench.harness.planning.planner import PlannedRun
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.run_options import RunOptions
from smope_bench.harness.run_spec import RunSpec
from smope_bench.harness.timing.claims import sweep as bench_overhead
from smope_bench.harness.timing.claims import sweep as bench_runners
from smope_bench.harness.timing.claims import sweep as bench_sweep
from smope_bench.harness.timing.claims.sweep import (
    FUNCTIONS,
    HOOKS,
    PLACES,
    Clock,
    RunTime,
    SweepBench,
    clocked,
    first_trained,
    noise_spec,
    timed_run,
)
from smope_bench.harness.training.optimization import OptimizationSegment
from smope_bench.methods.baselines.linear_probe import LinearProbe
from smope_bench.methods.baselines.ncm import Ncm
from smope_bench.methods.common.api import Batch, Method
from smope_bench.methods.common.backbone.backbones import MICRO
from tests.forked import forked_workers  # pyright: ignore[reportMissingImports]

NAP, RUN_S = 0.05, 0.001


def bench(folder: Path, repeats: int = 1) -> SweepBench:
    return SweepBench(folder, "cpu", threads=1, workers=2, repeats=repeats)


class Hands:
    """A clock that is moved by hand, in the place of the module ``time``."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_the_clock_counts_nested_calls_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hands = Hands()
    monkeypatch.setattr(bench_overhead, "time", hands)
    clock = Clock()
    inner = clock.timed(lambda: hands.sleep(NAP))
    clock.timed(lambda: (inner(), inner()))()
    hands.sleep(NAP)
    assert clock.seconds == pytest.approx(2 * NAP)


def test_the_clock_is_taken_off_again() -> None:
    places: list[tuple[Any, str]] = [
        (OptimizationSegment, "descend"),
        (View, "take"),
        (torch.Tensor, "item"),
        (LinearProbe, "predict"),
    ]
    before = [owner.__dict__.get(name) for owner, name in places]
    with clocked(LinearProbe):
        assert all(owner.__dict__.get(name) is not old for (owner, name), old in zip(places, before, strict=True))
    assert [owner.__dict__.get(name) for owner, name in places] == before
    assert not any(
        name in LinearProbe.__dict__ for name in HOOKS if getattr(LinearProbe, name) is getattr(Method, name)
    )


def test_everything_that_is_no_overhead_is_found() -> None:
    import smope_bench.harness.training.trainer  # noqa: F401

    lost = [f"{owner.__name__}.{name}" for owner, names in PLACES for name in names if not hasattr(owner, name)]
    lost += [
        f"{module}.{name}" for module, names in FUNCTIONS for name in names if not hasattr(sys.modules[module], name)
    ]
    assert not lost, f"renamed? harness/timing/claims/sweep.py counts {lost} as overhead now"


def test_functions_are_timed_where_the_harness_has_imported_them() -> None:
    from smope_bench.harness.training import trainer

    plain = trainer.load_backbone
    with clocked(LinearProbe):
        assert trainer.load_backbone is not plain, "counted as overhead"
    assert trainer.load_backbone is plain


def test_hooks_that_a_method_leaves_alone_stay_alone() -> None:
    with clocked(LinearProbe):
        assert LinearProbe.fit_task is Method.fit_task
    with clocked(Ncm):
        assert Ncm.training_step is Method.training_step and Ncm.fit_task is not Method.fit_task


def test_time_in_hooks_is_no_overhead_and_time_around_them_is(
    registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hands = Hands()  # of it, all the run's other work takes no time
    monkeypatch.setattr(bench_overhead, "time", hands)
    spec = noise_spec("linear_probe", MICRO, registries)
    original, steps, events = LinearProbe.training_step, list[int](), list[str]()

    def slow(self: LinearProbe, batch: Batch) -> Tensor:
        steps.append(1)
        hands.sleep(NAP)
        return original(self, batch)

    def listen(event: dict[str, Any]) -> None:
        events.append(event["event"])
        if event["event"] == "task_evaluated":
            hands.sleep(5 * NAP)

    monkeypatch.setattr(LinearProbe, "training_step", slow)
    found = timed_run(spec, registries, tmp_path, "cpu", listen)
    assert "run_finished" in events and len(steps) == 2 * 4
    assert found.inside == pytest.approx(len(steps) * NAP)
    assert found.wall - found.inside == pytest.approx(2 * 5 * NAP), "two tasks"
    assert found.percent == pytest.approx(100 * 10 / (len(steps) + 10))


class Pretended:
    """Stands for the executor: notes what it is asked for, and says that every run is done, all on a clock of its own."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, str]] = []
        self.executors: set[str] = set()
        self.hands = Hands()

    def __call__(self, planned: Sequence[PlannedRun], options: RunOptions, on_update: OnUpdate) -> Iterator[RunStatus]:
        workers = options.workers or 0
        self.asked.append((len({run.run_id for run in planned}), workers, options.runner))
        self.executors.add(options.executor)
        self.hands.sleep(NAP * workers)
        for run in planned:
            on_update(run, {"event": "run_started"})
            self.hands.sleep(RUN_S / workers)
            yield RunStatus(run, "done")


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Pretended:
    made = Pretended()
    monkeypatch.setattr(bench_sweep, "execute", made)
    monkeypatch.setattr(bench_sweep, "time", made.hands)
    return made


def test_runs_are_dispatched_to_one_worker_and_to_several(tmp_path: Path, pretended: Pretended) -> None:
    rows = {row.name: row.measures for row in bench(tmp_path, repeats=2).dispatch(8)}
    assert list(rows) == ["empty runs, 1 worker", "empty runs, 2 workers", "runs that compute for 50 ms, 2 workers"]
    ms = [rows[name]["ms_a_run"].median for name in list(rows)[:2]]
    assert ms == pytest.approx([1000 * RUN_S, 500 * RUN_S])
    assert rows["runs that compute for 50 ms, 2 workers"]["times_one_worker"].median == pytest.approx(2)
    empty, busy = (
        "smope_bench.harness.timing.claims.sweep:empty_run",
        "smope_bench.harness.timing.claims.sweep:busy_run",
    )
    one, two = bench_sweep.COMPUTING_RUNS, 2 * bench_sweep.COMPUTING_RUNS
    assert pretended.asked == [
        (8, 2, empty),
        *[(8, 1, empty), (8, 2, empty)] * 2,
        (two, 2, busy),
        *[(one, 1, busy), (two, 2, busy)] * 2,
    ], "a warm-up, then in turn"
    assert pretended.executors == {"local"}, "one worker goes the same way as several"


def test_empty_runs_go_through_the_real_executor(tmp_path: Path) -> None:
    with forked_workers():
        found = bench(tmp_path)._dispatched(4, 1, "empty_run")  # pyright: ignore[reportPrivateUsage]
    assert 0 < found.start <= found.wall and found.each > 0


def test_the_pace_is_that_of_the_middle() -> None:
    assert bench_sweep._pace([5, 5.5, 6, 6.5, 7, 7.5, 8, 20]) == 0.5  # pyright: ignore[reportPrivateUsage]
    assert bench_sweep._pace([1, 3]) == 2  # pyright: ignore[reportPrivateUsage]


def test_a_failing_run_ends_the_measurement(tmp_path: Path) -> None:
    with forked_workers(), pytest.raises(UserError, match="a run of the bench is failed"):
        bench(tmp_path)._dispatched(2, 1, "absent")  # pyright: ignore[reportPrivateUsage]


def test_computing_keeps_a_core_busy() -> None:
    started = time.process_time()
    bench_runners.busy_run()
    assert time.process_time() - started >= bench_runners.COMPUTED_S


def test_all_parts_are_reported(
    registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pretended: Pretended
) -> None:
    specs: list[RunSpec] = []

    def pretend_run(spec: RunSpec, *_: object) -> RunTime:
        specs.append(spec)
        return RunTime(wall=2.0, inside=1.5)

    monkeypatch.setattr(bench_sweep, "open_registries", lambda _: registries)
    monkeypatch.setattr(bench_sweep, "timed_run", pretend_run)
    prepared: list[str] = []
    monkeypatch.setattr(bench_sweep, "prepare_benchmarks", lambda runs, *_: prepared.extend(run.run_id for run in runs))
    rows = bench(tmp_path).rows(["ncm"], MICRO, 4)
    overheads = ["overhead: ncm on digits, tiny", f"overhead: ncm on noise, {MICRO.name}"]
    assert [row.name for row in rows][-3:] == [*overheads, "4 small runs, 2 workers"]
    assert {measure: found.median for measure, found in rows[-2].measures.items()} == {
        "percent": 25,
        "ms": 500,
        "run_s": 2,
    }
    assert [spec.backbone.name for spec in specs] == ["tiny", "tiny", MICRO.name], "a small run warms up"
    packing = rows[-1].measures
    start, alone = NAP, 4 * RUN_S
    assert packing["times_one_worker"].median == pytest.approx((start + alone) / (2 * start + alone / 2))
    assert packing["times_one_worker_once_started"].median == pytest.approx(2)
    assert pretended.asked[-3:] == [(4, side, RunOptions.runner) for side in (2, 1, 2)]
    assert rows[-1].note == "1 repeat, one worker and several in turn, after a warm-up"
    assert len(prepared) == 4 and first_trained(registries) in registries.methods.names()
