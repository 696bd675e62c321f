"""Trackers by name: a function of this room, of an installed package or of a plugin file, that writes runs for a viewer.

A tracker gets the points of each run's curves while it goes on, in the launcher; workers know nothing of it. This module
imports no library of a tracker.
"""

from __future__ import annotations

import importlib
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from smope_bench.harness.errors import UserError
from smope_bench.harness.registry.registry import Registry, open_room
from smope_bench.harness.text import sentence

ROOM = "smope_bench.harness.tracking"


@dataclass(frozen=True)
class Point:
    """One value of a curve, such as ``("loss/all tasks", "epoch", 12, 0.43, 61.2)``."""

    name: str
    axis: str
    """What ``step`` counts: ``epoch``, through all tasks of the run, or ``task``, from 1."""
    step: int
    value: float
    seconds: float
    """Since the run's start."""


@dataclass(frozen=True)
class TrackedRun:
    """What is known of a run before its first point."""

    run_id: str
    name: str
    """Row, benchmark and seeds."""
    suite: str
    settings: Mapping[str, str | int | float | bool]
    """The run's specification with dotted names, as ``method.config.pool_size``."""
    started: float
    """Seconds since 1970: of ``seconds`` 0 of its points."""


class RunWriter(Protocol):
    """Writes one run. Any exception ends the tracker, never the runs."""

    def write(self, points: Sequence[Point]) -> None:
        """Write new points, in the order of their steps; none comes twice."""

    def end(self, state: str, summary: Mapping[str, float]) -> None:
        """Close. ``state``: ``done``, ``failed`` or ``stopped``; ``summary``: final metrics, times and memory by name."""


Open = Callable[[TrackedRun, Path], RunWriter]


@dataclass(frozen=True)
class Tracker:
    """A way to write runs: ``open(run, folder)`` begins one anew, replacing what the folder has of the same run."""

    name: str
    open: Open
    library: str = ""
    """Module that must be importable; empty without one."""
    look: Callable[[str], str] | None = None
    """Makes the shell command that shows a folder, given quoted; empty where there is none."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that are set, unless the user has set them, before the library is imported."""
    check: Callable[[], str] | None = None
    """Gives a sentence on what the user has to do first; empty where nothing is."""

    @property
    def summary(self) -> str:
        """First line of the docstring of what was decorated."""
        return (self.open.__doc__ or "").strip().partition("\n")[0]

    def require_usable(self) -> None:
        """Import the library and check. Raises UserError, with the command that is the remedy."""
        for name, value in self.environment.items():
            os.environ.setdefault(name, value)
        try:
            if self.library:
                importlib.import_module(self.library)
        except Exception as error:
            raise UserError(
                f"--track {self.name} needs the package {self.library}, which cannot be imported ({sentence(error)});"
                f" install it with: pip install {self.library}"
            ) from error
        if self.check is not None and (fault := self.check()):
            raise UserError(f"--track {self.name}: {fault}")

    def look_at(self, folder: Path) -> str:
        """The command that shows a folder; empty without one."""
        return self.look(shlex.quote(str(folder))) if self.look is not None else ""


def tracker(
    name: str,
    *,
    library: str = "",
    look: Callable[[str], str] | None = None,
    environment: Mapping[str, str] | None = None,
    check: Callable[[], str] | None = None,
) -> Callable[[Open], Tracker]:
    """Decorator: makes ``open(run, folder)``, a function or a class, the tracker that ``--track NAME`` chooses."""
    return lambda opened: Tracker(name, opened, library, look, environment or {}, check)


def open_trackers(plugins: Sequence[Path] = ()) -> Registry:
    """All trackers by name. Raises UserError for a plugin file that cannot be imported or takes a name that exists."""
    return open_room("tracker", ROOM, plugins)


def find_trackers(names: Sequence[str], plugins: Sequence[Path] = ()) -> list[Tracker]:
    """The named trackers, each once, whose libraries can be imported. Raises UserError."""
    registry: Any = open_trackers(plugins) if names else None
    found = [registry.load(name) for name in dict.fromkeys(names)]
    for one in found:
        one.require_usable()
    return found
