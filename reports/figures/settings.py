"""Figures of suites whose rows are points of a grid or of a curve: accuracy over the settings that are varied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from smope_bench.benchmarks.suites.schema import Drawing
from smope_bench.reports.figures.heatmap import draw_squares, shade_bar, shade_of
from smope_bench.reports.figures.style import (
    COLOURS,
    GREY,
    INK,
    FigureFile,
    figure_file,
    frame,
    ink_on,
    listed,
    metric_values,
    row_label,
)
from smope_bench.reports.formatting import METRIC_NAMES, mean_std
from smope_bench.reports.loading.model import UNRANKED, Cell, Column, Summary, run_ids, runs_a_point
from smope_bench.reports.text import number


@dataclass(frozen=True)
class _Point:
    """A cell with runs, at its place."""

    x: float
    y: float
    cell: Cell
    faa: Summary


def settings_figure(drawing: Drawing, column: Column, cells: Sequence[Cell], name: str) -> list[FigureFile]:
    """The heat map or curve of a suite on one benchmark; none where no cell has runs that record the settings."""
    points, left_out = _points(drawing, cells)
    if not points:
        return []
    if drawing.kind == "heat_map":
        return [_heat_map(drawing, column, points, left_out, name)]
    return [_curve(drawing, column, points, left_out, name)]


def setting_value(cell: Cell, dotted: str) -> float | None:
    """A number of the method's configuration as the runs recorded it, by its dotted name; ``None`` where there is none."""
    if not cell.outcomes:
        return None
    found: object = cell.outcomes[0].spec.get("method", {}).get("config", {})
    for part in dotted.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None


def _points(drawing: Drawing, cells: Sequence[Cell]) -> tuple[list[_Point], list[str]]:
    """The cells that have a place of their own, and the names of those that have none or share it."""
    placed: dict[tuple[float, float], list[_Point]] = {}
    left_out: list[str] = []
    for cell in cells:
        x, faa = setting_value(cell, drawing.x), cell.summary("faa")
        y = setting_value(cell, drawing.y) if drawing.kind == "heat_map" else 0.0
        if x is None or y is None or faa is None:
            left_out.append(row_label(cell))
        else:
            placed.setdefault((x, y), []).append(_Point(x, y, cell, faa))
    crowded = [point for points in placed.values() if len(points) > 1 for point in points]
    left_out += [row_label(point.cell) for point in crowded]
    return [points[0] for _, points in sorted(placed.items()) if len(points) == 1], left_out


def best_points(points: Sequence[_Point]) -> list[_Point]:
    """The points of the highest mean as it is printed; stale and leaking ones take no part, and a lone one is no best."""
    ranked = [point for point in points if not UNRANKED & set(point.cell.marks)]
    if len(ranked) < 2:
        return []
    highest = max(round(point.faa.mean, 2) for point in ranked)
    return [point for point in ranked if round(point.faa.mean, 2) == highest]


def _words(drawing: Drawing) -> tuple[str, str]:
    return drawing.x_label or drawing.x, drawing.y_label or drawing.y


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


def _said(drawing: Drawing, point: _Point) -> str:
    x_word, y_word = _words(drawing)
    place = f"{x_word} {point.x:g}" + (f", {y_word} {point.y:g}" if drawing.kind == "heat_map" else "")
    return f"{place}: {mean_std(point.faa)}"


def _best_name(points: Sequence[_Point], best: Sequence[_Point]) -> str:
    is_highest = round(best[0].faa.mean, 2) == max(round(point.faa.mean, 2) for point in points)
    return "highest mean" + ("" if is_highest else " of those that are ranked")


def _best_said(drawing: Drawing, points: Sequence[_Point]) -> str:
    best = best_points(points)
    said = listed([_said(drawing, point) for point in best], 4)
    return f" The {_best_name(points, best)} is at {said}." if best else ""


def _mark_said(points: Sequence[_Point], mark: str) -> str:
    best = best_points(points)
    return f"; the {mark} marks the {_best_name(points, best)}" if best else ""


def _left_out_said(left_out: Sequence[str]) -> str:
    return f" Not drawn, for want of a usable run of their own: {listed(left_out)}." if left_out else ""


def _marked_said(points: Sequence[_Point]) -> str:
    marks = sorted({mark for point in points for mark in point.cell.marks})
    return f" An asterisk means {listed(marks)}." if marks else ""


def _heat_map(
    drawing: Drawing, column: Column, points: Sequence[_Point], left_out: Sequence[str], name: str
) -> FigureFile:
    xs, ys = sorted({point.x for point in points}), sorted({point.y for point in points})
    low, high = min(point.faa.mean for point in points), max(point.faa.mean for point in points)
    norm = Normalize(low, max(high, low + 0.1))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        mean = np.full((len(ys), len(xs)), np.nan)
        for point in points:
            mean[ys.index(point.y), xs.index(point.x)] = point.faa.mean
        for i, j in np.argwhere(np.isnan(mean)):
            axes.add_patch(Rectangle((j, i), 1, 1, facecolor="#f3f4f6", edgecolor="#c3c9d0", hatch="////", linewidth=0))
        draw_squares(axes, mean, norm, 1)
        _write_squares(axes, points, xs, ys, norm)
        _finish_squares(axes, drawing, xs, ys)
        shade_bar(figure, axes, norm, "FAA (%)")

    x_word, y_word = _words(drawing)
    holes = len(points) < len(xs) * len(ys)
    caption = (
        f"Mean final average accuracy over {runs_a_point(point.cell for point in points)} by {x_word} and {y_word}"
        f"{_mark_said(points, 'frame')}.{_spread_said(points)}"
        + (" Hatched: no run with these two values." if holes else "")
        + _left_out_said(left_out)
        + _marked_said(points)
    )
    alt = (
        f"FAA on {column.label} over {x_word} and {y_word}, from {number(low)} to {number(high)}."
        f"{_best_said(drawing, points)} All: {'; '.join(_said(drawing, point) for point in points)}."
    )
    title = f"FAA over {x_word} and {y_word}, {column.label}"
    size = (2.2 + 0.78 * len(xs), 1.2 + 0.56 * len(ys))
    runs = run_ids(point.cell for point in points)
    return figure_file(draw, size, f"{name}-settings", title=title, caption=caption, alt=alt, runs=runs)


