"""Output in the terminal: a console of the right width, tables, durations."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleDimensions
from rich.table import Table
from rich.text import Text

from smope_bench.harness.text import plain

Rows = list[dict[str, Any]]
Columns = tuple[tuple[str, Callable[[dict[str, Any]], str]], ...]
"""Heading and text of a row for each column."""
_WHOLE = frozenset({"run", "name", "image"})
"""Columns that are never broken or cut, however narrow the terminal: the next command needs their texts."""
_RIGHT = frozenset({"seeds", "lr", "epochs", "batch", "image passes", "PFLOP", "time", "px", "methods"})
PLAIN_WIDTH = 120
"""Columns of text where the output is not a terminal."""


def replace_what_cannot_be_printed() -> None:
    """Print ``?`` for a character that the terminal's encoding lacks, where Python would raise UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not so in a notebook
            stream.reconfigure(errors="replace")


class _Lossy:
    """A stream whose failed writes are kept for later where that can be, and raise nothing. ``error``: the first failure."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.error: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        self._try(self.stream.write, text)
        return len(text)

    def flush(self) -> None:
        if self.stream is not None:
            self._try(self.stream.flush)

    def _try(self, call: Callable[..., Any], *given: str) -> None:
        try:
            call(*given)
        except OSError as error:
            self.error = self.error or error


@contextlib.contextmanager
def output_may_fail() -> Iterator[None]:
    """What this block prints to a full disk, or to a reader that has ended, stops nothing; standard error has a note of it."""
    out, err = _Lossy(sys.stdout), _Lossy(sys.stderr)
    try:
        with (
            contextlib.redirect_stdout(out) if out.stream else contextlib.nullcontext(),
            contextlib.redirect_stderr(err) if err.stream else contextlib.nullcontext(),
        ):
            try:
                yield
            finally:
                out.flush()
                if out.error is not None:
                    print(f"note: output was lost ({out.error.strerror}); no run was stopped by it", file=sys.stderr)
    finally:
        for one in (out, err):
            if one.error is not None:
                send_nowhere(one.stream)


def send_nowhere(stream: Any) -> None:
    """Drop what is left of a stream that cannot be written: Python would try once more at its end, and exit with status 120."""
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), stream.fileno())


def print_rows(
    rows: Rows, columns: Columns, console: Console | None = None, widths: Mapping[str, int] | None = None
) -> None:
    """Print rows as a table, as wide as the console: the one that commands print to unless given.

    ``widths``: of the columns, by heading, where they are known and fit the console; otherwise every cell is measured.
    """
    console = console or make_console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading, render in columns:
        is_whole = heading in _WHOLE
        least = max((cell_len(Text.from_markup(render(row)).plain) for row in rows), default=0) if is_whole else None
        width, justify = (widths or {}).get(heading), "right" if heading in _RIGHT else "left"
        table.add_column(heading, justify=justify, width=width, min_width=least, no_wrap=is_whole)
    for row in rows:
        table.add_row(*(render(row) for _, render in columns))
    console.print(table)


def make_console(*, stderr: bool = False) -> Console:
    """The console that commands print to: as wide as the terminal, or fixed where the output is a file or a pipe.

    Lines are left to the terminal to wrap: a path or a command in them can be copied whole. Tables break the texts of their cells.
    """
    console = Console(highlight=False, soft_wrap=True, stderr=stderr)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    elif console.is_dumb_terminal:  # rich takes all of them for 80 columns wide
        console.size = ConsoleDimensions(*shutil.get_terminal_size())
    return console


def label(row: str, benchmark: str, order: int, train: int) -> str:
    """A run in a few words: row, benchmark and seeds."""
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


def counted(number: int, noun: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
