"""Colours, places of names and zooms of figures."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from matplotlib.figure import Figure

from smope_bench.reports.figures.drawing.scatter import spread
from smope_bench.reports.figures.drawing.style import (
    COLOURS,
    GREY,
    MARKERS,
    crowded,
    emphasised,
    method_place,
    percent_ticks,
    row_looks,
    stretch,
)
from smope_bench.reports.loading.load import load_suite


def test_a_method_looks_the_same_whatever_else_a_suite_has(factory, make_factory, tmp_path) -> None:
    factory.fill([0], {"digits": 2})
    whole = load_suite(factory.write(), "smoke", None)
    looks = row_looks(whole)
    for row in whole.rows:
        alone = replace(whole, rows=(row, *(other for other in whole.rows if other.kind == "ceiling" != row.kind)))
        assert row_looks(alone)[row.label] == looks[row.label]
    assert looks["Joint: prompt and head"].colour == GREY
    assert looks["Linear probe"].dashes and not looks["SMoPE"].dashes


def test_methods_of_plugins_have_a_place_too_and_pairs_are_told_apart() -> None:
    from smope_bench.methods import BUILTIN

    pairs = {(COLOURS[method_place(name) % 8], MARKERS[method_place(name) % 11]) for name in BUILTIN}
    assert len(pairs) == len(BUILTIN)
    assert method_place("of a plugin") == method_place("of a plugin") != method_place("of another")


def test_settings_of_one_method_have_colours_of_their_own(factory) -> None:
    for i in range(4):
        factory.publish(f"k {i}", factory.spec("m", "digits", 0, 0, 1, k=i), [[50.0 + i]])
    results = load_suite(factory.write(), "smoke", None)
    assert len({look.colour for look in row_looks(results).values()}) == 4


def test_eight_lines_are_emphasised_the_reference_first(factory) -> None:
    for i in range(12):
        factory.publish(f"r{i}", factory.spec(f"m{i}", "digits", 0, 0, 1), [[50.0 + i]])
    results = replace(load_suite(factory.write(), "smoke", None), reference="r0")
    assert emphasised(results, results.all_cells) == ["r0", *(f"r{i}" for i in range(11, 4, -1))]


@pytest.mark.parametrize("places", [[1.0, 1.0, 1.0], [0.0, 0.1, 5.0, 9.9, 10.0, 10.0], [3.0], []])
def test_names_keep_their_order_and_their_distance(places: list[float]) -> None:
    moved = spread(places, 1.0, 0.0, 10.0)
    order = sorted(range(len(places)), key=lambda i: (places[i], i))
    kept = [moved[i] for i in order]
    assert all(after - before >= 1.0 - 1e-9 for before, after in pairwise(kept))
    assert all(-1e-9 <= place <= 10 + 1e-9 for place in moved)
    assert spread([2.0, 8.0], 1.0, 0.0, 10.0) == [2.0, 8.0]


def test_an_axis_zooms_where_most_rows_crowd() -> None:
    assert crowded([98.0, 97.5, 97.0, 96.0]) is None
    low, high = crowded([98.0, 97.5, 97.0, 60.0]) or (0.0, 0.0)
    assert 96 < low < 97 and 98 < high <= 101
    assert crowded([98.0, 60.0]) is None and crowded([98.0, 97.0, 61.0, 60.0]) is None


def test_a_stretched_axis_gives_the_upper_percentages_more_room() -> None:
    axes = Figure().subplots()
    axes.set_ylim(40, 101)
    stretch(axes, 90)
    places = [axes.transAxes.inverted().transform(axes.transData.transform((0, y)))[1] for y in (40, 65, 90, 101)]
    assert places == pytest.approx([0, 0.2, 0.4, 1])
    ticks = list(axes.get_yticks())
    assert ticks == sorted(ticks) and ticks[0] >= 40 and ticks[-1] == 100 and sum(tick >= 90 for tick in ticks) >= 3


def test_no_tick_stands_beyond_a_hundred_percent() -> None:
    axes = Figure().subplots()
    axes.set_ylim(98.8, 100.7)
    assert max(axes.get_yticks()) > 100
    percent_ticks(axes.yaxis)
    assert max(axes.get_yticks()) == 100 and axes.get_ylim() == (98.8, 100.7)
