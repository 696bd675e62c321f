"""Paired comparison of rows over shared class orders and training seeds.

The test is Wilcoxon's signed-rank test with its exact distribution over all signs of the observed ranks. Equal differences share
their mean rank and differences of zero are dropped (Wilcoxon 1945; Pratt and Gibbons 1981, section 3.7).
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import gammaln

from smope_bench.reports.loading.model import Column, ResultRow, SuiteResults, Summary, summarise
from smope_bench.reports.statistics.samples import DIGITS, Sample, comparable

ALPHA = 0.05
TestVerdict = Literal["better", "worse", "no difference shown", "undecided", "equal", "not compared"]


@dataclass(frozen=True)
class SignedRank:
    """An exact two-sided test: pairs, pairs that differ, the p-value, and the smallest possible one for so many pairs."""

    pairs: int
    differing: int
    p: float
    least: float


@dataclass(frozen=True)
class Comparison:
    """A row compared with the reference, pair by pair; ``difference`` is row minus reference in percentage points.

    ``effect``: see ``effect_size``. ``wins``: pairs in which the row is better than the reference. ``p`` is exact and
    two-sided, ``adjusted`` the same after Holm, ``orders`` the number of class orders among the pairs.
    """

    row: ResultRow
    difference: Summary | None
    effect: float | None
    wins: int
    ties: int
    losses: int
    p: float | None
    adjusted: float | None
    verdict: TestVerdict
    words: str
    orders: int
    runs: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """The comparisons with the reference row on one benchmark. ``size`` tests were corrected for together.

    ``is_chosen``: the reference is the row with the best mean of these runs, so ``size`` counts every pair of rows.
    """

    column: Column
    reference: ResultRow
    comparisons: tuple[Comparison, ...]
    size: int
    is_chosen: bool
    left_out: tuple[str, ...] = ()


def signed_rank(differences: Sequence[float]) -> SignedRank:
    """Wilcoxon's signed-rank test, exact for any number of pairs, ties and zeros. No differing pair gives p = 1."""
    moved = [value for value in (round(float(one), DIGITS) for one in differences) if value != 0]
    if not moved:
        return SignedRank(len(differences), 0, 1.0, 1.0)
    ranks = _twice_ranks(moved)
    chances = np.zeros(sum(ranks) + 1)
    chances[0] = 1.0
    for rank in ranks:
        chances *= 0.5
        chances[rank:] += chances[:-rank].copy()
    positive = sum(rank for rank, value in zip(ranks, moved, strict=True) if value > 0)
    tail = float(chances[: min(positive, sum(ranks) - positive) + 1].sum())
    return SignedRank(len(differences), len(moved), min(1.0, 2 * tail), 2.0 ** (1 - len(moved)))


def _twice_ranks(values: Sequence[float]) -> list[int]:
    """Twice the rank of each absolute value: shared ranks may end in a half, and integers are needed."""
    sizes = sorted(abs(value) for value in values)
    return [bisect.bisect_left(sizes, abs(value)) + bisect.bisect_right(sizes, abs(value)) + 1 for value in values]


def holm(values: Sequence[float]) -> list[float]:
    """p-values adjusted for the family-wise error rate (Holm 1979), in the order given."""
    adjusted, highest = [0.0] * len(values), 0.0
    for place, i in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        highest = max(highest, min(1.0, (len(values) - place) * values[i]))
        adjusted[i] = highest
    return adjusted


def effect_size(differences: Sequence[float]) -> float | None:
    """Cohen's d_z with Hedges' correction: J(n - 1) * mean / std, J(m) = G(m / 2) / (sqrt(m / 2) * G((m - 1) / 2)).

    G is the gamma function (Hedges 1981). ``None`` with fewer than three pairs, and where all pairs differ by the same.
    """
    found = summarise(round(float(one), DIGITS) for one in differences)
    if found is None or found.n < 3 or not found.std:
        return None
    m = found.n - 1
    log_j = float(gammaln(m / 2) - gammaln((m - 1) / 2)) - 0.5 * math.log(m / 2)
    return math.exp(log_j) * found.mean / found.std


def pairs_needed(family: Sequence[float], index: int) -> int:
    """The least number of differing pairs with which test ``index`` could fall below 0.05 after Holm's correction.

    ``family``: the smallest possible p-value of each test.
    """
    others = sorted(value for i, value in enumerate(family) if i != index)
    pairs = 1
    while holm([2.0 ** (1 - pairs), *others])[0] > ALPHA:
        pairs += 1
    return pairs


