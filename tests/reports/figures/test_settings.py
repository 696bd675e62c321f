"""Heat maps and curves: values come from the records, what is missing is said, and one run claims nothing."""

from __future__ import annotations

import pytest

from smope_bench.benchmarks.suites.schema import Drawing
from smope_bench.reports.figures.kinds import figure_groups, paper_figures
from smope_bench.reports.figures.settings import Point, best_points, noise_of, setting_value, shades_of, ticks_of
from smope_bench.reports.loading.load import load_suite

pytestmark = pytest.mark.usefixtures("only_svg")
GRID = Drawing("heat_map", "size.length", "top_k", "length", "chosen")
CURVE = Drawing("curve", "epsilon", x_label="handicap")


def publish(factory, label: str, level: float, seeds=(0,), **config) -> None:
    for seed in seeds:
        factory.publish(label, factory.spec("a", "digits", seed, seed, 1, **config), [[level + seed]])


def draw(factory, drawing: Drawing, fingerprint: str | None = None):
    results = load_suite(factory.write(), "smoke", fingerprint)
    return paper_figures(results, [drawing], "x", lambda _: {})


def grid(factory, left_out=(), seeds=(0,)) -> None:
    for length in (5, 15):
        for top_k in (1, 3):
            label = f"anything {length} {top_k}"
            if (length, top_k) in left_out:
                factory.plan(label, factory.spec("a", "digits", 0, 0, 1, size={"length": length}, top_k=top_k))
            else:
                publish(factory, label, 60.0 + length + top_k, seeds, size={"length": length}, top_k=top_k)


def test_a_heat_map_shows_every_mean_at_its_settings_and_frames_the_best(factory) -> None:
    grid(factory, seeds=(0, 2))
    (figure,) = draw(factory, GRID)
    assert figure.name == "x-1-settings"
    for text in ("67.0", "69.0", "77.0", "79.0"):
        assert f">{text}</text>" in figure.svg
    for text in ("length", "chosen"):
        assert f">{text}</text>" in figure.svg
    assert "length 5, chosen 3: 69.00 ± 1.41" in figure.alt
    assert "The highest mean is at length 15, chosen 3: 79.00" in figure.alt
    assert figure.svg.count("#d55e00") == 1, "one frame"
    assert "Hatched" not in figure.caption and "Not drawn" not in figure.caption
    assert len(figure.runs) == 8


def test_of_single_runs_no_square_is_best(factory) -> None:
    grid(factory)
    (figure,) = draw(factory, GRID)
    assert "One run says nothing of the spread: no square is called best" in figure.caption
    assert "highest" not in figure.caption + figure.alt and "#d55e00" not in figure.svg


def test_shades_span_the_noise_so_that_it_is_no_ridge(factory) -> None:
    for top_k in (1, 3):
        for seed, level in enumerate((60.0, 68.0)):
            spec = factory.spec("a", "digits", seed, seed, 1, size={"length": 5}, top_k=top_k)
            matrix = [[level + top_k / 10]]
            factory.publish(f"k {top_k}", spec, matrix, test_counts=[10_000])
    results = load_suite(factory.write(), "smoke", None)
    found = [(cell, summary) for cell in results.all_cells if (summary := cell.summary("faa")) is not None]
    points = [Point(0, i, cell, summary) for i, (cell, summary) in enumerate(found)]
    assert noise_of(points) == pytest.approx(4.0), "standard deviation 5.66 over two runs"
    shades = shades_of(points)
    assert shades.vmin is not None and shades.vmax is not None
    assert shades.vmax - shades.vmin == pytest.approx(32.0)
    assert (shades.vmax + shades.vmin) / 2 == pytest.approx(64.2)


@pytest.mark.parametrize("drawing", [GRID, CURVE])
def test_no_caption_tells_of_a_best_that_is_not_marked(factory, drawing: Drawing) -> None:
    for top_k in (1, 3):
        publish(factory, f"anything {top_k}", 60.0 + top_k, (0, 2), size={"length": 5}, top_k=top_k, epsilon=top_k / 10)
    (stale,) = draw(factory, drawing, "0" * 16)
    assert "the highest" not in stale.caption and "asterisk" in stale.caption
    (fresh,) = draw(factory, drawing)
    assert "marks the highest" in fresh.caption
    old = factory.spec("a", "digits", 0, 0, 1, size={"length": 5}, top_k=9, epsilon=0.9)
    factory.publish("Old", old, [[99.0]], fingerprint=factory.OLD)
    (beside,) = draw(factory, drawing, factory.FRESH)
    assert "marks the highest mean of those that are ranked" in beside.caption
    assert "The highest mean of those that are ranked is at" in beside.alt and "64.00" in beside.alt


