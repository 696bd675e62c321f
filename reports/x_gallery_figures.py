"""Which figures the gallery shows: the papers' own, and one example each of those that every report has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from smope_bench.benchmarks.suites.schema import Drawing
from smope_bench.harness.errors import UserError
from smope_bench.reports.figures.critical_difference import statistics_figures
from smope_bench.reports.figures.style import FigureFile
from smope_bench.reports.figures.suite import drawing_figures, figure_groups
from smope_bench.reports.figures.x_figure_rows import ordered_cells
from smope_bench.reports.loading.model import SuiteResults
from smope_bench.reports.loading.observed import Observed

EXAMPLES = ("stages", "matrices", "tradeoff", "critical-difference")
"""Ends of the names of the figures of which one example is shown."""


def paper_figures(results: SuiteResults, drawings: Sequence[Drawing], observed: Observed) -> list[FigureFile]:
    """The figures that a paper has of a suite, benchmark by benchmark; none where no run has kept what they show."""
    return [
        figure
        for i, column in enumerate(results.columns, 1)
        for drawing in drawings
        for figure in drawing_figures(drawing, column, ordered_cells(results, column), f"{results.suite}-{i}", observed)
    ]


def example_figures(results: SuiteResults) -> list[FigureFile]:
    """One figure of each kind of ``EXAMPLES``, of the suite's first benchmark that has it."""

    def unobserved(run_id: str) -> Mapping[str, NDArray[Any]]:
        raise UserError(f"run {run_id}: the examples need no observations")

    drawn = [figure for group in figure_groups(results, results.suite, unobserved) for figure in group.figures]
    drawn += statistics_figures(results, results.suite)
    return [figure for kind in EXAMPLES for figure in _first(drawn, kind)]


def _first(figures: Iterable[FigureFile], kind: str) -> list[FigureFile]:
    return [figure for figure in figures if figure.name.endswith(f"-{kind}")][:1]
