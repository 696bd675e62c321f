"""The page: one HTML file without outside resources. The template escapes all text."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import PurePosixPath

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from smope_bench.harness.metrics import METRICS
from smope_bench.reports.document import Document, Section, all_tables
from smope_bench.reports.formatting import RUN_WORDS, counts_text
from smope_bench.reports.loading.environments import Environments, version_line
from smope_bench.reports.loading.run_result import RunResult
from smope_bench.reports.tables.table import Table, TableCell, spans, traces
from smope_bench.reports.text import without_controls
from smope_bench.reports.writers.page_data import PageData, cell_anchors, drill_down, problems_by_row
from smope_bench.reports.writers.scripts import chart_data, libraries, resource, scripts
from smope_bench.reports.writers.svg import PageFigure, place_figures

FIGURE_ROOM = 4_000_000
"""Bytes of drawings inside a page, so that it opens quickly; other drawings are files beside it."""
CARRIED_ROOM = 7_000_000
"""Bytes of drawings, runs and packed files together; with the tables, a page of 2,000 runs stays below 12 MB."""
ANSWERS = frozenset({"final", "heat_map", "curve"})
"""Kinds of figures that stand first on the page: one of each benchmark."""
MOST_CHARTS = 4
_NAMES = {".csv": "CSV", ".tex": "LaTeX", ".md": "Markdown"}
_Anchors = Mapping[tuple[str, str], str]


@dataclass(frozen=True)
class Download:
    """A file inside the page, compressed; ``tables/<key of a table>.csv`` is offered at its table, others in the head.

    ``name``: its path beside the page, for browsers without scripts.
    """

    name: str
    media_type: str
    text: str

    @property
    def file(self) -> str:
        """The name under which a browser stores it."""
        return PurePosixPath(self.name).name

    @property
    def kind(self) -> str:
        """The name of its format."""
        return _NAMES.get(PurePosixPath(self.name).suffix, self.file)


@dataclass(frozen=True)
class TableView:
    """A table on the page. ``groups``: (text, number of columns) of its upper headings; ``first``: first index of each group."""

    grid: Table
    anchor: str
    groups: tuple[tuple[str, int], ...]
    first: frozenset[int]
    anchors: _Anchors
    downloads: tuple[Download, ...]
    lead: str = ""
    notes: tuple[str, ...] = ()
    """As in the table, without what the section says once for several tables."""

    def link(self, entry: TableCell) -> str | None:
        """Anchor of the runs of an entry, if on this page."""
        return self.anchors.get(entry.cell) if entry.cell else None

    @property
    def traces(self) -> list[tuple[str, str, tuple[str, ...]]]:
        """(row, headings, run ids) of rows with runs that the page does not link to; listed below the table."""
        return [
            (line.label, what, runs)
            for line in self.grid.rows
            if any(entry.runs and not self.link(entry) for entry in line.cells)
            for what, runs in traces(self.grid, line)
        ]


def _shown(value: object) -> object:
    """Texts of records without control characters; markup of the project unchanged."""
    return without_controls(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def render_page(document: Document, downloads: Sequence[Download] = ()) -> str:
    """The page as text; its content security policy forbids outside resources and all scripts but its own."""
    environment = Environment(
        loader=FunctionLoader(resource),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(sort_key=sort_key, web=web_address)
    outcomes = _outcomes(document)
    environments = Environments(outcomes, "environment")
    results = [section.results for section in document.sections if section.results]
    protocols = {column.protocol for one in results for column in one.columns}
    found = results[0].metrics if results else METRICS
    metrics = [metric for metric in found if not metric.protocol or metric.protocol in protocols]
    data, views = PageData(environments, metrics), _Views(document, downloads)
    anchors = [_take_runs(section, f"s{i}", data) for i, section in enumerate(document.sections, 1)]
    script_data, packed_files = data.script(), packed(downloads)
    drawn = [[*chain(*(group.figures for group in one.figures))] for one in document.sections]
    charted = any(figure.chart is not None for figure in chain(*drawn))
    charts = chart_data(chain(*drawn)) if charted else None
    room = min(FIGURE_ROOM, CARRIED_ROOM - len(script_data.encode()) - len(packed_files) - len((charts or "").encode()))
    *figures, changes = place_figures([*drawn, document.changes], room)
    many = len(document.sections) > 1
    sections = [
        _section(section, f"s{i}", anchors[i - 1], views, iter(placed))
        for i, (section, placed) in enumerate(zip(document.sections, figures, strict=True), 1)
    ]
    titles = [section.title for section in document.sections]
    return environment.get_template("page.html.j2").render(
        css=Markup(resource("page.css")),
        scripts=scripts(charts=charted),
        libraries=libraries() if charted else (),
        charts=charts,
        title=document.page.title if document.page else titles[0] if len(titles) == 1 else f"{len(titles)} suites",
        page=document.page,
        newest=max((section.results.newest or "" for section in document.sections if section.results), default=""),
        versions=version_line(outcomes),
        runs=len({run.run_id for section in document.sections if section.results for run in section.results.runs}),
        warnings=document.warnings,
        left_out=None if document.left_out is None else views.view(document.left_out, {}),
        sections=sections,
        many=many,
        changes=changes,
        comparison=[views.view(grid, {}) for grid in document.comparison],
        environments=environments.listed,
        downloads=views.others,
        outside=sum(one.svg is None and one.figure.chart is None for placed in (*figures, changes) for one in placed),
        metrics=[(metric.heading, metric.explanation) for metric in metrics],
        words=RUN_WORDS,
        data=script_data,
        files=packed_files,
    )


def packed(downloads: Sequence[Download]) -> str:
    """The files as JSON (name -> [media type, text]), zlib and base64; data URIs would double the page."""
    texts = {download.name: [download.media_type, download.text] for download in downloads}
    data = json.dumps(texts, ensure_ascii=False, separators=(",", ":")).encode()
    return base64.b64encode(zlib.compress(data, 9)).decode()


def sort_key(entry: TableCell) -> str:
    """Sort key of a numeric entry: its first value at full precision, or empty."""
    value = entry.values[0] if entry.values else None
    return "" if value is None or isinstance(value, str) else repr(value)


def web_address(url: str | None) -> str | None:
    """``url`` if it is a web address; other schemes such as javascript: are dropped."""
    return url if url and re.match(r"https?://", url) else None


class _Views:
    """Makes views of tables with unique anchors and their files."""

    def __init__(self, document: Document, downloads: Sequence[Download]) -> None:
        keys = {grid.key for grid in all_tables(document)}
        self._own = {key: tuple(one for one in downloads if PurePosixPath(one.name).stem == key) for key in keys}
        self.others = [one for one in downloads if PurePosixPath(one.name).stem not in keys]
        self._taken: set[str] = set()

    def view(self, grid: Table, anchors: _Anchors) -> TableView:
        anchor = f"t-{grid.key}"
        while anchor in self._taken:
            anchor += "-"
        self._taken.add(anchor)
        ranges = spans(grid.headings) if grid.is_grouped else []
        groups = tuple((grid.headings[part.start].group, len(part)) for part in ranges)
        return TableView(
            grid,
            anchor,
            groups,
            frozenset(part.start for part in ranges),
            anchors,
            self._own.get(grid.key, ()),
            grid.lead,
            grid.notes,
        )

    def section(self, section: Section, anchors: _Anchors) -> tuple[dict[int, TableView], tuple[str, ...]]:
        """Views of a section's tables by their place, and the notes that several of them have, which are said once."""
        grids = section.all_tables
        counts = Counter(note for grid in grids for note in dict.fromkeys(grid.notes))
        shared = tuple(note for note, count in counts.items() if count > 1)
        leads: set[str] = set()
        views = {}
        for i, grid in enumerate(grids):
            notes = tuple(note for note in grid.notes if note not in shared)
            views[i] = replace(self.view(grid, anchors), lead="" if grid.lead in leads else grid.lead, notes=notes)
            leads.add(grid.lead)
        return views, shared


