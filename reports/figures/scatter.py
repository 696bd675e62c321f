"""Scatter plots whose points are named: finds places for the names so that none covers another, always the same ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from smope_bench.reports.figures.kinds import FigureData
from smope_bench.reports.figures.style import GREY, INK, Look, by_row, row_label
from smope_bench.reports.loading.model import REFERENCES, Cell
from smope_bench.reports.text import shortened

Point = tuple[float, float]
Line = tuple[Point, Point]
_RADII = (7.0, 13.0, 21.0, 31.0, 43.0, 57.0, 73.0, 91.0)
_ANGLES = (0, 180, 35, -35, 145, -145, 90, -90, 18, -18, 162, -162, 60, -60, 120, -120)
_MARKER = 4.5
_ROUNDS = 3


@dataclass(frozen=True)
class Box:
    """A rectangle, in points of print."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: Box) -> float:
        """The shared area."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return width * height if width > 0 and height > 0 else 0.0

    def nearest(self, point: Point) -> Point:
        """The point of the rectangle that is nearest to another."""
        return (min(max(point[0], self.left), self.right), min(max(point[1], self.bottom), self.top))

    def around(self, margin: float) -> Box:
        """The rectangle with a margin."""
        return Box(self.left - margin, self.bottom - margin, self.right + margin, self.top + margin)


@dataclass(frozen=True)
class _Scene:
    """What labels must not cover."""

    points: Sequence[Point]
    blocks: Sequence[Box]
    frame: Box
    lines: Sequence[Line]


def place_labels(
    points: Sequence[Point], sizes: Sequence[Point], frame: Box, lines: Sequence[Line] = (), taken: Sequence[Box] = ()
) -> list[Box]:
    """A box of each size near its point and inside the frame, off everything else as far as there is room.

    ``points``, ``sizes`` (width, height), ``lines`` (from, to), boxes that are ``taken`` and the answer are in points of
    print. Each label in turn takes its best place among the others, which is done again until nothing moves, three times
    at most.
    """
    markers = [Box(x, y, x, y).around(_MARKER) for x, y in points]
    scene = _Scene(points, [*markers, *taken], frame, lines)
    order = sorted(range(len(points)), key=lambda i: (-_crowd(points, i), points[i], i))
    placed: dict[int, Box] = {}
    for _ in range(_ROUNDS):
        before = dict(placed)
        for i in order:
            others = {j: box for j, box in placed.items() if j != i}
            placed[i] = _best(i, sizes[i], scene, others)
        if placed == before:
            break
    return [placed[i] for i in range(len(points))]


def _crowd(points: Sequence[Point], i: int) -> int:
    return sum(math.dist(points[i], other) < 40 for other in points)


def _best(i: int, size: Point, scene: _Scene, others: dict[int, Box]) -> Box:
    best, least = None, math.inf
    for rank, (radius, angle) in enumerate((radius, angle) for radius in _RADII for angle in _ANGLES):
        box = _candidate(scene.points[i], size, radius, math.radians(angle))
        base = radius + 0.01 * rank
        cost = base + _trouble(i, box, scene, others, least - base)
        if cost < least:
            best, least = box, cost
        if least <= radius + 2:
            break  # Nothing farther away can be better.
    assert best is not None
    return best


def _candidate(point: Point, size: Point, radius: float, angle: float) -> Box:
    """The box that a ray from the point at this angle meets first: beside it, above, or at a corner."""
    x, y = point[0] + radius * math.cos(angle), point[1] + radius * math.sin(angle)
    left = x - size[0] * (1 - math.cos(angle)) / 2
    bottom = y - size[1] * (1 - math.sin(angle)) / 2
    return Box(left, bottom, left + size[0], bottom + size[1])


def _trouble(i: int, box: Box, scene: _Scene, others: dict[int, Box], most: float) -> float:
    """What a box covers and crosses; not all of it where it is more than ``most``."""
    points = scene.points
    outside = (box.right - box.left) * (box.top - box.bottom) - box.overlap(scene.frame)
    cost = 20.0 * outside + 6.0 * sum(box.overlap(marker) for marker in scene.blocks)
    cost += 18.0 * sum(_crosses_box(start, stop, box.around(0.5)) for start, stop in scene.lines)
    end = box.nearest(points[i])
    for j, other in others.items():
        if cost > most:
            return cost
        cost += 20.0 * box.around(0.8).overlap(other)
        cost += 25.0 * _cross(points[i], end, points[j], other.nearest(points[j]))
        cost += 25.0 * (_crosses_box(points[i], end, other) + _crosses_box(points[j], other.nearest(points[j]), box))
    return cost


def _side(a: Point, b: Point, c: Point) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _cross(a: Point, b: Point, c: Point, d: Point) -> bool:
    return _side(a, b, c) * _side(a, b, d) < 0 and _side(c, d, a) * _side(c, d, b) < 0


def _crosses_box(a: Point, b: Point, box: Box) -> bool:
    corners = [(box.left, box.bottom), (box.right, box.top), (box.left, box.top), (box.right, box.bottom)]
    return _cross(a, b, corners[0], corners[1]) or _cross(a, b, corners[2], corners[3])


def spread(places: Sequence[float], least: float, low: float, high: float) -> list[float]:
    """Places moved apart to a distance of ``least``, as little as possible and in their order, within ``low`` and ``high``.

    Where there is no room for all, they share it evenly.
    """
    order = sorted(range(len(places)), key=lambda i: (places[i], i))
    least = min(least, (high - low) / max(1, len(places) - 1))
    groups: list[tuple[float, int]] = []  # (place of the first, how many stand upon it)
    for i in order:
        groups.append((places[i], 1))
        while True:
            start, count = groups[-1]
            groups[-1] = (min(max(start, low), high - least * (count - 1)), count)
            if len(groups) == 1 or groups[-2][0] + least * groups[-2][1] <= groups[-1][0] + 1e-9:
                break
            (start, count), (before, others) = groups.pop(), groups.pop()
            both = others + count
            # The mean of where every one of them would put the first.
            groups.append(((before * others + (start - least * others) * count) / both, both))
    moved = [start + least * k for start, count in groups for k in range(count)]
    return [moved[order.index(i)] for i in range(len(places))]


def names_at_ends(axes: Axes, ends: Mapping[str, float], data: FigureData) -> None:
    """Names at the right of lines that end at the heights ``ends``, in the lines' colours, moved apart where they would meet."""
    figure = axes.figure
    assert isinstance(figure, Figure)
    low, high = axes.get_ylim()
    height = axes.get_position().height * figure.get_size_inches()[1] * 0.82  # the layout leaves about as much
    moved = spread(list(ends.values()), (high - low) * 0.14 / max(height, 0.5), low, high)
    x = axes.get_xlim()[1]
    for (label, end), place in zip(ends.items(), moved, strict=True):
        look = data.looks[label]
        axes.annotate(
            f"{shortened(label, 24)} {end:.1f}", (x, end), (1.045, place), textcoords=("axes fraction", "data"), va="center",
            fontsize=8, color=INK, fontweight="bold" if label == data.results.reference else "normal",
            annotation_clip=False, arrowprops={"arrowstyle": "-", "color": look.colour, "linewidth": 1.2, "shrinkB": 0},
        )  # fmt: skip


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
        """The name beside it."""
        return row_label(self.cell)


