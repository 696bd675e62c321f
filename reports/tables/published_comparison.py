"""Published comparison: every number of a paper's table beside the one measured here, or why there is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial

from smope_bench.reports.formatting import METRIC_NAMES, mean_std, notes
from smope_bench.reports.loading.model import Cell, SuiteResults
from smope_bench.reports.statistics.published import (
    INSIDE,
    OUTSIDE,
    SPREAD_NOTE,
    TINY,
    TONES,
    Comparison,
    Key,
    PrintedTable,
    PublishedValue,
    compare,
    printed_table,
    said_marks,
)
from smope_bench.reports.tables.table import Block, Heading, Row, Table, TableCell
from smope_bench.reports.text import NONE, file_name, number, signed

NO_PLACE, NOT_ASKED = "not in this suite", "not part of these results"
HEADINGS = (
    Heading("Benchmark", sort="text", is_numeric=False),
    Heading("Metric", sort="text", is_numeric=False),
    Heading("Printed", help="mean ± standard deviation as the paper prints them", fields=("mean", "std")),
    Heading("Measured", help="mean ± standard deviation (n - 1) over runs", fields=("mean", "std", "n")),
    Heading("Difference", help="measured less printed"),
    Heading("Combined spread", help="root of the sum of the squares of the two standard deviations"),
    Heading("Verdict", help="whether the difference lies inside the combined spread", sort="text", is_numeric=False),
    Heading("Runs", help="how many runs the measured mean is of", fields=("n",)),
)


def published_comparison(results: SuiteResults) -> Table | None:
    """All printed numbers of the suite's table in the paper's order; ``None`` where no paper prints the suite as a table."""
    table = printed_table(results)
    if table is None:
        return None
    cells = _cells(results, table)
    lines, verdicts = [], Counter[str]()
    for key, value in table.values.items():
        row, column = table.place(key)
        cell = cells.get((row.label, column.label)) if row and column else None
        if row is None or column is None:
            compared = Comparison(NO_PLACE)
        elif cell is None:
            compared = Comparison(TINY if results.tiny else NOT_ASKED)
        else:
            compared = compare(cell, key.metric, value, column)
        label = row.label if row else f"{key.method} {key.variant}".strip()
        where = column.label if column else f"{key.benchmark}, {key.tasks} tasks, {key.backbone}"
        lines.append(_line(label, where, key, value, cell, compared))
        verdicts[compared.verdict] += 1
    return Table(
        key=f"{file_name(results.suite)}-ledger",
        title=f"{results.title}: printed and measured",
        corner="Row",
        headings=HEADINGS,
        blocks=(Block(tuple(lines)),),
        lead=_lead(verdicts),
        notes=(*(SPREAD_NOTE,) * bool({INSIDE, OUTSIDE} & verdicts.keys()), *table.notes, *notes(results)),
    )


def _cells(results: SuiteResults, table: PrintedTable) -> dict[tuple[str, str], Cell]:
    """(row label, label of the printed column) -> measured cell."""
    found: dict[tuple[str, str], Cell] = {}
    for cell in results.all_cells:
        printed = table.column_of(cell.column)
        if printed is not None and table.row_of(cell.row) is not None:
            found.setdefault((cell.row.label, printed.label), cell)
    return found


def _line(label: str, where: str, key: Key, value: PublishedValue, cell: Cell | None, compared: Comparison) -> Row:
    measured = cell if cell is not None and compared.difference is not None else None
    summary = measured.summary(key.metric) if measured else None
    runs = measured.run_ids if measured else ()
    place = cell.place if cell else None
    entry = partial(TableCell, runs=runs, cell=place, tone="" if measured else "muted")
    numbers = (summary.mean, summary.std, summary.n) if summary else ()
    entries = (
        TableCell(where, (where,)),
        TableCell(METRIC_NAMES.get(key.metric, key.metric), (key.metric,)),
        TableCell(value.text, (value.mean, value.std)),
        entry(mean_std(summary), numbers, marks=said_marks(measured) if measured else ()),
        entry(signed(compared.difference), (compared.difference,)),
        entry(number(compared.spread), (compared.spread,), cell=None),
        entry(compared.verdict, (compared.verdict,), tone=TONES.get(compared.verdict, "word")),
        entry(str(len(runs)) if runs else NONE, (len(runs),)),
    )
    return Row(label, entries)


def _lead(verdicts: Mapping[str, int]) -> str:
    """The number of printed values and of each verdict, inside and outside first."""
    order = sorted(verdicts, key=lambda verdict: {INSIDE: 0, OUTSIDE: 1}.get(verdict, 2))
    total = sum(verdicts.values())
    return (
        f"{total} printed number{'s' * (total != 1)}: " + ", ".join(f"{one} ({verdicts[one]})" for one in order) + "."
    )
