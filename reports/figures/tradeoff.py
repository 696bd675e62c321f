"""What accuracy costs: FAA against operations, parameters, time and memory with the Pareto front; forgetting and plasticity."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import EngFormatter

from smope_bench.harness.cost.stored_counts import MethodCounts, stored_counts
from smope_bench.harness.metrics import PERCENT, learning_accuracy
from smope_bench.reports.figures.drawing.interactive import Chart, exactly, points_chart, points_panel
from smope_bench.reports.figures.drawing.scatter import Spot, draw_spots, fixed_axes, frame
from smope_bench.reports.figures.drawing.style import GREY, SMALL, crowded, row_label, stretch
from smope_bench.reports.figures.kinds import FigureData, Picture, figure
from smope_bench.reports.loading.model import REFERENCES, UNRANKED, Cell, Summary, median, run_ids, summarise
from smope_bench.reports.text import listed, number


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, gain) that no other point dominates, the cheapest first.

    A point dominates another if it costs no more and gains no less, and is better in one of the two; equals stay together.
    """
    front: list[int] = []
    best = float("-inf")
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i)):
        if points[i][1] > best:
            best = points[i][1]
            front.append(i)
        elif points[front[-1]] == points[i]:
            front.append(i)
    return front


_WIDE = 10.0
"""From this ratio of largest to smallest on, an axis is logarithmic."""
_FRONT = "#374151"
_FLOPS = "training GFLOPs an image (executed; ViT-B/16, default configuration)"
_FLOPS_NOTE = (
    "GFLOPs are counted on ViT-B/16 and not on the backbone of these runs: of the dearest training phase, query pass "
    "included; a closed form takes one pass; rows that vary one method's settings share its count. "
)


@dataclass(frozen=True)
class _Panel:
    """A scatter plot of FAA against one cost, which ``name`` names in a sentence; ``left_out``: rows whose cost is not known."""

    name: str
    word: str
    unit: str
    spots: Sequence[Spot]
    front: Sequence[Spot]
    left_out: Sequence[str]


def training_gflops(method: str, counts: Mapping[str, MethodCounts] | None = None) -> float | None:
    """Executed GFLOPs an image in the dearest training phase of a method, query pass included; ``None`` if not counted.

    A method in closed form trains by one pass, which is what it predicts by.
    """
    found = (stored_counts().methods if counts is None else counts).get(method)
    return None if found is None else max(found.phases.values(), default=found.test) / 1e9


def learnable_parameters(cell: Cell) -> float | None:
    """The median of the runs' learnable parameters, as recorded."""
    known = [outcome.costs.learnable_parameters for outcome in cell.outcomes]
    return median(value for value in known if value is not None)


def plasticity(cell: Cell) -> Summary | None:
    """Accuracy right after learning over the runs that measured it; ``None`` where one did not."""
    values = [learning_accuracy(outcome.accuracy_matrix) for outcome in cell.outcomes]
    return None if None in values else summarise((value for value in values if value is not None), PERCENT)


def cost_front(spots: Sequence[Spot], *, ranked: bool) -> list[Spot]:
    """The spots that no other beats on both cost and FAA. Adapters, ceilings, stale and leaking rows take no part."""
    rivals = [spot for spot in spots if _is_ranked(spot.cell)] if ranked else []
    # As printed: costs to three digits and accuracies to two decimals, so that no row wins by what nobody can read.
    printed = [(float(f"{spot.x:.3g}"), round(spot.y, 2)) for spot in rivals]
    return [rivals[i] for i in pareto_front(printed)] if len(rivals) > 1 else []


def _is_ranked(cell: Cell) -> bool:
    return cell.row.kind not in REFERENCES and not UNRANKED & set(cell.marks)


def _panel(
    data: FigureData, name: str, word: str, unit: str, cost: Callable[[Cell], float | None], *, ranked: bool
) -> _Panel:
    spots, left_out = [], []
    for cell in data.cells:
        x, faa = cost(cell), cell.summary("faa")
        if x is None or faa is None:
            left_out.append(row_label(cell))
        else:
            spots.append(Spot(cell, x, faa.mean, faa.std))
    return _Panel(name, word, unit, spots, cost_front(spots, ranked=ranked), left_out)


