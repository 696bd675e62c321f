"""One style for every figure: colours that colour-blind readers tell apart, legible in print, same bytes for same records."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

# Okabe and Ito's colours, without the yellow that white paper swallows; line and marker carry the difference in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6A51A3", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h")
INK, GREY = "#1f2933", "#8a94a0"
_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 9.5, "axes.labelsize": 9, "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5, "legend.fontsize": 8.5, "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": GREY, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#e4e7eb", "grid.linewidth": 0.7, "lines.linewidth": 1.6,
    "svg.fonttype": "path", "pdf.fonttype": 42, "figure.facecolor": "white", "savefig.facecolor": "white",
    # Labels are data: a dollar sign in one must not start a formula.
    "text.parse_math": False, "text.usetex": False,
}  # fmt: skip


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
    return Rendered(vector.getvalue(), paper.getvalue(), raster.getvalue())


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
