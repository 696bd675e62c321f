"""Ctrl-C and SIGTERM end a command in the same way: runs saved, workers stopped, finished work kept, a status of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

INTERRUPTED, TERMINATED = 130, 143
GRACE_S = 60.0
"""How long runs get to finish their step and to save themselves."""
LOOK_S = 0.25
"""Pause between checks for a stop request."""


class Stopped(BaseException):
    """Ctrl-C or SIGTERM. Not an ``Exception``, which a failing run raises, nor a ``KeyboardInterrupt``, which typer swallows."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Stop:
    """State of a gentle stop: ``status`` is the exit status once a signal arrived, ``on_stop`` is called when it does."""

    def __init__(self, on_stop: Callable[[], None] = lambda: None) -> None:
        self.status: int | None = None
        self.signals = 0
        """How many signals have arrived; the end of the grace period counts as one."""
        self.on_stop = on_stop

        self.handle_again: Callable[[], object] = lambda: None
        """Sets the handlers again after a library has replaced them."""

    def raise_if_stopped(self) -> None:
        """Raise Stopped if a signal arrived."""
        if self.status is not None:
            raise Stopped(self.status)


@contextlib.contextmanager
def stop_signals() -> Iterator[None]:
    """Turn both signals into ``Stopped`` while a command runs."""

    arrived: list[int] = []

    def stop(number: int, _: object) -> NoReturn:
        arrived.append(_status(number))
        raise Stopped(arrived[0])

    with _handling(stop), _restored(lambda: arrived[0] if arrived else None):
        yield


@contextlib.contextmanager
def stop_gently(grace_s: float = GRACE_S, *, insists: bool = True) -> Iterator[Stop]:
    """Record the first signal and call ``Stop.on_stop``; a second one, or the end of the grace period, raises ``Stopped``.

    With ``insists=False`` the second is only counted in ``Stop.signals``: an exception from a signal handler must not pass
    through the frames of an extension that cannot handle it.
    """
    state, over = Stop(), threading.Event()
    # Created here and not in the handler: the handler must not take a lock that the interrupted code may hold.
    watcher = threading.Thread(target=_end_of_grace, args=(state, over, grace_s), name="grace", daemon=True)

    def stop(number: int, _: FrameType | None) -> None:
        state.signals += 1
        if state.status is not None:
            if insists:
                raise Stopped(state.status)
            return
        state.status = _status(number)
        state.on_stop()

    watcher.start()
    with _handling(stop) as handle_again:
        state.handle_again = handle_again
        try:
            with _restored(lambda: state.status if insists and state.signals > 1 else None):
                yield state
        finally:
            over.set()
            watcher.join()


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Both signals arrive when the block is left; a process that is started in it inherits them blocked.

    Blocking them is not enough: the system gives a signal to another thread, and Python runs its handler in the main one.
    """
    held: list[int] = []
    try:
        with _handling(lambda number, _: held.append(number)), _blocked():
            yield
    finally:
        for number in held:
            signal.raise_signal(number)


@contextlib.contextmanager
def _blocked() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _restored(raised: Callable[[], int | None]) -> Iterator[None]:
    """Turn an error back into ``Stopped`` if a handler has ``raised`` it: an extension that it passed made the error of it."""
    try:
        yield
    except Exception as error:
        status = raised()
        if status is None:
            raise
        raise Stopped(status) from error


def _end_of_grace(state: Stop, over: threading.Event, grace_s: float) -> None:
    """Repeat the signal if the work is not ``over`` ``grace_s`` seconds after the first."""
    while not over.wait(LOOK_S):
        if state.status is not None:
            if not over.wait(grace_s):
                os.kill(os.getpid(), signal.SIGINT if state.status == INTERRUPTED else signal.SIGTERM)
            return


@contextlib.contextmanager
def _handling(handler: Callable[[int, FrameType | None], object]) -> Iterator[Callable[[], object]]:
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield lambda: None
        return

    def handle() -> dict[int, Any]:
        return {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}

    before = handle()
    try:
        yield handle
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _status(number: int) -> int:
    return INTERRUPTED if number == signal.SIGINT else TERMINATED


class StopRequest:
    """A request to stop, checked between two steps so that the run ends at a point from which it can resume.

    ``set`` may be called by a signal handler or another thread. It takes no lock (unlike ``threading.Event``): a handler that
    interrupts another one would wait for a lock that only the interrupted code can release.
    """

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        """Ask the run to finish its step, save and stop."""
        self._is_set = True

    def is_set(self) -> bool:
        """Whether a stop was requested."""
        return self._is_set


class Interrupted(BaseException):  # no Exception, which a failing run raises
    """The run was asked to stop and did; the same command resumes it from its last checkpoint."""


class LeaseLost(Interrupted):
    """Another process has taken the run over: this one must not write anything more for it."""
