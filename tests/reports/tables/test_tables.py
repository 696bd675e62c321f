"""Tables: who is ranked, what is never blank, and that a label is text in the terminal, in Markdown and in CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console

from smope_bench.harness.metrics import METRICS
from smope_bench.reports.formatting import column_text, interval, mean_std, problem_lines, runs_text
from smope_bench.reports.loading.load import load_suite
from smope_bench.reports.loading.model import Column, SuiteResults, summarise
from smope_bench.reports.tables.benchmark import benchmark_tables
from smope_bench.reports.tables.costs import cost_table
from smope_bench.reports.tables.table import Block, Heading, Row, Table, TableCell, spans, traces
from smope_bench.reports.text import file_name, number, plain
from smope_bench.reports.writers.csv import TIDY_HEADER, table_csv, tidy_csv
from smope_bench.reports.writers.markdown import escape, table_markdown
from smope_bench.reports.writers.terminal import print_results, print_table, terminal_tables

HOSTILE = r"""[bold]x[/] | <script>alert(1)</script> & 5% \input{/etc/passwd} $a_b^c$ #{~} `"it's" 中文"""
CONTROL = "a\x1b[31mred\x07\nnext"


def markdown(results: SuiteResults) -> str:
    return "\n".join(map(table_markdown, benchmark_tables(results)))


def drawn(results: SuiteResults, width: int = 120) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    print_results(console, results)
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def printed(grid: Table, width: int, **options) -> str:
    console = Console(width=width, file=io.StringIO(), **{"color_system": None, **options})
    print_table(console, grid)
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def wide_grid(groups: int = 5, rows: int = 3) -> Table:
    """Numbers that are all different, under groups of two headings."""
    headings = [Heading(metric, f"Benchmark {g}", fields=("mean",)) for g in range(groups) for metric in ("FAA", "CAA")]
    lines = [
        Row(
            f"Row number {r}",
            tuple(
                TableCell(f"{10 * r + i}.{r}{i % 10} ± 0.{i}7", (r + i / 7,), runs=(f"run{r}{i // 2}",))
                for i in range(2 * groups)
            ),
        )
        for r in range(1, rows + 1)
    ]
    return Table("wide", "A wide table", "Method", tuple(headings), (Block(tuple(lines), "Methods", "what they are"),))


def test_numbers_are_written_alike_everywhere() -> None:
    assert number(-0.0001) == "0.00"
    assert number(None) == "–"
    assert mean_std(summarise([90.0, 91.0])) == "90.50 ± 0.71"
    assert (mean_std(summarise([90.0])), interval(summarise([90.0]))) == ("90.00 (one seed)", "–")
    assert interval(summarise([90.0, 92.0, 97.0])) == "[84.0, 102.0]"


def test_best_and_second_are_among_sequential_rows_and_ties_share(factory) -> None:
    factory.level("Floor", 93.0, kind="floor")
    factory.level("A", 95.0)
    factory.level("B", 95.001)
    factory.level("C", 80.0)
    factory.level("Joint", 99.0, kind="ceiling")
    results = load_suite(factory.write(), "smoke", factory.FRESH)
    assert results.ranks(results.columns[0], "faa") == {"A": 1, "B": 1, "Floor": 2}
    (grid,) = benchmark_tables(results)
    assert {line.label: line.cells[0].place for line in grid.rows} == {
        "Floor": 2,
        "A": 1,
        "B": 1,
        "C": 0,
        "Joint": 0,
    }
    assert [block.title for block in grid.blocks] == ["Floors", "Methods", "Ceilings"]


def made_with(factory, **cells: Mapping[str, object]) -> str:
    """The notes of a table whose rows' runs were planned so."""
    for label, how in cells.items():
        factory.level(label, 90.0, seeds=(0,))
        factory.cells[-1] |= how
    (grid,) = benchmark_tables(load_suite(factory.write(), "smoke", factory.FRESH))
    return " ".join(grid.notes)


def test_rows_that_are_not_like_with_like_are_named(factory) -> None:
    tuned, generic = {"recipe": "docs/tiny-recipes.md"}, {"recipe": "generic: not tuned for this combination"}
    notes = made_with(factory, A=tuned, B=generic, C=tuned | {"settings": ["lr=0.1", "epochs=2"]})
    assert "Generic recipe, not tuned for this benchmark: B." in notes
    assert "Set by hand: A, B: nothing; C: lr=0.1, epochs=2." in notes


