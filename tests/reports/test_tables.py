"""Tables: who is ranked, what is never blank, and that a label is text in every format."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess

import pytest
from rich.console import Console

from reports.build import load_suite
from reports.latex import escape, latex
from reports.model import Column
from reports.present import column_text, interval, mean_std, number, runs_text
from reports.stats import summarise
from reports.tables import CSV_HEADER, csv_text, markdown, terminal_table

HOSTILE = r"""[bold]x[/] | <script>alert(1)</script> & 5% \input{/etc/passwd} $a_b^c$ #{~} `"it's" 中文"""


def level(
    factory, label: str, faa: float, *, seeds=range(2), kind="method", column="digits", tasks=1, **options
) -> None:
    """Publish runs whose FAA is ``faa`` exactly."""
    for seed in seeds:
        spec = factory.spec(label.lower(), column, seed, seed, tasks)
        matrix = [[faa if i <= t else None for i in range(tasks)] for t in range(tasks)]
        factory.publish(label, spec, matrix, kind=kind, column=column, **options)


def drawn(results, width: int = 120) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(terminal_table(results))
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_numbers_are_written_alike_everywhere() -> None:
    assert number(-0.0001) == "0.00"
    assert number(None) == "–"
    assert mean_std(summarise([90.0, 91.0])) == "90.50 ± 0.71"
    assert (mean_std(summarise([90.0])), interval(summarise([90.0]))) == ("90.00 ± –", "–")
    assert interval(summarise([90.0, 92.0, 97.0])) == "[84.0, 102.0]"


def test_best_and_second_are_among_sequential_rows_and_ties_share(factory) -> None:
    level(factory, "Floor", 93.0, kind="floor")
    level(factory, "A", 95.0)
    level(factory, "B", 95.001)
    level(factory, "C", 80.0)
    level(factory, "Joint", 99.0, kind="ceiling")
    results = load_suite(factory.write(), "smoke", factory.FRESH)
    assert results.ranks(results.columns[0], "faa") == {"A": 1, "B": 1, "Floor": 2}


def test_less_forgetting_is_better(factory) -> None:
    for label, drop in (("A", 10.0), ("B", 5.0), ("C", 1.0)):
        factory.publish(label, factory.spec(label, "digits", 0, 0, 2), [[90.0, None], [90.0 - drop, 90.0]])
    results = load_suite(factory.write(), "smoke", factory.FRESH)
    assert results.ranks(results.columns[0], "fm") == {"C": 1, "B": 2}


def test_stale_and_leaking_cells_are_marked_and_never_ranked(factory) -> None:
    level(factory, "A", 80.0)
    level(factory, "B", 81.0)
    level(factory, "Old", 99.0, fingerprint=factory.OLD)
    level(factory, "Leak", 98.0, flags={"leaking": True, "tiny": True})
    results = load_suite(factory.write(), "smoke", factory.FRESH)
    assert results.ranks(results.columns[0], "faa") == {"B": 1, "A": 2}
    text = markdown(results)
    assert "99.00 ± 0.00 (stale)" in text and "98.00 ± 0.00 (leaking)" in text
    assert "**81.00 ± 0.00**" in text and "<u>80.00 ± 0.00</u>" in text


@pytest.mark.parametrize("what", ["protocol", "split"])
def test_rows_under_different_protocols_are_not_ranked(factory, what: str) -> None:
    level(factory, "A", 80.0)
    if what == "protocol":
        level(factory, "B", 81.0, tasks=2)
    else:
        level(factory, "B", 81.0, split_hash="f" * 64)
    results = load_suite(factory.write(), "smoke", factory.FRESH)
    caution = results.caution(results.columns[0])
    assert caution is not None and "nothing is ranked" in caution
    assert results.ranks(results.columns[0], "faa") == {}
    assert caution.split(":")[1].strip()[:20] in markdown(results)


def test_a_row_alone_is_not_the_best_of_one(factory) -> None:
    level(factory, "A", 80.0)
    results = load_suite(factory.write(), "smoke", factory.FRESH)
    assert results.ranks(results.columns[0], "faa") == {}


@pytest.fixture
def troubled(factory):
    level(factory, "A", 90.0)
    level(factory, "A", 90.0, column="glyphs")
    factory.fail("A", factory.spec("a", "digits", 2, 2, 1), "boom | bang")
    factory.plan("B", factory.spec("b", "digits", 0, 0, 1))
    return load_suite(factory.write(), "smoke", factory.FRESH)


