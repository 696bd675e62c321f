"""A file lock that ends with its process, however that ends.

Not filelock: on a file system without locks some versions (3.13) wait for ever and others (4.3) raise an error or use a marker
file; it also polls, and leaves its file in the user's folders. Here the caller learns that there is no lock.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[], None]) -> Iterator[bool]:
    """Hold the lock file ``path`` inside; ``waiting`` is called once if another process holds it.

    Yields False if the file system has no locks. Raises OSError if the file cannot be made.
    """
    descriptor, holds = _taken(path, waiting)
    try:
        yield holds
    finally:
        if holds:  # removed while held: a waiting process sees that its file is gone and opens a new one
            with contextlib.suppress(OSError):
                path.unlink()
        os.close(descriptor)


def _taken(path: Path, waiting: Callable[[], None]) -> tuple[int, bool]:
    told = False
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
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