def _spread_said(points: Sequence[_Point]) -> str:
    if all(point.faa.n == 1 for point in points):
        return " One run says nothing of the spread: near values must not be told apart."
    return " Below the mean, its standard deviation over runs."


def _write_squares(
    axes: Axes, points: Sequence[_Point], xs: Sequence[float], ys: Sequence[float], norm: Normalize
) -> None:
    best = best_points(points)
    for point in points:
        j, i = xs.index(point.x), ys.index(point.y)
        ink = ink_on(shade_of(point.faa.mean, norm))
        text = number(point.faa.mean, 1) + "*" * bool(point.cell.marks)
        middle = i + 0.5 if point.faa.std is None else i + 0.6
        axes.text(j + 0.5, middle, text, ha="center", va="center", color=ink, fontsize=9)
        if point.faa.std is not None:
            spread = f"± {number(point.faa.std, 1)}"
            axes.text(j + 0.5, i + 0.28, spread, ha="center", va="center", color=ink, fontsize=7)
        if point in best:
            place = (j + 0.045, i + 0.06)
            axes.add_patch(Rectangle(place, 0.91, 0.88, fill=False, edgecolor=COLOURS[1], linewidth=2.4, zorder=5))


def _finish_squares(axes: Axes, drawing: Drawing, xs: Sequence[float], ys: Sequence[float]) -> None:
    axes.set_xticks(np.arange(len(xs)) + 0.5, ticks_of(xs))
    axes.set_yticks(np.arange(len(ys)) + 0.5, ticks_of(ys))
    x_word, y_word = _words(drawing)
    axes.set_xlabel(x_word)
    axes.set_ylabel(y_word)


def _curve(
    drawing: Drawing, column: Column, points: Sequence[_Point], left_out: Sequence[str], name: str
) -> FigureFile:
    word = _words(drawing)[0]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        xs, means = [point.x for point in points], [point.faa.mean for point in points]
        bands = [_band(point.faa) for point in points]
        axes.fill_between(
            xs, [low for low, _ in bands], [high for _, high in bands], color=COLOURS[0], alpha=0.15, linewidth=0
        )
        axes.plot(xs, means, color=COLOURS[0], marker="D", markersize=5.5, markeredgecolor="white", zorder=3)
        for point in points:
            values = metric_values(point.cell, "faa")
            axes.plot([point.x] * len(values), values, "o", color=INK, alpha=0.5, markersize=3.2, markeredgewidth=0)
            if point.cell.marks:
                axes.annotate("*", (point.x, point.faa.mean), (4, 3), textcoords="offset points", color=INK)
        for point in best_points(points):
            axes.plot(
                point.x, point.faa.mean, "o", markersize=13, fillstyle="none", color=COLOURS[1], markeredgewidth=2
            )
            axes.annotate(
                f"{number(point.faa.mean, 1)}", (point.x, point.faa.mean), (0, 11), textcoords="offset points",
                ha="center", color=INK, fontsize=9, fontweight="bold",
            )  # fmt: skip
        spread = [value for point in points for value in (*metric_values(point.cell, "faa"), *_band(point.faa))]
        frame(axes.set_ylim, [*spread, max(spread) + 0.04 * (max(spread) - min(spread))])
        if len(xs) <= 12:
            axes.set_xticks(xs, ticks_of(xs))
        axes.set_xlabel(word)
        axes.set_ylabel(f"{METRIC_NAMES['faa']} (%)")
        axes.spines["bottom"].set_color(GREY)

    caption = (
        f"Final average accuracy over {word}: mean (diamond) and {runs_a_point(point.cell for point in points)} (dots)"
        f"{_mark_said(points, 'ring')}.{_band_said(points)}{_left_out_said(left_out)}{_marked_said(points)}"
    )
    alt = (
        f"FAA on {column.label} over {word}: {'; '.join(_said(drawing, point) for point in points)}."
        f"{_best_said(drawing, points)}"
    )
    title = f"FAA over {word}, {column.label}"
    runs = run_ids(point.cell for point in points)
    return figure_file(draw, (6.4, 3.6), f"{name}-settings", title=title, caption=caption, alt=alt, runs=runs)


def _band(faa: Summary) -> tuple[float, float]:
    """The t-interval; a single run has none, and the band closes there."""
    return (faa.mean, faa.mean) if faa.low is None or faa.high is None else (faa.low, faa.high)


def _band_said(points: Sequence[_Point]) -> str:
    if all(point.faa.n == 1 for point in points):
        return " One run has no interval and there is no band: near values must not be told apart."
    lone = any(point.faa.n == 1 for point in points)
    return " The band is the 95 % t-interval of the mean" + (", and closes where there is one run." if lone else ".")
