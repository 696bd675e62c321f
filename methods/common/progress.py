"""Progress of work without training steps, such as passes for statistics or k-means, for the display of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import TypeVar

Listener = Callable[[str, int, int, str], None]
"""Receives the phase, how much of it is done, of how much, and the unit of both."""
T = TypeVar("T")

_listener: ContextVar[Listener | None] = ContextVar("progress listener", default=None)


def report_progress(phase: str, done: int, total: int, unit: str = "images") -> None:
    """Report that ``done`` of ``total`` units of a phase are done; cheap enough for every batch. Without a listener, nothing."""
    listener = _listener.get()
    if listener is not None:
        listener(phase, done, total, unit)


def counted(items: Iterable[T], phase: str, total: int, unit: str) -> Iterator[T]:
    """The items, each reported once it has been used."""
    for done, item in enumerate(items, start=1):
        yield item
        report_progress(phase, done, total, unit)


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Pass reports from within the block to ``listener``."""
    before = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(before)
