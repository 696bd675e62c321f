"""The paper's arrangement: rows and columns in their places, nothing blank, printed numbers beside and never mistaken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from smope_bench.benchmarks.suites import SUITES
from smope_bench.harness.records.store import Store
from smope_bench.reports.loading.load import load_suite
from smope_bench.reports.tables.paper import paper_table
from smope_bench.reports.tables.table import Table, TableCell

TABLE1 = SUITES["table1"]
IMAGENET_R, CIFAR, _ = TABLE1.full


def at(table: Table, label: str, group: str, text: str = "FAA") -> TableCell:
    """The entry of a row under a group and heading, which are met once."""
    [place] = [i for i, heading in enumerate(table.headings) if (heading.group, heading.text) == (group, text)]
    [line] = [line for line in table.rows if line.label == label]
    return line.cells[place]


def full_store(factory: Any) -> Store:
    """Joint and two methods of Table 1 on two of its columns; one method failed and was not run on the second."""
    factory.suite, factory.title = "table1", "Table 1"
    factory.publish_levels("Joint (prompt + head)", "joint", IMAGENET_R, (82.0, 82.5), kind="ceiling")
    factory.publish_levels("VQ-Prompt", "vq_prompt", IMAGENET_R, (78.0, 79.0, 80.0))
    factory.publish_levels("SMoPE", "smope", IMAGENET_R, (79.0, 79.5, 80.0))
    factory.publish_levels("Joint (prompt + head)", "joint", CIFAR, (91.0,), kind="ceiling")
    factory.fail("VQ-Prompt", factory.spec("vq_prompt", "cifar100", 0, 0, 10), "diverged", column=CIFAR.label)
    factory.plan("SMoPE", factory.spec("smope", "cifar100", 0, 0, 10), column=CIFAR.label)
    return factory.write()


@pytest.fixture
def table(factory: Any) -> Table:
    return paper_table(load_suite(full_store(factory), "table1", factory.FRESH))


def test_printed_groups_stand_beside_their_columns(table: Table) -> None:
    groups = list(dict.fromkeys(heading.group for heading in table.headings))
    assert groups == [
        "ImageNet-R, 10 tasks",
        "as printed: ImageNet-R, 10 tasks",
        "CIFAR-100, 10 tasks",
        "as printed: CIFAR-100, 10 tasks",
    ]
    assert [heading.text for heading in table.headings] == ["FAA", "CAA"] * 4
    assert table.key == "table1-table" and table.corner == "Method"


def test_joint_stands_first_and_apart_as_in_the_paper(table: Table) -> None:
    assert [(block.title, [line.label for line in block.rows]) for block in table.blocks] == [
        ("Ceilings", ["Joint (prompt + head)"]),
        ("Methods", ["VQ-Prompt", "SMoPE"]),
    ]


def test_numbers_places_and_runs(table: Table) -> None:
    entry = at(table, "SMoPE", "ImageNet-R, 10 tasks")
    assert (entry.text, entry.values, entry.place) == ("79.50 ± 0.50", (79.5, 0.5, 3), 1)
    assert len(entry.runs) == 3 and entry.cell == ("SMoPE", "ImageNet-R, 10 tasks")
    assert at(table, "VQ-Prompt", "ImageNet-R, 10 tasks").place == 2
    assert at(table, "Joint (prompt + head)", "ImageNet-R, 10 tasks").place == 0


def test_printed_numbers_have_difference_and_verdict(table: Table) -> None:
    entry = at(table, "SMoPE", "as printed: ImageNet-R, 10 tasks")
    assert (entry.text, entry.small, entry.tone) == ("79.32 ± 0.42", "+0.18, inside", "good")
    assert entry.values[:3] == (79.32, 0.42, pytest.approx(0.18)) and entry.values[4] == "inside"
    assert entry.runs == at(table, "SMoPE", "ImageNet-R, 10 tasks").runs
    far = at(table, "SMoPE", "as printed: ImageNet-R, 10 tasks", "CAA")
    assert (far.small, far.tone) == ("-4.89, outside", "bad")
    bare = at(table, "Joint (prompt + head)", "as printed: ImageNet-R, 10 tasks")
    assert (bare.text, bare.small, bare.tone) == ("82.06", "+0.19, no spread printed", "muted")


def test_nothing_is_blank_and_absence_is_said(table: Table) -> None:
    assert all(entry.text for line in table.rows for entry in line.cells)
    failed, missing = (at(table, label, "CIFAR-100, 10 tasks") for label in ("VQ-Prompt", "SMoPE"))
    assert (failed.text, failed.tone, missing.text) == ("failed", "word", "missing")
    beside = at(table, "SMoPE", "as printed: CIFAR-100, 10 tasks")
    assert (beside.text, beside.small, beside.note) == ("89.23 ± 0.12", "", "not run yet")
    unprinted = at(table, "Joint (prompt + head)", "as printed: CIFAR-100, 10 tasks", "CAA")
    assert (unprinted.text, unprinted.note) == ("–", "not printed")


def test_as_many_values_as_the_heading_names(table: Table) -> None:
    for line in table.rows:
        for heading, entry in zip(table.headings, line.cells, strict=True):
            assert len(entry.values) in (0, len(heading.fields))


@pytest.mark.parametrize(
    ("options", "mark"),
    [
        ({"flags": {"leaking": True, "tiny": False, "random_backbone": False}}, "leaking"),
        ({"flags": {"leaking": False, "tiny": True, "random_backbone": False}}, "rehearsal"),
        ({"flags": {"leaking": False, "tiny": False, "random_backbone": True}}, "random backbone"),
        ({"fingerprint": "0" * 16}, "stale"),
    ],
)
def test_cells_are_marked(factory: Any, options: dict[str, Any], mark: str) -> None:
    factory.suite = "table1"
    factory.publish_levels("SMoPE", "smope", IMAGENET_R, (79.0, 80.0), **options)
    table = paper_table(load_suite(factory.write(), "table1", factory.FRESH))
    assert mark in at(table, "SMoPE", "ImageNet-R, 10 tasks").marks
    printed = at(table, "SMoPE", "as printed: ImageNet-R, 10 tasks")
    assert (mark in printed.marks) if printed.small else mark in ("rehearsal", "random backbone")


def test_settings_made_by_hand_are_said_at_the_cell_and_below(factory: Any) -> None:
    factory.suite = "table1"
    factory.publish_levels("SMoPE", "smope", IMAGENET_R, (79.0,))
    factory.cells[0]["settings"] = ["epochs=1"]
    table = paper_table(load_suite(factory.write(), "table1", factory.FRESH))
    entry = at(table, "SMoPE", "ImageNet-R, 10 tasks")
    assert entry.marks == ("own settings",) and "epochs=1" in entry.note
    assert any("epochs=1" in note for note in table.notes)


def test_a_tiny_suite_has_the_printed_numbers_last_and_uncompared(factory: Any) -> None:
    factory.suite = "table1"
    factory.fill((0, 1), {"digits": 5}, [("SMoPE", "smope", "method", 90.0, 1.0)])
    table = paper_table(load_suite(factory.write(), "table1", factory.FRESH))
    groups = list(dict.fromkeys(heading.group for heading in table.headings))
    assert groups == ["digits · 5 tasks (tiny)", *(f"as printed: {column.label}" for column in TABLE1.full)]
    entries = [entry for line in table.rows for entry in line.cells[2:]]
    assert entries and all(not entry.small and not entry.runs and entry.tone == "muted" for entry in entries)
    assert at(table, "SMoPE", "as printed: CUB-200, 10 tasks").text == "87.43 ± 0.39"
    assert "not compared" in table.lead


def test_rows_of_the_paper_without_a_row_stand_last(factory: Any) -> None:
    column = SUITES["hash_main"].full[1]
    factory.suite = "hash_main"
    factory.publish_levels("Hash", "hash_prompt", column, (78.0, 79.0, 80.0))
    table = paper_table(load_suite(factory.write(), "hash_main", factory.FRESH))
    assert [heading.text for heading in table.headings] == ["FAA", "CAA", "FM (max)"] * 2
    assert table.blocks[-1].title == "Printed only"
    assert at(table, "cpg", column.label).text == "not in this suite"
    assert at(table, "cpg", f"as printed: {column.label}", "FM (max)").text == "7.18"
    assert at(table, "Hash", f"as printed: {column.label}").small == "-0.02, no spread printed"


def test_variants_find_their_own_printed_numbers(factory: Any) -> None:
    column = SUITES["table4"].full[0]
    factory.suite = "table4"
    for label in ("One prompt", "+ prototype loss"):
        factory.publish_levels(label, "smope", column, (80.0,))
    table = paper_table(load_suite(factory.write(), "table4", factory.FRESH))
    assert table.corner == "Row"
    group = f"as printed: {column.label}"
    assert [at(table, label, group).text for label in ("One prompt", "+ prototype loss")] == [
        "75.23 ± 0.17",
        "87.43 ± 0.39",
    ]


@pytest.mark.parametrize("suite", ["fig5", "someone_s"])
def test_what_no_paper_prints_has_no_printed_groups(factory: Any, suite: str) -> None:
    factory.suite = suite
    factory.publish_levels("epsilon 0.1", "smope", IMAGENET_R, (79.0,))
    table = paper_table(load_suite(factory.write(), suite, factory.FRESH))
    assert {heading.group for heading in table.headings} == {"ImageNet-R, 10 tasks"}
    assert table.key == suite.replace("_", "-") + "-table"


def test_a_row_that_somebody_added_has_no_printed_numbers(factory: Any) -> None:
    factory.suite = "table1"
    factory.publish_levels("My prompt", "smope", IMAGENET_R, (79.0,))
    table = paper_table(load_suite(factory.write(), "table1", factory.FRESH))
    assert at(table, "My prompt", "as printed: ImageNet-R, 10 tasks").note == "not printed"


def test_a_benchmark_that_is_not_printed_has_no_group(factory: Any) -> None:
    factory.suite = "table1"
    factory.publish_levels("SMoPE", "smope", SUITES["table6"].full[0], (79.0,))
    table = paper_table(load_suite(factory.write(), "table1", factory.FRESH))
    assert [heading.group for heading in table.headings] == ["ImageNet-R, 5 tasks"] * 2


def test_the_grid_is_a_function_of_the_store(factory: Any, tmp_path: Path) -> None:
    store = full_store(factory)
    one, two = (paper_table(load_suite(store, "table1", factory.FRESH)) for _ in range(2))
    assert one == two
