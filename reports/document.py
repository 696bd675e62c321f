"""The content of a report: sections of tables and figures, and warnings."""

from __future__ import annotations

from dataclasses import dataclass

from smope_bench.reports.figures.style import FigureGroup
from smope_bench.reports.loading.model import SuiteResults
from smope_bench.reports.tables.table import Grid


@dataclass(frozen=True)
class Section:
    """One suite: ``results`` is ``None`` for a suite that is counted and not trained.

    ``tables``: the paper's arrangement first, then one for each benchmark. ``ledger``: published beside measured values.
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
        found = (*self.tables, self.ledger, *self.statistics, self.costs)
        return tuple(grid for grid in found if grid is not None)


@dataclass(frozen=True)
class Document:
    """A whole report. ``warnings``: for its head. ``left_out``: records that cannot be used. ``comparison``: of two folders."""

    sections: tuple[Section, ...]
    warnings: tuple[str, ...] = ()
    left_out: Grid | None = None
    comparison: tuple[Grid, ...] = ()


def all_grids(document: Document) -> list[Grid]:
    """Every table of a report, sections first."""
    own = [grid for section in document.sections for grid in section.grids]
    return [*own, *document.comparison, *([document.left_out] if document.left_out else [])]
