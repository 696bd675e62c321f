"""One drawing in three forms: matplotlib's artists are asked once, and what they draw goes to SVG, PDF and PNG together."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, cast

import numpy as np
from matplotlib import font_manager
from matplotlib.backend_bases import GraphicsContextBase, RendererBase
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.backends.backend_pdf import PdfFile, RendererPdf
from matplotlib.backends.backend_svg import RendererSVG
from matplotlib.figure import Figure
from matplotlib.transforms import Affine2D, TransformedBbox, TransformedPath
from PIL import Image

RASTER_DPI = 160
FAMILY = "DejaVu Sans Latin"
"""DejaVu Sans without most of its 6,000 glyphs: to take the few letters of a figure out of the whole font, as each PDF needs,
takes longer than to draw the figure. Letters that it lacks come from DejaVu Sans."""
_DOTS = 72  # of SVG and PDF, an inch
_SCALE = RASTER_DPI / _DOTS
_ENLARGE = Affine2D().scale(_SCALE)
_FACTORS = np.array([[_SCALE], [_SCALE], [1.0]])

for _font in sorted((Path(__file__).parent / "fonts").glob("*.ttf")):
    font_manager.fontManager.addfont(_font)


def save(figure: Figure) -> tuple[str, bytes, bytes]:
    """The figure as SVG, PNG and PDF, without a date in any. Its layout must have been found, at ``figure.dpi`` 72."""
    vector, paper, raster = io.StringIO(), io.BytesIO(), io.BytesIO()
    figure.set_dpi(_DOTS)
    width, height = figure.get_size_inches()
    file = PdfFile(paper, metadata={"CreationDate": None, "Creator": None, "Producer": None})
    try:
        file.newPage(width, height)
        together = _Together(
            RendererSVG(
                width * _DOTS, height * _DOTS, vector, None, RASTER_DPI, metadata={"Date": None, "Creator": None}
            ),
            RendererPdf(file, RASTER_DPI, height, width),
            RendererAgg(round(width * RASTER_DPI), round(height * RASTER_DPI), RASTER_DPI),
        )
        figure.draw(together)
        together.svg.finalize()
        together.pdf.finalize()
        file.finalize()
    finally:
        file.close()
    image = Image.fromarray(np.asarray(together.raster.buffer_rgba())).convert("RGB")
    image.save(raster, "png", dpi=(RASTER_DPI, RASTER_DPI))
    return vector.getvalue(), raster.getvalue(), paper.getvalue()


class _Together(RendererBase):
    """Draws on three renderers. Artists see one whose y axis points down and that has ``_DOTS`` pixels an inch.

    The raster has more of them, so that all places are enlarged for it; widths of lines and sizes of letters are in points, which
    it enlarges itself.
    """

    def __init__(self, svg: RendererSVG, pdf: RendererPdf, raster: RendererAgg) -> None:
        super().__init__()
        self.svg, self.pdf, self.raster = svg, pdf, raster

    def get_canvas_width_height(self) -> tuple[float, float]:
        return self.svg.get_canvas_width_height()

    def get_image_magnification(self) -> float:
        return _SCALE

    def get_text_width_height_descent(self, s: str, prop: Any, ismath: Any) -> tuple[float, float, float]:
        return self.svg.get_text_width_height_descent(s, prop, ismath)

    def new_gc(self) -> GraphicsContextBase:
        return self.pdf.new_gc()  # the other two need no more than any context has

    def open_group(self, s: str, gid: str | None = None) -> None:
        self.svg.open_group(s, gid)

    def close_group(self, s: str) -> None:
        self.svg.close_group(s)

    def draw_path(self, gc: Any, path: Any, transform: Any, rgbFace: Any = None) -> None:
        self.svg.draw_path(gc, path, transform, rgbFace)
        self.pdf.draw_path(gc, path, transform, rgbFace)
        self.raster.draw_path(_enlarged(gc), path, _large(transform), rgbFace)

    def draw_markers(
        self, gc: Any, marker_path: Any, marker_trans: Any, path: Any, trans: Any, rgbFace: Any = None
    ) -> None:
        self.svg.draw_markers(gc, marker_path, marker_trans, path, trans, rgbFace)
        self.pdf.draw_markers(gc, marker_path, marker_trans, path, trans, rgbFace)
        self.raster.draw_markers(_enlarged(gc), marker_path, _large(marker_trans), path, _large(trans), rgbFace)

    def draw_path_collection(
        self, gc: Any, master_transform: Any, paths: Any, all_transforms: Any, offsets: Any, offset_trans: Any, *style: Any,
        **options: Any,
    ) -> None:  # fmt: skip
        for one in (self.svg, self.pdf):
            one.draw_path_collection(
                gc, master_transform, paths, all_transforms, offsets, offset_trans, *style, **options
            )
        self.raster.draw_path_collection(
            _enlarged(gc), _large(master_transform), paths, all_transforms, offsets,
            _large(offset_trans), *style, **options,
        )  # fmt: skip

    def draw_quad_mesh(
        self, gc: Any, master_transform: Any, meshWidth: Any, meshHeight: Any, coordinates: Any, offsets: Any,
        offsetTrans: Any, facecolors: Any, antialiased: Any, edgecolors: Any,
    ) -> None:  # fmt: skip
        style = facecolors, antialiased, edgecolors
        for one in (self.svg, self.pdf):
            one.draw_quad_mesh(gc, master_transform, meshWidth, meshHeight, coordinates, offsets, offsetTrans, *style)
        self.raster.draw_quad_mesh(
            _enlarged(gc),
            _large(master_transform),
            meshWidth,
            meshHeight,
            coordinates,
            offsets,
            _large(offsetTrans),
            *style,
        )

    def draw_gouraud_triangles(self, gc: Any, triangles_array: Any, colors_array: Any, transform: Any) -> None:
        for one in (self.svg, self.pdf):
            one.draw_gouraud_triangles(gc, triangles_array, colors_array, transform)
        self.raster.draw_gouraud_triangles(_enlarged(gc), triangles_array, colors_array, _large(transform))

    def draw_image(self, gc: Any, x: float, y: float, im: Any, transform: Any = None) -> None:
        for one in (self.svg, self.pdf):
            one.draw_image(gc, x, y, im, transform)
        self.raster.draw_image(_enlarged(gc), x * _SCALE, y * _SCALE, im)

    def draw_text(
        self, gc: Any, x: float, y: float, s: str, prop: Any, angle: float, ismath: Any = False, mtext: Any = None
    ) -> None:
        self.svg.draw_text(gc, x, y, s, prop, angle, ismath, mtext)
        self.pdf.draw_text(gc, x, self.get_canvas_width_height()[1] - y, s, prop, angle, ismath, mtext)
        self.raster.draw_text(_enlarged(gc), x * _SCALE, y * _SCALE, s, prop, angle, ismath, mtext)


def _large(transform: Any) -> Affine2D:
    """An affine transformation, then ``_ENLARGE``."""
    return Affine2D(_FACTORS * transform.get_matrix())


def _enlarged(gc: GraphicsContextBase) -> GraphicsContextBase:
    """The same context with its clipping enlarged."""
    other: Any = GraphicsContextBase()
    other.copy_properties(gc)
    rectangle = gc.get_clip_rectangle()
    if rectangle is not None:
        other.set_clip_rectangle(TransformedBbox(rectangle, _ENLARGE))
    path, transform = cast("tuple[Any, Any]", gc.get_clip_path())
    if path is not None:
        other.set_clip_path(TransformedPath(path, _large(transform)))
    return other
