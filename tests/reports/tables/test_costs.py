"""The cost table beside the printed one: rounding, marks, order, and numbers that a reader can check."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from smope_bench.reports.tables.costs import by_convention, ordered, printed_values, with_printed
from smope_bench.reports.text import whole
from smope_bench.reports.writers.markdown import cost_markdown
from smope_bench.reports.writers.terminal import print_costs


def executed(forward: int, backward: int = 0, *, query: bool = False, traced: bool = True) -> dict[str, Any]:
    return {
        "forward": forward,
        "forward_by_torch": forward,
        "backward": backward,
        "query": query,
        "traced": traced,
        "uncounted": {"aten::gelu": 12},
    }


def row(method: str, published: dict[str, Any] | None = None, phases: Any = ()) -> dict[str, Any]:
    test = executed(32_000_000_000)
    return {
        "method": method,
        "title": method,
        "parameters": 1234,
        "published": published,
        "phases": list(phases),
        "test": test,
    }


OVOR = {"parameters": 261_320, "train": 33_722_097_408, "test": 33_722_097_408, "note": "a note"}
WRONG = {"parameters": 1_320_000, "train": 67_443_887_616, "test": 67_443_887_616, "note": ""}
PHASES = (
    {"name": "dense", "tasks": [1], "parameters": 7, "step": executed(10**9, 2 * 10**9)},
    {"name": "sparse", "tasks": [1, 2], "parameters": 8, "step": executed(3 * 10**9, query=True, traced=False)},
)
REPORT: dict[str, Any] = {
    "geometry": {"num_classes": 200, "num_tasks": 2},
    "images": 2,
    "backbone": {"published": 33_721_790_208, "complete": executed(35_126_120_448), "own": executed(32_695_394_304)},
    "rows": [row("floor"), row("ovor", OVOR, PHASES), row("deep_l2p++", WRONG)],
}


def shown() -> str:
    console = Console(file=io.StringIO(), width=120, highlight=False)
    print_costs(console, REPORT)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_table_3_is_there_as_printed() -> None:
    printed = printed_values()
    assert len(printed) == 8
    assert printed["dualprompt"] == {"params_m": "1.10", "train_gflops": "33.72", "test_gflops": "67.44"}
    assert [values["params_m"] for values in printed.values()] == [
        "1.33",
        "1.10",
        "3.99",
        "4.21",
        "4.21",
        "0.26",
        "0.50",
        "0.38",
    ]


def test_values_are_written_as_the_paper_writes_them() -> None:
    assert by_convention(row("ovor", OVOR)) == printed_values()["ovor"]
    assert by_convention(row("floor")) == {}


def test_rows_of_the_paper_come_first_in_its_order() -> None:
    assert [each["method"] for each in ordered(REPORT["rows"], printed_values())] == ["deep_l2p++", "ovor", "floor"]
    assert [each["method"] for each in with_printed(REPORT)["rows"]] == ["deep_l2p++", "ovor", "floor"]
    assert with_printed(REPORT)["rows"][0]["table3"]["computed"]["params_m"] == "1.32"


def test_a_value_that_the_paper_prints_otherwise_is_marked() -> None:
    text = cost_markdown(REPORT)
    assert line(text, "deep") == [
        whole(1234),
        whole(1_320_000),
        "1.32",
        "1.33",
        "-0.01",
        *["67.44", "67.44", "0.00"] * 2,
    ]
    assert line(text, "ovor") == [whole(1234), whole(261_320), "0.26", "0.26", "0.00", *["33.72", "33.72", "0.00"] * 2]
    assert line(text, "floor") == [whole(1234), *["–"] * 10], "no convention, and not printed"
    assert "-0.01" in shown()


def line(text: str, label: str) -> list[str]:
    """The cells of a method's first row, without percentages."""
    found = next(row for row in text.splitlines() if row.startswith(f"| {label}"))
    return [cell.split("<br>")[0].strip() for cell in found.strip("| ").split(" | ")[1:]]


def test_each_phase_has_its_line() -> None:
    text = cost_markdown(REPORT)
    assert "| ovor | dense (task 1) | 7 | no | 1.000 | 2.000 | 3.000 |" in text
    assert "| ovor | sparse | 8 | yes | 3.000 (by torch's counter) | 0.000 | 3.000 |" in text
    assert "| ovor | test | – | no | 32.000 | 0.000 | 32.000 |" in text
    assert "| floor | closed form | – | – | – | – | – |" in text
    assert "- ovor by convention: a note." in text and "aten::gelu" in text and "33,721,790,208" in text


def test_methods_that_were_not_asked_for_have_no_row() -> None:
    assert "| not counted" not in cost_markdown(REPORT) and "SMoPE" not in shown()


def test_a_terminal_of_120_columns_cuts_nothing() -> None:
    text = shown()
    assert "…" not in text
    assert "dense (task 1)" in text and "35.126" in text and "32.695" in text
