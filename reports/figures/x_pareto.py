"""Which of several points nobody beats on both cost and gain."""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, gain) that no other point dominates, the cheapest first.

    A point dominates another if it costs no more and gains no less, and is better in one of the two; equals stay together.
    """
    front: list[int] = []
    best = float("-inf")
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i)):
        if points[i][1] > best:
            best = points[i][1]
            front.append(i)
        elif points[front[-1]] == points[i]:
            front.append(i)
    return front