def _take_runs(section: Section, key: str, data: PageData) -> _Anchors:
    """Add the section's runs to the page's data; returns the anchor of each cell."""
    if section.results is None:
        return {}
    anchors = cell_anchors(section.results, key)
    for place, anchor in anchors.items():
        data.add(anchor, section.results.cells[place])
    return anchors


def _section(
    section: Section, key: str, anchors: _Anchors, views: _Views, figures: Iterator[PageFigure]
) -> dict[str, object]:
    results = section.results
    charts: list[PageFigure] = []
    groups = []
    for group in section.figures:
        placed = [next(figures) for _ in group.figures]
        taken = [one for one in placed if one.figure.kind in ANSWERS][:1] if len(charts) < MOST_CHARTS else []
        charts += taken
        groups.append((group.title, [one for one in placed if one not in taken], group.notes))
    made, shared = views.section(section, anchors)
    tables = iter(made.values())
    view: dict[str, object] = {
        "key": key,
        "section": section,
        "results": results,
        "counts": {} if results is None else results.counts(),
        "counts_text": "counted, not trained" if results is None else counts_text(results),
        "charts": charts,
        "shared": shared,
        "tables": [next(tables) for _ in section.tables],
        "ledger": None if section.published is None else next(tables),
        "statistics": [next(tables) for _ in section.statistics],
        "costs": None if section.costs is None else next(tables),
        "problems": [] if results is None else problems_by_row(results),
        "figures": [group for group in groups if group[1] or group[2]],
        "drill": [] if results is None else drill_down(results, key),
    }
    names = {
        "answer": "Answer", "tables": "Tables", "ledger": "Published and measured", "statistics": "Statistics",
        "figures": "Figures", "costs": "Costs", "problems": "Missing, stale and failed runs", "drill": "Runs",
    }  # fmt: skip
    view["answer"] = bool(charts or section.answer)
    return view | {"parts": [(f"{key}-{part}", name) for part, name in names.items() if view[part]]}


def _outcomes(document: Document) -> list[RunResult]:
    of_suites = [section.results.outcomes for section in document.sections if section.results]
    return list({(one.run_id, one.made_by): one for outcomes in of_suites for one in outcomes}.values())
