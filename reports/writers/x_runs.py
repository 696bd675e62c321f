"""Where the page tells of runs: an anchor for every planned cell, its runs in a line each, and what went wrong where."""

from __future__ import annotations

from dataclasses import dataclass

from smope_bench.reports.formatting import NONE, RUN_WORDS, mean_std, runs_text, seeds_text
from smope_bench.reports.loading.model import Cell, Run, SuiteResults


@dataclass(frozen=True)
class CellView:
    """A cell as the page lists it: its headline, and (run, state's word, seeds) for each of its runs."""

    cell: Cell
    anchor: str
    title: str
    runs_text: str
    faa: str
    runs: tuple[tuple[Run, str, str], ...]


def cell_anchors(results: SuiteResults, key: str) -> dict[tuple[str, str], str]:
    """(row label, column label) -> anchor, for every planned cell in the order of rows. ``key`` sets suites apart."""
    return {
        (row.label, column.label): f"{key}-c{i}-{j}"
        for i, row in enumerate(results.rows, 1)
        for j, column in enumerate(results.columns, 1)
        if results.cell(row, column).runs
    }


def drill_down(results: SuiteResults, key: str) -> list[CellView]:
    """All planned cells in the order of rows, then benchmarks."""
    views = []
    for place, anchor in cell_anchors(results, key).items():
        cell = results.cells[place]
        title = f"{place[0]} on {place[1]}" if len(results.columns) > 1 else place[0]
        faa = mean_std(cell.summary("faa")) if cell.outcomes else NONE
        runs = tuple((run, RUN_WORDS[run.state], seeds_text(run)) for run in cell.runs)
        views.append(CellView(cell, anchor, title, runs_text(cell), faa, runs))
    return views


def problems_by_row(results: SuiteResults) -> list[tuple[str, list[tuple[str, Run]]]]:
    """Row label -> its runs that are not fresh and whole, with where they belong."""
    found = []
    for row in results.rows:
        wanting = [
            (f"{column.label}, {seeds_text(run)}", run)
            for column in results.columns
            for run in results.cell(row, column).runs
            if run.state != "ok"
        ]
        if wanting:
            found.append((row.label, wanting))
    return found
