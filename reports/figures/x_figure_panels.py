"""Small multiples: panels of one figure in reading order, with axis names at the edges only."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure


def panels(
    figure: Figure, count: int, across: int, *, xlabel: str = "", ylabel: str = "", share: bool = True
) -> list[Axes]:
    """``count`` panels, ``across`` in a row. With ``share`` all have the same axes, whose ticks are named at the edges."""
    shared: dict[str, Any] = {"sharex": share, "sharey": share}
    grid = figure.subplots(-(-count // across), across, squeeze=False, **shared)
    for k, axes in enumerate(grid.flat):
        axes.set_visible(k < count)
        if k % across == 0:
            axes.set_ylabel(ylabel)
        if k + across >= count:  # nothing that is seen stands below
            axes.set_xlabel(xlabel)
            axes.tick_params(labelbottom=True)
    return list(grid.flat[:count])
