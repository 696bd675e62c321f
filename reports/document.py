"""The content of a report: sections of tables and figures, and warnings."""

from __future__ import annotations

from dataclasses import dataclass

from smope_bench.reports.figures.figure import FigureFile, FigureGroup
from smope_bench.reports.loading.model import SuiteResults
from smope_bench.reports.tables.table import Table


@dataclass(frozen=True)
class Section:
    """One suite: ``results`` is ``None`` for a suite that is counted and not trained.

    ``tables``: the paper's arrangement first, then one for each benchmark. ``published``: published beside measured values.
    """

    key: str
    title: str
    description: str
    results: SuiteResults | None
    tables: tuple[Table, ...] = ()
    published: Table | None = None
    statistics: tuple[Table, ...] = ()
    costs: Table | None = None
    figures: tuple[FigureGroup, ...] = ()
    answer: tuple[str, ...] = ()
    """What the results say and do not say, a sentence each."""

    @property
    def all_tables(self) -> tuple[Table, ...]:
        """Every table of the section, in the order of the page."""
        found = (*self.tables, self.published, *self.statistics, self.costs)
        return tuple(grid for grid in found if grid is not None)


@dataclass(frozen=True)
class SitePage:
    """A page of a site: its title, a line of facts below it, and (text, address) of the pages that it leads to."""

    title: str
    facts: str
    links: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Document:
    """A whole report. ``warnings``: for its head. ``left_out``: records that cannot be used. ``comparison``: of two folders."""

    sections: tuple[Section, ...]
    warnings: tuple[str, ...] = ()
    left_out: Table | None = None
    comparison: tuple[Table, ...] = ()
    changes: tuple[FigureFile, ...] = ()
    """Figures of the comparison."""
    page: SitePage | None = None
    """Set where the report is one page of a site."""

    @property
    def all_figures(self) -> list[FigureFile]:
        """Every figure, in the order of the page."""
        own = [figure for section in self.sections for group in section.figures for figure in group.figures]
        return [*own, *self.changes]


def all_tables(document: Document) -> list[Table]:
    """Every table of a report, sections first."""
    own = [grid for section in document.sections for grid in section.all_tables]
    return [*own, *document.comparison, *([document.left_out] if document.left_out else [])]
