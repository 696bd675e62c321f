"""Ctrl-C and SIGTERM end a command in the same way: runs saved, workers stopped, finished work kept, a status of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

INTERRUPTED, TERMINATED = 130, 143
GRACE_S = 60.0
"""How long runs get to finish their step and to save themselves."""
LOOK_S = 0.25
"""Pause between looks at whether a stop was asked for."""


class Stopped(BaseException):
    """Ctrl-C or SIGTERM. Neither an error, which a failing run would be, nor an interrupt, which the parser swallows."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Stop:
    """Whether a gentle stop was asked for, and what to do when it is."""

    def __init__(self, ask: Callable[[], None] = lambda: None) -> None:
        self.status: int | None = None
        self.ask = ask

    def require_none(self) -> None:
        """Raise Stopped where one was asked for: everything that could be saved is."""
        if self.status is not None:
            raise Stopped(self.status)


@contextlib.contextmanager
def stop_signals() -> Iterator[None]:
    """Turn both signals into ``Stopped`` while a command runs."""

    def stop(number: int, _: object) -> NoReturn:
        raise Stopped(_status(number))

    with _handling(stop):
        yield


@contextlib.contextmanager
def stop_gently(grace_s: float = GRACE_S) -> Iterator[Stop]:
    """Note the first signal and call ``Stop.ask``; a second one, or the end of the grace, raises ``Stopped`` at once."""
    asked, over = Stop(), threading.Event()
    # Made here and not by the handler, which must take no lock: it may have interrupted whoever holds it.
    watcher = threading.Thread(target=_end_of_grace, args=(asked, over, grace_s), name="grace", daemon=True)

    def stop(number: int, _: FrameType | None) -> None:
        if asked.status is not None:
            raise Stopped(asked.status)
        asked.status = _status(number)
        asked.ask()

    watcher.start()
    with _handling(stop):
        try:
            yield asked
        finally:
            over.set()
            watcher.join()


def _end_of_grace(asked: Stop, over: threading.Event, grace_s: float) -> None:
    """Repeat the signal where the work is not ``over`` so long after a stop was asked for."""
    while not over.wait(LOOK_S):
        if asked.status is not None:
            if not over.wait(grace_s):
                os.kill(os.getpid(), signal.SIGINT if asked.status == INTERRUPTED else signal.SIGTERM)
            return


@contextlib.contextmanager
def _handling(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _status(number: int) -> int:
    return INTERRUPTED if number == signal.SIGINT else TERMINATED


class StopRequest:
    """A request to stop. It is read between two steps, so that the run ends at a point it can go on from.

    ``ask`` may be called by a signal handler or from another thread. It takes no lock: a handler that interrupts another one
    would wait for what only that one can give back.
    """

    def __init__(self) -> None:
        self._asked = False

    def ask(self) -> None:
        """Ask the run to finish its step, save and stop."""
        self._asked = True

    def asked(self) -> bool:
        """Whether anybody has asked."""
        return self._asked


class Interrupted(BaseException):  # neither an error, which a failing run would be
    """The run was asked to stop and did; the same command goes on from its last checkpoint."""


class ClaimLost(Interrupted):
    """Another process does this run now: this one must write nothing more for it."""
