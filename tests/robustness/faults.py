"""Makes the n-th call that writes fail: no space, an I/O error, permission lost, a file system that became read-only."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BY_PATH = ("open", "mkdir", "replace", "rename", "unlink", "rmdir", "link", "utime")
WRITING_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Faults:
    """Counts the calls that change something below ``root`` and fails from the ``at``-th on (0: none).

    ``lasting``: all later calls fail as well, as on a full disk; else that one alone. A write that fails leaves half of its
    data behind. ``calls`` names what was called, in order.
    """

    def __init__(self, root: Path, at: int, error: int, *, lasting: bool) -> None:
        self.root, self.at, self.error, self.lasting = str(root), at, error, lasting
        self.calls: list[str] = []

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Take the place of the system's calls until the patch is undone."""
        for name in BY_PATH:
            patch.setattr(os, name, self._by_path(name, getattr(os, name)))
        patch.setattr(os, "fsync", self._always("fsync", os.fsync))
        patch.setattr(os, "fdopen", self._stream(os.fdopen))
        patch.setattr(io, "open", self._stream(io.open))

    def _fails(self, name: str) -> bool:
        self.calls.append(name)
        count = len(self.calls)
        return bool(self.at) and (count == self.at or (self.lasting and count > self.at))

    def _raise(self, path: object) -> None:
        raise OSError(self.error, os.strerror(self.error), str(path))

    def _is_ours(self, path: object) -> bool:
        return isinstance(path, str | os.PathLike) and os.fspath(path).startswith(self.root)  # type: ignore[arg-type]

    def _by_path(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: object, *rest: Any, **options: Any) -> Any:
            writes = _does_something(name, path, rest)
            relative = options.get("dir_fd") is not None
            if writes and (relative or self._is_ours(path)) and self._fails(name):
                self._raise(path)
            return real(path, *rest, **options)

        return call

    def _always(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(descriptor: int) -> Any:
            if self._fails(name):
                self._raise(descriptor)
            return real(descriptor)

        return call

    def _stream(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            if not set(mode) & set("wax+") or not (isinstance(file, int) or self._is_ours(file)):
                return real(file, mode, *rest, **options)
            if not isinstance(file, int) and self._fails("open to write"):
                self._raise(file)
            stream = real(file, mode, *rest, **options)
            write = stream.write

            def half(data: Any) -> Any:
                if self._fails("write"):
                    write(data[: len(data) // 2])
                    self._raise(file)
                return write(data)

            stream.write = half
            return stream

        return call


def _does_something(name: str, path: object, rest: tuple[Any, ...]) -> bool:
    """Whether a call would change anything: what is there is not made again, what is gone not removed again."""
    if name == "open":
        return bool(rest) and bool(rest[0] & WRITING_FLAGS)
    if name in ("mkdir", "unlink") and isinstance(path, str | Path) and Path(path).is_absolute():
        return os.path.lexists(path) == (name == "unlink")
    return True
