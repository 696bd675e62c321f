"""Which figures a suite has: those of its paper first, then those that every suite has."""

from __future__ import annotations

from collections.abc import Sequence

from smope_bench.benchmarks.suites import SUITES
from smope_bench.benchmarks.suites.schema import Drawing
from smope_bench.reports.figures.accuracy import final_figure, matrices_figure, stages_figure
from smope_bench.reports.figures.observed import observed_figure
from smope_bench.reports.figures.settings import settings_figure
from smope_bench.reports.figures.style import FigureFile, FigureGroup, Looks, ordered_cells, row_looks
from smope_bench.reports.figures.tradeoff import cost_figure, forgetting_figure
from smope_bench.reports.loading.model import Cell, Column, SuiteResults
from smope_bench.reports.loading.observed import Observed

_SETTINGS = ("heat_map", "curve")
_MOST_MATRICES = 20


def figure_groups(results: SuiteResults, prefix: str, observed: Observed) -> tuple[FigureGroup, ...]:
    """Every figure of a suite, by benchmark; a benchmark without any usable run has none.

    ``prefix`` begins the names of the figures; ``observed`` reads what a run observed beside accuracies. A suite that the
    code does not know (any more) has no paper's figures.
    """
    suite = SUITES.get(results.suite)
    drawings = suite.drawings if suite else ()
    looks = row_looks(results)
    groups = []
    for i, column in enumerate(results.columns, 1):
        name, planned = f"{prefix}-{i}", ordered_cells(results, column)
        papers = [drawing_figures(drawing, column, planned, name, observed) for drawing in drawings]
        figures = [figure for found in papers for figure in found]
        # The rows of a grid or a curve are too many for a figure with a line a row, and their own figure tells them better.
        if not any(drawing.kind in _SETTINGS for drawing in drawings):
            ranked = results.caution(column) is None
            figures += _common_figures(column, [cell for cell in planned if cell.outcomes], name, looks, ranked)
        notes = _undrawn(papers, results.suite) if any(cell.outcomes for cell in planned) else ()
        if figures or notes:
            groups.append(FigureGroup(column.label, tuple(figures), notes))
    return tuple(groups)


def _undrawn(papers: Sequence[Sequence[FigureFile]], suite: str) -> tuple[str, ...]:
    if all(papers):
        return ()
    return (
        "The paper's figure is missing here: no finished run has what it draws, or what the runs kept of it is damaged. "
        f"run_all.py run {suite} does such runs again.",
    )


def drawing_figures(
    drawing: Drawing, column: Column, cells: Sequence[Cell], name: str, observed: Observed
) -> list[FigureFile]:
    """What a paper draws of the cells of a benchmark; nothing where no run of theirs has what it shows."""
    if drawing.kind in _SETTINGS:
        return settings_figure(drawing, column, cells, name)
    return observed_figure(drawing, column, cells, name, observed)


def _common_figures(column: Column, cells: Sequence[Cell], name: str, looks: Looks, ranked: bool) -> list[FigureFile]:
    if not cells:
        return []
    matrices = matrices_figure(column, cells, name) if len(cells) <= _MOST_MATRICES else None
    costs = cost_figure(column, cells, name, looks, ranked=ranked)
    lost = forgetting_figure(column, cells, name, looks)
    found = [final_figure(column, cells, name, looks), stages_figure(column, cells, name, looks), matrices, costs, lost]
    return [figure for figure in found if figure is not None]
