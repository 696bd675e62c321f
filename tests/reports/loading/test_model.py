"""Summaries against SciPy, against a worked example, and under every change that must not matter."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from smope_bench.harness.metrics import PERCENT
from smope_bench.reports.loading.model import median, summarise

percents = st.floats(0, 100, allow_nan=False)
samples = st.lists(percents, min_size=2, max_size=12)


def test_a_worked_example_by_hand() -> None:
    # 90, 92, 97: mean 93, squares 9 + 1 + 16 = 26, variance 13; t(0.975, 2) = 4.30265.
    found = summarise([90.0, 92.0, 97.0])
    assert found is not None
    assert (found.n, found.mean) == (3, 93.0)
    assert found.std == pytest.approx(math.sqrt(13))
    assert found.low == pytest.approx(93 - 4.30265 * math.sqrt(13 / 3), abs=1e-4)
    assert found.high == pytest.approx(93 + 4.30265 * math.sqrt(13 / 3), abs=1e-4)


def test_one_value_has_a_mean_and_nothing_else() -> None:
    found = summarise([81.5])
    assert found is not None
    assert (found.n, found.mean, found.std, found.low, found.high) == (1, 81.5, None, None, None)


def test_no_values_have_no_summary() -> None:
    assert summarise([]) is None
    assert median([]) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        summarise([90.0, bad])


@settings(max_examples=60)
@given(samples)
def test_agrees_with_scipy(values: list[float]) -> None:
    found = summarise(values)
    assert found is not None and found.std is not None
    assert found.mean == pytest.approx(np.mean(values), rel=1e-12, abs=1e-12)
    assert found.std == pytest.approx(np.std(values, ddof=1), rel=1e-9, abs=1e-12)
    error = float(scipy_stats.sem(values))
    if error > 1e-9:
        low, high = scipy_stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=error)
        assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9, abs=1e-9)


@settings(max_examples=60)
@given(samples, st.integers(0, 2**16))
def test_the_order_of_runs_changes_no_digit(values: list[float], seed: int) -> None:
    shuffled = random.Random(seed).sample(values, len(values))
    assert summarise(shuffled) == summarise(values)
    assert median(shuffled) == median(values)


@settings(max_examples=60)
@given(samples)
def test_the_interval_of_an_accuracy_stays_within_its_bounds(values: list[float]) -> None:
    found, plain = summarise(values, PERCENT), summarise(values)
    assert found is not None and plain is not None and (found.mean, found.std) == (plain.mean, plain.std)
    if found.low is not None and found.high is not None and 0 < found.mean < 100:
        assert 0 <= found.low <= found.mean <= found.high <= 100


def test_the_interval_on_the_logit_scale_by_hand() -> None:
    found = summarise([80.0, 90.0, 97.0], PERCENT)
    m, s = 0.89, np.std([0.8, 0.9, 0.97], ddof=1)
    reach = scipy_stats.t.ppf(0.975, 2) * s / np.sqrt(3) / (m * (1 - m))
    ends = [100 / (1 + math.exp(-(math.log(m / (1 - m)) + side * reach))) for side in (-1, 1)]
    assert found is not None and (found.low, found.high) == pytest.approx(ends)


def test_far_from_the_bounds_it_is_the_t_interval() -> None:
    found, plain = (summarise([49.9, 50.1, 50.0], bounds) for bounds in (PERCENT, None))
    assert found is not None and plain is not None
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high), abs=1e-3)


@given(percents, st.integers(2, 10))
def test_equal_runs_have_no_spread(value: float, n: int) -> None:
    found = summarise([value] * n)
    assert found is not None
    assert (found.mean, found.std, found.low, found.high) == (value, 0.0, None, None)


@settings(max_examples=60)
@given(samples)
def test_repeating_every_run_narrows_the_interval(values: list[float]) -> None:
    once, twice = summarise(values), summarise(values * 2)
    assert once is not None and twice is not None
    assert twice.mean == pytest.approx(once.mean, rel=1e-12, abs=1e-12)
    if once.low is not None and twice.low is not None:
        assert twice.low >= once.low - 1e-9
    assert min(values) <= once.mean <= max(values)


@settings(max_examples=60)
@given(samples, st.floats(-50, 50), st.floats(0.1, 10))
def test_moves_and_scales_with_the_values(values: list[float], shift: float, scale: float) -> None:
    plain, moved = summarise(values), summarise([scale * value + shift for value in values])
    assert plain is not None and moved is not None and plain.std is not None and moved.std is not None
    assert moved.mean == pytest.approx(scale * plain.mean + shift, abs=1e-9)
    assert moved.std == pytest.approx(scale * plain.std, abs=1e-8)


def test_the_interval_covers_as_promised_at_three_runs() -> None:
    draw, covered = np.random.default_rng(0), 0
    for values in draw.normal(90, 1.5, size=(2000, 3)):
        found = summarise(values.tolist())
        assert found is not None and found.low is not None and found.high is not None
        covered += found.low <= 90 <= found.high
    assert 0.935 <= covered / 2000 <= 0.965


def test_median_of_even_and_odd_counts() -> None:
    assert median([3, 1, 2]) == 2
    assert median([4, 1, 2, 3]) == 2.5