def compare(results: SuiteResults, column: Column, metric: str = "faa", reference: str | None = None) -> Family | None:
    """Compare the sequential rows of a benchmark with one of them; ``None`` with fewer than two comparable rows.

    ``reference``: a row's label, fixed beforehand; the family is then its comparisons. By default it is the row with the best
    mean (of rows with several runs, if any), and Holm's correction is over every pair of rows, since the data chose it.
    """
    samples = comparable(results, column, metric)
    labels = [sample.row.label for sample in samples.rows]
    if len(labels) < 2 or (reference is not None and reference not in labels):
        return None
    sign = results.metric(metric).sign
    base = _best(samples.rows, sign) if reference is None else labels.index(reference)
    pairs = [(i, j) for i, j in itertools.combinations(range(len(labels)), 2) if reference is None or base in (i, j)]
    found = {(i, j): _differences(samples.rows[i], samples.rows[j]) for i, j in pairs}
    tests = {pair: signed_rank(list(values.values())) for pair, values in found.items() if values}
    adjusted = dict(zip(tests, holm([test.p for test in tests.values()]), strict=True))
    attainable = dict(zip(tests, holm([test.least for test in tests.values()]), strict=True))
    least, needed = [test.least for test in tests.values()], dict[int, int]()
    compared = []
    for i, other in enumerate(samples.rows):
        if i == base:
            continue
        key = (min(i, base), max(i, base))
        test = tests.get(key)
        if test is None:
            words = "no class order and training seed in common"
            compared.append(Comparison(other.row, None, None, 0, 0, 0, None, None, "not compared", words, 0, ()))
            continue
        if test.differing not in needed:
            needed[test.differing] = pairs_needed(least, list(tests).index(key))
        is_decidable = attainable[key] <= ALPHA
        words = None if is_decidable else _undecided(test, needed[test.differing])
        compared.append(_comparison(other, samples.rows[base], test, adjusted[key], sign, words))
    return Family(
        column, samples.rows[base].row, tuple(compared), len(tests), reference is None, left_out=samples.left_out
    )


def _best(samples: Sequence[Sample], sign: int) -> int:
    repeated = [i for i, sample in enumerate(samples) if len(sample.values) > 1] or range(len(samples))

    def mean(i: int) -> float:
        found = summarise(samples[i].values.values())
        return -math.inf if found is None else sign * round(found.mean, DIGITS)

    return max(repeated, key=mean)


def _differences(one: Sample, other: Sample) -> dict[tuple[int, int], float]:
    return {
        pair: round(value - other.values[pair], DIGITS) for pair, value in one.values.items() if pair in other.values
    }


def _comparison(
    one: Sample, reference: Sample, test: SignedRank, adjusted: float, sign: int, undecided: str | None
) -> Comparison:
    found = _differences(one, reference)
    gains = [sign * value for value in found.values()]
    wins, losses = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    verdict, words = _verdict(gains, test, adjusted, undecided)
    return Comparison(
        one.row,
        summarise(found.values()),
        effect_size(list(found.values())),
        wins,
        len(gains) - wins - losses,
        losses,
        test.p,
        adjusted,
        verdict,
        words,
        len({order for order, _ in found}),
        tuple(sample.runs[pair] for sample in (one, reference) for pair in found),
    )


def _verdict(
    gains: Sequence[float], test: SignedRank, adjusted: float, undecided: str | None
) -> tuple[TestVerdict, str]:
    if test.differing == 0:
        return "equal", f"the same number in {'the only pair' if test.pairs == 1 else f'all {test.pairs} pairs'}"
    if undecided is not None:
        return "undecided", undecided
    if adjusted > ALPHA:
        return "no difference shown", "no difference shown"
    # The direction is that of the rank sums, as the test is on ranks.
    moved = [gain for gain in gains if gain != 0]
    balance = sum(math.copysign(rank, gain) for rank, gain in zip(_twice_ranks(moved), moved, strict=True))
    return ("better", "better") if balance > 0 else ("worse", "worse")


def _undecided(test: SignedRank, needed: int) -> str:
    if test.differing < test.pairs:
        return (
            f"cannot be decided with n = {test.differing} differing pairs of {test.pairs}: at least n = {needed} needed"
        )
    return f"cannot be decided with n = {test.pairs}: at least n = {needed} pairs needed"