def test_what_holds_for_all_rows_is_said_once_or_not_at_all(factory, tmp_path: Path) -> None:
    generic, by_hand = {"recipe": "generic: not tuned for this combination"}, {"settings": ["epochs=2"]}
    notes = made_with(factory, A=generic | by_hand, B=generic | by_hand)
    assert "Set by hand in all rows: epochs=2." in notes and "Generic" not in notes
    assert "Set by hand" not in made_with(type(factory)(tmp_path / "other"), A={}, B={})


def test_less_forgetting_is_better(factory) -> None:
    for label, drop in (("A", 10.0), ("B", 5.0), ("C", 1.0)):
        factory.publish(label, factory.spec(label, "digits", 0, 0, 2), [[90.0, None], [90.0 - drop, 90.0]])
    results = load_suite(factory.write(), "smoke", factory.FRESH)
    assert results.ranks(results.columns[0], "fm") == {"C": 1, "B": 2}


def test_stale_and_leaking_cells_are_marked_and_never_ranked(factory) -> None:
    factory.level("A", 80.0)
    factory.level("B", 81.0)
    factory.level("Old", 99.0, fingerprint=factory.OLD)
    factory.level("Leak", 98.0, flags={"leaking": True, "tiny": True})
    results = load_suite(factory.write(), "smoke", factory.FRESH)
    assert results.ranks(results.columns[0], "faa") == {"B": 1, "A": 2}
    text = markdown(results)
    assert "99.00 ± 0.00 (stale)" in text and "98.00 ± 0.00 (leaking)" in text
    assert "**81.00 ± 0.00**" in text and "<ins>80.00 ± 0.00</ins>" in text
    assert "Old (stale)" in drawn(results) and "Leak (leaking)" in drawn(results)
    marks = {
        line["Method"]: line["marks"] for line in csv.DictReader(io.StringIO(table_csv(benchmark_tables(results)[0])))
    }
    assert marks == {"A": "", "B": "", "Old": "stale", "Leak": "leaking"}


def test_methods_that_keep_exemplars_are_marked_with_their_budget_and_ranked_apart(factory) -> None:
    factory.level("A", 80.0)
    factory.level("B", 81.0)
    factory.level("Rehearsal", 98.0, flags={"tiny": True, "exemplars": 2000})
    results = load_suite(factory.write(), "smoke", factory.FRESH)
    assert results.ranks(results.columns[0], "faa") == {"B": 1, "A": 2}
    text = markdown(results)
    assert "98.00 ± 0.00 (exemplars)" in text and "(Rehearsal up to 2,000); never ranked" in text
    assert "Rehearsal (exemplars)" in drawn(results)


@pytest.mark.parametrize("what", ["protocol", "split", "tiny"])
def test_rows_under_different_protocols_are_not_ranked(factory, what: str) -> None:
    factory.level("A", 80.0)
    if what == "protocol":
        factory.level("B", 81.0, tasks=2)
    elif what == "tiny":
        factory.level("B", 81.0, flags={"leaking": False, "tiny": False, "random_backbone": False})
    else:
        factory.level("B", 81.0, split_hash="f" * 64)
    results = load_suite(factory.write(), "smoke", factory.FRESH)
    caution = results.caution(results.columns[0])
    assert caution is not None and "nothing is ranked" in caution
    assert results.ranks(results.columns[0], "faa") == {}
    assert caution.split(":")[1].strip()[:20] in markdown(results)
    assert "nothing is ranked" in drawn(results)


def test_a_row_alone_is_not_the_best_of_one(factory) -> None:
    factory.level("A", 80.0)
    results = load_suite(factory.write(), "smoke", factory.FRESH)
    assert results.ranks(results.columns[0], "faa") == {}


@pytest.fixture
def troubled(factory) -> SuiteResults:
    factory.level("A", 90.0)
    factory.level("A", 90.0, column="glyphs")
    factory.fail("A", factory.spec("a", "digits", 2, 2, 1), "boom | bang")
    factory.plan("B", factory.spec("b", "digits", 0, 0, 1))
    return load_suite(factory.write(), "smoke", factory.FRESH)


def test_no_cell_is_blank(troubled) -> None:
    text = markdown(troubled)
    assert f"| B | missing | – |{' missing |' * 7} 0 of 1 (1 missing) |" in text
    assert f"| B | not planned | – |{' not planned |' * 7} – |" in text
    measured = "90.00 ± 0.00 | – | 90.00 ± 0.00 | 90.00 ± 0.00 | – | – | – | 2 of 3 (1 failed)"
    assert f"| A | 90.00 ± 0.00 | – | {measured} |" in text.replace("\\", "")
    assert all(entry.text.strip() for grid in benchmark_tables(troubled) for line in grid.rows for entry in line.cells)


