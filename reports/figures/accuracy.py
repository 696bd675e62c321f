"""How accurate a suite's rows are on one benchmark: at the end, after every task, and task by task."""

from __future__ import annotations

import textwrap
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from smope_bench.reports.figures.kinds import FigureData, Picture, figure
from smope_bench.reports.figures.style import (
    INK,
    by_row,
    colour_bar,
    draw_heat_map,
    label_edges,
    legend_label,
    panels,
    row_label,
    row_legend,
    t_interval,
    within_percent,
)
from smope_bench.reports.formatting import mean_std
from smope_bench.reports.loading.model import Cell
from smope_bench.reports.text import number

_MOST_MATRICES = 20


@figure("final", "FAA")
def final(data: FigureData) -> Picture:
    """Each run's FAA as a dot, the mean and its t-interval as a bar."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        rows = {"x": "faa", "y": "row", "order": [cell.row.label for cell in data.cells], "orient": "h", "ax": axes}
        palette = by_row(data.looks)["palette"]
        sns.stripplot(data.runs, **rows, hue="row", palette=palette, legend=False, jitter=False, alpha=0.6, size=4.5)
        sns.pointplot(
            data.runs, **rows, errorbar=t_interval, color=INK, err_kws={"linewidth": 1.5}, linestyle="none", marker="D",
            markersize=5.5, markeredgecolor="white", markeredgewidth=1,
        )  # fmt: skip
        for y, cell in enumerate(data.cells):
            summary = cell.summary("faa")
            text = "" if summary is None else number(summary.mean, 1)
            axes.annotate(text, (1.01, y), xycoords=("axes fraction", "data"), va="center")
        axes.set_yticks(range(len(data.cells)), [legend_label(cell) for cell in data.cells])
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.set(xlabel="FAA (%)", ylabel="")
        within_percent(axes, "x")

    caption = (
        "Final average accuracy: each run (dot), mean (diamond) and 95 % t-interval (bar). "
        "The bars are wide where runs are few."
    )
    alt = "; ".join(f"{cell.row.label} {mean_std(cell.summary('faa'))}" for cell in data.cells)
    return Picture(draw, caption, f"FAA on {data.column.label}: {alt}.", (7.2, 0.9 + 0.34 * len(data.cells)))


@figure("stages", "Accuracy after each task")
def stages(data: FigureData) -> Picture:
    """A_t after every task: the mean over runs with a band of one standard deviation."""
    curves = pd.DataFrame(
        [
            (cell.row.label, task, accuracy)
            for cell in data.cells
            for outcome in cell.outcomes
            for task, accuracy in enumerate(outcome.stages, 1)
            if accuracy is not None
        ],
        columns=["row", "task", "accuracy"],
    )
    means: Any = curves.groupby(["row", "task"])["accuracy"].agg(fmean)
    tasks, unit = data.column.tasks, data.column.unit

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        sns.lineplot(
            curves, x="task", y="accuracy", errorbar="sd", err_kws={"alpha": 0.13, "linewidth": 0}, markersize=5.5,
            markeredgewidth=0.5,            ax=axes, **by_row(data.looks),
        )  # fmt: skip
        for cell in data.cells:
            if tasks > 1 and len(means[cell.row.label]) == 1:  # Trained once on everything: a level to compare with.
                colour = data.looks[cell.row.label].colour
                axes.axhline(means[cell.row.label].iloc[0], linewidth=1.2, color=colour, linestyle=":")
        axes.set_xticks(range(1, tasks + 1))
        axes.set_xlim(0.8, tasks + 0.2)
        axes.set(xlabel=f"{unit}s learned", ylabel=f"average accuracy on the {unit}s seen (%)")
        within_percent(axes, "y")
        row_legend(axes, data.cells, data.looks, loc="center left", bbox_to_anchor=(1.01, 0.5), labelspacing=0.7)

    def said(cell: Cell) -> str:
        curve = means[cell.row.label]
        if len(curve) == 1 and tasks > 1:
            return f"{cell.row.label} {curve.iloc[0]:.1f} at the end"
        return f"{cell.row.label} from {curve.iloc[0]:.1f} to {curve.iloc[-1]:.1f}"

    caption = (
        f"Average accuracy on the {unit}s seen so far after each {unit}: mean over runs, shaded by one standard deviation. "
        "Floors are dashed; a dotted line is a ceiling, which is trained once on everything."
    )
    alt = f"Average accuracy after each {unit} on {data.column.label}: {'; '.join(map(said, data.cells))}."
    # The legend has a line a row: with many rows it would leave no room for the curves.
    return Picture(draw, caption, alt, (7.2, max(3.5, 0.9 + 0.2 * len(data.cells))))


def mean_matrix(cell: Cell) -> pd.DataFrame:
    """Mean accuracy in percent over the cell's runs, (task learned, task tested) from 1; NaN where nothing was measured."""
    mean = np.array([outcome.accuracy_matrix for outcome in cell.outcomes], dtype=np.float64).mean(axis=0)
    tasks = range(1, len(mean) + 1)
    return pd.DataFrame(mean, index=tasks, columns=tasks)


