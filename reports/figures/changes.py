"""Figures of what moved between two results folders: each row's difference beside the band that chance alone would fill."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from smope_bench.reports.figures.drawing.style import GREY, INK, PALE, WIDTH, Look, legend_label, render, row_looks
from smope_bench.reports.figures.figure import FigureFile
from smope_bench.reports.loading.load import Loaded
from smope_bench.reports.loading.model import SuiteResults, Summary
from smope_bench.reports.statistics.changes import CellChange, changes_of, moved_text
from smope_bench.reports.text import file_name, listed

KIND = "changes"
_GONE = Look(GREY, "o")
"""Rows that only the other folder has."""


def change_figures(current: Loaded, baseline: Loaded) -> tuple[FigureFile, ...]:
    """A figure for each benchmark of each suite that both folders have and that has a row that moved."""
    others = {results.suite: results for results in baseline.suites}
    found: list[FigureFile] = []
    keys: list[str] = []
    for results in current.suites:
        if results.suite in others:
            keys.append(file_name(results.suite, keys))
            found += _of_suite(results, others[results.suite], keys[-1])
    return tuple(found)


def _of_suite(results: SuiteResults, other: SuiteResults, key: str) -> Iterator[FigureFile]:
    columns: dict[str, list[CellChange]] = {}
    for change in changes_of(results, other):
        columns.setdefault(change.cell.column.label, []).append(change)
    looks = row_looks(results)
    for number, (label, changes) in enumerate(columns.items(), 1):
        if any(change.verdict in ("within", "beyond", "single") for change in changes):
            yield _figure(f"against-{key}-{number}", f"{results.title}: {label}", changes, looks)


def _figure(name: str, where: str, changes: Sequence[CellChange], looks: Mapping[str, Look]) -> FigureFile:
    """Differences across, from the greatest gain to the greatest loss; rows that are the same to the last digit are only named."""
    drawn = [(change, change.summary) for change in changes if change.summary is not None and change.verdict != "equal"]
    drawn.sort(key=lambda one: -one[1].mean)
    equal = [change.cell.row.label for change in changes if change.verdict == "equal"]
    lost = [change.cell.row.label for change in changes if change.summary is None]
    reach = _reach([abs(found.mean) + _noise(found) for _, found in drawn])

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.set_xlim(-1.12 * reach, 1.12 * reach)
        axes.axvline(0, color=GREY, linewidth=0.9, zorder=1)
        room = 4 + 6 * max(len(moved_text(found.mean)) for _, found in drawn)
        for y, (change, found) in enumerate(drawn):
            axes.annotate(
                moved_text(found.mean), (1, y), (room, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
                ha="right", va="center", fontweight="bold" if change.verdict == "beyond" else "normal",
            )  # fmt: skip
            _draw_row(axes, y, change, found, looks.get(change.cell.row.label, _GONE), reach)
        axes.set_ylim(len(drawn) - 0.4, -0.6)
        names = [
            legend_label(change.cell) + (" (one pair)" if change.verdict == "single" else "") for change, _ in drawn
        ]
        axes.set_yticks(range(len(drawn)), names)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("FAA now less FAA then (points)")
        style: Any = {"color": INK, "linestyle": "", "markersize": 6}
        keys = (
            Patch(color=PALE, alpha=0.55, linewidth=0, label="noise of a mean"),
            Line2D([], [], marker="|", label="pair of runs", **style),
            Line2D([], [], marker="o", label="mean beyond its noise", **style),
            Line2D([], [], marker="o", markerfacecolor="white", label="mean within it, or one pair", **style),
        )
        figure.legend(
            handles=keys, loc="outside upper left", ncols=2, frameon=False, handlelength=1.2, columnspacing=1.2
        )

    beyond = [change.cell.row.label for change, _ in drawn if change.verdict == "beyond"]
    outside = [change.cell.row.label for change, found in drawn if abs(found.mean) > reach]
    caption = (
        "Difference of FAA for each row: a tick for each pair of runs with the same seeds, and the marker at their mean. The "
        "grey band is the noise of such a mean, the 95 % t-interval of the differences laid around 0: within it (hollow) "
        f"nothing is shown to have moved. Beyond it: {listed(beyond) if beyond else 'none'}. A row without a band has one pair "
        "of runs, or pairs that differ by the same."
        + (f" The axis shows where most rows are; beyond it, with an arrow: {listed(outside)}." if outside else "")
        + (f" Not drawn, as the same to the last digit: {listed(equal)}." if equal else "")
        + (f" Not drawn, as no pair of runs can be compared: {listed(lost)}." if lost else "")
    )
    alt = "; ".join(_said(change.cell.row.label, found) for change, found in drawn)
    svg, png, pdf = render(draw, (WIDTH, 1.15 + 0.25 * len(drawn)), name)
    runs = tuple(dict.fromkeys(run for change, _ in drawn for run in change.runs))
    alt = f"FAA now less then, {where}: {alt}."
    return FigureFile(name, f"What moved: {where}", caption, alt, svg, png, pdf, runs, KIND)


def _noise(found: Summary) -> float:
    """Half the width of the interval; 0 where there is none."""
    return 0.0 if found.low is None or found.high is None else (found.high - found.low) / 2


def _reach(extents: Sequence[float]) -> float:
    """How far the axis goes to either side of 0: as far as the rows, but for a few that would leave the others a third of it."""
    most = max(extents)
    near = [extent for extent in extents if extent < most / 3]
    return max(near if 2 * len(near) > len(extents) else [most]) or most or 1.0


def _draw_row(axes: Axes, y: int, change: CellChange, found: Summary, look: Look, reach: float) -> None:
    noise = _noise(found)
    axes.barh(y, 2 * noise, height=0.7, left=-noise, color=PALE, alpha=0.55, linewidth=0, zorder=0)
    axes.plot(change.differences, [y + 0.27] * found.n, "|", color=look.colour, markersize=5, zorder=2)
    if abs(found.mean) > reach:  # the arrow leads beyond the axis
        axes.plot(math.copysign(1.08 * reach, found.mean), y, "<>"[found.mean > 0], color=look.colour, markersize=6.5)
    else:
        axes.plot(
            found.mean, y - 0.08, look.marker, markersize=6.5, color=look.colour, markeredgewidth=1.3, zorder=3,
            markerfacecolor=look.colour if change.verdict == "beyond" else "white",
        )  # fmt: skip


def _said(label: str, found: Summary) -> str:
    if found.low is None or found.high is None:
        return f"{label} {moved_text(found.mean)}"
    return f"{label} {moved_text(found.mean)} beside a band of {_noise(found):.2f} to either side"
