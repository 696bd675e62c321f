"""Figure kinds: each is one decorated function, found in this room, in installed packages and in plugin files."""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from smope_bench.benchmarks.suites import SUITES
from smope_bench.benchmarks.suites.schema import Drawing
from smope_bench.harness.errors import UserError, did_you_mean, without_home
from smope_bench.harness.registry.plugins import call_outside_code, installed_points
from smope_bench.harness.registry.registry import KINDS as PLUGIN_KINDS
from smope_bench.harness.trained.answers import Answers
from smope_bench.reports.figures.drawing.processes import do_all
from smope_bench.reports.figures.drawing.style import PALE, Look, emphasised, render, row_looks
from smope_bench.reports.figures.figure import FigureFile, FigureGroup
from smope_bench.reports.loading.model import KINDS, REFERENCES, Cell, Column, SuiteResults, run_ids
from smope_bench.reports.loading.observed import Observed
from smope_bench.reports.loading.run_result import RunResult

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

GROUP = "smope_bench.figures"
"""Entry points of installed packages that name figure kinds."""
NO_DRAWING = Drawing("")
Answered: TypeAlias = Callable[[RunResult], Answers]
"""The stored predictions of a run; raises UserError where there are none."""
Logged: TypeAlias = Callable[[str], Sequence[Mapping[str, Any]]]
"""Run id -> the events of its log; none where there is no log."""


def nothing_logged(run_id: str) -> Sequence[Mapping[str, Any]]:  # noqa: ARG001
    """No events, where there is no results folder."""
    return ()


def nothing_answered(run: RunResult) -> Answers:
    """Raises UserError, where there is no results folder."""
    raise UserError(f"run {run.run_id}: no predictions are at hand")


_MISSING = (
    "A figure of this suite is missing here: no finished run has what it draws, or what the runs kept of it is damaged. "
    "{command} does such runs again."
)


