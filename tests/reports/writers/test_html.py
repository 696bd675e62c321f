"""The page: self-contained, escaped, traceable, well formed, and the same bytes for the same records."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import zlib
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from smope_bench.reports.document import Document, Section
from smope_bench.reports.figures.figure import FigureFile, FigureGroup
from smope_bench.reports.loading.load import load_suite
from smope_bench.reports.loading.model import SuiteResults
from smope_bench.reports.tables.costs import cost_table
from smope_bench.reports.tables.table import Block, Heading, Row, Table, TableCell
from smope_bench.reports.writers import html as page_module
from smope_bench.reports.writers.html import Download, render_page
from smope_bench.reports.writers.page_data import safe_json
from smope_bench.reports.writers.svg import inline_svg, place_figures

HOSTILE = """</script><script>alert(1)</script><img src=x onerror='alert(2)'> "q" {{ 7*7 }} & $x_ <!-- <script>"""
VOID = {"meta", "link", "br", "img", "hr", "input"}
LOOSE = {"td", "th", "tr", "li", "dt", "dd"}  # HTML lets their end tags be left out, and large tables do so.


class Page(HTMLParser):
    """Collects what the tests ask of a page, and that its elements are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.data = ""
        self._open: list[str] = []
        self._in_data = False
        self.feed(text)
        self.close()
        assert not self._open, self._open
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._in_data = ("type", "application/json") in attrs
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name in ("href", "xlink:href"):
                self.links.append(value or "")
            elif name in ("src", "srcset", "data", "action"):
                self.sources.append(value or "")
            elif name.startswith("on"):
                self.handlers.append(name)
        if tag not in VOID | LOOSE:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID | LOOSE:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in LOOSE:
            assert self._open.pop() == tag
        self._in_data = False

    def handle_data(self, data: str) -> None:
        if self._in_data:
            self.data += data
        elif not self._open or self._open[-1] not in ("style", "script"):
            self.words.append(data)


def figure_of(name: str, *, label: str = "a", **changes: object) -> FigureFile:
    svg = f'<?xml version="1.0"?>\n<svg width="9pt" viewBox="0 0 9 9"><g id="{label}"><use xlink:href="#{label}"/></g></svg>'
    return replace(FigureFile(name, "A title", "A caption.", "what it shows", svg, b"", b"", ("ab" * 8,)), **changes)


def table_of(results: SuiteResults, key: str = "smoke-table", **changes: object) -> Table:
    """The suite's FAA: one group of columns a benchmark, one block a kind."""
    headings = tuple(
        Heading(text, column.label, "final average accuracy", sort="down")
        for column in results.columns
        for text in ("FAA", "n")
    )
    blocks = []
    for kind in ("floor", "method", "ceiling"):
        lines = []
        for row in results.rows_of(kind):
            entries: list[TableCell] = []
            for column in results.columns:
                cell = results.cell(row, column)
                summary, place = cell.summary("faa"), (row.label, column.label)
                if summary is None:
                    entries += [TableCell("missing", tone="word", cell=place), TableCell("0", (0,))]
                    continue
                runs = tuple(run.run_id for run in cell.used)
                rank = results.ranks(column, "faa").get(row.label, 0)
                entries.append(
                    TableCell(f"{summary.mean:.2f}", (summary.mean,), rank, note="mean of runs", runs=runs, cell=place)
                )
                entries.append(TableCell(str(summary.n), (summary.n,), runs=runs, cell=place))
            lines.append(Row(row.label, tuple(entries), url=row.url))
        blocks.append(Block(tuple(lines), f"{kind}s"))
    grid = Table(key, "The table", "Method", headings, tuple(blocks), lead="What it shows.", notes=("A note.",))
    return replace(grid, **changes)


def section_of(
    results: SuiteResults, key: str = "smoke", figures: Sequence[FigureFile] = (), tables: Sequence[Table] = ()
) -> Section:
    groups = (FigureGroup("Drawn", tuple(figures)),) if figures else ()
    grids = tuple(tables) or (table_of(results, f"{key}-table"),)
    return Section(key, results.title, results.description, results, grids, costs=cost_table(results), figures=groups)


@pytest.fixture(scope="session")
def results(smoke) -> SuiteResults:
    return load_suite(smoke, "smoke", None)


