"""The split of variance against a textbook, statsmodels and simulation, and the words where there is nothing to split."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from hypothesis import given, settings
from hypothesis import strategies as st

from smope_bench.reports.statistics.variance import REMEDY, split_variance

# Montgomery, Design and Analysis of Experiments: strength of fabric from four looms, four samples each.
LOOMS = [[98, 97, 99, 96], [91, 90, 93, 92], [96, 95, 97, 95], [95, 96, 99, 98]]
designs = st.dictionaries(st.tuples(st.integers(0, 3), st.integers(0, 3)), st.floats(60, 95), min_size=1, max_size=14)


def nested(groups: Sequence[Sequence[float]]) -> dict[tuple[int, int], float]:
    return {(i, j): float(value) for i, group in enumerate(groups) for j, value in enumerate(group)}


def test_the_worked_example_of_montgomery() -> None:
    found = split_variance(nested(LOOMS))
    assert found.order_std is not None and found.train_std is not None
    assert (found.train_std**2, found.order_std**2) == pytest.approx((1.90, 6.96), abs=0.005)
    assert found.share == pytest.approx(0.79, abs=0.005)
    assert (found.low, found.high) == pytest.approx((0.38, 0.98), abs=0.01)
    assert (found.runs, found.orders, found.is_clipped, found.problem) == (16, 4, False, None)


def test_balanced_designs_agree_with_restricted_likelihood() -> None:
    values = nested(LOOMS)
    frame = pd.DataFrame([(order, value) for (order, _), value in values.items()], columns=["order", "value"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = smf.mixedlm("value ~ 1", frame, groups=frame["order"]).fit(reml=True)
    found = split_variance(values)
    assert found.order_std is not None and found.train_std is not None
    assert found.order_std**2 == pytest.approx(float(fitted.cov_re.iloc[0, 0]), rel=1e-3)
    assert found.train_std**2 == pytest.approx(float(fitted.scale), rel=1e-3)


def test_unbalanced_by_hand() -> None:
    # Groups (1, 3) and (5, 7, 9): MSW = (2 + 8) / 3, MSB = 30, n0 = 5 - 13 / 5 = 2.4.
    found = split_variance(nested([[1, 3], [5, 7, 9]]))
    assert found.order_std is not None and found.train_std is not None
    assert (found.train_std**2, found.order_std**2) == pytest.approx((10 / 3, (30 - 10 / 3) / 2.4))
    assert (found.low, found.high) == (None, None)


def test_the_estimate_is_right_on_average() -> None:
    draw, orders, trains = np.random.default_rng(1), [], []
    for _ in range(600):
        base = draw.normal(0, 2, 5)
        groups = [(90 + base[i] + draw.normal(0, 1, 2 + i % 2)).tolist() for i in range(5)]
        found = split_variance(nested(groups))
        assert found.order_std is not None and found.train_std is not None
        orders.append(found.order_std**2)
        trains.append(found.train_std**2)
    assert np.mean(orders) == pytest.approx(4, rel=0.12)
    assert np.mean(trains) == pytest.approx(1, rel=0.08)


def test_below_zero_is_set_to_zero_and_said() -> None:
    found = split_variance(nested([[90, 80], [80, 90], [85, 85.5]]))
    assert (found.order_std, found.share, found.is_clipped) == (0.0, 0.0, True)


def test_one_training_seed_an_order_cannot_be_separated() -> None:
    found = split_variance({(seed, seed): 90.0 + seed for seed in range(5)})
    assert found.problem == f"cannot be separated: {REMEDY}"
    assert (found.order_std, found.train_std, found.share) == (None, None, None)


@pytest.mark.parametrize(("values", "word"), [({}, "no runs have"), ({(0, 0): 90.0}, "one run has")])
def test_fewer_than_two_runs_have_no_spread(values: dict[tuple[int, int], float], word: str) -> None:
    assert word in str(split_variance(values).problem)


def test_one_order_has_the_spread_of_training_only() -> None:
    found = split_variance({(7, 0): 90.0, (7, 1): 92.0})
    assert found.train_std == pytest.approx(math.sqrt(2))
    assert found.order_std is None and "one class order" in str(found.problem)


def test_equal_runs_have_no_share() -> None:
    found = split_variance(nested([[90, 90], [90, 90]]))
    assert (found.order_std, found.train_std, found.share) == (0.0, 0.0, None)
    assert found.problem is not None


def test_training_without_spread_leaves_all_to_the_order() -> None:
    assert split_variance(nested([[90, 90], [80, 80]])).share == 1.0


@settings(max_examples=80)
@given(designs, st.integers(0, 99), st.floats(-20, 4))
def test_order_of_runs_and_a_shift_change_nothing(
    values: dict[tuple[int, int], float], seed: int, shift: float
) -> None:
    found = split_variance(values)
    assert split_variance(dict(random.Random(seed).sample(list(values.items()), len(values)))) == found
    moved = split_variance({pair: value + shift for pair, value in values.items()})
    for one, other in ((found.order_std, moved.order_std), (found.train_std, moved.train_std)):
        assert (one is None) == (other is None)
        assert one is None or other is None or one == pytest.approx(other, abs=1e-3)
    if found.share is not None:
        assert 0 <= found.share <= 1
    if found.low is not None and found.high is not None:
        assert 0 <= found.low <= found.high <= 1
