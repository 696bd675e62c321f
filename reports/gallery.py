"""The gallery of the documentation: every table and figure of the papers, from the runs of its tiny suite.

``python -m smope_bench.reports.gallery --results DIR --out docs/gallery`` writes ``README.md`` and its pictures. It trains nothing;
equal stores give equal bytes. With ``--keep``, parts of suites that the folder does not have stay as they are on the page.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from smope_bench.benchmarks.disk import refusal
from smope_bench.benchmarks.suites import SUITES
from smope_bench.benchmarks.suites.schema import Suite
from smope_bench.harness.cost.cost_suites import read_counted
from smope_bench.harness.errors import UserError
from smope_bench.harness.records.observations import read_observations
from smope_bench.harness.records.store import Store
from smope_bench.harness.text import shell_command
from smope_bench.reports.build import counted_section
from smope_bench.reports.figures.figure import FigureFile
from smope_bench.reports.figures.kinds import figure_groups, paper_figures
from smope_bench.reports.loading.environments import said
from smope_bench.reports.loading.load import VERSION_DIGITS, load_suites, suites_in
from smope_bench.reports.loading.model import Run, SuiteResults
from smope_bench.reports.loading.observed import Observed
from smope_bench.reports.tables.paper import LEAD, TINY_LEAD, paper_table
from smope_bench.reports.tables.table import Block, Table
from smope_bench.reports.writers.markdown import escape, table_markdown

EXAMPLES = ("final", "stages", "matrices", "tradeoff", "critical-difference")
"""Suffixes of the names of figures; one example of each is shown."""


def example_figures(results: SuiteResults) -> list[FigureFile]:
    """One figure of each kind of ``EXAMPLES``, of the suite's first benchmark that has it."""

    def unobserved(run_id: str) -> Mapping[str, NDArray[Any]]:
        raise UserError(f"run {run_id}: the examples need no observations")

    drawn = [figure for group in figure_groups(results, results.suite, unobserved) for figure in group.figures]
    return [figure for kind in EXAMPLES for figure in _first(drawn, kind)]


def _first(figures: Iterable[FigureFile], kind: str) -> list[FigureFile]:
    return [figure for figure in figures if figure.name.endswith(f"-{kind}")][:1]


PAGE = "README.md"
_EXAMPLES_TITLE = "What every report shows besides"
_MISSING = "**Missing**: not run in this results folder. Make it with `{command}`."
_HEAD = """# Gallery

Every table and figure of the papers as a report shows it, from **tiny rehearsals**: digits and glyphs on the small backbone that
comes with the project, made offline on a CPU. They show what is drawn and written, and that all of it runs. They are **not at the
papers' scale** and predict none of the papers' numbers; [reproduce.md](../reproduce.md) has the commands at full scale.
Ten things as ten of the sets of `emoji_r` draw them: [emoji.png](emoji.png).

Each part names the command that made it; it makes the part again in any results folder. `python run_all.py report SUITE` then
writes the page with the id of every run behind every number, intervals, statistics and all figures, and
`python -m smope_bench.reports.gallery --results DIR` this one.

Tables: """
_LEAD = f"{LEAD}{TINY_LEAD} Marks in brackets and words in place of numbers are those of the report.\n"


@dataclass(frozen=True)
class Part:
    """One heading of the page: paragraphs of Markdown, and the pictures that they show."""

    title: str
    paragraphs: tuple[str, ...]
    figures: tuple[FigureFile, ...] = ()


def write_gallery(store: Store, out: Path, *, mixed: bool = False, keep: bool = False) -> Path:
    """Write the page and its pictures into ``out``, and remove pictures that only an earlier page shows.

    ``keep``: suites that were not run in this folder keep their part of the earlier page. Raises UserError where nothing was
    run, where records of several versions of the code meet (unless ``mixed``), or where ``out`` cannot be written.
    """
    page = out / PAGE
    parts = gallery_parts(store, mixed=mixed, earlier=_earlier_parts(page) if keep else {})
    figures = {f"{figure.name}.png": figure.png for part in parts for figure in part.figures}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in _pictures(_read(page)) - _pictures(_text(parts)):
            (out / name).unlink(missing_ok=True)
        for name, data in figures.items():
            (out / name).write_bytes(data)
        page.write_text(_text(parts), encoding="utf-8", newline="\n")
    except OSError as error:
        raise UserError(
            f"the gallery cannot be written to {str(out)!r} ({refusal(error, out)}); name another --out"
        ) from error
    return page