@pytest.fixture(scope="session")
def document(results: SuiteResults) -> Document:
    return Document((section_of(results, figures=[figure_of("one"), figure_of("two")]),), ("2 records were left out.",))


@pytest.fixture(scope="session")
def downloads() -> list[Download]:
    return [
        Download("table.csv", "text/csv", "all,of,it\n"),
        Download("tables/smoke-table.csv", "text/csv", "Methode,Ü\n1,2\n"),
        Download("tables/smoke-table.tex", "application/x-tex", r"\begin{table}"),
    ]


@pytest.fixture(scope="session")
def text(document: Document, downloads: list[Download]) -> str:
    return render_page(document, downloads)


@pytest.fixture(scope="session")
def page(text: str) -> Page:
    return Page(text)


def test_the_page_needs_nothing_from_outside(text: str, page: Page, downloads: list[Download]) -> None:
    assert page.sources == []
    beside = {download.name for download in downloads}
    assert all(link.startswith(("#", "data:")) or link in beside for link in page.links), page.links
    assert "default-src 'none'" in text
    assert not re.search(r"@import|url\((?!#)", text)


def test_every_link_on_the_page_leads_somewhere_and_no_id_is_used_twice(page: Page) -> None:
    inside = {link[1:] for link in page.links if link.startswith("#")}
    assert inside <= set(page.ids), inside - set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_the_page_shows_numbers_warnings_runs_and_provenance(results: SuiteResults, page: Page) -> None:
    for cell in results.cells.values():
        summary = cell.summary("faa")
        assert summary is not None and f"{summary.mean:.2f}" in page.text
        assert all(run.run_id in page.text for run in cell.runs)
    for word in ("2026-11-22 05:02:12 UTC", "PyTorch 2.4.0", "tiny", "15 runs planned", "12 345", "a CPU of two cores"):
        assert word in page.text, word
    assert "2 records were left out." in page.text and "result.json" in page.text
    assert "highest mean" not in page.text, "no headline claims what is not decided"


def test_best_and_second_are_told_to_ears_too(text: str) -> None:
    assert len(re.findall(r"<b>[\d.]+</b><span class=\"vh\"> best</span>", text)) == 1
    assert len(re.findall(r"<u>[\d.]+</u><span class=\"vh\"> second</span>", text)) == 1
    assert text.count('role="img" aria-label="what it shows"') == 2


def test_groups_of_headings_span_their_columns(text: str) -> None:
    assert re.search(r'<th colspan="2" scope="colgroup" class="group">digits', text)
    assert text.count('<tr class="kind">') == 3


def test_an_entry_without_a_place_on_the_page_names_its_runs_below_the_table(results: SuiteResults) -> None:
    entry = TableCell("7", (7,), runs=("ab" * 8, "cd" * 8), note="a note")
    grid = Table("other", "Other", "Row", (Heading("x"),), (Block((Row("one", (entry,)),)),))
    text = render_page(Document((section_of(results, tables=[grid]),)))
    page = Page(text)
    assert f"one : {'ab' * 8} {'cd' * 8}" in page.text.replace("one:", "one :")
    assert '<span class="noted" tabindex="0" title="a note">7</span>' in text


def test_the_data_tells_each_run_once_with_what_is_shared_told_once(results: SuiteResults, page: Page) -> None:
    data = json.loads(page.data)
    assert set(data["runs"]) == {run.run_id for run in results.runs}
    run = results.runs[0]
    assert run.outcome is not None
    told = data["runs"][run.run_id]
    for row, expected in zip(told["matrix"], run.outcome.accuracy_matrix, strict=True):
        assert row == pytest.approx([value for value in expected if value is not None], abs=0.005)
    assert told["scores"][0] == f"{run.outcome.metrics['faa']:.2f}"
    spec = {key: data["pool"][place] for key, place in data["pool"][told["spec"]].items()}
    assert spec == {key: value for key, value in run.outcome.spec.items() if not key.endswith("_seed")}
    protocol = dict(data["pool"][told["protocol"]])
    assert protocol["Backbone weights (SHA-256)"] == "ab" * 32 and protocol["Code fingerprint"] == "f" * 16
    names, order = (data["pool"][place] for place in told["classes"])
    assert [names[place] for place in order] == run.outcome.class_names and told["split"] == run.outcome.split_hash
    assert len({one["protocol"] for one in data["runs"].values()}) == 1
    assert page.data.count("a CPU of two cores") == 0


