"""Cancellation: Ctrl-C and SIGTERM stop a command after its runs are saved, with an exit status of their own."""

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
"""Time for runs to finish their step and write a checkpoint."""
LOOK_S = 0.25
"""Interval of checks for a stop request."""


class Stopped(BaseException):
    """Ctrl-C or SIGTERM. Not an Exception, which marks a failed run, nor KeyboardInterrupt, which the parser catches."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Stop:
    """A gentle stop: its exit status once requested, and the function to call then."""

    def __init__(self, ask: Callable[[], None] = lambda: None) -> None:
        self.status: int | None = None
        self.ask = ask

    def require_none(self) -> None:
        """Raise Stopped where a stop was requested; call it once everything is saved."""
        if self.status is not None:
            raise Stopped(self.status)


@contextlib.contextmanager
def stop_signals() -> Iterator[None]:
    """Raise ``Stopped`` on either signal inside the context."""

    def stop(number: int, _: object) -> NoReturn:
        raise Stopped(_status(number))

    with _handling(stop):
        yield


@contextlib.contextmanager
def stop_gently(grace_s: float = GRACE_S) -> Iterator[Stop]:
    """Call ``Stop.ask`` on the first signal; a second one, or the end of the grace period, raises ``Stopped`` at once."""
    asked, over = Stop(), threading.Event()
    # Created here, because the handler must not take a lock that the interrupted code may hold.
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
    """Repeat the signal where the work is not ``over`` at the end of the grace period."""
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
    """A request to stop, which a run checks between two steps, where it can be resumed.

    It may be set by a signal handler or another thread. It takes no lock, because a signal handler could deadlock on it.
    """

    def __init__(self) -> None:
        self._asked = False

    def ask(self) -> None:
        """Request that the run finishes its step, writes a checkpoint and stops."""
        self._asked = True

    def asked(self) -> bool:
        """Whether a stop was requested."""
        return self._asked


class Interrupted(BaseException):  # not an Exception, which marks a failed run
    """The run stopped on request; the same command resumes it from its last checkpoint."""


class LeaseLost(Interrupted):
    """Another process has taken over the run: this one must not write anything for it."""