def fixed_axes(figure: Figure, panels: int) -> list[Axes]:
    """Axes one below the other whose place is known before anything is drawn: names are placed by it, no layout may move them."""
    figure.set_layout_engine("none")
    width, height = figure.get_size_inches()
    left, right, bottom, top, gap = 0.62 / width, 0.12 / width, 0.5 / height, 0.14 / height, 0.62 / height
    each = (1 - bottom - top - gap * (panels - 1)) / panels
    return [
        figure.add_axes((left, bottom + (panels - 1 - i) * (each + gap), 1 - left - right, each)) for i in range(panels)
    ]


def frame(setter: Callable[..., object], values: Sequence[float]) -> None:
    """Frame percentages with a margin, just beyond 0 and 100 at most. Labels are placed within, so it comes first."""
    low, high = min(values), max(values)
    margin = max(0.5, 0.08 * (high - low))
    setter(max(-1.0, low - margin), min(101.0, high + margin))


def draw_spots(
    axes: Axes,
    spots: Sequence[Spot],
    looks: Mapping[str, Look],
    *,
    bold: Sequence[Spot] = (),
    path: Sequence[Point] = (),
    taken: Sequence[Text] = (),
) -> None:
    """Markers, deviations as thin bars, and names that keep off each other, a drawn path and texts that are there."""
    labels = [spot.cell.row.label for spot in spots]
    points = pd.DataFrame({"row": labels, "x": [spot.x for spot in spots], "y": [spot.y for spot in spots]})
    style, names = by_row(looks), (axes.get_xlabel(), axes.get_ylabel())
    for unused in ("dashes", "size", "sizes"):
        del style[unused]
    sns.scatterplot(points, x="x", y="y", s=46, linewidth=0.7, zorder=4, ax=axes, **style)
    axes.set(xlabel=names[0], ylabel=names[1])
    for spot, label in zip(spots, labels, strict=True):
        if spot.std:
            axes.errorbar(spot.x, spot.y, spot.std, ecolor=looks[label].colour, alpha=0.5, elinewidth=1, fmt="none")
    texts = [
        axes.text(0, 0, spot.label, fontsize=7.6, va="bottom", ha="left", zorder=5,
                  fontweight="bold" if spot in bold else "normal",
                  color=GREY if spot.cell.row.kind in REFERENCES else INK)
        for spot in spots
    ]  # fmt: skip
    _place(axes, spots, texts, path, taken)


def _place(
    axes: Axes,
    spots: Sequence[Spot],
    texts: Sequence[Text],
    path: Sequence[Point],
    taken: Sequence[Text],
) -> None:
    figure = axes.figure
    assert isinstance(figure, Figure)
    renderer, dot = FigureCanvasAgg(figure).get_renderer(), 72 / figure.dpi

    def box_of(extent: Bbox) -> Box:
        return Box(*(float(edge) * dot for edge in (extent.x0, extent.y0, extent.x1, extent.y1)))

    def in_print(places: Sequence[Point]) -> list[Point]:
        return [(float(x) * dot, float(y) * dot) for x, y in axes.transData.transform(places)] if places else []

    def in_data(place: Point) -> Point:
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


def _anchor(box: Box, point: Point) -> tuple[Literal["left", "right", "center"], float]:
    if box.right <= point[0]:
        return "right", box.right
    return ("left", box.left) if box.left >= point[0] else ("center", (box.left + box.right) / 2)
