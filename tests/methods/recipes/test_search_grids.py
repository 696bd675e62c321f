"""Published and own grids name settings that exist."""

from __future__ import annotations

import pytest

from smope_bench.benchmarks.suites import SEARCH_GRID, SUITES
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


def test_our_grids_vary_what_the_tiny_search_varied() -> None:
    methods = {row.label: row.method for suite in SUITES.values() for row in suite.rows}
    for candidate in SEARCH_GRID:
        grid = find_grid(methods[candidate.row])
        if grid.rate_factors:
            assert grid.values == {candidate.key: candidate.values}
