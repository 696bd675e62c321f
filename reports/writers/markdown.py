"""Tables as GitHub-flavoured Markdown, with all text escaped and the run ids of every row."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from smope_bench.reports.document import Document
from smope_bench.reports.formatting import problem_lines
from smope_bench.reports.tables.costs import counted_grids
from smope_bench.reports.tables.table import Heading, Row, Table, TableCell, traces
from smope_bench.reports.text import plain

# GitHub strips <u>; <ins> is what it underlines.
_PLACES = {0: "{}", 1: "**{}**", 2: "<ins>{}</ins>"}


COST_INTRODUCTION = """\
# Cost

Written by `python run_all.py cost --out docs/cost.md`; do not edit. ViT-B/16 at 224 px with random weights, every method with its
default configuration. Nothing is trained, and no count depends on a value.
"""


def table_markdown(table: Table, level: int = 3) -> str:
    """A heading, the table, its notes, and folded below it the meaning of columns and the runs of each row."""
    heads = [escape(table.corner) or " ", *(escape(_heading(heading)) for heading in table.headings)]
    rules = [":--", *("--:" if heading.is_numeric else ":--" for heading in table.headings)]
    lines = [f"{'#' * level} {escape(table.title)}", ""]
    lines += [escape(table.lead), ""] if table.lead else []
    lines += [_row(heads), _row(rules)]
    for block in table.blocks:
        if block.title:
            lines.append(_row([f"**{escape(block.title)}**", *[" "] * len(table.headings)]))
        lines += [_row([_label(line), *map(_entry, line.cells)]) for line in block.rows]
    if table.notes:
        lines += ["", *(f"- {escape(note)}" for note in table.notes)]
    lines += _folded("What the columns mean", [f"- {escape(name)}: {escape(help_)}" for name, help_ in table.meanings])
    lines += _folded("Runs behind the numbers", _traces(table))
    return "\n".join(lines) + "\n"


def document_markdown(document: Document) -> str:
    """A report: warnings, the tables and incomplete runs of each suite, the comparison, and records left out."""
    lines = [f"> {escape(warning)}\n" for warning in document.warnings]
    for section in document.sections:
        lines.append(f"## {escape(section.title)}\n")
        lines += [f"{escape(section.description)}\n"] * bool(section.description)
        lines += [f"{escape(' '.join(section.answer))}\n"] * bool(section.answer)
        lines += [table_markdown(table) for table in section.all_tables]
        wanting = problem_lines(section.results) if section.results is not None else []
        if wanting:
            lines.append("Missing, stale and failed runs:\n")
            lines.append("\n".join(f"- {escape(line)}" for line in wanting) + "\n")
    lines += ["## Comparison with other results\n"] * bool(document.comparison)
    lines += [table_markdown(table) for table in document.comparison]
    lines += [table_markdown(document.left_out, 2)] if document.left_out is not None else []
    return "\n".join(lines)


def cost_markdown(report: Mapping[str, Any]) -> str:
    """The document ``docs/cost.md`` from a cost report, given as plain values."""
    tables = counted_grids(report, "cost", "The published convention", by_name=True)
    executed = replace(tables[1], title="What this code executes")
    return "\n".join([COST_INTRODUCTION, table_markdown(tables[0], 2), table_markdown(executed, 2)])


def escape(text: str) -> str:
    """Escape Markdown and HTML; line breaks become spaces."""
    if text.isascii() and text.isalnum():  # ids of runs, of which a report may have a million
        return text
    flat = plain(text)
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # GitHub turns :// into links and @ into mentions.
    flat = re.sub(r"([\\`*_\[\]|~#!$])", r"\\\1", flat).replace("@", "&#64;").replace("://", "&#58;//")
    return re.sub(r"^(\d*)([-+.)])(?=\s|$)", r"\1\\\2", flat)


def _row(fields: Iterable[str]) -> str:
    return f"| {' | '.join(fields)} |"


def _heading(heading: Heading) -> str:
    return ": ".join(part for part in (heading.group, heading.text) if part)


def _label(line: Row) -> str:
    url = line.url if line.url and re.fullmatch(r"https?://[^\s()<>|\\\"'`\[\]]+", line.url) else None
    label = f"[{escape(line.label)}]({url})" if url else escape(line.label)
    return label + _marks(line.marks) + _small(line.small)


def _entry(entry: TableCell) -> str:
    return _PLACES[entry.place].format(escape(entry.text)) + _marks(entry.marks) + _small(entry.small)


def _marks(marks: Iterable[str]) -> str:
    said = ", ".join(map(escape, marks))
    return f" ({said})" if said else ""


def _small(text: str) -> str:
    return f"<br><sub>{escape(text)}</sub>" if text else ""


def _folded(title: str, lines: list[str]) -> list[str]:
    return ["", f"<details><summary>{title}</summary>", "", *lines, "", "</details>"] if lines else []


def _traces(table: Table) -> list[str]:
    """A list item for each row: its run ids by heading, or once where all headings share them."""
    found = []
    for block in table.blocks:
        for line in block.rows:
            parts = [
                (f"{escape(what)} " if what else "") + " ".join(f"`{escape(run)}`" for run in runs)
                for what, runs in traces(table, line)
            ]
            if parts:
                title = f"{escape(block.title)}, " if block.title else ""
                found.append(f"- {title}{escape(line.label)}: {'; '.join(parts)}")
    return found
