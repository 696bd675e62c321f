"""Tables for the terminal. All text is data: nothing in a label is markup, and no number is cut or wrapped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import takewhile

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from smope_bench.reports.document import Document
from smope_bench.reports.formatting import problem_lines
from smope_bench.reports.loading.model import SuiteResults
from smope_bench.reports.tables.benchmark import detail_grids
from smope_bench.reports.tables.table import Entry, Grid, Line, spans
from smope_bench.reports.text import plain

_PLACES = {0: "", 1: "bold", 2: "underline"}
_TONES = {"": "", "word": "dim", "muted": "dim", "good": "green", "bad": "red"}
_LABEL, _TEXT, _WORD = 14, 24, 12
"""Letters that a narrow terminal leaves to labels, to each column of text and to a word of a group, before it is split."""


def print_results(console: Console, results: SuiteResults) -> None:
    """A suite as it stands: a table a benchmark, and the runs that are wanting."""
    _print_grids(console, detail_grids(results, brief=True))
    for line in problem_lines(results):
        console.print(Text(plain(line), style="yellow"))


def print_document(console: Console, document: Document) -> None:
    """What a report is about to write: its warnings, all tables of results of a single suite or the first of each of several.

    What moved against other results, and what was left out, comes last. Ledgers, statistics and costs are for the page.
    """
    for warning in document.warnings:
        console.print(Text(plain(warning), style="yellow"))
    for section in document.sections:
        _print_grids(console, section.tables if len(document.sections) == 1 else section.tables[:1])
    _print_grids(console, document.comparison)
    _print_grids(console, [document.left_out] if document.left_out is not None else [])


def _print_grids(console: Console, grids: Sequence[Grid]) -> None:
    """Print grids of one subject; what is true of several is said once, below the last of them."""
    for i, grid in enumerate(grids, 1):
        later = {said for other in grids[i:] for said in (other.lead, *other.notes)}
        notes = tuple(note for note in grid.notes if note not in later)
        print_grid(console, replace(grid, lead="" if grid.lead in later else grid.lead, notes=notes))


def print_grid(console: Console, grid: Grid) -> None:
    """Print a grid in as many tables as the width asks for, and what is said of it over the whole width."""
    console.print()
    for table in terminal_tables(replace(grid, lead="", notes=()), console.width):
        console.print(table)
    for said in filter(None, (grid.lead, *grid.notes)):
        console.print(Text(plain(said), style="dim"))


def terminal_tables(grid: Grid, width: int) -> list[Table]:
    """A grid as tables of at most ``width`` letters: split between groups of headings, and within one only where it must be."""
    parts = _parts(grid, width)
    return [_table(grid, part, number, len(parts), width) for number, part in enumerate(parts, 1)]


def _parts(grid: Grid, width: int) -> list[list[int]]:
    """Places of the headings of each table. Texts without which rows cannot be told apart stand in every one."""
    label, *least = (low for low, _ in _widths(grid))
    keys = _keys(grid)
    parts: list[list[int]] = [[*keys]]

    def fits(places: Sequence[int]) -> bool:
        return label + sum(least[at] for at in places) + _frame(len(places)) <= width

    for span in spans(grid.headings):
        own = [at for at in span if at not in keys]
        if not fits([*parts[-1], *own]) and parts[-1] != keys:
            parts.append([*keys])
        for at in own:
            if not fits([*parts[-1], at]) and parts[-1] != keys:
                parts.append([*keys])
            parts[-1].append(at)
    return parts


def _keys(grid: Grid) -> list[int]:
    if all(len({line.label for line in block.lines}) == len(block.lines) for block in grid.blocks):
        return []
    return list(takewhile(lambda at: not grid.headings[at].is_numeric, range(len(grid.headings))))


def _table(grid: Grid, places: Sequence[int], number: int, parts: int, width: int) -> Table:
    groups = {grid.headings[at].group for at in places} - {""}
    alone = groups.pop() if len(groups) == 1 else ""
    title = " · ".join(plain(part) for part in (grid.title, alone) if part)
    title += f" ({number} of {parts})" if parts > 1 else ""
    table = Table(
        title=Text(title, style="bold"),
        caption=Text("\n".join(plain(said) for said in (grid.lead, *grid.notes) if said)) if number == parts else None,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        padding=(0, 1, 0, 0),
    )
    widths = _fitted(grid, places, width)
    # A title is wrapped at the width of its table; a wider label keeps it on one line where the terminal has room.
    widths[0] += max(0, min(cell_len(title), width) - sum(widths) - _frame(len(places)))
    table.add_column(Text(plain(grid.corner)), width=widths[0], overflow="fold")
    for at, letters in zip(places, widths[1:], strict=True):
        heading = grid.headings[at]
        head = Text("" if alone or not heading.group else f"{plain(heading.group)}\n", style="cyan")
        side = "right" if heading.is_numeric else "left"
        table.add_column(head.append(plain(heading.text), "bold"), justify=side, width=letters, overflow="fold")
    for block in grid.blocks:
        if block.title:
            table.add_row(Text(plain(block.title), style="bold cyan"))
        for line in block.lines:
            table.add_row(_label(grid, line), *(_cell(grid, line.entries[at]) for at in places))
        table.add_section()
    return table


def _fitted(grid: Grid, places: Sequence[int], width: int) -> list[int]:
    """Widths of the label and of some headings: the least, then what the terminal has left, labels first and texts last."""
    all_widths = _widths(grid)
    wanted = [all_widths[0], *(all_widths[at + 1] for at in places)]
    found = [least for least, _ in wanted]
    left = width - sum(found) - _frame(len(places))
    is_text = [False, *(not grid.headings[at].is_numeric for at in places)]
    for i in sorted(range(len(wanted)), key=lambda i: is_text[i]):
        more = max(0, min(wanted[i][1] - found[i], left))
        found[i], left = found[i] + more, left - more
    return found


def _widths(grid: Grid) -> list[tuple[int, int]]:
    """(least, natural) width of the label and of every heading, in letters. Numbers have no least but their own."""
    labels = [grid.corner, *(str(_label(grid, line)) for line in grid.lines), *(block.title for block in grid.blocks)]
    natural = _longest(labels)
    found = [(min(natural, _LABEL), natural)]
    for at, heading in enumerate(grid.headings):
        body = _longest(str(_cell(grid, line.entries[at])) for line in grid.lines)
        words = _longest([*heading.text.split(), *(word[:_WORD] for word in heading.group.split())])
        least = max(words, body if heading.is_numeric else min(body, _TEXT))
        found.append((least, max(least, body, cell_len(heading.text))))
    return found


def _longest(texts: Iterable[str]) -> int:
    return max((cell_len(line) for text in texts for line in text.splitlines()), default=1) or 1


def _frame(headings: int) -> int:
    """What lines and gaps of a table take beside its label and headings."""
    return 2 * (headings + 1) + 1


def _label(grid: Grid, line: Line) -> Text:
    """A row's label; where the grid has no groups, what marks an entry is said here and the number stays narrow."""
    marks = line.marks
    if not _is_grouped(grid):
        marks = tuple(dict.fromkeys([*marks, *(mark for entry in line.entries for mark in entry.marks)]))
    label = Text(plain(line.label)).append(f" ({', '.join(map(plain, marks))})" if marks else "", style="yellow")
    return label.append(f"\n{plain(line.small)}" if line.small else "", style="dim")


def _cell(grid: Grid, entry: Entry) -> Text:
    style = "yellow" if entry.marks else _PLACES[entry.place] or _TONES[entry.tone]
    text = Text(plain(entry.text), style=style)
    if entry.marks and _is_grouped(grid):
        text.append(f"\n{', '.join(map(plain, entry.marks))}", style="yellow")
    return text.append(f"\n{plain(entry.small)}" if entry.small else "", style="dim not bold not underline")


def _is_grouped(grid: Grid) -> bool:
    return any(heading.group for heading in grid.headings)
