"""The look of every figure: colours that colour-blind readers tell apart, labels, panels, and the files that a figure becomes."""

from __future__ import annotations

import hashlib
import math
import re
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from smope_bench.harness.metrics import PERCENT
from smope_bench.harness.registry.registry import KINDS
from smope_bench.reports.figures.drawing.canvas import FAMILY, save
from smope_bench.reports.loading.model import REFERENCES, Cell, RowKind, SuiteResults, summarise
from smope_bench.reports.text import shortened

# Okabe and Ito's colours, without the yellow that white paper swallows and the black of texts, and two of Tol's; the marker carries
# the difference in grey. The numbers of colours and markers have no common divisor: 88 pairs before one comes again.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6A51A3", "#882255")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "<", ">", "h")
INK, GREY, PALE = "#1f2933", "#8a94a0", "#c3c9d0"
WIDTH, SMALL = 4.5, 8.8
"""Inches and points: on a telephone the letters of a drawing of this width, none of them smaller, are legible."""
EMPHASISED = 8
"""Lines of a figure that have their colours; the rest is grey."""
# The first shade is not white, so that a low number does not look like a missing one; with few shades matplotlib writes a
# colour bar into the vector file as shapes instead of pixels.
SHADES = ListedColormap(mpl.colormaps["Blues"](np.linspace(0.08, 1, 40)))
_STYLE: dict[str, Any] = {
    "font.family": [FAMILY, "DejaVu Sans"], "font.size": 9, "axes.titlesize": 9.5, "axes.labelsize": 9, "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL, "legend.fontsize": SMALL, "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": GREY, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#e4e7eb", "grid.linewidth": 0.7, "lines.linewidth": 1.6,
    "svg.fonttype": "none", "pdf.fonttype": 42, "figure.facecolor": "white", "savefig.facecolor": "white",
    # Hinted letters of the PNG would be wider than those of the SVG, by which everything is laid out.
    "text.hinting": "no_hinting",
    # Labels are data: a dollar sign in one must not start a formula.
    "text.parse_math": False, "text.usetex": False,
}  # fmt: skip
# Letters stay letters in the SVG: half the bytes, selectable, read aloud. A reader without the font that was measured gets one
# of similar width; the last ones are narrower, so that nothing is cut.
_FAMILIES = f"; font-family: '{FAMILY}', 'DejaVu Sans'"
_DIGIT = 0.64
"""Width of a digit, in sizes of its font."""
_TINIEST = 5.0
"""Points of letters below which a number in a square is of no use."""
_FONTS = "'DejaVu Sans', 'Bitstream Vera Sans', Verdana, 'Segoe UI', Arial, sans-serif"


def render(draw: Callable[[Figure], None], size: tuple[float, float], name: str) -> tuple[str, bytes, bytes]:
    """Draw a figure of ``size`` inches; returns it as SVG, PNG and PDF. ``name`` decides the ids in the SVG."""
    style: Any = {**_STYLE, "svg.hashsalt": name}
    with mpl.rc_context(style), warnings.catch_warnings():
        # A label may hold characters that the font lacks; they become boxes, which is no reason to warn a reader.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        _lay_out(figure)
        svg, png, pdf = save(figure)
    return slim_svg(svg), png, pdf


def _lay_out(figure: Figure) -> None:
    """Find the layout once, by the letters of the SVG; to save a figure with a layout engine, matplotlib draws it twice."""
    engine, dpi = figure.get_layout_engine(), figure.dpi
    if engine is not None:
        canvas = FigureCanvasSVG(figure)  # becomes the figure's
        figure.dpi = canvas.fixed_dpi or dpi
        engine.execute(figure)
        figure.dpi = dpi
    figure.set_layout_engine(None)


