"""Sees every file that is put into some folders, by the kernel's own notices (Linux): none is missed between two looks."""

from __future__ import annotations

import ctypes
import os
import select
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

_MOVED_TO, _CREATED, _DELETED, _MODIFIED, _OVERFLOW = 0x80, 0x100, 0x200, 0x2, 0x4000
_HEAD = struct.Struct("iIII")


class Watch:
    """Counts what happens in folders that exist when it begins. A context manager.

    ``placed``: how often each (folder, name) was created, or renamed or linked into place; ``changes``: all notices so far;
    ``overflowed``: the kernel dropped some, so that the counts cannot be relied on.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.placed: Counter[tuple[str, str]] = Counter()
        self.changes = 0
        self.overflowed = False
        self._condition = threading.Condition()
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "no notices of file changes on this system")
        mask = _MOVED_TO | _CREATED | _DELETED | _MODIFIED
        self._names = {libc.inotify_add_watch(self._fd, os.fsencode(folder), mask): folder.name for folder in folders}
        if -1 in self._names:
            raise OSError(ctypes.get_errno(), f"{self._names[-1]} cannot be watched")
        self._over, self._stop = os.pipe()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.write(self._stop, b".")
        self._thread.join()
        for descriptor in (self._fd, self._over, self._stop):
            os.close(descriptor)

    def wait_for(self, changes: int, seconds: float, ended: Callable[[], bool]) -> None:
        """Wait until there were so many notices, or so many seconds, or there will be no more."""
        end = time.monotonic() + seconds
        with self._condition:
            while self.changes < changes and time.monotonic() < end and not ended():
                self._condition.wait(0.2)

    def times(self, name: str) -> dict[str, int]:
        """How often a file of this name was put into each folder."""
        return {folder: count for (folder, file), count in self.placed.items() if file == name}

    def _read(self) -> None:
        while self._over not in select.select([self._fd, self._over], [], [])[0]:
            self._take()
        self._take()

    def _take(self) -> None:
        try:
            data = os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return
        with self._condition:
            at = 0
            while at < len(data):
                watch, mask, _, length = _HEAD.unpack_from(data, at)
                name = data[at + _HEAD.size : at + _HEAD.size + length].rstrip(b"\0").decode(errors="replace")
                at += _HEAD.size + length
                self.changes += 1
                self.overflowed |= bool(mask & _OVERFLOW)
                if mask & (_MOVED_TO | _CREATED):
                    self.placed[self._names.get(watch, "?"), name] += 1
            self._condition.notify_all()
