"""The page: self-contained, escaped, traceable, well formed, and the same bytes for the same records."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from harness.errors import UserError
from reports.build import ReportFiles, load_suite, write_report
from reports.figures import FigureFile
from reports.html import Section, inline_svg, render_page
from reports.model import SuiteResults

HOSTILE = """</script><script>alert(1)</script><img src=x onerror='alert(2)'> "q" {{ 7*7 }} & $x_"""
VOID = {"meta", "link", "br", "img", "hr", "input"}
LOOSE = {"td", "th", "tr"}  # HTML lets their end tags be left out, and the many small tables of runs do so.


class Page(HTMLParser):
    """Collects what the tests ask of a page, and that its elements are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
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

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="session")
def page(smoke_report: ReportFiles) -> Page:
    return Page(smoke_report.page.read_text(encoding="utf-8"))


@pytest.fixture
def hostile(factory) -> SuiteResults:
    """A suite with every text that comes from outside set to markup."""
    factory.title = factory.description = HOSTILE
    for seed in range(2):
        spec = factory.spec("m", "digits", seed, seed, 2, note=HOSTILE)
        result = factory.result(spec, factory.matrix(2, 90, 1, seed), class_names=[HOSTILE] * 4)
        result["provenance"]["cpu"] = result["provenance"]["torch"] = HOSTILE
        factory.plan(HOSTILE, spec, column=HOSTILE)
        factory.store.write_result(spec.run_id, result)
    factory.fail(HOSTILE, factory.spec("m", "digits", 2, 2, 2), HOSTILE, column=HOSTILE)
    factory.rows[HOSTILE] |= {"paper": HOSTILE, "url": "javascript:alert(3)"}
    factory.columns[HOSTILE] |= {"summary": HOSTILE}
    return load_suite(factory.write(), "smoke", None)


def test_every_file_is_written(smoke_report: ReportFiles) -> None:
    assert smoke_report.page.name == "index.html"
    for file in (smoke_report.page, smoke_report.markdown, smoke_report.latex, smoke_report.csv):
        assert file.stat().st_size > 500
    names = [file.name for file in smoke_report.figures]
    assert names == [f"smoke-1-{part}.{kind}" for part in ("final", "stages", "matrices") for kind in ("svg", "png")]
    assert all(file.read_bytes()[:4] == b"\x89PNG" for file in smoke_report.figures if file.suffix == ".png")


def test_the_page_needs_nothing_from_outside(smoke_report: ReportFiles, page: Page) -> None:
    assert page.sources == []
    assert all(link.startswith(("#", "data:")) for link in page.links), page.links
    text = smoke_report.page.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert not re.search(r"@import|url\((?!#)", text)


def test_every_link_on_the_page_leads_somewhere_and_no_id_is_used_twice(page: Page) -> None:
    inside = {link[1:] for link in page.links if link.startswith("#")}
    assert inside and inside <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_the_page_shows_numbers_runs_and_provenance(smoke_report: ReportFiles, smoke, page: Page) -> None:
    results = load_suite(smoke, "smoke", None)
    text = " ".join(page.text)
    for cell in results.cells.values():
        summary = cell.summary("faa")
        assert summary is not None
        assert f"{summary.mean:.2f} ± {summary.std:.2f}" in text
        assert all(run.run_id in text for run in cell.runs)
    for word in (
        "2026-11-22 05:02:12 UTC",
        "PyTorch 2.4.0",
        "tiny",
        "15 ",
        "812 MB",
        "12\u202f345",
        "a CPU of two cores",
    ):
        assert word in text, word
    assert "order 2, training 2" in text and '"batch_size": 32' in text
    assert smoke_report.page.read_text(encoding="utf-8").count("<figure>") == 3


def test_best_and_second_are_told_to_ears_too(smoke_report: ReportFiles) -> None:
    text = smoke_report.page.read_text(encoding="utf-8")
    assert text.count('<span class="vh"> best</span>') == 3
    assert text.count('<span class="vh"> second</span>') == 3
    assert text.count('role="img" aria-label="') == 3


def test_downloads_are_the_files_beside_the_page(smoke_report: ReportFiles, page: Page) -> None:
    carried = [base64.b64decode(link.split("base64,")[1]) for link in page.links if "base64," in link]
    beside = [file.read_bytes() for file in (smoke_report.markdown, smoke_report.latex, smoke_report.csv)]
    assert carried == beside


