"""The pages' numbers are those of the stored measurements, and a mark that leads nowhere is an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from smope_bench.harness.errors import UserError
from smope_bench.harness.maintenance import performance_page
from smope_bench.harness.maintenance.performance_page import NOT_YET, NUMBER, read_folder, renewed, shown, table
from smope_bench.harness.timing.display import number
from smope_bench.harness.timing.records import Measurement, Row, Spread

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "docs" / "performance.md", ROOT / "README.md"]


def one(value: float) -> Spread:
    return Spread(median=value, least=value, most=value)


def measurement(rows: list[Row]) -> Measurement:
    return Measurement(
        bench="step",
        command="run_all.py bench step",
        made="2026-01-02T03:04:05Z",
        revision="0123456789abcdef",
        fingerprint="f",
        conditions={"batch": 4, "device": "a CPU", "precision": None},
        rows=rows,
    )


ROWS = [
    Row(name="bare", measures={"seconds": one(1.5), "to_bare": one(1)}),
    Row(
        name="m",
        measures={"seconds": one(1.2), "to_bare": Spread(median=0.8, least=0.75, most=1.25)},
        note="two|passes",
    ),
]


def test_committed_pages_are_what_the_stored_measurements_give() -> None:
    found = read_folder(ROOT / "docs" / "performance")
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert renewed(text, found) == text, f"run {performance_page.__doc__}"
    assert found.keys() <= set().union(*(shown(page.read_text(encoding="utf-8")) for page in PAGES))


def test_both_pages_take_numbers_from_measurements() -> None:
    performance, readme = (page.read_text(encoding="utf-8") for page in PAGES)
    assert shown(performance) and NUMBER.search(readme), "without marks nothing holds their numbers"
    if found := read_folder(ROOT / "docs" / "performance"):
        assert NOT_YET not in readme and found.keys() & shown(performance)


def test_a_table_has_its_command_and_conditions_beneath() -> None:
    assert table(measurement(ROWS)).splitlines() == [
        "| of | seconds | times bare |",
        "| --- | --- | --- |",
        "| bare | 1.50 | 1 |",
        "| m | 1.20 | 0.800 (0.750 to 1.25) |",
        "",
        "- m: two|passes",
        "",
        "`run_all.py bench step`",
        "",
        "batch 4, device a CPU; 2026-01-02, revision 0123456789ab.",
    ]


def test_rows_without_common_measures_get_a_line_a_measure() -> None:
    rows = [Row(name=name, measures={f"{name}_s": one(2)}) for name in ("start", "stop")]
    assert table(measurement(rows)).splitlines()[2:4] == ["| start | start, s | 2 |", "| stop | stop s | 2 |"]


def test_marks_are_filled_and_filled_again() -> None:
    page = "a <!-- measured: step/m/to_bare -->x<!-- end -->, <!-- measured: step/m/to_bare/spread -->\n<!-- end -->\n"
    page += "<!-- measured: step -->\nold\n<!-- end of measured -->\n"
    made = renewed(page, {"step": measurement(ROWS)})
    assert "-->0.800<!-- end -->, " in made and "-->0.800 (0.750 to 1.25)<!-- end -->" in made
    assert "| bare | 1.50 | 1 |" in made and "old" not in made
    assert renewed(made, {"step": measurement(ROWS)}) == made and shown(made) == {"step"}
    assert renewed(made, {}).count(NOT_YET) == 3


@pytest.mark.parametrize(
    ("mark", "said"),
    [
        ("step/n/to_bare", "no row 'n'"),
        ("step/m/to_bear", "did you mean 'to_bare'"),
        ("step/m/to_bare/mots", "asked for as 'mots'; did you mean 'most'"),
    ],
)
def test_a_mark_that_leads_nowhere_is_named(mark: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        renewed(f"<!-- measured: {mark} --><!-- end -->", {"step": measurement(ROWS)})


def test_a_measurement_that_no_page_shows_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "page.md").write_text("nothing", encoding="utf-8")
    text = measurement(ROWS).model_dump_json(by_alias=True)
    (tmp_path / "lost.json").write_text(text, encoding="utf-8")
    assert performance_page.main([str(tmp_path), str(tmp_path / "page.md")]) == 2
    assert "no page shows lost" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234.4, "1,234"),
        (250.6, "251"),
        (12.34, "12.3"),
        (1.234, "1.23"),
        (0.9534, "0.953"),
        (0.93, "0.930"),
        (0.01534, "0.0153"),
        (0.00012, "0.00012"),
        (7, "7"),
    ],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text
