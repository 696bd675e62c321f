"""What a report consists of before it is written: sections of grids and figures, and what its head must say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from smope_bench.reports.figures.style import FigureGroup
from smope_bench.reports.loading.model import SuiteResults
from smope_bench.reports.tables.table import Grid


@dataclass(frozen=True)
class Section:
    """One suite: ``results`` is ``None`` for a suite that is counted and not trained.

    ``tables``: the paper's arrangement first, then one grid a benchmark with intervals. ``ledger``: published beside measured.
    """

    key: str
    title: str
    description: str
    results: SuiteResults | None
    tables: tuple[Grid, ...] = ()
    ledger: Grid | None = None
    statistics: tuple[Grid, ...] = ()
    costs: Grid | None = None
    figures: tuple[FigureGroup, ...] = ()

    @property
    def grids(self) -> tuple[Grid, ...]:
        """Every table of the section, in the order of the page."""
        ledger, costs = (() if grid is None else (grid,) for grid in (self.ledger, self.costs))
        return (*self.tables, *ledger, *self.statistics, *costs)


@dataclass(frozen=True)
class Document:
    """A whole report. ``warnings`` are said in its head: left-out records with their count, mixed versions of the code.

    ``left_out``: the records that could not be used, by name and reason. ``comparison``: against another results folder.
    """

    sections: tuple[Section, ...]
    warnings: tuple[str, ...] = ()
    left_out: Grid | None = None
    comparison: tuple[Grid, ...] = ()


def all_grids(document: Document) -> list[Grid]:
    """Every table of a report, sections first."""
    own = [grid for section in document.sections for grid in section.grids]
    left_out: Sequence[Grid] = () if document.left_out is None else (document.left_out,)
    return [*own, *document.comparison, *left_out]
