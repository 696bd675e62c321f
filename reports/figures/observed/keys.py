"""Keys of a head's experts among the inputs of that head, on their first two principal components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from smope_bench.harness.records.observations import LABELS
from smope_bench.reports.figures.drawing.style import INK, colour_bar, panels, row_label
from smope_bench.reports.figures.kinds import FigureData, Picture, figure
from smope_bench.reports.formatting import seeds_text
from smope_bench.reports.loading.model import Run
from smope_bench.reports.loading.observed import DrawableRow, DrawableRows, evenly, gather, numbers

Array: TypeAlias = "NDArray[np.float64]"
POINTS, SHADES = 400, 40
_KEY = "#D55E00"


@dataclass(frozen=True)
class Points:
    """Inputs and keys of the first prompted block after all tasks: ``inputs`` (images, heads, width), ``keys`` (heads, experts,
    width), and each image's task from 0."""

    inputs: Array
    keys: Array
    tasks: NDArray[np.int64]


@dataclass(frozen=True)
class Projection:
    """Inputs (images, 2) and keys (experts, 2) on two principal components, with the components' shares of the variance."""

    inputs: Array
    keys: Array
    shares: tuple[float, float]


_Drawn: TypeAlias = "Sequence[tuple[DrawableRow[Points], int, Projection]]"


def read_points(arrays: Mapping[str, NDArray[Any]], run: Run) -> Points:
    """Take inputs, keys and labels of a run. Raises ValueError where they do not belong together."""
    inputs, keys = numbers(arrays, "head_inputs", 3), numbers(arrays, "prefix_keys", 5)[-1, 0]
    labels = numbers(arrays, LABELS, 1).astype(np.int64)
    if len(labels) != len(inputs) or inputs.shape[1:] != (len(keys), keys.shape[-1]) or keys.shape[-1] < 2:
        raise ValueError(f"inputs {inputs.shape}, keys {keys.shape} and {len(labels)} labels do not fit")
    return Points(inputs, keys, tasks_of(labels, run))