@figure("tradeoff", "Accuracy and cost")
def tradeoff(data: FigureData) -> Picture | None:
    """FAA against GFLOPs and learnable parameters; a cost that is the same for all rows shows nothing and is left out.

    No front is drawn where the rows may not be compared.
    """
    recorded = "learnable parameters, as recorded by these runs"
    both = (
        _panel(
            data, "operations", _FLOPS, " GFLOPs", lambda cell: training_gflops(cell.row.method), ranked=data.ranked
        ),
        _panel(data, "parameters", recorded, " parameters", learnable_parameters, ranked=data.ranked),
    )
    return _against_costs(data, both, _FLOPS_NOTE if len({spot.x for spot in both[0].spots}) > 1 else "")


@figure("measured_cost", "Accuracy, training time and memory")
def measured_cost(data: FigureData) -> Picture | None:
    """FAA against training time and memory as measured; no front where the runs were made by several machines."""
    machines = {
        " ".join(str(outcome.provenance.get(part)) for part in ("device", "device_name", "cpu"))
        for cell in data.cells
        for outcome in cell.outcomes
    }
    ranked = data.ranked and len(machines) == 1
    both = (
        _panel(data, "training time", "training time (s), as measured", " s", lambda cell: cell.train_s, ranked=ranked),
        _panel(data, "memory", "memory beyond the start of training (MiB)", " MiB", lambda cell: cell.memory_increase,
               ranked=ranked),
    )  # fmt: skip
    where = "on the machine of these runs, which other work may have slowed down (on a CPU, the first run of a process also counts "
    where += "what is loaded once)"
    if len(machines) > 1:
        where = f"on {len(machines)} machines, so that they must not be compared with each other"
    return _against_costs(data, both, f"Times and memory are medians over runs {where}. ")


def _against_costs(data: FigureData, both: Sequence[_Panel], note: str) -> Picture | None:
    """A panel for each cost that is not the same for all rows; None without any."""
    panels = [panel for panel in both if len({spot.x for spot in panel.spots}) > 1]
    if not panels:
        return None

    zoom = crowded([found.mean for cell in data.cells if (found := cell.summary("faa")) is not None])

    def draw(figure: Figure) -> None:
        all_axes = fixed_axes(figure, len(panels))
        for axes, panel in zip(all_axes, panels, strict=True):
            _draw_costs(axes, panel, data, zoom)
            axes.set_ylabel("FAA (%)")

    line = "The step line is the Pareto front: no other row is as cheap and as accurate, and better in one of the two. "
    fronts = " ".join(_front_text(panel) for panel in panels)
    caption = (
        "Final average accuracy against what it costs; up and to the left is better. "
        f"{line * any(panel.front for panel in panels)}{fronts} Bars: one "
        f"standard deviation over runs. {note}Ceilings are shown and take no part."
        + (
            " The axis is stretched above the dashed line (on the page, zoomed in), where most rows are."
            if zoom
            else ""
        )
    )
    said = "; ".join(
        f"{panel.word}: {', '.join(_spot_text(spot, panel.unit) for spot in panel.spots)}" for panel in panels
    )
    return Picture(
        draw,
        caption,
        f"FAA against cost on {data.column.label}. {said}. {fronts}",
        (5.2, len(panels) * min(5.2, 2.9 + 0.1 * max(len(panel.spots) for panel in panels))),
        run_ids(spot.cell for panel in panels for spot in panel.spots),
        chart=points_chart(
            data, "FAA", "FAA (%)", [(_panel_chart(panel), panel.spots) for panel in panels], seeds="faa", near=zoom
        ),
    )


def _panel_chart(panel: _Panel) -> dict[str, Any]:
    scale = _scale_of([spot.x for spot in panel.spots])
    return points_panel(
        panel.name,
        panel.word,
        panel.unit,
        panel.spots,
        scale.limits,
        scale=scale.kind,
        threshold=scale.threshold,
        ticks=scale.ticks or None,
        front=[list(map(exactly, corner)) for corner in _steps(panel.front, scale.limits[1])],
        best=[spot.label for spot in panel.front],
    )


