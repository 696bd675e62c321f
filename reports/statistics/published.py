"""Published results of papers, and the comparison of measured cells with them.

The combined spread is sqrt(s1^2 + s2^2) of the measured and the printed standard deviation between runs; it is no test of
significance. Ours has n - 1 in its denominator; papers may print the one over n, which at five runs is 0.89 of it.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from smope_bench.benchmarks.suites import SUITES, Suite
from smope_bench.benchmarks.suites import Column as SuiteColumn
from smope_bench.benchmarks.suites import Row as SuiteRow
from smope_bench.reports.loading.model import (
    NOT_VERIFIED,
    TAKEN,
    Cell,
    CellState,
    Column,
    ResultRow,
    SuiteResults,
    Summary,
)
from smope_bench.reports.loading.run_result import RunResult
from smope_bench.reports.text import Tone, signed

ROUNDING = 1e-9
INSIDE, OUTSIDE = "inside", "outside"
NO_SPREAD_PRINTED, ONE_RUN = "no spread printed", "one run has no spread"
OWN_SETTINGS = "own settings"
TINY = "tiny run is no comparison"
USUAL: Mapping[str, object] = {"split": None, "class_order": "shuffled", "holdout": 0, "limit": None}
"""Settings of a benchmark that all suites with printed numbers share, but for those that a suite's column has itself."""
TONES: Mapping[str, Tone] = {INSIDE: "good", OUTSIDE: "bad"}
_UNMEASURED: Mapping[CellState, str] = {
    "missing": "not run yet",
    "failed": "failed",
    "unusable": "records cannot be used",
    "mixed": "mixed, not averaged",
    "stale": "stale and mixed, not averaged",
    "unplanned": "not planned",
}
SPREAD_NOTE = (
    "Inside or outside: whether the measured and the printed mean differ by no more than the combined spread, the root of the "
    "sum of the squares of the two standard deviations between runs; it is a yardstick and no test of significance. Deviations "
    "measured here have n - 1 in the denominator; papers may print the one over n, which at five runs is 0.89 of it."
)


@dataclass(frozen=True)
class Key:
    """Place of a printed number, by the names in ``published_results.csv``."""

    paper: str
    table: str
    benchmark: str
    tasks: int
    backbone: str
    variant: str
    method: str
    metric: str


@dataclass(frozen=True)
class PublishedValue:
    """A printed number: ``std`` is ``None`` where none is printed, ``text`` has the printed digits."""

    mean: float
    std: float | None
    text: str


@dataclass(frozen=True)
class Comparison:
    """A measured cell compared with a printed number, in the metric's unit.

    ``verdict``: ``inside``, ``outside``, or the reason why neither applies. ``difference`` (measured less printed) is ``None``
    where the two are not comparable, ``spread`` also where a standard deviation is missing.
    """

    verdict: str
    difference: float | None = None
    spread: float | None = None

    @property
    def text(self) -> str:
        """``+0.31, inside``; the verdict alone where there is no difference."""
        return self.verdict if self.difference is None else f"{signed(self.difference)}, {self.verdict}"


@cache
def published_values() -> Mapping[Key, PublishedValue]:
    """All published results, in the order of the file. Raises ValueError for a line that cannot be read."""
    return read_published(files("smope_bench.reports").joinpath("published_results.csv").read_text(encoding="utf-8"))


