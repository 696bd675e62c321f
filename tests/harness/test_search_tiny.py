"""The search behind the tiny recipes: equal budgets, no test image, seeds that no suite uses."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks.stream import build_stream
from benchmarks.suites import SEARCH_GRID, SUITES
from harness import search_tiny
from harness.registry import open_registries
from harness.search_tiny import HOLDOUT, RATES, SEED, Trial, rates_of, run_trial, trials

DOCS = Path(__file__).parents[2] / "docs"


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
    scored: list[np.ndarray] = []
    original = search_tiny.replace

    def noted(stream, **changes):  # type: ignore[no-untyped-def]
        scored.extend(view.rows for view in changes["tests"])
        return original(stream, **changes)

    monkeypatch.setattr(search_tiny, "replace", noted)
    entry = run_trial(Trial("digits", "Linear probe", ("lr=0.01", "epochs=1"), tmp_path))
    assert 0 < float(entry["held_out_faa"]) <= 100
    stream = build_stream(opened, SEED, holdout=HOLDOUT, holdout_seed=SEED)
    kept = np.concatenate([task.train.rows for task in stream.tasks])
    assert not set(np.concatenate(scored)) & set(kept)
    assert len(np.concatenate(scored)) + len(kept) == len(opened.image_set("train").images)


@pytest.mark.parametrize("benchmark", ["digits", "glyphs"])
def test_the_recipes_are_the_best_of_the_committed_log(benchmark: str) -> None:
    from methods.common.schedules import Schedule
    from methods.recipes import find_recipe

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
