"""How accurate a suite's rows are on one benchmark: at the end, after every task, and task by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from smope_bench.reports.figures.drawing.interactive import Chart, limits_of, seeded, series, spread_of, to_thousandth
from smope_bench.reports.figures.drawing.scatter import names_at_ends
from smope_bench.reports.figures.drawing.style import (
    PALE,
    Look,
    Squares,
    crowded,
    legend_label,
    percent_ticks,
    row_label,
    within_percent,
)
from smope_bench.reports.figures.kinds import FigureData, Picture, figure
from smope_bench.reports.formatting import KIND_NAMES, mean_std
from smope_bench.reports.loading.model import Cell, RowKind, Summary, runs_a_point, summarise
from smope_bench.reports.text import listed, number

_MOST_MATRICES = 20


_BLOCKS: tuple[tuple[RowKind, ...], ...] = (("ceiling",), ("method",), ("adapter",), ("floor",))
"""From the top: kinds of rows that are sorted together."""


@figure("final", "FAA")
def final(data: FigureData) -> Picture:
    """Rows sorted by mean FAA: every run, the mean in the row's marker, its interval; floors and ceilings as lines through all."""
    placed = [(cell, found) for cell in data.cells if (found := cell.summary("faa")) is not None]
    blocks = [
        sorted((one for one in placed if one[0].row.kind in kinds), key=lambda one: -round(one[1].mean, 2))
        for kinds in _BLOCKS
    ]
    blocks = [block for block in blocks if block]
    shown = [one for block in blocks for one in block]
    gaps = list(np.cumsum([len(block) for block in blocks])[:-1])
    heights = {cell.place: i + 0.45 * sum(i >= gap for gap in gaps) for i, (cell, _) in enumerate(shown)}
    zoom = crowded([found.mean for _, found in shown])
    limits = _limits(shown, zoom)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.set_xlim(*limits)
        for cell, found in shown:
            _draw_final(axes, cell, found, heights[cell.place], data.looks[cell.row.label], limits)
        axes.set_ylim(max(heights.values(), default=0) + 0.6, -0.6)
        axes.set_yticks(list(heights.values()), [legend_label(cell) for cell, _ in shown])
        for label, (cell, _) in zip(axes.get_yticklabels(), shown, strict=True):
            label.set_fontweight("bold" if cell.row.label == data.results.reference else "normal")
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.set(xlabel="FAA (%)")

    outside = [cell.row.label for cell, found in shown if not limits[0] <= found.mean <= limits[1]]
    few = all(found.n == 1 for _, found in shown)
    caption = (
        f"Final average accuracy: {runs_a_point(data.cells)} (dots) and the mean"
        + (
            ". One run has no interval: near values must not be told apart."
            if few
            else " with its 95 % interval (bar)."
        )
        + " Lines through all rows: floors (dashed) and ceilings (dotted)."
        + (f" The axis shows where most rows are; outside it: {listed(outside)}." if outside else "")
        + (" A bar that ends in an arrow goes on." if any(_is_cut(found, limits) for _, found in shown) else "")
    )
    alt = "; ".join(f"{cell.row.label} {mean_std(found)}" for cell, found in shown)
    size = (5.0, 0.62 + 0.24 * (len(shown) + 0.45 * len(gaps)))
    chart = _final_chart(data, shown, limits, is_zoomed=bool(outside))
    return Picture(draw, caption, f"FAA on {data.column.label}: {alt}.", size, chart=chart)


def _final_chart(
    data: FigureData, shown: Sequence[tuple[Cell, Summary]], limits: tuple[float, float], *, is_zoomed: bool
) -> Chart:
    reference = next((row_label(cell) for cell, _ in shown if cell.row.label == data.results.reference), None)
    near = [round(limit, 3) for limit in limits]
    ends = [end for _, found in shown for end in (found.mean, found.low, found.high) if end is not None]
    return {
        "form": "rows", "value": "FAA", "unit": "%", "x": "FAA (%)", "reference": reference,
        "levels": [KIND_NAMES[kind] for kind in ("floor", "ceiling")],
        "near": near if is_zoomed else None, "whole": limits_of(ends) if is_zoomed else near,
        "series": [
            series(
                cell,
                data.looks[cell.row.label],
                value=spread_of(found),
                runs=seeded(cell, [to_thousandth(one.metrics["faa"]) for one in cell.outcomes]),
            )
            for cell, found in shown
        ],
    }  # fmt: skip


def _limits(shown: Sequence[tuple[Cell, Summary]], zoom: tuple[float, float] | None) -> tuple[float, float]:
    """Limits of the axis: around runs and intervals, of an interval at most as far as the runs of all rows reach."""
    inside = [one for one in shown if zoom is None or zoom[0] <= one[1].mean <= zoom[1]]
    runs = [value for cell, _ in inside for one in cell.outcomes if (value := one.metrics["faa"]) is not None]
    low, high = min(runs), max(runs)
    reach = max(high - low, 1.0)
    ends = [end for _, found in inside for end in (found.low, found.high) if end is not None]
    low = min(low, max(min(ends, default=low), low - reach))
    high = max(high, min(max(ends, default=high), high + reach))
    margin = 0.04 * (high - low) + 0.1
    return max(-1.0, low - margin), min(101.0, high + margin)


