"""Runs that are none, for workers to do while the bench times what is around them. Importing this module imports no torch."""

from __future__ import annotations

import time
from typing import Any

COMPUTED_S = 0.05


def nothing(*_: Any) -> None:
    """A run that ends as it begins: what is left is its dispatch."""


def computing(*_: Any) -> None:
    """A run that keeps a core busy for ``COMPUTED_S`` seconds of its own time, however many others are at it."""
    started, total = time.process_time(), 0
    while time.process_time() - started < COMPUTED_S:
        total += sum(range(1000))
