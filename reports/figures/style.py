"""One style for every figure: colours that colour-blind readers tell apart, legible in print, same bytes for same records."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from smope_bench.reports.loading.model import KINDS, Cell, Column, SuiteResults

# Okabe and Ito's colours, without the yellow that white paper swallows; line and marker carry the difference in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6A51A3", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h")
INK, GREY = "#1f2933", "#8a94a0"
# The first shade is not white, so that a low number is not taken for nothing measured; few enough shades keep matplotlib from
# putting a colour bar into the vector file as pixels.
SHADES = ListedColormap(mpl.colormaps["Blues"](np.linspace(0.08, 1, 40)))
_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 9.5, "axes.labelsize": 9, "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5, "legend.fontsize": 8.5, "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": GREY, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#e4e7eb", "grid.linewidth": 0.7, "lines.linewidth": 1.6,
    "svg.fonttype": "none", "pdf.fonttype": 42, "figure.facecolor": "white", "savefig.facecolor": "white",
    # Labels are data: a dollar sign in one must not start a formula.
    "text.parse_math": False, "text.usetex": False,
}  # fmt: skip


# Letters stay letters in the SVG: half the bytes, selectable, read aloud. A reader without the font that was measured gets one of
# like width; the last ones are narrower, so that nothing is cut.
_FONTS = "'DejaVu Sans', 'Bitstream Vera Sans', Verdana, 'Segoe UI', Arial, sans-serif"


@dataclass(frozen=True)
class FigureFile:
    """A drawn figure: ``name`` for its files, ``caption`` and ``alt`` for the page, ``runs`` the ids of the runs it draws.

    ``svg`` and ``pdf`` are vector forms, for the page and for LaTeX; ``png`` is for everything else.
    """

    name: str
    title: str
    caption: str
    alt: str
    svg: str
    png: bytes
    pdf: bytes
    runs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rendered:
    """The three forms of one drawing."""

    svg: str
    pdf: bytes
    png: bytes


def render(draw: Callable[[Figure], None], size: tuple[float, float], name: str) -> Rendered:
    """Draw once, in inches, and write all forms. The salt makes the ids in the SVG a function of the figure's name."""
    style: Any = {**_STYLE, "svg.hashsalt": name}
    with mpl.rc_context(style), warnings.catch_warnings():
        # A label may hold characters that the font lacks; they become boxes, which is no reason to warn a reader.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        vector, paper, raster = io.StringIO(), io.BytesIO(), io.BytesIO()
        figure.savefig(vector, format="svg", metadata={"Date": None, "Creator": None})
        figure.set_layout_engine("none")  # The layout is found by now, and finding it is most of the work.
        figure.savefig(paper, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
        figure.savefig(raster, format="png", dpi=160, metadata={"Software": None})
    return Rendered(slim_svg(vector.getvalue()), paper.getvalue(), raster.getvalue())


def slim_svg(svg: str) -> str:
    """The same drawing with fewer bytes: hundredths of a point, no metadata, and no id that nothing refers to.

    The ids left are those that the salt makes unique, so that many figures may stand in one page. Text is not touched.
    """
    used = set(re.findall(r"#([\w-]+)", svg))

    def slim(match: re.Match[str]) -> str:
        tag = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), match[0])
        tag = re.sub(r' id="([\w.-]+)"', lambda name: name[0] if name[1] in used else "", tag)
        tag = re.sub(r' transform="rotate\(-0 [^)]*\)"', "", tag)
        tag = tag.replace("; font-family: 'DejaVu Sans'", "")
        return re.sub(r"\s+", " ", tag).replace(' "', '"')

    svg = re.sub(r"<!DOCTYPE[^>]*>\s*|<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace('<g id="figure_1"', f'<g font-family="{_FONTS}"', 1)
    return re.sub(r"\n\s*<", "\n<", re.sub(r"<[a-zA-Z/][^>]*>", slim, svg))


def ink_on(shade: tuple[float, float, float, float]) -> str:
    """The colour of a text that is legible on a shade."""
    red, green, blue, _ = shade
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.56 else INK


def figure_file(
    draw: Callable[[Figure], None],
    size: tuple[float, float],
    name: str,
    *,
    title: str,
    caption: str,
    alt: str,
    runs: tuple[str, ...],
) -> FigureFile:
    """Draw a figure with what has to be said of it."""
    drawn = render(draw, size, name)
    return FigureFile(name, title, caption, alt, drawn.svg, drawn.png, drawn.pdf, runs)


Looks = dict[str, dict[str, object]]
_LONGEST = 32


def ordered_cells(results: SuiteResults, column: Column) -> list[Cell]:
    """A benchmark's cells, floors first and ceilings last."""
    return [results.cell(row, column) for kind in KINDS for row in results.rows_of(kind)]


def row_label(cell: Cell) -> str:
    """The row's name, cut where it is very long, with what has to be said of its runs."""
    return shortened(cell.row.label) + (f" ({', '.join(cell.marks)})" if cell.marks else "")


def legend_label(cell: Cell) -> str:
    """The name for a legend or an axis: the space keeps matplotlib from hiding one that begins with an underscore."""
    return " " + row_label(cell)


def shortened(name: str) -> str:
    """A row's name as figures write it."""
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"


def row_looks(results: SuiteResults) -> Looks:
    """Row label -> colour, marker and line style, the same on every benchmark of a suite.

    Methods are solid and the first to choose a colour, floors are dashed, ceilings grey and dotted. A method that has to take
    a colour for the second time has dashes and dots.
    """
    looks: Looks = {}
    for i, row in enumerate([*results.rows_of("method"), *results.rows_of("floor")]):
        again = i >= len(COLOURS)
        dash: object = (0, (4, 1.6)) if row.kind == "floor" else (0, (6, 1.5, 1, 1.5)) if again else "-"
        looks[row.label] = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "linestyle": dash}
    for i, row in enumerate(results.rows_of("ceiling")):
        looks[row.label] = {"color": GREY, "marker": "*PX"[i % 3], "linestyle": ":"}
    return looks


