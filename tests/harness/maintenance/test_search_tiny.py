"""The search behind the tiny recipes: equal budgets, no test image, seeds that no suite uses."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest

from smope_bench.benchmarks.suites import SEARCH_GRID, SUITES
from smope_bench.harness.maintenance.search_tiny import RATES, SEED, Trial, rates_of, run_trial, trials
from smope_bench.harness.registry.registry import open_registries

DOCS = Path(__file__).parents[3] / "docs"


def test_every_method_gets_the_same_number_of_trials() -> None:
    counts = Counter(trial.row for trial in trials("digits", Path("data"), (), RATES))
    assert set(counts.values()) == {len(RATES) * 2}
    assert set(counts) == {candidate.row for candidate in SEARCH_GRID}


def test_the_seed_is_no_suites() -> None:
    assert all(SEED not in suite.seeds for suite in SUITES.values())


def test_a_trial_is_scored_on_training_images_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = open_registries().benchmarks.load("digits")
    opened = benchmark(benchmark.Config(), tmp_path)
    opened.prepare()
    asked: list[str] = []
    original = benchmark.image_set
    monkeypatch.setattr(benchmark, "image_set", lambda self, split: asked.append(split) or original(self, split))
    entry = run_trial(Trial("digits", "Linear probe", ("lr=0.01", "epochs=1"), tmp_path))
    assert 0 < float(entry["held_out_faa"]) <= 100
    assert set(asked) == {"train"}


@pytest.mark.parametrize("benchmark", ["digits", "glyphs"])
def test_the_recipes_are_the_best_of_the_committed_log(benchmark: str) -> None:
    from smope_bench.methods.common.schedules import Schedule
    from smope_bench.methods.recipes import find_recipe

    with (DOCS / "tiny-search.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["benchmark"] == benchmark]
    methods = {row.label: row.method for row in SUITES["smoke"].rows}
    for candidate in SEARCH_GRID:
        mine = [row for row in rows if row["row"] == candidate.row]
        assert len(mine) == len(rates_of(benchmark)) * 2
        best = max(float(row["held_out_faa"]) for row in mine)
        recipe = find_recipe(methods[candidate.row], benchmark, "tiny", own=False)
        config = open_registries().methods.load(methods[candidate.row]).Config(**recipe.config)
        value = getattr(config, candidate.key, None)
        value = getattr(Schedule(**recipe.schedule), candidate.key) if value is None else value
        chosen = f"lr={recipe.schedule['lr']} {candidate.key}={value}"
        assert best == max(float(row["held_out_faa"]) for row in mine if row["settings"] == chosen)
