"""Values that rows are compared by: one for each row, benchmark, class order and training seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from smope_bench.reports.loading.model import UNRANKED, Cell, Column, ResultRow, SuiteResults

Pair = tuple[int, int]
"""Seed of the class order, seed of training."""

DIGITS = 9
"""Accuracies are fractions of whole counts; beyond this many decimals a difference is the rounding of a float."""


@dataclass(frozen=True)
class Sample:
    """A row's comparable runs on one benchmark: a metric in percent, and the run's id, by seeds. Every run counts once."""

    row: ResultRow
    values: Mapping[Pair, float]
    runs: Mapping[Pair, str]


@dataclass(frozen=True)
class Samples:
    """The samples of one benchmark in the order of the rows; ``left_out``: sentences on the rows that are not compared."""

    column: Column
    rows: tuple[Sample, ...]
    left_out: tuple[str, ...] = ()


def sample(cell: Cell, metric: str) -> Sample:
    """The fresh runs of a cell for which the metric is defined. A record's own seeds count, not those of the manifest."""
    values: dict[Pair, float] = {}
    runs: dict[Pair, str] = {}
    for run in sorted(cell.used, key=lambda run: run.run_id):
        value = None if run.outcome is None or run.state != "ok" else run.outcome.value(metric)
        if run.outcome is None or value is None:
            continue
        seeds = run.outcome.seeds
        pair = int(seeds.get("order_seed", run.order_seed)), int(seeds.get("train_seed", run.train_seed))
        values.setdefault(pair, value)
        runs.setdefault(pair, run.run_id)
    ordered = sorted(values)
    return Sample(cell.row, {pair: values[pair] for pair in ordered}, {pair: runs[pair] for pair in ordered})


def comparable(results: SuiteResults, column: Column, metric: str = "faa") -> Samples:
    """The sequential rows of a benchmark that may be compared: nothing stale, leaking or of another protocol."""
    caution = results.caution(column)
    if caution is not None:
        return Samples(column, (), (caution,))
    found: list[Sample] = []
    left_out: dict[str, list[str]] = {}
    for cell in results.cells_of(column):
        if cell.row.kind == "ceiling":
            continue
        marked = [mark for mark in cell.marks if mark in UNRANKED]
        taken = sample(cell, metric)
        if marked or not taken.values:
            word = ", ".join(marked) or ("not planned" if cell.state == "unplanned" else cell.state)
            left_out.setdefault(word, []).append(cell.row.label)
        else:
            found.append(taken)
    versions = {outcome.fingerprint for one in found for outcome in results.cell(one.row, column).outcomes}
    said = "; ".join(f"{', '.join(labels)} ({word})" for word, labels in left_out.items())
    words = [f"{column.label}: {'taking no part' if found else 'nothing to compare'}: {said}."] if said else []
    if len(versions) > 1:
        words.append(f"{column.label}: the compared rows were made by {len(versions)} versions of the code.")
    return Samples(column, tuple(found), tuple(words))
