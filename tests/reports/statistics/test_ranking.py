"""Ranks, Friedman, Nemenyi and Kendall's W against SciPy, autorank's values and printed examples."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from smope_bench.reports.loading.load import load_suite
from smope_bench.reports.loading.model import SuiteResults
from smope_bench.reports.statistics.ranking import (
    critical_difference,
    friedman,
    kendall_w,
    rank_rows,
    stability,
)

# Demšar (2006), table 6: AUC of four forms of C4.5 on fourteen data sets. Of the last but one, two values
# are printed alike and ranked apart.
DEMSAR = [
    [0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967], [0.628, 0.661, 0.654, 0.657],
    [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931], [0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625],
    [0.775, 0.838, 0.866, 0.875], [1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669],
    [0.972, 0.981, 0.9752, 0.975], [0.957, 0.978, 0.946, 0.970],
]  # fmt: skip
tables = st.tuples(st.integers(2, 6), st.integers(3, 6), st.integers(0, 10**6))


def results_of(factory: Any, values: dict[str, dict[str, dict[tuple[int, int], float]]]) -> SuiteResults:
    """A suite with the FAAs of column -> row -> seeds."""
    for column, rows in values.items():
        for label, runs in rows.items():
            for (order, train), value in runs.items():
                spec = factory.spec(label.lower(), column, order, train, 2)
                factory.publish(label, spec, [[value, None], [value, value]], column=column)
    return load_suite(factory.write(), "smoke", factory.FRESH)


def seeded(*values: float) -> dict[tuple[int, int], float]:
    return {(seed, seed): value for seed, value in enumerate(values)}


def ranks_of(values: Any) -> np.ndarray:
    return scipy_stats.rankdata(-np.asarray(values, dtype=float), axis=1)


@pytest.mark.parametrize(("k", "q"), [(3, 2.343), (4, 2.569), (5, 2.728), (7, 2.949), (10, 3.164)])
def test_critical_values_are_those_of_the_printed_table(k: int, q: float) -> None:
    assert critical_difference(k, 6) == pytest.approx(q * np.sqrt(k * (k + 1) / 36), abs=0.003)


def test_the_worked_example_of_demsar(factory: Any) -> None:
    columns = [
        {
            f"R{i}": {(n, 0): 100 * value for n, value in enumerate(row)}
            for i, row in enumerate(zip(*DEMSAR, strict=True))
        }
    ]
    found = rank_rows(results_of(factory, {"digits": columns[0]}))
    assert found is not None and found.statistic is not None and found.critical is not None
    assert list(found.table.mean_ranks.values()) == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    # The statistic printed there, 9.28, has no correction for ties; its difference of 1.25 is that of Nemenyi's test.
    k, n = 4, 14
    squares = sum(rank**2 for rank in found.table.mean_ranks.values())
    assert 12 * n / (k * (k + 1)) * (squares - k * (k + 1) ** 2 / 4) == pytest.approx(9.28, abs=0.01)
    assert (found.statistic, found.p) == pytest.approx(tuple(scipy_stats.friedmanchisquare(*zip(*DEMSAR, strict=True))))
    assert found.critical == pytest.approx(1.25, abs=0.005)


@pytest.mark.parametrize(
    ("blocks", "rows", "found"),
    [(5, 3, 1.4822885537), (14, 4, 1.2535512603), (30, 10, 2.4731932634), (6, 36, 23.3404982115)],
)
def test_the_critical_difference_agrees_with_autorank(blocks: int, rows: int, found: float) -> None:
    # Values of autorank 1.3.0, which takes the studentised range from an approximation in statsmodels.
    assert critical_difference(rows, blocks) == pytest.approx(found, rel=2e-4)


def test_the_critical_difference_agrees_with_printed_quantiles() -> None:
    # Demšar (2006), table 5 (a): q(0.05) for 2 to 10 rows.
    printed = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]
    found = [critical_difference(rows, 6) / (rows * (rows + 1) / 36) ** 0.5 for rows in range(2, 11)]
    assert found == pytest.approx(printed, abs=1e-3)


def test_three_benchmarks_cannot_tell_ten_methods_apart(factory: Any) -> None:
    rows = {f"R{i}": seeded(80.0 + i) for i in range(10)}
    found = rank_rows(results_of(factory, {"digits": rows, "glyphs": rows, "cubes": rows}))
    assert found is not None and found.critical == pytest.approx(7.82, abs=0.01)
    assert not found.is_useless
    few = rank_rows(results_of(factory, {"digits": dict(itertools.islice(rows.items(), 3)), "glyphs": {}, "cubes": {}}))
    assert few is not None


@settings(max_examples=60)
@given(tables)
def test_friedman_agrees_with_scipy_under_ties(drawn: tuple[int, int, int]) -> None:
    blocks, rows, seed = drawn
    values = np.random.default_rng(seed).integers(0, 4, (blocks, rows)).astype(float)
    statistic, p = friedman(ranks_of(values))
    if kendall_w(ranks_of(values)) is None:
        assert statistic is None and p is None
        return
    expected = scipy_stats.friedmanchisquare(*values.T)
    assert (statistic, p) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-9, abs=1e-9)
    assert p is not None and 0 <= p <= 1


def test_kendalls_w_of_printed_examples() -> None:
    # Three judges of six applicants without ties, and of ten with ties (Siegel 1956, chapter 9).
    plain = [[1, 6, 3, 2, 5, 4], [1, 5, 6, 4, 2, 3], [6, 3, 2, 5, 4, 1]]
    assert kendall_w(np.array(plain, dtype=float)) == pytest.approx(0.162, abs=5e-4)
    tied = [
        [1, 4.5, 2, 4.5, 3, 7.5, 6, 9, 7.5, 10], [2.5, 1, 2.5, 4.5, 4.5, 8, 9, 6.5, 10, 6.5],
        [2, 1, 4.5, 4.5, 4.5, 4.5, 8, 8, 8, 10],
    ]  # fmt: skip
    assert kendall_w(np.array(tied)) == pytest.approx(0.828, abs=5e-4)


def test_kendalls_w_at_its_ends() -> None:
    assert kendall_w(np.array([[1.0, 2, 3]] * 4)) == 1
    assert kendall_w(np.array([[1.0, 2], [2, 1]])) == 0
    assert kendall_w(np.array([[1.5, 1.5]] * 3)) is None


def test_training_seeds_are_averaged_and_equal_rows_share_ranks(factory: Any) -> None:
    rows = {
        "A": {(0, 0): 90.0, (0, 1): 92.0, (1, 0): 80.0},
        "B": {(0, 0): 91.0, (1, 0): 85.0},
        "C": {(0, 5): 70.0, (1, 0): 70.0},
    }
    found = rank_rows(results_of(factory, {"digits": rows}))
    assert found is not None
    assert found.table.ranks.tolist() == [[1.5, 1.5, 3], [2, 1, 3]]
    assert found.table.mean_ranks == {"A": 1.75, "B": 1.25, "C": 3.0}
    assert len(found.table.runs_of("A")) == 3 and len(found.table.runs_of("A", "digits")) == 3


def test_incomplete_rows_and_blocks_are_left_out_and_named(factory: Any) -> None:
    full = {name: seeded(90.0 + i, 91, 92, 93) for i, name in enumerate("ABC")}
    found = rank_rows(results_of(factory, {"digits": full | {"D": seeded(99)}, "glyphs": {"A": seeded(5)}}))
    assert found is not None
    assert found.table.rows == ("A", "B", "C") and len(found.table.blocks) == 4
    said = " ".join(found.table.left_out)
    assert "not run in every block: D." in said and "glyphs, order 0" in said


@pytest.mark.parametrize("rows", [{}, {"A": seeded(1, 2, 3)}, {"A": seeded(1), "B": seeded(2)}])
def test_no_ranking_without_two_rows_and_two_blocks(factory: Any, rows: dict[str, Any]) -> None:
    spare = {"Z": {}} | rows
    factory.plan("Z", factory.spec("z", "digits", 0, 0, 2))
    results = results_of(factory, {"digits": spare})
    assert rank_rows(results) is None
    assert stability(results, results.columns[0]) is None


def test_two_rows_have_ranks_and_no_test(factory: Any) -> None:
    found = rank_rows(results_of(factory, {"digits": {"A": seeded(1, 2), "B": seeded(2, 3)}}))
    assert found is not None and found.table.mean_ranks == {"A": 2, "B": 1}
    assert (found.statistic, found.p, found.critical, found.is_useless) == (None, None, None, False)


def test_rows_that_always_tie_have_no_test(factory: Any) -> None:
    found = rank_rows(results_of(factory, {"digits": {name: seeded(1, 2) for name in "ABC"}}))
    assert found is not None and found.p is None and found.groups == [(0, 2)]


def test_groups_are_the_longest_stretches_within_the_critical_difference(factory: Any) -> None:
    rows = {f"R{i}": {(seed, 0): 80.0 + i for seed in range(12)} for i in range(6)}
    found = rank_rows(results_of(factory, {"digits": rows}))
    assert found is not None and found.critical == pytest.approx(2.18, abs=0.01)
    assert found.groups == [(0, 2), (1, 3), (2, 4), (3, 5)]
    assert [row for row, _ in found.order] == [f"R{i}" for i in reversed(range(6))]


def test_firsts_and_places_over_class_orders(factory: Any) -> None:
    rows = {"A": seeded(90, 90, 80), "B": seeded(80, 90, 90), "C": seeded(70, 70, 85)}
    results = results_of(factory, {"digits": rows})
    found = stability(results, results.columns[0])
    assert found is not None
    assert found.firsts == {"A": 2, "B": 2, "C": 0}
    assert found.places == {"A": (1, 3), "B": (1, 2), "C": (2, 3)}


def test_a_shift_of_every_run_changes_no_rank(make_factory: Any) -> None:
    draw = np.random.default_rng(3).uniform(40, 60, (4, 5))
    found = []
    for suite, shift in (("one", 0.0), ("two", 17.3)):
        factory = make_factory(suite=suite)
        for i, row in enumerate(draw + shift):
            for seed, value in enumerate(row.tolist()):
                factory.publish(f"R{i}", factory.spec(f"{suite}{i}", "digits", seed, seed, 1), [[value]])
        found.append(rank_rows(load_suite(factory.write(), suite, factory.FRESH)))
    assert found[0].table.mean_ranks == found[1].table.mean_ranks
    assert (found[0].p, found[0].critical) == (found[1].p, found[1].critical)
