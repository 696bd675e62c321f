"""How many seeds a difference between methods would need, from the spread of the runs that are already there.

A row is compared with the suite's reference row by the paired t-test over class orders, at 0.05 after correction for all rows but
ceilings, as in the report.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from smope_bench.benchmarks.suites.schema import CEILINGS
from smope_bench.harness.metrics import final_average_accuracy
from smope_bench.harness.planning.planner import PlannedRun
from smope_bench.harness.records.record import Record
from smope_bench.harness.records.store import Store

ALPHA, POWER = 0.05, 0.8
"""Chance of a false claim in a whole family of comparisons, and chance to find a true difference."""
MOST_SEEDS = 1_000


@dataclass(frozen=True)
class SeedsNeeded:
    """For one benchmark: seeds that a difference of ``points`` needs for the row of median and for that of largest spread.

    ``spreads``: standard deviation of the paired difference by row, in points. ``seeds``: class orders that were measured, at
    most. ``median``, ``largest``: class orders needed; None for more than ``MOST_SEEDS``.
    """

    suite: str
    benchmark: str
    reference: str
    points: float
    seeds: int
    spreads: Mapping[str, float]
    median: int | None
    largest: int | None

    @property
    def words(self) -> str:
        """One sentence."""
        spread = statistics.median(self.spreads.values())
        worst = max(self.spreads, key=lambda row: self.spreads[row])
        size = len(self.spreads)
        return (
            f"{self.benchmark}: a difference of {self.points:g} points to {self.reference} needs {_seeds(self.median)} for a"
            f" typical row (its paired differences scatter by {spread:.2f} points) and {_seeds(self.largest)} for {worst}"
            f" ({self.spreads[worst]:.2f}), to be found with {POWER:.0%} chance at {ALPHA} after correction for {size}"
            f" row{'s' * (size != 1)}; spread as measured over up to {self.seeds} class orders."
        )


def _seeds(count: int | None) -> str:
    return f"more than {MOST_SEEDS:,} seeds" if count is None else f"{count} seeds"


def seeds_needed(points: float, spread: float, comparisons: int) -> int | None:
    """Class orders with which the paired t-test finds a mean difference of ``points``, with chance ``POWER``.

    ``spread``: standard deviation of the difference between class orders. ``comparisons``: tests that are corrected for
    together, each taken at ``ALPHA / comparisons``, as Holm's correction tests the smallest p-value. None for more than
    ``MOST_SEEDS``.
    """
    from scipy.special import nctdtr, stdtrit

    for seeds in range(3, MOST_SEEDS + 1):
        limit = float(stdtrit(seeds - 1, 1 - ALPHA / comparisons / 2))
        shift = math.inf if spread == 0 else points / spread * math.sqrt(seeds)
        # Beyond 37 the distribution function of the shifted variable is below 1e-16 of a double.
        if shift > limit + 37 or 1 - float(nctdtr(seeds - 1, shift, limit)) >= POWER:
            return seeds
    return None


def power(runs: Sequence[PlannedRun], store: Store, points: float, references: Mapping[str, str]) -> list[SeedsNeeded]:
    """One entry for each suite and benchmark with two class orders of the reference and another row in ``store``.

    ``references``: suite -> label of its reference row; without one, it is the row with the best mean.
    """
    ceilings = {row.method for row in CEILINGS}
    measured: dict[tuple[str, str], dict[str, dict[int, list[float]]]] = {}
    for run in runs:
        record = None if run.lacks_weights or run.method in ceilings else store.load(run.run_id)
        faa = final_average_accuracy(record.result["accuracy_matrix"]) if isinstance(record, Record) else None
        if faa is not None:
            rows = measured.setdefault((run.suite, run.benchmark), {})
            rows.setdefault(run.row, {}).setdefault(run.spec.order_seed, []).append(faa)
    found = (
        _needed(suite, benchmark, _means(rows), points, references.get(suite, ""))
        for (suite, benchmark), rows in measured.items()
    )
    return [one for one in found if one is not None]


def _means(rows: Mapping[str, Mapping[int, Sequence[float]]]) -> dict[str, dict[int, float]]:
    return {row: {order: statistics.fmean(values) for order, values in found.items()} for row, found in rows.items()}


def _needed(
    suite: str, benchmark: str, rows: Mapping[str, Mapping[int, float]], points: float, reference: str
) -> SeedsNeeded | None:
    if reference not in rows:
        reference = max(rows, key=lambda row: statistics.fmean(rows[row].values()))
    base, spreads, seeds = rows[reference], dict[str, float](), 0
    for row, found in rows.items():
        shared = [value - base[order] for order, value in found.items() if order in base]
        if row != reference and len(shared) > 1:
            spreads[row], seeds = statistics.stdev(shared), max(seeds, len(shared))
    if not spreads:
        return None
    typical, largest = (
        seeds_needed(points, spread, len(spreads))
        for spread in (statistics.median(spreads.values()), max(spreads.values()))
    )
    return SeedsNeeded(suite, benchmark, reference, points, seeds, spreads, typical, largest)
