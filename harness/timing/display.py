"""Output of the commands ``bench``: the table, the comparison, the stored file, JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer
from rich import box
from rich.markup import escape
from rich.table import Table as RichTable

from smope_bench.harness.console import make_console
from smope_bench.harness.timing import records
from smope_bench.harness.timing.records import Change, Code, Measurement, Row, Spread, Value

NOT_IN_COMMANDS = frozenset({"out", "against", "as_json", "results", "data", "record", "plugin"})
"""Options that change no number, or that name paths."""
DENSE = 0.6
"""Share of filled cells from which the table has a column per measure; below it has a line per measure."""
HEADINGS = {
    "cold": "times uncached, first run",
    "cpu_ms": "CPU, ms a batch",
    "cpu_ratio": "CPU time saved, times",
    "cpu_s": "CPU, s",
    "dim": "dimensions",
    "kept_mb": "kept MiB",
    "of_peak": "of the matrix product's speed",
    "page_mb": "page, MB",
    "peak_mb": "peak MiB",
    "run_s": "run, s",
    "saved_mb": "kept for backward, MiB",
    "start_s": "start, s",
    "task_mb": "of it a task, MiB",
    "tera_per_s": "TFLOP/s",
    "test_difference": "pixels differ under the test transform, of 255",
    "to_bare": "times bare",
    "to_floor": "times its floor",
    "to_longer": "times the longer of making and using",
    "to_passes": "times its passes",
    "to_used": "times the form used",
    "train_difference": "pixels differ in training crops, of 255",
    "uncached_s": "uncached, s",
    "warm": "times uncached, later runs",
}
"""Headings, with units, of measures whose names do not read well."""
CHANCE = {True: "spreads overlap", False: "[bold]outside[/]", None: "one timing"}
"""Text of ``Change.is_within``."""


def table_cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and lines of the one table of all benches, as plain text.

    One column per measure where ``DENSE`` of the cells are filled, else one line per measure.
    """
    measures = list(dict.fromkeys(measure for row in rows for measure in row.measures))
    filled = sum(len(row.measures) for row in rows)
    if rows and filled >= DENSE * len(measures) * len(rows):
        lines = [[row.name, *(spread_text(row.measures.get(measure)) for measure in measures)] for row in rows]
        return ["of", *map(heading, measures)], lines
    return ["of", "measure", "median (least to most)"], [
        [row.name, heading(measure), spread_text(found)] for row in rows for measure, found in row.measures.items()
    ]


def heading(measure: str) -> str:
    """The heading of a measure."""
    return HEADINGS.get(measure, measure.replace("_", " "))


def number(value: float) -> str:
    """Three digits or more: ``1,234``, ``12.3``, ``1.23``, ``0.123``; whole numbers below a thousand as they are."""
    if value == int(value) and abs(value) < 1000:
        return f"{value:.0f}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:#.3g}" if abs(value) >= 0.001 else f"{value:.2g}"


def spread_text(found: Spread | None) -> str:
    """``0.951 (0.930 to 0.972)``: a median with its extremes; the number alone where they are equal, ``–`` for None."""
    if found is None:
        return "–"
    if found.least == found.most:
        return number(found.median)
    return f"{number(found.median)} ({number(found.least)} to {number(found.most)})"


def conditions_text(measurement: Measurement) -> str:
    """The conditions in one line, without those that are None."""
    facts = {key.replace("_", " "): value for key, value in measurement.conditions.items() if value is not None}
    return ", ".join(f"{key} {value}" for key, value in facts.items())


def print_table(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    """Print lines of rich markup. The first column, which names the rows, is never cut."""
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, text in enumerate(headings):
        table.add_column(text, no_wrap=number == 0, overflow="fold")
    for line in lines:
        table.add_row(*line)
    make_console().print(table)


def print_measures(rows: Sequence[Row]) -> None:
    """Print the table and its notes."""
    headings, lines = table_cells(rows)
    print_table(headings, [[escape(cell) for cell in line] for line in lines])
    for row in rows:
        if row.note:
            print(f"{row.name}: {row.note}")


def print_comparison(now: Measurement, then: Measurement) -> None:
    """Print every change, conditions that differ, and rows of one measurement only."""
    print(f"against {then.command}, {then.made}, {then.code_text}:")
    print_table(("of", "measure", "now", "then", "now / then", ""), map(_change_cells, records.compare(now, then)))
    for key in sorted(records.MAY_DIFFER & now.conditions.keys() & then.conditions.keys()):
        if now.conditions[key] != then.conditions[key]:
            print(f"{key} was {then.conditions[key]}, is {now.conditions[key]}")
    if alone := records.unmatched(now, then):
        print(f"in one of them only: {', '.join(alone)}")


def _change_cells(change: Change) -> list[str]:
    spreads = [spread_text(change.now), spread_text(change.then)]
    ratio = "–" if change.ratio is None else f"{change.ratio:.3f}"
    return [escape(change.name), heading(change.measure), *spreads, ratio, CHANCE[change.is_within]]


@dataclass(frozen=True)
class MeasurementWriter:
    """Destination of one measurement. Opened before anything is timed, so that a wrong path is refused at once."""

    bench: str
    command: str
    conditions: dict[str, Value]
    code: Code
    out: Path | None
    then: Measurement | None
    as_json: bool

    @classmethod
    def open(
        cls, context: typer.Context, out: Path | None, against: Path | None, as_json: bool, device: str, **chosen: Value
    ) -> MeasurementWriter:
        """The writer of the running command, on ``device`` with the ``chosen`` sizes; threads must be pinned already.

        Raises UserError for a file that cannot be compared with, or a path that cannot be written.
        """
        bench, found = str(context.info_name), records.conditions_here(device, **chosen)
        then = None
        if against is not None:
            then = records.read(against)
            records.require_comparable(then, bench, found, against)
        if out is not None:
            records.require_writable(out)
        return cls(bench, command_line(context), found, records.code_here(), out, then, as_json)

    def finish(self, rows: Sequence[Row], remark: str | None = None) -> None:
        """Store the rows, then print them with ``remark`` and the comparison, or all as JSON."""
        now = records.make_measurement(self.bench, self.command, self.conditions, rows, self.code)
        if self.out is not None:
            records.write(self.out, now)
        if self.as_json:
            found: dict[str, Any] = now.model_dump(mode="json", by_alias=True)
            if self.then is not None:
                found["against"] = [asdict(change) for change in records.compare(now, self.then)]
            print(json.dumps(found, indent=2, ensure_ascii=False))
            return
        print_measures(now.rows)
        print(conditions_text(now))
        if remark:
            print(remark)
        if self.then is not None:
            print_comparison(now, self.then)


def command_line(context: typer.Context) -> str:
    """The command as it can be repeated: options that differ from their defaults, without paths."""
    parts, place = [context.info_name or ""], context.parent
    while place is not None and place.parent is not None:  # the outermost name is that of the started program
        parts, place = [place.info_name or "", *parts], place.parent
    parts = ["run_all.py", *parts]
    for option in context.command.params:
        value = context.params.get(option.name or "")
        if option.name in NOT_IN_COMMANDS or value in (None, [], ()) or value == option.get_default(context):
            continue
        flag = max(option.opts, key=len)
        parts += [flag] if value is True else [flag, _option_text(value)]
    return " ".join(parts)


def _option_text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_option_text, value))
    return str(getattr(value, "value", value))