def test_recipe_and_settings_by_hand_are_told_of_each_run(results: SuiteResults) -> None:
    place = next(iter(results.cells))
    cell = results.cells[place]
    runs = tuple(replace(run, recipe="paper (Table 9)", settings=("lr=0.1",)) for run in cell.runs)
    changed = replace(results, cells={**results.cells, place: replace(cell, runs=runs, used=runs)})
    data = json.loads(Page(render_page(Document((section_of(changed),)))).data)
    origins = [data["pool"][run[6]] for cell in data["cells"].values() for run in cell["runs"]]
    assert origins.count([["Recipe", "paper (Table 9)"], ["Set by hand", "lr=0.1"]]) == 3
    assert origins.count([["Recipe", "not noted"], ["Set by hand", "nothing"]]) == 12


def test_downloads_are_offered_where_they_belong(page: Page, text: str, downloads: list[Download]) -> None:
    packed = re.findall(r'<script type="text/plain" id="files">([^<]*)</script>', text)
    carried = json.loads(zlib.decompress(base64.b64decode(packed[0])))
    assert carried == {download.name: [download.media_type, download.text] for download in downloads}
    assert set(carried) == set(page.links) & set(carried)
    body, _, end = text.partition('id="files-of-all"')
    assert 'download="table.csv"' in end and 'download="smoke-table.csv"' not in end
    assert 'download="smoke-table.csv"' in body and 'download="smoke-table.tex"' in body


def test_the_same_document_gives_the_same_bytes(document: Document, downloads: list[Download], text: str) -> None:
    assert render_page(document, downloads) == text


@pytest.fixture
def hostile(factory) -> Document:
    """A report with every text that comes from outside set to markup."""
    factory.title = factory.description = HOSTILE
    for seed in range(2):
        spec = factory.spec("m", "digits", seed, seed, 2, note=HOSTILE)
        result = factory.result(spec, factory.matrix(2, 90, 1, seed), class_names=[HOSTILE] * 4)
        result["provenance"]["cpu"] = result["provenance"]["torch"] = HOSTILE
        factory.plan(HOSTILE, spec, column=HOSTILE)
        factory.store.write_result(spec.run_id, result)
    factory.fail(HOSTILE, factory.spec("m", "digits", 2, 2, 2), HOSTILE, column=HOSTILE)
    factory.rows[HOSTILE] |= {"paper": HOSTILE, "url": "javascript://x%0Aalert(3)"}
    factory.columns[HOSTILE] |= {"summary": HOSTILE}
    results = load_suite(factory.write(), "smoke", None)
    entry = TableCell(HOSTILE, (HOSTILE,), marks=(HOSTILE,), small=HOSTILE, note=HOSTILE, runs=(HOSTILE,))
    line = Row(HOSTILE, (entry,), (HOSTILE,), HOSTILE, "javascript:alert(4)")
    block = Block((line,), HOSTILE, HOSTILE)
    grid = Table("g", HOSTILE, HOSTILE, (Heading(HOSTILE, HOSTILE, HOSTILE),), (block,), HOSTILE, (HOSTILE,))
    figure = figure_of("h", title=HOSTILE, caption=HOSTILE, alt=HOSTILE, runs=(HOSTILE,))
    section = section_of(results, figures=[figure], tables=[grid, table_of(results)])
    return Document(
        (replace(section, title=HOSTILE),), (HOSTILE,), replace(grid, key="left"), (replace(grid, key="c"),)
    )


def test_markup_in_records_stays_text(hostile: Document) -> None:
    text = render_page(hostile)
    page = Page(text)
    assert page.tags.count("script") == 3 and "img" not in page.tags and page.handlers == []
    assert "javascript:" not in "".join(page.links)
    assert "{{ 7*7 }}" in text and HOSTILE in page.text
    assert any(
        HOSTILE in json.dumps(part, ensure_ascii=False).replace('\\"', '"') for part in json.loads(page.data)["pool"]
    )


def test_json_cannot_leave_its_element() -> None:
    value = {"a": "</script><!-- <script> & \u2028\u2029 ]]>", "b": [1, None, 0.5]}
    text = str(safe_json(value))
    assert json.loads(text) == value and not set("<>&\u2028\u2029") & set(text)


