"""What an archive may not do: lead out of itself, hold more than it should, or name a file twice."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from smope_bench.benchmarks.errors import BenchmarkError

TOO_MUCH = "give an intact copy with --from FILE, and trust no archive that others than its owners publish"


@dataclass(frozen=True)
class Limits:
    """How much an archive may hold; fit for the largest that is read here, a few gigabytes of small images."""

    max_members: int = 200_000
    max_total_bytes: int = 20 << 30
    max_member_bytes: int = 512 << 20
    max_ratio: float = 100.0
    """Bytes held by bytes on disk, once more than ``ratio_from`` bytes are held."""
    ratio_from: int = 64 << 20


DEFAULT = Limits()


class Count:
    """What was seen of an archive, held against its limits."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path, self.limits = path, limits
        self._on_disk = path.stat().st_size if path.is_file() else None
        self._names: set[str] = set()
        self._members = self._bytes = 0
        self.last = "its beginning"

    def enter(self, raw: str) -> str | None:
        """Count an entry and return its checked name, or None where it is to be left out."""
        self._members += 1
        if self._members > self.limits.max_members:
            self.refuse(raw, f"it has more than {self.limits.max_members:,} members")
        self.last = repr(raw)
        name, fault = checked_name(raw)
        if fault:
            self.refuse(raw, fault)
        if is_clutter(name):
            return None
        if name in self._names:
            self.refuse(raw, "the name is there twice")
        self._names.add(name)
        return name

    def hold(self, raw: str, size: int) -> None:
        """Count the declared size of a file before a byte of it is read."""
        limits = self.limits
        self._bytes += size
        if size < 0 or size > limits.max_member_bytes:
            self.refuse(raw, f"it declares {size:,} bytes, more than {limits.max_member_bytes:,}")
        if self._bytes > limits.max_total_bytes:
            self.refuse(raw, f"more than {limits.max_total_bytes:,} bytes come out of the archive")
        if self._on_disk is not None and self._bytes > max(limits.ratio_from, limits.max_ratio * self._on_disk):
            self.refuse(raw, f"{self._on_disk:,} bytes expand to {self._bytes:,} or more")

    def refuse(self, raw: str, fault: str) -> NoReturn:
        """Say what is wrong with a member."""
        raise BenchmarkError(f"{self.path}: member {raw!r} is refused: {fault}; {TOO_MUCH}")


def checked_name(raw: str) -> tuple[str, str]:
    """A member's name as a relative path without ``.`` parts, and what is wrong with it, or ''."""
    if "\0" in raw or "\\" in raw or any(ord(letter) < 32 for letter in raw):
        return raw, "its name holds a backslash or a control character"
    if raw.startswith("/") or re.match(r"[A-Za-z]:", raw):
        return raw, "its name is an absolute path"
    parts = [part for part in raw.split("/") if part not in ("", ".")]
    if ".." in parts:
        return raw, "its name leads out of the archive"
    return "/".join(parts), ""


def is_clutter(name: str) -> bool:
    """Whether a file is one that macOS adds, or the archive's own root."""
    parts = name.split("/")
    return not name or "__MACOSX" in parts or parts[-1] == ".DS_Store" or parts[-1].startswith("._")
