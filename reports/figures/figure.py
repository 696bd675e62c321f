"""A drawn figure as its files, and figures that belong together. Importing this module imports no drawing library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
    kind: str = ""
    """Name of its kind of figure."""
    chart: Mapping[str, Any] | None = None
    """What the page's script draws of it (``interactive.py``), where it can."""


@dataclass(frozen=True)
class FigureGroup:
    """Figures that belong together: one benchmark of a suite, or its statistics. ``notes``: what could not be drawn, and why."""

    title: str
    figures: tuple[FigureFile, ...]
    notes: tuple[str, ...] = ()
