"""Paper tables: methods in rows, benchmarks in groups of columns, printed numbers beside measured ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from smope_bench.benchmarks.suites import SUITES
from smope_bench.benchmarks.suites import Column as SuiteColumn
from smope_bench.harness.metrics import Metric
from smope_bench.reports.formatting import KIND_HELP, KIND_NAMES, MAIN_METRICS, column_text, notes
from smope_bench.reports.loading.model import Cell, Column, ResultRow, RowKind, SuiteResults
from smope_bench.reports.statistics.published import (
    SPREAD_NOTE,
    TONES,
    PrintedTable,
    PublishedValue,
    by_hand,
    compare,
    printed_table,
    said_marks,
)
from smope_bench.reports.tables.benchmark import metric_cell
from smope_bench.reports.tables.table import Block, Heading, Row, Table, TableCell
from smope_bench.reports.text import NONE, file_name

LEAD = (
    "Mean ± standard deviation (n - 1) over runs; bold is the best, underlined the second among sequential rows, by the mean as "
    "it is written."
)
PRINTED_LEAD = " Beside it what the paper prints, and by how much the measured mean differs."
TINY_LEAD = (
    " The paper's numbers stand at the end for orientation: they are of other data and weights, and are not compared."
)
FIELDS = ("mean", "std", "n")
PRINTED_FIELDS = ("mean", "std")
COMPARED_FIELDS = (*PRINTED_FIELDS, "difference", "combined spread", "verdict")


@dataclass(frozen=True)
class _Part:
    """A group of columns: measured on ``column``, or printed in ``printed`` beside it."""

    column: Column | None
    printed: SuiteColumn | None = None


def paper_table(results: SuiteResults) -> Table:
    """The table of a suite; printed numbers of other data (tiny suites) stand after the measured ones, uncompared."""
    suite, table = SUITES.get(results.suite), printed_table(results)
    metrics = suite.metrics if suite is not None else results.own_metrics or MAIN_METRICS
    parts = _parts(results, table)
    ranks = {(column.label, metric): results.ranks(column, metric) for column in results.columns for metric in metrics}

    def entry(row: ResultRow, part: _Part, metric: str) -> TableCell:
        cell = None if part.column is None else results.cell(row, part.column)
        if part.printed is not None and table is not None:
            return _printed_cell(table.value(row, part.printed, metric), cell, part.printed, metric)
        assert cell is not None
        return measured_cell(cell, metric, ranks[cell.column.label, metric], tiny_suite=results.tiny)

    def block(kind: RowKind) -> Block:
        rows = results.rows_of(kind)
        lines = [
            Row(row.label, tuple(entry(row, *place) for place in product(parts, metrics)), url=row.url) for row in rows
        ]
        return Block(tuple(lines), KIND_NAMES[kind], KIND_HELP[kind]) if len(kinds) > 1 else Block(tuple(lines))

    kinds: list[RowKind] = list(dict.fromkeys(row.kind for row in results.rows))
    has_printed, is_compared = any(part.printed for part in parts), any(part.column and part.printed for part in parts)
    unhosted = _unhosted(table, parts, metrics) if table is not None and has_printed else ()
    return Table(
        key=f"{file_name(results.suite)}-table",
        title=results.title,
        corner="Method" if len({row.method for row in results.rows}) > 1 else "Row",
        headings=tuple(_heading(part, results.metric(name), results.tiny) for part, name in product(parts, metrics)),
        blocks=(*map(block, kinds), *unhosted),
        lead=LEAD + (PRINTED_LEAD if is_compared else TINY_LEAD if has_printed else ""),
        notes=(*(SPREAD_NOTE,) * is_compared, *(table.notes if table is not None else ()), *_notes(results)),
    )


def _parts(results: SuiteResults, table: PrintedTable | None) -> list[_Part]:
    """Printed columns stand beside the measured ones; in tiny suites after all of them."""
    if table is None:
        return [_Part(column) for column in results.columns]
    if results.tiny:
        return [_Part(column) for column in results.columns] + [_Part(None, column) for column in table.columns]
    parts = []
    for column in results.columns:
        printed = table.column_of(column)
        parts += [_Part(column)] + ([_Part(column, printed)] if printed else [])
    return parts


def _heading(part: _Part, metric: Metric, tiny: bool) -> Heading:
    name, sort = metric.heading, "up" if metric.is_lower_better else "down"
    if part.printed is not None:
        group = f"as printed: {part.printed.label}"
        if part.column is None:
            return Heading(name, group, "As the paper prints it.", PRINTED_FIELDS, sort)
        return Heading(name, group, "As the paper prints it, and measured less printed.", COMPARED_FIELDS, sort)
    assert part.column is not None
    group = column_text(part.column) + (" (tiny)" if tiny else "")
    return Heading(name, group, metric.explanation, FIELDS, sort)


def measured_cell(cell: Cell, metric: str, ranks: Mapping[str, int], *, tiny_suite: bool) -> TableCell:
    """A cell's metric with all its marks; values: mean, standard deviation, n."""
    entry = metric_cell(cell, metric, ranks)
    mean, std, _, _, n = entry.values or (None,) * 5
    hand = by_hand(cell)
    note = f"{entry.note}; set by hand: {', '.join(hand)}" if hand else entry.note
    values = (mean, std, n) if entry.values else ()
    return replace(entry, values=values, marks=said_marks(cell, tiny_suite=tiny_suite), note=note)


def _printed_cell(value: PublishedValue | None, cell: Cell | None, column: SuiteColumn, metric: str) -> TableCell:
    """A printed number, with the difference where ``cell`` was measured on the same column."""
    if value is None:
        return TableCell(NONE, note="not printed", tone="muted")
    plain = TableCell(value.text, (value.mean, value.std), tone="muted")
    if cell is None:
        return plain
    compared = compare(cell, metric, value, column)
    values = (*plain.values, compared.difference, compared.spread, compared.verdict)
    plain = replace(plain, values=values, cell=cell.place)
    if compared.difference is None:
        return replace(plain, note=compared.verdict)
    return replace(
        plain,
        marks=said_marks(cell),
        small=compared.text,
        runs=cell.run_ids,
        tone=TONES.get(compared.verdict, "muted"),
    )


def _unhosted(table: PrintedTable, parts: Sequence[_Part], metrics: Sequence[str]) -> tuple[Block, ...]:
    """Printed rows of methods without a row in the suite, by their names in ``published_results.csv``."""
    printed: dict[str, dict[tuple[str, str], PublishedValue]] = {}
    for key, value in table.values.items():
        row, column = table.place(key)
        if row is None and column is not None:
            printed.setdefault(f"{key.method} {key.variant}".strip(), {})[column.label, key.metric] = value

    def entry(name: str, part: _Part, metric: str) -> TableCell:
        if part.printed is None:
            return TableCell("not in this suite", tone="word")
        plain = _printed_cell(printed[name].get((part.printed.label, metric)), None, part.printed, metric)
        is_compared = plain.values and part.column is not None
        return replace(plain, values=(*plain.values, None, None, "not in this suite")) if is_compared else plain

    lines = [Row(name, tuple(entry(name, *place) for place in product(parts, metrics))) for name in printed]
    return (
        (Block(tuple(lines), "Printed only", "methods of the paper that have no row in this suite"),) if lines else ()
    )


def _notes(results: SuiteResults) -> tuple[str, ...]:
    hand = dict.fromkeys(text for cell in results.all_cells for text in by_hand(cell))
    said = f"Own settings: some runs were made with {', '.join(hand)}, set by hand, and not with the recipe alone."
    return (*(said,) * bool(hand), *notes(results))
