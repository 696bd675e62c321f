"""Paired comparison of rows over shared class orders and training seeds.

The unit is the class order: differences of its training seeds are averaged, since they are independent only given the order.
Runs of a single class order are compared training seed by training seed, and what is found then holds for that order.

Two tests, of which the number of units chooses one for all comparisons of a family, whatever the values are: Wilcoxon's
signed-rank test, exact over all signs of the observed ranks (equal differences share their mean rank, differences of zero are
dropped: Wilcoxon 1945; Pratt and Gibbons 1981, section 3.7), where it can fall below ``ALPHA`` after Holm's correction;
else the paired t-test, which assumes normal differences. ``simulation`` shows how often they claim a difference without one.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.special import gammaln, stdtr

from smope_bench.reports.loading.model import REFERENCES, Column, ResultRow, SuiteResults, Summary, summarise
from smope_bench.reports.statistics.samples import DIGITS, Pair, Sample, comparable

ALPHA = 0.05
LEAST_UNITS = 3
"""Class orders, or training seeds of one order, with which a comparison may be decided at all."""
COUNTED = 50_000_000
"""Additions up to which the distribution of a rank sum is counted: some 450 units with no difference, more with one."""
Verdict = Literal["better", "worse", "no difference shown", "undecided", "equal", "not compared"]
TestName = Literal["signed rank", "t"]


@dataclass(frozen=True)
class SignedRank:
    """An exact two-sided test: units, units that differ, the p-value, and the smallest possible one for so many units."""

    pairs: int
    differing: int
    p: float
    least: float


@dataclass(frozen=True)
class Comparison:
    """A row compared with another one; ``difference`` is row minus reference in percentage points, over units.

    ``effect``: see ``effect_size``. ``wins``: units in which the row is better than the reference. ``p`` is two-sided, by
    the family's test, ``adjusted`` the same after Holm. ``pairs``: pairs of runs, of which a unit may have several.
    """

    row: ResultRow
    reference: ResultRow
    difference: Summary | None
    effect: float | None
    wins: int
    ties: int
    losses: int
    p: float | None
    adjusted: float | None
    verdict: Verdict
    words: str
    pairs: int
    runs: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """Comparisons on one benchmark that were corrected for together; ``size`` is the number of their tests.

    ``reference``: the row that all are compared with, None for every pair of rows. ``is_chosen``: it is the row with the best
    mean of these runs, so that ``size`` counts every pair of rows. ``test``: the test of all. ``units``: class orders, or
    training seeds where ``is_one_order``, of the comparison with most. ``needed``: units with which the exact test could decide.
    """

    column: Column
    reference: ResultRow | None
    comparisons: tuple[Comparison, ...]
    size: int
    is_chosen: bool
    test: TestName
    units: int
    needed: int
    is_one_order: bool
    left_out: tuple[str, ...] = ()


def signed_rank(differences: Sequence[float]) -> SignedRank:
    """Wilcoxon's signed-rank test, exact for any number of pairs, ties and zeros. No differing pair gives p = 1."""
    moved = [value for value in (round(float(one), DIGITS) for one in differences) if value != 0]
    if not moved:
        return SignedRank(len(differences), 0, 1.0, 1.0)
    ranks = _twice_ranks(moved)
    positive = sum(rank for rank, value in zip(ranks, moved, strict=True) if value > 0)
    tail = _tail(tuple(ranks), min(positive, sum(ranks) - positive))
    return SignedRank(len(differences), len(moved), min(1.0, 2 * tail), 2.0 ** (1 - len(moved)))


@functools.lru_cache(maxsize=256)
def _tail(ranks: tuple[int, ...], most: int) -> float:
    """The probability that the sum of ``ranks``, each taken with probability 1/2, is at most ``most``."""
    if len(ranks) * (most + 1) > COUNTED:
        return _inverted_tail(ranks, most)
    chances = np.zeros(most + 1)
    chances[0] = 1.0
    for rank in ranks:
        chances *= 0.5
        chances[rank:] += chances[: max(0, len(chances) - rank)].copy()
    return float(chances.sum())