def read_published(text: str) -> Mapping[Key, PublishedValue]:
    """Parse a file of published results. Raises ValueError that names a line that is not usable or occurs twice."""
    found: dict[Key, PublishedValue] = {}
    for place, line in enumerate(csv.DictReader(text.splitlines()), 2):
        if None in line or None in line.values():
            raise ValueError(f"line {place} of the published results cannot be read: it has not one value a column")
        try:
            key = Key(
                *(line[name] for name in ("paper", "table", "benchmark")),
                tasks=int(line["tasks"]),
                **{name: line[name] for name in ("backbone", "variant", "method", "metric")},
            )
            mean, std = float(line["mean"]), float(line["std"]) if line["std"] else None
        except (KeyError, ValueError) as error:
            raise ValueError(f"line {place} of the published results cannot be read: {error}") from error
        if not math.isfinite(mean) or not math.isfinite(std or 0) or (std or 0) < 0:
            raise ValueError(f"line {place} of the published results has no possible mean and deviation: {mean}, {std}")
        if key in found:
            raise ValueError(f"line {place} of the published results is printed a second time: {key}")
        found[key] = PublishedValue(mean, std, " ± ".join(part for part in (line["mean"], line["std"]) if part))
    return MappingProxyType(found)


@dataclass(frozen=True)
class PrintedTable:
    """A paper's table, looked up by rows and full-scale columns of the suite that reproduces it."""

    suite: Suite
    values: Mapping[Key, PublishedValue]

    def key(self, row: SuiteRow, column: SuiteColumn, metric: str) -> Key:
        """Where the paper would print a metric of a row on a column."""
        printed = self.suite.printed
        assert printed is not None
        where = (printed.paper, printed.table, column.benchmark, int(column.config["tasks"]))
        return Key(*where, column.printed_backbone or column.backbone, row.variant, row.method, metric)

    def value(self, row: ResultRow, column: SuiteColumn, metric: str) -> PublishedValue | None:
        """The number printed for a row of the results, or ``None`` where the paper prints none."""
        own = self.row_of(row)
        return None if own is None else self.values.get(self.key(own, column, metric))

    def row_of(self, row: ResultRow) -> SuiteRow | None:
        """The suite's row of that label and method; a row that somebody added has no printed numbers."""
        own = (*self.suite.rows, *self.suite.tiny_rows)
        return next((one for one in own if (one.label, one.method) == (row.label, row.method)), None)

    def column_of(self, column: Column) -> SuiteColumn | None:
        """The printed column that a column of the results is: one of another label has other settings."""
        for own in self.columns:
            backbone = column.backbone or own.backbone
            printed = (own.label, own.benchmark, own.config["tasks"], own.backbone)
            if printed == (column.label, column.benchmark, column.tasks, backbone):
                return own
        return None

    @property
    def notes(self) -> tuple[str, ...]:
        """The source of the printed numbers, where the suite names one."""
        source = self.suite.printed.source if self.suite.printed is not None else ""
        return (f"Printed: {source}.",) if source else ()

    @property
    def columns(self) -> tuple[SuiteColumn, ...]:
        """The full-scale columns, in the suite's order."""
        return self.suite.full

    def place(self, key: Key) -> tuple[SuiteRow | None, SuiteColumn | None]:
        """The suite's row and full-scale column of a printed number; ``None`` where the suite lacks one."""
        rows = [row for row in self.suite.rows if (row.method, row.variant) == (key.method, key.variant)]
        columns = [
            column
            for column in self.columns
            if (column.benchmark, column.config["tasks"]) == (key.benchmark, key.tasks)
            and (column.printed_backbone or column.backbone) == key.backbone
        ]
        return next(iter(rows), None), next(iter(columns), None)


def printed_table(results: SuiteResults) -> PrintedTable | None:
    """The printed table of a suite; ``None`` for a suite without one, and where no benchmark or recipe is the suite's.

    Nor where any run is of another split, class order or number of images than the suite's.
    """
    suite = SUITES.get(results.suite)
    if suite is None:
        return None
    runs = [run for cell in results.all_cells for run in cell.runs]
    columns = (*suite.tiny, *suite.full)
    if any(
        (run.recipe or "").startswith(TAKEN) or (run.outcome and is_other_protocol(run.outcome, columns))
        for run in runs
    ):
        return None
    own = {(column.benchmark, column.config.get("tasks")) for column in columns}
    return table_of(suite) if any((column.benchmark, column.tasks) in own for column in results.columns) else None


