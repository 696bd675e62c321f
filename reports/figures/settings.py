"""Figures of suites whose rows are points of a grid or of a curve: accuracy over the settings that are varied."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from smope_bench.benchmarks.suites.schema import Drawing
from smope_bench.reports.figures.drawing.interactive import Chart, limits_of, seeded, spread_of, to_thousandth
from smope_bench.reports.figures.drawing.style import (
    COLOURS,
    INK,
    colour_bar,
    draw_heat_map,
    row_label,
    t_interval,
    within_percent,
)
from smope_bench.reports.figures.kinds import FigureData, Picture, figure
from smope_bench.reports.formatting import METRIC_NAMES, mean_std
from smope_bench.reports.loading.model import UNRANKED, Cell, Summary, run_ids, runs_a_point
from smope_bench.reports.text import listed, number

SHADED = 8.0
"""Standard errors that the shades of a heat map span at least: means that differ by noise alone then look much alike."""


@dataclass(frozen=True)
class Point:
    """A cell with runs, at its place."""

    x: float
    y: float
    cell: Cell
    faa: Summary


def setting_value(cell: Cell, dotted: str) -> float | None:
    """A number of the method's configuration as the runs recorded it, by its dotted name; ``None`` where there is none.

    ``schedule.`` before the name is that of the training schedule.
    """
    if not cell.outcomes:
        return None
    spec, of_schedule = cell.outcomes[0].spec, dotted.startswith("schedule.")
    found: object = spec.get("schedule", {}) if of_schedule else spec.get("method", {}).get("config", {})
    dotted = dotted.removeprefix("schedule.")
    for part in dotted.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None


def best_points(points: Sequence[Point]) -> list[Point]:
    """The points of the highest mean as it is printed; stale and leaking ones take no part.

    A lone point is no best, nor is one of single runs: another seed would mark another.
    """
    ranked = [point for point in points if not UNRANKED & set(point.cell.marks)]
    if len(ranked) < 2 or any(point.faa.n < 2 for point in ranked):
        return []
    highest = max(round(point.faa.mean, 2) for point in ranked)
    return [point for point in ranked if round(point.faa.mean, 2) == highest]


def noise_of(points: Sequence[Point]) -> float:
    """How far a point's mean may be off, in percentage points: the larger of two standard errors.

    That of the mean over runs, by the pooled standard deviation of the points, and that of a share of so many test images.
    """
    degrees = sum(point.faa.n - 1 for point in points)
    pooled = math.fsum((point.faa.n - 1) * (point.faa.std or 0.0) ** 2 for point in points) / max(1, degrees)
    of_runs = math.sqrt(pooled / max(1, min(point.faa.n for point in points)))
    share = math.fsum(point.faa.mean for point in points) / len(points) / 100
    images = min(sum(outcome.test_counts) for point in points for outcome in point.cell.outcomes)
    return max(of_runs, 100 * math.sqrt(share * (1 - share) / images))


def shades_of(points: Sequence[Point]) -> Normalize:
    """The scale of shades: from the lowest to the highest mean, and over at least ``SHADED`` times their noise."""
    low, high = min(point.faa.mean for point in points), max(point.faa.mean for point in points)
    missing = max(0.0, max(SHADED * noise_of(points), 0.1) - (high - low)) / 2
    return Normalize(low - missing, high + missing)


def ticks_of(values: Sequence[float]) -> list[str]:
    """Values as they are written at an axis: powers of ten for all of them where some are very small."""
    if not any(0 < abs(value) < 1e-3 for value in values):
        return [f"{value:g}" for value in values]
    return [_power(value) for value in values]


def _power(value: float) -> str:
    if value == 0:
        return "0"
    digits, power = f"{value:.3e}".split("e")
    ten = "10" + str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    digits = digits.rstrip("0").rstrip(".")
    return ten if digits == "1" else f"{digits}·{ten}"


@dataclass(frozen=True)
class _Settings:
    """The points of a suite on one benchmark, and the sentences about them that both figures have."""

    drawing: Drawing
    points: Sequence[Point]
    left_out: Sequence[str]

    @property
    def words(self) -> tuple[str, str]:
        """What the axes are called."""
        return self.drawing.x_label or self.drawing.x, self.drawing.y_label or self.drawing.y

    @property
    def best_name(self) -> str:
        highest = max(round(point.faa.mean, 2) for point in self.points)
        is_highest = round(best_points(self.points)[0].faa.mean, 2) == highest
        return "highest mean" + ("" if is_highest else " of those that are ranked")

    def said(self, point: Point) -> str:
        """A point's settings and its mean."""
        place = f"{self.words[0]} {point.x:g}" + (f", {self.words[1]} {point.y:g}" if self.drawing.y else "")
        return f"{place}: {mean_std(point.faa)}"

    @property
    def all(self) -> str:
        """Every point and its mean."""
        return "; ".join(map(self.said, self.points))

    @property
    def best(self) -> str:
        """A sentence on the best points, where there are any."""
        best = listed([self.said(point) for point in best_points(self.points)], 4)
        return f" The {self.best_name} is at {best}." if best else ""

    @property
    def missing(self) -> str:
        """Sentences on the rows that are not drawn and on the marks of those that are."""
        left_out = (
            f" Not drawn, for want of a usable run of their own: {listed(self.left_out)}." if self.left_out else ""
        )
        marks = sorted({mark for point in self.points for mark in point.cell.marks})
        return left_out + (f" An asterisk means {listed(marks)}." if marks else "")

    @property
    def cells(self) -> list[Cell]:
        """The cells that are drawn."""
        return [point.cell for point in self.points]

    def marked(self, mark: str) -> str:
        """The end of a sentence on what marks the best point, where there is one."""
        return f"; the {mark} marks the {self.best_name}" if best_points(self.points) else ""


