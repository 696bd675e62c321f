"""The static site of a leaderboard: a first page, a page for each benchmark and each method, and ``results.json`` beside them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from smope_bench.harness.errors import UserError
from smope_bench.harness.metrics import METRICS, Metric
from smope_bench.harness.records.store import Store
from smope_bench.reports.build import downloads_of, figure_files, table_texts, write_files
from smope_bench.reports.document import Document, Section, SitePage, all_tables
from smope_bench.reports.figures.figure import FigureGroup
from smope_bench.reports.figures.kinds import draw_figure, figure_data, find_kinds
from smope_bench.reports.leaderboard.export import exported
from smope_bench.reports.leaderboard.merge import Board, Identity, Joined, join, read_source
from smope_bench.reports.leaderboard.tables import board_table, contents_tables, left_out_table, source_tables
from smope_bench.reports.loading.environments import version_line
from smope_bench.reports.loading.integrity import integrity_warnings
from smope_bench.reports.loading.manifest import manifest_names
from smope_bench.reports.loading.run_result import RunResult
from smope_bench.reports.text import file_name, listed, plain
from smope_bench.reports.writers.html import render_page

INDEX, DATA = "index.html", "results.json"
CHART = "final"
"""The kind of figure on the page of a benchmark."""


def parse_folders(texts: Sequence[str]) -> dict[str, Path]:
    """Label -> folder from ``LABEL=DIR`` or ``DIR``, which goes by the last part of its path. Raises UserError."""
    found: dict[str, Path] = {}
    for text in texts:
        label, sign, folder = text.partition("=")
        if not sign or Path(text).is_dir():
            label, folder = Path(text).resolve().name, text
        label, place = plain(label), Path(folder)
        if not label:
            raise UserError(f"--merge {text!r} has no label; give it one, as in: --merge alice=results")
        if not place.is_dir():
            raise UserError(f"--merge {folder!r} is not a folder; name a results folder")
        if label.casefold() in map(str.casefold, found):
            raise UserError(
                f"--merge names two folders {label!r}; label them, as in: --merge {shlex.quote(f'alice={folder}')}"
            )
        if same := next((other for other, one in found.items() if one.resolve() == place.resolve()), None):
            raise UserError(f"--merge names one folder twice, as {same!r} and {label!r}; leave one out")
        found[label] = place
    return found


def read_folders(
    folders: Mapping[str, Path], suites: Sequence[str] = (), metrics: tuple[Metric, ...] = METRICS
) -> Joined:
    """Read and join folders; with ``suites`` the runs that they name. Raises UserError where nothing can be merged."""
    known = sorted({name for folder in folders.values() for name in manifest_names(Store(folder))})
    for suite in suites:
        if suite not in known:
            raise UserError(
                f"no folder of --merge has runs of suite {suite!r}; they have: {', '.join(known) or 'none'}. "
                "A further folder needs a --merge of its own, as in: --merge alice=results --merge bob=others"
            )
    return join((read_source(label, folder, suites, metrics) for label, folder in folders.items()), metrics)


def make_site(joined: Joined) -> dict[str, Document]:
    """File name -> page, the first page first."""
    boards = _pages("benchmark", {board.identity: board.title for board in joined.boards})
    methods = _pages("method", joined.methods)
    site = {INDEX: _index(joined, methods, boards)}
    for board in joined.boards:
        page = boards[board.identity]
        site[page] = _board_page(
            joined, f"Benchmark {board.title}", [_board_section(board, Path(page).stem, methods, None)]
        )
    for method, name in joined.methods.items():
        sections = [
            _board_section(board, f"{Path(methods[method]).stem}-{number}", {}, method)
            for number, board in enumerate(joined.boards, 1)
            if method in board.methods.values()
        ]
        site[methods[method]] = _board_page(joined, f"Method {name}", sections)
    return site


def write_site(site: Mapping[str, Document], joined: Joined, out: Path) -> Path:
    """Write the pages, their tables and figures, and ``results.json``; returns the first page. Raises UserError.

    The bytes depend on the records and labels alone.
    """
    files: dict[str, bytes] = {DATA: exported(joined).encode()}
    for name, document in site.items():
        texts = table_texts(all_tables(document))
        files |= {file: text.encode() for file, text in texts.items()} | dict(figure_files(document))
        files[name] = render_page(document, downloads_of(texts)).encode()
    write_files(files, out)
    return out / INDEX


def _pages(kind: str, names: Mapping[Identity, str]) -> dict[Identity, str]:
    """Identity -> file of its page."""
    taken: list[str] = []
    for name in names.values():
        taken.append(file_name(name, taken))
    return {identity: f"{kind}-{name}.html" for identity, name in zip(names, taken, strict=True)}


def _page(
    title: str, outcomes: Sequence[RunResult], folders: Sequence[str], links: Sequence[tuple[str, str]]
) -> SitePage:
    newest = max((str(one.provenance.get("finished") or "") for one in outcomes), default="")
    said = [
        f"{len(outcomes)} run{'s' * (len(outcomes) != 1)} of {listed(folders)}",
        *([f"newest record {newest.replace('T', ' ').replace('Z', ' UTC')}"] if newest else []),
        *filter(None, [version_line(outcomes)]),
    ]
    return SitePage(title, " · ".join(said), tuple(links))


def _index(joined: Joined, methods: Mapping[Identity, str], boards: Mapping[Identity, str]) -> Document:
    labels = [source.label for source in joined.sources]
    page = _page(f"Leaderboard of {listed(labels)}", joined.outcomes, labels, [("All results as JSON", DATA)])
    tables = (*contents_tables(joined, methods, boards), *source_tables(joined))
    section = Section("leaderboard", page.title, "", None, tables)
    return Document((section,), _warnings(joined), left_out_table(joined.sources), page=page)


def _warnings(joined: Joined) -> tuple[str, ...]:
    """What a reader must know first: names that are shared, versions, disputed runs, and records left out."""
    found = []
    for kind, names in (("method", joined.methods), ("benchmark", {one.identity: one.title for one in joined.boards})):
        shared: dict[str, list[str]] = {}
        for (name, _), title in names.items():
            shared.setdefault(name, []).append(title)
        found += [
            f"{len(titles)} {kind}s of different code are called {name!r}, and are kept apart: {listed(titles)}."
            for name, titles in shared.items()
            if len(titles) > 1
        ]
    if (versions := len({outcome.fingerprint for outcome in joined.outcomes})) > 1:
        found.append(
            f"The results come from {versions} versions of the code; each has its rows, and nothing is ranked between them."
        )
    if lost := sum(any(not held.is_used for held in conflict.held) for conflict in joined.conflicts):
        found.append(
            f"{lost} run{'s are' if lost != 1 else ' is'} left out, as folders have different results of "
            f"{'them' if lost != 1 else 'it'} by the same code; see 'Runs with different results'."
        )
    for source in joined.sources:
        found += [f"{source.label}: {said}" for said in integrity_warnings(source.integrity)]
    return tuple(found)


def _board_page(joined: Joined, title: str, sections: Sequence[Section]) -> Document:
    results = [section.results for section in sections if section.results is not None]
    labels = {label for one in results for run in one.runs for label in run.sources}
    outcomes = [outcome for one in results for outcome in one.outcomes]
    folders = [source.label for source in joined.sources if source.label in labels]
    return Document(tuple(sections), page=_page(title, outcomes, folders, [("Leaderboard", INDEX)]))


def _board_section(board: Board, key: str, methods: Mapping[Identity, str], only: Identity | None) -> Section:
    """The tables of a board and its chart; of one method without the chart."""
    tables = [
        board_table(board, column, f"{key}-{number}", methods, only) for number, column in enumerate(board.columns, 1)
    ]
    if only is None:
        charts = _charts(board, key)
        return Section(key, board.title, board.description, board, tuple(tables), figures=charts, answer=_extent(board))
    rows = tuple(row for row in board.rows if board.methods[row.label] == only)
    labels = {row.label for row in rows}
    cells = {place: cell for place, cell in board.cells.items() if place[0] in labels}
    columns = tuple(column for column in board.columns if any(cells[label, column.label].used for label in labels))
    mine = replace(board, rows=rows, columns=columns, cells=cells)
    shown = tuple(table for table in tables if table.rows)
    return Section(key, board.title, board.description, mine, shown)


def _extent(board: Board) -> tuple[str, ...]:
    """How much there is, by whom, and whether it may be compared."""
    runs, labels = board.runs, sorted({label for run in board.runs for label in run.sources})
    settings = "" if len(board.columns) == 1 else f" in {len(board.columns)} settings, which are not compared"
    cautions = [said for column in board.columns if (said := board.caution(column))]
    return (
        f"{len(board.rows)} rows{settings}, {len(runs)} run{'s' * (len(runs) != 1)} of {listed(labels)}.",
        *(cautions or ["Rows are sorted by their means, which is no test of a difference."]),
    )


def _charts(board: Board, key: str) -> tuple[FigureGroup, ...]:
    """Every row's FAA, a chart for each column."""
    chart = find_kinds()[0][CHART]
    drawn = [
        (column, draw_figure(chart, figure_data(board, [column], _nothing_observed), f"{key}-{number}"))
        for number, column in enumerate(board.columns, 1)
    ]
    return tuple(FigureGroup(column.label, (figure,)) for column, figure in drawn if figure is not None)


def _nothing_observed(run_id: str) -> Mapping[str, NDArray[Any]]:
    raise UserError(f"run {run_id}: joined folders show no observations")
