"""Figures of training: the loss on held-out images after every epoch of each task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from smope_bench.harness.records.observations import VALIDATION_LOSS
from smope_bench.reports.figures.drawing.style import by_row, label_edges, panels, row_legend
from smope_bench.reports.figures.kinds import FigureData, Picture, figure
from smope_bench.reports.loading.model import Run
from smope_bench.reports.loading.observed import DrawableRows, gather, numbers

if TYPE_CHECKING:
    import pandas as pd

Losses: TypeAlias = "dict[int, dict[int, float]]"
"""Task, from 0 -> epoch, 0 before training -> mean cross-entropy."""
ACROSS = 5


def read_losses(arrays: Mapping[str, NDArray[Any]], _: Run) -> Losses:
    """Take the losses of a run. Raises ValueError where task, epoch and loss do not belong together."""
    task, epoch, loss = (numbers(arrays, f"{VALIDATION_LOSS}.{part}", 1) for part in ("task", "epoch", "loss"))
    if not len(task) == len(epoch) == len(loss) or (loss < 0).any():
        raise ValueError(f"{len(task)} tasks, {len(epoch)} epochs and {len(loss)} losses do not fit")
    found: Losses = {}
    for t, e, value in zip(task.astype(int).tolist(), epoch.astype(int).tolist(), loss.tolist(), strict=True):
        found.setdefault(t, {})[e] = value
    return found


@figure("validation_loss", "Validation loss", needs="observations", drawn="named", file="loss")
def validation_loss(data: FigureData) -> Picture | None:
    """Loss over the epochs of each task: a panel a task, a line a row, all panels on one scale."""
    found = gather(data.cells, data.observed, read_losses, form=lambda losses: tuple(sorted(losses)))
    if not found.rows:
        return None
    losses = loss_table(found)
    tasks = sorted(losses["task"].unique())
    across, epochs = min(ACROSS, len(tasks)), losses["epoch"].nunique()
    down = -(-len(tasks) // across)

    def draw(figure: Figure) -> None:
        import seaborn as sns  # takes long to import, and most reports do not need it

        drawn = panels(figure, len(tasks), across)
        for axes, (task, part) in zip(drawn, losses.groupby("task"), strict=True):
            sns.lineplot(
                part, x="epoch", y="loss", errorbar=("pi", 100), err_kws={"alpha": 0.18, "linewidth": 0}, markersize=4.5,
                markevery=max(1, epochs // 6), ax=axes, **by_row(data.looks),
            )  # fmt: skip
            axes.set_title(f"task {task}", loc="left")
        label_edges(drawn, across, "epoch", "loss")
        _scale(drawn[0], losses)
        cells = [row.cell for row in found.rows]
        row_legend(figure, cells, data.looks, loc="outside upper left", ncols=min(3, across))

    return Picture(
        draw,
        _caption(found),
        _alt(data.column.label, found, losses),
        (max(4.4, 1.65 * across + 0.6), 1.6 * down + 0.6 + 0.2 * -(-len(found.rows) // 3)),
        found.runs,
    )


def loss_table(found: DrawableRows[Losses]) -> pd.DataFrame:
    """One line a row, run, task (from 1) and epoch."""
    import pandas as pd

    return pd.DataFrame(
        [
            (row.cell.row.label, task + 1, epoch, loss)
            for row in found.rows
            for losses in row.values
            for task, epochs in losses.items()
            for epoch, loss in epochs.items()
        ],
        columns=["row", "task", "epoch", "loss"],
    )


def _scale(axes: Axes, losses: pd.DataFrame) -> None:
    """Whole epochs, and a scale of ratios where the losses span enough to need one; the other panels share both."""
    low, high = min(losses["loss"]), max(losses["loss"])
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    if low <= 0 or high < 3 * low:
        return
    axes.set_yscale("log")
    axes.set_ylim(low / 1.15, high * 1.15)
    axes.yaxis.set_major_locator(FixedLocator([n * 10.0**power for power in range(-9, 9) for n in (1, 2, 5)]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _caption(found: DrawableRows[Losses]) -> str:
    return found.caption(
        "Mean cross-entropy of a task's held-out images among the task's own classes, before its training and after every"
        f" epoch, counted through all phases; mean over runs ({found.each}).",
        "Shades reach from the lowest run to the highest." if found.is_repeated else "",
        "Lower is better, and a line that falls sooner belongs to what learns faster.",
    )


def _alt(benchmark: str, found: DrawableRows[Losses], losses: pd.DataFrame) -> str:
    means: Any = losses.groupby(["row", "task", "epoch"])["loss"].mean()
    first, last = (means.groupby(["row", "task"]).agg(end) for end in ("first", "last"))

    def said(label: str) -> str:
        ends = ", ".join(f"{loss:.2f}" for loss in last[label])
        return f"{label}: {first[label].mean():.2f} at first on average, at the end {ends}"

    return (
        f"Validation loss through the training of each of {len(losses['task'].unique())} tasks on {benchmark}. "
        f"{'; '.join(said(row.cell.row.label) for row in found.rows)}."
    )
