"""How the loss of training fell, method by method and task by task, from the event logs of the runs."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from smope_bench.reports.figures.drawing.style import SMALL, WIDTH, Margins, inch_panels, label_edges
from smope_bench.reports.figures.kinds import FigureData, Picture, figure
from smope_bench.reports.loading.model import Cell
from smope_bench.reports.text import shortened

ACROSS = 3
MOST_POINTS = 600
"""Points of a panel beyond which only every second epoch, every third and so on is drawn."""


@dataclass(frozen=True)
class Losses:
    """Mean loss of each epoch of a run, ``parts`` naming the task, from 1, and phase of each."""

    parts: tuple[tuple[int, str], ...]
    values: tuple[float, ...]


def losses_of(events: Iterable[Mapping[str, Any]]) -> Losses | None:
    """The losses that a log has, in the order of epochs; None where it has none that can be drawn."""
    parts, values = [], []
    for event in events:
        task, loss = event.get("task"), event.get("loss")
        if event.get("event") == "epoch" and isinstance(task, int) and isinstance(loss, int | float):
            parts.append((task + 1, str(event.get("phase", ""))))
            values.append(float(loss))
    return Losses(tuple(parts), tuple(values)) if values and all(map(math.isfinite, values)) else None


@figure("losses", "Training loss")
def losses(data: FigureData) -> Picture | None:
    """A small panel a method: the mean loss of each epoch over the runs, a line for each phase of each task."""
    curves = [(cell, *found) for cell in data.cells if (found := _mean(cell, data)) is not None]
    if not curves:
        return None

    across = min(ACROSS, len(curves))

    def draw(figure: Figure) -> None:
        axes = inch_panels(figure, len(curves), across, Margins(0.66, 0.1, 0.45, 0.4), (0.5, 0.62))
        for place, (cell, mean, _) in zip(axes, curves, strict=True):
            every = -(-len(mean.values) // MOST_POINTS)
            for _, part in itertools.groupby(enumerate(mean.parts, start=1), key=lambda item: item[1]):
                epochs = [epoch for epoch, _ in part]
                shown = sorted({*epochs[::every], epochs[-1]})
                place.plot(
                    shown,
                    [mean.values[epoch - 1] for epoch in shown],
                    color=data.looks[cell.row.label].colour,
                    linewidth=1,
                    marker="." if len(shown) == 1 else "",
                    markersize=3,
                )
            place.set_title(textwrap.fill(shortened(cell.row.label), 17), fontsize=SMALL)
            place.set_ylim(bottom=min(0.0, *mean.values))
            place.xaxis.set_major_locator(MaxNLocator(3, integer=True))
            place.yaxis.set_major_locator(MaxNLocator(3))
        label_edges(axes, across, "epoch of the run", "loss")

    runs = tuple(run_id for _, _, drawn in curves for run_id in drawn)
    said = "; ".join(f"{cell.row.label} from {mean.values[0]:.3g} to {mean.values[-1]:.3g}" for cell, mean, _ in curves)
    caption = (
        f"Mean training loss of each epoch, mean over runs; a line for each {data.column.unit} (and phase of its training), "
        "epochs counted through the run. Losses of different methods have different terms and are not to be compared. "
        "From the runs' event logs, which no seal covers. Methods without gradients have none."
    )
    alt = f"Training loss on {data.column.label}, first and last epoch: {said}."
    return Picture(draw, caption, alt, (WIDTH, 0.25 + 1.22 * -(-len(curves) // across)), runs)


def _mean(cell: Cell, data: FigureData) -> tuple[Losses, tuple[str, ...]] | None:
    """Mean over the cell's runs that have as many epochs as the first, and their ids; None where no log has losses."""
    found = {run.run_id: losses_of(data.logged(run.run_id)) for run in cell.used}
    kept = {run_id: one for run_id, one in found.items() if one is not None}
    first = next(iter(kept.values()), None)
    if first is None:
        return None
    alike = {run_id: one for run_id, one in kept.items() if one.parts == first.parts}
    means = tuple(map(fmean, zip(*(one.values for one in alike.values()), strict=True)))
    return Losses(first.parts, means), tuple(alike)
