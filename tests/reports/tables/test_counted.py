"""Table 3 as tables: counted beside printed, equal and different told apart, and what the code executes."""

from __future__ import annotations

from typing import Any

import pytest

from smope_bench.harness.errors import UserError
from smope_bench.reports.build import counted_section
from smope_bench.reports.tables.table import Row, Table, TableCell


def executed(forward: int, backward: int = 0, *, query: bool = False, traced: bool = True) -> dict[str, Any]:
    return {
        "forward": forward,
        "forward_by_torch": forward,
        "backward": backward,
        "query": query,
        "traced": traced,
        "uncounted": {},
    }


def row(method: str, published: tuple[float, float, float] | None, phases: Any = (), note: str = "") -> dict[str, Any]:
    millions, train, test = published or (0, 0, 0)
    counted = {
        "parameters": round(millions * 1e6),
        "train": round(train * 1e9),
        "test": round(test * 1e9),
        "note": note,
    }
    return {
        "method": method,
        "title": method.upper(),
        "kind": "method",
        "parameters": 1234,
        "published": counted if published else None,
        "phases": list(phases),
        "test": executed(32_000_000_000, query=True),
    }


PHASES = (
    {"name": "dense", "tasks": [1], "parameters": 7, "step": executed(10**9, 2 * 10**9)},
    {"name": "sparse", "tasks": [1, 2], "parameters": 8000, "step": executed(3 * 10**9, query=True, traced=False)},
)
REPORT: dict[str, Any] = {
    "geometry": {"num_classes": 200, "num_tasks": 2},
    "images": 2,
    "backbone": {"published": 33_721_790_208, "complete": executed(35_126_120_448), "own": executed(32_695_394_304)},
    "rows": [
        row("mine", None),
        row("ovor", (0.2613, 33.7221, 33.7221), PHASES, note="a note"),
        row("deep_l2p++", (1.32, 67.44, 67.44)),
    ],
}
SECTION = counted_section("table3", REPORT, "costs")
CONVENTION, EXECUTED = SECTION.tables


def line_of(table: Table, label: str) -> Row:
    return next(line for line in table.rows if line.label == label)


def part(label: str, quantity: str) -> list[TableCell]:
    """Counted, printed and difference of a row."""
    return [
        entry
        for heading, entry in zip(CONVENTION.headings, line_of(CONVENTION, label).cells, strict=True)
        if heading.group == quantity
    ]


@pytest.mark.parametrize(
    "edited",
    [
        {},
        {"rows": "x"},
        REPORT | {"backbone": None},
        REPORT | {"rows": [{"method": "mine"}]},
        REPORT | {"rows": [row("mine", None) | {"parameters": "many"}]},
        REPORT | {"rows": [row("mine", None) | {"title": 5}]},
    ],
)
def test_counts_that_were_edited_are_the_users_to_mend(edited: dict[str, Any]) -> None:
    with pytest.raises(
        UserError, match=r"counts of suite 'table3' cannot be used .*; write them anew with: smope-bench run"
    ):
        counted_section("table3", edited, "costs")


def test_the_section_is_of_counts_alone() -> None:
    assert SECTION.results is None and SECTION.title == "Table 3: parameters and operations"
    assert [table.key for table in SECTION.all_tables] == ["costs-convention", "costs-executed"]
    assert counted_section("someone_s", REPORT, "x").title == "someone_s"


def test_equal_and_different_are_told_apart() -> None:
    counted, printed, difference = part("OVOR", "Parameters (M)")
    assert (counted.text, printed.text, difference.text, difference.tone) == ("0.26", "0.26", "0.00", "good")
    assert counted.values == (pytest.approx(0.2613),) and difference.values == (0.0,)
    counted, printed, difference = part("DEEP_L2P++", "Parameters (M)")
    assert (counted.text, printed.text, difference.text, difference.tone) == ("1.32", "1.33", "-0.01", "bad")


def test_shares_are_of_the_first_printed_row_as_in_the_paper() -> None:
    counted, printed, _ = part("OVOR", "Training GFLOPs")
    assert (counted.small, printed.small) == ("50 %", "50 %")
    assert part("DEEP_L2P++", "Test GFLOPs")[0].small == "100 %"
    assert part("OVOR", "Parameters (M)")[0].small == ""


def test_rows_stand_in_the_printed_order_and_none_is_lost() -> None:
    labels = [line.label for line in CONVENTION.rows]
    assert labels[:3] == ["DEEP_L2P++", "OVOR", "MINE"]
    assert sorted(labels[3:]) == ["CODA-Prompt", "DualPrompt", "HiDe-Prompt", "NoRGa", "SMoPE", "VQ-Prompt"]
    counted, printed, _ = part("SMoPE", "Parameters (M)")
    assert (counted.text, counted.tone, printed.text) == ("not counted", "word", "0.38")


def test_a_row_without_a_convention_has_no_numbers_of_it() -> None:
    assert [entry.text for entry in part("MINE", "Test GFLOPs")] == ["–", "–", "–"]
    assert line_of(CONVENTION, "MINE").cells[0].values == (1234,)


def test_notes_of_the_methods_are_said() -> None:
    assert "OVOR by convention: a note." in CONVENTION.notes
    assert all(entry.text for table in SECTION.all_tables for line in table.rows for entry in line.cells)


def test_every_phase_and_the_test_have_a_line() -> None:
    lines = [line for line in EXECUTED.rows if line.label == "OVOR"]
    assert [line.cells[0].text for line in lines] == ["dense (task 1)", "sparse", "test"]
    assert [entry.text for entry in lines[0].cells[1:]] == ["7", "no", "1.000", "2.000", "3.000"]
    assert lines[1].cells[1].values == (8000,) and lines[1].cells[3].marks == ("by torch's counter",)
    assert lines[2].cells[2].text == "yes" and lines[2].cells[5].values == (32.0,)


def test_a_closed_form_trains_nothing() -> None:
    first, test = (line for line in EXECUTED.rows if line.label == "MINE")
    assert [entry.text for entry in first.cells] == ["closed form", "–", "–", "–", "–", "–"]
    assert test.cells[0].text == "test"


def test_a_suite_of_ones_own_has_its_title_and_its_rows_alone() -> None:
    section = counted_section("mine", {**REPORT, "suite_title": "My counts", "suite_summary": "two"}, "costs")
    assert (section.title, section.description, section.tables[0].title) == ("My counts", "two", "My counts")
    assert [line.label for line in section.tables[0].blocks[0].rows] == ["DEEP_L2P++", "OVOR", "MINE"]
    assert len(CONVENTION.blocks[0].rows) > 3, "Table 3 shows the methods that were not counted, too"