@dataclass(frozen=True)
class FigureData:
    """What a figure kind may draw: ``cells`` of one benchmark of a suite (of all benchmarks for a kind that needs the suite).

    ``cells``: floors first, ceilings last. ``drawing``: the settings along the axes, where a suite names the kind.
    ``observed``: run id -> the arrays of its observations. ``logged``: run id -> its events. ``answered``: run -> its
    predictions. ``ranked``: whether the rows may be compared at all.
    """

    results: SuiteResults
    column: Column
    cells: tuple[Cell, ...]
    observed: Observed
    drawing: Drawing = NO_DRAWING
    ranked: bool = True
    logged: Logged = nothing_logged
    answered: Answered = nothing_answered

    @cached_property
    def looks(self) -> dict[str, Look]:
        """Row label -> colour, marker and dashes."""
        return row_looks(self.results)

    @cached_property
    def line_looks(self) -> dict[str, Look]:
        """As ``looks``, where lines cross: at most ``EMPHASISED`` rows, adapters and ceilings keep their colours."""
        kept = {
            *emphasised(self.results, self.cells),
            *(row.label for row in self.results.rows if row.kind in REFERENCES),
        }
        pale = Look(PALE, "", width=1.0)
        return {label: look if label in kept else pale for label, look in self.looks.items()}

    @property
    def pale(self) -> list[str]:
        """Labels of the rows whose lines are grey."""
        return [cell.row.label for cell in self.cells if self.line_looks[cell.row.label].colour == PALE]

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row a run: row label, run id, seeds and every metric in percent (NaN where it is not defined)."""
        import pandas as pd

        return pd.DataFrame(
            {
                "row": cell.row.label,
                "run_id": run.run_id,
                "order_seed": run.order_seed,
                "train_seed": run.train_seed,
                **{name: math.nan if value is None else value for name, value in run.outcome.metrics.items()},
            }
            for cell in self.cells
            for run in cell.used
            if run.outcome is not None
        )


@dataclass(frozen=True)
class Picture:
    """What a kind makes of its data: ``draw`` fills a matplotlib figure of ``size`` inches.

    ``alt`` carries the numbers for readers who do not see the figure. ``runs``: ids of the runs drawn, all of the data's cells
    where ``None``. ``title`` replaces the kind's own. ``chart``: the same for the page's script (``interactive.py``).
    """

    draw: Callable[[Figure], None]
    caption: str
    alt: str
    size: tuple[float, float] = (7.2, 3.6)
    runs: tuple[str, ...] | None = None
    title: str = ""
    chart: Mapping[str, Any] | None = None


Needs = Literal["runs", "cells", "observations", "suite"]
"""Cells with finished runs; all planned cells; those and what their runs observed; all benchmarks of a suite together."""
Drawn = Literal["always", "named", "alone"]
"""Of every suite; of suites that name the kind in ``drawings``; of those, and without the figures that every suite has."""


@dataclass(frozen=True)
class FigureKind:
    """A kind of figure; ``draw`` returns ``None`` where the data does not have what it shows.

    ``file`` ends the names of its files. ``owner``: the package or plugin file that it comes from, empty for a built-in kind.
    """

    name: str
    title: str
    draw: Callable[[FigureData], Picture | None]
    needs: Needs = "runs"
    drawn: Drawn = "always"
    file: str = ""
    owner: str = ""


def figure(
    name: str, title: str, *, needs: Needs = "runs", drawn: Drawn = "always", file: str = ""
) -> Callable[[Callable[[FigureData], Picture | None]], FigureKind]:
    """Make a function a figure kind. Its title in reports is ``title on BENCHMARK``; ``file`` is the name if not given."""
    return lambda draw: FigureKind(name, title, draw, needs, drawn, file or name.replace("_", "-"))


def kinds_in(module: ModuleType, owner: str = "") -> Iterator[FigureKind]:
    """The figure kinds that a module defines, in their order."""
    for kind in PLUGIN_KINDS["figure"].defined_in(module):
        yield replace(kind, owner=owner)


@cache
def built_in() -> tuple[FigureKind, ...]:
    """The kinds of every module of this room, in alphabetical order of the modules."""
    room = importlib.import_module(__name__.rpartition(".")[0])
    modules = [found.name for found in pkgutil.walk_packages(room.__path__, f"{room.__name__}.")]
    return tuple(kind for name in modules for kind in kinds_in(importlib.import_module(name)))


def find_kinds(plugins: Iterable[ModuleType] = ()) -> tuple[dict[str, FigureKind], tuple[str, ...]]:
    """Name -> kind of the built-in kinds, of installed packages and of plugin modules; and what is wrong with packages.

    Raises UserError for a plugin module whose kind has the name of another.
    """
    kinds = {kind.name: kind for kind in built_in()}
    wrong = []
    for point in installed_points(GROUP):
        try:
            kind = call_outside_code(point.load, f"figure {point.name!r} of {point.owner} cannot be imported")
            if not isinstance(kind, FigureKind):
                raise UserError(f"figure {point.name!r} of {point.owner} is not made by the decorator 'figure'")
            _add(kinds, replace(kind, owner=point.owner))
        except UserError as error:
            wrong.append(f"A figure is left out: {error}")
    for module in plugins:
        for kind in kinds_in(module, f"plugin {str(module.__file__)!r}"):
            _add(kinds, kind)
    return kinds, tuple(wrong)


def _add(kinds: dict[str, FigureKind], kind: FigureKind) -> None:
    if kind.name in kinds:
        other = kinds[kind.name].owner or "smope-bench itself"
        raise UserError(f"{kind.owner} names a figure {kind.name!r}, as does {other}; give it another name")
    kinds[kind.name] = kind


def draw_figure(kind: FigureKind, data: FigureData, name: str) -> FigureFile | None:
    """Draw one figure, ``name`` beginning the names of its files; ``None`` where the data does not have what it shows.

    A kind of a package or plugin that fails raises UserError.
    """
    if kind.needs == "runs":
        data = replace(data, cells=tuple(cell for cell in data.cells if cell.outcomes))
    if not data.cells:
        return None
    if kind.owner:
        return call_outside_code(
            lambda: _drawn(kind, data, name), f"figure {kind.name!r} of {kind.owner} cannot be drawn"
        )
    return _drawn(kind, data, name)


def _drawn(kind: FigureKind, data: FigureData, name: str) -> FigureFile | None:
    picture = kind.draw(data)
    if picture is None:
        return None
    name = f"{name}-{kind.file}"
    svg, png, pdf = render(picture.draw, picture.size, name)
    title = picture.title or (kind.title if kind.needs == "suite" else f"{kind.title} on {data.column.label}")
    runs = run_ids(data.cells) if picture.runs is None else picture.runs
    return FigureFile(name, title, picture.caption, picture.alt, svg, png, pdf, runs, kind.name, picture.chart)


def figure_data(
    results: SuiteResults,
    columns: Sequence[Column],
    observed: Observed,
    logged: Logged = nothing_logged,
    answered: Answered = nothing_answered,
) -> FigureData:
    """The data of some benchmarks of a suite."""
    cells = (results.cell(row, column) for column in columns for kind in KINDS for row in results.rows_of(kind))
    ranked = all(results.caution(column) is None for column in columns)
    return FigureData(results, columns[0], tuple(cells), observed, ranked=ranked, logged=logged, answered=answered)


@dataclass(frozen=True)
class PlannedGroup:
    """A group whose figures are not drawn yet.

    ``jobs``: kind, its data, and the beginning of the names of its files; the first ``papers`` are of the suite's paper, of
    which ``missing`` is noted where fewer than ``expected`` can be drawn.
    """

    title: str
    jobs: tuple[tuple[FigureKind, FigureData, str], ...]
    notes: tuple[str, ...] = ()
    papers: int = 0
    expected: int = 0
    missing: str = ""


def plan_figures(
    results: SuiteResults,
    prefix: str,
    observed: Observed,
    plugins: Iterable[FigureKind] | None = None,
    logged: Logged = nothing_logged,
    answered: Answered = nothing_answered,
) -> tuple[PlannedGroup, ...]:
    """The figures of a suite, as ``figure_groups`` draws them."""
    kinds = {kind.name: kind for kind in (built_in() if plugins is None else plugins)}
    suite = SUITES.get(results.suite)
    drawings = suite.drawings if suite else results.drawings
    alone = any(drawing.kind in kinds and kinds[drawing.kind].drawn == "alone" for drawing in drawings)
    common = [kind for kind in kinds.values() if kind.drawn == "always" and not alone and kind.needs != "suite"]
    unknown = [one.kind for one in results.drawings if one.kind not in kinds]
    notes = tuple(f"There is no kind of figure {kind!r}{did_you_mean(kind, kinds)}" for kind in unknown)
    groups = []
    for i, column in enumerate(results.columns, 1):
        data = figure_data(results, [column], observed, logged, answered)
        papers = _named(kinds, drawings, data)
        jobs = tuple((kind, one, f"{prefix}-{i}") for kind, one in (*papers, *((kind, data) for kind in common)))
        has_runs = any(cell.outcomes for cell in data.cells)
        missing = _MISSING.format(command=without_home(results.again)) if has_runs else ""
        expected = len(drawings) - len(unknown)
        groups.append(PlannedGroup(column.label, jobs, notes, len(papers), expected, missing))
    if results.columns:
        data = figure_data(results, results.columns, observed, logged, answered)
        whole = [kind for kind in kinds.values() if kind.needs == "suite" and kind.drawn == "always"]
        groups.append(PlannedGroup("Statistics", tuple((kind, data, prefix) for kind in whole)))
    return tuple(groups)


def draw_groups(planned: Sequence[Sequence[PlannedGroup]]) -> list[tuple[FigureGroup, ...]]:
    """The groups of several suites, all their figures drawn at a time; groups without any figure and note are left out."""
    jobs = [partial(draw_figure, *job) for suite in planned for group in suite for job in group.jobs]
    drawn = iter(do_all(jobs))
    found = [[_drawn_group(group, [next(drawn) for _ in group.jobs]) for group in suite] for suite in planned]
    return [tuple(group for group in suite if group.figures or group.notes) for suite in found]


def _drawn_group(group: PlannedGroup, drawn: Sequence[FigureFile | UserError | None]) -> FigureGroup:
    figures = [one for one in drawn if isinstance(one, FigureFile)]
    notes = [*group.notes, *(f"A figure is left out: {one}" for one in drawn if isinstance(one, UserError))]
    if group.missing and sum(isinstance(one, FigureFile) for one in drawn[: group.papers]) < group.expected:
        notes.insert(0, group.missing)
    return FigureGroup(group.title, tuple(figures), tuple(notes))


def figure_groups(
    results: SuiteResults,
    prefix: str,
    observed: Observed,
    plugins: Iterable[FigureKind] | None = None,
    logged: Logged = nothing_logged,
    answered: Answered = nothing_answered,
) -> tuple[FigureGroup, ...]:
    """Every figure of a suite, ``prefix`` beginning their names: by benchmark those of its paper and those of every suite,
    then those of the suite as a whole. A benchmark without any usable run has none.

    ``plugins``: all kinds, the built-in ones where ``None``. A kind that is not among them, as a suite of another version may
    name, is noted as missing.
    """
    return draw_groups([plan_figures(results, prefix, observed, plugins, logged, answered)])[0]


def paper_figures(
    results: SuiteResults, drawings: Sequence[Drawing], prefix: str, observed: Observed
) -> list[FigureFile]:
    """What a paper draws of a suite, benchmark by benchmark, by the built-in kinds; nothing where no run has what it shows."""
    kinds = {kind.name: kind for kind in built_in()}
    jobs = [
        partial(draw_figure, kind, data, f"{prefix}-{i}")
        for i, column in enumerate(results.columns, 1)
        for kind, data in _named(kinds, drawings, figure_data(results, [column], observed))
    ]
    return [one for one in do_all(jobs) if isinstance(one, FigureFile)]


def _named(
    kinds: Mapping[str, FigureKind], drawings: Iterable[Drawing], data: FigureData
) -> list[tuple[FigureKind, FigureData]]:
    return [(kinds[one.kind], replace(data, drawing=one)) for one in drawings if one.kind in kinds]
