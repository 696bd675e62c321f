"""The published comparison: every printed number once, beside what was measured, or why nothing is said of it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from smope_bench.benchmarks.suites import SUITES
from smope_bench.reports.loading.load import load_suite
from smope_bench.reports.statistics.published import table_of
from smope_bench.reports.tables.published_comparison import published_comparison
from smope_bench.reports.tables.table import Row, Table

BENCHMARK, METRIC, PRINTED, MEASURED, DIFFERENCE, SPREAD, VERDICT, RUNS = range(8)
IMAGENET_R, CIFAR, CUB = SUITES["table1"].full


def ledger(factory: Any, suite: str) -> Table:
    grid = published_comparison(load_suite(factory.write(), suite, factory.FRESH))
    assert grid is not None
    return grid


def line_of(grid: Table, label: str, benchmark: str, metric: str = "FAA") -> Row:
    [line] = [
        line
        for line in grid.rows
        if (line.label, line.cells[BENCHMARK].text, line.cells[METRIC].text) == (label, benchmark, metric)
    ]
    return line


def texts(line: Row) -> list[str]:
    return [entry.text for entry in line.cells[PRINTED:]]


def test_measured_lines_have_everything(factory: Any) -> None:
    factory.suite = "table1"
    factory.publish_levels("SMoPE", "smope", IMAGENET_R, (79.0, 79.5, 80.0))
    line = line_of(ledger(factory, "table1"), "SMoPE", IMAGENET_R.label)
    assert texts(line) == ["79.32 ± 0.42", "79.50 ± 0.50", "+0.18", "0.65", "inside", "3"]
    assert line.cells[MEASURED].values == (79.5, 0.5, 3)
    assert len(line.cells[MEASURED].runs) == 3 == len(line.cells[RUNS].runs)
    assert line.cells[VERDICT].tone == "good"


def test_unmeasured_lines_say_why(factory: Any) -> None:
    factory.suite = "table1"
    factory.publish_levels("SMoPE", "smope", IMAGENET_R, (79.0,))
    factory.fail("SMoPE", factory.spec("smope", "cifar100", 0, 0, 10), "diverged", column=CIFAR.label)
    factory.publish_levels("SMoPE", "smope", CUB, ())
    factory.plan("SMoPE", factory.spec("smope", "cub200", 0, 0, 10), column=CUB.label)
    grid = ledger(factory, "table1")
    said = [line_of(grid, "SMoPE", column.label).cells[VERDICT].text for column in (IMAGENET_R, CIFAR, CUB)]
    assert said == ["one run has no spread", "failed", "not run yet"]
    assert texts(line_of(grid, "SMoPE", CIFAR.label)) == ["89.23 ± 0.12", "–", "–", "–", "failed", "–"]
    assert line_of(grid, "OVOR", CUB.label).cells[VERDICT].text == "not part of these results"


@pytest.mark.parametrize("name", [name for name, suite in SUITES.items() if suite.printed and not suite.counts_only])
def test_every_printed_number_is_there_once(factory: Any, name: str) -> None:
    factory.suite = name
    factory.publish_levels(SUITES[name].rows[0].label, SUITES[name].rows[0].method, SUITES[name].full[0], (80.0,))
    grid, table = ledger(factory, name), table_of(SUITES[name])
    assert table is not None
    printed = Counter(value.text for value in table.values.values())
    assert Counter(line.cells[PRINTED].text for line in grid.rows) == printed
    places = [(line.label, *(entry.text for entry in line.cells[:PRINTED])) for line in grid.rows]
    assert len(set(places)) == len(places)


def test_a_tiny_suite_is_never_compared(factory: Any) -> None:
    factory.suite = "table1"
    factory.fill((0, 1), {"digits": 5}, [("SMoPE", "smope", "method", 90.0, 1.0)])
    grid = ledger(factory, "table1")
    assert {line.cells[VERDICT].text for line in grid.rows} == {"tiny run is no comparison"}
    assert not grid.runs and "tiny run is no comparison (57)" in grid.lead


def test_what_is_not_hosted_is_named(factory: Any) -> None:
    factory.suite = "hash_main"
    factory.publish_levels("Hash", "hash_prompt", SUITES["hash_main"].full[0], (95.0, 95.0))
    grid = ledger(factory, "hash_main")
    assert line_of(grid, "cpg", "ImageNet-R, 10 tasks", "FM (max)").cells[VERDICT].text == "not in this suite"
    assert line_of(grid, "Hash", "CIFAR-100, 10 tasks").cells[VERDICT].text == "no spread printed"
    assert line_of(grid, "Hash", "CIFAR-100, 10 tasks").cells[DIFFERENCE].text == "-0.02"


def test_runs_of_other_weights_are_not_the_printed_ones(factory: Any) -> None:
    factory.suite = "table1"
    factory.publish_levels("SMoPE", "smope", SUITES["table2"].full[0], (72.0, 72.4))
    grid = ledger(factory, "table1")
    assert line_of(grid, "SMoPE", IMAGENET_R.label).cells[VERDICT].text == "not part of these results"


def test_marks_stand_at_the_measured_number(factory: Any) -> None:
    factory.suite = "table1"
    factory.publish_levels("SMoPE", "smope", IMAGENET_R, (79.0, 80.0), fingerprint=factory.OLD)
    factory.cells[0]["settings"] = ["epochs=1"]
    line = line_of(ledger(factory, "table1"), "SMoPE", IMAGENET_R.label)
    assert line.cells[MEASURED].marks == ("stale", "own settings")


def test_the_head_counts_and_the_spread_is_explained(factory: Any) -> None:
    factory.suite = "table1"
    factory.publish_levels("SMoPE", "smope", IMAGENET_R, (79.0, 79.5, 80.0))
    grid = ledger(factory, "table1")
    assert grid.lead == "57 printed numbers: inside (1), outside (1), not part of these results (55)."
    assert any("n - 1" in note and "no test" in note for note in grid.notes)


def test_a_number_from_the_web_is_said_to_be_one(factory: Any) -> None:
    factory.suite = "imagenet_r_50"
    factory.publish_levels("SMoPE", "smope", SUITES["imagenet_r_50"].full[0], (75.0,))
    grid = ledger(factory, "imagenet_r_50")
    assert len(grid.rows) == 1 and any("not from a table of the paper" in note for note in grid.notes)


@pytest.mark.parametrize("suite", ["fig5", "smoke", "hash_backbones", "someone_s"])
def test_what_no_paper_prints_as_a_table_has_no_ledger(factory: Any, suite: str) -> None:
    factory.suite = suite
    factory.publish_levels("SMoPE", "smope", IMAGENET_R, (79.0,))
    assert published_comparison(load_suite(factory.write(), suite, factory.FRESH)) is None