def _inverted_tail(ranks: Sequence[int], most: int) -> float:
    """``_tail`` from the characteristic function of the sum, to 13 decimals: the cost of counting grows with the cube of ranks.

    The sum less its mean has the real characteristic function prod cos(rank t / 2), which is evaluated at the multiples of
    2 pi / size. Sums that are equal modulo size count as one; by Hoeffding's inequality those more than size / 2 from the mean
    have less than 1e-17. The product is at most exp(-sum(1 - cos(rank t)) / 4), one Fourier transform for all t, and is left
    out where this is below 1e-17.
    """
    sizes, counts = np.unique(ranks, return_counts=True)
    total = sum(ranks)
    size = 2 ** math.ceil(math.log2(9 * math.sqrt(float(counts @ sizes.astype(float) ** 2)) + 2))
    places = np.bincount(sizes % size, weights=counts, minlength=size)
    kept = np.flatnonzero(len(ranks) - np.fft.rfft(places).real < 4 * 39)
    spectrum = np.zeros(size // 2 + 1, dtype=np.complex128)
    middle = total // 2
    for part in np.array_split(kept, 1 + len(kept) * len(sizes) // 10**6):
        angles = 2 * np.pi * part / size
        values = np.prod(np.cos(np.outer(angles / 2, sizes)) ** counts, axis=1)
        spectrum[part] = values * np.exp(-1j * angles * (total / 2 - middle))
    chances = np.roll(np.fft.irfft(spectrum, size), size // 2)  # of the sums from middle - size // 2 on
    return float(max(0.0, chances[: max(0, most - middle + size // 2 + 1)].sum()))


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


def t_test(differences: Sequence[float]) -> float | None:
    """Two-sided p-value of Student's paired t-test; ``None`` where it is not defined: one value, or no spread but a mean."""
    found = summarise(round(float(one), DIGITS) for one in differences)
    if found is None or found.n < 2 or (not found.std and found.mean):
        return None
    if not found.std:
        return 1.0
    return 2 * float(stdtr(found.n - 1, -abs(found.mean) / (found.std / math.sqrt(found.n))))


def units_needed(size: int) -> int:
    """Differing units with which every one of ``size`` signed-rank tests could fall below 0.05 after Holm's correction."""
    return 1 + math.ceil(math.log2(max(1, size) / ALPHA))


def compare(results: SuiteResults, column: Column, metric: str = "faa", reference: str | None = None) -> Family | None:
    """Compare the sequential rows of a benchmark with one of them; ``None`` with fewer than two comparable rows.

    ``reference``: a row's label, fixed beforehand, by default the one that the report is about; the family is then its
    comparisons. Without one, or where it takes no part, it is the row with the best mean (of rows with several runs, if any),
    and Holm's correction is over every pair of rows, since the data chose it.
    """
    samples = comparable(results, column, metric)
    labels = [sample.row.label for sample in samples.rows]
    if len(labels) < 2 or (reference is not None and reference not in labels):
        return None
    reference = reference or (results.reference if results.reference in labels else None)
    sign = results.metric(metric).sign
    base = _best(samples.rows, sign) if reference is None else labels.index(reference)
    others = [(i, base) for i in range(len(labels)) if i != base]
    # Every pair once, those with the reference as they are shown.
    rest = [(i, j) for i, j in itertools.combinations(range(len(labels)), 2) if base not in (i, j)]
    tested = others if reference is not None else [*others, *rest]
    family = _family(column, samples.rows, tested, sign, samples.left_out)
    shown = family.comparisons[: len(others)]
    by_place = sorted(zip(others, shown, strict=True), key=lambda one: one[0])
    return replace(
        family,
        reference=samples.rows[base].row,
        comparisons=tuple(one for _, one in by_place),
        is_chosen=reference is None,
    )


def compare_all(results: SuiteResults, column: Column, metric: str = "faa") -> Family | None:
    """Compare every pair of sequential rows of a benchmark; ``None`` with fewer than two comparable rows."""
    samples = comparable(results, column, metric)
    pairs = list(itertools.combinations(range(len(samples.rows)), 2))
    return _family(column, samples.rows, pairs, results.metric(metric).sign, samples.left_out) if pairs else None


def _best(samples: Sequence[Sample], sign: int) -> int:
    ranked = [i for i, sample in enumerate(samples) if sample.row.kind not in REFERENCES] or range(len(samples))
    repeated = [i for i in ranked if len(samples[i].values) > 1] or ranked

    def mean(i: int) -> float:
        found = summarise(samples[i].values.values())
        return -math.inf if found is None else sign * round(found.mean, DIGITS)

    return max(repeated, key=mean)


def differences_of(one: Sample, other: Sample) -> dict[Pair, float]:
    """The first row minus the second, for every class order and training seed that both have."""
    return {
        pair: round(value - other.values[pair], DIGITS) for pair, value in one.values.items() if pair in other.values
    }


def in_units(differences: Mapping[Pair, float]) -> list[float]:
    """The mean difference of each class order; of a single order, that of each training seed."""
    orders: dict[int, list[float]] = {}
    for (order, _), value in differences.items():
        orders.setdefault(order, []).append(value)
    if len(orders) == 1:
        return list(differences.values())
    return [round(statistics.fmean(values), DIGITS) for values in orders.values()]


def chosen_test(units: Iterable[int]) -> TestName:
    """The test of a family whose comparisons have so many units: the exact one where each could be decided by it."""
    attainable = holm([2.0 ** (1 - count) for count in units])
    return "signed rank" if all(value <= ALPHA for value in attainable) else "t"


def _family(
    column: Column, samples: Sequence[Sample], pairs: Sequence[tuple[int, int]], sign: int, left_out: tuple[str, ...]
) -> Family:
    """Comparisons of these pairs of rows, the first minus the second, in the order given."""
    differences = [differences_of(samples[i], samples[j]) for i, j in pairs]
    units = [in_units(found) for found in differences]
    tested = [values for values in units if len(values) >= LEAST_UNITS]
    test = chosen_test(map(len, tested))
    chances = [None if len(values) < LEAST_UNITS else _p(values, test) for values in units]
    # A test that the values do not define counts in the correction all the same, so that they do not decide how many there are.
    counted = [1.0 if p is None else p for values, p in zip(units, chances, strict=True) if len(values) >= LEAST_UNITS]
    corrected = iter(holm(counted))
    adjusted = [next(corrected) if len(values) >= LEAST_UNITS else None for values in units]
    compared = [
        _comparison(samples[i], samples[j], found, values, p, None if p is None else after, sign, test)
        for (i, j), found, values, p, after in zip(pairs, differences, units, chances, adjusted, strict=True)
    ]
    size = len(counted)
    orders = {order for found in differences for order, _ in found}
    return Family(
        column,
        None,
        tuple(compared),
        size,
        False,
        test,
        max(map(len, units)),
        units_needed(size),
        len(orders) == 1,
        left_out,
    )


def _p(units: Sequence[float], test: TestName) -> float | None:
    return signed_rank(units).p if test == "signed rank" else t_test(units)


def _comparison(
    one: Sample,
    reference: Sample,
    differences: Mapping[Pair, float],
    units: Sequence[float],
    p: float | None,
    adjusted: float | None,
    sign: int,
    test: TestName,
) -> Comparison:
    gains = [sign * value for value in units]
    wins, losses = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    verdict, words = _verdict(gains, adjusted, test)
    return Comparison(
        one.row,
        reference.row,
        summarise(units),
        effect_size(units),
        wins,
        len(gains) - wins - losses,
        losses,
        p,
        adjusted,
        verdict,
        words,
        len(differences),
        tuple(sample.runs[pair] for sample in (one, reference) for pair in differences),
    )


def _verdict(gains: Sequence[float], adjusted: float | None, test: TestName) -> tuple[Verdict, str]:
    if not gains:
        return "not compared", "no class order and training seed in common"
    if not any(gains):
        return "equal", f"the same number in {'the only pair' if len(gains) == 1 else f'all {len(gains)}'}"
    if adjusted is None:
        few = f"fewer than {LEAST_UNITS} cannot decide"
        return "undecided", few if len(gains) < LEAST_UNITS else "cannot be decided: all differ by the same"
    if adjusted > ALPHA:
        return "no difference shown", "no difference shown"
    if test == "t":
        balance = math.fsum(gains)
    else:  # the direction is that of the rank sums, as the test is on ranks
        moved = [gain for gain in gains if gain != 0]
        balance = sum(math.copysign(rank, gain) for rank, gain in zip(_twice_ranks(moved), moved, strict=True))
    return ("better", "better") if balance > 0 else ("worse", "worse")
