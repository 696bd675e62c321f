"""The share of attention that prompts receive, by block, before and after training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from smope_bench.harness.records.observations import PROMPT_MASS
from smope_bench.reports.figures.drawing.style import COLOURS, GREY, label_edges, panels, row_label
from smope_bench.reports.figures.kinds import FigureData, Picture, figure
from smope_bench.reports.loading.model import Run
from smope_bench.reports.loading.observed import DrawableRow, DrawableRows, gather, numbers

ACROSS = 3
INERT = 2.0
"""Percent of attention below which prompts are nearly inert."""
LOWEST = 0.01
"""Percent at the lower end of the axis, which is logarithmic; what is less is drawn there."""


@dataclass(frozen=True)
class Masses:
    """Percent of attention by block, numbers from 1, before training (None where it is not known) and after the last task."""

    blocks: tuple[int, ...]
    before: NDArray[np.float64] | None
    after: NDArray[np.float64]

    @property
    def ends(self) -> list[tuple[str, NDArray[np.float64]]]:
        """Both by their names, those that are known."""
        return [*([] if self.before is None else [("before", self.before)]), ("after", self.after)]


Rows: TypeAlias = "DrawableRows[Masses]"


def read_masses(arrays: Mapping[str, NDArray[Any]], _: Run) -> Masses:
    """Take the shares of a run. Raises ValueError where they do not belong together or are no shares."""
    done, block, share = (numbers(arrays, f"{PROMPT_MASS}.{part}", 1) for part in ("tasks_done", "block", "share"))
    if not len(done) == len(block) == len(share) or (share < -0.01).any() or (share > 1.01).any():
        raise ValueError(f"{len(done)} tasks, {len(block)} blocks and {len(share)} shares do not fit")
    stages = {stage: dict(zip(block[done == stage], share[done == stage], strict=True)) for stage in np.unique(done)}
    first, last = stages[min(stages)], stages[max(stages)]
    if max(stages) == 0 or any(found.keys() != last.keys() for found in stages.values()):
        raise ValueError("the shares are not of the same blocks after every task")
    before = 100 * np.array(list(first.values())) if min(stages) == 0 else None
    return Masses(tuple(int(number) + 1 for number in last), before, 100 * np.array(list(last.values())))


@figure("prompt_mass", "Attention that prompts receive", needs="observations", drawn="named", file="mass")
def prompt_mass(data: FigureData) -> Picture | None:
    """Share of attention by block, before any training and after all tasks, a panel a row."""
    found = gather(data.cells, data.observed, read_masses)
    if not found.rows:
        return None
    across = min(ACROSS, len(found.rows))
    return Picture(
        lambda figure: _draw(figure, found, across),
        _caption(found),
        _alt(data.column.label, found),
        (max(4.4, 2.6 * across + 0.4), 2.1 * -(-len(found.rows) // across) + 0.6),
        found.runs,
    )


def _draw(figure: Figure, found: Rows, across: int) -> None:
    drawn = panels(figure, len(found.rows), across)
    for axes, row in zip(drawn, found.rows, strict=True):
        for value in row.values:
            for (name, shares), style in zip(reversed(value.ends), ("o-", "s--"), strict=False):
                axes.plot(
                    value.blocks, np.maximum(shares, LOWEST), style, color=COLOURS[name == "before"], markersize=4,
                    linewidth=1.2, label=name if value is row.values[0] else None,
                )  # fmt: skip
        axes.axhline(INERT, color=GREY, linewidth=0.9, linestyle=(0, (4, 2)))
        axes.set_title(row_label(row.cell), loc="left")
    drawn[0].set_xticks(sorted({block for row in found.rows for value in row.values for block in value.blocks}))
    drawn[0].set_yscale("log")
    drawn[0].set_ylim(LOWEST, 120)
    drawn[0].yaxis.set_major_locator(FixedLocator([0.01, 0.1, 1, 10, 100]))
    drawn[0].yaxis.set_minor_locator(NullLocator())
    drawn[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    label_edges(drawn, across, "block", "attention to prompts (%)")
    handles, labels = drawn[0].get_legend_handles_labels()
    figure.legend(handles, [f"{label} training" for label in labels], loc="outside upper left", ncols=2, frameon=False)


def _caption(found: Rows) -> str:
    unknown = [row.cell.row.label for row in found.rows if any(value.before is None for value in row.values)]
    return found.caption(
        "Share of attention that prompts receive in each prompted block, before any training and after all tasks: the mean over"
        f" heads and the queries of the image's tokens, on the same test images at both times ({found.each}, a line each). The"
        " rest goes to the image's own tokens.",
        f"Below the dashed line, {INERT:g} %, prompts are nearly inert.",
        f"Shares below {LOWEST:g} % are drawn there." if _lowest(found) < LOWEST else "",
        f"{', '.join(unknown)} cannot predict before a task has been learnt." if unknown else "",
    )


def _lowest(found: Rows) -> float:
    return min(float(shares.min()) for row in found.rows for value in row.values for _, shares in value.ends)


def _alt(benchmark: str, found: Rows) -> str:
    def said(row: DrawableRow[Masses]) -> str:
        value = row.values[0]
        ends = [f"{name} training " + ", ".join(f"{share:.2g}" for share in shares) for name, shares in value.ends]
        return f"{row.cell.row.label}, blocks {', '.join(map(str, value.blocks))}: {'; '.join(ends)}"

    parts = ". ".join(map(said, found.rows))
    return f"Percent of attention that prompts receive on {benchmark}, of the first run of each row. {parts}."
