"""Assembles a report from loaded results and writes its files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from smope_bench.benchmarks.disk import refusal, shown_bytes
from smope_bench.benchmarks.durable import unfinished
from smope_bench.benchmarks.suites import SUITES
from smope_bench.harness.errors import UserError
from smope_bench.harness.planning.suites.find import run_argument
from smope_bench.harness.records.event_log import EVENTS, events_in, lines_of
from smope_bench.harness.records.observations import read_observations
from smope_bench.harness.records.store import Store
from smope_bench.harness.registry.registry import uncollected
from smope_bench.harness.text import RESULTS, shell_command
from smope_bench.harness.trained.answers import Answers, answers_in
from smope_bench.reports.document import Document, Section, all_tables
from smope_bench.reports.figures.changes import change_figures
from smope_bench.reports.figures.kinds import draw_groups, find_kinds, plan_figures
from smope_bench.reports.loading.load import Loaded
from smope_bench.reports.loading.model import SuiteResults
from smope_bench.reports.loading.run_result import RunResult
from smope_bench.reports.statistics.answer import answer
from smope_bench.reports.statistics.images import ReadAnswers
from smope_bench.reports.tables.benchmark import benchmark_tables
from smope_bench.reports.tables.comparison import comparison_tables
from smope_bench.reports.tables.costs import CountedReport, cost_table, counted_grids
from smope_bench.reports.tables.integrity import integrity_table
from smope_bench.reports.tables.paper import paper_table
from smope_bench.reports.tables.published_comparison import published_comparison
from smope_bench.reports.tables.statistics import statistics_tables
from smope_bench.reports.tables.table import Table
from smope_bench.reports.text import file_name
from smope_bench.reports.writers.csv import table_csv, tidy_csv
from smope_bench.reports.writers.html import Download, render_page
from smope_bench.reports.writers.latex import latex_document, table_latex
from smope_bench.reports.writers.markdown import document_markdown, table_markdown

PAGE, WRITTEN = "index.html", "files.json"
"""``WRITTEN`` lists the files of a report with their hashes, so that the next report can remove outdated ones."""
_MEDIA = {".md": "text/markdown", ".tex": "application/x-tex", ".csv": "text/csv"}


@dataclass(frozen=True)
class ReportFiles:
    """Paths of a report's files; ``page`` needs none of the others."""

    page: Path
    markdown: Path
    latex: Path
    csv: Path
    tables: tuple[Path, ...]
    figures: tuple[Path, ...]


def make_document(
    loaded: Loaded,
    store: Store,
    counted: Mapping[str, Mapping[str, Any]] | None = None,
    against: Loaded | None = None,
    plugins: Iterable[ModuleType] = (),
    *,
    all_pairs: bool = False,
    with_figures: bool = True,
) -> Document:
    """A report of trained suites in the given order, then of counted ones.

    ``counted``: suite -> its stored counts. ``against``: the baseline of a comparison. ``plugins``: modules that may define
    figure kinds. ``all_pairs``: compare every pair of rows. ``with_figures`` False leaves them out.
    Raises UserError without any suite.
    """
    if not loaded.suites and not counted:
        raise UserError(f"a report needs at least one suite; name one, as in: {shell_command('report', 'smoke')}")
    kinds, wrong = find_kinds(plugins)
    keys: list[str] = []
    sections: list[Section] = []
    planned = []
    for results in loaded.suites:
        keys.append(file_name(results.suite, keys))
        answered = stored_answers(store, keep=with_figures or all_pairs)
        sections.append(table_section(results, keys[-1], answered, all_pairs=all_pairs))
        observed, logged = partial(read_observations, store), partial(_events, store)
        found = (results, keys[-1], observed, kinds.values(), logged, answered)
        planned.append(plan_figures(*found) if with_figures else ())
    drawn = draw_groups(planned)
    sections = [replace(section, figures=figures) for section, figures in zip(sections, drawn, strict=True)]
    for name, counts in (counted or {}).items():
        keys.append(file_name(name, keys))
        sections.append(counted_section(name, counts, keys[-1], store.root))
    comparison = comparison_tables(loaded, against) if against is not None else ()
    warnings = (*loaded.warnings, *wrong)
    changes = change_figures(loaded, against) if against is not None and with_figures else ()
    return _distinct(Document(tuple(sections), warnings, integrity_table(loaded.integrity), comparison, changes))


def write_report(document: Document, out: Path, *, with_page: bool = True) -> ReportFiles:
    """Write the page, every table as Markdown, LaTeX and CSV, and the figures into ``out``.

    The bytes depend on the document alone. Unchanged files of an earlier report in ``out`` that are not part of this one are
    removed. ``with_page`` False leaves the page out. Raises UserError where ``out`` cannot be written.
    """
    files = _files(document, with_page=with_page)
    write_files(files, out)
    tables, figures = (tuple(out / name for name in files if name.startswith(part)) for part in ("tables/", "figures/"))
    return ReportFiles(out / PAGE, out / "table.md", out / "table.tex", out / "table.csv", tables, figures)


def write_files(files: Mapping[str, bytes], out: Path) -> None:
    """Write files by their names and ``WRITTEN``, the list of them; unchanged ones of an earlier list that are not among them go.

    On a disk without room for all of them an earlier report stays as it is. Raises UserError where ``out`` cannot be written.
    """
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    new: dict[Path, Path] = {}
    try:
        try:
            for name, data in {**files, WRITTEN: (json.dumps(hashes, indent=1) + "\n").encode()}.items():
                file = out / name
                file.parent.mkdir(parents=True, exist_ok=True)
                new[file] = unfinished(file.parent, f".{file.name}-")
                new[file].write_bytes(data)
            _remove_stale(out, files)
            for file, temporary in new.items():
                temporary.replace(file)
        finally:
            for temporary in new.values():
                with contextlib.suppress(OSError):
                    temporary.unlink()
    except OSError as error:
        size = shown_bytes(sum(map(len, files.values())))
        raise UserError(
            f"the report ({size}) cannot be written to {str(out)!r} ({refusal(error, out)}); name another --out DIR"
        ) from error


