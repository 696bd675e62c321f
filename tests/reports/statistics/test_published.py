"""The papers' numbers that come with the project, where they stand in our suites, and what is said of a measured cell."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from smope_bench.benchmarks.suites import SUITES, Suite
from smope_bench.reports.formatting import notes
from smope_bench.reports.loading.load import load_suite
from smope_bench.reports.loading.model import Cell, summarise
from smope_bench.reports.statistics.published import (
    INSIDE,
    NO_SPREAD_PRINTED,
    ONE_RUN,
    OUTSIDE,
    TINY,
    Key,
    PublishedValue,
    by_hand,
    compare,
    judge,
    printed_table,
    published_values,
    read_published,
    said_marks,
    table_of,
)
from smope_bench.reports.text import signed

PRINTED = {name: table for name, suite in SUITES.items() if (table := table_of(suite)) is not None}
UNPLACED = {
    "hash_main": {("imagenet_r", "cpg", "")},
    "hash_layers": {("cifar100", "hash_prompt", f"{which}_block_of_two") for which in ("one", "other")},
    "hash_cub200": {("cub200", "best_baseline", "")},
    "hash_five_datasets": {("core50", "hash_prompt", ""), ("core50", "pina", "")},
}
"""Printed numbers without a place: of a method outside the suite, a benchmark without lists here, or what has no name."""
OTHERS_UNPRINTED = ("hash_cub200", "hash_20_tasks", "hash_five_datasets")
HEAD = "paper,table,benchmark,tasks,backbone,variant,method,metric,mean,std\n"
COLUMN = SUITES["table7"].full[0]
VALUE = PublishedValue(79.32, 0.42, "79.32 ± 0.42")


def summary(*values: float) -> Any:
    found = summarise(values)
    assert found is not None
    return found


def test_every_line_is_typed_and_has_its_printed_digits() -> None:
    values = published_values()
    assert len(values) == 242
    joint = values[Key("smope", "table1", "cub200", 10, "sup21k", "", "joint", "faa")]
    assert joint == PublishedValue(88.0, None, "88.00")
    part = values[Key("smope", "table4", "cub200", 10, "sup21k", "tap", "smope", "caa")]
    assert part == PublishedValue(90.09, 0.43, "90.09 ± 0.43")
    assert all(0 <= value.mean <= 100 for key, value in values.items() if key.metric in ("faa", "caa", "fm_max"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a,t,b,ten,w,,m,faa,1.0,", "line 2 .* cannot be read"),
        ("a,t,b,10,w,,m,faa,,", "line 2 .* cannot be read"),
        ("a,t,b,10,w,,m,faa,nan,", "line 2 .* no possible"),
        ("a,t,b,10,w,,m,faa,1.0,-1", "line 2 .* no possible"),
        ("a,t,b,10,w,,m,faa,1.0,\na,t,b,10,w,,m,faa,2.0,", "line 3 .* second time"),
    ],
)
def test_a_file_that_is_not_right_is_refused_by_line(line: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_published(HEAD + line)


def test_every_published_number_of_a_hosted_method_has_one_suite() -> None:
    hosted = set(published_values())
    owners = [name for key in published_values() for name, table in PRINTED.items() if key in table.values]
    assert len(owners) == len(hosted)
    assert list(dict.fromkeys(owners)) == [
        "table1", "table2", "table3", "table4", "table6", "table7", "imagenet_r_50", "hash_main", "hash_ablation",
            "hash_layers", "hash_cub200", "hash_20_tasks", "hash_five_datasets", "cpg_main",
    ]  # fmt: skip


@pytest.mark.parametrize("name", PRINTED)
def test_every_published_number_has_its_row_and_column_once_or_is_listed(name: str) -> None:
    table, suite = PRINTED[name], SUITES[name]
    asked = [table.key(row, column, metric) for row in suite.rows for column in suite.full for metric in suite.metrics]
    assert len(asked) == len(set(asked)), "two places of the table would show the same printed number"
    lost = set(table.values) - set(asked)
    assert {(key.benchmark, key.method, key.variant) for key in lost} == UNPLACED.get(name, set())
    for key in table.values:
        row, column = table.place(key)
        assert (column is None) == (key.benchmark == "core50"), "a benchmark that is not hosted"
        assert (row is None or column is None) == (key in lost)
        assert row is None or column is None or table.key(row, column, key.metric) == key


def test_every_row_of_a_printed_table_is_printed() -> None:
    """But for those that we add: spans of blocks the paper does not name, and methods without a record or a printed row."""
    rows = {name: {row.label for row in SUITES[name].rows} for name in PRINTED}
    placed = {
        name: {row.label for key in table.values if (row := table.place(key)[0])} for name, table in PRINTED.items()
    }
    ours = {name: rows[name] - placed[name] for name in PRINTED if rows[name] != placed[name]}
    assert ours.pop("hash_layers") == {"Block 1", "Block 12"}
    assert all(ours.pop(name) == {"OVOR", "HiDe-Prompt", "NoRGa"} for name in OTHERS_UNPRINTED)
    assert len(ours.pop("imagenet_r_50")) == 8
    assert ours.pop("cpg_main") == {"CPG, steps not projected"}
    assert ours == {}


def test_weights_that_a_paper_calls_otherwise() -> None:
    table = PRINTED["hash_main"]
    assert {key.backbone for key in table.values} == {"sup21k"}
    assert {column.backbone for column in SUITES["hash_main"].full} == {"sup21k_orig"}


def test_a_difference_as_large_as_the_spread_is_inside() -> None:
    near = judge(summary(80.0, 80.6, 79.4), PublishedValue(79.0, 0.8, ""))
    assert near.spread == pytest.approx(math.hypot(0.6, 0.8)) == pytest.approx(1.0)
    assert near.difference == pytest.approx(1.0) and near.verdict == INSIDE
    assert judge(summary(80.0, 80.6, 79.4), PublishedValue(78.99, 0.8, "")).verdict == OUTSIDE
    assert judge(summary(78.0, 78.6, 77.4), PublishedValue(79.01, 0.8, "")).verdict == OUTSIDE


def test_without_two_deviations_there_is_a_difference_and_no_verdict() -> None:
    bare = judge(summary(80.0, 81.0), PublishedValue(79.0, None, "79.00"))
    assert (bare.verdict, bare.difference, bare.spread) == (NO_SPREAD_PRINTED, 1.5, None)
    one = judge(summary(80.0), PublishedValue(79.0, 0.5, ""))
    assert (one.verdict, one.difference, one.spread) == (ONE_RUN, 1.0, None)
    assert one.text == "+1.00, one run has no spread"


def measured(factory: Any, **options: Any) -> Cell:
    """Two runs of a row of Table 7, of 79 and 80 percent."""
    factory.suite = "table7"
    factory.publish_levels("Adaptive noise", "smope", COLUMN, (79.0, 80.0), **options)
    results = load_suite(factory.write(), "table7", factory.FRESH)
    return results.cell(results.rows[0], results.columns[0])


def test_the_printed_protocol_is_compared(factory: Any) -> None:
    compared = compare(measured(factory), "faa", VALUE, COLUMN)
    assert compared.difference == pytest.approx(0.18) and compared.verdict == INSIDE
    assert compared.text == "+0.18, inside"


@pytest.mark.parametrize(
    ("options", "verdict"),
    [
        ({"flags": {"leaking": False, "tiny": True, "random_backbone": False}}, TINY),
        ({"flags": {"leaking": False, "tiny": False, "random_backbone": True}}, "random weights are no comparison"),
        ({"flags": {"unverified_weights": True}}, "weights not verified"),
        ({"backbone": "sup21k"}, "other protocol is no comparison"),
    ],
)
def test_what_is_not_the_printed_protocol_is_not_compared(factory: Any, options: Any, verdict: str) -> None:
    compared = compare(measured(factory, **options), "faa", VALUE, COLUMN)
    assert (compared.verdict, compared.difference, compared.spread) == (verdict, None, None)


@pytest.mark.parametrize(
    ("protocol", "verdict"),
    [
        ({"limit": 5}, "few images a class are no comparison"),
        *(
            (other, "other protocol is no comparison")
            for other in ({"split": [11, 9]}, {"class_order": "numpy"}, {"holdout": 0.2})
        ),
    ],
)
def test_limited_and_uneven_runs_are_not_compared(factory: Any, protocol: dict[str, Any], verdict: str) -> None:
    cell = measured(factory)
    for outcome in cell.outcomes:
        outcome.spec["benchmark"]["config"].update(protocol)
    assert compare(cell, "faa", VALUE, COLUMN).verdict == verdict


def test_the_recipe_of_another_setting_is_not_compared(factory: Any) -> None:
    factory.suite = "table7"
    factory.publish_levels("Adaptive noise", "smope", COLUMN, (79.0, 80.0))
    factory.cells[0]["recipe"] = "taken from smope on cub200, not published for this setting; X card"
    results = load_suite(factory.write(), "table7", factory.FRESH)
    compared = compare(results.cell(results.rows[0], results.columns[0]), "faa", VALUE, COLUMN)
    assert printed_table(results) is None, "printed numbers do not stand beside it"
    assert compared.verdict == "recipe of another setting is no comparison" and compared.difference is None


def test_limits_and_taken_recipes_are_marked_in_every_table(factory: Any) -> None:
    factory.suite = "table7"
    factory.publish_levels("Adaptive noise", "smope", COLUMN, (79.0, 80.0))
    factory.cells[0]["recipe"] = "taken from smope on cub200, not published for this setting; X card"
    results = load_suite(factory.write(), "table7", factory.FRESH)
    for outcome in results.outcomes:
        outcome.spec["benchmark"]["config"]["limit"] = 5
    cell = results.cell(results.rows[0], results.columns[0])
    assert cell.marks == ("recipe of another setting", "limit 5")
    said = " ".join(notes(results))
    assert "Limited: trained and tested on a few images" in said
    assert "Adaptive noise: recipe taken from smope on cub200, not published for this setting; X card." in said


def test_printed_numbers_do_not_stand_beside_other_settings(factory: Any) -> None:
    factory.suite = "table7"
    factory.publish_levels("Adaptive noise", "smope", COLUMN, (79.0, 80.0))
    results = load_suite(factory.write(), "table7", factory.FRESH)
    assert printed_table(results) is not None
    results.outcomes[0].spec["benchmark"]["config"]["limit"] = 5
    assert printed_table(results) is None


def test_another_column_or_number_of_tasks_is_not_compared(factory: Any) -> None:
    cell = measured(factory)
    for column in (SUITES["table6"].full[0], SUITES["table6"].full[2], SUITES["table7"].full[1]):
        assert compare(cell, "faa", VALUE, column).verdict == "other protocol is no comparison"


def test_settings_made_by_hand_are_said(factory: Any) -> None:
    factory.suite = "table7"
    factory.publish_levels("Adaptive noise", "smope", COLUMN, (79.0, 80.0))
    factory.cells[0]["settings"] = factory.cells[1]["settings"] = ["epochs=1"]
    results = load_suite(factory.write(), "table7", factory.FRESH)
    cell = results.cell(results.rows[0], results.columns[0])
    assert by_hand(cell) == ("epochs=1",) and said_marks(cell) == ("own settings",)
    assert compare(cell, "faa", VALUE, COLUMN).verdict == INSIDE


def test_runs_that_are_wanting_are_said(factory: Any) -> None:
    factory.suite = "table7"
    factory.publish_levels("Adaptive noise", "smope", COLUMN, (79.0, 80.0))
    lacking = factory.spec("smope", "imagenet_r", 7, 7, 10)
    factory.plan("Adaptive noise", lacking, column=COLUMN.label)
    results = load_suite(factory.write(), "table7", factory.FRESH)
    assert said_marks(results.cell(results.rows[0], results.columns[0])) == ("2 of 3 runs",)


@pytest.mark.parametrize(
    ("value", "text"), [(0.3, "+0.30"), (-0.3, "-0.30"), (-0.001, "0.00"), (0.0, "0.00"), (None, "–")]
)
def test_signs(value: float | None, text: str) -> None:
    assert signed(value) == text


@pytest.mark.parametrize("make", [lambda suite: suite.rows, lambda suite: suite.tiny_rows], ids=["full", "tiny"])
@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)
def test_variants_are_of_printed_tables_and_tell_rows_apart(suite: Suite, make: Callable[[Suite], Any]) -> None:
    rows = make(suite)
    assert suite.printed is not None or not any(row.variant for row in rows)
    if suite.printed is not None:
        assert len({(row.method, row.variant) for row in rows}) == len(rows)
