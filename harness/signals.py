"""Ctrl-C and SIGTERM end a command in the same way: workers stopped, finished work kept, a status of its own."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import NoReturn

INTERRUPTED, TERMINATED = 130, 143


class Stopped(BaseException):
    """Ctrl-C or SIGTERM. Neither an error, which a failing run would be, nor an interrupt, which the parser swallows."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@contextlib.contextmanager
def stop_signals() -> Iterator[None]:
    """Turn both signals into ``Stopped`` while a command runs."""

    def stop(number: int, _: object) -> NoReturn:
        raise Stopped(INTERRUPTED if number == signal.SIGINT else TERMINATED)

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
