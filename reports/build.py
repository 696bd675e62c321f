"""What the command line calls: read a suite from a results folder, and write its report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError
from reports.figure_style import FigureFile
from reports.figures import suite_figures
from reports.html import Download, Section, render_page
from reports.latex import latex
from reports.load import load_suite
from reports.model import SuiteResults
from reports.tables import csv_text, markdown

__all__ = ["ReportFiles", "load_suite", "write_report"]


@dataclass(frozen=True)
class ReportFiles:
    """Where a report was written; ``page`` is complete by itself."""

    page: Path
    markdown: Path
    latex: Path
    csv: Path
    figures: tuple[Path, ...]


def write_report(results: SuiteResults | Sequence[SuiteResults], out: Path) -> ReportFiles:
    """Write one page, its tables as Markdown, LaTeX and CSV, and its figures into ``out``.

    The bytes are a function of the results alone. Raises UserError where ``out`` cannot be written or there is no suite.
    """
    suites = [results] if isinstance(results, SuiteResults) else list(results)
    if not suites:
        raise UserError("a report needs at least one suite; name one, as in: run_all.py report SUITE")
    sections = [Section(suite, suite_figures(suite, name)) for suite, name in zip(suites, _names(suites), strict=True)]
    tables = {
        "table.md": "\n".join(markdown(suite) for suite in suites),
        "table.tex": latex(suites),
        "table.csv": csv_text(suites),
    }
    types = {"table.md": "text/markdown", "table.tex": "application/x-tex", "table.csv": "text/csv"}
    downloads = [Download(name, types[name], text) for name, text in tables.items()]
    page = render_page(sections, downloads)
    try:
        figures = _write_figures([figure for section in sections for figure in section.all_figures], out / "figures")
        for name, text in tables.items():
            (out / name).write_text(text, encoding="utf-8", newline="\n")
        (out / "index.html").write_text(page, encoding="utf-8", newline="\n")
    except OSError as error:
        raise UserError(
            f"the report cannot be written to {str(out)!r} ({error.strerror}); name another --out DIR"
        ) from error
    return ReportFiles(out / "index.html", out / "table.md", out / "table.tex", out / "table.csv", figures)


def _names(suites: Sequence[SuiteResults]) -> list[str]:
    """One file name a suite, safe on every system and distinct."""
    names: list[str] = []
    for suite in suites:
        name = re.sub(r"[^A-Za-z0-9]+", "-", suite.suite).strip("-")[:60] or "suite"
        names.append(name if name not in names else f"{name}-{len(names) + 1}")
    return names


def _write_figures(figures: Sequence[FigureFile], folder: Path) -> tuple[Path, ...]:
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for figure in figures:
        svg, png = folder / f"{figure.name}.svg", folder / f"{figure.name}.png"
        svg.write_text(figure.svg, encoding="utf-8", newline="\n")
        png.write_bytes(figure.png)
        pdf = folder / f"{figure.name}.pdf"
        pdf.write_bytes(figure.pdf)
        written += [svg, pdf, png]
    return tuple(written)
