"""Benchmark tables: one for each benchmark, with every metric of every row, the interval of FAA and the number of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from smope_bench.harness.metrics import METRICS, Metric
from smope_bench.reports.formatting import (
    CELL_HELP,
    KIND_HELP,
    KIND_NAMES,
    MAIN_METRICS,
    column_text,
    counts_text,
    interval,
    mean_std,
    notes,
    runs_text,
)
from smope_bench.reports.loading.model import KINDS, Cell, Column, SuiteResults
from smope_bench.reports.statistics.published import by_hand
from smope_bench.reports.tables.table import Block, Heading, Row, Table, TableCell
from smope_bench.reports.text import NONE, file_name

_LEAD = (
    "Mean ± standard deviation (n - 1) over runs, with the 95 % t-interval of FAA, formed on the logit scale. Bold is the best and "
    "underlined the second among sequential rows (floors and methods), by the printed mean; no significance is claimed."
)
GENERIC = "generic"
"""Beginning of the names of recipes that belong to no benchmark."""
_NUMBERS = ("mean", "std", "ci_low", "ci_high", "n")
_INTERVAL = Heading(
    "95 % interval",
    help="Two-sided 95 % t-interval of the mean FAA, formed on the logit scale, so that it stays between 0 and 100 %.",
    fields=("ci_low", "ci_high"),
)
_RUNS = Heading("Runs", help="Runs averaged, of those that were planned.", fields=("used", "planned"))


def benchmark_tables(results: SuiteResults, *, brief: bool = False) -> tuple[Table, ...]:
    """A table a benchmark, floors first and ceilings last, with every metric.

    ``brief``: of the built-in metrics only ``MAIN_METRICS`` and those of the benchmark's protocol.
    """
    return tuple(
        _grid(results, column, i, shown_metrics(results, column, brief=brief))
        for i, column in enumerate(results.columns, 1)
    )


def shown_metrics(results: SuiteResults, column: Column, *, brief: bool) -> list[Metric]:
    """The metrics of a benchmark's table, the main ones first. ``brief``: as for ``benchmark_tables``."""
    left_out = {metric.name for metric in METRICS if brief and not metric.protocol} - {*MAIN_METRICS}
    kept = (metric for metric in results.metrics_of(column) if metric.name not in left_out)
    return sorted(kept, key=lambda metric: metric.name not in MAIN_METRICS)


def metric_cell(cell: Cell, metric: str, places: Mapping[str, int]) -> TableCell:
    """A metric of a cell, or a word for its absence; values: mean, std, low and high of the interval, n."""
    summary, ids = cell.summary(metric), ", ".join(cell.run_ids)
    entry = partial(TableCell, runs=cell.run_ids, cell=_place(cell))
    if not cell.outcomes:
        word = "not planned" if cell.state == "unplanned" else cell.state
        return entry(word, note=cell.note or CELL_HELP[cell.state], tone="word")
    if summary is None:
        return entry(NONE, marks=cell.marks, note=f"not defined here; runs {ids}", tone="muted")
    values = (summary.mean, summary.std, summary.low, summary.high, summary.n)
    note = f"mean over {summary.n} run{'s' * (summary.n != 1)}: {ids}"
    return entry(mean_std(summary), values, places.get(cell.row.label, 0), cell.marks, note=note)


def _grid(results: SuiteResults, column: Column, number: int, metrics: Sequence[Metric]) -> Table:
    ranks = {metric.name: results.ranks(column, metric.name) for metric in metrics}
    blocks = tuple(
        Block(
            tuple(benchmark_line(results.cell(row, column), ranks) for row in rows),
            KIND_NAMES[kind],
            KIND_HELP[kind],
        )
        for kind in KINDS
        if (rows := results.rows_of(kind))
    )
    where = f": {column_text(column)}" if len(results.columns) > 1 else ""
    newest = f" Newest record: {results.newest}." if results.newest else ""
    said = [
        *notes(results, column),
        *_how_made(results.cells_of(column)),
        f"The suite has {counts_text(results)}.{newest}",
    ]
    key = f"{file_name(results.suite)}-{number}"
    return Table(key, results.title + where, "Method", benchmark_headings(metrics), blocks, _LEAD, tuple(said))


def benchmark_headings(metrics: Sequence[Metric]) -> tuple[Heading, ...]:
    """FAA with its interval in a column of its own, then the other metrics, then the number of runs."""
    faa, *others = (
        Heading(one.heading, help=one.explanation, fields=_NUMBERS, sort="up" if one.is_lower_better else "down")
        for one in metrics
    )
    return (replace(faa, fields=("mean", "std", "n")), _INTERVAL, *others, _RUNS)


def _how_made(cells: Sequence[Cell]) -> list[str]:
    """Notes on rows that were trained with a generic recipe or with settings made by hand."""
    used = [cell for cell in cells if cell.used]
    generic = [cell.row.label for cell in used if any((run.recipe or "").startswith(GENERIC) for run in cell.used)]
    said = (
        [f"Generic recipe, not tuned for this benchmark: {', '.join(generic)}."] if 0 < len(generic) < len(used) else []
    )
    rows: dict[tuple[str, ...], list[str]] = {}
    for cell in used:
        rows.setdefault(by_hand(cell), []).append(cell.row.label)
    if len(rows) < 2:
        return said + [f"Set by hand in all rows: {', '.join(settings)}." for settings in rows if settings]
    by_row = [f"{', '.join(labels)}: {', '.join(settings) or 'nothing'}" for settings, labels in rows.items()]
    return [*said, f"Set by hand: {'; '.join(by_row)}."]


def benchmark_line(cell: Cell, ranks: Mapping[str, Mapping[str, int]]) -> Row:
    """A row of a benchmark's table; ``ranks``: metric -> row label -> place."""
    faa, *others = (metric_cell(cell, metric, places) for metric, places in ranks.items())
    mean, std, low, high, n = faa.values or (None,) * 5
    score = replace(faa, values=(mean, std, n) if faa.values else ())
    bounds = (low, high) if faa.values else ()
    reach = replace(faa, text=interval(cell.summary("faa")), values=bounds, place=0, marks=(), tone="muted")
    return Row(cell.row.label, (score, reach, *others, _runs(cell)), url=cell.row.url)


def _runs(cell: Cell) -> TableCell:
    used, planned = len(cell.used), len(cell.runs)
    tone = "" if used == planned else "word"
    return TableCell(runs_text(cell), (used, planned), runs=cell.run_ids, cell=_place(cell), tone=tone)


def _place(cell: Cell) -> tuple[str, str] | None:
    return cell.place if cell.runs else None
