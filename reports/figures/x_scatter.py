"""Rows as named points: in their looks, with names that cover nothing, tied to their points by a line where they are far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from smope_bench.reports.figures.scatter import Box, place_labels
from smope_bench.reports.figures.style import GREY, INK
from smope_bench.reports.figures.x_figure_rows import Looks, row_label
from smope_bench.reports.loading.model import Cell

_SIZES = {"*": 10.0, "P": 8.0, "X": 7.6}
"""In points, where a shape looks smaller than others of its size."""
_NEAR = 8.5


@dataclass(frozen=True)
class Spot:
    """A cell at its place in a scatter plot; ``std``: the deviation of y over runs."""

    cell: Cell
    x: float
    y: float
    std: float | None = None

    @property
    def label(self) -> str:
        """What stands beside it."""
        return row_label(self.cell)


def fixed_axes(figure: Figure, panels: int) -> list[Axes]:
    """Axes side by side whose place is known before anything is drawn: names are placed by it, so no layout may move them."""
    figure.set_layout_engine("none")
    width, height = figure.get_size_inches()
    left, right, bottom, top, gap = 0.68 / width, 0.12 / width, 0.52 / height, 0.14 / height, 0.34 / width
    each = (1 - left - right - gap * (panels - 1)) / panels
    found = [figure.add_axes((left + i * (each + gap), bottom, each, 1 - bottom - top)) for i in range(panels)]
    for axes in found[1:]:
        axes.tick_params(labelleft=False)
    return found


def draw_spots(
    axes: Axes,
    spots: Sequence[Spot],
    looks: Looks,
    *,
    bold: Sequence[Spot] = (),
    path: Sequence[tuple[float, float]] = (),
    taken: Sequence[Text] = (),
) -> None:
    """Markers, deviations as thin bars, and names that keep off each other, a drawn path and texts that are there."""
    for spot in spots:
        look = looks[spot.cell.row.label]
        colour, marker = str(look["color"]), str(look["marker"])
        if spot.std:
            axes.plot([spot.x] * 2, [spot.y - spot.std, spot.y + spot.std], color=colour, alpha=0.5, linewidth=1)
        axes.plot(spot.x, spot.y, color=colour, marker=marker, markersize=_SIZES.get(marker, 6.5),
                  markeredgecolor="white", markeredgewidth=0.7, linestyle="", zorder=4)  # fmt: skip
    texts = [
        axes.text(0, 0, spot.label, fontsize=7.6, va="bottom", ha="left", zorder=5,
                  fontweight="bold" if spot in bold else "normal",
                  color=GREY if spot.cell.row.kind == "ceiling" else INK)
        for spot in spots
    ]  # fmt: skip
    _place(axes, spots, texts, path, taken)


def _place(
    axes: Axes,
    spots: Sequence[Spot],
    texts: Sequence[Text],
    path: Sequence[tuple[float, float]],
    taken: Sequence[Text],
) -> None:
    figure = axes.figure
    assert isinstance(figure, Figure)
    renderer, dot = FigureCanvasAgg(figure).get_renderer(), 72 / figure.dpi

    def box_of(extent: Bbox) -> Box:
        return Box(*(float(edge) * dot for edge in (extent.x0, extent.y0, extent.x1, extent.y1)))

    def in_print(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(float(x) * dot, float(y) * dot) for x, y in axes.transData.transform(places)] if places else []

    def in_data(place: tuple[float, float]) -> tuple[float, float]:
        x, y = axes.transData.inverted().transform((place[0] / dot, place[1] / dot))
        return float(x), float(y)

    names = [box_of(text.get_window_extent(renderer)) for text in texts]
    blocks = [box_of(text.get_window_extent(renderer)) for text in taken]
    inside = box_of(axes.get_window_extent(renderer)).around(-1)
    points, lines = in_print([(spot.x, spot.y) for spot in spots]), list(pairwise(in_print(path)))
    sizes = [(box.right - box.left, box.top - box.bottom) for box in names]
    for text, point, box in zip(texts, points, place_labels(points, sizes, inside, lines, blocks), strict=True):
        # A reader's font may be narrower than the one measured: the name must end, begin or be centred at its point.
        side, edge = _anchor(box, point)
        text.set_horizontalalignment(side)
        text.set_position(in_data((edge, box.bottom)))
        end = box.nearest(point)
        if math.dist(end, point) > _NEAR:
            (x0, y0), (x1, y1) = in_data(point), in_data(end)
            axes.plot([x0, x1], [y0, y1], color=GREY, linewidth=0.6, zorder=3)


def _anchor(box: Box, point: tuple[float, float]) -> tuple[Literal["left", "right", "center"], float]:
    if box.right <= point[0]:
        return "right", box.right
    return ("left", box.left) if box.left >= point[0] else ("center", (box.left + box.right) / 2)