def _is_cut(found: Summary, limits: tuple[float, float]) -> bool:
    reaches = found.low is not None and found.high is not None and limits[0] <= found.mean <= limits[1]
    return reaches and (found.low < limits[0] or found.high > limits[1])  # pyright: ignore[reportOptionalOperand]


def _draw_final(axes: Axes, cell: Cell, found: Summary, y: float, look: Look, limits: tuple[float, float]) -> None:
    low, high = limits
    if cell.row.kind in ("floor", "ceiling") and low <= found.mean <= high:
        axes.axvline(found.mean, color=PALE, linewidth=0.9, linestyle=(0, look.dashes), zorder=1)
    if found.low is not None and found.high is not None and found.low < high and found.high > low:
        axes.plot([max(found.low, low), min(found.high, high)], [y, y], color=look.colour, linewidth=2, zorder=2)
        inside = 0.012 * (high - low)
        for end, is_beyond, marker in ((low + inside, found.low < low, "<"), (high - inside, found.high > high, ">")):
            if is_beyond:
                axes.plot(end, y, marker, color=look.colour, markersize=5, zorder=3)
    runs = [value for one in cell.outcomes if (value := one.metrics["faa"]) is not None]
    if len(runs) > 1:
        axes.plot(runs, [y] * len(runs), ".", color=look.colour, alpha=0.55, markersize=5, markeredgewidth=0, zorder=3)
    if low <= found.mean <= high:
        axes.plot(
            found.mean, y, look.marker, color=look.colour, markersize=7, markeredgecolor="white", markeredgewidth=0.8, zorder=4,
        )  # fmt: skip
    else:  # the arrow leads to the number
        axes.plot(low + 0.015 * (high - low), y, "<", color=look.colour, markersize=6, zorder=4)
    axes.annotate(number(found.mean, 1), (1.015, y), xycoords=("axes fraction", "data"), va="center", fontweight="bold")


@figure("stages", "Accuracy after each task")
def stages(data: FigureData) -> Picture:
    """A_t after every task, named at the end of its line; a second panel where lines crowd at the end."""
    curves = {cell.row.label: _mean_stages(cell) for cell in data.cells}
    tasks, unit, pale = data.column.tasks, data.column.unit, data.pale
    ends = {label: curve[-1][1] for label, curve in curves.items() if curve and label not in pale}
    zoom = crowded(list(ends.values())) if tasks > 1 else None
    cells = sorted(data.cells, key=lambda cell: cell.row.label not in pale)  # grey lines lie below

    def draw(figure: Figure) -> None:
        found = figure.subplots(2 if zoom else 1, squeeze=False)[:, 0]
        for axes in found:
            for cell in cells:
                _draw_stages(axes, curves[cell.row.label], data.line_looks[cell.row.label], tasks)
            axes.set_xlim(0.8, tasks + 0.2)
            axes.set_xticks(range(1, tasks + 1))
        within_percent(found[0], "y")
        if zoom:
            found[1].set_ylim(*zoom)
        for axes in found:
            percent_ticks(axes.yaxis)
        found[-1].set_xlabel(f"{unit}s learned")
        figure.supylabel(f"average accuracy on the {unit}s seen (%)", fontsize=9)
        for axes in found[-1:] if zoom else found:
            low, high = axes.get_ylim()
            names_at_ends(axes, {label: end for label, end in ends.items() if low <= end <= high}, data)
        if zoom:
            names_at_ends(found[0], {label: end for label, end in ends.items() if not zoom[0] <= end <= zoom[1]}, data)

    def said(cell: Cell) -> str:
        curve = curves[cell.row.label]
        if len(curve) == 1 and tasks > 1:
            return f"{cell.row.label} {curve[0][1]:.1f} at the end"
        return f"{cell.row.label} from {curve[0][1]:.1f} to {curve[-1][1]:.1f}"

    caption = (
        f"Average accuracy on the {unit}s seen so far after each {unit}: mean over runs, shaded by one standard deviation. "
        "Floors are dashed; a dotted line is an adapter or, level, a ceiling, which is trained once on everything."
        + (" Below (on the page, zoomed in) the same lines where most of them end." if zoom else "")
        + (f" Grey: {listed(pale, 12)}." if pale else "")
    )
    alt = f"Average accuracy after each {unit} on {data.column.label}: {'; '.join(map(said, data.cells))}."
    size = (5.0, max(2.9, 0.8 + 0.17 * len(ends)) * (1.75 if zoom else 1))
    return Picture(draw, caption, alt, size, chart=_stages_chart(data, curves, zoom))


