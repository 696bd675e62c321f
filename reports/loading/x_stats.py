"""What a few runs say about a number: n, mean, spread and a t-interval.

The t-interval is used because it keeps its nominal coverage on as few as three runs, where a percentile bootstrap does not.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from scipy.special import stdtrit

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """``n`` values: their mean, sample standard deviation (n - 1) and two-sided 95 % t-interval of the mean.

    All in the unit of the values. One value has a mean only: ``std``, ``low`` and ``high`` are ``None``.
    """

    n: int
    mean: float
    std: float | None
    low: float | None
    high: float | None


def summarise(values: Iterable[float]) -> Summary | None:
    """Summarise finite values; ``None`` for no values at all. Raises ValueError for NaN and infinity.

    The sums are exact before the last rounding, so the order of the runs cannot change a digit.
    """
    found = [float(value) for value in values]
    if not found:
        return None
    if not all(map(math.isfinite, found)):
        raise ValueError(f"cannot summarise values that are not finite: {found}")
    n, mean = len(found), statistics.fmean(found)
    # Exactly rounded sums can still leave the mean of equal values one bit outside of them.
    mean = min(max(mean, min(found)), max(found))
    if n == 1:
        return Summary(1, mean, None, None, None)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in found) / (n - 1))
    reach = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * std / math.sqrt(n)
    return Summary(n, mean, std, mean - reach, mean + reach)


def median(values: Iterable[float]) -> float | None:
    """The median of finite values; ``None`` for no values."""
    found = sorted(float(value) for value in values)
    return statistics.median(found) if found else None
