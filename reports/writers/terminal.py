"""Tables for the terminal, with all text escaped and numbers neither cut nor wrapped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from smope_bench.reports.document import Document
from smope_bench.reports.formatting import problem_lines
from smope_bench.reports.loading.model import SuiteResults
from smope_bench.reports.tables.benchmark import benchmark_tables
from smope_bench.reports.tables.costs import counted_grids
from smope_bench.reports.tables.table import Row, Table, TableCell, spans
from smope_bench.reports.text import plain

_PLACES = {0: "", 1: "bold", 2: "underline"}
_TONES = {"": "", "word": "dim", "muted": "dim", "good": "green", "bad": "red"}
_LABEL, _TEXT, _WORD = 14, 24, 12
"""Least widths in letters of labels, of columns of text and of the words of a group."""


def print_results(console: Console, results: SuiteResults) -> None:
    """Print a table for each benchmark of a suite, and its incomplete runs."""
    _print_tables(console, benchmark_tables(results, brief=True))
    for line in problem_lines(results):
        console.print(Text(plain(line), style="yellow"))


def print_document(console: Console, document: Document) -> None:
    """Print a report: warnings, all result tables of one suite or the first of each of several, comparison and records left out.

    Published comparison, statistics and costs are on the page alone.
    """
    for warning in document.warnings:
        console.print(Text(plain(warning), style="yellow"))
    for section in document.sections:
        _print_tables(console, section.tables if len(document.sections) == 1 else section.tables[:1])
    _print_tables(console, document.comparison)
    _print_tables(console, [document.left_out] if document.left_out is not None else [])


def print_costs(console: Console, report: Mapping[str, Any]) -> None:
    """Print both tables of a cost report, given as plain values."""
    title = report.get("suite_title")
    _print_tables(console, counted_grids(report, "cost", title or "Cost", by_name=title is None))


def _print_tables(console: Console, tables: Sequence[Table]) -> None:
    """Print tables; a lead or note that several share is printed once, below the last of them."""
    for i, table in enumerate(tables, 1):
        later = {said for other in tables[i:] for said in (other.lead, *other.notes)}
        notes = tuple(note for note in table.notes if note not in later)
        print_table(console, replace(table, lead="" if table.lead in later else table.lead, notes=notes))


def print_table(console: Console, table: Table) -> None:
    """Print a table in as many tables as the width requires, then its lead, its notes and what must not be broken."""
    console.print()
    whole = [at for at, heading in enumerate(table.headings) if heading.is_whole]
    for drawn in terminal_tables(_without(replace(table, lead="", notes=()), whole), console.width):
        console.print(drawn)
    for said in filter(None, (table.lead, *table.notes)):
        console.print(Text(plain(said), style="dim"))
    for line in table.rows if whole else ():
        console.print(Text(f"{plain(line.label)}: {'; '.join(plain(line.cells[at].text) for at in whole)}"))


def _without(table: Table, places: Sequence[int]) -> Table:
    """A table without the columns of these places."""
    kept = [at for at in range(len(table.headings)) if at not in places]
    blocks = (
        replace(block, rows=tuple(replace(row, cells=tuple(row.cells[at] for at in kept)) for row in block.rows))
        for block in table.blocks
    )
    return replace(table, headings=tuple(table.headings[at] for at in kept), blocks=tuple(blocks))


def terminal_tables(table: Table, width: int) -> list[RichTable]:
    """A table as tables of at most ``width`` letters, split between groups of headings and within one only if necessary."""
    parts = _parts(table, width)
    return [_table(table, part, number, len(parts), width) for number, part in enumerate(parts, 1)]


def _parts(table: Table, width: int) -> list[list[int]]:
    """Indices of the headings of each table; text columns that distinguish equal labels are repeated in each."""
    label, *least = (low for low, _ in _widths(table))
    keys = _keys(table)
    parts: list[list[int]] = [[*keys]]

    def fits(places: Sequence[int]) -> bool:
        return label + sum(least[at] for at in places) + _frame(len(places)) <= width

    for span in spans(table.headings):
        own = [at for at in span if at not in keys]
        if not fits([*parts[-1], *own]) and parts[-1] != keys:
            parts.append([*keys])
        for at in own:
            if not fits([*parts[-1], at]) and parts[-1] != keys:
                parts.append([*keys])
            parts[-1].append(at)
    return parts


def _keys(table: Table) -> list[int]:
    if all(len({line.label for line in block.rows}) == len(block.rows) for block in table.blocks):
        return []
    return list(takewhile(lambda at: not table.headings[at].is_numeric, range(len(table.headings))))


def _table(table: Table, places: Sequence[int], number: int, parts: int, width: int) -> RichTable:
    groups = {table.headings[at].group for at in places} - {""}
    alone = groups.pop() if len(groups) == 1 else ""
    title = " · ".join(plain(part) for part in (table.title, alone) if part)
    title += f" ({number} of {parts})" if parts > 1 else ""
    drawn = RichTable(
        title=Text(title, style="bold"),
        caption=Text("\n".join(plain(said) for said in (table.lead, *table.notes) if said))
        if number == parts
        else None,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        padding=(0, 1, 0, 0),
    )
    widths = _fitted(table, places, width)
    # rich wraps a title at the width of its table: widen the label.
    widths[0] += max(0, min(cell_len(title), width) - sum(widths) - _frame(len(places)))
    drawn.add_column(Text(plain(table.corner)), width=widths[0], overflow="fold")
    for at, letters in zip(places, widths[1:], strict=True):
        heading = table.headings[at]
        head = Text("" if alone or not heading.group else f"{plain(heading.group)}\n", style="cyan")
        side = "right" if heading.is_numeric else "left"
        drawn.add_column(head.append(plain(heading.text), "bold"), justify=side, width=letters, overflow="fold")
    for block in table.blocks:
        if block.title:
            drawn.add_row(Text(plain(block.title), style="bold cyan"))
        for line in block.rows:
            drawn.add_row(_label(table, line), *(_cell(table, line.cells[at]) for at in places))
        drawn.add_section()
    return drawn


def _fitted(table: Table, places: Sequence[int], width: int) -> list[int]:
    """Widths of the label and of some headings: the least ones, then the remaining room, labels first and texts last."""
    all_widths = _widths(table)
    wanted = [all_widths[0], *(all_widths[at + 1] for at in places)]
    found = [least for least, _ in wanted]
    left = width - sum(found) - _frame(len(places))
    is_text = [False, *(not table.headings[at].is_numeric for at in places)]
    for i in sorted(range(len(wanted)), key=lambda i: is_text[i]):
        more = max(0, min(wanted[i][1] - found[i], left))
        found[i], left = found[i] + more, left - more
    return found


def _widths(table: Table) -> list[tuple[int, int]]:
    """(least, natural) width of the label and of every heading, in letters; numbers are never narrowed."""
    labels = [
        table.corner,
        *(str(_label(table, line)) for line in table.rows),
        *(block.title for block in table.blocks),
    ]
    natural = _longest(labels)
    found = [(min(natural, _LABEL), natural)]
    for at, heading in enumerate(table.headings):
        body = _longest(str(_cell(table, line.cells[at])) for line in table.rows)
        words = _longest([*heading.text.split(), *(word[:_WORD] for word in heading.group.split())])
        least = max(words, body if heading.is_numeric else min(body, _TEXT))
        found.append((least, max(least, body, cell_len(heading.text))))
    return found


def _longest(texts: Iterable[str]) -> int:
    return max((cell_len(line) for text in texts for line in text.splitlines()), default=1) or 1


def _frame(headings: int) -> int:
    """Letters taken by the lines and gaps of a table."""
    return 2 * (headings + 1) + 1


def _label(table: Table, line: Row) -> Text:
    """A row's label; in tables without groups with the marks of its entries, so that columns stay narrow."""
    marks = line.marks
    if not table.is_grouped:
        marks = tuple(dict.fromkeys([*marks, *(mark for entry in line.cells for mark in entry.marks)]))
    label = Text(plain(line.label)).append(f" ({', '.join(map(plain, marks))})" if marks else "", style="yellow")
    return label.append(f"\n{plain(line.small)}" if line.small else "", style="dim")


def _cell(table: Table, entry: TableCell) -> Text:
    style = "yellow" if entry.marks else _PLACES[entry.place] or _TONES[entry.tone]
    text = Text(plain(entry.text), style=style)
    if entry.marks and table.is_grouped:
        text.append(f"\n{', '.join(map(plain, entry.marks))}", style="yellow")
    return text.append(f"\n{plain(entry.small)}" if entry.small else "", style="dim not bold not underline")
