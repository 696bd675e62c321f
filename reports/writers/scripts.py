"""The page's scripts: its own, and the libraries that draw its charts, which travel in it with their licences."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from markupsafe import Markup

from smope_bench.reports.figures.drawing.interactive import shapes
from smope_bench.reports.figures.figure import FigureFile
from smope_bench.reports.writers.page_data import safe_json

_OWN = ("page.js", "page_runs.js", "page_charts.js")


@dataclass(frozen=True)
class Library:
    """A library of others, unchanged: ``file`` of ``vendor/`` is ``path`` of the npm package in this version."""

    name: str
    package: str
    version: str
    path: str
    file: str
    sha256: str
    licence: str
    licence_file: str


@dataclass(frozen=True)
class Script:
    """A script of the page; the content security policy allows those of these hashes alone."""

    text: Markup

    @property
    def hash(self) -> str:
        """SHA-256 as the policy writes it."""
        return base64.b64encode(hashlib.sha256(self.text.encode()).digest()).decode()


def resource(name: str) -> str:
    """The text of a file of the folder ``page``."""
    return files("smope_bench.reports.writers").joinpath("page", name).read_text(encoding="utf-8")


@cache
def libraries() -> tuple[Library, ...]:
    """The libraries in the order in which they are loaded."""
    return tuple(Library(**one) for one in json.loads(resource("vendor/libraries.json")))


def scripts(*, charts: bool) -> list[Script]:
    """The scripts of a page, libraries first; those that draw only where there are ``charts``."""
    found = [_licensed(library) for library in libraries()] if charts else []
    own = "".join(resource(name) for name in _OWN if charts or name != "page_charts.js")
    return [Script(Markup(text)) for text in (*found, own)]


def _licensed(library: Library) -> str:
    licence = resource(f"vendor/{library.licence_file}").strip()
    head = f"/* {library.name} {library.version} ({library.licence})\n\n{licence}\n*/\n"
    return head + resource(f"vendor/{library.file}").strip() + "\n"


def chart_data(figures: Iterable[FigureFile]) -> Markup:
    """What the script draws, as JSON: figure -> chart, and the outlines of the markers."""
    charts = {figure.name: figure.chart for figure in figures if figure.chart is not None}
    markers = [one["marker"] for chart in charts.values() for one in chart["series"]]
    return safe_json({"shapes": shapes([*markers, "<", ">"]), "charts": charts})
