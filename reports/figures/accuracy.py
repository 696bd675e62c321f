"""How accurate a suite's rows are, on one benchmark: at the end, after every task, and task by task."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from smope_bench.reports.figures.heatmap import draw_squares, shade_bar, shade_of
from smope_bench.reports.figures.style import (
    FigureFile,
    Looks,
    figure_file,
    frame,
    ink_on,
    legend_label,
    metric_values,
    render,
    row_label,
)
from smope_bench.reports.formatting import mean_std
from smope_bench.reports.loading.model import Cell, Column, run_ids, summarise
from smope_bench.reports.text import number


def final_figure(column: Column, cells: Sequence[Cell], name: str, looks: Looks) -> FigureFile:
    """Each run's FAA as a dot, the mean and its t-interval as a bar."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for y, cell in enumerate(cells):
            summary, colour = cell.summary("faa"), looks[cell.row.label]["color"]
            if summary is None:
                continue
            values = metric_values(cell, "faa")
            axes.plot(values, [y] * len(values), "o", color=colour, alpha=0.45, markersize=4, markeredgewidth=0)
            if summary.low is not None and summary.high is not None:
                axes.plot([summary.low, summary.high], [y, y], color=colour, linewidth=2, solid_capstyle="butt")
            axes.plot(summary.mean, y, marker="D", markersize=6, color=colour, markeredgecolor="white")
            axes.annotate(number(summary.mean, 1), (1.01, y), xycoords=("axes fraction", "data"), va="center")
        axes.set_yticks(range(len(cells)), [legend_label(cell) for cell in cells])
        axes.set_ylim(len(cells) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("FAA (%)")
        frame(axes.set_xlim, [value for cell in cells for value in _extent(cell)])

    alt = "; ".join(f"{cell.row.label} {mean_std(cell.summary('faa'))}" for cell in cells)
    caption = (
        "Final average accuracy: each run (dot), mean (diamond) and 95 % t-interval (bar). "
        "The bars are wide where runs are few."
    )
    return figure_file(
        draw,
        (7.2, 0.9 + 0.34 * len(cells)),
        f"{name}-final",
        title=f"FAA on {column.label}",
        caption=caption,
        alt=f"FAA on {column.label}: {alt}.",
        runs=run_ids(cells),
    )


def _extent(cell: Cell) -> list[float]:
    summary = cell.summary("faa")
    if summary is None:
        return []
    values = metric_values(cell, "faa")
    return [*values, summary.mean, *(bound for bound in (summary.low, summary.high) if bound is not None)]


def stages_figure(column: Column, cells: Sequence[Cell], name: str, looks: Looks) -> FigureFile:
    """A_t after every task: the mean over runs with a band of one standard deviation."""
    said: list[str] = []

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        said.extend(_draw_stages(axes, cell, looks[cell.row.label]) for cell in cells)
        axes.set_xticks(range(1, column.tasks + 1))
        axes.set_xlim(0.8, column.tasks + 0.2)
        axes.set_xlabel("tasks learned")
        axes.set_ylabel("average accuracy on the tasks seen (%)")
        low, high = axes.get_ylim()
        axes.set_ylim(max(-1.0, low), min(101.0, high))
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, handlelength=3.2, labelspacing=0.7)

    caption = (
        "Average accuracy on the tasks seen so far after each task: mean over runs, shaded by one standard deviation. "
        "Floors are dashed; a dotted line is a ceiling, which is trained once on everything."
    )
    # The legend has a line a row: with many rows it would leave no room for the curves.
    drawn = render(draw, (7.2, max(3.5, 0.9 + 0.2 * len(cells))), f"{name}-stages")
    alt = f"Average accuracy after each task on {column.label}: {'; '.join(said)}."
    title = f"Accuracy after each task on {column.label}"
    return FigureFile(f"{name}-stages", title, caption, alt, drawn.svg, drawn.png, drawn.pdf, run_ids(cells))


