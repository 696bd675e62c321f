"""The page's charts in a browser: values and seeds, one row alone, groups, keyboard, the first screen, and axe-core's rules."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from smope_bench.benchmarks.suites.schema import Drawing
from smope_bench.reports.build import table_section, write_report
from smope_bench.reports.document import Document
from smope_bench.reports.figures.accuracy import final, stages
from smope_bench.reports.figures.drawing.style import row_looks
from smope_bench.reports.figures.figure import FigureGroup
from smope_bench.reports.figures.kinds import FigureKind, draw_figure, figure_data, figure_groups, nothing_answered
from smope_bench.reports.figures.settings import curve
from smope_bench.reports.figures.tradeoff import forgetting, tradeoff
from smope_bench.reports.formatting import mean_std
from smope_bench.reports.loading.load import load_suite
from smope_bench.reports.loading.model import SuiteResults
from smope_bench.reports.writers.scripts import libraries, resource

AXE = Path(__file__).parent / "axe" / "axe.min.js"
HOSTILE = """</script><script>window.ran=1</script><img src=x onerror='window.ran=1'> "q" ${7*7} <!--"""
NAMES = (HOSTILE, "\u05e9\u05d9\u05d8\u05d4 \u05d0\u05d7\u05ea (right to left)", "a very long name " * 12, "__proto__")
CHART, LINES = "figure[data-chart$='-final'] ", "figure[data-chart$='-stages'] "


@pytest.fixture(scope="module")
def results(tmp_path_factory, make_suite) -> SuiteResults:
    """A suite of 24 rows, four of them with hostile names."""
    factory = make_suite(tmp_path_factory.mktemp("wide"))
    rows = [("Joint", "joint", "ceiling", 98.0, 0.0), ("Nearest class mean", "ncm", "floor", 84.0, 0.5)]
    rows += [("Linear probe", "linear_probe", "floor", 71.0, 5.0), ("SMoPE", "smope", "method", 91.0, 0.8)]
    rows += [(name, f"hostile{i}", "method", 88.0 - i, 1.0) for i, name in enumerate(NAMES)]
    rows += [(f"Adapter {i}", f"adapter{i}", "adapter", 96.0 - i, 0.5) for i in range(3)]
    rows += [(f"Method {i}", f"method{i}", "method", 97.0 - i, 1.0) for i in range(24 - len(rows))]
    store = factory.fill(range(3), {"digits": 5}, rows).write()
    return load_suite(store, "smoke", None)


def written(results: SuiteResults, groups: tuple[FigureGroup, ...], out: Path) -> Path:
    """A page of tables and figures."""
    section = replace(table_section(results, "smoke", nothing_answered), figures=groups)
    return write_report(Document((section,)), out).page


def page_of(results: SuiteResults, kinds: list[FigureKind], out: Path) -> Path:
    """A page of tables and of figures of these kinds."""
    return written(results, figure_groups(results, "smoke", lambda run: {}, kinds), out)


@pytest.fixture(scope="module")
def file(results: SuiteResults, tmp_path_factory) -> Path:
    """A page of tables and the charts of final accuracy and of that after each task."""
    return page_of(results, [final, stages], tmp_path_factory.mktemp("wide-report"))


def box_of(page: Page, place: str) -> tuple[float, float]:
    """The right and lower end of an element."""
    box = page.locator(place).first.bounding_box()
    assert box is not None, place
    return box["x"] + box["width"], box["y"] + box["height"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_chart_and_first_row_stand_on_the_first_screen(visit, file: Path, width: int, scheme: str) -> None:
    page = visit(file, width, color_scheme=scheme).page
    height = page.evaluate("innerHeight")
    right, bottom = box_of(page, ".answer .live svg")
    assert right <= width and bottom <= height
    assert box_of(page, ".answer table.grid tbody tr:not(.kind)")[1] <= height
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    shown = page.locator(CHART + ".hit").count()
    assert shown == 24 if width > 1000 else 5 <= shown < 24


def test_a_short_chart_has_the_row_compared_with_and_shows_all_on_demand(visit, file: Path) -> None:
    page = visit(file, 390).page
    labels = page.locator(CHART + ".hit")
    said = [label.get_attribute("aria-label") or "" for label in labels.all()]
    for name in ("SMoPE", "Joint", "Nearest class mean", "Method 0"):
        assert any(f"\u2068{name}\u2069" in text for text in said), name
    expect(page.locator(CHART + "[role=status]")).to_contain_text(f"{len(said)} of 24 rows")
    page.get_by_role("button", name="All 24 rows").click()
    expect(labels).to_have_count(24)


def test_every_value_and_seed_is_told_to_pointer_and_screen_reader(visit, file: Path, results: SuiteResults) -> None:
    page = visit(file).page
    cells = {cell.row.label: cell for cell in results.all_cells}
    said = [hit.get_attribute("aria-label") or "" for hit in page.locator(CHART + ".hit").all()]
    for name in ("SMoPE", "Joint", "Adapter 1", HOSTILE[:20]):
        text = next(text for text in said if text.startswith(f"\u2068{name}"))
        cell = next(cell for label, cell in cells.items() if label.startswith(name))
        assert mean_std(cell.summary("faa")) in text
        for run in cell.used:
            assert run.outcome is not None
            assert f"order {run.order_seed}, training {run.train_seed}: {run.outcome.metrics['faa']:.2f}" in text
    page.locator(CHART + ".hit").nth(2).hover(force=True)
    expect(page.locator("#tip")).to_be_visible()
    assert page.locator("#tip bdi").inner_text() in said[2]
    page.mouse.move(1200, 20)
    expect(page.locator("#tip")).to_be_hidden()


def test_a_click_shows_a_row_alone_and_a_second_all(visit, file: Path) -> None:
    page = visit(file).page
    hit = page.locator(CHART + ".hit", has_text="").nth(3)
    name = (hit.get_attribute("aria-label") or "").partition("\u2069")[0][1:]
    faded = "[...document.querySelectorAll(`figure[data-chart$='-final'] svg [fill-opacity='0.12']`)].length"
    assert page.evaluate(faded) == 0
    hit.click(force=True)
    assert page.evaluate(faded) >= 20
    expect(page.locator(CHART + "[role=status]")).to_contain_text(name)
    page.get_by_role("button", name="Show all rows again").click()
    assert page.evaluate(faded) == 0


def test_groups_are_taken_away_and_come_back(visit, file: Path) -> None:
    page = visit(file).page
    hits, floors = page.locator(CHART + ".hit"), page.locator(CHART).get_by_role("button", name="Floors")
    floors.click()
    expect(floors).to_have_attribute("aria-pressed", "false")
    expect(hits).to_have_count(22)
    for name in ("Methods", "Adapters", "Ceilings"):
        page.locator(CHART).get_by_role("button", name=name).click()
    expect(hits).to_have_count(0)
    floors.click()
    expect(hits).to_have_count(2)


def test_lines_have_a_value_a_task_and_a_zoom(visit, file: Path, results: SuiteResults) -> None:
    page = visit(file).page
    page.locator(LINES).scroll_into_view_if_needed()
    hits = page.locator(LINES + ".hit")
    stated = sum(len([value for value in cell.outcomes[0].stages if value is not None]) for cell in results.all_cells)
    expect(hits).to_have_count(stated)
    text = " ".join(hit.get_attribute("aria-label") or "" for hit in hits.all())
    cell = next(cell for cell in results.all_cells if cell.row.label == "SMoPE")
    for run in cell.outcomes:
        assert f"{run.stages[2]:.2f}" in text


def test_a_zoom_that_leaves_nothing_to_show_is_no_error(visit, make_suite, tmp_path) -> None:
    levels = [("A", "a", "method", 98.0, 0.1), ("B", "b", "method", 97.5, 0.1), ("C", "c", "method", 97.0, 0.1)]
    levels += [("D", "d", "method", 96.8, 0.1), ("Low", "low", "floor", 40.0, 0.1)]
    store = make_suite(tmp_path / "zoom").fill(range(2), {"digits": 3}, levels).write()
    tab = visit(page_of(load_suite(store, "smoke", None), [stages], tmp_path / "out"))
    chart = tab.page.locator(LINES)
    chart.scroll_into_view_if_needed()
    chart.get_by_role("button", name="Methods").click()
    expect(chart.locator(".hit")).to_have_count(3)
    chart.get_by_role("button", name="Zoomed in").click()
    expect(chart.locator(".hit")).to_have_count(0)
    chart.get_by_role("button", name="Methods").click()
    expect(chart.locator(".hit")).not_to_have_count(0)
    assert tab.complaints == []


def test_points_have_their_cost_and_a_panel_for_each(visit, smoke, tmp_path) -> None:
    results = load_suite(smoke, "smoke", None)
    page = visit(page_of(results, [tradeoff, forgetting], tmp_path)).page
    costs = page.locator("figure[data-chart$='-tradeoff'] ")
    costs.scroll_into_view_if_needed()
    expect(costs.locator(".hit")).to_have_count(5)
    assert "GFLOPs" in (costs.locator(".hit").first.get_attribute("aria-label") or "")
    learned = page.locator("figure[data-chart$='-forgetting'] ")
    learned.scroll_into_view_if_needed()
    expect(learned.locator(".hit")).to_have_count(4)  # joint training forgets nothing
    said = learned.locator(".hit").last.get_attribute("aria-label") or ""
    cell = next(cell for cell in results.all_cells if cell.row.label == "SMoPE")
    lost = cell.summary("fm")
    assert lost is not None and said.startswith("\u2068SMoPE\u2069") and f"forgetting {lost.mean:.3g} points" in said


def test_points_zoom_where_most_rows_crowd(visit, make_suite, tmp_path) -> None:
    factory = make_suite(tmp_path / "crowd")
    rows = [("A", "smope", 98.0), ("B", "ncm", 97.5), ("C", "l2p++", 97.0), ("D", "linear_probe", 60.0)]
    store = factory.fill(
        (0, 1), {"digits": 2}, [(row, method, "method", faa, 0.1) for row, method, faa in rows]
    ).write()
    page = visit(page_of(load_suite(store, "smoke", None), [tradeoff], tmp_path)).page
    costs = page.locator("figure[data-chart$='-tradeoff'] ")
    costs.scroll_into_view_if_needed()
    expect(costs.locator(".hit")).to_have_count(4)
    costs.get_by_role("button", name="Zoomed in").click()
    expect(costs.locator(".hit")).to_have_count(3)
    assert "stretched" in costs.locator("figcaption").inner_text()


def test_a_setting_has_a_line_with_the_runs_of_each_value(visit, make_suite, tmp_path) -> None:
    factory = make_suite(tmp_path / "curve")
    for prompts in (5, 10, 20):
        for seed in (0, 1):
            spec = factory.spec("smope", "digits", seed, seed, 1, prompts=prompts)
            factory.publish(f"{prompts} prompts", spec, [[90.0 + prompts / 10 + seed]])
    results = load_suite(factory.write(), "smoke", None)
    column = results.columns[0]
    data = replace(
        figure_data(results, [column], lambda run: {}), drawing=Drawing("curve", x="prompts", x_label="prompts")
    )
    drawn = draw_figure(curve, data, "smoke-1")
    assert drawn is not None
    page = visit(written(results, (FigureGroup("", (drawn,)),), tmp_path / "out")).page
    said = [hit.get_attribute("aria-label") for hit in page.locator("figure[data-chart] .hit").all()]
    assert [text.partition("\u2069: ")[2][:11] for text in said] == ["prompts 5: ", "prompts 10:", "prompts 20:"]
    assert "order 1, training 1: 93.00" in said[2]


def test_charts_answer_to_the_keyboard(visit, file: Path) -> None:
    page = visit(file).page
    page.locator(CHART + ".hit[tabindex='0']").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    focused = "document.activeElement.getAttribute('aria-label')"
    here = page.evaluate(focused)
    assert here and page.locator(CHART + ".hit[tabindex='0']").count() == 1
    assert page.evaluate("getComputedStyle(document.activeElement).stroke") != "none", "focus is seen"
    expect(page.locator("#tip")).to_be_visible()
    page.keyboard.press("Enter")
    assert page.evaluate(focused) == here, "a chart drawn anew keeps its focus"
    expect(page.locator(CHART + "[role=status]")).to_contain_text("Only")
    page.keyboard.press("Escape")
    expect(page.locator(CHART + "[role=status]")).to_have_text("")


def test_every_control_is_reached_in_order_and_its_focus_is_seen(visit, file: Path) -> None:
    page = visit(file).page
    wanted = page.evaluate(
        "[...document.querySelectorAll('a[href], button, input, select, summary, [tabindex=\"0\"]')]"
        ".filter(e => e.checkVisibility({contentVisibilityAuto: false}) && e.closest('.answer')).length"
    )
    reached: set[str] = set()
    for _ in range(400):
        page.keyboard.press("Tab")
        one = page.evaluate(
            "(e => ({inside: !!e.closest('.answer'), id: [...document.querySelectorAll('*')].indexOf(e), "
            "seen: getComputedStyle(e).outlineStyle !== 'none' || getComputedStyle(e).stroke !== 'none'}))(document.activeElement)"
        )
        if one["inside"]:
            assert one["seen"], page.evaluate("document.activeElement.outerHTML")
            reached.add(one["id"])
        elif reached:
            break
    assert len(reached) == wanted


@pytest.mark.parametrize("width", [1280, 390])
def test_headings_of_axes_are_whole_and_clear_of_the_numbers(
    visit, results: SuiteResults, tmp_path: Path, width: int
) -> None:
    page = visit(page_of(results, [tradeoff, forgetting], tmp_path), width).page
    for kind in ("tradeoff", "forgetting"):
        place = f"figure[data-chart$='-{kind}'] "
        page.locator(place).first.scroll_into_view_if_needed()
        page.wait_for_selector(place + ".live svg")
        found = page.evaluate(
            """place => {
              const svg = document.querySelector(place + '.live svg'), all = svg.getBoundingClientRect();
              const box = (e) => e.getBoundingClientRect();
              const isCut = (e) => box(e).left < all.left || box(e).right > all.right;
              const meet = (a, b) => box(a).right > box(b).left && box(b).right > box(a).left
                && box(a).bottom > box(b).top && box(b).bottom > box(a).top;
              const texts = [...svg.querySelectorAll('text')], upright = texts.filter((e) => box(e).height > 2 * box(e).width);
              return { upright: upright.length, cut: texts.filter(isCut).map((e) => e.textContent),
                met: texts.filter((e) => !upright.includes(e) && upright.some((one) => meet(one, e))).map((e) => e.textContent) };
            }""",
            place,
        )
        assert found["upright"] == 1 and found["cut"] == [] and found["met"] == [], (kind, found)


def test_hostile_names_are_text(visit, file: Path) -> None:
    tab = visit(file)
    labels = tab.page.locator(CHART + "svg text").all_text_contents()
    assert any(text.startswith("</script><script>") for text in labels)
    for hit in tab.page.locator(CHART + ".hit").all()[:12]:
        hit.hover(force=True)
    assert tab.page.evaluate("window.ran") is None and tab.page.evaluate("document.images.length") == 0
    assert tab.complaints == [] and len(tab.requests) == 1


def test_print_and_a_browser_without_scripts_have_the_drawing(visit, file: Path) -> None:
    page = visit(file).page
    assert page.locator(CHART + ".drawing").is_hidden() and page.locator(CHART + ".live").is_visible()
    page.emulate_media(media="print")
    assert page.locator(CHART + ".drawing svg").is_visible() and page.locator(CHART + ".live").is_hidden()
    plain = visit(file, java_script_enabled=False).page
    assert plain.locator(CHART + ".drawing svg").is_visible()


def test_rows_look_as_in_the_drawings(visit, file: Path, results: SuiteResults) -> None:
    page = visit(file).page
    looks = row_looks(results)
    inks = page.evaluate(
        f"[...document.querySelectorAll(\"{CHART}.live svg *\")].flatMap(e => [e.getAttribute('fill'), e.getAttribute('stroke')])"
    )
    assert {look.colour for look in looks.values()} <= set(inks)


def serious(page: Page, place: str = "document", options: str = "{}") -> list[tuple[str, list[str]]]:
    """(rule, elements) of what axe-core finds serious or critical."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate(f"axe.run({place}, {options})")
    assert found["passes"], "axe-core looked at something"
    bad = [one for one in found["violations"] if one["impact"] in ("serious", "critical")]
    return [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in bad]


@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_serious_on_a_page(visit, smoke_report, width: int) -> None:
    page = visit(smoke_report.page, width).page
    page.locator(LINES).first.scroll_into_view_if_needed()
    page.wait_for_selector(LINES + ".live svg")
    assert serious(page) == []
    page.emulate_media(color_scheme="dark")
    assert serious(page, options="{runOnly: ['color-contrast']}") == []


def test_axe_finds_nothing_serious_in_the_answer_of_many_rows(visit, file: Path) -> None:
    page = visit(file, 390).page
    page.get_by_role("button", name="All 24 rows").click()
    assert serious(page, "'.answer'") == []


def test_libraries_are_unchanged_and_their_licences_travel_with_them(file: Path) -> None:
    page = file.read_text(encoding="utf-8")
    for library in libraries():
        text = resource(f"vendor/{library.file}")
        assert hashlib.sha256(text.encode()).hexdigest() == library.sha256
        assert "</script" not in text.lower() and "<!--" not in text
        assert (
            resource(f"vendor/{library.licence_file}").strip() in page and f"{library.name} {library.version}" in page
        )
