"""Work on several cores: what is independent is done by copies of this process, which share all that it has read."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from smope_bench.harness.errors import UserError
from smope_bench.harness.hardware.device import usable_cores
from smope_bench.harness.hardware.memory import heap_frozen

T = TypeVar("T")
LEAST = 3
"""Jobs from which copies are worth their making."""
_inherited: list[Callable[[], object]] = []
"""In a copy, its jobs: they are functions made on the spot, which cannot be sent to it."""


def do_all(jobs: Sequence[Callable[[], T]], processes: int | None = None) -> list[T | UserError]:
    """The results of jobs in their order; a UserError that one raises is its result.

    ``processes``: as many as there are cores, unless given. One by one where this process cannot be copied: it is Linux that
    copies safely, and only a process without threads of its own or of torch.
    """
    count = min(processes or (usable_cores() if _can_be_copied() else 1), len(jobs))
    if count < 2 or len(jobs) < LEAST:
        return [_result(job) for job in jobs]
    context = multiprocessing.get_context("fork")
    with heap_frozen():  # a copy that collects garbage would touch, and so duplicate, all that it shares
        try:
            with ProcessPoolExecutor(count, mp_context=context, initializer=_begin, initargs=(jobs,)) as pool:
                return list(pool.map(_numbered, range(len(jobs))))  # pyright: ignore[reportReturnType]
        except BrokenProcessPool:  # one was killed, as for lack of memory
            return [_result(job) for job in jobs]


def _begin(jobs: Sequence[Callable[[], object]]) -> None:
    """In a copy: an interruption is answered by the process that it is a copy of."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _inherited.extend(jobs)


def _can_be_copied() -> bool:
    return sys.platform == "linux" and "torch" not in sys.modules and threading.active_count() == 1


def _numbered(place: int) -> object:
    return _result(_inherited[place])


def _result(job: Callable[[], T]) -> T | UserError:
    try:
        return job()
    except UserError as error:
        return UserError(*error.args)
