"""The critical-difference diagram: mean ranks, a line a row, and bars beside rows that the test does not separate (Demšar 2006)."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from smope_bench.reports.figures.drawing.style import COLOURS, INK, PALE, SMALL
from smope_bench.reports.figures.kinds import FigureData, Picture, figure
from smope_bench.reports.statistics.ranking import Ranking, friedman_words, rank_rows
from smope_bench.reports.text import number, shortened

# In inches: a letter's width, a row's height, a bar's width, and the length of the line.
_LETTER, _SLOT, _BAR, _AXIS = 0.077, 0.2, 0.1, 1.4


@figure("critical_difference", "Critical-difference diagram", needs="suite")
def critical_difference(data: FigureData) -> Picture | None:
    """The suite's diagram, or nothing where Friedman's test has fewer than three rows or two blocks.

    A line a row, so that it is narrow enough for a telephone; the bars stand at the right.
    """
    ranking = rank_rows(data.results)
    if ranking is None or ranking.critical is None:
        return None
    names = [shortened(row) for row, _ in ranking.order]
    left = 0.65 + _LETTER * max(map(len, names))
    levels = _levels(ranking)
    right = 0.3 + _BAR * (max(levels, default=-1) + 1)
    head = 0.9
    size = (left + _AXIS + right, head + 0.2 + _SLOT * len(names))

    def draw(figure: Figure) -> None:
        # Placed by the inch, so that neither labels nor bars can meet; the layout engine has nothing to find here.
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(-left, _AXIS + right), ylim=(head - size[1], head))
        axes.axis("off")
        _draw_line(axes, ranking, _AXIS + right - 0.1)
        for place, ((row, rank), name) in enumerate(zip(ranking.order, names, strict=True)):
            x, y, look = _x(rank, len(names)), _y(place), data.looks[row]
            axes.plot([-0.05, x], [y, y], color=PALE, lw=0.8, zorder=1)
            axes.plot([x], [y], marker=look.marker, ms=6, color=look.colour, markeredgecolor="white", zorder=3)
            weight = "bold" if row == data.results.reference else "normal"
            for edge, text in ((-0.5, name), (-0.1, number(rank))):
                axes.text(edge, y, text, ha="right", va="center", fontsize=SMALL, fontweight=weight)
        for (first, last), level in zip(ranking.groups, levels, strict=True):
            x = _AXIS + 0.2 + _BAR * level
            axes.plot([x, x], [_y(first) + 0.06, _y(last) - 0.06], color=COLOURS[0], lw=3, solid_capstyle="butt")

    said = ", ".join(f"{label} {number(rank)}" for label, rank in ranking.order)
    words = " ".join(friedman_words(ranking))
    runs = tuple(dict.fromkeys(run for row in ranking.table.rows for run in ranking.table.runs_of(row)))
    return Picture(
        draw,
        f"Mean ranks by FAA, 1 is best; a bar at the right joins rows that are not told apart. {words}",
        f"Critical-difference diagram. Mean ranks from the best to the worst: {said}. Critical difference: "
        f"{number(ranking.critical)}. Not told apart: {_group_words(ranking)}.",
        size,
        runs,
    )


def _levels(ranking: Ranking) -> list[int]:
    """The place of each bar from the left: the first at which it keeps clear of those before it."""
    ends: list[int] = []
    found = []
    for first, last in ranking.groups:
        level = next((i for i, end in enumerate(ends) if end < first), len(ends))
        ends[level : level + 1] = [last]
        found.append(level)
    return found


def _draw_line(axes: Axes, ranking: Ranking, end: float) -> None:
    """The line of ranks, and above it the critical difference with its name, which ends at ``end``."""
    rows, critical = len(ranking.order), ranking.critical or 0.0
    axes.plot([0, _AXIS], [0, 0], color=INK, lw=1)
    step = -(-(rows - 1) // 6)
    for rank in range(1, rows + 1):
        is_named = (rank - 1) % step == 0
        axes.plot([_x(rank, rows)] * 2, [0, 0.07 if is_named else 0.035], color=INK, lw=1)
        if is_named:
            axes.text(_x(rank, rows), 0.1, str(rank), ha="center", va="bottom", fontsize=SMALL)
    reach = _AXIS * critical / (rows - 1)
    is_wide = reach > _AXIS
    shown = min(reach, _AXIS)
    axes.plot([0, shown], [0.4, 0.4], color=INK, lw=1.4, ls="--" if is_wide else "-")
    for x in (0, shown)[: 1 if is_wide else 2]:
        axes.plot([x, x], [0.36, 0.44], color=INK, lw=1.4)
    more = "\n(wider than the line)" if is_wide else ""
    text = f"critical difference {number(critical)}{more}"
    axes.text(end, 0.47, text, ha="right", va="bottom", linespacing=1.1, fontsize=SMALL)


def _x(rank: float, rows: int) -> float:
    return _AXIS * (rank - 1) / (rows - 1)


def _y(place: int) -> float:
    return -_SLOT * (place + 0.75)


def _group_words(ranking: Ranking) -> str:
    order = [row for row, _ in ranking.order]
    return "; ".join(f"{order[first]} to {order[last]}" for first, last in ranking.groups) or "no rows"
