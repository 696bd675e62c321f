"""Figures inside the page: named apart, and without what no screen shows."""

from __future__ import annotations

from smope_bench.reports.figures.figure import FigureFile
from smope_bench.reports.writers.svg import inline_svg


def figure_of(svg: str, alt: str = "") -> FigureFile:
    """A figure of this drawing."""
    return FigureFile("one", "One", "A figure.", alt, svg, b"", b"")


def test_inlined_figures_keep_their_ids_apart_and_lose_what_no_screen_shows() -> None:
    inner = (
        '<!-- c --><g id="a"/><g id="unused"/><use xlink:href="#a" clip-path="url(#a)"/>'
        '<path d="M 1.23456 2.5 \nL 3.987 -4.0001 \nz" style="fill: none; stroke: #fff"/>'
        '<g transform="translate(1.23456 2) scale(0.015625)"/><text style="font-size: 8px; font-family: serif">1.23456</text>'
    )
    figure = figure_of(f'<?xml version="1.0"?>\n<svg width="9pt" viewBox="0 0 9 9">{inner}</svg>', 'an "alt" <text>')
    found = str(inline_svg(figure, "d4"))
    assert 'id="d4-0"' in found and 'href="#d4-0"' in found and "url(#d4-0)" in found
    assert (
        "&#34;alt&#34; &lt;text&gt;" in found and "<!--" not in found and "9pt" not in found and "unused" not in found
    )
    assert 'd="M1.23 2.5L3.98 -4.00z"' in found and "scale(0.015625)" in found and ">1.23456<" in found
    assert "font-family" not in found and "font-size:8px" in found


def test_a_rectangle_is_drawn_with_fewer_characters() -> None:
    svg = '<svg viewBox="0 0 9 9"><path d="M 1 2 L 5 2 L 5 8 L 1 8 L 1 2 "/><path d="M 1 2 L 5 3 L 5 8 L 1 8 z"/></svg>'
    found = str(inline_svg(figure_of(svg), "d1"))
    assert 'd="M1 2H5V8H1Z"' in found and 'd="M1 2L5 3L5 8L1 8z"' in found
