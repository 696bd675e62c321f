"""Paired comparisons against SciPy, statsmodels and hand calculation, and what few runs must never be made to say."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests

from smope_bench.reports.loading.load import load_suite
from smope_bench.reports.loading.model import SuiteResults
from smope_bench.reports.statistics import paired_tests
from smope_bench.reports.statistics.paired_tests import (
    compare,
    compare_all,
    effect_size,
    holm,
    signed_rank,
    t_test,
    units_needed,
)

Values = Mapping[str, Mapping[tuple[int, int], float]]
FLOORS = frozenset({"Floor"})
differences = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=9)
chances = st.lists(st.floats(0, 1), min_size=1, max_size=9)


def results_of(factory: Any, values: Values, *, columns: Iterable[str] = ("digits",), **flags: Any) -> SuiteResults:
    """A suite whose runs have these FAAs, the same on every benchmark."""
    for column, (label, runs) in itertools.product(columns, values.items()):
        kind = "ceiling" if label == "Joint" else "floor" if label in FLOORS else "method"
        for (order, train), value in runs.items():
            spec = factory.spec(label.lower(), column, order, train, 2)
            matrix = [[value, None], [value, value]]
            factory.publish(label, spec, matrix, kind=kind, column=column, **flags.get(label, {}))
    return load_suite(factory.write(), "smoke", factory.FRESH)


def seeded(*values: float) -> dict[tuple[int, int], float]:
    return {(seed, seed): value for seed, value in enumerate(values)}


def by_label(results: SuiteResults, **options: Any) -> dict[str, Any]:
    family = compare(results, results.columns[0], **options)
    assert family is not None
    return {one.row.label: one for one in family.comparisons}


def scipy_p(values: Any, method: Any) -> float:
    found: Any = scipy_stats.wilcoxon(values, method=method)
    return float(found.pvalue)


@pytest.mark.parametrize("n", [3, 5, 6, 9, 14])
def test_agrees_with_scipys_exact_test(n: int) -> None:
    values = np.random.default_rng(n).normal(0.4, 1, n)
    expected = scipy_p(values, "exact")
    assert signed_rank(values.tolist()).p == pytest.approx(expected, rel=1e-12)


@settings(max_examples=80)
@given(differences)
def test_ties_and_zeros_are_exact_by_enumeration(values: list[float]) -> None:
    moved = [value for value in values if value]
    found = signed_rank(values)
    assert (found.pairs, found.differing) == (len(values), len(moved))
    if not moved:
        assert found.p == found.least == 1
        return
    ranks = scipy_stats.rankdata(np.abs(moved))
    centre = ranks.sum() / 2
    seen = abs(ranks[np.array(moved) > 0].sum() - centre)
    sums = [
        sum(r for r, up in zip(ranks, signs, strict=True) if up)
        for signs in itertools.product((0, 1), repeat=len(moved))
    ]
    assert found.p == pytest.approx(np.mean([abs(one - centre) >= seen - 1e-9 for one in sums]), abs=1e-12)
    assert found.least == 2.0 ** (1 - len(moved)) <= found.p <= 1


def test_agrees_with_scipys_permutation_of_tied_differences() -> None:
    values = [1.0, 1.0, -1.0, 2.0, 3.0, 0.0, 3.0]
    method = scipy_stats.PermutationMethod(n_resamples=10**6)
    assert signed_rank(values).p == pytest.approx(scipy_p(values, method), rel=1e-12)


@pytest.mark.parametrize("decimals", [0, 1, 6])
@pytest.mark.parametrize("n", [2, 20, 150])
def test_inversion_gives_what_counting_gives(n: int, decimals: int) -> None:
    values = np.random.default_rng(n).normal(0.1, 1, n).round(decimals)
    ranks = tuple(paired_tests._twice_ranks(np.where(values == 0, 1, values).tolist()))
    for most in (0, 1, sum(ranks) // 5, sum(ranks) * 2 // 5, sum(ranks) // 2):
        counted = paired_tests._tail(ranks, most)
        assert paired_tests._inverted_tail(ranks, most) == pytest.approx(counted, abs=1e-13)


@pytest.mark.parametrize("mean", [0.0, 0.02, -0.05])
def test_thousands_of_pairs_agree_with_the_normal_approximation(mean: float) -> None:
    values = np.random.default_rng(5).normal(mean, 1, 3000)
    assert len(values) * values.size / 2 * values.size > paired_tests.COUNTED
    assert signed_rank(values.tolist()).p == pytest.approx(scipy_p(values, "asymptotic"), abs=1e-4)


def test_the_rounding_of_floats_makes_no_difference() -> None:
    # 0.3 - 0.2 and 0.2 - 0.1 are not the same float, but the same difference.
    assert signed_rank([0.3 - 0.2, 0.1 - 0.2, 1.0]) == signed_rank([0.1, -0.1, 1.0])


@pytest.mark.parametrize(("n", "least"), [(1, 1.0), (5, 0.0625), (6, 0.03125)])
def test_few_pairs_cannot_have_a_small_p(n: int, least: float) -> None:
    found = signed_rank([float(i + 1) for i in range(n)])
    assert found.p == found.least == least


def test_holm_agrees_with_statsmodels() -> None:
    values = [*np.random.default_rng(0).uniform(0, 0.2, 20).tolist(), 0.0, 0.0625, 0.0625, 1.0]
    assert holm(values) == pytest.approx(multipletests(values, method="holm")[1], abs=1e-12)


@settings(max_examples=60)
@given(chances)
def test_holm_raises_no_p_above_one_and_keeps_their_order(values: list[float]) -> None:
    found = holm(values)
    assert all(low <= high <= 1 for low, high in zip(values, found, strict=True))
    assert all(found[i] <= found[j] for i in range(len(values)) for j in range(len(values)) if values[i] <= values[j])


def test_holm_of_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@pytest.mark.parametrize(("size", "needed"), [(1, 6), (4, 8), (9, 9), (45, 11)])
def test_units_needed_in_a_family(size: int, needed: int) -> None:
    # 2 / 2^n times the size of the family has to come down to 0.05.
    assert units_needed(size) == needed
    assert size * 2.0 ** (1 - needed) <= 0.05 < size * 2.0 ** (2 - needed)


def test_effect_size_by_hand() -> None:
    # Mean 2, standard deviation sqrt(2.5); J(4) = G(2) / (sqrt 2 G(3 / 2)) = 2 / sqrt(2 pi).
    assert effect_size([0, 1, 2, 3, 4]) == pytest.approx(2 / math.sqrt(2.5) * 2 / math.sqrt(2 * math.pi))
    assert effect_size([1.0, 1.0, 1.0]) is None
    assert effect_size([1.0, 2.0]) is None
    assert effect_size([]) is None


@pytest.mark.parametrize("n", [2, 3, 5, 9])
def test_agrees_with_scipys_t_test(n: int) -> None:
    values = np.random.default_rng(n).normal(0.4, 1, n)
    expected: Any = scipy_stats.ttest_1samp(values, 0.0)
    assert t_test(values.tolist()) == pytest.approx(float(expected.pvalue), rel=1e-6)  # differences are rounded


def test_no_t_test_without_spread() -> None:
    assert (t_test([1.0]), t_test([2.0, 2.0, 2.0]), t_test([0.0, 0.0])) == (None, None, 1.0)


def test_few_class_orders_are_judged_by_the_t_test(factory: Any) -> None:
    results = results_of(factory, {"A": seeded(90, 91, 92, 93, 94), "B": seeded(50, 52, 51, 54, 53)})
    family = compare(results, results.columns[0])
    assert family is not None and (family.test, family.units, family.needed) == ("t", 5, 6)
    (one,) = family.comparisons
    expected: Any = scipy_stats.ttest_rel([50, 52, 51, 54, 53], [90, 91, 92, 93, 94])
    assert (one.verdict, one.wins, one.losses) == ("worse", 0, 5)
    assert one.p == pytest.approx(float(expected.pvalue), rel=1e-6)


def test_two_seeds_decide_nothing(factory: Any) -> None:
    one = by_label(results_of(factory, {"A": seeded(90, 91), "B": seeded(50, 53)}))["B"]
    assert (one.verdict, one.p, one.words) == ("undecided", None, "fewer than 3 cannot decide")


def test_equal_differences_have_no_spread_to_judge_by(factory: Any) -> None:
    one = by_label(results_of(factory, {"A": seeded(90, 91, 92), "B": seeded(50, 51, 52)}))["B"]
    assert (one.verdict, one.p) == ("undecided", None)
    assert one.difference is not None and one.difference.low is None


def test_training_seeds_of_a_class_order_count_once(factory: Any) -> None:
    values = {
        "A": {(order, train): 90.0 + order + train for order in range(3) for train in range(4)},
        "B": {(order, train): 89.0 - order**2 + 2 * train for order in range(3) for train in range(4)},
    }
    one = by_label(results_of(factory, values), reference="A")["B"]
    means = [-1 - order**2 - order + 1.5 for order in range(3)]
    assert one.difference is not None and (one.difference.n, one.pairs) == (3, 12)
    assert one.difference.mean == pytest.approx(np.mean(means)) and one.p == pytest.approx(t_test(means))


def test_seeds_of_one_class_order_are_compared_within_it(factory: Any) -> None:
    values = {"A": {(0, t): 90.0 + t for t in range(6)}, "B": {(0, t): 80.0 + 2 * t for t in range(6)}}
    results = results_of(factory, values)
    family = compare(results, results.columns[0])
    assert family is not None and (family.is_one_order, family.units, family.test) == (True, 6, "signed rank")


def test_the_suites_own_row_is_the_reference(factory: Any) -> None:
    values = {name: seeded(*(80.0 + i + n / 7 for n in range(7))) for i, name in enumerate("ABC")}
    results = replace(results_of(factory, values), reference="B")
    family = compare(results, results.columns[0])
    assert family is not None and family.reference is not None
    assert (family.reference.label, family.size, family.is_chosen) == ("B", 2, False)
    best = compare(replace(results, reference="not here"), results.columns[0])
    assert best is not None and best.reference is not None and (best.reference.label, best.is_chosen) == ("C", True)


def test_every_pair_is_compared_on_demand(factory: Any) -> None:
    values = {name: seeded(*(80.0 + i + (n * (i + 2)) % 5 for n in range(5))) for i, name in enumerate("ABCD")}
    results = results_of(factory, values)
    family = compare_all(results, results.columns[0])
    assert family is not None and family.reference is None and family.size == 6
    assert [(one.row.label, one.reference.label) for one in family.comparisons][:3] == [
        ("A", "B"),
        ("A", "C"),
        ("A", "D"),
    ]
    chosen = compare(results, results.columns[0])
    assert chosen is not None and chosen.size == 6
    with_chosen = {one.row.label: one.adjusted for one in chosen.comparisons}
    same = {one.row.label: one.adjusted for one in family.comparisons if one.reference == chosen.reference}
    assert same.items() <= with_chosen.items()


def test_six_seeds_decide_between_two_rows(factory: Any) -> None:
    high, low = seeded(90, 91, 92, 93, 94, 95), seeded(50, 52, 51, 54, 53, 58)
    one = by_label(results_of(factory, {"B": low, "A": high}))["B"]
    assert (one.verdict, one.adjusted) == ("worse", 0.03125)
    assert one.difference is not None and one.difference.mean == pytest.approx(-39.5)


def test_a_decidable_comparison_may_show_nothing(factory: Any) -> None:
    high, near = seeded(90, 91, 92, 93, 94, 95), seeded(91, 90, 93, 91, 95, 93)
    assert by_label(results_of(factory, {"A": high, "B": near}))["B"].verdict == "no difference shown"


def test_the_family_is_every_pair_unless_the_reference_was_fixed(factory: Any) -> None:
    values = {name: seeded(*(80.0 + i + n / 7 for n in range(7))) for i, name in enumerate("ABCD")}
    results = results_of(factory, values | {"Joint": seeded(99, 99)})
    chosen, fixed = (compare(results, results.columns[0], reference=name) for name in (None, "A"))
    assert chosen is not None and fixed is not None
    assert chosen.reference is not None and fixed.reference is not None
    assert (chosen.reference.label, chosen.size, chosen.is_chosen) == ("D", 6, True)
    assert (fixed.reference.label, fixed.size, fixed.is_chosen) == ("A", 3, False)
    # 7 pairs: 3 / 64 is below 0.05 and 6 / 64 is not.
    assert (chosen.test, fixed.test) == ("t", "signed rank")
    assert {one.verdict for one in fixed.comparisons} == {"better"}


def test_only_shared_seeds_are_paired(factory: Any) -> None:
    values = {"A": seeded(90, 91, 92), "B": {(1, 1): 90.0, (2, 0): 10.0}, "C": {(9, 9): 80.0}}
    found = by_label(results_of(factory, values), reference="A")
    assert (found["B"].difference.n, found["B"].difference.mean) == (1, -1.0)
    assert len(found["B"].runs) == 2
    assert (found["C"].verdict, found["C"].p) == ("not compared", None)


def test_one_lucky_run_is_no_reference(factory: Any) -> None:
    results = results_of(factory, {"A": seeded(90, 91, 92), "B": seeded(89, 90, 91), "C": seeded(99)})
    family = compare(results, results.columns[0])
    assert family is not None and family.reference is not None and family.reference.label == "A"


def test_equal_rows_are_called_equal_and_not_different(factory: Any) -> None:
    one = by_label(results_of(factory, {"A": seeded(*range(80, 90)), "B": seeded(*range(80, 90))}))["B"]
    assert (one.verdict, one.ties, one.p, one.effect) == ("equal", 10, 1.0, None)


def test_leaking_and_stale_rows_take_no_part(factory: Any) -> None:
    values = {name: seeded(80.0 + i, 81.0 + i) for i, name in enumerate("ABCD")}
    leaking = {"flags": {"leaking": True, "tiny": True, "random_backbone": False}}
    results = results_of(factory, values, C=leaking, D={"fingerprint": factory.OLD})
    family = compare(results, results.columns[0])
    assert family is not None and family.reference is not None
    assert (family.reference.label, len(family.comparisons)) == ("B", 1)
    assert "C (leaking); D (stale)" in family.left_out[0]


def test_lower_forgetting_is_better(factory: Any) -> None:
    for label, lost in (("A", 1.0), ("B", 9.0)):
        for seed in range(6):
            start = 80.0 + seed / 2 + lost
            factory.publish(
                label, factory.spec(label.lower(), "digits", seed, seed, 2), [[start, None], [start - lost, 50.0]]
            )
    found = by_label(load_suite(factory.write(), "smoke", factory.FRESH), metric="fm")
    assert (found["B"].verdict, found["B"].losses) == ("worse", 6)


@pytest.fixture
def shuffled(make_factory: Callable[..., Any]) -> Callable[[Values, int], dict[str, Any]]:
    def make(values: Values, seed: int) -> dict[str, Any]:
        factory = make_factory()
        results_of(factory, values)
        factory.cells += random.Random(seed).choices(factory.cells, k=5)
        random.Random(seed).shuffle(factory.cells)
        return by_label(load_suite(factory.write(), "smoke", factory.FRESH))

    return make


def test_order_and_repetition_of_runs_change_nothing(factory: Any, shuffled: Callable[..., Any]) -> None:
    values = {"A": seeded(90, 91, 92, 95), "B": seeded(89, 93, 90, 90), "Floor": seeded(70, 70, 71)}
    plain = by_label(results_of(factory, values))
    for seed in range(4):
        assert shuffled(values, seed) == plain


@settings(max_examples=60)
@given(differences, st.integers(0, 1000))
def test_p_is_symmetric_and_blind_to_order(values: list[float], seed: int) -> None:
    mixed = random.Random(seed).sample(values, len(values))
    assert signed_rank(values) == signed_rank(mixed) == signed_rank([-value for value in values])
    assert 0 < signed_rank(values).p <= 1
