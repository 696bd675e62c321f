"""Variance between class orders and between training seeds: a nested random-effects model.

``y[i, j] = mean + order[i] + training[i, j]``: training seeds are nested in class orders. Estimated by equating mean squares with
their expectations, for unequal numbers of runs too (Searle, Casella and McCulloch 1992, section 3.6).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from scipy.special import fdtri

from smope_bench.reports.loading.model import CONFIDENCE, summarise
from smope_bench.reports.statistics.samples import DIGITS, Pair

REMEDY = "give several training seeds an order, e.g. --seeds 0:0,0:1,1:0,1:1"


@dataclass(frozen=True)
class VarianceSplit:
    """Standard deviations in percentage points, and the part of the variance that is the class order's (0 to 1).

    ``low`` and ``high``: exact 95 % interval of ``share`` for normal effects, where every order has as many runs.
    ``is_clipped``: the estimate for the class order was below zero and stands as 0. ``problem``: why there is no split.
    """

    runs: int
    orders: int
    order_std: float | None = None
    train_std: float | None = None
    share: float | None = None
    low: float | None = None
    high: float | None = None
    is_clipped: bool = False
    problem: str | None = None


def split_variance(values: Mapping[Pair, float]) -> VarianceSplit:
    """Split the variance of one row on one benchmark; ``values`` are in percent, by (order seed, training seed)."""
    groups: dict[int, list[float]] = {}
    for (order, _), value in sorted(values.items()):
        groups.setdefault(order, []).append(value)
    n, a = len(values), len(groups)
    if n < 2:
        return VarianceSplit(n, a, problem=f"{'one run has' if n else 'no runs have'} no spread: {REMEDY}")
    if n == a:
        return VarianceSplit(n, a, problem=f"cannot be separated: {REMEDY}")
    means = [math.fsum(group) / len(group) for group in groups.values()]
    within = math.fsum(
        (value - mean) ** 2 for group, mean in zip(groups.values(), means, strict=True) for value in group
    )
    error = round(within / (n - a), DIGITS)
    if a == 1:
        return VarianceSplit(
            n, a, train_std=math.sqrt(error), problem=f"one class order, which has no spread of orders: {REMEDY}"
        )
    whole = summarise(values.values())
    grand = 0.0 if whole is None else whole.mean
    sizes = [len(group) for group in groups.values()]
    between = math.fsum(size * (mean - grand) ** 2 for size, mean in zip(sizes, means, strict=True))
    between = round(between / (a - 1), DIGITS)
    size = (n - sum(size**2 for size in sizes) / n) / (a - 1)
    order = max(0.0, (between - error) / size)
    total = order + error
    low, high = _share_interval(between, error, a, sizes) if total > 0 else (None, None)
    share = order / total if total > 0 else None
    problem = None if total > 0 else "no spread: every run has the same number"
    return VarianceSplit(
        n, a, math.sqrt(order), math.sqrt(error), share, low, high, is_clipped=between < error, problem=problem
    )


def _share_interval(between: float, error: float, a: int, sizes: list[int]) -> tuple[float | None, float | None]:
    """Exact interval of the intraclass correlation of a balanced design (Searle and others 1992, table 3.4)."""
    if len(set(sizes)) > 1 or error <= 0:
        return None, None
    each, tail = sizes[0], (1 - CONFIDENCE) / 2
    ratio, freedom = between / error, (a - 1, a * (sizes[0] - 1))
    bounds = [(ratio / float(fdtri(*freedom, chance)) - 1) / each for chance in (1 - tail, tail)]
    low, high = (max(0.0, bound / (1 + bound)) if bound > -1 else 0.0 for bound in bounds)
    return low, high