def gallery_parts(store: Store, *, mixed: bool = False, earlier: Mapping[str, str] = {}) -> list[Part]:
    """The parts of the page: the suites of the papers in order, then examples of the figures of every report.

    ``earlier``: title, as the page writes it, -> Markdown of a part that stands where the suite has no runs.
    """
    suites = [suite for suite in SUITES.values() if not suite.is_tiny_only]
    present = set(suites_in(store))
    names = [suite.name for suite in SUITES.values() if suite.name in present and not suite.counts_only]
    if not {suite.name for suite in suites} & set(names):
        raise UserError(
            f"no suite of the papers was run in {str(store.root)!r}; run: "
            + shell_command("run", "table1", "--tiny", results=store.root)
        )
    loaded = {results.suite: results for results in load_suites(store, names, None, mixed=mixed).suites}

    observed = partial(read_observations, store)
    parts = [_part(suite, loaded.get(suite.name), store, observed) for suite in suites]
    parts = [
        Part(part.title, (earlier[title],)) if _is_missing(part) and (title := escape(part.title)) in earlier else part
        for part in parts
    ]
    tables = [results for name, results in loaded.items() if not SUITES[name].drawings]
    shown = max(tables, key=_extent, default=None)
    if shown is not None and (examples := example_figures(shown)):
        lead = "Beside the papers' own figures, every report of a table has these among others."
        made = _made(SUITES[shown.suite], shown)
        parts.append(Part(_EXAMPLES_TITLE, (lead, made), tuple(examples)))
    elif _EXAMPLES_TITLE in earlier:
        parts.append(Part(_EXAMPLES_TITLE, (earlier[_EXAMPLES_TITLE],)))
    return parts


def _extent(results: SuiteResults) -> tuple[int, int]:
    """Sort key of the example suite: finished runs per cell, then rows."""
    return min((len(cell.used) for cell in results.cells.values()), default=0), len(results.rows)


def _part(suite: Suite, results: SuiteResults | None, store: Store, observed: Observed) -> Part:
    if suite.counts_only:
        return _counted_part(suite, store)
    if results is None:
        return _missing_part(suite)
    figures = tuple(paper_figures(results, suite.drawings, results.suite, observed))
    shown = [] if figures else [_table(replace(paper_table(results), lead=""), suite.title)]
    lost = (
        ["The figure cannot be drawn: its runs have not kept what it shows."] if suite.drawings and not figures else []
    )
    return Part(suite.title, (_sentence(suite.summary), _made(suite, results), *lost, *shown), figures)


def _counted_part(suite: Suite, store: Store) -> Part:
    try:
        report = read_counted(store, suite.name)
    except UserError:
        return _missing_part(suite)
    section = counted_section(suite.name, report, suite.name, store.root)
    made = f"Counted, not trained, by `{_command(suite)}`."
    return Part(suite.title, (_sentence(suite.summary), made, *(_table(grid, suite.title) for grid in section.tables)))


def _missing_part(suite: Suite) -> Part:
    return Part(suite.title, (_sentence(suite.summary), _MISSING.format(command=_command(suite))))


def _is_missing(part: Part) -> bool:
    return part.paragraphs[-1].startswith(_MISSING.partition(":")[0])


def _command(suite: Suite, seeds: str = "") -> str:
    tiny = "" if suite.counts_only or suite.is_tiny_only else " --tiny"
    return f"python run_all.py run {suite.name}{tiny}" + (f" --seeds {seeds}" if seeds else "")


