"""Scatter plots whose points are named: finds places for the names so that none covers another, always the same ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from smope_bench.reports.figures.drawing.style import GREY, INK, Look, Margins, inch_panels, row_label
from smope_bench.reports.figures.kinds import FigureData
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

    @property
    def edges(self) -> tuple[float, float, float, float]:
        """Left, bottom, right, top."""
        return self.left, self.bottom, self.right, self.top

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
class _Choice:
    """Where a label of ``point`` may stand: ``boxes``, the nearest first, with what each costs before other labels are placed."""

    point: Point
    boxes: Sequence[Box]
    costs: Sequence[float]
    least: Sequence[float]
    """What any box from here on costs at least."""


def place_labels(
    points: Sequence[Point], sizes: Sequence[Point], frame: Box, lines: Sequence[Line] = (), taken: Sequence[Box] = ()
) -> list[Box]:
    """A box of each size near its point and inside the frame, off everything else as far as there is room.

    ``points``, ``sizes`` (width, height), ``lines`` (from, to), boxes that are ``taken`` and the answer are in points of
    print. Each label in turn takes its best place among the others, which is done again until nothing moves, three times
    at most.
    """
    blocks = [*(Box(x, y, x, y).around(_MARKER) for x, y in points), *taken]
    choices = [_choice(point, size, frame, blocks, lines) for point, size in zip(points, sizes, strict=True)]
    order = sorted(range(len(points)), key=lambda i: (-_crowd(points, i), points[i], i))
    placed: dict[int, Box] = {}
    for _ in range(_ROUNDS):
        before = dict(placed)
        for i in order:
            others = [(points[j], box) for j, box in placed.items() if j != i]
            placed[i] = _best(choices[i], others)
        if placed == before:
            break
    return [placed[i] for i in range(len(points))]


def _crowd(points: Sequence[Point], i: int) -> int:
    return sum(math.dist(points[i], other) < 40 for other in points)


def _choice(point: Point, size: Point, frame: Box, blocks: Sequence[Box], lines: Sequence[Line]) -> _Choice:
    """The places around a point, with what each covers and crosses of the drawing."""
    places = [(radius, math.radians(angle)) for radius in _RADII for angle in _ANGLES]
    boxes = [_candidate(point, size, radius, angle) for radius, angle in places]
    least = [radius + 0.01 * rank for rank, (radius, _) in enumerate(places)]
    edges = np.array([one.edges for one in boxes])
    costs = np.array(least) + 20.0 * (size[0] * size[1] - _overlaps(edges, [frame])) + 6.0 * _overlaps(edges, blocks)
    around = np.add(edges, (-0.5, -0.5, 0.5, 0.5))
    for start, stop in lines:
        costs += 18.0 * _crosses_box(start, stop, around.T)
    return _Choice(point, boxes, costs.tolist(), least)


def _overlaps(edges: NDArray[np.float64], others: Sequence[Box]) -> NDArray[np.float64]:
    """The area that each of some boxes (n, 4) shares with others, summed."""
    other = np.array([one.edges for one in others])
    shared = np.minimum(edges[:, None, 2:], other[:, 2:]) - np.maximum(edges[:, None, :2], other[:, :2])
    return np.maximum(shared, 0.0).prod(axis=2).sum(axis=1)


def _best(choice: _Choice, others: Sequence[tuple[Point, Box]]) -> Box:
    best, least = choice.boxes[0], math.inf
    for box, alone, nearest in zip(choice.boxes, choice.costs, choice.least, strict=True):
        if nearest >= least:
            break
        cost = alone if alone >= least else alone + _trouble(choice.point, box, others, least - alone)
        if cost < least:
            best, least = box, cost
    return best


def _candidate(point: Point, size: Point, radius: float, angle: float) -> Box:
    """The box that a ray from the point at this angle meets first: beside it, above, or at a corner."""
    x, y = point[0] + radius * math.cos(angle), point[1] + radius * math.sin(angle)
    left = x - size[0] * (1 - math.cos(angle)) / 2
    bottom = y - size[1] * (1 - math.sin(angle)) / 2
    return Box(left, bottom, left + size[0], bottom + size[1])


def _trouble(point: Point, box: Box, others: Sequence[tuple[Point, Box]], most: float) -> float:
    """What a box and the line to its point cover and cross of other labels; not all of it where it is more than ``most``."""
    cost, end, wide = 0.0, box.nearest(point), box.around(0.8)
    for start, other in others:
        if cost > most:
            return cost
        stop = other.nearest(start)
        cost += 20.0 * wide.overlap(other) + 25.0 * _cross(point, end, start, stop)
        cost += 25.0 * (_crosses_box(point, end, other.edges) + _crosses_box(start, stop, box.edges))
    return cost


# Coordinates are numbers, or arrays with one for each of many boxes.
def _side(a: Sequence[Any], b: Sequence[Any], c: Sequence[Any]) -> Any:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _cross(a: Sequence[Any], b: Sequence[Any], c: Sequence[Any], d: Sequence[Any]) -> Any:
    """Whether the line from ``a`` to ``b`` crosses that from ``c`` to ``d``."""
    return (_side(a, b, c) * _side(a, b, d) < 0) & (_side(c, d, a) * _side(c, d, b) < 0)


def _crosses_box(a: Point, b: Point, edges: Sequence[Any] | NDArray[np.float64]) -> Any:
    """Whether the line from ``a`` to ``b`` crosses a diagonal of the box with these edges."""
    left, bottom, right, top = edges
    return _cross(a, b, (left, bottom), (right, top)) | _cross(a, b, (left, top), (right, bottom))


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
    figure.set_layout_engine("constrained", w_pad=0.06)
    low, high = axes.get_ylim()
    height = axes.get_position().height * figure.get_size_inches()[1] * 0.82  # the layout leaves about as much
    moved = spread(list(ends.values()), (high - low) * 0.14 / max(height, 0.5), low, high)
    x = axes.get_xlim()[1]
    for (label, end), place in zip(ends.items(), moved, strict=True):
        look = data.looks[label]
        axes.annotate(
            f"{shortened(label, 26)} {end:.1f}", (x, end), (1.045, place), textcoords=("axes fraction", "data"), va="center",
            fontsize=8, color=INK, fontweight="bold" if label == data.results.reference else "normal",
            annotation_clip=False, arrowprops={"arrowstyle": "-", "color": look.colour, "linewidth": 1.2, "shrinkB": 0,
                        "patchA": None, "relpos": (0, 0.5)},
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
    return inch_panels(figure, panels, 1, Margins(0.68, 0.12, 0.5, 0.14), (0, 0.62))


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
    paths: Sequence[Sequence[Point]] = (),
    taken: Sequence[Text] = (),
) -> None:
    """Markers, deviations as thin bars, and names that keep off each other, drawn paths and texts that are there."""
    labels = [spot.cell.row.label for spot in spots]
    for spot, label in zip(spots, labels, strict=True):
        axes.plot(
            spot.x, spot.y, looks[label].marker, color=looks[label].colour, markersize=6.8, markeredgecolor="white",
            markeredgewidth=0.7, zorder=4,
        )  # fmt: skip
        if spot.std:
            axes.errorbar(spot.x, spot.y, spot.std, ecolor=looks[label].colour, alpha=0.5, elinewidth=1, fmt="none")
    texts = [
        axes.text(0, 0, spot.label, fontsize=7.6, va="bottom", ha="left", zorder=5,
                  fontweight="bold" if spot in bold else "normal",
                  color=GREY if spot.cell.row.kind in REFERENCES else INK)
        for spot in spots
    ]  # fmt: skip
    _place(axes, spots, texts, paths, taken)


def _place(
    axes: Axes,
    spots: Sequence[Spot],
    texts: Sequence[Text],
    paths: Sequence[Sequence[Point]],
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
    points = in_print([(spot.x, spot.y) for spot in spots])
    lines = [line for path in paths for line in pairwise(in_print(path))]
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
