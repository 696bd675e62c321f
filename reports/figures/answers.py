"""Where a method errs, from the stored predictions after the last task: confusion between tasks, and accuracy class by class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from smope_bench.harness.errors import UserError
from smope_bench.harness.trained.answers import Answers
from smope_bench.reports.figures.drawing.style import WIDTH, Squares, colour_bar, draw_heat_map, row_label
from smope_bench.reports.figures.kinds import FigureData, Picture, figure
from smope_bench.reports.loading.model import Cell
from smope_bench.reports.text import listed, number

MOST = 12
"""Rows of a figure: the row compared with, then the best by mean FAA."""
MOST_CLASSES = 40
"""Classes that have a column each; of more, the classes of a task share one."""


@dataclass(frozen=True)
class _Row:
    """A row with what its runs answered, in the order of the runs."""

    cell: Cell
    answers: tuple[Answers, ...]
    runs: tuple[str, ...]


def _rows(data: FigureData) -> list[_Row]:
    """The rows whose runs have stored predictions, at most ``MOST`` of them, in the order of the data's cells."""
    means = {cell.place: found.mean for cell in data.cells if (found := cell.summary("faa"))}
    best = sorted(means, key=lambda place: (place[0] != data.results.reference, -round(means[place], 2)))[:MOST]
    rows = []
    for cell in data.cells:
        found = []
        for outcome in cell.outcomes if cell.place in best else ():
            try:
                found.append((outcome.run_id, data.answered(outcome)))
            except UserError:
                continue
        if found:
            rows.append(_Row(cell, tuple(one for _, one in found), tuple(run for run, _ in found)))
    return rows


@figure("confusion", "Confusion between tasks")
def confusion(data: FigureData) -> Picture | None:
    """A panel a row: the share of each task's test images that were predicted as a class of each task."""
    rows = [] if data.column.protocol == "domain" or data.column.tasks < 2 else _rows(data)
    if not rows:
        return None
    tables = [_mean(row, lambda one: _shares(one.task_confusion())) for row in rows]
    tasks = tables[0].shape[0]
    squares = Squares([row_label(row.cell) for row in rows], tasks)
    wrong = [float(np.where(np.eye(tasks, dtype=bool), 0, table).max()) for table in tables]
    # The diagonal would drown what is to be seen, so errors end the scale; a few images must not look like a pattern.
    norm = Normalize(0, max(10.0, *wrong))

    def draw(figure: Figure) -> None:
        grid = squares.draw(figure, norm, "test images of the task (%)", "predicted task", "true task")
        shown = np.where(np.eye(tasks, dtype=bool), np.nan, tables)
        squares.fill(grid, shown, np.where(shown >= 0.5, np.vectorize("{:.0f}".format)(shown), ""), norm)
        for axes in grid:
            axes.set_facecolor("#eef0f3")

    said = "; ".join(
        f"{row.cell.row.label} takes {number(100 - float(np.diag(table).mean()), 1)} % of images for a class of another task"
        for row, table in zip(rows, tables, strict=True)
    )
    caption = (
        "Share of each task's test images (down) that are predicted as a class of each task (across), mean over runs, from the "
        "stored predictions after the last task; a task's own square is grey, and shares below half a percent have no number. "
        "A column that darkens draws images of other "
        f"tasks to itself.{_left_out(data, rows)}"
    )
    return Picture(
        draw,
        caption,
        f"Confusion between tasks on {data.column.label}: {said}.",
        squares.size,
        tuple(run for row in rows for run in row.runs),
    )


@figure("per_class", "Accuracy of each class")
def per_class(data: FigureData) -> Picture | None:
    """A line of shades a row: the accuracy of every class, or of every task's hardest class where classes are many."""
    rows = _rows(data)
    if not rows:
        return None
    named = [_by_class(row) for row in rows]
    classes = list(named[0])
    if any(set(one) != set(classes) for one in named) or len(classes) < 2:
        return None
    mean = {name: float(np.mean([one[name] for one in named])) for name in classes}
    classes.sort(key=lambda name: (round(mean[name], 6), name))
    is_cut = len(classes) > MOST_CLASSES
    shown = classes[:MOST_CLASSES]
    table = np.array([[one[name] for name in shown] for one in named])
    norm = Normalize(min(10 * np.floor(float(table.min()) / 10), 90.0), 100)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        labels = [name if len(name) <= 14 else f"{name[:13]}…" for name in shown]
        draw_heat_map(axes, table, None, norm, labels, [row_label(row.cell) for row in rows], line=0.4)
        axes.tick_params(axis="x", rotation=90)
        colour_bar(figure, [axes], norm, "accuracy (%)")

    hardest = listed([f"{name} {number(mean[name], 1)} %" for name in classes[:3]])
    caption = (
        "Accuracy on the test images of each class after the last task, mean over runs; the hardest class by the mean over rows "
        f"stands left{f', the {MOST_CLASSES} hardest of {len(classes)} are drawn' * is_cut}. Of few test images a class, "
        f"near shades say little.{_left_out(data, rows)}"
    )
    alt = f"Accuracy of each class on {data.column.label}; over all rows the hardest are {hardest}."
    size = (max(WIDTH, 1.9 + 0.14 * len(shown)), 1.7 + 0.24 * len(rows))
    return Picture(draw, caption, alt, size, tuple(run for row in rows for run in row.runs))


def _by_class(row: _Row) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for one in row.answers:
        for name, _, accuracy in one.per_class():
            found.setdefault(name, []).append(accuracy)
    return {name: float(np.mean(values)) for name, values in found.items()}


def _mean(row: _Row, table: Callable[[Answers], NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.mean([table(one) for one in row.answers], axis=0)


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    return 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def _left_out(data: FigureData, rows: Sequence[_Row]) -> str:
    drawn = {row.cell.place for row in rows}
    missing = [cell.row.label for cell in data.cells if cell.place not in drawn]
    return f" Not drawn, without stored predictions or beyond the {MOST} best: {listed(missing)}." if missing else ""
