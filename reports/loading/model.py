"""Results of a suite: rows, columns, and cells with their runs."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from scipy.special import expit, logit, stdtrit

from smope_bench.benchmarks.suites.schema import Drawing
from smope_bench.harness.metrics import METRICS, Metric
from smope_bench.reports.loading.run_result import RunResult, Setup

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """``n`` values: their mean, sample standard deviation (n - 1) and two-sided 95 % interval of the mean.

    All in the unit of the values. One value has a mean only: ``std``, ``low`` and ``high`` are ``None``. Equal values have no
    interval: with no spread to measure, how sure their mean is cannot be said.
    """

    n: int
    mean: float
    std: float | None
    low: float | None
    high: float | None


def summarise(values: Iterable[float], bounds: tuple[float, float] | None = None) -> Summary | None:
    """Summarise finite values; ``None`` for no values at all. Raises ValueError for NaN and infinity.

    The interval is Student's t. For values that lie within ``bounds`` it is formed on their logit scale, where the standard
    error is that of the mean over m (1 - m), m the mean's place between the bounds (delta method), and turned back: it stays
    within the bounds, and keeps its 95 % where a mean is close to one (``statistics/simulation.py``). Sums are exactly
    rounded, so that the order of the runs does not matter.
    """
    found = [float(value) for value in values]
    if not found:
        return None
    if not all(map(math.isfinite, found)):
        raise ValueError(f"cannot summarise values that are not finite: {found}")
    n, mean = len(found), statistics.fmean(found)
    # The mean of equal values can otherwise be one bit outside of them.
    mean = min(max(mean, min(found)), max(found))
    if n == 1:
        return Summary(1, mean, None, None, None)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in found) / (n - 1))
    if std == 0:
        return Summary(n, mean, 0.0, None, None)
    reach = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * std / math.sqrt(n)
    if bounds is None or not bounds[0] < mean < bounds[1]:
        return Summary(n, mean, std, mean - reach, mean + reach)
    low, width = bounds[0], bounds[1] - bounds[0]
    place = (mean - low) / width
    wide = reach / width / (place * (1 - place))
    ends = (low + width * float(expit(float(logit(place)) + side * wide)) for side in (-1, 1))
    return Summary(n, mean, std, *ends)


def median(values: Iterable[float]) -> float | None:
    """The median of finite values; ``None`` for no values."""
    found = sorted(float(value) for value in values)
    return statistics.median(found) if found else None


RunState = Literal["ok", "stale", "failed", "broken", "missing"]
CellState = Literal["ok", "partial", "mixed", "stale", "failed", "unusable", "missing", "unplanned"]
RowKind = Literal["method", "floor", "adapter", "ceiling"]

MIXED_CODE = "mixed code"
NOT_VERIFIED = "weights not verified"
SLIP = "normalize_slip"
"""Setting of a benchmark whose pictures are normalised unlike, as in official code by an oversight."""
EXEMPLARS = "exemplars"
UNRANKED = frozenset({"stale", MIXED_CODE, "leaking", EXEMPLARS})
"""Marks of cells that are not ranked and not tested."""
TAKEN = "taken from "
"""Beginning of the sources of recipes that were taken from another setting."""
KINDS: tuple[RowKind, ...] = ("floor", "method", "adapter", "ceiling")
REFERENCES: frozenset[RowKind] = frozenset({"adapter", "ceiling"})
"""Kinds of rows that stand beside the methods and take no place among them."""


@dataclass(frozen=True)
class ResultRow:
    """A row of the table; ``kind``: floors stand before the methods, adapters and ceilings after them."""

    label: str
    method: str
    kind: RowKind
    paper: str | None = None
    url: str | None = None


@dataclass(frozen=True)
class Column:
    """A group of columns: one benchmark."""

    label: str
    benchmark: str
    tasks: int
    summary: str = ""
    backbone: str = ""
    protocol: str = "class"
    """``class``, or ``domain`` where a task is a new domain of known classes."""

    @property
    def unit(self) -> str:
        """The word for a task."""
        return "domain" if self.protocol == "domain" else "task"


@dataclass(frozen=True)
class Run:
    """A planned run: ``outcome`` where a usable record exists, else ``problem``."""

    run_id: str
    order_seed: int
    train_seed: int
    state: RunState
    outcome: RunResult | None = None
    problem: str | None = None
    failure: Mapping[str, Any] | None = None
    recipe: str | None = None
    """Source of the hyper-parameters; ``None`` in old manifests."""
    settings: tuple[str, ...] = ()
    """What the user set by hand, as written on the command line."""
    sources: tuple[str, ...] = ()
    """Labels of the folders that have the run, where several are joined."""

    @property
    def key(self) -> tuple[str, str | None]:
        """Its id, and the code that made it: joined folders may have one run of several versions."""
        return self.run_id, None if self.outcome is None else self.outcome.made_by


@dataclass(frozen=True)
class Cell:
    """One row on one benchmark. Only ``used`` runs are averaged: fresh ones, or stale ones where nothing is fresh."""

    row: ResultRow
    column: Column
    runs: tuple[Run, ...]
    used: tuple[Run, ...]
    state: CellState
    note: str | None = None

    @property
    def place(self) -> tuple[str, str]:
        """(row label, column label)."""
        return self.row.label, self.column.label

    @property
    def run_ids(self) -> tuple[str, ...]:
        """Ids of the runs that are averaged."""
        return tuple(run.run_id for run in self.used)

    @cached_property
    def outcomes(self) -> tuple[RunResult, ...]:
        """The outcomes that are averaged."""
        return tuple(run.outcome for run in self.used if run.outcome is not None)

    @cached_property
    def setups(self) -> tuple[Setup, ...]:
        """The distinct setups of the outcomes, as far as they are known to be equal, in the order of runs."""
        return tuple(dict.fromkeys(outcome.setup for outcome in self.outcomes))

    @cached_property
    def marks(self) -> tuple[str, ...]:
        """Reservations printed beside the cell's numbers, e.g. ``leaking``."""
        found = ["stale"] if self.state == "stale" and self.used else []
        if len({setup.made_by for setup in self.setups}) > 1:
            found.append(MIXED_CODE)
        if any(setup.flags.leaking for setup in self.setups):
            found.append("leaking")
        if any(setup.flags.exemplars for setup in self.setups):
            found.append(EXEMPLARS)
        if any(setup.flags.random_backbone for setup in self.setups):
            found.append("random backbone")
        if any(setup.flags.unverified_weights for setup in self.setups):
            found.append(NOT_VERIFIED)
        if any(setup.flags.device_changed for setup in self.setups):
            found.append("device changed")
        if any((run.recipe or "").startswith(TAKEN) for run in self.used):
            found.append("recipe of another setting")
        if any(setup.spec["benchmark"].get("config", {}).get(SLIP) for setup in self.setups):
            found.append("normalisation slip")
        limits = {setup.limit: None for setup in self.setups if setup.limit is not None}
        return (*found, *(f"limit {limit}" for limit in limits))

    def summary(self, metric: str) -> Summary | None:
        """Summary of a metric by its name; ``None`` where nothing was measured or the metric is not defined."""
        if metric not in self._summaries:
            values = [value for outcome in self.outcomes if (value := outcome.value(metric)) is not None]
            is_known = bool(values) and len(values) == len(self.outcomes)
            bounds = self.outcomes[0].metric(metric).bounds if is_known else None
            self._summaries[metric] = summarise(values, bounds) if is_known else None
        return self._summaries[metric]

    @cached_property
    def _summaries(self) -> dict[str, Summary | None]:
        """What ``summary`` has found: every table asks again."""
        return {}

    @property
    def train_s(self) -> float | None:
        """The median of the runs' training times in seconds."""
        return median(seconds for one in self.outcomes if (seconds := one.train_s) is not None)

    @property
    def memory_increase(self) -> float | None:
        """The median of the runs' memory increases in MiB; None where a run did not record it."""
        found = [outcome.costs.memory_increase_mib for outcome in self.outcomes]
        return None if None in found else median(value for value in found if value is not None)

    def counts(self) -> dict[RunState, int]:
        """Number of runs in each state that occurs."""
        return count_states(self.runs)