def table_texts(grids: Iterable[Table]) -> dict[str, str]:
    """File name -> text of every table as CSV, LaTeX and Markdown."""
    writers = {"csv": table_csv, "tex": table_latex, "md": table_markdown}
    return {f"tables/{grid.key}.{ending}": write(grid) for grid in grids for ending, write in writers.items()}


def downloads_of(texts: Mapping[str, str]) -> list[Download]:
    """Files that a page carries."""
    return [Download(name, _MEDIA[Path(name).suffix], text) for name, text in texts.items()]


def figure_files(document: Document) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every figure in its three forms."""
    for figure in document.all_figures:
        name = f"figures/{figure.name}"
        yield from {f"{name}.svg": figure.svg.encode(), f"{name}.pdf": figure.pdf, f"{name}.png": figure.png}.items()


def stored_answers(store: Store, *, keep: bool = True) -> ReadAnswers:
    """Reads the predictions of runs. ``keep``: those of each run once, for several readers; they take most of the memory."""
    found: dict[str, Answers | UserError] = {}

    def answers(run: RunResult) -> Answers:
        if run.run_id not in found:
            try:
                found[run.run_id] = answers_in(
                    store.path(run.run_id),
                    run.run_id,
                    run.content.predictions_sha256,
                    run.class_names,
                    run.test_counts,
                    has_domains=bool(run.domains),
                    remedy="run its suite again",  # a search of the plans for each of many runs would take hours
                )
            except UserError as error:
                found[run.run_id] = error
        one = found[run.run_id] if keep else found.pop(run.run_id)
        if isinstance(one, UserError):
            raise one
        return one

    return answers


@uncollected()
def table_section(results: SuiteResults, key: str, answered: ReadAnswers, *, all_pairs: bool = False) -> Section:
    """A suite with its tables and without its figures, which take most of the time."""
    return Section(
        key,
        results.title,
        results.description,
        results,
        tables=(paper_table(results), *benchmark_tables(results)),
        published=published_comparison(results),
        statistics=statistics_tables(results, answered, all_pairs=all_pairs),
        costs=cost_table(results),
        answer=answer(results),
    )


def _events(store: Store, run_id: str) -> list[dict[str, Any]]:
    return events_in(lines_of(store.path(run_id) / EVENTS))


def _distinct(document: Document) -> Document:
    """The document with keys of tables that are unique and safe as file names."""
    taken: list[str] = []

    def named(grid: Table) -> Table:
        taken.append(file_name(grid.key, taken))
        return replace(grid, key=taken[-1])

    sections = tuple(
        replace(
            section,
            tables=tuple(map(named, section.tables)),
            published=section.published and named(section.published),
            statistics=tuple(map(named, section.statistics)),
            costs=section.costs and named(section.costs),
        )
        for section in document.sections
    )
    comparison = tuple(map(named, document.comparison))
    return replace(
        document, sections=sections, comparison=comparison, left_out=document.left_out and named(document.left_out)
    )


def _files(document: Document, *, with_page: bool) -> dict[str, bytes]:
    """Name -> content of every file of a report."""
    grids = all_tables(document)
    texts = {
        "table.md": document_markdown(document),
        "table.tex": latex_document(grids),
        "table.csv": tidy_csv([section.results for section in document.sections if section.results is not None]),
        **table_texts(grids),
    }
    written = {name: text.encode() for name, text in texts.items()} | dict(figure_files(document))
    return written | ({PAGE: render_page(document, downloads_of(texts)).encode()} if with_page else {})


def _remove_stale(out: Path, files: Mapping[str, bytes]) -> None:
    try:
        earlier = json.loads((out / WRITTEN).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return
    for name, digest in earlier.items() if isinstance(earlier, dict) else ():
        # The list may have been edited: only a plain name in the two folders, or of a page, may be taken away.
        if name in files or not re.fullmatch(
            rf"(tables|figures)/[\w-]+\.[a-z]{{2,3}}|(benchmark|method)-[\w-]+\.html|{re.escape(PAGE)}", name
        ):
            continue
        file = out / name
        if file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == digest:
            file.unlink()


def _own_texts(name: str, report: Mapping[str, Any]) -> tuple[str, str]:
    """Title and summary of a counted suite that is not the project's; older counts have only a name."""
    texts = (report.get("suite_title", name), report.get("suite_summary", ""))
    return (texts[0], texts[1]) if all(isinstance(text, str) for text in texts) else (name, "")


def counted_section(name: str, report: Mapping[str, Any], key: str, root: Path = RESULTS) -> Section:
    """A section of two tables from a cost report's plain values; ``key`` begins the names of their files and anchors.

    Raises UserError for a report that is not one: its file has no seal, and may have been edited.
    """
    suite = SUITES.get(name)
    title, description = (suite.title, suite.summary) if suite is not None else _own_texts(name, report)
    try:
        CountedReport.model_validate(report)
        tables = counted_grids(report, key, title)
    except (ValidationError, ArithmeticError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        reason = error if first is None else f"{'.'.join(map(str, first['loc'])) or 'its top'}: {first['msg']}"
        raise UserError(
            f"the stored counts of suite {name!r} cannot be used ({reason}); "
            f"write them anew with: {shell_command('run', run_argument(name), results=root)}"
        ) from error
    return Section(key, title, description, None, tables)
