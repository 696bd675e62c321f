"""Squares in shades of one colour: the heat maps of accuracy matrices and of settings."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from numpy.typing import NDArray

from smope_bench.reports.figures.style import SHADES


def shade_of(value: float, norm: Normalize) -> tuple[float, float, float, float]:
    """The colour of a number: red, green, blue, opacity."""
    red, green, blue, opacity = map(float, SHADES(norm(value)))
    return red, green, blue, opacity


def draw_squares(axes: Axes, values: NDArray[np.float64], norm: Normalize, edge: float) -> None:
    """Unit squares, ``values[i, j]`` from (j, i) to (j + 1, i + 1), NaN left out; ``edge`` is the white line's width in points.

    Squares of one shade are one path, which makes the vector file a third of a mesh's.
    """
    shades: dict[tuple[float, ...], list[Path]] = {}
    for i, j in np.argwhere(~np.isnan(values)):
        square = Path([(j, i), (j + 1, i), (j + 1, i + 1), (j, i + 1), (j, i)], closed=True)
        shades.setdefault(shade_of(float(values[i, j]), norm), []).append(square)
    for shade, squares in shades.items():
        path = Path.make_compound_path(*squares)
        axes.add_patch(PathPatch(path, facecolor=shade, edgecolor="white", linewidth=edge, clip_on=False))
    axes.set_xlim(0, values.shape[1])
    axes.set_ylim(0, values.shape[0])
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def shade_bar(figure: Figure, axes: Any, norm: Normalize, label: str, **place: Any) -> None:
    """The colour bar beside one or several axes."""
    bar = figure.colorbar(ScalarMappable(norm, SHADES), ax=axes, aspect=24, pad=0.02, **place)
    bar.set_label(label)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
