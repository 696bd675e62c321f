"""Tables as LaTeX with booktabs, in a document that plain pdflatex compiles. All text is escaped.

The run ids of each row stand above it as a comment.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from smope_bench.reports.tables.table import Row, Table, TableCell, spans, traces

_PREAMBLE = r"""% Needs booktabs, graphicx and, for tables over several pages, longtable, which aligns its columns in a second run.
% To use a table in a paper, copy its table environment.
\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage{textcomp}
\IfFileExists{lmodern.sty}{\usepackage{lmodern}}{}
\usepackage[a4paper,landscape,margin=15mm]{geometry}
\usepackage{booktabs}
\usepackage{graphicx}
\usepackage{longtable}
\begin{document}
"""
_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "|": r"$|$", '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}", "±": r"$\pm$", "–": "--", "—": "---", "−": "$-$", "×": r"$\times$", "·": r"$\cdot$",
    "≥": r"$\geq$", "≤": r"$\leq$", "≠": r"$\neq$", "≈": r"$\approx$", "→": r"$\rightarrow$", "∞": r"$\infty$",
    "α": r"$\alpha$", "β": r"$\beta$", "Δ": r"$\Delta$", "ε": r"$\varepsilon$", "λ": r"$\lambda$", "ρ": r"$\rho$",
    "σ": r"$\sigma$", "τ": r"$\tau$", "χ": r"$\chi$", "²": r"$^2$", "°": r"$^\circ$", "…": r"\ldots{}", "•": r"$\bullet$",
    "‘": "`", "’": "'", "“": "``", "”": "''", "\u00a0": "~", "\u202f": r"\,", "\u2009": r"\,",
}  # fmt: skip
_SIZES = (("normalsize", 12.0, 130), ("footnotesize", 9.5, 160), ("scriptsize", 8.0, 185))
"""Font sizes for a landscape page: name, height of a line in points, letters in a line."""
_PAGE, _CAPTION, _NOTE_CHARS = 500.0, 40.0, 165
"""Height of a page and of a caption in points; letters in a line of notes (``footnotesize``)."""
_WIDE_TEXT = 44


def latex_document(tables: Sequence[Table]) -> str:
    """A whole document with every table."""
    # One page for each table: many waiting floats exceed TeX's limit.
    return _PREAMBLE + "\\clearpage\n".join(map(table_latex, tables)) + "\\end{document}\n"


def table_latex(table: Table) -> str:
    """A table environment, in smaller type or scaled if needed; a ``longtable`` where it does not fit one page."""
    notes = _notes(table)
    fitting = _fitting(table, notes)
    if fitting is None:
        return _long(table, notes)
    size, is_wide = fitting
    return "\n".join([
        r"\begin{table}[p]",
        r"\centering",
        _caption(table),
        *([rf"\{size}"] if size != "normalsize" else []),
        *([r"\resizebox{\linewidth}{!}{%"] if is_wide else []),
        rf"\begin{{tabular}}{{{_columns(table)}}}",
        r"\toprule",
        *_head(table),
        *_body(table),
        r"\bottomrule",
        r"\end{tabular}" + "}" * is_wide,
        *([r"\par\medskip", r"\begin{minipage}{0.95\linewidth}\footnotesize"] if notes else []),
        *notes,
        *([r"\end{minipage}"] if notes else []),
        r"\end{table}",
        "",
    ])  # fmt: skip


def escape(text: str) -> str:
    """Text escaped for LaTeX; characters that a plain installation lacks become their code points."""
    if text.isascii() and text.isalnum():  # ids of runs, of which a report may have a million
        return text
    flat = re.sub(r"[^\S\u00a0\u202f\u2009]+", " ", text).strip()
    parts = []
    for before, char in zip(" " + flat, flat, strict=False):
        # Braces prevent ligatures such as -- and ''.
        parts.append("{}" * (char == before and char in "-',") + (_SPECIAL.get(char) or _plain(char)))
    return "".join(parts)


def _plain(char: str) -> str:
    if char.isascii() and char.isprintable():
        return char
    # The T1 encoding covers accented Latin letters; others need more fonts.
    if "\u00c0" <= char <= "\u017f" and unicodedata.category(char)[0] == "L" and char not in "ĦħĸĿŀŉŦŧĀāĒēĪīŌōŪūſ":
        return char
    return f"[U+{ord(char):04X}]"


def _long(table: Table, notes: Sequence[str]) -> str:
    """A ``longtable``, which cannot be scaled: wider tables get smaller type."""
    width = sum(_widths(table))
    size = next((name for limit, name in ((130, "footnotesize"), (190, "scriptsize")) if width <= limit), "tiny")
    lines = [
        rf"\begingroup\{size}\setlength{{\tabcolsep}}{{{4 if width <= 190 else 2}pt}}",
        rf"\begin{{longtable}}{{{_columns(table)}}}",
        _caption(table) + r"\\",
        r"\toprule",
        *_head(table),
        r"\endhead",
        r"\bottomrule",
        r"\endfoot",
        *_body(table),
        r"\end{longtable}",
        *([r"\footnotesize", *notes] if notes else []),
        r"\endgroup",
        "",
    ]
    return "\n".join(lines)


def _caption(table: Table) -> str:
    return rf"\caption{{{escape(table.title)}}}\label{{tab:{re.sub(r'[^A-Za-z0-9-]+', '-', table.key)}}}"


def _head(table: Table) -> list[str]:
    """Groups with their rules, if any, then the headings."""
    lines = []
    if table.is_grouped:
        groups, rules = [""], []
        for span in spans(table.headings):
            group = table.headings[span[0]].group
            groups.append(rf"\multicolumn{{{len(span)}}}{{c}}{{{escape(group)}}}")
            rules += [rf"\cmidrule(lr){{{span[0] + 2}-{span[-1] + 2}}}"] * bool(group)
        lines = [" & ".join(groups) + r" \\", "".join(rules)]
    heads = [rf"\multicolumn{{1}}{{{_side(table, i)}}}{{{escape(h.text)}}}" for i, h in enumerate(table.headings)]
    return [*lines, " & ".join([f"{{{escape(table.corner)}}}", *heads]) + r" \\"]


def _body(table: Table) -> list[str]:
    lines: list[str] = []
    for block in table.blocks:
        if not block.rows:
            continue
        lines.append(r"\midrule")
        if block.title:
            lines.append(rf"\multicolumn{{{len(table.headings) + 1}}}{{l}}{{\textit{{{escape(block.title)}}}}} \\")
        for line in block.rows:
            lines += [*_traces(table, line), _line(line)]
    return lines


def _line(line: Row) -> str:
    # Braces: a leading [ would be read as an argument of the line break before it.
    label = f"{{{escape(line.label)}}}{_marks(line.marks)}{_small(line.small)}"
    return " & ".join([label, *map(_entry, line.cells)]) + r" \\"


def _entry(entry: TableCell) -> str:
    text = {0: "{{{}}}", 1: r"\textbf{{{}}}", 2: r"\underline{{{}}}"}[entry.place].format(escape(entry.text))
    return text + _marks(entry.marks) + _small(entry.small)


def _marks(marks: Sequence[str]) -> str:
    return rf" \textit{{({escape(', '.join(marks))})}}" if marks else ""


def _small(text: str) -> str:
    return rf" {{\scriptsize {escape(text)}}}" if text else ""


def _traces(table: Table, line: Row) -> list[str]:
    return [
        f"% runs: {' '.join(map(escape, runs))}" + (f" ({escape(what)})" if what else "")
        for what, runs in traces(table, line)
    ]


def _notes(table: Table) -> list[str]:
    """Paragraphs below a table: its lead, the meaning of columns and blocks, and its notes."""
    meanings = " ".join(f"{name}: {help_.rstrip('.')}." for name, help_ in table.meanings)
    return [rf"\noindent {escape(text)}\par" for text in (table.lead, meanings, *table.notes) if text]


def _side(table: Table, at: int) -> str:
    return "r" if table.headings[at].is_numeric else "l"


def _columns(table: Table) -> str:
    """Column types: paragraphs for long texts, right-aligned numbers."""
    widths = _widths(table)
    sides = ["l", *(_side(table, i) for i in range(len(table.headings)))]
    wraps = [True, *(not heading.is_numeric for heading in table.headings)]
    return "".join(
        rf"p{{{_WIDE_TEXT * 1.6:.0f}mm}}" if wrap and width >= _WIDE_TEXT else side
        for side, width, wrap in zip(sides, widths, wraps, strict=True)
    )


def _widths(table: Table) -> list[int]:
    """Width of each column in letters, labels first; paragraphs have at most ``_WIDE_TEXT``."""
    labels = [_said(line.label, line.marks, line.small) for line in table.rows]
    columns = [[table.corner, *labels]]
    for i, heading in enumerate(table.headings):
        entries = [line.cells[i] for line in table.rows]
        columns.append([heading.text, *(_said(entry.text, entry.marks, entry.small) for entry in entries)])
    wraps = [True, *(not heading.is_numeric for heading in table.headings)]
    widest = [max(map(len, column)) + 2 for column in columns]
    return [min(width, _WIDE_TEXT) if wrap else width for width, wrap in zip(widest, wraps, strict=True)]


def _said(text: str, marks: Sequence[str], small: str) -> str:
    return " ".join(part for part in (text, f"({', '.join(marks)})" if marks else "", small) if part)


def _fitting(table: Table, notes: Sequence[str]) -> tuple[str, bool] | None:
    """(font size, whether to scale the table to the line), or ``None`` where it does not fit one page."""
    rows = sum(len(block.rows) + bool(block.title) for block in table.blocks) + 3
    rows += sum(max(map(len, _texts(table, line))) // _WIDE_TEXT for line in table.rows)
    below = 9.5 * sum(1 + len(note) // _NOTE_CHARS for note in notes)
    width = sum(_widths(table))
    for size, height, letters in _SIZES:
        scale = min(1.0, letters / width)
        if rows * height * scale + below + _CAPTION <= _PAGE:
            return size, width > letters
    return None


def _texts(table: Table, line: Row) -> list[str]:
    """The texts of a line that may wrap."""
    pairs = zip(line.cells, table.headings, strict=True)
    return [line.label, *(entry.text for entry, heading in pairs if not heading.is_numeric)]
