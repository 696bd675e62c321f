"""Tables as data, which the writers for terminal, Markdown, LaTeX, CSV and page render and escape, each for its own format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from smope_bench.reports.text import Tone

Value = float | int | str | None
Sort = Literal["up", "down", "text"]


@dataclass(frozen=True)
class TableCell:
    """One cell of a table.

    ``text``: as shown, never empty; a state word (``missing``, ``failed``) where there is no number, with tone ``word``.
    ``values``: full precision, one for each of the heading's ``fields``; the page sorts by the first.
    ``place``: 1 = best (bold), 2 = second (underlined), 0 = neither. ``marks``: words behind the text, e.g. ``stale``.
    ``small``: beside it in smaller type, e.g. an interval. ``note``: a sentence on its origin.
    ``runs``: ids of the runs it was computed from. ``cell``: (row label, column label) of the runs that the page links to.
    """

    text: str
    values: tuple[Value, ...] = ()
    place: int = 0
    marks: tuple[str, ...] = ()
    small: str = ""
    note: str = ""
    runs: tuple[str, ...] = ()
    cell: tuple[str, str] | None = None
    tone: Tone = ""


@dataclass(frozen=True)
class Heading:
    """A column; neighbours with one ``group`` have a common heading. ``fields`` name the entry's values in CSV."""

    text: str
    group: str = ""
    help: str = ""
    fields: tuple[str, ...] = ("",)
    sort: Sort = "down"
    is_numeric: bool = True
    is_whole: bool = False
    """Whether its cells hold commands or paths: a terminal shows them below the table, where they are not broken."""


@dataclass(frozen=True)
class Row:
    """A row of a table, with as many entries as the table has headings."""

    label: str
    cells: tuple[TableCell, ...]
    marks: tuple[str, ...] = ()
    small: str = ""
    url: str | None = None
    page: str = ""
    """Another page of the same site that is about the row; empty on a page that stands alone."""


@dataclass(frozen=True)
class Block:
    """Rows with a common title: floors, methods, ceilings; one benchmark."""

    rows: tuple[Row, ...]
    title: str = ""
    help: str = ""


@dataclass(frozen=True)
class Table:
    """A table: ``key`` names its files and anchors (letters, digits, hyphens), ``corner`` heads the labels of its rows.

    ``lead``: a sentence or two on its content; ``notes``: sentences below it.
    """

    key: str
    title: str
    corner: str
    headings: tuple[Heading, ...]
    blocks: tuple[Block, ...]
    lead: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        wrong = [line.label for block in self.blocks for line in block.rows if len(line.cells) != len(self.headings)]
        if wrong:
            raise ValueError(f"row {wrong[0]!r} of {self.key!r} does not have {len(self.headings)} entries")

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows, in order."""
        return tuple(line for block in self.blocks for line in block.rows)

    @property
    def runs(self) -> tuple[str, ...]:
        """Ids of all runs of the table, each once, in the order of rows."""
        return tuple(dict.fromkeys(run for line in self.rows for entry in line.cells for run in entry.runs))

    @property
    def is_grouped(self) -> bool:
        """Whether any heading stands under a group."""
        return any(heading.group for heading in self.headings)

    @property
    def meanings(self) -> tuple[tuple[str, str], ...]:
        """(name, explanation) of headings and titled blocks, each once."""
        named = [(one.text, one.help) for one in self.headings]
        named += [(block.title, block.help) for block in self.blocks if block.title]
        return tuple(dict.fromkeys(pair for pair in named if pair[1]))


def spans(headings: Sequence[Heading]) -> list[range]:
    """Index ranges of neighbouring headings that share a group, in order."""
    found, start = [], 0
    for _, group in groupby(headings, lambda heading: heading.group):
        end = start + len(list(group))
        found.append(range(start, end))
        start = end
    return found


def traces(table: Table, line: Row) -> list[tuple[str, tuple[str, ...]]]:
    """(headings, run ids) of a line; the first part is empty where all entries share their runs."""
    behind: dict[tuple[str, ...], list[str]] = {}
    with_runs = [pair for pair in zip(table.headings, line.cells, strict=True) if pair[1].runs]
    of_group: dict[str, set[tuple[str, ...]]] = {}
    for heading, entry in with_runs:
        of_group.setdefault(heading.group, set()).add(entry.runs)
    for heading, entry in with_runs:
        own = f"{heading.group}: {heading.text}" if heading.group else heading.text
        is_shared = heading.group and len(of_group[heading.group]) == 1
        behind.setdefault(entry.runs, []).append(heading.group if is_shared else own)
    several = len(behind) > 1
    return [(", ".join(dict.fromkeys(names)) if several else "", runs) for runs, names in behind.items()]