def test_runs_that_are_wanting_are_named_with_their_reason(troubled) -> None:
    failed, missing = problem_lines(troubled)
    assert "boom | bang" in failed and "order 2, training 2" in failed
    assert missing.startswith("B on digits") and "missing" in missing
    assert "boom | bang" in drawn(troubled)


def test_every_number_leads_to_its_runs_and_its_cell(smoke) -> None:
    results = load_suite(smoke, "smoke", None)
    (grid,) = benchmark_tables(results)
    for line in grid.rows:
        cell = results.cells[line.label, "digits"]
        ids = tuple(run.run_id for run in cell.used)
        assert {entry.runs for entry in line.cells} == {ids} and {entry.cell for entry in line.cells} == {
            (line.label, "digits")
        }
        assert traces(grid, line) == [("", ids)]
        assert all(f"`{run}`" in table_markdown(grid) for run in ids)


def test_every_markdown_row_has_as_many_fields_as_the_head(factory) -> None:
    factory.level(HOSTILE, 90.0)
    factory.level("B", 80.0)
    lines = [line for line in markdown(load_suite(factory.write(), "smoke", None)).splitlines() if line[:1] == "|"]
    assert len(lines) == 5 and {line.replace(r"\|", "").count("|") for line in lines} == {12}
    assert not any("<script" in line for line in lines)


def test_markdown_links_only_what_is_a_web_address() -> None:
    def table(url: str) -> str:
        return table_markdown(Table("k", "T", "", (Heading("a"),), (Block((Row("L", (TableCell("1"),), url=url),)),)))

    assert "| [L](https://example.org/a?b=c) |" in table("https://example.org/a?b=c")
    for url in ("javascript:alert(1)", "https://a.b/) [x](javascript:y", "https://a.b/ c", 'https://a.b/"x'):
        assert "| L |" in table(url), url


@pytest.mark.parametrize(
    ("text", "expected"),
    [("93.10 ± 0.42", "93.10 ± 0.42"), ("- a", r"\- a"), ("1. a", r"1\. a"), ("-0.4", "-0.4"), ("a\n\nb", "a b"),
     ("@you https://x", "&#64;you https&#58;//x"), ("a\x1bb", "a\ufffdb"), ("12\u202f345", "12\u202f345")],
)  # fmt: skip
def test_markdown_escapes_what_would_be_markup(text: str, expected: str) -> None:
    assert escape(text) == expected


def test_groups_stand_before_the_headings_in_markdown_and_runs_by_group() -> None:
    text = table_markdown(wide_grid(2, 1))
    assert "| Method | Benchmark 0: FAA | Benchmark 0: CAA | Benchmark 1: FAA | Benchmark 1: CAA |" in text
    assert "- Methods, Row number 1: Benchmark 0 `run10`; Benchmark 1 `run11`" in text
    assert "- Methods: what they are" in text


def test_the_terminal_table_fits_80_columns_and_reads_no_markup(factory, smoke) -> None:
    lines = drawn(load_suite(smoke, "smoke", factory.FRESH), 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.rstrip().endswith("3") and "93." in line for line in lines)
    factory.level(HOSTILE, 90.0)
    factory.level(CONTROL, 90.0)
    text = drawn(load_suite(factory.write(), "smoke", None), 200)
    assert "[bold]x[/]" in text and "\x1b" not in text and "\x07" not in text


@pytest.mark.parametrize("width", [40, 60, 80, 140, 400])
def test_a_table_wider_than_the_terminal_is_split_and_no_number_is_cut(width: int) -> None:
    grid = wide_grid()
    text = printed(grid, width)
    assert max(map(len, text.splitlines())) <= width
    for line in grid.rows:
        for entry in line.cells:
            assert text.count(entry.text) == 1, entry.text
    tables = terminal_tables(grid, width)
    assert len(tables) == text.count("Row number 1") == {40: 10, 60: 5, 80: 3, 140: 2, 400: 1}[width]


def test_a_group_stays_whole_where_it_can_and_is_named_in_the_title_where_it_is_alone() -> None:
    text = printed(wide_grid(), 60)
    for group in range(5):
        assert f"A wide table · Benchmark {group} ({group + 1} of 5)" in text