def _settings(data: FigureData) -> _Settings | None:
    """The cells that have a place of their own, and the names of those that have none or share it."""
    placed: dict[tuple[float, float], list[Point]] = {}
    left_out: list[str] = []
    for cell in data.cells:
        x, faa = setting_value(cell, data.drawing.x), cell.summary("faa")
        y = setting_value(cell, data.drawing.y) if data.drawing.y else 0.0
        if x is None or y is None or faa is None:
            left_out.append(row_label(cell))
        else:
            placed.setdefault((x, y), []).append(Point(x, y, cell, faa))
    left_out += [row_label(point.cell) for points in placed.values() if len(points) > 1 for point in points]
    points = [points[0] for _, points in sorted(placed.items()) if len(points) == 1]
    return _Settings(data.drawing, points, left_out) if points else None


def _square_text(point: Point) -> str:
    text = number(point.faa.mean, 1) + "*" * bool(point.cell.marks)
    return text if point.faa.std is None else f"{text}\n± {number(point.faa.std, 1)}"


@figure("heat_map", "FAA over two settings", needs="cells", drawn="alone", file="settings")
def heat_map(data: FigureData) -> Picture | None:
    """The mean FAA over two settings, with its deviation and a frame around the best."""
    found = _settings(data)
    if found is None:
        return None
    points, (x_word, y_word) = found.points, found.words
    import pandas as pd

    means, texts = (
        pd.Series({(point.y, point.x): value(point) for point in points}).unstack()
        for value in (lambda point: point.faa.mean, _square_text)
    )
    xs, ys = sorted({point.x for point in points}), sorted({point.y for point in points})
    low, high = min(point.faa.mean for point in points), max(point.faa.mean for point in points)
    norm = shades_of(points)
    holes = len(points) < len(xs) * len(ys)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        draw_heat_map(axes, means, texts, norm, ticks_of(xs), ticks_of(ys), line=1)
        colour_bar(figure, [axes], norm, "FAA (%)")
        if holes:
            axes.patch.set(facecolor="#f3f4f6", edgecolor="#c3c9d0", hatch="////")
        for point in best_points(points):
            place = xs.index(point.x) + 0.045, ys.index(point.y) + 0.06
            axes.add_patch(Rectangle(place, 0.91, 0.88, fill=False, edgecolor=COLOURS[1], linewidth=2.4, zorder=5))
        axes.invert_yaxis()
        axes.set(xlabel=x_word, ylabel=y_word)

    if all(point.faa.n == 1 for point in points):
        spread = (
            " One run says nothing of the spread: no square is called best, and near values must not be told apart."
        )
    else:
        spread = " Below the mean, its standard deviation over runs."
    spread += (
        f" The shades span at least {SHADED:g} standard errors ({number(noise_of(points))} points, the larger of those over runs "
        "and over test images), so that noise looks even."
    )
    caption = (
        f"Mean final average accuracy over {runs_a_point(found.cells)} by {x_word} and {y_word}{found.marked('frame')}.{spread}"
        f"{' Hatched: no run with these two values.' * holes}{found.missing}"
    )
    label, both = data.column.label, f"{x_word} and {y_word}"
    alt = f"FAA on {label} over {both}, from {number(low)} to {number(high)}.{found.best} All: {found.all}."
    size = (1.15 + 0.6 * len(xs), 1.75 + 0.48 * len(ys))
    return Picture(draw, caption, alt, size, run_ids(found.cells), f"FAA over {both}, {label}")


