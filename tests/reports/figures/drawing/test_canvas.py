"""A figure drawn in three forms at a time is what matplotlib draws one by one."""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from smope_bench.reports.figures.drawing.canvas import FAMILY, RASTER_DPI, save

STYLE: Any = {
    "font.family": [FAMILY, "DejaVu Sans"], "svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "a",
    "text.parse_math": False, "pdf.compression": 0,
}  # fmt: skip


NAMELESS = {"CreationDate": None, "Creator": None, "Producer": None}


def operators(pdf: bytes) -> list[bytes]:
    """What the page of a PDF draws, number by number and word by word."""
    start = pdf.index(b"stream")
    return pdf[start : pdf.index(b"endstream")].split()


def drawn() -> Figure:
    """Lines, markers, meshes, hatches, clipped shapes and letters of two fonts."""
    figure = Figure(figsize=(5, 3))
    left, right = figure.subplots(1, 2)
    left.plot([1, 2, 3], [1, 3, 2], marker="s", linestyle="--", label="a line")
    left.scatter([1, 2], [2, 2], s=[80, 20], color="#009E73", alpha=0.6)
    left.fill_between([0, 2, 4], [0, 1, 1], [2, 2, 2], alpha=0.3, hatch="//")
    left.set(xlim=(0.9, 3.1), ylim=(0.5, 2.8), xlabel="±1 $x$", title="AVATAR ж ∰")
    left.text(1.5, 1, "turned", rotation=30, fontweight="bold")
    left.annotate("away", (2, 2), (2.4, 2.6), arrowprops={"arrowstyle": "-"})
    left.legend()
    right.pcolormesh(np.ma.masked_invalid([[1.0, np.nan], [3.0, 4.0]]), edgecolor="white", linewidth=0.5)
    return figure


def one_by_one(ending: str, **options: Any) -> bytes:
    """The same figure as ``savefig`` writes it."""
    file = io.BytesIO()
    drawn().savefig(file, format=ending, **options)
    return file.getvalue()


def test_every_form_is_the_one_that_matplotlib_writes() -> None:
    with mpl.rc_context(STYLE):
        svg, png, pdf = save(drawn())
        assert svg.encode() == one_by_one("svg", metadata={"Date": None, "Creator": None})
        # Letters may be a fraction of a point away, as SVG and PDF measure them differently.
        mine, theirs = (operators(one) for one in (pdf, one_by_one("pdf", metadata=NAMELESS)))
        assert len(mine) == len(theirs) > 200
        assert all(
            one == other or abs(float(one) - float(other)) < 0.5 for one, other in zip(mine, theirs, strict=True)
        )
        alone = Image.open(io.BytesIO(one_by_one("png", dpi=RASTER_DPI))).convert("RGB")
        together = Image.open(io.BytesIO(png))
        assert together.size == alone.size
        assert together.info["dpi"] == pytest.approx((RASTER_DPI, RASTER_DPI), abs=0.1)
        away = np.abs(np.asarray(together, float) - np.asarray(alone, float)).max(axis=2)
        # Letters and lines may be half a pixel away: their places are found at 72 dots an inch.
        assert (away > 60).mean() < 0.02
        assert away.mean() < 3


def test_a_letter_that_the_small_font_lacks_comes_from_the_whole_one() -> None:
    with mpl.rc_context(STYLE):
        _, _, pdf = save(drawn())
    assert b"DejaVuSansLatin" in pdf
    assert b"DejaVuSans " in pdf.replace(b"\n", b" ")


def test_an_image_stands_where_its_axes_are() -> None:
    figure = Figure(figsize=(2, 2))
    axes = figure.add_axes((0.5, 0.5, 0.25, 0.25))
    axes.axis("off")
    axes.imshow([[0.0, 0.0], [0.0, 0.0]], cmap="gray", aspect="auto")
    with mpl.rc_context(STYLE):
        _, png, _ = save(figure)
    dark = np.argwhere(np.asarray(Image.open(io.BytesIO(png)).convert("L")) < 128)
    assert dark.min(axis=0) == pytest.approx([80, 160], abs=1)
    assert dark.max(axis=0) == pytest.approx([159, 239], abs=1)
