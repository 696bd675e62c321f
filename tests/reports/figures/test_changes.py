"""The figures of a comparison: rows with their differences and the band of noise, and none where nothing moved."""

from __future__ import annotations

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
    assert all(f"> {label}</text>" in figure.svg for label in ("Up", "Same", "Single")) and "> Gone<" not in figure.svg
    assert len(figure.runs) == 7


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
