"""Published and own grids name settings that exist, and the tiny recipes are the best of the committed search."""

from __future__ import annotations

import csv
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from smope_bench.benchmarks.suites import SUITES
from smope_bench.harness.registry.registry import Registries
from smope_bench.methods import BUILTIN
from smope_bench.methods.recipes.search_grids import GRIDS, find_grid


def test_grids_are_published_or_labelled_ours() -> None:
    published = find_grid("smope")
    assert published.values["epsilon"] == (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    assert published.values["alpha_router"] == published.values["alpha_proto"] == (5e-6, 1e-5, 5e-5, 1e-4, 5e-4, 1e-3)
    assert set(GRIDS) == set(BUILTIN)
    assert [grid.method for grid in GRIDS.values() if not grid.source.startswith("ours")] == ["smope"]


@pytest.mark.parametrize("method", sorted(GRIDS))
def test_every_value_of_a_grid_is_a_setting(method: str, registries: Registries) -> None:
    from smope_bench.methods.common.schedules import Schedule

    config = registries.methods.load(method).Config
    for key, values in GRIDS[method].values.items():
        owner = config if key in config.model_fields else Schedule
        assert [getattr(owner(**{key: value}), key) for value in values] == list(values)


LOG = Path(__file__).parents[3] / "docs" / "tiny-search.csv"
RATES = {"digits": {0.0015, 0.005, 0.015, 0.045}, "glyphs": {0.005, 0.015, 0.045}}
WIDER = {("cpg", "digits"): {0.135}, ("cpg", "glyphs"): {0.135, 0.405}, ("sd_lora", "glyphs"): {0.135}}
WIDER |= {
    (method, "emoji_r"): {0.03} for method in ("smope", "ovor", "vq_prompt", "one_prompt", "linear_probe", "joint")
}
WIDER |= {("joint_head", "emoji_r"): {0.03}, ("norga", "emoji_r"): {0.005}, ("sd_lora", "emoji_r"): {0.005}}
WIDER |= {("ranpac", "emoji_r"): {0.03, 0.09}, ("ease", "emoji_r"): {0.41, 1.2}}
"""Rates beyond the grid that were tried because the best trial of a method lay at its edge."""
TIED = {("ease", "digits")}
"""Searches whose trials all came out the same, so that the official rate stays."""


def searched(benchmark: str) -> dict[str, list[tuple[float, str, Any, float]]]:
    """The committed log: by method, (rate, key, value, held-out FAA) of each trial."""
    methods, found = {row.label: row.method for row in SUITES["smoke"].rows}, dict[str, list[Any]]()
    with LOG.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["benchmark"] == benchmark:
                rate, (key, value) = (text.split("=") for text in row["settings"].split())
                trial = (float(rate[1]), key, float(value), float(row["held_out_faa"] or 0))  # empty: it diverged
                found.setdefault(methods[row["row"]], []).append(trial)
    return found


@pytest.mark.parametrize("benchmark", RATES)
def test_every_method_got_the_same_number_of_trials(benchmark: str) -> None:
    found = searched(benchmark)
    assert found.keys() == GRIDS.keys() - {"ncm", "ridge"}, "all that train"
    for method, trials in found.items():
        rates = RATES[benchmark] | WIDER.get((method, benchmark), set())
        (key,) = {key for _, key, _, _ in trials}
        values = {value for _, _, value, _ in trials}
        assert {(rate, value) for rate, _, value, _ in trials} == set(product(rates, values))
        assert len(values) == 2 and len(trials) == 2 * len(rates), key


@pytest.mark.parametrize("benchmark", RATES)
def test_our_grids_vary_what_the_tiny_search_varied(benchmark: str) -> None:
    for method, trials in searched(benchmark).items():
        grid = find_grid(method)
        if grid.rate_factors:
            assert {(key, value) for _, key, value, _ in trials} == {
                (key, value) for key, values in grid.values.items() for value in values
            }


@pytest.mark.parametrize("benchmark", RATES)
def test_the_tiny_recipes_are_the_best_of_the_committed_log(benchmark: str, registries: Registries) -> None:
    from smope_bench.methods.common.schedules import Schedule
    from smope_bench.methods.recipes import find_recipe

    for method, trials in searched(benchmark).items():
        if (method, benchmark) in TIED:
            assert len({faa for *_, faa in trials}) == 1
            continue
        recipe = find_recipe(method, benchmark, "tiny", own=False)
        key = trials[0][1]
        config = registries.methods.load(method).Config(**recipe.config)
        value = getattr(config, key, None)
        value = getattr(Schedule(**recipe.schedule), key) if value is None else value
        best = max(faa for _, _, _, faa in trials)
        assert best == max(faa for rate, _, tried, faa in trials if (rate, tried) == (recipe.schedule["lr"], value))


def test_on_emoji_the_recipes_are_those_of_glyphs_with_the_best_trial_of_the_log(registries: Registries) -> None:
    from smope_bench.methods.recipes import find_recipe
    from smope_bench.methods.recipes.tiny import EMOJI, EMOJI_SEARCHED

    found = searched("emoji_r")
    assert found.keys() == EMOJI_SEARCHED.keys() == GRIDS.keys() - {"ncm", "ridge"}
    for method, trials in found.items():
        there, here = find_recipe(method, "emoji_r", "tiny_colour"), find_recipe(method, "glyphs", "tiny")
        (key,) = {key for _, key, _, _ in trials}
        rates, values = {rate for rate, *_ in trials}, {value for _, _, value, _ in trials}
        assert len(values) == 2 and len(rates) == 3 + len(WIDER.get((method, "emoji_r"), set()))
        assert {(rate, value) for rate, _, value, _ in trials} == set(product(rates, values))
        chosen = {**here.schedule, **here.config, **there.schedule, **there.config}
        assert {**here.schedule, **here.config, **EMOJI, **EMOJI_SEARCHED[method]} == chosen and not there.is_inferred
        best = max(faa for *_, faa in trials)
        assert best == max(faa for rate, _, value, faa in trials if (rate, value) == (chosen["lr"], chosen[key]))