def _spot_text(spot: Spot, unit: str) -> str:
    cost = f"{spot.x:,.0f}" if spot.x >= 100 else f"{spot.x:.3g}"
    return f"{spot.label} {number(spot.y, 1)} % at {cost}{unit}"


def _front_text(panel: _Panel) -> str:
    word = f"By {panel.name}"
    parts = [f"on the front: {listed([spot.label for spot in panel.front], 12)}"] if panel.front else []
    parts += [f"left out, as it is not known of them: {listed(panel.left_out)}"] if panel.left_out else []
    return f"{word}, {'; '.join(parts)}." if parts else f"{word} nothing is ranked."


def _draw_costs(axes: Axes, panel: _Panel, data: FigureData, zoom: tuple[float, float] | None) -> None:
    axes.set_xlabel(panel.word, fontsize=SMALL)
    _scale_costs(axes, [spot.x for spot in panel.spots])
    frame(axes.set_ylim, [spot.y + sign * (spot.std or 0.0) for spot in panel.spots for sign in (-1, 1)])
    corners = _steps(panel.front, axes.get_xlim()[1])
    paths = [corners]
    if zoom is not None:
        stretch(axes, zoom[0])
        paths.append([(x, zoom[0]) for x in axes.get_xlim()])
    axes.plot([x for x, _ in corners], [y for _, y in corners], color=_FRONT, linewidth=1.3, alpha=0.75, zorder=2)
    draw_spots(axes, panel.spots, data.looks, bold=panel.front, paths=paths)


@dataclass(frozen=True)
class _Scale:
    """An axis of costs; ``threshold``: where a symlog axis turns linear; ``ticks``: of axes that are not linear."""

    kind: Literal["linear", "log", "symlog"]
    limits: tuple[float, float]
    threshold: float = 1.0
    ticks: tuple[float, ...] = ()


def _scale_of(xs: Sequence[float]) -> _Scale:
    """A logarithmic axis where costs are far apart; a cost of nothing stands at its left edge, named 0."""
    positive = [x for x in xs if x > 0]
    low, high = min(positive), max(positive)
    zero = len(positive) < len(xs)
    if high / low < _WIDE and not zero:
        # Costs that hardly differ must not look far apart.
        margin = max(0.1 * (high - low), 0.05 * high)
        return _Scale("linear", (low - margin, high + margin))
    threshold = 10.0 ** math.floor(math.log10(low))
    first, last = (-0.4 * threshold, high * 2) if zero else (low / 1.8, high * 1.8)
    decades = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    few = [step * decade for decade in decades for step in (1, 2, 5)]
    ticks = next(ticks for ticks in ([x for x in decades if first <= x <= last], few) if len(ticks) > 2 or ticks is few)
    shown = ([0.0] * zero, [x for x in ticks if first <= x <= last])
    return _Scale("symlog" if zero else "log", (first, last), threshold, tuple(itertools.chain(*shown)))


def _scale_costs(axes: Axes, xs: Sequence[float]) -> None:
    scale = _scale_of(xs)
    if scale.kind == "linear":
        axes.set_xlim(*scale.limits)
        return
    options = {"linthresh": scale.threshold, "linscale": 0.4} if scale.kind == "symlog" else {}
    axes.set_xscale(scale.kind, **options)
    axes.set_xlim(*scale.limits)
    axes.set_xticks(scale.ticks)
    axes.xaxis.set_major_formatter(_amount)
    axes.xaxis.set_minor_formatter(lambda _value, _place: "")


def _amount(value: float, _place: float) -> str:
    """``0.1``, ``20``, ``2 M``; a small number is written out, since ``100 m`` of seconds reads as metres."""
    return f"{value:g}" if abs(value) < 1000 else EngFormatter()(value)


