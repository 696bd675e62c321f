"""Figures of training: the loss on held-out images after every epoch of each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from smope_bench.benchmarks.suites.schema import Drawing
from smope_bench.harness.records.observations import VALIDATION_LOSS
from smope_bench.reports.figures.style import COLOURS, MARKERS, FigureFile, figure_file, legend_label, panels
from smope_bench.reports.loading.model import Cell, Column, Run
from smope_bench.reports.loading.observed import Gathered, Observed, Seen, gather, numbers

Losses: TypeAlias = "dict[int, dict[int, float]]"
"""Task, from 0 -> epoch, 0 before training -> mean cross-entropy."""
ACROSS = 5
_DASHES = ("-", (0, (4, 1.6)), (0, (1, 1.4)), (0, (5, 1.5, 1, 1.5)))


def read_losses(arrays: Mapping[str, NDArray[Any]], _: Run) -> Losses:
    """Take the losses of a run. Raises ValueError where task, epoch and loss do not belong together."""
    task, epoch, loss = (numbers(arrays, f"{VALIDATION_LOSS}.{part}", 1) for part in ("task", "epoch", "loss"))
    if not len(task) == len(epoch) == len(loss) or (loss < 0).any():
        raise ValueError(f"{len(task)} tasks, {len(epoch)} epochs and {len(loss)} losses do not fit")
    found: Losses = {}
    for t, e, value in zip(task.astype(int).tolist(), epoch.astype(int).tolist(), loss.tolist(), strict=True):
        found.setdefault(t, {})[e] = value
    return found


def validation_loss(
    _: Drawing, column: Column, cells: Sequence[Cell], name: str, observed: Observed
) -> FigureFile | None:
    """Loss over the epochs of each task: a panel a task, a line a row, all panels on one scale."""
    found = gather(cells, observed, read_losses, form=lambda losses: tuple(sorted(losses)))
    if not found.rows:
        return None
    tasks = sorted(found.rows[0].values[0])
    across = min(ACROSS, len(tasks))
    down = -(-len(tasks) // across)

    def draw(figure: Figure) -> None:
        drawn = panels(figure, len(tasks), across, xlabel="epoch", ylabel="loss")
        for axes, task in zip(drawn, tasks, strict=True):
            for i, row in enumerate(found.rows):
                _draw_losses(axes, row, task, i)
            axes.set_title(f"task {task + 1}", loc="left")
        _scale(drawn[0], found)
        handles, labels = drawn[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=min(3, across), frameon=False, handlelength=3.2)

    return figure_file(
        draw,
        (max(4.4, 1.65 * across + 0.6), 1.6 * down + 0.6 + 0.2 * -(-len(found.rows) // 3)),
        f"{name}-loss",
        title=f"Validation loss on {column.label}",
        caption=_caption(found),
        alt=_alt(column, found, tasks),
        runs=found.runs,
    )


def curve(row: Seen[Losses], task: int) -> NDArray[np.float64]:
    """Epoch, mean, lowest and highest loss over the runs that have the epoch: (4, epochs)."""
    epochs = sorted({epoch for losses in row.values for epoch in losses[task]})
    values = [[losses[task][epoch] for losses in row.values if epoch in losses[task]] for epoch in epochs]
    points = [(e, float(np.mean(found)), min(found), max(found)) for e, found in zip(epochs, values, strict=True)]
    return np.array(points).T


def _draw_losses(axes: Axes, row: Seen[Losses], task: int, i: int) -> None:
    epochs, mean, low, high = curve(row, task)
    colour, dash = COLOURS[i % len(COLOURS)], _DASHES[i % len(_DASHES)]
    marker = MARKERS[i % len(MARKERS)] if len(epochs) <= 12 else ""
    axes.plot(epochs, mean, color=colour, linestyle=dash, marker=marker, markersize=4, label=legend_label(row.cell))
    if len(row.values) > 1:
        axes.fill_between(epochs, low, high, color=colour, alpha=0.18, linewidth=0)


def _scale(axes: Axes, found: Gathered[Losses]) -> None:
    """Whole epochs, and a scale of ratios where the losses span enough to need one; the other panels share both."""
    values = [loss for row in found.rows for losses in row.values for task in losses.values() for loss in task.values()]
    low, high = min(values), max(values)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    if low <= 0 or high < 3 * low:
        return
    axes.set_yscale("log")
    axes.set_ylim(low / 1.15, high * 1.15)
    axes.yaxis.set_major_locator(FixedLocator([n * 10.0**power for power in range(-9, 9) for n in (1, 2, 5)]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _caption(found: Gathered[Losses]) -> str:
    return found.caption(
        "Mean cross-entropy of a task's held-out images among the task's own classes, before its training and after every"
        f" epoch, counted through all phases; mean over runs ({found.each}).",
        "Shades reach from the lowest run to the highest." if found.is_repeated else "",
        "Lower is better, and a line that falls sooner belongs to what learns faster.",
    )


def _alt(column: Column, found: Gathered[Losses], tasks: Sequence[int]) -> str:
    def said(row: Seen[Losses]) -> str:
        parts = [curve(row, task)[1] for task in tasks]
        ends = ", ".join(f"{mean[-1]:.2f}" for mean in parts)
        return (
            f"{row.cell.row.label}: {np.mean([mean[0] for mean in parts]):.2f} at first on average, at the end {ends}"
        )

    return f"Validation loss through the training of each of {len(tasks)} tasks on {column.label}. " + (
        "; ".join(map(said, found.rows)) + "."
    )
