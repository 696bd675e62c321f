"""What the page's script draws of a figure: its numbers as plain values, and how each row looks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path

from smope_bench.reports.figures.drawing.scatter import Spot
from smope_bench.reports.figures.drawing.style import Look, row_label
from smope_bench.reports.figures.kinds import FigureData
from smope_bench.reports.formatting import KIND_NAMES
from smope_bench.reports.loading.model import Cell, Summary
from smope_bench.reports.text import without_controls

Chart: TypeAlias = Mapping[str, Any]
"""``form`` (rows, lines, points), names of the axes, limits, and ``series``, one a row; only what JSON has."""


def series(cell: Cell, look: Look, **values: Any) -> dict[str, Any]:
    """A row's name, kind and look, with ``values``."""
    return {
        "row": without_controls(row_label(cell)),
        "kind": KIND_NAMES[cell.row.kind],
        "colour": look.colour,
        "marker": look.marker,
        "dashes": list(look.dashes),
        "width": look.width,
        **values,
    }


def seeded(cell: Cell, values: Sequence[Any]) -> list[list[Any]]:
    """[order seed, training seed, value] of each averaged run."""
    runs = [run for run in cell.used if run.outcome is not None]
    return [[run.order_seed, run.train_seed, value] for run, value in zip(runs, values, strict=True)]


def spread_of(found: Summary) -> list[float | None]:
    """[mean, standard deviation, lower and upper end of the interval], to a thousandth."""
    return [to_thousandth(value) for value in (found.mean, found.std, found.low, found.high)]


def to_thousandth(value: float | None) -> float | None:
    """A number to a thousandth, which is more than a chart shows."""
    return None if value is None else round(value, 3)


def points_panel(
    name: str,
    word: str,
    unit: str,
    spots: Sequence[Spot],
    limits: tuple[float, float],
    **options: Any,
) -> dict[str, Any]:
    """One scatter plot: what is across, its limits, and in ``options`` its scale, ticks, the line of the best and their names.

    ``slope``: that of lines of equal FAA.
    """
    ends = [spot.y + sign * (spot.std or 0.0) for spot in spots for sign in (-1, 1)]
    panel = {"name": name, "x": word, "unit": unit, "limits": list(map(exactly, limits)), "whole": limits_of(ends)}
    return panel | {"scale": "linear", "threshold": 1, "ticks": None, "front": [], "best": []} | options


def points_chart(
    data: FigureData,
    value: str,
    y: str,
    panels: Sequence[tuple[dict[str, Any], Sequence[Spot]]],
    *,
    seeds: str = "",
    near: tuple[float, float] | None = None,
) -> Chart:
    """Scatter plots of the same rows, of which one is shown at a time; ``value`` names what goes upwards.

    ``seeds``: the metric that is shown for each run; ``near``: limits of what goes upwards where most rows crowd.
    """
    cells = {spot.cell.row.label: spot.cell for _, spots in panels for spot in spots}
    places = [{spot.cell.row.label: spot for spot in spots} for _, spots in panels]
    reference = cells.get(data.results.reference or "")
    return {
        "form": "points", "unit": "%", "value": value, "y": y, "near": near and [round(limit, 3) for limit in near], "whole": None,
        "reference": reference and row_label(reference), "panels": [panel for panel, _ in panels],
        "series": [
            series(cell, data.looks[label], at=[_place(one.get(label)) for one in places], runs=_by_seed(cell, seeds))
            for label, cell in cells.items()
        ],
    }  # fmt: skip


def _by_seed(cell: Cell, metric: str) -> list[list[Any]]:
    return seeded(cell, [to_thousandth(one.metrics[metric]) for one in cell.outcomes]) if metric else []


def _place(spot: Spot | None) -> list[float | None] | None:
    return None if spot is None else [exactly(spot.x), to_thousandth(spot.y), to_thousandth(spot.std)]


def exactly(value: float) -> float:
    """A number of any size to six digits."""
    return float(f"{value:.6g}")


def limits_of(values: Iterable[float]) -> list[float]:
    """Limits of an axis of percentages with all values inside."""
    found = list(values)
    low, high = min(found), max(found)
    margin = 0.04 * (high - low) + 0.1
    return [round(max(-1.0, low - margin), 3), round(min(101.0, high + margin), 3)]


def shapes(markers: Iterable[str]) -> dict[str, list[list[float]]]:
    """Marker -> corners of its outline around 0, one wide and y downwards; a circle has none."""
    found = {}
    for marker in sorted(set(markers)):
        style = MarkerStyle(marker)
        path = style.get_path().transformed(style.get_transform())
        is_round = path.codes is not None and Path.CURVE4 in np.asarray(path.codes)
        found[marker] = [] if is_round else (np.asarray(path.vertices) * (1, -1)).round(3).tolist()
    return found
