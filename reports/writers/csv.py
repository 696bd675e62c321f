"""Tables as CSV at full precision: one file for each table, and one tidy file of every metric of some suites."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

from smope_bench.reports.loading.model import Cell, SuiteResults
from smope_bench.reports.tables.table import Heading, Row, Table, TableCell, Value, spans
from smope_bench.reports.text import NONE, without_controls

TIDY_HEADER = (
    "suite", "benchmark", "tasks", "row", "method", "kind", "state", "metric", "planned", "n", "mean", "std", "ci_low",
    "ci_high", "marks", "run_ids", "recipe", "settings",
)  # fmt: skip


def table_csv(table: Table) -> str:
    """One line for each row: block, label, every field of every heading, and the marks and run ids of each group.

    An entry without numbers has its text in its first field; an undefined number is an empty field.
    """
    places = spans(table.headings)
    header = ["block", table.corner or "row"]
    for span in places:
        group = table.headings[span[0]].group
        header += [name for at in span for name in _fields(table.headings[at])]
        header += [_joined(group, part) for part in ("marks", "run_ids")]
    rows = [_row(table, title, line, places) for title, line in _lines(table)]
    return _written([_distinct(header), *rows])


def tidy_csv(suites: Sequence[SuiteResults]) -> str:
    """One line for each suite, row, benchmark and metric, with averaged runs, recipe and settings made by hand."""
    rows = [
        _tidy_line(results, results.cell(row, column), metric.name)
        for results in suites
        for column in results.columns
        for row in results.rows
        for metric in results.metrics_of(column)
    ]
    return _written([TIDY_HEADER, *rows])


def _lines(table: Table) -> Iterator[tuple[str, Row]]:
    for block in table.blocks:
        for line in block.rows:
            yield block.title, line


def _fields(heading: Heading) -> list[str]:
    """Column names: group, heading and field, without a field that repeats the heading."""
    names = []
    for field in heading.fields:
        said = "" if field.casefold() == heading.text.casefold() else field
        names.append(_joined(heading.group, " ".join(part for part in (heading.text, said) if part)))
    return names


def _joined(group: str, name: str) -> str:
    return f"{group}: {name}" if group else name


def _distinct(names: Iterable[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        number, free = 2, name
        while free in found:
            number, free = number + 1, f"{name} ({number})"
        found.append(free)
    return found


def _row(table: Table, title: str, line: Row, places: Sequence[Sequence[int]]) -> list[Value]:
    fields: list[Value] = [title, line.label]
    for i, span in enumerate(places):
        entries = [line.cells[at] for at in span]
        for at in span:
            fields += _values(table.headings[at], line.cells[at])
        own = line.marks if i == 0 else ()
        fields.append("; ".join(dict.fromkeys([*own, *(mark for entry in entries for mark in entry.marks)])))
        fields.append(" ".join(dict.fromkeys(run for entry in entries for run in entry.runs)))
    return fields


def _values(heading: Heading, entry: TableCell) -> list[Value]:
    count = len(heading.fields)
    values = [*entry.values, *[None] * count][:count]
    if count and all(value is None for value in values) and entry.text != NONE:
        values[0] = entry.text
    return values


def _tidy_line(results: SuiteResults, cell: Cell, metric: str) -> list[Value]:
    summary = cell.summary(metric)
    numbers = (summary.mean, summary.std, summary.low, summary.high) if summary else (None,) * 4
    runs = cell.used or cell.runs
    head = (results.suite, cell.column.label, cell.column.tasks, cell.row.label, cell.row.method, cell.row.kind)
    return [
        *head,
        cell.state,
        metric,
        len(cell.runs),
        summary.n if summary else 0,
        *numbers,
        " ".join(cell.marks),
        " ".join(cell.run_ids),
        "; ".join(dict.fromkeys(run.recipe for run in runs if run.recipe)),
        "; ".join(dict.fromkeys(" ".join(run.settings) for run in runs if run.settings)),
    ]


def _written(rows: Iterable[Sequence[Value]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows([_text(value) for value in row] for row in rows)
    return stream.getvalue()


def _text(value: Value) -> str:
    """A number with all digits; a text without control characters that no spreadsheet takes for a formula."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return repr(value)
    text = without_controls(value.replace("\r\n", "\n").replace("\r", "\n"))
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\n") else text
