"""Tables as LaTeX: booktabs, groups of columns under rules, a document that compiles as it is with a plain pdflatex.

The ids of the runs behind a row stand above it as a comment. All text is data: nothing in a label is a command.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from smope_bench.reports.tables.table import Entry, Grid, Line, spans, traces

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
"""Sizes of a table that must fit a landscape page: height of a line in points, and about as many letters as a line holds."""
_PAGE, _CAPTION, _NOTE_CHARS = 500.0, 40.0, 165
"""Points that a page and a caption take, and letters of a line of notes, which are set in ``footnotesize``."""
_WIDE_TEXT = 44


def latex_document(grids: Sequence[Grid]) -> str:
    """A whole document with every grid."""
    # Every table has its page: a float that waits for room would let TeX run out of boxes to keep it in.
    return _PREAMBLE + "\\clearpage\n".join(map(grid_latex, grids)) + "\\end{document}\n"


def grid_latex(grid: Grid) -> str:
    """One table environment, in smaller letters or scaled where it must be; a ``longtable`` where no page can hold it."""
    notes = _notes(grid)
    fitting = _fitting(grid, notes)
    if fitting is None:
        return _long(grid, notes)
    size, is_wide = fitting
    return "\n".join([
        r"\begin{table}[p]",
        r"\centering",
        _caption(grid),
        *([rf"\{size}"] if size != "normalsize" else []),
        *([r"\resizebox{\linewidth}{!}{%"] if is_wide else []),
        rf"\begin{{tabular}}{{{_columns(grid)}}}",
        r"\toprule",
        *_head(grid),
        *_body(grid),
        r"\bottomrule",
        r"\end{tabular}" + "}" * is_wide,
        *([r"\par\medskip", r"\begin{minipage}{0.95\linewidth}\footnotesize"] if notes else []),
        *notes,
        *([r"\end{minipage}"] if notes else []),
        r"\end{table}",
        "",
    ])  # fmt: skip


def escape(text: str) -> str:
    """Text that LaTeX sets as it reads; a character that a plain installation cannot set becomes its code point."""
    flat = re.sub(r"[^\S\u00a0\u202f\u2009]+", " ", text).strip()
    parts = []
    for before, char in zip(" " + flat, flat, strict=False):
        # The braces keep two signs from being drawn as a dash or as a quotation mark.
        parts.append("{}" * (char == before and char in "-',") + (_SPECIAL.get(char) or _plain(char)))
    return "".join(parts)


def _plain(char: str) -> str:
    if char.isascii() and char.isprintable():
        return char
    # T1 covers the Latin letters with the usual accents; a TeX installation without more fonts stops at the rest.
    if "\u00c0" <= char <= "\u017f" and unicodedata.category(char)[0] == "L" and char not in "ĦħĸĿŀŉŦŧĀāĒēĪīŌōŪūſ":
        return char
    return f"[U+{ord(char):04X}]"


def _long(grid: Grid, notes: Sequence[str]) -> str:
    """Over several pages a table cannot be scaled, so that its letters shrink with its width."""
    width = sum(_widths(grid))
    size = next((name for limit, name in ((130, "footnotesize"), (190, "scriptsize")) if width <= limit), "tiny")
    lines = [
        rf"\begingroup\{size}\setlength{{\tabcolsep}}{{{4 if width <= 190 else 2}pt}}",
        rf"\begin{{longtable}}{{{_columns(grid)}}}",
        _caption(grid) + r"\\",
        r"\toprule",
        *_head(grid),
        r"\endhead",
        r"\bottomrule",
        r"\endfoot",
        *_body(grid),
        r"\end{longtable}",
        *([r"\footnotesize", *notes] if notes else []),
        r"\endgroup",
        "",
    ]
    return "\n".join(lines)


def _caption(grid: Grid) -> str:
    return rf"\caption{{{escape(grid.title)}}}\label{{tab:{re.sub(r'[^A-Za-z0-9-]+', '-', grid.key)}}}"


def _head(grid: Grid) -> list[str]:
    """The groups with their rules where there are any, then the headings."""
    lines = []
    if any(heading.group for heading in grid.headings):
        groups, rules = [""], []
        for span in spans(grid.headings):
            group = grid.headings[span[0]].group
            groups.append(rf"\multicolumn{{{len(span)}}}{{c}}{{{escape(group)}}}")
            rules += [rf"\cmidrule(lr){{{span[0] + 2}-{span[-1] + 2}}}"] * bool(group)
        lines = [" & ".join(groups) + r" \\", "".join(rules)]
    heads = [rf"\multicolumn{{1}}{{{_side(grid, i)}}}{{{escape(h.text)}}}" for i, h in enumerate(grid.headings)]
    return [*lines, " & ".join([f"{{{escape(grid.corner)}}}", *heads]) + r" \\"]


def _body(grid: Grid) -> list[str]:
    lines: list[str] = []
    for block in grid.blocks:
        if not block.lines:
            continue
        lines.append(r"\midrule")
        if block.title:
            lines.append(rf"\multicolumn{{{len(grid.headings) + 1}}}{{l}}{{\textit{{{escape(block.title)}}}}} \\")
        for line in block.lines:
            lines += [*_traces(grid, line), _line(line)]
    return lines


def _line(line: Line) -> str:
    # The braces keep a label or an interval that opens with a bracket from being read as an argument of the line break.
    label = f"{{{escape(line.label)}}}{_marks(line.marks)}{_small(line.small)}"
    return " & ".join([label, *map(_entry, line.entries)]) + r" \\"


def _entry(entry: Entry) -> str:
    text = {0: "{{{}}}", 1: r"\textbf{{{}}}", 2: r"\underline{{{}}}"}[entry.place].format(escape(entry.text))
    return text + _marks(entry.marks) + _small(entry.small)


def _marks(marks: Sequence[str]) -> str:
    return rf" \textit{{({escape(', '.join(marks))})}}" if marks else ""


def _small(text: str) -> str:
    return rf" {{\scriptsize {escape(text)}}}" if text else ""


def _traces(grid: Grid, line: Line) -> list[str]:
    return [
        f"% runs: {' '.join(map(escape, runs))}" + (f" ({escape(what)})" if what else "")
        for what, runs in traces(grid, line)
    ]


def _notes(grid: Grid) -> list[str]:
    """Paragraphs below a table: what it shows, what its columns and blocks mean, and what must be said of it."""
    helps = dict.fromkeys(f"{h.text}: {h.help.rstrip('.')}." for h in grid.headings if h.help)
    blocks = dict.fromkeys(
        f"{block.title}: {block.help.rstrip('.')}." for block in grid.blocks if block.title and block.help
    )
    said = [grid.lead, " ".join([*helps, *blocks]), *grid.notes]
    return [rf"\noindent {escape(text)}\par" for text in said if text]


def _side(grid: Grid, at: int) -> str:
    return "r" if grid.headings[at].is_numeric else "l"


def _columns(grid: Grid) -> str:
    """Long texts are set as paragraphs, which wrap; numbers stand to the right."""
    widths = _widths(grid)
    sides = ["l", *(_side(grid, i) for i in range(len(grid.headings)))]
    wraps = [True, *(not heading.is_numeric for heading in grid.headings)]
    return "".join(
        rf"p{{{_WIDE_TEXT * 1.6:.0f}mm}}" if wrap and width >= _WIDE_TEXT else side
        for side, width, wrap in zip(sides, widths, wraps, strict=True)
    )


def _widths(grid: Grid) -> list[int]:
    """Letters of each column, labels first, paragraphs as wide as they are set."""
    labels = [_said(line.label, line.marks, line.small) for line in grid.lines]
    columns = [[grid.corner, *labels]]
    for i, heading in enumerate(grid.headings):
        entries = [line.entries[i] for line in grid.lines]
        columns.append([heading.text, *(_said(entry.text, entry.marks, entry.small) for entry in entries)])
    wraps = [True, *(not heading.is_numeric for heading in grid.headings)]
    widest = [max(map(len, column)) + 2 for column in columns]
    return [min(width, _WIDE_TEXT) if wrap else width for width, wrap in zip(widest, wraps, strict=True)]


def _said(text: str, marks: Sequence[str], small: str) -> str:
    return " ".join(part for part in (text, f"({', '.join(marks)})" if marks else "", small) if part)


def _fitting(grid: Grid, notes: Sequence[str]) -> tuple[str, bool] | None:
    """(size of the letters, whether to scale the table to the line), or ``None`` where a page cannot hold it."""
    rows = sum(len(block.lines) + bool(block.title) for block in grid.blocks) + 3
    rows += sum(max(map(len, _texts(grid, line))) // _WIDE_TEXT for line in grid.lines)
    below = 9.5 * sum(1 + len(note) // _NOTE_CHARS for note in notes)
    width = sum(_widths(grid))
    for size, height, letters in _SIZES:
        scale = min(1.0, letters / width)
        if rows * height * scale + below + _CAPTION <= _PAGE:
            return size, width > letters
    return None


def _texts(grid: Grid, line: Line) -> list[str]:
    """What of a line may wrap."""
    pairs = zip(line.entries, grid.headings, strict=True)
    return [line.label, *(entry.text for entry, heading in pairs if not heading.is_numeric)]
