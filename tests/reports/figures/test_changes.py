"""The figures of a comparison: rows with their differences and the band of noise, and none where nothing moved."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from smope_bench.reports.build import make_document
from smope_bench.reports.figures.changes import change_figures
from smope_bench.reports.loading.load import Loaded, load_suites
from smope_bench.reports.writers.html import render_page

pytestmark = pytest.mark.usefixtures("only_svg")


@pytest.fixture
def sides(factory, tmp_path: Path) -> tuple[Any, Any]:
    """Two empty folders of one suite: (now, then)."""
    make = type(factory)
    return make(tmp_path / "now"), make(tmp_path / "then")


def publish(side, label: str, levels: Sequence[float]) -> None:
    for seed, level in enumerate(levels):
        spec = side.spec(label.lower(), "digits", seed, seed, 2)
        side.publish(label, spec, [[level, None], [level, level]])


def loaded(side) -> Loaded:
    return load_suites(side.write(), [side.suite], None, mixed=True)


def test_rows_beyond_their_band_are_named_and_those_without_pairs_too(sides) -> None:
    now, then = sides
    publish(now, "Up", [92.0, 93.1, 94.0])
    publish(then, "Up", [90.0, 91.0, 92.0])
    publish(now, "Same", [80.0, 81.5, 80.5])
    publish(then, "Same", [80.5, 81.0, 80.5])
    publish(now, "Single", [70.0])
    publish(then, "Single", [71.0])
    publish(then, "Gone", [60.0])
    (figure,) = change_figures(loaded(now), loaded(then))
    assert figure.name == "against-smoke-1" and "Beyond it: Up." in figure.caption
    assert "no pair of runs can be compared: Gone." in figure.caption
    assert "Up +2.03 beside a band of 0.14 to either side" in figure.alt and figure.alt.endswith("Single -1.00.")
    assert (
        all(f"> {label}</text>" in figure.svg for label in ("Up", "Same", "Single (one pair)"))
        and "> Gone<" not in figure.svg
    )
    assert len(figure.runs) == 7


def test_rows_stand_by_their_difference_and_one_far_away_does_not_squeeze_the_others(sides) -> None:
    now, then = sides
    moves = {"Little": [0.2, 0.4, 0.1], "Far": [30.0, 31.0, 30.5], "Less": [-0.4, -0.2, -0.3], "More": [0.9, 1.1, 1.0]}
    for label, moved in {**moves, "Equal": [0.0, 0.0, 0.0]}.items():
        publish(now, label, [50.0 + one for one in moved])
        publish(then, label, [50.0, 50.0, 50.0])
    (figure,) = change_figures(loaded(now), loaded(then))
    places = [figure.svg.index(f"> {label}</text>") for label in ("Far", "More", "Little", "Less")]
    assert places == sorted(places)
    assert (
        "beyond it, with an arrow: Far." in figure.caption and "as the same to the last digit: Equal." in figure.caption
    )
    assert ">+30.50</text>" in figure.svg and not re.search(">[123]0</text>", figure.svg), (
        "the axis is that of the others"
    )
    assert all(f">{key}" in figure.svg for key in ("noise of a mean", "pair of runs", "mean beyond its noise"))


def test_differences_of_no_size_are_drawn(sides) -> None:
    now, then = sides
    for side, levels in zip(sides, ([90.0, 91.0], [91.0, 90.0]), strict=True):
        spec = side.spec("a", "digits", 0, 0, 2)
        side.publish("A", spec, [[levels[0], None], levels])
    (figure,) = change_figures(loaded(now), loaded(then))
    assert "> A (one pair)</text>" in figure.svg and ">0.00</text>" in figure.svg


def test_nothing_is_drawn_where_nothing_moved(sides) -> None:
    for side in sides:
        publish(side, "A", [90.0, 91.0])
    assert change_figures(*map(loaded, sides)) == ()


def test_the_page_shows_it_before_the_tables_of_the_comparison(sides, monkeypatch) -> None:
    monkeypatch.setattr("smope_bench.reports.build.plan_figures", lambda *_, **__: ())
    now, then = sides
    publish(now, "<b>A", [92.0, 93.1])
    publish(then, "<b>A", [90.0, 91.0])
    document = make_document(loaded(now), now.store, against=loaded(then))
    page = render_page(document)
    assert "<b>A" not in page and page.index("What moved:") < page.index("What moved between the folders")
    assert [figure.name for figure in document.all_figures] == ["against-smoke-1"]
