"""Intervals hold the truth and tests claim nothing that is not there: short runs of the simulation of docs/reports.md."""

from __future__ import annotations

import numpy as np
import pytest

from smope_bench.reports.statistics import simulation
from smope_bench.reports.statistics.simulation import SEEDS, World, coverage, false_claims


@pytest.mark.parametrize("accuracy", [50.0, 90.0, 99.0])
def test_the_made_up_world_has_the_accuracy_that_it_names(accuracy: float) -> None:
    world = World(accuracy, 0.3, 10_000)
    found = world.runs(np.random.default_rng(0).standard_normal(20_000), np.random.default_rng(1))
    assert found.mean() == pytest.approx(accuracy, abs=0.02)


@pytest.mark.parametrize("seeds", SEEDS)
def test_intervals_hold_the_truth(seeds: int) -> None:
    held = [coverage(World(at, by, 10_000), seeds, 1_500, np.random.default_rng(0)) for at, by in ((50, 2), (99, 0.3))]
    # 93 to 97 %, and three standard errors of 1,500 experiments.
    assert all(0.93 - 0.017 <= share <= 0.97 + 0.013 for share in held), held


def test_a_wrong_interval_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def narrow(values: object, _: object) -> object:
        found = summarise(values)  # type: ignore[arg-type]
        assert found is not None and found.std is not None
        reach = 1.96 * found.std / np.sqrt(found.n)
        return type(found)(found.n, found.mean, found.std, found.mean - reach, found.mean + reach)

    summarise = simulation.summarise
    monkeypatch.setattr(simulation, "summarise", narrow)
    assert coverage(World(50, 2, 10_000), 3, 1_500, np.random.default_rng(0)) < 0.9


def test_differences_that_are_not_there_are_rarely_claimed() -> None:
    claimed = [false_claims(World(90, 1, 10_000), seeds, 8, 300, np.random.default_rng(0)) for seeds in (5, 10)]
    assert all(share <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300) for share in claimed), claimed
