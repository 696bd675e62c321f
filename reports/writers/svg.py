"""Drawings inside the page: with unique ids, in few bytes, and no more than the page has room for."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from smope_bench.reports.figures.figure import FigureFile
from smope_bench.reports.text import plain

LEGIBLE = 9.5
"""Pixels of the smallest letter of a drawing at least: where the page is narrower, the drawing scrolls in its own box."""
_LETTERS = re.compile(r"font(?:-size)?:[^;\"]*?([\d.]+)px")
_UNSEEN = re.compile(r"<!--.*?-->|<metadata>.*?</metadata>|<style type=.*?</style>", re.DOTALL)
_NUMBER = re.compile(r"(\d+\.\d{2})\d+(?![\de])")
_RECTANGLE = re.compile(r"M([\d.]+) ([\d.]+)L([\d.]+) \2L\3 ([\d.]+)L\1 \4(?:L\1 \2)?[zZ]?")


@dataclass(frozen=True)
class PageFigure:
    """A figure on the page; ``svg`` is ``None`` where the page has no room and links to its file."""

    figure: FigureFile
    svg: Markup | None

    @property
    def file(self) -> str:
        """Path of the drawing, relative to the page."""
        return f"figures/{self.figure.name}.svg"

    @property
    def least(self) -> int:
        """Pixels of its width from which on all its letters can be read."""
        smallest = min(map(float, _LETTERS.findall(self.figure.svg)), default=LEGIBLE)
        return math.ceil(_width(self.figure.svg) * LEGIBLE / smallest + 0.01)  # a browser rounds


def place_figures(groups: Sequence[Sequence[FigureFile]], room: int) -> list[list[PageFigure]]:
    """Include figures while there is room (in bytes): the first of every group, then the second of every group, and so on."""
    order = sorted((position, i) for i, group in enumerate(groups) for position in range(len(group)))
    placed: dict[tuple[int, int], PageFigure] = {}
    for n, (position, i) in enumerate(order, 1):
        figure = groups[i][position]
        svg = inline_svg(figure, f"d{n}")
        weight = len(svg.encode())
        placed[i, position] = PageFigure(figure, svg if weight <= room else None)
        room -= weight if weight <= room else 0
    return [[placed[i, position] for position in range(len(group))] for i, group in enumerate(groups)]


def inline_svg(figure: FigureFile, prefix: str) -> Markup:
    """A drawing with an accessible name; ``prefix`` makes its ids unique on the page."""
    drawing = figure.svg[figure.svg.index("<svg") :]
    body = drawing.partition(">")[2]
    body = re.sub(r">\s*\n\s*<", "><", _UNSEEN.sub("", body)).strip()
    body = re.sub(r"<[^>]+>", lambda tag: _squeeze(tag.group(0)), _rename(body, prefix))
    opening = Markup('<svg viewBox="{}" style="max-width:{:.0f}px" role="img" aria-label="{}">')
    return opening.format(_view(drawing), 1.6 * _width(drawing), plain(figure.alt)) + Markup(body)


def _view(svg: str) -> str:
    """The ``viewBox`` of a drawing."""
    box = re.search(r'<svg[^>]* viewBox="([^"]*)"', svg)
    return box.group(1) if box else "0 0 100 100"


def _width(svg: str) -> float:
    return float(_view(svg).split()[2])


def _rename(body: str, prefix: str) -> str:
    """Shorten ids and drop those without a reference."""
    referred = set(re.findall(r'(?:href="|url\()#([^")]+)', body))
    own = dict.fromkeys(name for name in re.findall(r'<[^>]* id="([^"]*)"', body) if name in referred)
    names = {name: f"{prefix}-{i}" for i, name in enumerate(own)}

    def rename(tag: re.Match[str]) -> str:
        text = re.sub(r'\sid="([^"]*)"', lambda m: f' id="{names[m[1]]}"' if m[1] in names else "", tag[0])
        return re.sub(r'(?:xlink:)?(href="|url\()#([^")]+)', lambda m: f"{m[1]}#{names.get(m[2], m[2])}", text)

    return re.sub(r"<[^>]+>", rename, body)


def _squeeze(tag: str) -> str:
    """A tag with coordinates rounded to a hundredth of a point and without redundant characters."""
    tag = re.sub(r'\b(d|x|y|points)="([^"]*)"', lambda m: f'{m[1]}="{_coordinates(m[2])}"', tag)
    # Only shifts may lose digits: a scale has six that matter.
    tag = re.sub(r"translate\([^)]*\)", lambda m: _NUMBER.sub(r"\1", m[0]), tag)
    if ' style="' in tag:  # The page's own style names the font, once for all drawings.
        tag = re.sub(r"\s*font-family:[^;\"]*;?\s*", "", re.sub(r"([:;]) +", r"\1", tag))
    return tag.replace("xlink:href", "href")


def _coordinates(text: str) -> str:
    text = re.sub(r"\s*([A-Za-df-z])\s*", r"\1", _NUMBER.sub(r"\1", text))
    return _RECTANGLE.sub(r"M\1 \2H\3V\4H\1Z", re.sub(r"\s+", " ", text).strip())
