"""The tables and the diagram of statistics: what they say, what they refuse to say, and when there are none."""

from __future__ import annotations

from typing import Any

import pytest

from smope_bench.reports.figures.critical_difference import critical_difference
from smope_bench.reports.figures.figure import FigureFile
from smope_bench.reports.figures.kinds import draw_figure, figure_data
from smope_bench.reports.loading.load import load_suite
from smope_bench.reports.loading.model import SuiteResults
from smope_bench.reports.tables.statistics import statistics_tables
from smope_bench.reports.tables.table import Table

KEYS = ["smoke-paired-1", "smoke-ranks", "smoke-stability", "smoke-variance"]
FORBIDDEN = ("significant", "significance")


def diagrams(results: SuiteResults) -> list[FigureFile]:
    """The critical-difference diagram of a suite, where it has one."""
    data = figure_data(results, results.columns, lambda _: {})
    return [file for file in [draw_figure(critical_difference, data, "smoke")] if file is not None]


def filled(
    factory: Any, rows: int, seeds: list[tuple[int, int]], columns: tuple[str, ...] = ("digits",)
) -> SuiteResults:
    for column in columns:
        for i in range(rows):
            for order, train in seeds:
                value = 60.0 + i + (7 * order + 3 * train * (i + 1)) % 5 / 10
                spec = factory.spec(f"m{i}", column, order, train, 1)
                kind = "floor" if i == 0 else "method"
                factory.publish(f"Row {i}", spec, [[value]], kind=kind, column=column)
    return load_suite(factory.write(), "smoke", factory.FRESH)


def alike(seeds: range) -> list[tuple[int, int]]:
    return [(seed, seed) for seed in seeds]


def words(table: Table) -> str:
    entries = [entry.text for line in table.rows for entry in line.cells]
    return " ".join((table.title, table.lead, *table.notes, *entries))


def test_every_number_is_traced_and_every_field_has_a_value(factory: Any) -> None:
    results = filled(factory, 3, [(order, train) for order in range(3) for train in range(2)], ("digits", "glyphs"))
    known = {run.run_id for run in results.runs}
    tables = statistics_tables(results)
    assert [table.key for table in tables] == ["smoke-paired-1", "smoke-paired-2", *KEYS[1:]]
    for table in tables:
        for line in table.rows:
            for heading, entry in zip(table.headings, line.cells, strict=True):
                assert entry.text and entry.runs and set(entry.runs) <= known
                assert len(set(entry.runs)) == len(entry.runs)
                assert len(entry.values) in {0, len(heading.fields)}


def test_two_seeds_claim_nothing(factory: Any) -> None:
    paired = statistics_tables(filled(factory, 4, alike(range(2))))[0]
    assert [line.cells[-1].text for line in paired.rows] == ["fewer than 3 cannot decide"] * 3
    assert any("that is not evidence of no difference" in note for note in paired.notes)


def test_few_seeds_name_the_test_its_assumption_and_what_would_do_without(factory: Any) -> None:
    tables = statistics_tables(filled(factory, 4, alike(range(5))))
    assert [line.cells[-1].text for line in tables[0].rows] == ["worse"] * 3
    (said,) = [note for note in tables[0].notes if note.startswith("Test: ")]
    assert "paired t-test over 5 class orders" in said and "normally distributed" in said
    assert "would decide from 8 class orders on" in said
    assert not any(word in words(table) for table in tables for word in FORBIDDEN)


def test_enough_seeds_may_decide(factory: Any) -> None:
    paired = statistics_tables(filled(factory, 3, alike(range(7))))[0]
    assert [line.cells[-1].text for line in paired.rows] == ["worse", "worse"]
    assert {line.cells[-1].tone for line in paired.rows} == {"bad"}


def test_ranks_always_carry_the_dependence(factory: Any) -> None:
    results = filled(factory, 3, alike(range(3)))
    ranks = next(table for table in statistics_tables(results) if table.key == "smoke-ranks")
    assert any("not independent" in note for note in ranks.notes)
    assert "not independent" in diagrams(results)[0].caption


def test_a_useless_critical_difference_is_called_so(factory: Any) -> None:
    ranks = next(
        table for table in statistics_tables(filled(factory, 9, alike(range(2)))) if table.key == "smoke-ranks"
    )
    assert any("tells nothing apart" in note for note in ranks.notes)


def test_confounded_seeds_are_answered_in_words(factory: Any) -> None:
    variance = statistics_tables(filled(factory, 3, alike(range(5))))[-1]
    assert [line.label for line in variance.rows] == ["All rows"]
    assert "cannot be separated" in words(variance) and "--seeds 0:0,0:1,1:0,1:1" in words(variance)


def test_training_seeds_of_a_class_order_are_averaged(factory: Any) -> None:
    tables = statistics_tables(filled(factory, 2, [(0, 0), (0, 1), (1, 0), (1, 1)]))
    assert tables[0].rows[0].cells[0].text == "2 (4 runs)"
    assert tables[-1].rows[0].cells[0].values[-2:] == (2, 4)


def test_the_stability_of_orders(factory: Any) -> None:
    stable = next(
        table for table in statistics_tables(filled(factory, 3, alike(range(4)))) if table.key == "smoke-stability"
    )
    w, *firsts = (line.cells[0] for line in stable.rows)
    assert (w.text, w.values[0]) == ("1.00", 1.0)
    assert [entry.text for entry in firsts] == ["0 of 4", "0 of 4", "4 of 4"]


@pytest.mark.parametrize(("rows", "seeds"), [(0, 0), (1, 1), (2, 1), (9, 1)])
def test_no_grid_where_nothing_can_be_compared(factory: Any, rows: int, seeds: int) -> None:
    factory.plan("Row 0", factory.spec("m0", "digits", 0, 0, 1))
    results = filled(factory, rows, alike(range(seeds)))
    assert statistics_tables(results) == ()
    assert diagrams(results) == []


def test_a_missing_benchmark_leaves_the_others(factory: Any) -> None:
    factory.plan("Row 0", factory.spec("m0", "glyphs", 0, 0, 1), column="glyphs")
    tables = statistics_tables(filled(factory, 3, alike(range(3))))
    assert [table.key for table in tables] == ["smoke-paired-2", *KEYS[1:]]
    assert "glyphs: nothing to compare" in words(tables[1])


def test_the_diagram_names_every_row_with_its_rank(factory: Any) -> None:
    results = filled(factory, 10, alike(range(5)))
    figure = diagrams(results)[0]
    assert figure.name == "smoke-critical-difference"
    assert all(f"Row {9 - i} {i + 1}.00" in figure.alt for i in range(10))
    assert set(figure.runs) == {run.run_id for run in results.runs}
    assert figure.png.startswith(b"\x89PNG") and figure == diagrams(results)[0]


def test_no_diagram_of_two_rows(factory: Any) -> None:
    assert diagrams(filled(factory, 2, alike(range(5)))) == []