def tasks_of(labels: NDArray[np.int64], run: Run) -> NDArray[np.int64]:
    """The task, from 0, of each label in order of arrival. Raises ValueError for a label of no task."""
    if run.outcome is None:
        raise ValueError("a run without a record has no tasks")
    if run.outcome.domains:
        raise ValueError("the classes of a domain-incremental run belong to every task")
    tasks, config = run.outcome.tasks, run.outcome.spec.get("benchmark", {}).get("config", {})
    classes = len(run.outcome.class_names) or int(labels.max()) + 1
    sizes = config.get("split") or [classes // tasks + (task < classes % tasks) for task in range(tasks)]
    found = np.searchsorted(np.cumsum(sizes), labels, side="right")
    if labels.min() < 0 or found.max() >= tasks:
        raise ValueError(
            f"labels from {labels.min()} to {labels.max()} are not those of {tasks} tasks of {sizes} classes"
        )
    return found


def project(inputs: Array, keys: Array) -> Projection:
    """Principal components of inputs (images, width) and keys (experts, width) together.

    A component's sign is arbitrary; here its largest loading is positive.
    """
    both = np.concatenate([inputs, keys])
    both = both - both.mean(axis=0)
    _, sizes, axes = np.linalg.svd(both, full_matrices=False)
    axes = axes[:2] * np.sign(axes[np.arange(2), np.abs(axes[:2]).argmax(axis=1)])[:, None]
    shares = np.square(sizes) / max(np.square(sizes).sum(), np.finfo(float).tiny)
    placed = (both @ axes.T).round(6)
    return Projection(placed[: len(inputs)], placed[len(inputs) :], (float(shares[0]), float(shares[1])))


def best_head(points: Points) -> tuple[int, Projection]:
    """The head, from 0, of which two components show most, and its projection."""
    all_of_them = [project(points.inputs[:, head], keys) for head, keys in enumerate(points.keys)]
    head = int(np.argmax([round(sum(found.shares), 9) for found in all_of_them]))
    return head, all_of_them[head]


@figure("key_projection", "Keys of experts among the inputs", needs="observations", drawn="named", file="keys")
def key_projection(data: FigureData) -> Picture | None:
    """Inputs and keys of one head, a panel a row; of several runs the first is drawn, as keys differ from run to run."""
    found = gather(data.cells, data.observed, read_points)
    if not found.rows:
        return None
    drawn = [(row, *best_head(row.values[0])) for row in found.rows]
    return Picture(
        lambda figure: _draw(figure, drawn),
        _caption(found),
        _alt(data.column.label, drawn),
        (7.6, 3.3 * len(drawn) + 0.5),
        tuple(row.cell.used[0].run_id for row in found.rows),
    )


def _draw(figure: Figure, drawn: _Drawn) -> None:
    """Two panels a row: everything, and the same plane close to the inputs, which may be small beside the keys."""
    grid = panels(figure, 2 * len(drawn), 2, share=False)
    tasks = max(int(row.values[0].tasks.max()) + 1 for row, _, _ in drawn)
    shades = task_shades(tasks)
    for (row, head, placed), axes, close in zip(drawn, grid[::2], grid[1::2], strict=True):
        for panel in (axes, close):
            _draw_points(
                panel, row.values[0], placed, {task: shades(task * shades.N // tasks) for task in range(tasks)}
            )
        corner, side = extent(placed.inputs)
        axes.add_patch(Rectangle(tuple(corner), side, side, fill=False, edgecolor=INK, linewidth=0.8, zorder=4))
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xlabel(f"component 1 ({100 * placed.shares[0]:.0f} % of the variance)")
        axes.set_ylabel(f"component 2 ({100 * placed.shares[1]:.0f} %)")
        axes.set_title(f"block 1, head {head + 1}" if len(drawn) == 1 else row_label(row.cell), loc="left")
        close.set(xlim=(corner[0], corner[0] + side), ylim=(corner[1], corner[1] + side), aspect="equal")
        close.set(xlabel="component 1", ylabel="")
        close.set_title("inside the frame" if len(drawn) == 1 else f"head {head + 1}, inside the frame", loc="left")
    norm = BoundaryNorm(np.linspace(0.5, tasks + 0.5, shades.N + 1), shades.N)
    bar = colour_bar(figure, grid, norm, "task of the input", shades, spacing="proportional", orientation="vertical")
    bar.set_ticks([int(task) + 1 for task in evenly(tasks, 10)])
    bar.minorticks_off()
    bar.ax.tick_params(length=0)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=2, frameon=False)


def task_shades(tasks: int) -> ListedColormap:
    """Dark to light in the order of the tasks, told apart in grey as well; the palest end is left out on white paper."""
    return ListedColormap(mpl.colormaps["viridis"](np.linspace(0, 0.92, min(tasks, SHADES))))


def extent(points: Array) -> tuple[Array, float]:
    """Lower left corner and side of a square around points (n, 2), with a margin; never without an area."""
    low, high = points.min(axis=0), points.max(axis=0)
    side = 1.16 * max(float((high - low).max()), 1e-3)
    return (low + high - side) / 2, side


def _draw_points(axes: Axes, points: Points, placed: Projection, palette: Mapping[int, Any]) -> None:
    import pandas as pd
    import seaborn as sns  # takes long to import, and most reports do not need it

    # In random order, since in that of the tasks the last one would lie on top of the others.
    kept = np.random.default_rng(0).permutation(evenly(len(placed.inputs), POINTS))
    inputs = pd.DataFrame(placed.inputs[kept], columns=["1", "2"]).assign(task=points.tasks[kept])
    keys = pd.DataFrame(placed.keys, columns=["1", "2"])
    place = {"x": "1", "y": "2", "ax": axes}
    sns.scatterplot(inputs, hue="task", palette=palette, s=9, linewidth=0, label="input", legend=False, **place)
    sns.scatterplot(
        keys, s=52, marker="X", color=_KEY, alpha=0.75, linewidth=0.7, zorder=3, label="key of an expert", legend=False,
        **place,
    )  # fmt: skip


def _caption(found: DrawableRows[Points]) -> str:
    row = found.rows[0]
    return found.caption(
        "Principal components of the inputs of a head of the first prompted block, the mean query of each test image that"
        " experts are scored against (dots, coloured by task), and of its experts' keys after all tasks (crosses), fitted"
        " on both together; both axes have one scale. Right: the same plane close to the inputs.",
        f"The head is the one of {len(row.values[0].keys)} of which two components show most of the variance; a"
        " component's largest loading is positive.",
        f"Drawn is the first run of each row ({seeds_text(row.cell.used[0])}); {found.each}."
        if found.is_repeated
        else "",
    )


def _alt(benchmark: str, drawn: _Drawn) -> str:
    def said(row: DrawableRow[Points], head: int, placed: Projection) -> str:
        inputs, keys = placed.inputs, placed.keys
        return (
            f"{row.cell.row.label}, head {head + 1}: {len(keys)} keys and {len(inputs)} inputs on components with"
            f" {100 * placed.shares[0]:.1f} and {100 * placed.shares[1]:.1f} % of the variance; inputs centre at"
            f" ({inputs[:, 0].mean():.1f}, {inputs[:, 1].mean():.1f}), keys at ({keys[:, 0].mean():.1f},"
            f" {keys[:, 1].mean():.1f}) with a spread of {keys[:, 0].std():.1f} and {keys[:, 1].std():.1f}"
        )

    return f"Keys of experts among inputs on {benchmark}. " + "; ".join(said(*one) for one in drawn) + "."
