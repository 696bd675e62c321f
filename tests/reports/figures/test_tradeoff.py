"""Trade-offs: who is on the front, what is left out and said, and names that cover nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smope_bench.harness.cost.stored_counts import MethodCounts
from smope_bench.reports.figures.drawing.scatter import Box, place_labels
from smope_bench.reports.figures.figure import FigureFile
from smope_bench.reports.figures.kinds import FigureKind, draw_figure, figure_data
from smope_bench.reports.figures.tradeoff import (
    Spot,
    cost_front,
    forgetting,
    learnable_parameters,
    measured_cost,
    pareto_front,
    plasticity,
    tradeoff,
    training_gflops,
)
from smope_bench.reports.loading.load import load_suite

pytestmark = pytest.mark.usefixtures("only_svg")
POINT = st.tuples(st.integers(0, 6), st.integers(0, 6)).map(lambda pair: (float(pair[0]), float(pair[1])))


def dominates(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] <= other[0] and one[1] >= other[1] and one != other


@given(st.lists(POINT, max_size=12))
def test_the_front_is_what_nothing_dominates(points) -> None:
    front = pareto_front(points)
    assert set(front) == {i for i, mine in enumerate(points) if not any(dominates(other, mine) for other in points)}
    assert [points[i] for i in front] == sorted(points[i] for i in front), "cheapest first, and gain grows with cost"


def publish(factory, label: str, method: str, faa: float, parameters: int | None, loss: float = 5.0, **options) -> None:
    spec = factory.spec(method, "digits", 0, 0, 2, label=label)
    costs = {"learnable_parameters": parameters, "backbone_parameters": 1}
    matrix = [[faa + loss, None], [faa - loss / 2, faa + loss / 2]]
    if options.get("kind") == "ceiling":
        matrix = [[None, None], [faa, faa]]
    factory.publish(label, spec, matrix, costs=costs, **options)


def draw_if_any(factory, kind: FigureKind, **options: Any) -> FigureFile | None:
    results = load_suite(factory.write(), "smoke", factory.FRESH)
    data = figure_data(results, results.columns, lambda _: {})
    return draw_figure(kind, replace(data, **options), "x")


def draw(factory, kind: FigureKind, **options: Any) -> FigureFile:
    drawn = draw_if_any(factory, kind, **options)
    assert drawn is not None
    return drawn


def suite(factory) -> None:
    publish(factory, "Cheap", "ncm", 60.0, 0)
    publish(factory, "Middle", "smope", 70.0, 1_000)
    publish(factory, "Beaten", "hide_prompt", 65.0, 5_000)
    publish(factory, "Dear", "l2p++", 75.0, 200_000)
    publish(factory, "Joint", "joint", 90.0, 10, kind="ceiling")


@pytest.mark.filterwarnings("error")
def test_the_fronts_members_are_named_and_ceilings_are_not_among_them(factory) -> None:
    suite(factory)
    figure = draw(factory, tradeoff)
    assert figure.name == "x-tradeoff"
    assert "By parameters, on the front: Cheap, Middle and Dear." in figure.caption
    assert "By operations, on the front: Cheap, Middle and Dear." in figure.caption
    assert "Joint 90.0 % at 10 parameters" in figure.alt
    assert "Cheap 60.0 % at 0 parameters" in figure.alt and "Dear 75.0 % at 200,000 parameters" in figure.alt
    for label in ("Cheap", "Middle", "Beaten", "Dear", "Joint"):
        assert figure.svg.count(f">{label}</text>") == 2
    assert len(figure.runs) == 5


def test_methods_without_a_count_are_left_out_and_said(factory) -> None:
    suite(factory)
    publish(factory, "Plugin", "somebody_elses", 90.0, None)
    figure = draw(factory, tradeoff)
    assert "By operations, on the front: Cheap, Middle and Dear; left out, as it is not known of them: Plugin." in (
        figure.caption
    )
    assert ">Plugin</text>" not in figure.svg


def test_stale_rows_and_uncomparable_columns_have_no_place_on_the_front(factory) -> None:
    suite(factory)
    publish(factory, "Old", "ridge", 95.0, 1, fingerprint=factory.OLD)
    figure = draw(factory, tradeoff)
    assert "Old" not in figure.caption and "Old (stale) 95.0 %" in figure.alt
    unranked = draw(factory, tradeoff, ranked=False)
    assert "By parameters nothing is ranked." in unranked.caption and "on the front" not in unranked.caption
    assert "step line" in figure.caption and "step line" not in unranked.caption


def test_time_and_memory_have_their_fronts_on_one_machine_only(factory) -> None:
    spent = {"Slow": (20.0, 900.0, 80.0), "Quick": (2.0, 300.0, 70.0), "Beaten": (30.0, 950.0, 75.0)}
    for label, (seconds, mib, faa) in spent.items():
        spec = factory.spec(label.lower(), "digits", 0, 0, 1)
        timings = {"total_s": seconds, "tasks": [{"task": 0, "train_s": seconds, "end_s": 0.0, "evaluate_s": 1.0}]}
        costs = {"memory_increase_mib": mib, "peak_memory_mb": 5000.0}
        factory.publish(label, spec, [[faa]], timings=timings, costs=costs)
    figure = draw(factory, measured_cost)
    assert "By training time, on the front: Quick and Slow." in figure.caption
    assert "By memory, on the front: Quick and Slow." in figure.caption
    assert "Slow 80.0 % at 900 MiB" in figure.alt and "Quick 70.0 % at 2 s" in figure.alt
    spec = factory.spec("old", "digits", 0, 0, 1)
    made = factory.result(spec, [[90.0]])["provenance"] | {"device_name": "another machine"}
    factory.publish("Old", spec, [[90.0]], provenance=made, costs={"peak_memory_mb": 5000.0})
    figure = draw(factory, measured_cost)
    assert "By training time nothing is ranked." in figure.caption and "on 2 machines" in figure.caption
    assert "By memory, left out, as it is not known of them: Old." in figure.caption, "its peak is another quantity"


def test_costs_that_are_the_same_for_all_show_nothing(factory) -> None:
    publish(factory, "A", "smope", 60.0, 100)
    publish(factory, "B", "smope", 70.0, 100)
    assert draw_if_any(factory, tradeoff) is None
    publish(factory, "C", "smope", 70.0, 200)
    figure = draw(factory, tradeoff)
    assert "By operations" not in figure.caption and "GFLOPs" not in figure.svg, "only parameters differ"


def test_the_front_compares_what_is_printed(factory) -> None:
    suite(factory)
    cells = load_suite(factory.write(), "smoke", None).cells.values()
    cell = next(cell for cell in cells if cell.row.kind == "method")
    spots = [Spot(cell, 32.70001, 60.0), Spot(cell, 32.70002, 60.001), Spot(cell, 32.8, 60.0)]
    assert cost_front(spots, ranked=True) == spots[:2]
    assert cost_front(spots[:1], ranked=True) == [] == cost_front(spots, ranked=False)


def test_training_costs_the_dearest_phase_or_one_pass() -> None:
    counts = {
        "phases": MethodCounts({"a": 3 * 10**9, "b": 5 * 10**9}, 9 * 10**9, True),
        "closed": MethodCounts({}, 2 * 10**9, False),
    }
    assert training_gflops("phases", counts) == 5.0
    assert training_gflops("closed", counts) == 2.0
    assert training_gflops("absent", counts) is None
    assert training_gflops("smope") is not None


def test_plasticity_is_the_diagonal_and_forgetting_what_was_lost(factory) -> None:
    suite(factory)
    figure = draw(factory, forgetting)
    assert figure.name == "x-forgetting"
    assert "Cheap forgets 7.5 points and has 63.8 % right after learning" in figure.alt
    assert "Left out, as not measured after each task: Joint." in figure.caption
    assert len(figure.runs) == 4 and ">Joint</text>" not in figure.svg
    cells = {cell.row.label: cell for cell in load_suite(factory.write(), "smoke", None).cells.values()}
    learned = plasticity(cells["Cheap"])
    assert learned is not None and learned.mean == 63.75
    assert plasticity(cells["Joint"]) is None
    assert learnable_parameters(cells["Dear"]) == 200_000


def test_one_row_has_nothing_to_be_compared_with(factory) -> None:
    publish(factory, "A", "smope", 60.0, 100)
    assert draw_if_any(factory, tradeoff) is None
    assert draw_if_any(factory, forgetting) is None


@pytest.mark.filterwarnings("error")
def test_equal_points_are_drawn(factory) -> None:
    for label in ("A", "B", "C"):
        publish(factory, label, "ncm", 60.0, 0, loss=0.0)
    assert draw_if_any(factory, tradeoff) is None
    assert draw(factory, forgetting).svg.count("</text>") > 3


@given(st.sets(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=1, max_size=14))
def test_names_keep_off_each_other_and_inside_the_frame(places) -> None:
    points = [(90.0 * x + 40, 24.0 * y + 30) for x, y in sorted(places)]
    frame = Box(0, 0, 560, 290)
    boxes = place_labels(points, [(60.0, 9.0)] * len(points), frame)
    assert boxes == place_labels(points, [(60.0, 9.0)] * len(points), frame)
    for i, box in enumerate(boxes):
        assert box.overlap(frame) == pytest.approx(60 * 9)
        assert all(box.overlap(other) == 0 for other in boxes[:i])
        assert math.dist(box.nearest(points[i]), points[i]) < 60


def test_names_of_one_place_are_spread_and_keep_off_what_is_taken() -> None:
    taken = Box(105, 90, 200, 110)
    boxes = place_labels(
        [(100.0, 100.0)] * 4, [(40.0, 9.0)] * 4, Box(0, 0, 300, 200), (((100, 100), (0, 100)),), [taken]
    )
    assert all(one.overlap(other) == 0 for i, one in enumerate(boxes) for other in boxes[:i])
    assert all(box.overlap(taken) == 0 for box in boxes)
    assert not any(box.bottom < 100 < box.top and box.left < 100 for box in boxes), "none on the line"