@figure("curve", "FAA over a setting", needs="cells", drawn="alone", file="settings")
def curve(data: FigureData) -> Picture | None:
    """FAA over one setting: every run, the mean and its t-interval, with a ring around the best."""
    found = _settings(data)
    if found is None:
        return None
    points, word = found.points, found.words[0]
    xs = {point.cell.row.label: point.x for point in points}
    runs = data.runs[data.runs["row"].isin(list(xs))]
    runs = runs.assign(x=[xs[label] for label in runs["row"]])

    def draw(figure: Figure) -> None:
        import seaborn as sns  # takes long to import, and most reports do not need it

        axes = figure.subplots()
        sns.lineplot(
            runs, x="x", y="faa", errorbar=t_interval, err_kws={"alpha": 0.15, "linewidth": 0}, color=COLOURS[0],
            marker="D", markersize=5.5, ax=axes,
        )  # fmt: skip
        sns.scatterplot(runs, x="x", y="faa", color=INK, alpha=0.5, s=12, linewidth=0, zorder=3, ax=axes)
        for point in points:
            if point.cell.marks:
                axes.annotate("*", (point.x, point.faa.mean), (4, 3), textcoords="offset points", color=INK)
        for point in best_points(points):
            axes.plot(
                point.x, point.faa.mean, "o", markersize=13, fillstyle="none", color=COLOURS[1], markeredgewidth=2
            )
            axes.annotate(
                number(point.faa.mean, 1), (point.x, point.faa.mean), (0, 11), textcoords="offset points",
                ha="center", color=INK, fontsize=9, fontweight="bold",
            )  # fmt: skip
        axes.margins(y=0.12)
        within_percent(axes, "y")
        if len(points) <= 12:
            values = [point.x for point in points]
            axes.set_xticks(values, ticks_of(values))
        axes.set(xlabel=word, ylabel=f"{METRIC_NAMES['faa']} (%)")

    if all(point.faa.n == 1 for point in points):
        band = " One run has no interval and there is no band: near values must not be told apart."
    else:
        lone = any(point.faa.n == 1 for point in points)
        band = " The band is the 95 % t-interval of the mean" + (", missing where there is one run." if lone else ".")
    caption = (
        f"Final average accuracy over {word}: mean (diamond) and {runs_a_point(found.cells)} (dots)"
        f"{found.marked('ring')}.{band}{found.missing}"
    )
    label = data.column.label
    alt = f"FAA on {label} over {word}: {found.all}.{found.best}"
    title = f"FAA over {word}, {label}"
    return Picture(draw, caption, alt, (5.2, 3.2), run_ids(found.cells), title, _curve_chart(points, word))


def _curve_chart(points: Sequence[Point], word: str) -> Chart | None:
    """One line whose points are the cells; none for a lone point."""
    if len(points) < 2:
        return None
    xs = [point.x for point in points]
    ends = [end for point in points for end in (point.faa.mean, point.faa.low, point.faa.high) if end is not None]
    faa = METRIC_NAMES["faa"]
    line = {
        "row": faa, "kind": "", "colour": COLOURS[0], "marker": "D", "dashes": [], "width": 1.6, "pale": False,
        "points": [[point.x, *spread_of(point.faa)] for point in points],
        "each": [
            seeded(point.cell, [to_thousandth(one.metrics["faa"]) for one in point.cell.outcomes]) for point in points
        ],
    }  # fmt: skip
    return {
        "form": "lines", "unit": "%", "word": word, "x": word, "y": f"{faa} (%)", "domain": [xs[0], xs[-1]],
        "margin": 0.05 * (xs[-1] - xs[0]), "ticks": xs if len(xs) <= 12 else 6, "near": None, "whole": limits_of(ends),
        "series": [line],
    }  # fmt: skip