def test_texts_that_tell_rows_apart_stand_in_every_part() -> None:
    headings = (Heading("Where", is_numeric=False), *(Heading(f"number {i}") for i in range(6)))
    lines = [
        Row("same", (TableCell(where), *(TableCell(f"{i}.000 ± 0.000") for i in range(6))))
        for where in ("here", "there")
    ]
    text = printed(Table("k", "T", "Row", headings, (Block(tuple(lines)),)), 60)
    assert text.count("there") == text.count("(1 of 2)") + text.count("(2 of 2)") == 2


def test_best_second_and_marks_are_styled() -> None:
    entries = (TableCell("1.00", place=1), TableCell("2.00", place=2), TableCell("3.00", marks=("stale",)))
    grid = Table("k", "T", "Row", (Heading("a"), Heading("b"), Heading("c")), (Block((Row("L", entries),)),))
    text = printed(grid, 80, color_system="standard", force_terminal=True)
    assert "\x1b[1m1.00" in text and "\x1b[4m2.00" in text and "\x1b[33m3.00" in text


def test_the_terminal_has_a_table_a_benchmark_and_says_shared_notes_once(troubled) -> None:
    text = drawn(troubled)
    assert text.index("digits · 1 task") < text.index("glyphs · 1 task")
    assert "2 of 3 (1 failed)" in text and "missing" in text
    assert text.count("Tiny suite:") == 1 and " ".join(text.split()).count("no significance is claimed") == 1


def test_tidy_csv_traces_every_number_to_its_runs(smoke) -> None:
    results = load_suite(smoke, "smoke", None)
    lines = list(csv.DictReader(io.StringIO(tidy_csv([results]))))
    assert len(lines) == 5 * len([metric for metric in METRICS if metric.suits("class")]) == 5 * 8
    first = next(line for line in lines if line["row"] == "SMoPE" and line["metric"] == "faa")
    cell = next(cell for cell in results.cells.values() if cell.row.label == "SMoPE")
    summary = cell.summary("faa")
    assert summary is not None
    assert float(first["mean"]) == summary.mean and float(first["ci_low"]) == summary.low
    assert first["run_ids"].split() == [run.run_id for run in cell.runs]
    joint = next(line for line in lines if line["kind"] == "ceiling" and line["metric"] == "fm")
    assert (joint["n"], joint["mean"]) == ("0", "")


def test_tidy_csv_says_where_hyper_parameters_come_from(factory) -> None:
    factory.level("A", 90.0)
    for cell in factory.cells:
        cell |= {"recipe": "appendix B", "settings": ["lr=0.1", "=cmd"]}
    (line, *_) = csv.DictReader(io.StringIO(tidy_csv([load_suite(factory.write(), "smoke", None)])))
    assert (line["recipe"], line["settings"]) == ("appendix B", "lr=0.1 =cmd")


def test_csv_runs_no_formula_and_keeps_odd_labels(factory) -> None:
    factory.level("=1+1", 90.0)
    factory.level('a "quoted",\nlabel', 90.0)
    results = load_suite(factory.write(), "smoke", None)
    rows = list(csv.reader(io.StringIO(tidy_csv([results]))))
    assert rows[0] == list(TIDY_HEADER) and {len(row) for row in rows} == {len(TIDY_HEADER)}
    assert {row[3] for row in rows[1:]} == {"'=1+1", 'a "quoted",\nlabel'}
    assert {row[1] for row in csv.reader(io.StringIO(table_csv(benchmark_tables(results)[0])))} >= {"'=1+1"}


def test_a_grids_csv_has_full_precision_and_the_runs_of_each_group() -> None:
    grid = wide_grid(2, 2)
    rows = list(csv.DictReader(io.StringIO(table_csv(grid))))
    assert [row["Method"] for row in rows] == ["Row number 1", "Row number 2"] and rows[0]["block"] == "Methods"
    assert float(rows[1]["Benchmark 1: CAA mean"]) == 2 + 3 / 7
    assert rows[0]["Benchmark 1: run_ids"] == "run11"


def test_a_grids_csv_says_why_there_is_no_number(troubled) -> None:
    digits, _ = (list(csv.DictReader(io.StringIO(table_csv(grid)))) for grid in benchmark_tables(troubled))
    a, b = digits
    assert (a["FAA mean"], a["FM mean"], a["Runs used"], a["Runs planned"]) == ("90.0", "", "2", "3")
    assert (b["FAA mean"], b["FAA std"], b["Runs used"]) == ("missing", "", "0")


