"""What changed between two results folders, cell by cell: differences of runs with the same seeds, and whether they matter."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from smope_bench.reports.loading.model import Cell, SuiteResults, Summary, run_ids, summarise
from smope_bench.reports.loading.run_result import RunResult
from smope_bench.reports.statistics.samples import DIGITS
from smope_bench.reports.text import signed

METRIC = "faa"
ChangeVerdict = Literal["equal", "within", "beyond", "single", "apart", "here", "there"]


@dataclass(frozen=True)
class CellChange:
    """One cell in both folders; ``None`` where a folder does not plan it."""

    current: Cell | None
    baseline: Cell | None

    @property
    def cell(self) -> Cell:
        """The cell of either folder, for its labels."""
        found = self.current or self.baseline
        assert found is not None
        return found

    @cached_property
    def pairs(self) -> tuple[tuple[RunResult, RunResult], ...]:
        """(baseline, current) of every pair of averaged runs with the same seeds, by seeds."""
        baseline, current = (
            {(run.order_seed, run.train_seed): run.outcome for run in cell.used if run.outcome} if cell else {}
            for cell in (self.baseline, self.current)
        )
        return tuple((baseline[seeds], current[seeds]) for seeds in sorted(baseline.keys() & current.keys()))

    @cached_property
    def differences(self) -> tuple[float, ...]:
        """FAA of current less baseline for each pair, rounded to ``DIGITS`` decimals."""
        both = [(baseline.metrics[METRIC], current.metrics[METRIC]) for baseline, current in self.pairs]
        return tuple(round(new - old, DIGITS) for old, new in both if new is not None and old is not None)

    @cached_property
    def summary(self) -> Summary | None:
        """Summary of the paired differences."""
        return summarise(self.differences)

    @cached_property
    def verdict(self) -> ChangeVerdict:
        """How the cell changed."""
        if self.current is None or self.baseline is None:
            return "there" if self.current is None else "here"
        if not self.pairs or self.summary is None:
            return "apart"
        if all(are_equal(*pair) for pair in self.pairs):
            return "equal"
        low, high = self.summary.low, self.summary.high
        if self.summary.n == 1:
            return "single"
        if low is None or high is None:  # every pair differs by the same
            return "within" if self.summary.mean == 0 else "beyond"
        return "within" if low <= 0 <= high else "beyond"

    @property
    def runs(self) -> tuple[str, ...]:
        """Ids of the averaged runs of both folders, those of the baseline first, each once."""
        return run_ids(cell for cell in (self.baseline, self.current) if cell)


def changes_of(current: SuiteResults | None, baseline: SuiteResults | None) -> list[CellChange]:
    """Every cell that one of the folders plans, column by column in the order of ``current``."""
    sides = [side for side in (current, baseline) if side is not None]
    columns = dict.fromkeys(column.label for side in sides for column in side.columns)
    rows = dict.fromkeys(row.label for side in sides for row in side.rows)

    def planned(side: SuiteResults | None, place: tuple[str, str]) -> Cell | None:
        cell = side.cells.get(place) if side else None
        return cell if cell is not None and cell.runs else None

    places = [(row, column) for column in columns for row in rows]
    found = [CellChange(planned(current, place), planned(baseline, place)) for place in places]
    return [change for change in found if change.current or change.baseline]


def are_equal(baseline: RunResult, current: RunResult) -> bool:
    """Whether two results have the same accuracies to the last digit."""
    return baseline.accuracy_matrix == current.accuracy_matrix


def moved_text(value: float) -> str:
    """``+0.52``; a difference that two decimals would show as 0 keeps its size, as in ``+3.1e-07``."""
    return f"{value:+.1e}" if value and abs(value) < 0.005 else signed(value)