def test_trouble_is_listed_by_row_with_its_reason(factory) -> None:
    factory.publish("A", factory.spec("a", "digits", 0, 0, 2), factory.matrix(2, 90, 1, 0))
    factory.fail("A", factory.spec("a", "digits", 1, 1, 2), "the loss stopped being finite at step 7 of task 2")
    factory.plan("B", factory.spec("b", "digits", 0, 0, 2))
    page = Page(render_page(Document((section_of(load_suite(factory.write(), "smoke", None)),))))
    assert "the loss stopped being finite at step 7 of task 2" in page.text and "not run yet" in page.text
    assert re.search(r"1\s+run\s+failed", page.text) and re.search(r"1\s+run\s+missing", page.text)
    told = [pair for part in json.loads(page.data)["pool"] if isinstance(part, list) for pair in part]
    assert ["Kind", "RunDivergedError"] in told and ["Last good task", "2"] in told


def test_a_suite_without_any_finished_run_still_has_a_page(factory) -> None:
    factory.plan("A", factory.spec("a", "digits", 0, 0, 2))
    page = Page(render_page(Document((section_of(load_suite(factory.write(), "smoke", None)),))))
    assert "no finished run" in page.text and "missing" in page.text


def test_a_counted_suite_has_tables_and_no_runs() -> None:
    grid = Table("counts", "Counts", "Method", (Heading("GFLOPs"),), (Block((Row("A", (TableCell("1.5", (1.5,)),)),)),))
    page = Page(render_page(Document((Section("t3", "Table 3", "Counted.", None, (grid,)),))))
    assert "1.5" in page.text and "Table 3" in page.text and "Runs" not in page.text.split()


def test_several_suites_share_a_page_and_a_run_is_told_once(factory, make_factory) -> None:
    other = make_factory(suite="other", title="The other one")
    for one in (factory, other):
        one.publish("A", one.spec("a", "digits", 0, 0, 2), one.matrix(2, 90, 1, 0))
        one.plan("A again", one.spec("a", "digits", 0, 0, 2))
        one.write()
    suites = [load_suite(factory.store, name, None) for name in ("smoke", "other")]
    page = Page(render_page(Document(tuple(section_of(suite, suite.suite) for suite in suites))))
    assert len(page.ids) == len(set(page.ids)) and {"s1", "s2"} <= set(page.ids)
    assert {link[1:] for link in page.links if link[:1] == "#"} <= set(page.ids)
    data = json.loads(page.data)
    assert len(data["runs"]) == 1 and len(data["cells"]) == 4


def test_a_web_address_becomes_a_link(factory) -> None:
    factory.plan("A", factory.spec("a", "digits", 0, 0, 2))
    factory.rows["A"] |= {"url": "https://example.org/paper"}
    page = Page(render_page(Document((section_of(load_suite(factory.write(), "smoke", None)),))))
    assert "https://example.org/paper" in page.links


def test_figures_beyond_the_room_stand_beside_the_page_and_it_says_so(results, monkeypatch) -> None:
    figures = [figure_of(f"f{i}") for i in range(3)]
    room = 2 * len(inline_svg(figures[0], "d1"))
    first, second, third = place_figures([figures], room)[0]
    assert first.svg is not None and second.svg is not None and third.svg is None
    monkeypatch.setattr(page_module, "FIGURE_ROOM", room)
    page = Page(render_page(Document((section_of(results, figures=figures),))))
    assert "1 figure is not in this page" in page.text and "figures/f2.svg" in page.links
    assert "figures/f1.svg" not in page.links and page.tags.count("figure") == 3 and "what it shows" in page.text


def test_the_first_figures_of_every_suite_are_taken_first() -> None:
    figures = [[figure_of(f"{suite}{i}") for i in range(3)] for suite in "ab"]
    placed = place_figures(figures, 3 * len(inline_svg(figures[0][0], "d1")))
    assert [[one.svg is not None for one in group] for group in placed] == [[True, True, False], [True, False, False]]


def test_reports_import_no_torch() -> None:
    code = (
        "import sys, smope_bench.reports.build; sys.exit(any(m in sys.modules for m in ('torch', 'timm', 'avalanche')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