def is_other_protocol(outcome: RunResult, columns: Iterable[SuiteColumn]) -> bool:
    """Whether a run's split, class order, held-out share or limit is neither the usual one nor its benchmark's in ``columns``."""
    name, config = outcome.spec["benchmark"]["name"], outcome.spec["benchmark"].get("config", {})
    own = next((column.config for column in columns if column.benchmark == name), {})
    return any(config.get(key, wanted) != wanted for key, wanted in {**USUAL, **own}.items() if key in USUAL)


def table_of(suite: Suite) -> PrintedTable | None:
    """The printed table that a suite reproduces, or ``None``."""
    if suite.printed is None:
        return None
    where = (suite.printed.paper, suite.printed.table)
    return PrintedTable(suite, {key: one for key, one in published_values().items() if (key.paper, key.table) == where})


def compare(cell: Cell, metric: str, published: PublishedValue, column: SuiteColumn) -> Comparison:
    """A cell's metric against a number that is printed on ``column``, if the cell's runs follow that column's protocol.

    The runs' specifications decide, not their labels. Runs that are tiny, on random or unverified weights, limited to some
    images, in uneven tasks, by another rule of class order, with images held out, by a recipe of another setting, or of another
    benchmark, number of tasks or backbone are not compared; settings made by hand are, with a mark (``by_hand``).
    """
    if any((run.recipe or "").startswith(TAKEN) for run in cell.used):
        return Comparison("recipe of another setting is no comparison")
    if not cell.outcomes:
        return Comparison(_UNMEASURED.get(cell.state, cell.state))
    printed = (cell.row.method, column.benchmark, column.config["tasks"], column.backbone)
    for outcome in cell.outcomes:
        flags = outcome.flags
        reasons = (
            (flags.tiny, TINY),
            (flags.random_backbone, "random weights are no comparison"),
            (flags.unverified_weights, NOT_VERIFIED),
            (outcome.limit is not None, "few images a class are no comparison"),
        )
        if found := [reason for applies, reason in reasons if applies]:
            return Comparison(found[0])
        method, benchmark, backbone = (outcome.spec[part]["name"] for part in ("method", "benchmark", "backbone"))
        is_changed = len(outcome.spec["backbone"]) > 2  # beside name and hash: another input size or feature
        if (
            is_other_protocol(outcome, (column,))
            or is_changed
            or (method, benchmark, outcome.tasks, backbone) != printed
        ):
            return Comparison("other protocol is no comparison")
    summary = cell.summary(metric)
    return Comparison("not defined") if summary is None else judge(summary, published)


def judge(measured: Summary, published: PublishedValue) -> Comparison:
    """Difference, combined spread and verdict of comparable means; a difference equal to the spread is inside."""
    difference = measured.mean - published.mean
    if published.std is None:
        return Comparison(NO_SPREAD_PRINTED, difference)
    if measured.std is None:
        return Comparison(ONE_RUN, difference)
    spread = math.hypot(measured.std, published.std)
    return Comparison(INSIDE if abs(difference) <= spread + ROUNDING else OUTSIDE, difference, spread)


def by_hand(cell: Cell) -> tuple[str, ...]:
    """What the user set by hand in the runs that are averaged, each setting once."""
    return tuple(dict.fromkeys(text for run in cell.used for text in run.settings))


def said_marks(cell: Cell, *, tiny_suite: bool = False) -> tuple[str, ...]:
    """All marks of a cell's number; ``rehearsal`` only where the whole suite is not one."""
    if not cell.outcomes:
        return cell.marks
    found = [OWN_SETTINGS] if by_hand(cell) else []
    found += ["rehearsal"] if not tiny_suite and any(outcome.flags.tiny for outcome in cell.outcomes) else []
    found += [f"{len(cell.used)} of {len(cell.runs)} runs"] if len(cell.used) < len(cell.runs) else []
    return (*cell.marks, *found)