def _draw_stages(axes: Axes, cell: Cell, look: dict[str, object]) -> str:
    tasks = cell.outcomes[0].tasks
    curves = [outcome.stages for outcome in cell.outcomes]
    known = [[value for curve in curves if (value := curve[t]) is not None] for t in range(tasks)]
    points = [(t + 1, summarise(values)) for t, values in enumerate(known) if values]
    xs = [x for x, _ in points]
    means = np.array([summary.mean for _, summary in points if summary is not None])
    stds = np.array([(summary.std or 0.0) for _, summary in points if summary is not None])
    if len(xs) == 1 and tasks > 1:
        axes.axhline(means[0], linewidth=1.2, color=str(look["color"]), linestyle=":")
        axes.plot(xs, means, label=legend_label(cell), markersize=8, **look)  # pyright: ignore[reportArgumentType]
        return f"{cell.row.label} {means[0]:.1f} at the end"
    axes.plot(xs, means, label=legend_label(cell), markersize=4.5, **look)  # pyright: ignore[reportArgumentType]
    axes.fill_between(xs, means - stds, means + stds, color=str(look["color"]), alpha=0.13, linewidth=0)
    return f"{cell.row.label} from {means[0]:.1f} to {means[-1]:.1f}"


def mean_matrix(cell: Cell) -> NDArray[np.float64]:
    """Mean accuracy matrix (tasks, tasks) in percent over the cell's runs; NaN where nothing was measured."""
    stack = np.array([outcome.accuracy_matrix for outcome in cell.outcomes], dtype=np.float64)
    return stack.mean(axis=0)


def matrices_figure(column: Column, cells: Sequence[Cell], name: str) -> FigureFile:
    """One heat map a row on a shared scale: after which task (down), on which task (across)."""
    matrices = [mean_matrix(cell) for cell in cells]
    low = 10 * np.floor(min(float(np.nanmin(matrix)) for matrix in matrices) / 10)
    norm = Normalize(min(low, 90.0), 100)
    across = min(3 if len(cells) <= 9 else 4, len(cells))
    down = -(-len(cells) // across)

    def draw(figure: Figure) -> None:
        grid = figure.subplots(down, across, squeeze=False)
        for axes, cell, matrix in zip(grid.flat, cells, matrices, strict=False):
            _draw_matrix(axes, matrix, norm)
            axes.set_title(textwrap.fill(row_label(cell), 34 if across <= 3 else 22), loc="left", fontsize=9)
        for axes in grid.flat[len(cells) :]:
            axes.set_visible(False)
        for axes in grid[:, 0]:
            axes.set_ylabel("after task")
        for axes in grid.flat[max(0, len(cells) - across) : len(cells)]:
            axes.set_xlabel("accuracy on task")
        shade_bar(figure, grid, norm, "accuracy (%)", shrink=min(1.0, 1.6 / down))

    caption = (
        "Accuracy matrices, mean over runs: down, the task just learned; across, the task tested. A column that pales "
        "downwards is a task being forgotten."
    )
    lasts = "; ".join(
        f"{cell.row.label}: {', '.join(number(float(value), 1) for value in matrix[-1])}"
        for cell, matrix in zip(cells, matrices, strict=True)
    )
    alt = f"Accuracy matrices on {column.label}; their last rows are {lasts}."
    title = f"Accuracy matrices on {column.label}"
    size = (8.4, (2.5 if across <= 3 else 2.0) * down + 0.3)
    return figure_file(draw, size, f"{name}-matrices", title=title, caption=caption, alt=alt, runs=run_ids(cells))


def _draw_matrix(axes: Axes, matrix: NDArray[np.float64], norm: Normalize) -> None:
    tasks = len(matrix)
    draw_squares(axes, matrix, norm, 0.6)
    axes.set_aspect("equal")
    axes.invert_yaxis()
    ticks = np.arange(0, tasks, 1 if tasks <= 10 else -(-tasks // 6))
    axes.set_xticks(ticks + 0.5, [str(tick + 1) for tick in ticks])
    axes.set_yticks(ticks + 0.5, [str(tick + 1) for tick in ticks])
    # Many small numbers are unreadable: then only what was learned (diagonal) and what is left of it (last row) are told.
    size, every = (7.5, True) if tasks <= 5 else (5.5, False)
    for t, i in np.argwhere(~np.isnan(matrix)) if tasks <= 10 else ():
        if not (every or t == i or t == tasks - 1):
            continue
        ink = ink_on(shade_of(float(matrix[t, i]), norm))
        axes.text(i + 0.5, t + 0.5, f"{matrix[t, i]:.0f}", ha="center", va="center", fontsize=size, color=ink)
