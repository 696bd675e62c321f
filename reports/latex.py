"""The comparison table as a LaTeX document that compiles as it is: booktabs, benchmarks as column groups."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

from reports.model import KINDS, Row, SuiteResults
from reports.present import METRICS, Shown, column_text, runs_text, show
from reports.tables import legend

_PREAMBLE = r"""% Needs booktabs and graphicx. To use a table in a paper, copy its table environment.
\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage[a4paper,landscape,margin=15mm]{geometry}
\usepackage{booktabs}
\usepackage{graphicx}
\begin{document}
"""
_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "|": r"$|$", '"': r"\textquotedbl{}",
    "±": r"$\pm$", "–": "--", "—": "---", "−": "$-$", "×": r"$\times$", "·": r"$\cdot$", "≥": r"$\geq$", "≤": r"$\leq$",
    "α": r"$\alpha$", "β": r"$\beta$", "ε": r"$\varepsilon$", "λ": r"$\lambda$", "…": r"\ldots{}",
}  # fmt: skip
_FIELDS = 5


def latex(suites: Sequence[SuiteResults]) -> str:
    """A whole document with one table a suite."""
    return _PREAMBLE + "\n".join(_table(results) for results in suites) + "\\end{document}\n"


def escape(text: str) -> str:
    """Text that LaTeX sets as it reads; a character that a plain installation cannot set becomes its code point."""
    return "".join(_SPECIAL.get(char) or _plain(char) for char in " ".join(text.split()))


def _plain(char: str) -> str:
    if char.isascii() and char.isprintable():
        return char
    # T1 covers the Latin letters with the usual accents; a TeX installation without more fonts stops at the rest.
    if "\u00c0" <= char <= "\u017f" and unicodedata.category(char)[0] == "L" and char not in "ĦħĸĿŀŉŦŧĀāĒēĪīŌōŪūſ":
        return char
    return f"[U+{ord(char):04X}]"


def _table(results: SuiteResults) -> str:
    columns = results.columns
    groups = [rf"\multicolumn{{{_FIELDS}}}{{c}}{{{escape(column_text(c))}}}" for c in columns]
    rules = [rf"\cmidrule(lr){{{2 + i * _FIELDS}-{1 + (i + 1) * _FIELDS}}}" for i in range(len(columns))]
    heads = ["FAA", r"95\,\% interval", "CAA", "FM", "Runs"] * len(columns)
    ranks = [{metric: results.ranks(column, metric) for metric in METRICS} for column in columns]
    lines = [
        r"\begin{table}[p]",
        r"\centering",
        rf"\caption{{{escape(results.title)}}}",
        *([r"\resizebox{\linewidth}{!}{%"] if len(columns) > 1 else []),
        rf"\begin{{tabular}}{{l{'rrrrl' * len(columns)}}}",
        r"\toprule",
        " & ".join(["", *groups]) + r" \\",
        "".join(rules),
        " & ".join(["Method", *heads]) + r" \\",
    ]
    for kind in KINDS:
        rows = results.rows_of(kind)
        lines += [r"\midrule"] * bool(rows) + [_line(results, row, ranks) for row in rows]
    lines += [r"\bottomrule", r"\end{tabular}" + "}" * (len(columns) > 1), r"\par\medskip"]
    lines += [r"\begin{minipage}{0.9\linewidth}\footnotesize", *(escape(line) + r"\par" for line in legend(results))]
    lines += [r"\end{minipage}", r"\end{table}", ""]
    return "\n".join(lines)


def _line(results: SuiteResults, row: Row, ranks: Sequence[Mapping[str, Mapping[str, int]]]) -> str:
    # The braces keep a label or an interval that opens with a bracket from being read as an argument of the line break.
    fields = [f"{{{escape(row.label)}}}"]
    for column, places in zip(results.columns, ranks, strict=True):
        cell = results.cell(row, column)
        faa, caa, fm = (show(cell, metric, places[metric]) for metric in METRICS)
        fields += [_value(faa), f"{{{escape(faa.interval)}}}", _value(caa), _value(fm), escape(runs_text(cell))]
    return " & ".join(fields) + r" \\"


def _value(shown: Shown) -> str:
    text = {0: "{}", 1: r"\textbf{{{}}}", 2: r"\underline{{{}}}"}[shown.place].format(escape(shown.value))
    return text + (rf" \textit{{({escape(', '.join(shown.marks))})}}" if shown.marks else "")