@dataclass(frozen=True)
class SuiteResults:
    """A suite as it stands in a results folder.

    ``fingerprint``: the code against which records are fresh or stale. ``metrics``: all that reports show.
    """

    suite: str
    title: str
    description: str
    tiny: bool
    rows: tuple[ResultRow, ...]
    columns: tuple[Column, ...]
    cells: Mapping[tuple[str, str], Cell]
    fingerprint: str | None
    metrics: tuple[Metric, ...] = METRICS
    own_metrics: tuple[str, ...] = ()
    """Names of the metrics of a cell in the table of a suite of the user's file, and its figures; empty for other suites."""
    drawings: tuple[Drawing, ...] = ()
    reference: str | None = None
    """Label of the row that the others are compared with; None where no row was fixed beforehand."""
    again: str = ""
    """The command that does its runs."""

    def metric(self, name: str) -> Metric:
        """The metric of that name."""
        return next(metric for metric in self.metrics if metric.name == name)

    def metrics_of(self, column: Column) -> tuple[Metric, ...]:
        """The metrics that are shown for a column."""
        return tuple(metric for metric in self.metrics if metric.suits(column.protocol))

    def cell(self, row: ResultRow, column: Column) -> Cell:
        """The cell of a row and a column; every pair has one."""
        return self.cells[row.label, column.label]

    @property
    def all_cells(self) -> list[Cell]:
        """Every cell, row by row."""
        return [self.cell(row, column) for row in self.rows for column in self.columns]

    def cells_of(self, column: Column) -> list[Cell]:
        """A column's cells in the order of the rows."""
        return [self.cell(row, column) for row in self.rows]

    def rows_of(self, kind: RowKind) -> list[ResultRow]:
        """The rows of one kind, in order."""
        return [row for row in self.rows if row.kind == kind]

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """Every distinct run of the suite, in the order of cells."""
        return tuple({run.key: run for cell in self.all_cells for run in cell.runs}.values())

    @cached_property
    def outcomes(self) -> tuple[RunResult, ...]:
        """The outcomes of all runs that have a usable record, stale ones too."""
        return tuple(run.outcome for run in self.runs if run.outcome is not None)

    @cached_property
    def newest(self) -> str | None:
        """Finishing time of the newest record (ISO 8601, UTC), the date of a report."""
        return max((outcome.finished for outcome in self.outcomes), default="") or None

    def counts(self) -> dict[RunState, int]:
        """Number of distinct runs in each state that occurs."""
        return count_states(self.runs)

    def caution(self, column: Column) -> str | None:
        """Why the cells of a column must not be ranked, or ``None`` where they may."""
        if column not in self._cautions:
            self._cautions[column] = self._caution(column)
        return self._cautions[column]

    @cached_property
    def _cautions(self) -> dict[Column, str | None]:
        """What ``caution`` has found: every comparison asks again."""
        return {}

    def _caution(self, column: Column) -> str | None:
        cells = self.cells_of(column)
        protocols = {(setup.protocol, setup.flags.tiny) for cell in cells for setup in cell.setups}
        if len(protocols) > 1:
            return f"{column.label}: {len(protocols)} different settings of benchmark, backbone or precision; nothing is ranked."
        splits: dict[int, set[str]] = {}
        for outcome in (outcome for cell in cells for outcome in cell.outcomes):
            splits.setdefault(int(outcome.seeds.get("order_seed", 0)), set()).add(str(outcome.split_hash))
        if any(len(hashes) > 1 for hashes in splits.values()):
            return f"{column.label}: the data was split differently under the same order seed; nothing is ranked."
        return None

    def ranks(self, column: Column, metric: str) -> dict[str, int]:
        """Row label -> 1 (best) or 2 (second) among sequential rows, by the mean as it is printed; ties share a place.

        Adapters, ceilings and cells with a mark of ``UNRANKED`` take no part; with fewer than two rows, or a caution, no row is
        ranked.
        """
        means: dict[str, float] = {}
        for cell in self.cells_of(column):
            summary = cell.summary(metric)
            if summary is not None and cell.row.kind not in REFERENCES and not UNRANKED & set(cell.marks):
                means[cell.row.label] = round(summary.mean, 2) * self.metric(metric).sign
        if len(means) < 2 or self.caution(column) is not None:
            return {}
        places = sorted(set(means.values()), reverse=True)[:2]
        return {label: places.index(mean) + 1 for label, mean in means.items() if mean in places}


def count_states(runs: Iterable[Run]) -> dict[RunState, int]:
    """State -> number of runs, for states that occur, in a fixed order."""
    order: tuple[RunState, ...] = ("ok", "stale", "failed", "broken", "missing")
    counts = Counter(run.state for run in runs)
    return {state: counts[state] for state in order if counts[state]}


def run_ids(cells: Iterable[Cell]) -> tuple[str, ...]:
    """The runs that are averaged in these cells, each once."""
    return tuple(dict.fromkeys(run.run_id for cell in cells for run in cell.used))


def runs_a_point(cells: Iterable[Cell]) -> str:
    """``3 runs each``, ``1 run each`` or ``1 to 5 runs each``."""
    counts = sorted({len(cell.outcomes) for cell in cells}) or [0]
    few = f"{counts[0]} to " if len(counts) > 1 else ""
    return f"{few}{counts[-1]} run{'s' * (counts[-1] != 1)} each"