def _made(suite: Suite, results: SuiteResults) -> str:
    """A sentence on the origin of a part: command, runs, seeds and code, from the records."""
    runs = results.runs
    done = len(results.outcomes)
    count = f"{done} run{'s' * (done != 1)}" if done == len(runs) else f"{done} of {len(runs)} runs"
    code = {outcome.fingerprint[:VERSION_DIGITS] for outcome in results.outcomes}
    revisions = {_revision(outcome.provenance) for outcome in results.outcomes}
    facts = [
        f"Made by `{_command(suite, seeds_option(runs))}`: {count}",
        f"{'seed' if len({_seeds(run) for run in runs}) == 1 else 'seeds'} {seeds_option(runs)}",
        f"code {_list(code)}",
        f"revision {_list(revisions)}",
    ]
    return ", ".join(facts) + "."


def _revision(provenance: Mapping[str, Any]) -> str:
    dirty = " with uncommitted changes" if provenance.get("git_dirty") else ""
    return said(provenance.get("git_revision"))[:VERSION_DIGITS] + dirty


def _list(texts: Iterable[str]) -> str:
    return ", ".join(f"`{text}`" for text in sorted(texts)) or "not known"


def seeds_option(runs: Iterable[Run]) -> str:
    """The seeds of runs in the form of ``--seeds``: ``0-4``, ``0,2``, ``0:1``."""
    pairs = sorted(set(map(_seeds, runs)))
    if any(order != train for order, train in pairs):
        return ",".join(f"{order}:{train}" for order, train in pairs)
    seeds = [order for order, _ in pairs]
    if len(seeds) > 1 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}-{seeds[-1]}"
    return ",".join(map(str, seeds))


def _seeds(run: Run) -> tuple[int, int]:
    return run.order_seed, run.train_seed


def _table(grid: Table, title: str) -> str:
    """A table as Markdown without run ids and meanings of columns, and without a title equal to the part's."""
    headings = tuple(replace(heading, help="") for heading in grid.headings)
    text = table_markdown(replace(grid, headings=headings, blocks=tuple(map(_bare, grid.blocks))))
    return text.split("\n", 2)[2] if grid.title == title else text


def _bare(block: Block) -> Block:
    lines = tuple(replace(line, cells=tuple(replace(entry, runs=()) for entry in line.cells)) for line in block.rows)
    return replace(block, rows=lines, help="")


def _sentence(text: str) -> str:
    said_so = escape(text[:1].upper() + text[1:])
    return said_so if said_so.endswith(".") else said_so + "."


def _text(parts: Sequence[Part]) -> str:
    lines = [_HEAD + escape(_LEAD), ""]
    lines += [f"- [{escape(part.title)}](#{_anchor(part.title)})" for part in parts]
    for part in parts:
        lines += ["", f"## {escape(part.title)}", ""]
        blocks = [*part.paragraphs, *map(_picture, part.figures)]
        lines.append("\n\n".join(block.strip("\n") for block in blocks))
    return "\n".join(lines) + "\n"


def _picture(figure: FigureFile) -> str:
    return f"![{escape(figure.alt)}]({figure.name}.png)\n\n*{escape(figure.title)}.* {escape(figure.caption)}"


def _anchor(title: str) -> str:
    """GitHub's anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _pictures(text: str) -> set[str]:
    """Names of the pictures that a page shows; only those of an earlier page may be removed."""
    return set(re.findall(r"\]\(([\w-]+\.png)\)", text))


def _earlier_parts(page: Path) -> dict[str, str]:
    """Title, as it is written, -> Markdown of the parts of a page, without those that are missing."""
    parts = (part.partition("\n") for part in re.split(r"^## ", _read(page), flags=re.MULTILINE)[1:])
    return {title: text.strip("\n") for title, _, text in parts if _MISSING.partition(":")[0] not in text}


def _read(page: Path) -> str:
    try:
        return page.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m smope_bench.reports.gallery", description="Write the gallery of the tiny suites."
    )
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder with the runs of the tiny suites")
    parser.add_argument("--out", type=Path, default=Path("docs/gallery"), help="folder of the page and its pictures")
    parser.add_argument("--mixed", action="store_true", help="accept records of several versions of the code")
    parser.add_argument(
        "--keep", action="store_true", help="keep the page's parts of suites that the folder does not have"
    )
    options = parser.parse_args(arguments)
    try:
        print(f"gallery: {write_gallery(Store(options.results), options.out, mixed=options.mixed, keep=options.keep)}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
