"""The comparison table for the terminal, as Markdown and as CSV. All text is data: nothing in a label is markup."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from reports.model import KINDS, Cell, SuiteResults
from reports.present import (
    KIND_HELP,
    KIND_NAMES,
    METRIC_HELP,
    METRIC_NAMES,
    METRICS,
    RUN_WORDS,
    Shown,
    column_text,
    counts_text,
    notes,
    runs_text,
    seeds_text,
    show,
)

HEADINGS = ("Method", "FAA", "95 % interval", "CAA", "FM", "Runs")
CSV_HEADER = [
    "suite",
    "benchmark",
    "tasks",
    "row",
    "method",
    "kind",
    "state",
    "metric",
    "planned",
    "n",
    "mean",
    "std",
    "ci_low",
    "ci_high",
    "marks",
    "run_ids",
]
_PLACES = {0: "", 1: "bold", 2: "underline"}


def terminal_table(results: SuiteResults) -> Table:
    """The table that the command line prints: one section a benchmark, floors and ceilings apart."""
    table = Table(
        title=Text(results.title),
        caption=Text(_caption(results)),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        padding=(0, 1, 0, 0),
    )
    widest = max((len(row.label) for row in results.rows), default=0)
    for i, heading in enumerate(HEADINGS):
        # A narrow terminal wraps long labels, never numbers.
        least = min(widest, 14) if i == 0 else None
        table.add_column(heading, justify="right" if i else "left", no_wrap=i > 0, min_width=least)
    for column in results.columns:
        if len(results.columns) > 1:
            table.add_row(Text(column_text(column), style="bold cyan"))
        ranks = {metric: results.ranks(column, metric) for metric in METRICS}
        for kind in KINDS:
            for row in results.rows_of(kind):
                cell = results.cell(row, column)
                faa, caa, fm = (show(cell, metric, ranks[metric]) for metric in METRICS)
                label = Text(row.label).append(_marks(faa), style="yellow")
                interval = Text(faa.interval, style="dim")
                table.add_row(label, _styled(faa), interval, _styled(caa), _styled(fm), _runs(cell))
            if results.rows_of(kind):
                table.add_section()
    return table


def markdown(results: SuiteResults) -> str:
    """The suite as GitHub-flavoured Markdown, a table a benchmark, with its notes and what is missing."""
    lines = [f"## {_md(results.title)}", ""]
    if results.description:
        lines += [_md(results.description), ""]
    for column in results.columns:
        lines += [f"### {_md(column_text(column))}", ""]
        lines += ["| " + " | ".join(HEADINGS) + " |", "| :-- | --: | --: | --: | --: | :-- |"]
        ranks = {metric: results.ranks(column, metric) for metric in METRICS}
        for kind in KINDS:
            for row in results.rows_of(kind):
                cell = results.cell(row, column)
                faa, caa, fm = (show(cell, metric, ranks[metric]) for metric in METRICS)
                label = _md(row.label) + (f" ({kind})" if kind != "method" else "")
                fields = [label, _md_value(faa), faa.interval, _md_value(caa), _md_value(fm), runs_text(cell)]
                lines.append("| " + " | ".join(fields) + " |")
        lines.append("")
    lines += [f"{_md(line)}  " for line in legend(results)]
    problems = problem_lines(results)
    if problems:
        lines += ["", "Missing, stale and failed runs:", "", *(f"- {_md(line)}" for line in problems)]
    return "\n".join(lines) + "\n"


def csv_text(suites: Sequence[SuiteResults]) -> str:
    """Tidy CSV with full precision: one line a suite, row, benchmark and metric, with the ids of the runs averaged."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    for results in suites:
        for column in results.columns:
            for row in results.rows:
                cell = results.cell(row, column)
                for metric in METRIC_NAMES:
                    writer.writerow(_csv_line(results, cell, metric))
    return stream.getvalue()


def legend(results: SuiteResults) -> list[str]:
    """What the numbers mean, what is marked, and how many runs there are."""
    return [
        "Mean ± standard deviation (n - 1) over runs with their 95 % t-interval; bold is the best, underlined the second "
        "among sequential rows (floors and methods), by the printed mean. No significance is claimed.",
        *(f"{METRIC_NAMES[metric]}: {METRIC_HELP[metric]}" for metric in METRICS),
        *(f"{KIND_NAMES[kind]}: {KIND_HELP[kind]}." for kind in KINDS if results.rows_of(kind)),
        *notes(results),
        f"{counts_text(results).capitalize()}." + (f" Newest record: {results.newest}." if results.newest else ""),
    ]


def problem_lines(results: SuiteResults) -> list[str]:
    """One line a run that is failed, unusable, stale or missing, in the order of rows."""
    lines = []
    for row in results.rows:
        for column in results.columns:
            for run in results.cell(row, column).runs:
                if run.state != "ok":
                    where = f"{row.label} on {column.label}, {seeds_text(run)} ({run.run_id})"
                    lines.append(f"{where}: {RUN_WORDS[run.state]}: {run.problem}")
    return lines


def _caption(results: SuiteResults) -> str:
    said = [f"Mean ± std (n-1), FAA with its 95 % t-interval. {counts_text(results).capitalize()}.", *notes(results)]
    return "\n".join(said)


def _styled(shown: Shown) -> Text:
    style = "yellow" if shown.marks else _PLACES[shown.place]
    return Text(shown.value, style=style if shown.summary else "dim")


def _runs(cell: Cell) -> Text:
    used, planned = len(cell.used), len(cell.runs)
    return Text(str(used)) if used == planned else Text(f"{used}/{planned}", style="yellow")


def _marks(shown: Shown) -> str:
    return f" ({', '.join(shown.marks)})" if shown.marks else ""


def _md_value(shown: Shown) -> str:
    value = {0: shown.value, 1: f"**{shown.value}**", 2: f"<u>{shown.value}</u>"}[shown.place]
    return value + _marks(shown)


def _md(text: str) -> str:
    """Escape what Markdown or HTML would read as markup; line breaks become spaces."""
    flat = " ".join(text.split())
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~#!$])", r"\\\1", flat)


def _csv_line(results: SuiteResults, cell: Cell, metric: str) -> list[str]:
    summary = cell.summary(metric) if cell.outcomes else None
    parts = (summary.mean, summary.std, summary.low, summary.high) if summary else (None,) * 4
    return [
        *map(_csv, (results.suite, cell.column.label)),
        str(cell.column.tasks),
        *map(_csv, (cell.row.label, cell.row.method)),
        cell.row.kind,
        cell.state,
        metric,
        str(len(cell.runs)),
        str(summary.n if summary else 0),
        *("" if part is None else repr(part) for part in parts),
        " ".join(cell.marks),
        " ".join(run.run_id for run in cell.used),
    ]


def _csv(text: str) -> str:
    """A text that no spreadsheet runs as a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
