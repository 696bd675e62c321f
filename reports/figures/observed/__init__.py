"""Figures of what runs observed beside accuracies: the use, scores and keys of experts, and losses through training.

A suite asks for one with ``Drawing(kind)``; ``expert_use`` shows one representative head, with ``y="heads"`` several of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from smope_bench.benchmarks.suites.schema import Drawing
from smope_bench.reports.figures.observed.experts import expert_use
from smope_bench.reports.figures.observed.keys import key_projection
from smope_bench.reports.figures.observed.scores import score_boxes
from smope_bench.reports.figures.observed.training import validation_loss
from smope_bench.reports.figures.style import FigureFile
from smope_bench.reports.loading.model import Cell, Column
from smope_bench.reports.loading.observed import Observed

_Draw = Callable[[Drawing, Column, Sequence[Cell], str, Observed], FigureFile | None]
_KINDS: Mapping[str, _Draw] = {
    "expert_use": expert_use,
    "score_boxes": score_boxes,
    "key_projection": key_projection,
    "validation_loss": validation_loss,
}


def observed_figure(
    drawing: Drawing, column: Column, cells: Sequence[Cell], name: str, observed: Observed
) -> list[FigureFile]:
    """The figure of a benchmark, ``name`` beginning the names of its files; none where no run shows what it needs.

    A kind that is not drawn from observations gives none either: a report must not fail over a suite of another version.
    """
    draw = _KINDS.get(drawing.kind)
    figure = draw(drawing, column, cells, name, observed) if draw else None
    return [figure] if figure else []
