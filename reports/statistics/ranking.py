"""Average ranks over benchmarks and class orders, their tests, and the agreement of class orders.

A block is one benchmark under one class order, its runs averaged over training seeds. Rows are ranked within each block; the
tests are Friedman's and Nemenyi's as in Demšar (2006). Blocks of one benchmark share its images, so that p-values are too small:
``DEPENDENCE`` must stand beside their numbers.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, ndtr

from smope_bench.reports.loading.model import Column, SuiteResults
from smope_bench.reports.statistics.paired_tests import ALPHA
from smope_bench.reports.statistics.samples import DIGITS, comparable
from smope_bench.reports.text import number, p_text

DEPENDENCE = (
    "Blocks are not independent: those of one benchmark share its images, and benchmarks may share the backbone. "
    "The p-value and the critical difference therefore look surer than they are; read the ranks as a description."
)
Block = tuple[str, int]
"""Label of the benchmark, seed of the class order."""


@dataclass(frozen=True)
class RankTable:
    """Complete blocks: ``values`` and ``ranks`` are (blocks, rows), in percent and from 1; ``runs`` has the ids of each value."""

    rows: tuple[str, ...]
    blocks: tuple[Block, ...]
    values: NDArray[np.float64]
    ranks: NDArray[np.float64]
    runs: Mapping[Block, Mapping[str, Sequence[str]]]
    left_out: tuple[str, ...] = ()

    def runs_of(self, row: str, column: str | None = None) -> tuple[str, ...]:
        """Ids of the runs of a row, of one benchmark where it is given."""
        return tuple(run for block in self.blocks if column in (None, block[0]) for run in self.runs[block][row])

    @property
    def mean_ranks(self) -> dict[str, float]:
        """Row label -> mean rank over the blocks, 1 is best; in the order of rows."""
        return {row: statistics.fmean(self.ranks[:, i].tolist()) for i, row in enumerate(self.rows)}


@dataclass(frozen=True)
class Ranking:
    """Rows ranked over all blocks. ``statistic``, ``p`` (Friedman) and ``critical`` (Nemenyi) need three rows and two blocks.

    ``critical``: mean ranks that differ by less are not told apart at 0.05.
    """

    table: RankTable
    statistic: float | None
    p: float | None
    critical: float | None

    @property
    def is_useless(self) -> bool:
        """Whether even rows that are first and last in all blocks would not be told apart."""
        return self.critical is not None and self.critical >= len(self.table.rows) - 1

    @property
    def order(self) -> list[tuple[str, float]]:
        """Rows with their mean ranks, the best first; ties in the order of the table."""
        return sorted(self.table.mean_ranks.items(), key=lambda pair: round(pair[1], DIGITS))

    @property
    def groups(self) -> list[tuple[int, int]]:
        """Longest intervals (first, last) of ``order`` that are not told apart; all rows if Friedman's p is above 0.05."""
        ranks = [rank for _, rank in self.order]
        if self.critical is None or self.p is None or self.p > ALPHA:
            return [(0, len(ranks) - 1)]
        found: list[tuple[int, int]] = []
        for first, rank in enumerate(ranks):
            last = max(i for i, other in enumerate(ranks) if other - rank <= self.critical)
            if last > first and (not found or last > found[-1][1]):
                found.append((first, last))
        return found


@dataclass(frozen=True)
class Stability:
    """Agreement of a benchmark's class orders on the ranking: Kendall's W (0 none, 1 full), ``None`` if all rows tie.

    ``firsts``: row label -> in how many orders it is first, where sharing the first place counts. ``places``: best and worst.
    """

    column: Column
    table: RankTable
    w: float | None

    @property
    def firsts(self) -> dict[str, int]:
        """Row label -> number of class orders in which no row is better."""
        best = self.table.ranks.min(axis=1, keepdims=True)
        return dict(zip(self.table.rows, (self.table.ranks == best).sum(axis=0).tolist(), strict=True))

    @property
    def places(self) -> dict[str, tuple[float, float]]:
        """Row label -> its best and its worst rank over the class orders."""
        low, high = self.table.ranks.min(axis=0).tolist(), self.table.ranks.max(axis=0).tolist()
        return dict(zip(self.table.rows, zip(low, high, strict=True), strict=True))