def test_the_same_records_give_the_same_bytes(smoke_report: ReportFiles, smoke, tmp_path) -> None:
    again = write_report(load_suite(smoke, "smoke", "f" * 16), tmp_path)
    old, new = smoke_report.page.parent, again.page.parent
    files = sorted(path.relative_to(old) for path in old.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(new) for path in new.rglob("*") if path.is_file())
    assert all((old / file).read_bytes() == (new / file).read_bytes() for file in files)


def test_markup_in_records_stays_text(hostile: SuiteResults, tmp_path) -> None:
    files = write_report(hostile, tmp_path / "out")
    text = files.page.read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags.count("script") == 1 and "img" not in page.tags and page.handlers == []
    assert "javascript:" not in "".join(page.links)
    assert "{{ 7*7 }}" in text
    assert "<script" not in files.markdown.read_text(encoding="utf-8")
    for figure in files.figures:
        if figure.suffix == ".svg":
            assert "<script" not in figure.read_text(encoding="utf-8")


def test_trouble_is_listed_by_row_with_its_reason(factory) -> None:
    factory.publish("A", factory.spec("a", "digits", 0, 0, 2), factory.matrix(2, 90, 1, 0))
    factory.fail("A", factory.spec("a", "digits", 1, 1, 2), "the loss stopped being finite at step 7 of task 2")
    factory.plan("B", factory.spec("b", "digits", 0, 0, 2))
    text = " ".join(Page(render_page([Section(load_suite(factory.write(), "smoke", None), [])], [])).text)
    assert "the loss stopped being finite at step 7 of task 2" in text and "RunDivergedError" in text
    assert re.search(r"Last good task\s+2\b", text)
    assert "not run yet" in text and re.search(r"1\s+run\s+failed", text) and re.search(r"1\s+run\s+missing", text)


def test_a_suite_without_any_finished_run_still_has_a_page(factory, tmp_path) -> None:
    factory.plan("A", factory.spec("a", "digits", 0, 0, 2))
    files = write_report(load_suite(factory.write(), "smoke", None), tmp_path / "out")
    assert files.figures == ()
    text = " ".join(Page(files.page.read_text(encoding="utf-8")).text)
    assert "No finished run" in text and "missing" in text


def test_several_suites_share_a_page_and_a_run_is_told_once_a_suite(factory, make_factory) -> None:
    other = make_factory(suite="other", title="The other one")
    for one in (factory, other):
        one.publish("A", one.spec("a", "digits", 0, 0, 2), one.matrix(2, 90, 1, 0))
        one.plan("A again", one.spec("a", "digits", 0, 0, 2))
        one.write()
    suites = [load_suite(factory.store, name, None) for name in ("smoke", "other")]
    page = Page(render_page([Section(suite, []) for suite in suites], []))
    assert len(page.ids) == len(set(page.ids)) and {"s1", "s2"} <= set(page.ids)
    assert {link[1:] for link in page.links if link[:1] == "#"} <= set(page.ids)
    assert " ".join(page.text).count("This run is shared with another cell") == 2


def test_a_web_address_becomes_a_link(factory) -> None:
    factory.plan("A", factory.spec("a", "digits", 0, 0, 2))
    factory.rows["A"] |= {"paper": "A Venue 2026", "url": "https://example.org/paper"}
    page = Page(render_page([Section(load_suite(factory.write(), "smoke", None), [])], []))
    assert "https://example.org/paper" in page.links and "A Venue 2026" in page.text


def test_no_suite_and_an_unwritable_folder_are_the_users_to_mend(smoke, tmp_path) -> None:
    with pytest.raises(UserError, match="at least one suite"):
        write_report([], tmp_path)
    (tmp_path / "taken").write_text("a file")
    results = load_suite(smoke, "smoke", None)
    with pytest.raises(UserError, match=r"cannot be written to .*--out DIR"):
        write_report(replace(results, columns=()), tmp_path / "taken")


def test_inlined_figures_keep_their_ids_apart() -> None:
    inner = '<!-- c --><g id="a"/><use xlink:href="#a" clip-path="url(#a)"/>'
    svg = f'<?xml version="1.0"?>\n<svg width="9pt" viewBox="0 0 9 9">{inner}</svg>'
    figure = FigureFile("one", "t", "c", 'an "alt" <text>', svg, b"")
    found = str(inline_svg(figure))
    assert 'id="one-a"' in found and 'href="#one-a"' in found and "url(#one-a)" in found
    assert "&#34;alt&#34; &lt;text&gt;" in found and "<!--" not in found and "9pt" not in found


def test_reports_import_no_torch() -> None:
    code = "import sys, reports.build; sys.exit(any(m in sys.modules for m in ('torch', 'timm', 'avalanche')))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