def _stages_chart(
    data: FigureData, curves: Mapping[str, list[tuple[int, float, float]]], zoom: tuple[float, float] | None
) -> Chart | None:
    unit, tasks = data.column.unit, data.column.tasks
    cells = [cell for cell in data.cells if curves[cell.row.label]]
    if not cells:
        return None
    means = [mean for curve in curves.values() for _, mean, _ in curve]
    return {
        "form": "lines", "unit": "%", "word": f"after {unit}", "x": f"{unit}s learned",
        "y": f"average accuracy on the {unit}s seen (%)", "domain": [1, tasks], "margin": round(0.05 * max(1, tasks - 1), 2),
        "ticks": list(range(1, tasks + 1, -(-tasks // 10))),
        "near": zoom and [round(limit, 3) for limit in zoom], "whole": limits_of(means),
        "series": [
            series(
                cell,
                data.looks[cell.row.label],
                pale=cell.row.label in data.pale,
                points=[[task, to_thousandth(mean), to_thousandth(std)] for task, mean, std in curves[cell.row.label]],
                runs=seeded(
                    cell,
                    [[to_thousandth(one.stages[task - 1]) for task, *_ in curves[cell.row.label]] for one in cell.outcomes],
                ),
            )
            for cell in cells
        ],
    }  # fmt: skip


def _mean_stages(cell: Cell) -> list[tuple[int, float, float]]:
    """(task from 1, mean, standard deviation) of A_t, for tasks after which every run was tested."""
    found = []
    for task, values in enumerate(zip(*(outcome.stages for outcome in cell.outcomes), strict=True), 1):
        one = summarise(value for value in values if value is not None) if None not in values else None
        if one is not None:
            found.append((task, one.mean, one.std or 0.0))
    return found


def _draw_stages(axes: Axes, curve: list[tuple[int, float, float]], look: Look, tasks: int) -> None:
    if not curve:
        return
    if len(curve) == 1 and tasks > 1:  # trained once on everything: a level to compare with
        axes.axhline(curve[0][1], linewidth=1.2, color=look.colour, linestyle=":")
        return
    xs, means, stds = map(np.array, zip(*curve, strict=True))
    style: Any = (0, look.dashes) if look.dashes else "-"
    order = 1 if look.colour == PALE else 2 + (look.width > 2)
    if look.colour != PALE and stds.any():
        low, high = np.maximum(means - stds, 0), np.minimum(means + stds, 100)
        axes.fill_between(xs, low, high, color=look.colour, alpha=0.1, linewidth=0, zorder=order)
    axes.plot(
        xs, means, color=look.colour, linestyle=style, linewidth=look.width, marker=look.marker or "", markersize=5,
        markeredgecolor="white", markeredgewidth=0.5, zorder=order,
    )  # fmt: skip


def mean_matrix(cell: Cell) -> NDArray[np.float64]:
    """Mean accuracy in percent over the cell's runs, (task learned, task tested); NaN where nothing was measured."""
    return np.array([outcome.accuracy_matrix for outcome in cell.outcomes], dtype=np.float64).mean(axis=0)


@figure("matrices", "Accuracy matrices")
def matrices(data: FigureData) -> Picture | None:
    """One heat map a row on a shared scale: after which task (down), on which task (across)."""
    cells, unit = data.cells, data.column.unit
    if len(cells) > _MOST_MATRICES:
        return None
    found = [mean_matrix(cell) for cell in cells]
    low = 10 * np.floor(min(float(np.nanmin(matrix)) for matrix in found) / 10)
    norm = Normalize(min(low, 90.0), 100)
    squares = Squares([row_label(cell) for cell in cells], len(found[0]))

    def draw(figure: Figure) -> None:
        grid = squares.draw(figure, norm, "accuracy (%)", f"accuracy on {unit}", f"after {unit}")
        squares.fill(grid, found, [_matrix_texts(matrix) for matrix in found], norm)

    caption = (
        f"Accuracy matrices, mean over runs: down, the {unit} just learned; across, the {unit} tested. A column that pales "
        f"downwards is a {unit} being forgotten."
        + (" Above the diagonal are domains that were still to come." if unit == "domain" else "")
    )
    lasts = "; ".join(
        f"{cell.row.label}: {', '.join(number(float(value), 1) for value in matrix[-1])}"
        for cell, matrix in zip(cells, found, strict=True)
    )
    alt = f"Accuracy matrices on {data.column.label}; their last rows are {lasts}."
    return Picture(draw, caption, alt, squares.size)


def _matrix_texts(matrix: NDArray[np.float64]) -> NDArray[Any]:
    tasks = len(matrix)
    # Many small numbers are unreadable: then only what was learned (diagonal) and what is left of it (last row) is written.
    written = np.full(matrix.shape, tasks <= 5) | np.eye(tasks, dtype=bool)
    written[-1] = True
    return np.where(written & np.isfinite(matrix), np.vectorize("{:.0f}".format)(matrix), "")