def test_columns_of_a_csv_have_one_name_each() -> None:
    headings = (Heading("verdict", fields=("verdict",)), Heading("x"), Heading("x"))
    grid = Table("k", "T", "Row", headings, (Block((Row("L", (TableCell("1"), TableCell("2"), TableCell("3"))),)),))
    assert table_csv(grid).splitlines() == ["block,Row,verdict,x,x (2),marks,run_ids", ",L,1,2,3,,"]


def test_costs_are_medians_by_benchmark(troubled, smoke) -> None:
    grid = cost_table(load_suite(smoke, "smoke", None))
    assert grid is not None and len(grid.rows) == 5
    assert "every pass" in grid.headings[-1].help, "passes that only gather statistics are counted too"
    first = grid.rows[0]
    assert [entry.text for entry in first.cells] == ["12\u202f345", "10.5 s", "13.5 s", "42 MiB", "14\u202f370"]
    assert first.cells[2].values == (13.5,) and len(first.cells[2].runs) == 3
    several = cost_table(troubled)
    assert several is not None and [block.title for block in several.blocks] == ["digits · 1 task", "glyphs · 1 task"]


def test_the_whole_peak_of_older_records_is_never_in_the_column_of_the_increase(factory) -> None:
    for label, costs in {
        "New": {"memory_increase_mib": 41.5, "peak_memory_mb": 12_000.0},
        "Old": {"peak_memory_mb": 812.5},
    }.items():
        factory.publish(label, factory.spec(label, "digits", 0, 0, 1), [[90.0]], costs=costs)
    factory.publish(
        "Both",
        factory.spec("both", "digits", 0, 0, 1),
        [[90.0]],
        costs={"memory_increase_mib": 50.0, "peak_memory_mb": 1.0},
    )
    factory.publish("Both", factory.spec("both", "digits", 1, 1, 1), [[90.0]], costs={"peak_memory_mb": 12_000.0})
    grid = cost_table(load_suite(factory.write(), "smoke", None))
    assert grid is not None
    places = [
        [heading.text for heading in grid.headings].index(name) for name in ("Memory increase", "Peak of the process")
    ]
    found = {line.label: [line.cells[place].text for place in places] for line in grid.rows}
    assert found == {"New": ["42 MiB", "–"], "Old": ["–", "812 MiB"], "Both": ["–", "6000 MiB"]}


def test_a_suite_without_usable_runs_has_no_costs(factory) -> None:
    factory.plan("A", factory.spec("a", "digits", 0, 0, 1))
    assert cost_table(load_suite(factory.write(), "smoke", None)) is None


def test_a_label_that_says_its_tasks_is_not_told_twice() -> None:
    assert column_text(Column("glyphs", "glyphs", 10)) == "glyphs · 10 tasks"
    assert column_text(Column("digits, 5 tasks", "digits", 5)) == "digits, 5 tasks"


def test_runs_text(troubled) -> None:
    texts = {place: runs_text(cell) for place, cell in troubled.cells.items()}
    assert texts["A", "glyphs"] == "2"
    assert texts["A", "digits"] == "2 of 3 (1 failed)"


def test_names_of_files_are_safe_and_distinct() -> None:
    assert file_name("../a b") == "a-b" and file_name("…") == "suite"
    assert file_name("A", ["a", "A-2"]) == "A-3"
    assert re.fullmatch(r"[A-Za-z0-9-]{1,60}", file_name("x" * 200))


def test_plain_text_is_one_line_and_moves_no_cursor() -> None:
    assert plain(CONTROL) == "a\ufffd[31mred\ufffd next"


def test_spans_are_of_neighbours() -> None:
    headings = [Heading("a", group) for group in ("", "x", "x", "y", "x")]
    assert [list(span) for span in spans(headings)] == [[0], [1, 2], [3], [4]]


def test_adapters_stand_apart_and_take_no_place(factory) -> None:
    factory.level("Prompt", 80.0)
    factory.level("Other", 70.0)
    factory.level("Adapter", 95.0, kind="adapter")
    results = load_suite(factory.write(), "smoke", factory.FRESH)
    assert results.ranks(results.columns[0], "faa") == {"Prompt": 1, "Other": 2}
    text = markdown(results)
    assert text.index("Prompt") < text.index("Adapters, for reference") < text.index("| Adapter |")
