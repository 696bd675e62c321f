"""One process at a time: a lock that ends with the process that holds it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[], None]) -> Iterator[bool]:
    """Hold the lock file ``path`` while inside; ``waiting`` is called once where another process holds it.

    Gives False where the file system knows no locks: the caller must then do without. Raises OSError where the
    file cannot be made.
    """
    descriptor, holds = _taken(path, waiting)
    try:
        yield holds
    finally:
        if holds:  # removed while still held: whoever waits for it sees that its file is gone and takes a new one
            with contextlib.suppress(OSError):
                path.unlink()
        os.close(descriptor)


def _taken(path: Path, waiting: Callable[[], None]) -> tuple[int, bool]:
    told = False
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not _lock(descriptor, wait=False):
                if not told:
                    waiting()
                    told = True
                _lock(descriptor, wait=True)
            if _is_still(path, descriptor):
                return descriptor, True
        except OSError:
            return descriptor, False
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the locked file is the one that the next process would open."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _lock(descriptor: int, *, wait: bool) -> bool:
    """Lock an open file; False where another process holds it and ``wait`` is not set."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (BlockingIOError, PermissionError):
        return False
    return True
