"""A table before it is written: what stands where, once for the terminal, Markdown, LaTeX, CSV and the page.

Builders turn results into grids; renderers (``terminal``, ``markdown``, ``latex``, ``csv_files``, the page) know nothing of
results. Everything in a grid is data: a renderer escapes each text for its own format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from smope_bench.reports.text import Tone

Value = float | int | str | None
Sort = Literal["up", "down", "text"]


@dataclass(frozen=True)
class Entry:
    """What stands in one place of a grid.

    ``text``: as shown, never empty; a state word (``missing``, ``failed``) where there is no number, with tone ``word``.
    ``values``: full precision, one for each of the heading's ``fields``; the first is what the page sorts by.
    ``place``: 1 = best (bold), 2 = second (underlined), 0 = neither. ``marks``: words behind the text, e.g. ``stale``.
    ``small``: said beside it in smaller type, e.g. an interval. ``note``: one sentence on where it comes from.
    ``runs``: ids of the runs it was computed from. ``cell``: (row label, column label) whose runs the page leads to.
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
    """A column of a grid; neighbours with one ``group`` stand under it. ``fields`` name the entry's values in CSV."""

    text: str
    group: str = ""
    help: str = ""
    fields: tuple[str, ...] = ("",)
    sort: Sort = "down"
    is_numeric: bool = True


@dataclass(frozen=True)
class Line:
    """A row of a grid, with as many entries as the grid has headings."""

    label: str
    entries: tuple[Entry, ...]
    marks: tuple[str, ...] = ()
    small: str = ""
    url: str | None = None


@dataclass(frozen=True)
class Block:
    """Rows that belong together, under a title where they have one: floors, methods, ceilings; one benchmark."""

    lines: tuple[Line, ...]
    title: str = ""
    help: str = ""


@dataclass(frozen=True)
class Grid:
    """A table: ``key`` names its files and anchors (letters, digits, hyphens), ``corner`` heads the labels of its rows.

    ``lead``: what it shows, in a sentence or two; ``notes``: what a reader must be told below it.
    """

    key: str
    title: str
    corner: str
    headings: tuple[Heading, ...]
    blocks: tuple[Block, ...]
    lead: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        wrong = [line.label for block in self.blocks for line in block.lines if len(line.entries) != len(self.headings)]
        if wrong:
            raise ValueError(f"row {wrong[0]!r} of {self.key!r} does not have {len(self.headings)} entries")

    @property
    def lines(self) -> tuple[Line, ...]:
        """All rows, in order."""
        return tuple(line for block in self.blocks for line in block.lines)

    @property
    def runs(self) -> tuple[str, ...]:
        """Ids of all runs behind the grid, each once, in the order of rows."""
        return tuple(dict.fromkeys(run for line in self.lines for entry in line.entries for run in entry.runs))


def spans(headings: Sequence[Heading]) -> list[range]:
    """Places of neighbouring headings that share a group, in order."""
    found, start = [], 0
    for _, group in groupby(headings, lambda heading: heading.group):
        end = start + len(list(group))
        found.append(range(start, end))
        start = end
    return found


def traces(grid: Grid, line: Line) -> list[tuple[str, tuple[str, ...]]]:
    """(what, run ids) behind a line: one pair with nothing to tell apart where all its entries share their runs.

    Columns of one group whose runs differ are named one by one.
    """
    behind: dict[tuple[str, ...], list[str]] = {}
    with_runs = [pair for pair in zip(grid.headings, line.entries, strict=True) if pair[1].runs]
    of_group: dict[str, set[tuple[str, ...]]] = {}
    for heading, entry in with_runs:
        of_group.setdefault(heading.group, set()).add(entry.runs)
    for heading, entry in with_runs:
        own = f"{heading.group}: {heading.text}" if heading.group else heading.text
        is_shared = heading.group and len(of_group[heading.group]) == 1
        behind.setdefault(entry.runs, []).append(heading.group if is_shared else own)
    several = len(behind) > 1
    return [(", ".join(dict.fromkeys(names)) if several else "", runs) for runs, names in behind.items()]
