"""The page in a real browser, from a file and without a network. Needs Chromium: skipped without, unless SMOPE_BROWSER=required."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import expect

from smope_bench.reports.build import ReportFiles, make_document, write_report
from smope_bench.reports.loading.load import load_suite, load_suites
from smope_bench.reports.loading.model import SuiteResults
from tests.reports.writers.chromium import find_chromium  # pyright: ignore[reportMissingImports]

HOSTILE = """</script><script>window.ran=1</script><img src=x onerror='window.ran=1'> "q" {{ 7*7 }} <!-- <script>"""
# Of each drawing of a figure that is seen: pixels of its smallest letter, whether it scrolls, and the height of the hint at that.
_LETTERS = """figure => [...figure.querySelectorAll(".drawing, .live")].filter(box => box.checkVisibility()).map(box => {
  const size = text => parseFloat(getComputedStyle(text).fontSize) * Math.hypot(text.getScreenCTM().a, text.getScreenCTM().b);
  return {
    name: figure.textContent.slice(0, 60), smallest: Math.min(...[...box.querySelectorAll("svg text")].map(size)),
    is_wide: box.scrollWidth > box.clientWidth, hint: parseFloat(getComputedStyle(box, "::before").height) || 0,
  };
})"""
TABLE = ".grid-box:has(#t-smoke-table) "


@pytest.fixture(scope="module")
def written(smoke, smoke_report: ReportFiles) -> tuple[ReportFiles, SuiteResults]:
    """The report of a finished suite, and what is in it."""
    return smoke_report, load_suite(smoke, "smoke", None)


@pytest.fixture(scope="module")
def file(written: tuple[ReportFiles, SuiteResults]) -> Path:
    return written[0].page


@pytest.mark.parametrize("width", [390, 1280])
def test_it_opens_without_complaint_or_request_and_fits(visit, file: Path, width: int) -> None:
    tab = visit(file, width)
    assert tab.complaints == [] and tab.requests == [file.as_uri()]
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.page.locator("h1").inner_text().startswith("Smoke")


@pytest.mark.parametrize(("width", "scripts"), [(390, True), (390, False), (1280, False)])
def test_every_letter_of_a_figure_can_be_read_and_what_is_wider_than_the_screen_says_so(
    visit, file: Path, width: int, scripts: bool
) -> None:
    page = visit(file, width, java_script_enabled=scripts).page
    found = []
    for figure in page.locator("figure").all():
        figure.scroll_into_view_if_needed()
        if scripts and figure.get_attribute("data-chart"):
            figure.locator(".live svg").first.wait_for()
        found += figure.evaluate(_LETTERS)
    assert len(found) >= 6
    for drawing in found:
        assert drawing["smallest"] >= 9.5, drawing
        assert drawing["is_wide"] == (drawing["hint"] > 8), drawing
    assert any(drawing["is_wide"] for drawing in found) == (width == 390 and not scripts)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [1280, 390])
def test_the_first_screen_is_the_answer_and_navigation_stays(visit, file: Path, width: int) -> None:
    page = visit(file, width).page
    assert page.locator(".answer .said p").count() >= 3
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    assert page.locator("nav").bounding_box()["y"] == 0


@pytest.mark.parametrize("columns", [1, 3])
def test_several_suites_begin_with_an_answer_and_a_row_on_a_telephone(
    visit, factory, tmp_path: Path, columns: int
) -> None:
    factory.fill((0, 1), {f"digits {place}": 2 for place in range(columns)})
    store = factory.write()
    loaded = load_suites(store, ["smoke"], None)
    document = make_document(replace(loaded, suites=loaded.suites * 2), store)
    page = visit(write_report(document, tmp_path / "out").page, 390).page
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("section.suite figure").count() >= 2 * columns
    row = page.locator("section.suite table.grid tbody tr:not(.kind)").first.bounding_box()
    assert row["y"] + row["height"] <= 844


def test_a_heading_sorts_by_number_within_each_block_and_back(visit, file: Path) -> None:
    page = visit(file).page
    before = [body.all_inner_texts() for body in page.locator(TABLE + "tbody").all()]
    header = page.locator(TABLE + "thead tr:last-child th").nth(1)
    states = []
    for _ in range(3):
        header.locator("button").click()
        states.append(header.get_attribute("aria-sort"))
        blocks = [
            [
                float(cell.get_attribute("data-v") or "nan")
                for cell in body.locator("tr:not(.kind) td:nth-of-type(1)").all()
            ]
            for body in page.locator(TABLE + "tbody").all()
        ]
        if states[-1]:
            assert sum(map(len, blocks)) == 5
            assert all(block == sorted(block, reverse=states[-1] == "descending") for block in blocks), blocks
    assert states == ["descending", "ascending", None]
    assert [body.all_inner_texts() for body in page.locator(TABLE + "tbody").all()] == before


def test_rows_are_filtered_by_words_and_by_kind(visit, file: Path) -> None:
    tab = visit(file)
    rows = TABLE + "tbody tr:not(.kind):visible"
    tab.page.locator(TABLE + "input").fill("PROMPT tap")
    assert tab.page.locator(rows).count() == 1 and tab.texts(TABLE + "[role=status]") == ["1 of 5 rows"]
    tab.page.locator(TABLE + "input").fill("")
    assert tab.page.locator(rows).count() == 5 and tab.texts(TABLE + "[role=status]") == [""]
    tab.page.locator(TABLE + "select").select_option(label="Floors")
    assert tab.page.locator(rows).count() == 3
    assert len(tab.texts(TABLE + "tr.kind:visible")) == 1


def test_a_number_leads_to_its_runs_with_matrix_protocol_and_environment(visit, written) -> None:
    files, results = written
    tab = visit(files.page)
    tab.page.locator(TABLE + "tr", has_text="SMoPE").locator("td a").first.click()
    cell = next(cell for (row, _), cell in results.cells.items() if row == "SMoPE")
    opened = "details.cell[open] "
    expect(tab.page.locator("details.cell[open]")).to_have_count(1)
    expect(tab.page.locator(opened + "details.run")).to_have_count(len(cell.runs))
    said = tab.page.locator("details.cell[open]").inner_text()
    for word in ("ab" * 32, "f" * 16, "fp32", "Recipe", "Set by hand", *(run.run_id for run in cell.runs)):
        assert word in said, word
    run = cell.runs[1]
    tab.page.locator(opened + "details.run > summary", has_text=run.run_id).click()
    details = tab.page.locator(opened + "details.run[open]")
    expect(details.locator("table.matrix")).to_have_count(2)
    outcome = run.outcome
    assert outcome is not None and str(outcome.split_hash) in details.inner_text()
    assert ", ".join(outcome.class_names) in details.inner_text()
    matrix = [
        row.locator("td").all_inner_texts() for row in details.locator("table.matrix").first.locator("tbody tr").all()
    ]
    assert matrix == [["" if value is None else f"{value:.2f}" for value in row] for row in outcome.accuracy_matrix]
    assert f"FAA {outcome.metrics['faa']:.2f}" in details.locator("summary").first.inner_text()
    details.locator("dd a", has_text="E1").click()
    expect(tab.page.locator("#environment-E1")).to_have_attribute("open", "")
    assert tab.complaints == []


def test_everything_is_reached_with_the_keyboard_alone(visit, file: Path) -> None:
    page = visit(file).page

    def tab_to(condition: str) -> None:
        for _ in range(200):
            page.keyboard.press("Tab")
            if page.evaluate(f"(e => {condition})(document.activeElement)"):
                return
        raise AssertionError(condition)

    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    box = page.locator("a.skip").bounding_box()
    assert box is not None and box["width"] > 50
    page.keyboard.press("Enter")
    tab_to("e.matches('.tools input')")
    page.keyboard.type("smope")
    expect(page.locator("table.grid").first.locator("tbody tr:not(.kind):visible")).to_have_count(1)
    tab_to("e.matches('th button')")
    style = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert style != "none"
    page.keyboard.press("Enter")
    expect(page.locator("th[aria-sort]")).to_have_count(1)
    tab_to("e.matches('td a[title]')")
    note = page.evaluate("document.activeElement.title")
    assert note
    expect(page.locator("#tip")).to_be_visible()
    expect(page.locator("#tip")).to_have_text(note)
    page.keyboard.press("Escape")
    expect(page.locator("#tip")).to_be_hidden()
    page.keyboard.press("Enter")
    expect(page.locator("details.cell[open] > summary")).to_be_focused()
    tab_to("e.matches('details.run > summary')")
    page.keyboard.press("Enter")
    expect(page.locator("details.run[open] table.matrix")).to_have_count(2)


def test_downloads_are_the_files_beside_the_page(visit, written) -> None:
    files, _ = written
    page = visit(files.page, accept_downloads=True).page
    for table in files.tables:
        if table.stem != "smoke-table":
            continue
        with page.expect_download() as started:
            page.locator(f'a[download="{table.name}"]').click()
        assert Path(started.value.path()).read_bytes() == table.read_bytes()
    with page.expect_download() as started:
        page.locator('a[download="table.csv"]').click()
    assert Path(started.value.path()).read_bytes() == files.csv.read_bytes()


def test_print_shows_no_tools_and_cuts_no_table(visit, file: Path) -> None:
    page = visit(file, 760).page
    assert page.locator(".tools").first.is_visible()
    page.emulate_media(media="print")
    for selector in (".tools", ".downloads", ".skip", ".back"):
        assert page.locator(selector).first.is_hidden(), selector
    assert page.evaluate(
        "[...document.querySelectorAll('.scroll')].every(e => getComputedStyle(e).overflowX === 'visible')"
    )
    assert len(page.pdf(format="A4")) > 10_000


def test_reasons_of_failures_are_printed_though_folded(visit, factory, tmp_path: Path) -> None:
    for seed in range(6):
        factory.fail("A", factory.spec("a", "digits", seed, seed, 2), f"reason number {seed}")
    store = factory.write()
    files = write_report(make_document(load_suites(store, ["smoke"], None), store), tmp_path / "out")
    page = visit(files.page).page
    reason = page.locator("details.problems li", has_text="reason number 5")
    assert reason.is_hidden()
    page.emulate_media(media="print")
    expect(reason).to_be_visible()


def test_without_its_script_the_page_says_everything_but_the_inside_of_runs(visit, written) -> None:
    files, results = written
    tab = visit(files.page, java_script_enabled=False)
    assert tab.page.locator("noscript p").first.is_visible()
    listed = " ".join(tab.page.locator("ul.runs").all_text_contents())
    assert all(run.run_id in listed for run in results.runs)
    assert tab.page.locator(".tools").count() == 0 and tab.page.locator("figure .drawing svg").first.is_visible()
    assert tab.page.locator(".live").count() == 0


def test_markup_in_labels_does_not_run(visit, factory, tmp_path: Path) -> None:
    factory.title = factory.description = HOSTILE
    spec = factory.spec("m", "digits", 0, 0, 2, note=HOSTILE)
    result = factory.result(spec, factory.matrix(2, 90, 1, 0), class_names=[HOSTILE] * 4)
    result["provenance"]["cpu"] = HOSTILE
    factory.plan(HOSTILE, spec, column=HOSTILE)
    factory.store.write_result(spec.run_id, result)
    factory.fail(HOSTILE, factory.spec("m", "digits", 1, 1, 2), HOSTILE, column=HOSTILE)
    store = factory.write()
    files = write_report(make_document(load_suites(store, ["smoke"], None), store), tmp_path / "out")
    tab = visit(files.page, 390)
    for part, there in (("details.cell", "details.run"), ("details", "details.run[open]")):
        tab.page.evaluate("part => document.querySelectorAll(part).forEach(e => (e.open = true))", part)
        tab.page.locator(there).nth(1).wait_for(state="attached")
    assert HOSTILE in " ".join(tab.page.locator("details.run").all_text_contents())
    assert tab.page.evaluate("window.ran") is None and tab.page.evaluate("document.images.length") == 0
    assert tab.complaints == [] and len(tab.requests) == 1
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_missing_browser_is_a_failure_where_one_is_required(monkeypatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("SMOPE_CHROMIUM", raising=False)
    monkeypatch.setenv("SMOPE_BROWSER", "required")
    with pytest.raises(pytest.fail.Exception, match="no Chromium"):
        find_chromium()
    monkeypatch.delenv("SMOPE_BROWSER")
    with pytest.raises(pytest.skip.Exception, match="SMOPE_CHROMIUM"):
        find_chromium()