def test_no_cell_is_blank(troubled) -> None:
    text = markdown(troubled)
    assert "| B | missing | – | missing | missing | 0 of 1 (1 missing) |" in text
    assert "| B | not planned | – | not planned | not planned | – |" in text
    assert "| A | 90.00 ± 0.00 | [90.0, 90.0] | 90.00 ± 0.00 | – | 2 of 3 (1 failed) |" in text
    assert r"boom \| bang" in text
    assert "4 done" not in text.split("Missing, stale")[1]


def test_every_markdown_row_has_as_many_fields_as_the_head(factory) -> None:
    level(factory, HOSTILE, 90.0)
    level(factory, "B", 80.0)
    lines = [line for line in markdown(load_suite(factory.write(), "smoke", None)).splitlines() if line[:1] == "|"]
    assert {line.replace(r"\|", "").count("|") for line in lines} == {7}
    assert not any("<script" in line for line in lines)


def test_the_terminal_table_fits_80_columns_and_reads_no_markup(factory, smoke) -> None:
    lines = drawn(load_suite(smoke, "smoke", factory.FRESH), 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.rstrip().endswith("3") and "93." in line for line in lines)
    level(factory, HOSTILE, 90.0)
    assert "[bold]x[/]" in drawn(load_suite(factory.write(), "smoke", None), 200)


def test_the_terminal_table_has_a_section_a_benchmark(troubled) -> None:
    text = drawn(troubled)
    assert text.index("digits · 1 task") < text.index("glyphs · 1 task")
    assert "2/3" in text and "missing" in text


def test_csv_traces_every_number_to_its_runs(smoke) -> None:
    results = load_suite(smoke, "smoke", None)
    lines = list(csv.DictReader(io.StringIO(csv_text([results]))))
    assert len(lines) == 5 * 4
    first = next(line for line in lines if line["row"] == "SMoPE" and line["metric"] == "faa")
    cell = next(cell for cell in results.cells.values() if cell.row.label == "SMoPE")
    summary = cell.summary("faa")
    assert summary is not None
    assert float(first["mean"]) == summary.mean and float(first["ci_low"]) == summary.low
    assert first["run_ids"].split() == [run.run_id for run in cell.runs]
    joint = next(line for line in lines if line["kind"] == "ceiling" and line["metric"] == "fm")
    assert (joint["n"], joint["mean"]) == ("0", "")


def test_csv_runs_no_formula_and_keeps_odd_labels(factory) -> None:
    level(factory, "=1+1", 90.0)
    level(factory, 'a "quoted",\nlabel', 90.0)
    rows = list(csv.reader(io.StringIO(csv_text([load_suite(factory.write(), "smoke", None)]))))
    assert rows[0] == CSV_HEADER and {len(row) for row in rows} == {len(CSV_HEADER)}
    assert {row[3] for row in rows[1:]} == {"'=1+1", 'a "quoted",\nlabel'}


def test_a_label_that_says_its_tasks_is_not_told_twice() -> None:
    assert column_text(Column("glyphs", "glyphs", 10)) == "glyphs · 10 tasks"
    assert column_text(Column("digits, 5 tasks", "digits", 5)) == "digits, 5 tasks"


def test_runs_text(troubled) -> None:
    texts = {place: runs_text(cell) for place, cell in troubled.cells.items()}
    assert texts["A", "glyphs"] == "2"
    assert texts["A", "digits"] == "2 of 3 (1 failed)"


def test_latex_escapes_every_special_character() -> None:
    assert escape(r"a_b & 5% #1 {x} $y$ \z ~ ^") == (
        r"a\_b \& 5\% \#1 \{x\} \$y\$ \textbackslash{}z \textasciitilde{} \textasciicircum{}"
    )
    assert escape("é 中\u0007") == "é [U+4E2D][U+0007]"


def test_latex_has_a_booktabs_table_with_column_groups(troubled) -> None:
    text = latex([troubled])
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 1
    assert r"\multicolumn{5}{c}{digits $\cdot$ 1 task}" in text and r"\cmidrule(lr){7-11}" in text
    assert r"\toprule" in text and r"\bottomrule" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no TeX engine here")
def test_latex_compiles_as_it_is(factory, make_factory, tmp_path) -> None:
    level(factory, HOSTILE, 90.0)
    level(factory, "[first in brackets]", 91.0)
    level(factory, "Old", 91.0, fingerprint=factory.OLD, column="glyphs")
    factory.write()
    other = make_factory(suite="other", title=HOSTILE)
    level(other, "A", 80.0)
    suites = [load_suite(other.write(), name, factory.FRESH) for name in ("smoke", "other")]
    (tmp_path / "table.tex").write_text(latex(suites), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
