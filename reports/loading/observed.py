"""Observations of runs for figures; runs with missing or damaged arrays are left out and named."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from smope_bench.harness.errors import UserError
from smope_bench.reports.loading.model import Cell, Run, run_ids, runs_a_point

Observed: TypeAlias = Callable[[str], Mapping[str, NDArray[Any]]]
"""Run id -> the arrays of its observations; raises UserError where there are none."""
T = TypeVar("T")
_NAMED = 12
_DAMAGE = (UserError, ValueError, LookupError, OSError, EOFError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class DrawableRow(Generic[T]):
    """A cell with the runs that can be drawn; ``values`` has one entry for each, at least one."""

    cell: Cell
    values: tuple[T, ...]


@dataclass(frozen=True)
class DrawableRows(Generic[T]):
    """The rows of a benchmark that can be drawn, and ids of the runs that cannot."""

    rows: tuple[DrawableRow[T], ...]
    left_out: tuple[str, ...]

    @property
    def runs(self) -> tuple[str, ...]:
        """Ids of the runs that are drawn."""
        return run_ids(row.cell for row in self.rows)

    @property
    def each(self) -> str:
        """``3 runs each``."""
        return runs_a_point(row.cell for row in self.rows)

    @property
    def is_repeated(self) -> bool:
        """Whether any row has several runs."""
        return any(len(row.values) > 1 for row in self.rows)

    def caption(self, *sentences: str) -> str:
        """The sentences that are not empty, and which runs are left out."""
        shown = ", ".join(self.left_out[:_NAMED])
        more = f" and {len(self.left_out) - _NAMED} more" if len(self.left_out) > _NAMED else ""
        said = f"Left out, as what they observed is missing, damaged or of another form: {shown}{more}."
        return " ".join(filter(None, (*sentences, said if self.left_out else "")))


def gather(
    cells: Iterable[Cell],
    observed: Observed,
    read: Callable[[Mapping[str, NDArray[Any]], Run], T],
    form: Callable[[T], Hashable] = lambda _: None,
) -> DrawableRows[T]:
    """Read every used run of the cells.

    ``read`` extracts what is drawn from a run's arrays, or raises ValueError. Only runs with the ``form`` of the first one that
    can be read are kept.
    """
    rows, left_out, forms = [], [], []
    for cell in cells:
        found: list[tuple[Run, T]] = []
        for run in cell.used:
            try:
                value = read(observed(run.run_id), run)
            except _DAMAGE:
                left_out.append(run.run_id)
                continue
            forms.append(form(value))
            if forms[-1] == forms[0]:
                found.append((run, value))
            else:
                left_out.append(run.run_id)
        if found:
            runs, values = zip(*found, strict=True)
            rows.append(DrawableRow(replace(cell, used=runs), values))
    return DrawableRows(tuple(rows), tuple(dict.fromkeys(left_out)))


def numbers(arrays: Mapping[str, NDArray[Any]], name: str, dims: int) -> NDArray[np.float64]:
    """An observed array as finite float64 with ``dims`` non-empty dimensions. Raises ValueError for any other."""
    array = np.asarray(arrays[name])
    if array.dtype.kind not in "biuf" or array.ndim != dims or not array.size:
        raise ValueError(f"{name} is {array.dtype} of shape {array.shape}, not numbers in {dims} dimensions")
    found = array.astype(np.float64)
    if not np.isfinite(found).all():
        raise ValueError(f"{name} holds values that are not finite")
    return found


def evenly(count: int, wanted: int) -> NDArray[np.int64]:
    """At most ``wanted`` of ``count`` positions, evenly spaced, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(np.int64))