def rank_rows(results: SuiteResults, metric: str = "faa") -> Ranking | None:
    """Rank the sequential rows over every benchmark and class order; ``None`` with fewer than two rows or two blocks."""
    table = _table(results, results.columns, metric)
    if table is None:
        return None
    statistic, p = friedman(table.ranks)
    return Ranking(
        table, statistic, p, None if statistic is None else critical_difference(len(table.rows), len(table.blocks))
    )


def stability(results: SuiteResults, column: Column, metric: str = "faa") -> Stability | None:
    """Compare the rankings under a benchmark's class orders; ``None`` with fewer than two rows or two orders."""
    table = _table(results, [column], metric)
    return None if table is None else Stability(column, table, kendall_w(table.ranks))


def friedman(ranks: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """Friedman's chi-squared and its p-value for ``ranks`` (blocks, rows), corrected for ties; ``None`` where undefined."""
    blocks, rows = ranks.shape
    w = kendall_w(ranks)
    if rows < 3 or blocks < 2 or w is None:
        return None, None
    statistic = blocks * (rows - 1) * w
    return statistic, float(chdtrc(rows - 1, statistic))


def kendall_w(ranks: NDArray[np.float64]) -> float | None:
    """Kendall's coefficient of concordance of (judges, items) ranks, corrected for ties; ``None`` if every judge ties all.

    W = 12 S / (m^2 (k^3 - k) - m T), S the squared deviations of the k rank sums, T the sum of t^3 - t over tied groups
    (Kendall and Gibbons 1990, chapter 6).
    """
    m, k = ranks.shape
    sums = ranks.sum(axis=0)
    spread = float(((sums - sums.mean()) ** 2).sum())
    ties = sum(int(count) ** 3 - int(count) for judge in ranks for count in np.unique(judge, return_counts=True)[1])
    whole = m * m * (k**3 - k) - m * ties
    return None if whole <= 0 else min(1.0, 12 * spread / whole)


def critical_difference(rows: int, blocks: int) -> float:
    """Nemenyi's q(0.05, rows) sqrt(rows (rows + 1) / (6 blocks)); q: studentised range over sqrt 2, infinite freedom."""
    return studentised_range(rows) / math.sqrt(2) * math.sqrt(rows * (rows + 1) / (6 * blocks))


@cache
def studentised_range(rows: int) -> float:
    """The range of so many standard normal values that is exceeded with probability ``ALPHA``.

    As ``scipy.stats.studentized_range`` with infinite freedom; to import ``scipy.stats`` takes longer than all other statistics.
    """
    from scipy.optimize import brentq

    low = np.linspace(-9, 9, 2001)  # the least value; the integrand is smooth, and 0 at both ends
    density = np.exp(-(low**2) / 2) / math.sqrt(2 * math.pi)

    def excess(width: float) -> float:
        within = rows * np.trapezoid(density * (ndtr(low + width) - ndtr(low)) ** (rows - 1), low)
        return float(within) - (1 - ALPHA)

    found: Any = brentq(excess, 0, 20, xtol=1e-10)
    return float(found)


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1 within each line, the least value first; equal values share the mean of their ranks."""
    below = (values[:, None, :] < values[:, :, None]).sum(axis=2)
    equal = (values[:, None, :] == values[:, :, None]).sum(axis=2)
    return below + (equal + 1) / 2


def _table(results: SuiteResults, columns: Sequence[Column], metric: str) -> RankTable | None:
    """Complete blocks, after the rows and blocks with most gaps were dropped; ``None`` if fewer than two of either remain."""
    values: dict[Block, dict[str, float]] = {}
    runs: dict[Block, dict[str, list[str]]] = {}
    left_out: list[str] = []
    for column in columns:
        samples = comparable(results, column, metric)
        left_out += samples.left_out
        for sample in samples.rows:
            grouped: dict[int, list[float]] = {}
            for (order, train), value in sample.values.items():
                grouped.setdefault(order, []).append(value)
                named = runs.setdefault((column.label, order), {}).setdefault(sample.row.label, [])
                named.append(sample.runs[order, train])
            for order, found in grouped.items():
                values.setdefault((column.label, order), {})[sample.row.label] = round(statistics.fmean(found), DIGITS)
    places = [column.label for column in columns]
    blocks = sorted(values, key=lambda block: (places.index(block[0]), block[1]))
    rows = [row.label for row in results.rows if any(row.label in found for found in values.values())]
    kept_rows, kept_blocks = _complete(values, rows, blocks)
    if len(kept_rows) < 2 or len(kept_blocks) < 2:
        return None
    missing = [f"{label}, order {order}" for label, order in blocks if (label, order) not in kept_blocks]
    gaps = [row for row in rows if row not in kept_rows]
    left_out += [f"Left out of the ranks, as not run in every block: {', '.join(gaps)}."] * bool(gaps)
    left_out += [f"Left out of the ranks, as not run by every row: {'; '.join(missing)}."] * bool(missing)
    table = np.array([[values[block][row] for row in kept_rows] for block in kept_blocks])
    sign = -results.metric(metric).sign
    return RankTable(tuple(kept_rows), tuple(kept_blocks), table, _ranks(sign * table), runs, tuple(left_out))


def _complete(
    values: Mapping[Block, Mapping[str, float]], rows: Sequence[str], blocks: Sequence[Block]
) -> tuple[list[str], list[Block]]:
    """Drop the row or block with the largest share of gaps until no gap is left; among equals a block, and the later one."""
    kept_rows, kept_blocks = list(rows), list(blocks)
    while kept_rows and kept_blocks:
        by_row = [sum(row not in values[block] for block in kept_blocks) / len(kept_blocks) for row in kept_rows]
        by_block = [sum(row not in values[block] for row in kept_rows) / len(kept_rows) for block in kept_blocks]
        worst = max(*by_row, *by_block)
        if worst == 0:
            break
        gaps, kept = (by_block, kept_blocks) if worst in by_block else (by_row, kept_rows)
        del kept[len(gaps) - 1 - gaps[::-1].index(worst)]
    return kept_rows, kept_blocks


def friedman_words(ranking: Ranking) -> tuple[str, ...]:
    """The results of Friedman's and Nemenyi's tests in sentences, with their caveats."""
    table = ranking.table
    k, n = len(table.rows), len(table.blocks)
    size = f"{k} rows over {n} blocks"
    if k < 3:
        return (f"Friedman's test needs three rows; there are {k}.", DEPENDENCE)
    if ranking.p is None or ranking.critical is None or ranking.statistic is None:
        return (f"Friedman's test is not defined: in every block all rows are equal ({size}).", DEPENDENCE)
    found = [
        f"Friedman's test, {size}: chi-squared {number(ranking.statistic)}, {k - 1} degrees, p {_equals(ranking.p)}."
    ]
    if n < 10:
        found.append("With fewer than ten blocks the chi-squared distribution is a rough approximation.")
    cd = f"Nemenyi's critical difference at 0.05 is {number(ranking.critical)} ranks of {k} rows"
    if ranking.is_useless:
        found.append(f"{cd}: as much as lies between the first and the last, so it tells nothing apart.")
    elif ranking.groups == [(0, k - 1)]:
        found.append(f"{cd}; no two rows are told apart.")
    else:
        found.append(f"{cd}; rows that differ by less are not told apart.")
    return (*found, DEPENDENCE)


def _equals(p: float) -> str:
    text = p_text(p)
    return text if text.startswith("<") else f"= {text}"
