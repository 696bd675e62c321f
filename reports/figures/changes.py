"""Figures of what moved between two results folders: each row's difference beside the band that chance alone would fill."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from matplotlib.figure import Figure

from smope_bench.reports.figures.drawing.style import GREY, PALE, Look, legend_label, render, row_looks
from smope_bench.reports.figures.figure import FigureFile
from smope_bench.reports.loading.load import Loaded
from smope_bench.reports.loading.model import SuiteResults
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
    """Differences across, a row each: every pair of runs as a dot, their mean as the row's marker, the band in grey."""
    shown = [change for change in changes if change.summary is not None]
    lost = [change.cell.row.label for change in changes if change.summary is None]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axvline(0, color=GREY, linewidth=0.9, zorder=1)
        for y, change in enumerate(shown):
            look, found = looks.get(change.cell.row.label, _GONE), change.summary
            assert found is not None
            if found.low is not None and found.high is not None:
                reach = (found.high - found.low) / 2
                axes.barh(y, 2 * reach, height=0.66, left=-reach, color=PALE, alpha=0.55, linewidth=0, zorder=0)
            axes.plot(change.differences, [y] * found.n, ".", color=look.colour, alpha=0.5, markersize=5, zorder=2)
            face = look.colour if change.verdict == "beyond" else "white"
            axes.plot(
                found.mean,
                y,
                look.marker,
                markersize=7,
                color=look.colour,
                markerfacecolor=face,
                markeredgewidth=1.4,
                zorder=3,
            )
            axes.annotate(
                moved_text(found.mean), (1.015, y), xycoords=("axes fraction", "data"), va="center", fontweight="bold"
            )
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_yticks(range(len(shown)), [legend_label(change.cell) for change in shown])
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("FAA now less FAA then (percentage points)")

    beyond = [change.cell.row.label for change in shown if change.verdict == "beyond"]
    said = listed(beyond) if beyond else "none"
    caption = (
        "Difference of FAA for each row: dots are pairs of runs with the same seeds, the marker is their mean. The grey band is "
        "the noise of such a mean, the 95 % t-interval of the differences laid around 0: within it (hollow) nothing "
        f"is shown to have moved. Beyond it: {said}. A row without a band has one pair of runs, or pairs that differ by the same."
        + (f" Not drawn, as no pair of runs can be compared: {listed(lost)}." if lost else "")
    )
    alt = "; ".join(_said(change) for change in shown)
    svg, png, pdf = render(draw, (5.0, 0.75 + 0.25 * len(shown)), name)
    runs = tuple(dict.fromkeys(run for change in shown for run in change.runs))
    alt = f"FAA now less then, {where}: {alt}."
    return FigureFile(name, f"What moved: {where}", caption, alt, svg, png, pdf, runs, KIND)


def _said(change: CellChange) -> str:
    assert change.summary is not None
    found, label = change.summary, change.cell.row.label
    if found.low is None or found.high is None:
        return f"{label} {moved_text(found.mean)}"
    return f"{label} {moved_text(found.mean)} beside a band of {(found.high - found.low) / 2:.2f} to either side"
