"""The critical-difference diagram: mean ranks on a line, and bars over ranks that the test does not separate (Demšar 2006)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from smope_bench.reports.figures.kinds import FigureData, Picture, figure
from smope_bench.reports.figures.style import COLOURS, GREY, INK
from smope_bench.reports.statistics.ranking import Ranking, friedman_words, rank_rows
from smope_bench.reports.text import number, shortened

# In inches: a letter's width, a label's height, a bar's, and the length of the line.
_LETTER, _SLOT, _BAR, _AXIS = 0.078, 0.215, 0.085, 3.6
_GAP = 0.14


@dataclass(frozen=True)
class _Label:
    """A row beside the line of ranks: on which side, and in which slot below it (0 = nearest)."""

    text: str
    rank: float
    is_left: bool
    slot: int


@figure("critical_difference", "Critical-difference diagram", needs="suite")
def critical_difference(data: FigureData) -> Picture | None:
    """The suite's diagram, or nothing where Friedman's test has fewer than three rows or two blocks."""
    ranking = rank_rows(data.results)
    if ranking is None or ranking.critical is None:
        return None
    labels = _labels(ranking.order)
    left, right = _margin(labels, True), _margin(labels, False)
    levels = _levels(ranking)
    depth = 0.12 + _BAR * (max(levels, default=-1) + 1)
    size = (left + _AXIS + right + 0.5, 0.85 + depth + _SLOT * (1 + max(one.slot for one in labels)))

    def draw(figure: Figure) -> None:
        # Placed by the inch, so that neither labels nor bars can meet; the layout engine has nothing to find here.
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(-left - 0.25, _AXIS + right + 0.25), ylim=(0.75 - size[1], 0.75))
        axes.axis("off")
        _draw_line(axes, ranking)
        for label in labels:
            _draw_label(axes, label, len(labels), -depth - _SLOT * label.slot - 0.12)
        for group, level in zip(ranking.groups, levels, strict=True):
            first, last = (_x(ranking.order[i][1], len(labels)) for i in group)
            height = [-0.12 - _BAR * level] * 2
            axes.plot([first - 0.04, last + 0.04], height, color=COLOURS[0], lw=3, solid_capstyle="butt")

    said = ", ".join(f"{label} {number(rank)}" for label, rank in ranking.order)
    words = " ".join(friedman_words(ranking))
    runs = tuple(dict.fromkeys(run for row in ranking.table.rows for run in ranking.table.runs_of(row)))
    return Picture(
        draw,
        f"Mean ranks by FAA, 1 is best; a bar joins rows that are not told apart. {words}",
        f"Critical-difference diagram. Mean ranks from the best to the worst: {said}. Critical difference: "
        f"{number(ranking.critical)}. Not told apart: {_group_words(ranking)}.",
        size,
        runs,
    )


def _margin(labels: Sequence[_Label], is_left: bool) -> float:
    return max((_width(one.text) for one in labels if one.is_left is is_left), default=0.3)


def _labels(order: Sequence[tuple[str, float]]) -> list[_Label]:
    """The better half goes to the left, outermost nearest to the line, so that no lead crosses another."""
    half = (len(order) + 1) // 2
    return [
        _Label(f"{shortened(row)}  {number(rank)}", rank, i < half, i if i < half else len(order) - 1 - i)
        for i, (row, rank) in enumerate(order)
    ]


def _levels(ranking: Ranking) -> list[int]:
    """The height of each bar: the first at which it keeps clear of those before it."""
    places = [_x(rank, len(ranking.order)) for _, rank in ranking.order]
    ends: list[float] = []
    found = []
    for first, last in ranking.groups:
        level = next((i for i, end in enumerate(ends) if end + _GAP < places[first]), len(ends))
        ends[level : level + 1] = [places[last]]
        found.append(level)
    return found


def _draw_line(axes: Axes, ranking: Ranking) -> None:
    rows, critical = len(ranking.order), ranking.critical or 0.0
    axes.plot([0, _AXIS], [0, 0], color=INK, lw=1)
    step = -(-(rows - 1) // 12)
    for rank in range(1, rows + 1):
        is_named = (rank - 1) % step == 0
        axes.plot([_x(rank, rows)] * 2, [0, 0.07 if is_named else 0.035], color=INK, lw=1)
        if is_named:
            axes.text(_x(rank, rows), 0.1, str(rank), ha="center", va="bottom", fontsize=8.5)
    reach = _AXIS * critical / (rows - 1)
    is_wide = reach > _AXIS
    shown = min(reach, _AXIS)
    axes.plot([0, shown], [0.4, 0.4], color=INK, lw=1.4, ls="--" if is_wide else "-")
    for end in (0, shown)[: 1 if is_wide else 2]:
        axes.plot([end, end], [0.36, 0.44], color=INK, lw=1.4)
    more = ", wider than the line" if is_wide else ""
    axes.text(0, 0.47, f"critical difference {number(critical)}{more}", ha="left", va="bottom", fontsize=8.5)


def _draw_label(axes: Axes, label: _Label, rows: int, height: float) -> None:
    x, edge = _x(label.rank, rows), (-0.12 if label.is_left else _AXIS + 0.12)
    axes.plot([x, x, edge], [0, height, height], color=GREY, lw=0.9, solid_joinstyle="miter")
    axes.plot([x], [0], marker="o", ms=4, color=COLOURS[1], zorder=3)
    side, away = ("right", -0.05) if label.is_left else ("left", 0.05)
    axes.text(edge + away, height, label.text, ha=side, va="center", fontsize=8.5)


def _x(rank: float, rows: int) -> float:
    return _AXIS * (rank - 1) / (rows - 1)


def _width(text: str) -> float:
    return _LETTER * len(text) + 0.2


def _group_words(ranking: Ranking) -> str:
    order = [row for row, _ in ranking.order]
    return "; ".join(f"{order[first]} to {order[last]}" for first, last in ranking.groups) or "no rows"
