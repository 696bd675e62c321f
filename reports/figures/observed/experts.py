"""How evenly the experts of a head are used, as bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from smope_bench.reports.figures.drawing.style import COLOURS, INK, label_edges, panels, row_label
from smope_bench.reports.figures.kinds import FigureData, Picture, figure
from smope_bench.reports.loading.model import Run
from smope_bench.reports.loading.observed import DrawableRow, DrawableRows, evenly, gather, numbers

Array: TypeAlias = "NDArray[np.float64]"
Head = tuple[int, int]
"""Position of a prompted block and of a head in it, both from 0."""
HEADS, ACROSS = 4, 4


def read_shares(arrays: Mapping[str, NDArray[Any]], _: Run) -> Array:
    """Share of a head's choices that each expert has, after all tasks: (blocks, heads, experts), in percent.

    Raises ValueError for counts that are negative, and where a head never chose, as heads do that use all experts.
    """
    counts = numbers(arrays, "activation_counts", 4)[-1]
    total = counts.sum(axis=-1, keepdims=True)
    if (counts < 0).any() or not total.all():
        raise ValueError("activation_counts are not counts of choices")
    return 100 * counts / total


def used_in_effect(shares: Array) -> Array:
    """The number of evenly used experts with the same entropy as ``shares`` (..., experts), in percent: (...)."""
    parts = shares / 100
    return np.exp(-(parts * np.log(np.where(parts > 0, parts, 1))).sum(axis=-1))


@figure("expert_use", "Use of experts", needs="observations", drawn="named", file="experts")
def expert_use(data: FigureData) -> Picture | None:
    """Use of the experts of one head, a panel a row; with ``y="heads"`` of several heads, one below the other."""
    found = gather(data.cells, data.observed, read_shares, form=np.shape)
    if not found.rows:
        return None
    table = np.stack([np.mean([used_in_effect(shares) for shares in row.values], axis=0) for row in found.rows])
    several = data.drawing.y == "heads"
    heads = spread_heads(table) if several else [typical_head(table)]
    across = len(found.rows) if several else min(len(found.rows), ACROSS)
    down = -(-len(heads) * len(found.rows) // across)
    return Picture(
        lambda figure: _draw_panels(figure, found, heads, table, across),
        _use_caption(found, table, heads, several),
        _use_alt(data.column.label, found, table, heads),
        (max(4.2, 2.45 * across), (1.45 if several else 2.0) * down + 0.6),
        found.runs,
    )


def typical_head(table: Array) -> Head:
    """The head whose evenness in every row, ``table`` (rows, blocks, heads), lies nearest to the mean of all heads."""
    far = np.square(table - table.mean(axis=(1, 2), keepdims=True)).sum(axis=0)
    return _place(int(np.argmin(far.round(9))), table)


def spread_heads(table: Array) -> list[Head]:
    """Heads from the most unevenly to the most evenly used one in the first row, evenly spaced in that order."""
    first, mean = table[0].ravel().round(9), table.mean(axis=0).ravel().round(9)
    order = np.lexsort((mean, first))
    return [_place(int(order[i]), table) for i in evenly(len(order), HEADS)]


def _place(flat: int, table: Array) -> Head:
    block, head = np.unravel_index(flat, table.shape[1:])
    return int(block), int(head)


def head_text(head: Head) -> str:
    """``block 2, head 1``, counted from 1."""
    return f"block {head[0] + 1}, head {head[1] + 1}"


def _draw_panels(figure: Figure, found: DrawableRows[Array], heads: Sequence[Head], table: Array, across: int) -> None:
    several, experts = len(heads) > 1, found.rows[0].values[0].shape[-1]
    wanted = [(head, i) for head in heads for i in range(len(found.rows))]
    drawn = panels(figure, len(wanted), across)
    for axes, (head, i) in zip(drawn, wanted, strict=True):
        _draw_use(axes, [shares[head] for shares in found.rows[i].values])
        said = f"{table[i][head]:.1f} of {experts} in effect"
        axes.annotate(said, (0.98, 0.95), xycoords="axes fraction", ha="right", va="top")
        if head == heads[0]:
            axes.set_title(row_label(found.rows[i].cell), loc="left")
    label_edges(drawn, across, "expert, by rank of use", "share of choices (%)")
    for axes, head in zip(drawn[::across] if several else (), heads, strict=False):
        axes.set_ylabel(f"{head_text(head)}\nshare (%)")


def _draw_use(axes: Axes, runs: Sequence[Array]) -> None:
    """Bars of the mean share at each rank, and a thin line from the lowest run to the highest."""
    experts = len(runs[0])
    ranks = np.tile(np.arange(1, experts + 1), len(runs))
    import pandas as pd
    import seaborn as sns  # takes long to import, and most reports do not need it

    shares = pd.DataFrame({"rank": ranks, "share": np.concatenate([np.sort(shares)[::-1] for shares in runs])})
    sns.barplot(
        shares, x="rank", y="share", native_scale=True, width=0.8, color=COLOURS[0], saturation=1, ax=axes,
        errorbar=("pi", 100) if len(runs) > 1 else None, err_kws={"color": INK, "linewidth": 0.9},
    )  # fmt: skip
    axes.axhline(100 / experts, color=INK, linewidth=0.9, linestyle=(0, (4, 2)))
    axes.set_xlim(0.2, experts + 0.8)
    axes.set_xticks([1, *range(5, experts + 1, max(5, 5 * (experts // 25)))])
    axes.grid(visible=False, axis="x")


def _use_caption(found: DrawableRows[Array], table: Array, heads: Sequence[Head], several: bool) -> str:
    count = table[0].size
    rule = (
        f"{len(heads)} of {count} heads, evenly spaced from the most uneven to the most even use in the first panel."
        if several
        else f"The head shown, {head_text(heads[0])}, is the one of {count} whose use lies nearest to the mean of all."
    )
    return found.caption(
        "How often each expert of a head is chosen after all tasks, as a share of all choices of that head: the bars of a"
        " panel add up to 100 %, and the dashed line is even use. Experts are ranked by use in every panel and run, since"
        " they have no order of their own.",
        "In effect: the number of evenly used experts with the same entropy.",
        rule,
        f"Bars are means over runs ({found.each}), thin lines reach from the lowest run to the highest."
        if found.is_repeated
        else "",
    )


def _use_alt(benchmark: str, found: DrawableRows[Array], table: Array, heads: Sequence[Head]) -> str:
    experts = found.rows[0].values[0].shape[-1]

    def said(i: int, row: DrawableRow[Array], head: Head) -> str:
        shares = np.stack([shares[head] for shares in row.values])
        top, idle = shares.max(axis=1).mean(), (shares == 0).sum(axis=1).mean()
        return (
            f"{row.cell.row.label}: {table[i][head]:.1f} in effect, largest share {top:.1f} %, {idle:.3g} never chosen"
        )

    parts = [
        f"{head_text(head)}: " + "; ".join(said(i, row, head) for i, row in enumerate(found.rows)) for head in heads
    ]
    return f"Use of the {experts} experts of a head on {benchmark}. {'. '.join(parts)}."
