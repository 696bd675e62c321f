import io
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from rich.console import Console

from harness import execute
from harness.execute import RunStatus
from harness.plan import PlannedRun
from harness.registry import Registries, Registry
from harness.spec import BackboneRef, Component, RunSpec
from harness.sweep import Asked, Outcome, fitted_options, print_outcome


@dataclass(frozen=True)
class Backbone:
    is_tiny: bool


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
    monkeypatch.setattr(execute, "usable_cores", lambda: 8)
    backbones = Registry("backbone", {})
    backbones.add("small", "test", Backbone(True))
    backbones.add("large", "test", Backbone(False))
    return Registries(Registry("method", {}), Registry("benchmark", {}), backbones)


ASKED = Asked(["s"], Path("results"), Path("data"))


def test_tiny_runs_take_one_thread_whatever_the_workers(registries: Registries) -> None:
    runs = [planned("small", seed) for seed in range(20)]
    assert [
        (options.workers, options.threads)
        for workers in (None, 1, 3, 99)
        for options in [fitted_options(replace(ASKED, workers=workers), "cpu", runs, registries)]
    ] == [(8, 1), (1, 1), (3, 1), (20, 1)]


def test_large_runs_share_the_cores(registries: Registries) -> None:
    runs = [planned("small"), planned("large")]
    options = fitted_options(ASKED, "cpu", runs, registries)
    assert (options.workers, options.threads) == (2, 4)
    assert fitted_options(replace(ASKED, threads=3), "cpu", runs, registries).threads == 3
    assert fitted_options(ASKED, "cuda", runs, registries).workers == 1


def test_the_outcome_goes_to_stdout_and_failures_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    failure = RunStatus(planned("small"), "failed", "no [space] left")
    print_outcome(Console(file=out, width=100), Outcome(3, 2, (failure,), 61.0))
    assert out.getvalue() == "2 of 3 runs finished in 1:01 min.\n"
    assert capsys.readouterr().err == "failed: [A] · x · seed 0: no [space] left\n"
    print_outcome(Console(file=out, width=100), Outcome(0, 3))
    assert out.getvalue().count("\n") == 1