def _steps(front: Sequence[Spot], end: float) -> list[tuple[float, float]]:
    """The corners of the front: level to the next member's cost, then up to its accuracy; none without a front."""
    if not front:
        return []
    corners = [(front[0].x, front[0].y)]
    for before, spot in pairwise(front):
        corners += [(spot.x, before.y), (spot.x, spot.y)]
    return [*corners, (end, front[-1].y)]


@figure("forgetting", "Forgetting and plasticity")
def forgetting(data: FigureData) -> Picture | None:
    """Forgetting across, accuracy right after learning upwards; nothing with fewer than two rows that have both."""
    spots, left_out = [], []
    for cell in data.cells:
        lost, learned = cell.summary("fm"), plasticity(cell)
        if lost is None or learned is None:
            left_out.append(row_label(cell))
        else:
            spots.append(Spot(cell, lost.mean, learned.mean))
    if len(spots) < 2:
        return None

    def draw(figure: Figure) -> None:
        (axes,) = fixed_axes(figure, 1)
        axes.set_xlabel("forgetting FM (percentage points; left is better)")
        axes.set_ylabel("accuracy right after learning (%; up is better)")
        xs, ys = [spot.x for spot in spots], [spot.y for spot in spots]
        margin = max(0.5, 0.08 * (max(xs) - min(xs)))
        axes.set_xlim(min(xs) - margin, max(xs) + margin)
        frame(axes.set_ylim, ys)
        draw_spots(axes, spots, data.looks, taken=_equal_accuracy(axes, data.column.tasks))

    caption = (
        "Plasticity, the mean accuracy on each task right after learning it (classes of all tasks so far compete), against "
        "forgetting. The better corner is up and left. Along a grey line the final accuracy is the one written on it, for a "
        "row whose tasks were at their best when just learned."
        + (f" Left out, as not measured after each task: {listed(left_out)}." if left_out else "")
    )
    said = "; ".join(
        f"{spot.label} forgets {number(spot.x, 1)} points and has {number(spot.y, 1)} % right after learning"
        for spot in spots
    )
    return Picture(
        draw,
        caption,
        f"Forgetting against accuracy right after learning on {data.column.label}: {said}.",
        (5.2, min(5.6, 3.2 + 0.1 * len(spots))),
        run_ids(spot.cell for spot in spots),
        chart=_forgetting_chart(data, spots),
    )


def _forgetting_chart(data: FigureData, spots: Sequence[Spot]) -> Chart:
    xs = [spot.x for spot in spots]
    margin = max(0.5, 0.08 * (max(xs) - min(xs)))
    slope = (data.column.tasks - 1) / data.column.tasks  # as in _equal_accuracy
    limits = (min(xs) - margin, max(xs) + margin)
    panel = points_panel("forgetting", "forgetting FM (percentage points)", " points", spots, limits, slope=slope)
    return points_chart(data, "right after learning", "accuracy right after learning (%)", [(panel, spots)])


def _equal_accuracy(axes: Axes, tasks: int) -> list[Text]:
    """Lines of equal final accuracy: FAA = accuracy right after learning - (T - 1) / T x forgetting; their names."""
    names: list[Text] = []
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    slope = (tasks - 1) / tasks
    lowest, highest = y0 - slope * x1, y1 - slope * x0
    step = next((step for step in (1, 2, 5, 10, 20) if (highest - lowest) / step <= 10), 25)
    for level in np.arange(math.ceil(lowest / step) * step, min(highest, 100.01), step):
        axes.plot([x0, x1], [level + slope * x0, level + slope * x1], color="#d3d8de", linewidth=0.8, zorder=1)
        x = x1 if level + slope * x1 <= y1 else (y1 - level) / slope
        y = level + slope * x
        if x0 + 0.12 * (x1 - x0) < x and y > y0 + 0.03 * (y1 - y0):
            name = axes.annotate(
                f"FAA {level:g}", (x, y), (-2, -2), textcoords="offset points", ha="right", va="top",
                fontsize=7.6, color=GREY,
            )  # fmt: skip
            names.append(name)
    axes.set_xlim(x0, x1)
    axes.set_ylim(y0, y1)
    axes.grid(visible=False)
    return names