def metric_values(cell: Cell, metric: str) -> list[float]:
    """A metric of each run that has it, in percent."""
    return [value for outcome in cell.outcomes if (value := outcome.metrics[metric]) is not None]


def listed(labels: Sequence[str], most: int = 8) -> str:
    """``a, b and c``; of a long list the first few and how many more there are."""
    shown = [*labels[:most], f"{len(labels) - most} more"] if len(labels) > most + 1 else list(labels)
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def frame(setter: Callable[..., object], values: Sequence[float]) -> None:
    """Frame percentages with a margin; nobody is right of 100, though an interval may reach there."""
    low, high = min(values), max(values)
    margin = max(0.5, 0.06 * (high - low))
    setter(max(-1.0, low - margin), min(101.0, high + margin))


def panels(
    figure: Figure, count: int, across: int, *, xlabel: str = "", ylabel: str = "", share: bool = True
) -> list[Axes]:
    """``count`` panels, ``across`` in a row. With ``share`` all have the same axes, whose ticks are named at the edges."""
    shared: dict[str, Any] = {"sharex": share, "sharey": share}
    grid = figure.subplots(-(-count // across), across, squeeze=False, **shared)
    for k, axes in enumerate(grid.flat):
        axes.set_visible(k < count)
        if k % across == 0:
            axes.set_ylabel(ylabel)
        if k + across >= count:  # nothing that is seen stands below
            axes.set_xlabel(xlabel)
            axes.tick_params(labelbottom=True)
    return list(grid.flat[:count])


@dataclass(frozen=True)
class FigureGroup:
    """Figures that belong together: one benchmark of a suite, or its statistics."""

    title: str
    figures: tuple[FigureFile, ...]
    notes: tuple[str, ...] = ()
    """What could not be drawn, and what to do about it."""