@figure("matrices", "Accuracy matrices")
def matrices(data: FigureData) -> Picture | None:
    """One heat map a row on a shared scale: after which task (down), on which task (across)."""
    cells, unit = data.cells, data.column.unit
    if len(cells) > _MOST_MATRICES:
        return None
    found = [mean_matrix(cell) for cell in cells]
    low = 10 * np.floor(min(float(matrix.min(axis=None)) for matrix in found) / 10)
    norm = Normalize(min(low, 90.0), 100)
    across = min(3 if len(cells) <= 9 else 4, len(cells))
    down = -(-len(cells) // across)

    def draw(figure: Figure) -> None:
        grid = panels(figure, len(cells), across, share=False)
        for axes, cell, matrix in zip(grid, cells, found, strict=True):
            _draw_matrix(axes, matrix, norm)
            axes.set_title(textwrap.fill(row_label(cell), 34 if across <= 3 else 22), loc="left", fontsize=9)
        label_edges(grid, across, f"accuracy on {unit}", f"after {unit}")
        colour_bar(figure, grid, norm, "accuracy (%)", shrink=min(1.0, 1.6 / down))

    caption = (
        f"Accuracy matrices, mean over runs: down, the {unit} just learned; across, the {unit} tested. A column that pales "
        f"downwards is a {unit} being forgotten."
        + (" Above the diagonal are domains that were still to come." if unit == "domain" else "")
    )
    lasts = "; ".join(
        f"{cell.row.label}: {', '.join(number(float(value), 1) for value in matrix.iloc[-1])}"
        for cell, matrix in zip(cells, found, strict=True)
    )
    alt = f"Accuracy matrices on {data.column.label}; their last rows are {lasts}."
    return Picture(draw, caption, alt, (8.4, (2.5 if across <= 3 else 2.0) * down + 0.3))


def _draw_matrix(axes: Axes, matrix: pd.DataFrame, norm: Normalize) -> None:
    tasks = len(matrix)
    # Many small numbers are unreadable: then only what was learned (diagonal) and what is left of it (last row) is written.
    written = np.full(matrix.shape, tasks <= 5) | np.eye(tasks, dtype=bool)
    written[-1] = True
    texts = np.where(written, matrix.map("{:.0f}".format), "")
    every = 1 if tasks <= 10 else -(-tasks // 6)
    names = [str(task) if (task - 1) % every == 0 else "" for task in range(1, tasks + 1)]
    draw_heat_map(
        axes, matrix, texts if tasks <= 10 else None, norm, names, names, linewidths=0.6, square=True,
        annot_kws={"fontsize": 7.5 if tasks <= 5 else 5.5},
    )  # fmt: skip
