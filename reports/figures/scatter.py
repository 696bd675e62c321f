"""Where the names of points go in a scatter plot, so that none covers another: the same places for the same points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

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
    """What labels have to keep clear of."""

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
        cost = radius + 0.01 * rank + _trouble(i, box, scene, others)
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


def _trouble(i: int, box: Box, scene: _Scene, others: dict[int, Box]) -> float:
    points = scene.points
    outside = (box.right - box.left) * (box.top - box.bottom) - box.overlap(scene.frame)
    cost = 20.0 * outside + 6.0 * sum(box.overlap(marker) for marker in scene.blocks)
    cost += 18.0 * sum(_crosses_box(start, stop, box.around(0.5)) for start, stop in scene.lines)
    end = box.nearest(points[i])
    for j, other in others.items():
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