def slim_svg(svg: str) -> str:
    """The same drawing with fewer bytes: hundredths of a point, no metadata, and no id that nothing refers to.

    The ids left are unique to the figure's name, so that many figures may stand in one page. Text is not touched.
    """
    used = set(re.findall(r"#([\w-]+)", svg))

    def slim(match: re.Match[str]) -> str:
        tag = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), match[0])
        tag = re.sub(r' id="([\w.-]+)"', lambda name: name[0] if name[1] in used else "", tag)
        tag = re.sub(r' transform="rotate\(-0 [^)]*\)"', "", tag)
        tag = tag.replace(_FAMILIES, "")
        return re.sub(r"\s+", " ", tag).replace(' "', '"')

    svg = re.sub(r"<!DOCTYPE[^>]*>\s*|<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace('<g id="figure_1"', f'<g font-family="{_FONTS}"', 1)
    return re.sub(r"\n\s*<", "\n<", re.sub(r"<[a-zA-Z/][^>]*>", slim, svg))


@dataclass(frozen=True)
class Look:
    """How a row is drawn in every figure; ``dashes`` (on, off, ...) in line widths, empty for a solid line."""

    colour: str
    marker: str
    dashes: tuple[float, ...] = ()
    width: float = 1.6


_DASHES: dict[RowKind, tuple[float, ...]] = {"floor": (4, 1.6), "adapter": (1, 1.65)}


@cache
def _built_in_methods() -> dict[str, int]:
    module, _, table = str(KINDS["method"].builtin).partition(":")
    return {name: place for place, name in enumerate(getattr(import_module(module), table))}


def method_place(method: str) -> int:
    """The number that gives a method its colour and marker in every report: its place in the registry, or a hash of its name."""
    place = _built_in_methods().get(method)
    return int(hashlib.sha256(method.encode()).hexdigest()[:8], 16) if place is None else place


def row_looks(results: SuiteResults) -> dict[str, Look]:
    """Row label -> look: a method has one colour everywhere, and its first row in a suite one marker.

    Other rows of the method have other markers. Where all sequential rows are of one method, colours tell its settings apart.
    Floors are dashed, adapters dotted, ceilings dotted and grey; the row that others are compared with is drawn broader.
    """
    looks: dict[str, Look] = {}
    rows = [row for row in results.rows if row.kind != "ceiling"]
    is_one_method = len({row.method for row in rows}) == 1
    earlier: Counter[str] = Counter()
    for row in rows:
        turn = earlier[row.method]
        earlier[row.method] += 1
        place = method_place(row.method)
        colour = COLOURS[(place + turn * is_one_method) % len(COLOURS)]
        again = (6, 1.5, 1, 1.5) if turn >= (len(COLOURS) if is_one_method else 1) else ()
        dashes = _DASHES.get(row.kind, again)
        width = 2.4 if row.label == results.reference else 1.6
        looks[row.label] = Look(colour, MARKERS[(place + turn) % len(MARKERS)], dashes, width)
    for i, row in enumerate(results.rows_of("ceiling")):
        looks[row.label] = Look(GREY, "dPX"[i % 3], (1, 1.65))
    return looks


def emphasised(results: SuiteResults, cells: Sequence[Cell]) -> list[str]:
    """Labels of the rows that keep their colours in a figure of many lines: the row compared with, then the best by mean FAA.

    Adapters and ceilings are references in themselves, and take none of the places.
    """
    means = {
        cell.row.label: found.mean
        for cell in cells
        if cell.row.kind not in REFERENCES and (found := cell.summary("faa"))
    }
    order = sorted(means, key=lambda label: (label != results.reference, -round(means[label], 2)))
    return order[:EMPHASISED]


def by_row(looks: Mapping[str, Look]) -> dict[str, Any]:
    """The arguments by which seaborn draws the rows of a data frame's column ``row`` in their looks."""
    return {
        "hue": "row",
        "style": "row",
        "palette": {label: look.colour for label, look in looks.items()},
        "markers": {label: look.marker for label, look in looks.items()},
        "dashes": {label: look.dashes or "" for label, look in looks.items()},
        "size": "row",
        "sizes": {label: look.width for label, look in looks.items()},
        "legend": False,
    }


def row_legend(place: Axes | Figure, cells: Iterable[Cell], looks: Mapping[str, Look], **options: Any) -> None:
    """A legend with a line a row."""
    handles = []
    for cell in cells:
        look = looks[cell.row.label]
        style: Any = (0, look.dashes) if look.dashes else "-"
        line = Line2D([], [], color=look.colour, marker=look.marker, linestyle=style, markeredgecolor="white")
        line.set_label(legend_label(cell))
        handles.append(line)
    place.legend(handles=handles, frameon=False, handlelength=3.2, **options)


def row_label(cell: Cell) -> str:
    """The row's name with the marks of its runs."""
    return shortened(cell.row.label) + (f" ({', '.join(cell.marks)})" if cell.marks else "")


def legend_label(cell: Cell) -> str:
    """The name for a legend or an axis: the space keeps matplotlib from hiding one that begins with an underscore."""
    return " " + row_label(cell)


def t_interval(values: Iterable[float]) -> tuple[float, float]:
    """The 95 % interval of a mean accuracy in percent, for seaborn's ``errorbar``; the mean twice where there is none."""
    found = summarise(values, PERCENT)
    if found is None:
        return np.nan, np.nan
    return (found.mean, found.mean) if found.low is None or found.high is None else (found.low, found.high)


def crowded(values: Sequence[float]) -> tuple[float, float] | None:
    """Limits around the values at the upper end where they crowd there, and others leave them less than a third of the axis.

    ``None`` where all may share one axis.
    """
    ordered = sorted(values, reverse=True)
    if len(ordered) < 4:
        return None
    whole = ordered[0] - ordered[-1]
    for count in range(len(ordered) - 1, len(ordered) // 2, -1):
        near = ordered[0] - ordered[count - 1]
        if near < whole / 3:
            margin = max(0.3, 0.35 * near)
            return max(-1.0, ordered[count - 1] - margin), min(101.0, ordered[0] + margin)
    return None


def within_percent(axes: Axes, axis: str) -> None:
    """Cut the x or y axis just beyond 0 and 100: no accuracy is there, though an interval may reach beyond."""
    low, high = getattr(axes, f"get_{axis}lim")()
    getattr(axes, f"set_{axis}lim")(max(-1.0, low), min(101.0, high))


def percent_ticks(axis: Axis) -> None:
    """Leave no tick of an axis of percentages beyond 0 and 100, where its limits give the markers room."""
    low, high = sorted(axis.get_view_interval())
    axis.set_ticks([tick for tick in axis.get_majorticklocs() if max(low, 0) <= tick <= min(high, 100)])


def stretch(axes: Axes, knee: float) -> None:
    """Give the percentages above ``knee`` three fifths of a y axis whose limits are set; a dashed line shows where they begin."""
    low, high = axes.get_ylim()
    ends, shares = (low, knee, high), (0.0, 0.4, 1.0)
    axes.set_yscale(
        "function", functions=(partial(np.interp, xp=ends, fp=shares), partial(np.interp, xp=shares, fp=ends))
    )
    axes.set_ylim(low, high)
    below = [
        tick
        for tick in MaxNLocator(4, steps=(1, 2, 5, 10)).tick_values(low, knee)
        if low <= tick < knee - 0.05 * (knee - low)
    ]
    above = [
        tick for tick in MaxNLocator(6, steps=(1, 2, 5, 10)).tick_values(knee, high) if knee <= tick <= min(high, 100)
    ]
    axes.set_yticks([*below, *above])
    axes.axhline(knee, color=GREY, linewidth=0.8, linestyle=(0, (3, 3)), zorder=1)


def panels(figure: Figure, count: int, across: int, *, share: bool = True) -> list[Axes]:
    """``count`` panels, ``across`` in a row. With ``share`` all have the same axes, whose ticks are named at the edges."""
    grid = figure.subplots(-(-count // across), across, squeeze=False, sharex=share, sharey=share)
    for k, axes in enumerate(grid.flat):
        axes.set_visible(k < count)
        if k + across >= count:  # nothing that is seen stands below
            axes.tick_params(labelbottom=True)
    return list(grid.flat[:count])


@dataclass(frozen=True)
class Margins:
    """Inches around the panels of a figure."""

    left: float
    right: float
    bottom: float
    top: float


def inch_panels(figure: Figure, count: int, across: int, margins: Margins, gaps: tuple[float, float]) -> list[Axes]:
    """``count`` panels, ``across`` in a row, of equal size between ``margins`` and with ``gaps`` (across, down), in inches.

    Their places are known before anything is drawn. To find them by what is drawn takes longer than to draw it.
    """
    figure.set_layout_engine("none")
    width, height = figure.get_size_inches()
    down = -(-count // across)
    wide = (width - margins.left - margins.right - gaps[0] * (across - 1)) / across
    high = (height - margins.bottom - margins.top - gaps[1] * (down - 1)) / down
    places = [divmod(k, across) for k in range(count)]
    corners = [
        (margins.left + x * (wide + gaps[0]), margins.bottom + (down - 1 - y) * (high + gaps[1])) for y, x in places
    ]
    return [figure.add_axes((x / width, y / height, wide / width, high / height)) for x, y in corners]


@dataclass(frozen=True)
class Squares:
    """Square heat maps of ``squares`` times ``squares`` in a grid, ``titles`` above them, and their colour bar at the bottom."""

    titles: Sequence[str]
    squares: int

    @property
    def across(self) -> int:
        """Panels in a row."""
        return min(2 if len(self.titles) <= 4 else 3, len(self.titles))

    @property
    def size(self) -> tuple[float, float]:
        """Inches of the figure."""
        down, (x, y) = -(-len(self.titles) // self.across), self._gaps
        margins = self._margins
        return (
            margins.left + margins.right + self.across * self._side + (self.across - 1) * x,
            margins.bottom + margins.top + down * self._side + (down - 1) * y,
        )

    @property
    def names(self) -> list[str]:
        """The numbers of rows and columns from 1, as many of them as there is room for."""
        every = math.ceil(1.5 * SMALL * self.squares / (72 * self._side))
        return [str(number) if (number - 1) % every == 0 else "" for number in range(1, self.squares + 1)]

    def fill(self, panels: Sequence[Axes], tables: Iterable[ArrayLike], texts: ArrayLike, norm: Normalize) -> None:
        """Draw a table a panel; ``texts`` (panels, squares, squares) are left out where they fit only in tiny letters."""
        texts = np.asarray(texts, object)
        longest = max(1, *(len(text) for text in texts.flat))
        points = min(SMALL, 0.9 * 72 * self._side / self.squares / (_DIGIT * longest))
        for axes, table, its in zip(panels, tables, texts, strict=True):
            shown = its if points >= _TINIEST else None
            draw_heat_map(axes, table, shown, norm, self.names, self.names, line=0.6, fontsize=points)

    @property
    def _side(self) -> float:
        margins, x = self._margins, self._gaps[0]
        return min(2.0, (WIDTH - margins.left - margins.right - x * (self.across - 1)) / self.across)

    @property
    def _lines(self) -> list[str]:
        return [textwrap.fill(title, 24 if self.across <= 2 else 16) for title in self.titles]

    @property
    def _title(self) -> float:
        return 0.12 + 0.135 * max(lines.count("\n") + 1 for lines in self._lines)

    @property
    def _gaps(self) -> tuple[float, float]:
        return 0.25, 0.2 + self._title

    @property
    def _margins(self) -> Margins:
        return Margins(0.5, 0.1, 1.0, self._title)

    def draw(self, figure: Figure, norm: Normalize, label: str, x: str, y: str) -> list[Axes]:
        """The panels, empty but for their titles; ``label`` names the bar, ``x`` and ``y`` the axes at the edges."""
        grid = inch_panels(figure, len(self.titles), self.across, self._margins, self._gaps)
        for axes, lines in zip(grid, self._lines, strict=True):
            axes.set_title(lines, loc="left", fontsize=SMALL)
        label_edges(grid, self.across, x, y)
        width, height = figure.get_size_inches()
        margins = self._margins
        wide = min(2.6, width - margins.left - margins.right)
        bar = figure.add_axes((margins.left / width, 0.42 / height, wide / width, 0.1 / height))
        colour_bar(figure, bar, norm, label)
        return grid


def label_edges(shown: Sequence[Axes], across: int, xlabel: str, ylabel: str) -> None:
    """Name the axes of panels at the left and at the bottom only; seaborn names them in every panel."""
    for k, axes in enumerate(shown):
        axes.set_ylabel("" if k % across else ylabel)
        axes.set_xlabel(xlabel if k + across >= len(shown) else "")


def draw_heat_map(
    axes: Axes, values: ArrayLike, texts: ArrayLike | None, norm: Normalize, xs: Sequence[str], ys: Sequence[str],
    *, line: float, fontsize: float = SMALL,
) -> None:  # fmt: skip
    """Squares in shades of one colour, none for NaN, with ``texts`` (of the same shape) in ink that is legible on them.

    ``xs`` and ``ys`` name the columns and rows; ``line``: width of the white lines between squares. By matplotlib: seaborn takes
    several times as long to import and to draw.
    """
    shown: NDArray[np.float64] = np.asarray(values, np.float64)
    axes.pcolormesh(np.ma.masked_invalid(shown), norm=norm, cmap=SHADES, linewidth=line, edgecolor="white")
    axes.set(xlim=(0, shown.shape[1]), ylim=(shown.shape[0], 0))
    axes.set_xticks(np.arange(len(xs)) + 0.5, xs)
    axes.set_yticks(np.arange(len(ys)) + 0.5, ys)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for (y, x), text in np.ndenumerate(np.empty((0, 0)) if texts is None else np.asarray(texts, object)):
        if text and np.isfinite(shown[y, x]):
            red, green, blue, _ = SHADES(norm(shown[y, x]))
            ink = "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.56 else INK
            axes.text(
                x + 0.5, y + 0.5, str(text), color=ink, fontsize=fontsize, ha="center", va="center", linespacing=1.1
            )


def colour_bar(
    figure: Figure, place: Axes | Sequence[Axes], norm: Normalize, label: str, shades: Colormap = SHADES, **options: Any
) -> Any:
    """The colour bar in axes of its own, or below several ones, or where ``options`` place it."""
    mappable = ScalarMappable(norm, shades)
    where: Any = {"cax": place} if isinstance(place, Axes) else {"ax": list(place), "aspect": 24, "pad": 0.02}
    bar = figure.colorbar(mappable, **{"orientation": "horizontal", **where, **options})
    bar.set_label(label)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return bar
