"""Output in the terminal: a console of the right width, tables, durations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from smope_bench.harness.text import plain

Rows = list[dict[str, Any]]


Columns = tuple[tuple[str, Callable[[dict[str, Any]], str]], ...]
"""Headings with the text that a row shows under them."""


_RIGHT = frozenset({"seeds", "image passes", "PFLOP", "time", "px", "methods"})


def print_rows(rows: Rows, columns: Columns) -> None:
    """Print rows as a table, as wide as it needs where the output is not a terminal."""
    console = make_console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading, _ in columns:
        table.add_column(heading, justify="right" if heading in _RIGHT else "left")
    for row in rows:
        table.add_row(*(render(row) for _, render in columns))
    console.print(table)


PLAIN_WIDTH = 120


def make_console() -> Console:
    """The console that commands print to: as wide as the terminal, or fixed where the output is a file or a pipe."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    return console


def label(row: str, benchmark: str, order: int, train: int) -> str:
    """The same of a run that is known by a note of it only."""
    seeds = f"seed {order}" if order == train else f"order {order}, seed {train}"
    return f"{plain(row)} · {plain(benchmark)} · {seeds}"


def duration(seconds: float) -> str:
    """``42 s``, ``3:07 min`` or ``2:05 h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"