def test_a_square_with_several_runs_shows_their_deviation(factory) -> None:
    grid(factory, seeds=(0, 2))
    (figure,) = draw(factory, GRID)
    assert figure.svg.count(">± 1.4</text>") == 4
    assert "2 runs each" in figure.caption and "standard deviation" in figure.caption


def test_missing_squares_are_hatched_and_named(factory) -> None:
    grid(factory, left_out=[(5, 3)])
    (figure,) = draw(factory, GRID)
    assert "Hatched: no run with these two values." in figure.caption
    assert "Not drawn, for want of a usable run of their own: anything 5 3." in figure.caption
    assert ">68.0</text>" not in figure.svg and "<pattern" in figure.svg


def test_rows_of_one_place_are_left_out_and_named(factory) -> None:
    grid(factory)
    publish(factory, "twin", 99.0, size={"length": 5}, top_k=1, other=True)
    (figure,) = draw(factory, GRID)
    assert "anything 5 1 and twin" in figure.caption
    assert "99" not in figure.alt and "66.00" not in figure.alt, "neither of the two is drawn"


def test_a_curve_has_a_band_and_marks_its_best_point(factory) -> None:
    for epsilon, level in ((0.0, 60.0), (0.5, 70.0), (1.0, 65.0)):
        publish(factory, f"any {epsilon}", level, seeds=(0, 1, 2), epsilon=epsilon)
    (figure,) = draw(factory, CURVE)
    assert "handicap 0.5: 71.00 ± 1.00" in figure.alt
    assert "The highest mean is at handicap 0.5" in figure.alt and ">71.0</text>" in figure.svg
    assert "95 % t-interval" in figure.caption and "3 runs each" in figure.caption
    assert len(figure.runs) == 9


def test_one_seed_has_no_band_and_says_so(factory) -> None:
    for epsilon in (0.0, 1.0):
        publish(factory, f"any {epsilon}", 60.0, epsilon=epsilon)
    (figure,) = draw(factory, CURVE)
    assert "there is no band" in figure.caption
    assert figure.alt.count("60.00 (one seed)") == 2 and "highest" not in figure.alt, "single runs have no best"


def test_stale_points_are_starred_and_never_best(factory) -> None:
    publish(factory, "fresh low", 60.0, (0, 2), epsilon=0.0)
    publish(factory, "fresh lower", 50.0, (0, 2), epsilon=0.5)
    spec = factory.spec("a", "digits", 0, 0, 1, epsilon=1.0)
    factory.publish("stale high", spec, [[90.0]], fingerprint=factory.OLD)
    (figure,) = draw(factory, CURVE, factory.FRESH)
    assert "An asterisk means stale." in figure.caption and ">*</text>" in figure.svg
    assert "The highest mean of those that are ranked is at handicap 0: 61.00" in figure.alt


@pytest.mark.filterwarnings("error")
def test_settings_that_no_record_has_give_no_figure(factory) -> None:
    publish(factory, "text", 60.0, epsilon="high")
    publish(factory, "switch", 60.0, epsilon=True)
    publish(factory, "without", 60.0)
    assert draw(factory, CURVE) == []


@pytest.mark.filterwarnings("error")
def test_a_lone_point_is_drawn_and_is_no_best(factory) -> None:
    publish(factory, "only", 60.0, epsilon=0.4, size={"length": 5}, top_k=1)
    for drawing in (CURVE, GRID):
        (figure,) = draw(factory, drawing)
        assert "highest mean is" not in figure.alt and "60.00" in figure.alt


def test_values_are_read_by_dotted_names(factory) -> None:
    publish(factory, "A", 60.0, size={"length": 5}, epsilon=0.4)
    (cell,) = load_suite(factory.write(), "smoke", None).cells.values()
    assert setting_value(cell, "size.length") == 5.0
    assert setting_value(cell, "epsilon") == 0.4
    assert setting_value(cell, "size") is None
    assert setting_value(cell, "epsilon.length") is None
    assert setting_value(cell, "absent") is None
    assert best_points([]) == []


def test_small_values_are_written_as_powers_of_ten() -> None:
    assert ticks_of([0.0, 0.1, 1.0]) == ["0", "0.1", "1"]
    assert ticks_of([0.0, 5e-6, 1e-5, 1e-3]) == ["0", "5·10⁻⁶", "10⁻⁵", "10⁻³"]


def test_a_suite_of_settings_has_its_own_figure_and_no_other(make_factory) -> None:
    factory = make_factory(suite="fig5")
    for epsilon in (0.0, 0.5):
        publish(factory, f"any {epsilon}", 60.0, epsilon=epsilon)
    (group,) = figure_groups(load_suite(factory.write(), "fig5", None), "fig5", lambda _: {})
    assert [figure.name for figure in group.figures] == ["fig5-1-settings"]
    assert group.title == "digits"
