import io
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from smope_bench.harness.errors import UserError
from smope_bench.harness.execution import memory_budget as packing
from smope_bench.harness.execution.launcher import (
    LaunchSummary,
    expected_memory,
    find_executor,
    fitted_options,
    print_summary,
)
from smope_bench.harness.execution.scheduler import RunStatus
from smope_bench.harness.hardware import device as hardware
from smope_bench.harness.hardware import memory as hardware_memory
from smope_bench.harness.planning.planner import PlannedRun
from smope_bench.harness.records.record import Record
from smope_bench.harness.records.store import Store
from smope_bench.harness.registry.registry import Registries, Registry
from smope_bench.harness.run_options import RunOptions
from smope_bench.harness.run_spec import BackboneRef, Component, RunSpec


@dataclass(frozen=True)
class Backbone:
    weight_count: int

    def at(self, data: Path) -> "Backbone":
        return self

    def adapted(self, settings: object) -> "Backbone":
        return self


def planned(backbone: str, seed: int = 0) -> PlannedRun:
    part = Component(name="x")
    spec = RunSpec(
        method=part,
        benchmark=part,
        backbone=BackboneRef(name=backbone, sha256="0"),
        schedule={},
        order_seed=seed,
        train_seed=0,
    )
    return PlannedRun(suite="s", row="[A]", method="x", benchmark="x", spec=spec)


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch) -> Registries:
    monkeypatch.setattr(hardware, "usable_cores", lambda: 8)
    backbones = Registry("backbone", {})
    backbones.add("small", "test", Backbone(1_000_000))
    backbones.add("large", "test", Backbone(80 * 2**20))
    return Registries(Registry("method", {}), Registry("benchmark", {}), backbones)


ASKED = RunOptions(Path("results"), Path("data"), "auto")


def test_tiny_runs_take_one_thread_whatever_the_workers(registries: Registries) -> None:
    runs = [planned("small", seed) for seed in range(20)]
    assert [
        (options.workers, options.threads)
        for workers in (None, 1, 3, 99)
        for options in [fitted_options(replace(ASKED, workers=workers), "cpu", runs, registries)]
    ] == [(8, 1), (1, 1), (3, 1), (20, 1)]


def test_large_runs_take_threads_that_do_not_follow_from_the_workers(registries: Registries) -> None:
    runs = [planned("small"), planned("large")]
    options = fitted_options(ASKED, "cpu", runs, registries)
    assert (options.workers, options.threads) == (2, 4)
    assert {fitted_options(replace(ASKED, workers=workers), "cpu", runs, registries).threads for workers in (1, 2)} == {
        4
    }
    assert fitted_options(replace(ASKED, threads=3), "cpu", runs, registries).threads == 3
    assert fitted_options(ASKED, "cuda", runs, registries).workers == 1


def test_the_outcome_goes_to_stdout_and_failures_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    failure = RunStatus(planned("small"), "failed", "no [space] left")
    print_summary(Console(file=out, width=100), LaunchSummary(3, 2, (failure,), 61.0))
    assert out.getvalue() == "2 of 3 runs finished in 1:01 min.\n"
    assert capsys.readouterr().err == "failed: [A] · x · seed 0: no [space] left\n"
    print_summary(Console(file=out, width=100), LaunchSummary(0, 3))
    assert out.getvalue().count("\n") == 1


def test_no_more_workers_than_memory_holds(registries: Registries, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware_memory, "free_mb", lambda device: 1000.0)
    runs = [planned("small", seed) for seed in range(6)]
    memory = {run.run_id: 250.0 for run in runs}
    fitted = fitted_options(ASKED, "cpu", runs, registries, memory)
    assert (fitted.workers, fitted.memory_mb) == (3, 900.0)
    by_hand = fitted_options(replace(ASKED, workers=5), "cpu", runs, registries, memory)
    assert (by_hand.workers, by_hand.memory_mb) == (5, 900.0), "as many as were asked for, as far as they fit"
    assert fitted_options(ASKED, "cuda", runs, registries, memory).workers == 1
    serial = replace(ASKED, workers=4, executor="serial")
    assert (fitted_options(serial, "cpu", runs, registries, memory, one_by_one=True).workers) == 1


def test_what_runs_need_is_measured_else_reckoned_else_unknown(
    registries: Registries, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = planned("small").spec.model_dump()
    result = {"spec": spec, "costs": {"peak_memory_mb": 700.0}, "provenance": {"device": "cpu"}}
    monkeypatch.setattr(Store, "scan", lambda self: iter([Record("id", result)]))
    runs = [planned("small"), planned("large")]
    asked = expected_memory(ASKED, "cpu", runs, registries)
    assert asked == {runs[0].run_id: 700.0, runs[1].run_id: packing.CPU_BASE_MB + packing.COPIES * 320.0}
    given = expected_memory(replace(ASKED, workers=2), "cpu", runs, registries)
    assert given == {runs[0].run_id: 700.0, runs[1].run_id: 0.0}


def test_all_that_is_said_of_how_to_run_arrives(registries: Registries) -> None:
    given = {"executor": "slurm", "slurm": ("partition=gpu",), "gpus_per_run": 0.5, "deterministic": True}
    asked = replace(ASKED, **given, checkpoint_every_s=60.0)
    options = fitted_options(asked, "cpu", [planned("small")], registries)
    assert options == replace(asked, device="cpu", workers=1, threads=1)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"address": "head:6379"}, "--address head:6379 is of a Ray cluster: add --executor ray"),
        ({"slurm": ("a=b",)}, "--slurm a=b is for a batch system: add --executor slurm"),
        ({"executor": "slurmm"}, "unknown executor 'slurmm'; did you mean 'slurm'?"),
    ],
)
def test_settings_of_another_executor_and_unknown_ones_are_mistakes(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        find_executor(replace(ASKED, **given))


def test_each_executor_takes_its_own_settings() -> None:
    assert find_executor(replace(ASKED, executor="ray", address="head:6379")).name == "ray"
    assert find_executor(replace(ASKED, executor="slurm", slurm=("a=b",))).name == "slurm"
