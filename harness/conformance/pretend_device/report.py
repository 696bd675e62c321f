"""What the pretend device observed: host synchronisations, mixed devices, random draws, casts, attention kernels."""

from __future__ import annotations

import sys
import sysconfig
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch

HERE = str(Path(__file__).parent)
OUTSIDE = (str(Path(torch.__file__).parent), sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), "<")
"""Where frames are not the project's or a plugin's: torch, the standard library, installed packages, generated code."""
DATA = (
    "smope_bench.harness.training.batches.data",
    "smope_bench.harness.training.batches.feeder",
    "smope_bench.benchmarks.",
)
"""Modules that make batches; ``Wait.feeds`` is true within them."""
PHASES = ("training_step", "descend", "predict", "end_task", "fit_task", "measure")
"""Functions whose frames name the phase of a run: hooks of methods, the optimiser's step, the evaluation of a task."""


@dataclass(frozen=True)
class Place:
    """A line of a source file."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Wait:
    """A host synchronisation: the host waits until the device has done all that it was given.

    ``operation``: what asked for it, such as ``item`` or ``copy to the host``; ``phase``: the innermost of ``PHASES`` that was
    running, or empty; ``feeds``: while a batch was made; ``places``: lines outside of installed packages, innermost first.
    """

    operation: str
    phase: str
    feeds: bool
    places: tuple[Place, ...]

    def __str__(self) -> str:
        return f"{self.operation} at {self.places[0] if self.places else 'an unknown place'}"


@dataclass
class Report:
    """Counts of everything observed since the device was made, or since ``clear``."""

    waits: Counter[Wait] = field(default_factory=Counter)
    mixed: list[str] = field(default_factory=list)
    """Messages of refused operations."""
    draws: Counter[str] = field(default_factory=Counter)
    """Random draws by device and generator, such as ``cuda:0, default``."""
    casts: int = 0
    """Copies to another number format on the device."""
    kernels: Counter[str] = field(default_factory=Counter)
    """Calls of attention by the kernel that CUDA would choose."""

    def wait(self, operation: str) -> None:
        """Count a host synchronisation of the running code."""
        phase, feeds, places = _running()
        self.waits[Wait(operation, phase, feeds, places)] += 1

    def waits_in(self, phase: str, *, feeds: bool = False) -> Counter[Wait]:
        """The host synchronisations of a phase; those of making its batches with ``feeds``."""
        return Counter({wait: n for wait, n in self.waits.items() if wait.phase == phase and wait.feeds == feeds})

    def clear(self) -> None:
        """Forget everything."""
        self.__init__()


def _running() -> tuple[str, bool, tuple[Place, ...]]:
    phase, feeds, places = "", False, []
    frame = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if not code.co_filename.startswith((HERE, *OUTSIDE)):
            places.append(Place(code.co_filename, frame.f_lineno))
            feeds = feeds or (not phase and f"{frame.f_globals.get('__name__')}.".startswith(DATA))
            phase = phase or (code.co_name if code.co_name in PHASES else "")
        frame = frame.f_back
    return phase, feeds, tuple(places)


def place() -> str:
    """The running line outside of installed packages, for messages."""
    places = _running()[2]
    return str(places[0]) if places else "an unknown place"
