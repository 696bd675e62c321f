"""The scores by which the experts of a head are chosen, as box plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cbook import boxplot_stats
from matplotlib.figure import Figure
from numpy.typing import NDArray

from smope_bench.reports.figures.drawing.style import COLOURS, GREY, INK, label_edges, panels, row_label
from smope_bench.reports.figures.kinds import FigureData, Picture, figure
from smope_bench.reports.loading.model import Run
from smope_bench.reports.loading.observed import DrawableRow, DrawableRows, evenly, gather, numbers

Array: TypeAlias = "NDArray[np.float64]"
FLIERS = 12


@dataclass(frozen=True)
class Scores:
    """Scores (images, heads, experts) of one run, and by head the mean over images of the highest minus the lowest."""

    scores: Array

    @property
    def ranges(self) -> Array:
        """(heads,)"""
        return np.ptp(self.scores, axis=2).mean(axis=0)


def read_scores(arrays: Mapping[str, NDArray[Any]], _: Run) -> Scores:
    """Scores of the experts of the first prompted block. Raises ValueError where they are not."""
    return Scores(numbers(arrays, "expert_scores", 3))


@figure("score_boxes", "Scores of experts", needs="observations", drawn="named", file="scores")
def score_boxes(data: FigureData) -> Picture | None:
    """Box plots of the experts' scores in each head of the first prompted block, a panel a row."""
    found = gather(data.cells, data.observed, read_scores, form=lambda value: value.scores.shape[1:])
    if not found.rows:
        return None
    heads, experts = found.rows[0].values[0].scores.shape[1:]
    boxes = [[box_of(row.values, head) for head in range(heads)] for row in found.rows]

    def draw(figure: Figure) -> None:
        drawn = panels(figure, len(boxes), 1)
        for axes, row, stats in zip(drawn, found.rows, boxes, strict=True):
            _draw_boxes(axes, row, stats)
            if len(boxes) > 1:
                axes.set_title(row_label(row.cell), loc="left")
        label_edges(drawn, 1, "head of the first prompted block", "score (unscaled)")

    return Picture(
        draw,
        _scores_caption(found, experts),
        _scores_alt(data.column.label, found, boxes),
        (max(4.6, 0.52 * heads + 1.2), 2.6 * len(found.rows) + 0.5),
        found.runs,
    )


def box_of(values: Sequence[Scores], head: int) -> dict[str, Any]:
    """What a box shows of a head's scores in all runs together, as matplotlib names it, with a few of its outliers."""
    (box,) = boxplot_stats(np.concatenate([value.scores[:, head].ravel() for value in values]))
    outliers = np.sort(box["fliers"])
    sides = outliers[outliers < box["q1"]], outliers[outliers > box["q3"]]
    return {**box, "fliers": np.concatenate([side[evenly(len(side), FLIERS)] for side in sides if len(side)] or [[]])}


def _draw_boxes(axes: Axes, row: DrawableRow[Scores], stats: Sequence[Mapping[str, Any]]) -> None:
    # By matplotlib: seaborn 0.13 draws every outlier, and calls matplotlib in a way that ends with version 3.13.
    axes.bxp(
        [{**box, "label": str(head)} for head, box in enumerate(stats, 1)],
        widths=0.6,
        patch_artist=True,
        boxprops={"facecolor": "#a9cfe6", "edgecolor": COLOURS[0]},
        medianprops={"color": INK, "linewidth": 1.8},
        whiskerprops={"color": COLOURS[0]},
        capprops={"color": COLOURS[0]},
        flierprops={"marker": "o", "markersize": 2.2, "markerfacecolor": GREY, "markeredgewidth": 0},
    )
    if len(row.values) > 1:
        for head in range(len(stats)):
            medians = [float(np.median(value.scores[:, head])) for value in row.values]
            axes.plot([head + 1.38] * len(medians), medians, "<", color=COLOURS[1], markersize=4, markeredgewidth=0)
    axes.grid(visible=False, axis="x")


def _mean_ranges(found: DrawableRows[Scores]) -> Array:
    return np.mean([value.ranges for row in found.rows for value in row.values], axis=0)


def _scores_caption(found: DrawableRows[Scores], experts: int) -> str:
    images = found.rows[0].values[0].scores.shape[0]
    ranges = _mean_ranges(found)
    narrow, wide = int(ranges.argmin()), int(ranges.argmax())
    return found.caption(
        f"Scores of the {experts} experts in each head of the first prompted block after all tasks, on {images} test images"
        f" ({found.each}): inner products of the head's mean query with the expert's key, not divided by"
        " the root of the width.",
        "Box: quartiles and median; whiskers: the furthest score within 1.5 interquartile ranges of the box; dots: scores"
        f" beyond, at most {FLIERS} on a side with the extremes among them.",
        f"Within an image the experts of head {narrow + 1} span {ranges[narrow]:.1f} on average and those of head"
        f" {wide + 1} {ranges[wide]:.1f}." if len(ranges) > 1 else "",
        "Triangles are the medians of single runs." if found.is_repeated else "",
    )  # fmt: skip


def _scores_alt(benchmark: str, found: DrawableRows[Scores], boxes: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    parts = [
        f"{row.cell.row.label}: "
        + "; ".join(
            f"head {k + 1} {one['med']:.1f} ({one['q1']:.1f} to {one['q3']:.1f})" for k, one in enumerate(stats)
        )
        for row, stats in zip(found.rows, boxes, strict=True)
    ]
    return f"Scores of experts by head on {benchmark}, median and quartiles. {'. '.join(parts)}."
