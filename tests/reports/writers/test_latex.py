"""LaTeX: every text is set as it reads, tables fit a page, and the document compiles with a plain engine."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from smope_bench.reports.loading.load import load_suite
from smope_bench.reports.tables.benchmark import benchmark_tables
from smope_bench.reports.tables.table import Block, Heading, Row, Table, TableCell
from smope_bench.reports.writers.latex import escape, latex_document, table_latex

HOSTILE = r"""[bold]x[/] | <script>alert(1)</script> & 5% \input{/etc/passwd} $a_b^c$ #{~} `"it's" 中文 -- ``''"""


def grid(rows: int = 2, groups: int = 1, *, label: str = "Row", note: str = "", text: str = "90.00 ± 1.00") -> Table:
    headings = tuple(Heading(metric, f"Benchmark {g}") for g in range(groups) for metric in ("FAA", "CAA"))
    lines = [
        Row(f"{label} {r}", tuple(TableCell(text, place=i % 3, runs=(f"r{r}g{i // 2}",)) for i in range(2 * groups)))
        for r in range(rows)
    ]
    notes = (note,) if note else ()
    return Table(f"grid-{rows}-{groups}", "A table", "Method", headings, (Block(tuple(lines)),), notes=notes)


def compiled(text: str, folder: Path) -> str:
    """Compile with the shell closed; returns what the engine said."""
    (folder / "table.tex").write_text(text, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "table.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=60, check=False)
    said = done.stdout.decode(errors="replace")
    assert done.returncode == 0, said[-2000:]
    return said


def test_latex_escapes_every_special_character() -> None:
    assert escape(r"a_b & 5% #1 {x} $y$ \z ~ ^") == (
        r"a\_b \& 5\% \#1 \{x\} \$y\$ \textbackslash{}z \textasciitilde{} \textasciicircum{}"
    )
    assert escape("é 中\u0007") == "é [U+4E2D][U+0007]"


def test_latex_joins_no_signs_and_keeps_thin_spaces() -> None:
    assert escape("--set a–b") == "-{}-set a--b"
    assert escape("'' ,,") == "'{}' ,{},"
    assert escape("12\u202f345  x\n\ny") == r"12\,345 x y"


def test_latex_has_a_booktabs_table_with_column_groups() -> None:
    text = table_latex(grid(groups=2))
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 1
    assert r"\multicolumn{2}{c}{Benchmark 1}" in text and r"\cmidrule(lr){2-3}\cmidrule(lr){4-5}" in text
    assert r"\toprule" in text and r"\bottomrule" in text and r"\label{tab:grid-2-2}" in text
    assert r"\textbf{90.00 $\pm$ 1.00}" in text and r"\underline{90.00 $\pm$ 1.00}" in text


def test_the_runs_of_a_row_stand_above_it_as_a_comment() -> None:
    lines = table_latex(grid(groups=2)).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("{Row 1}"))
    assert lines[at - 2 : at] == ["% runs: r1g0 (Benchmark 0)", "% runs: r1g1 (Benchmark 1)"]


def test_a_hostile_group_cannot_end_its_comment() -> None:
    one = TableCell("1", runs=("a",)), TableCell("2", runs=("b",))
    table = Table("k", "T", "", (Heading("x", "g\n\\end{table}"), Heading("y", "h")), (Block((Row("L", one),)),))
    assert "% runs: a (g \\textbackslash{}end\\{table\\})" in table_latex(table).splitlines()


@pytest.mark.parametrize(
    ("rows", "groups", "expected"), [(10, 1, "normal"), (36, 1, "small"), (10, 8, "scaled"), (300, 1, "pages")]
)
def test_a_table_is_scaled_only_where_it_must_be(rows: int, groups: int, expected: str) -> None:
    text = table_latex(grid(rows, groups))
    found = {
        "pages": r"\begin{longtable}" in text,
        "scaled": r"\resizebox{\linewidth}" in text,
        "small": bool(re.search(r"^\\(footnotesize|scriptsize)$", text, re.MULTILINE)),
    }
    assert [name for name, is_so in found.items() if is_so] == [] if expected == "normal" else [expected]
    assert (r"\begin{table}" in text) == (expected != "pages")


def test_marks_titles_and_notes_are_set(factory) -> None:
    factory.level("A", 90.0)
    factory.level("Old", 91.0, fingerprint=factory.OLD)
    factory.level("Joint", 99.0, kind="ceiling")
    (found,) = benchmark_tables(load_suite(factory.write(), "smoke", factory.FRESH))
    text = table_latex(found)
    assert r"{91.00 $\pm$ 0.00} \textit{(stale)}" in text
    assert text.index(r"\textit{Methods}") < text.index(r"\textit{Ceilings}")
    assert r"\noindent Stale: made by another version" in text and "Final average accuracy" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no TeX engine here")
def test_latex_compiles_as_it_is(factory, tmp_path) -> None:
    factory.title = factory.description = HOSTILE
    factory.level(HOSTILE, 90.0)
    factory.level("[first in brackets]", 91.0)
    factory.level("Old", 91.0, fingerprint=factory.OLD, column=HOSTILE)
    factory.rows[HOSTILE]["url"] = HOSTILE
    suite = benchmark_tables(load_suite(factory.write(), "smoke", factory.FRESH))
    texts = Heading(HOSTILE, HOSTILE, HOSTILE, is_numeric=False), Heading("[n]", "", HOSTILE)
    entry = TableCell(HOSTILE * 3, marks=(HOSTILE,), small=HOSTILE, place=1), TableCell("[0, 1]", small="[x]", place=2)
    hostile = Table(
        "h_%", HOSTILE, HOSTILE, texts, (Block((Row(HOSTILE, entry, (HOSTILE,), HOSTILE),), HOSTILE, HOSTILE),)
    )
    grids = [*suite, hostile, grid(36), grid(12, 9, note=HOSTILE), grid(120, 2, note="above all " * 300)]
    said = compiled(latex_document(grids), tmp_path)
    assert "Float too large" not in said
    assert "Undefined control" not in said and "Missing character" not in said
