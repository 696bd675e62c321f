"""Archives read member by member, in their own order, and never unpacked to disk.

Archives are not trusted: names are checked, links and devices refused, sizes counted.
"""

from __future__ import annotations

import gzip
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

from smope_bench.benchmarks.errors import BenchmarkError

TOO_MUCH = "give an intact copy with --from FILE, and trust no archive that others than its owners publish"


@dataclass(frozen=True)
class Limits:
    """Limits of an archive's content; enough for the largest that is read here, a few gigabytes of small images."""

    max_members: int = 200_000
    max_total_bytes: int = 20 << 30
    max_member_bytes: int = 512 << 20
    max_ratio: float = 100.0
    """Largest ratio of content to bytes on disk, above ``ratio_from`` bytes of content."""
    ratio_from: int = 64 << 20


DEFAULT = Limits()


class Count:
    """Counts of an archive's content, checked against the limits."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path, self.limits = path, limits
        self._on_disk = path.stat().st_size if path.is_file() else None
        self._names: set[str] = set()
        self._members = self._bytes = 0
        self.last = "its beginning"

    def enter(self, raw: str) -> str | None:
        """Count an entry and return its checked name, or None if it is left out."""
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
        """The error of a member."""
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


BLOCK = 512
REMEDY = "delete it and prepare again, or give an intact copy with --from FILE"
HEADER_LIMIT = 1 << 20  # bytes of one header, long names included
CHUNK = 1 << 20
try:
    from lzma import LZMAError
except ImportError:  # a Python that was built without it opens no such archive
    LZMAError = zlib.error

UNREADABLE = (
    tarfile.TarError,
    LZMAError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    RecursionError,
)
"""Errors of the standard library for truncated, damaged or hostile archives."""


@dataclass(frozen=True)
class Member:
    """One file of an archive."""

    name: str
    """Relative, with forward slashes, checked."""
    size: int
    read: Callable[[], bytes]
    """Reads the content; call it before the next member is requested."""


def members(path: Path, *, limits: Limits = DEFAULT) -> Iterator[Member]:
    """The files of a tar, tar.gz, tgz or zip archive, or of a folder into which one was unpacked, one at a time.

    Archives keep their own order, folders are sorted by name. Files that macOS adds are left out. Raises BenchmarkError, naming
    archive and member, for names outside the archive, links, devices, bombs, and truncated or damaged archives.
    """
    count = Count(path, limits)
    try:
        if path.is_dir():
            yield from _folder_members(path, count)
            return
        with path.open("rb") as file:
            kind = _kind(path, file)
            yield from _zip_members(file, count) if kind == "zip" else _tar_members(file, kind, count)
    except BenchmarkError:
        raise
    except UNREADABLE as error:
        raise _unreadable(error, count) from error


def _kind(path: Path, file: IO[bytes]) -> str:
    """``zip``, ``gzip`` or ``tar``, by content and not by name."""
    head = file.read(BLOCK)
    file.seek(0)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head[257:262] == b"ustar" or _is_old_tar(head):
        return "tar"
    begin = f"it begins with {head[:16]!r}" if head else "it is empty"
    raise BenchmarkError(f"{path} is not a tar, tar.gz or zip archive ({begin}); {REMEDY}")


def _is_old_tar(head: bytes) -> bool:
    try:
        return len(head) == BLOCK and tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape").chksum > 0
    except tarfile.HeaderError:
        return False


class _Metered:
    """The tar stream of an archive: limits memory a header and stores the last block read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.in_header, self.last = True, b""

    def read(self, size: int = -1) -> bytes:
        if self.in_header and not 0 <= size <= HEADER_LIMIT:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        self.last = self._file.read(size)
        return self.last

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _tar_members(file: IO[bytes], kind: str, count: Count) -> Iterator[Member]:
    plain: IO[bytes] = gzip.GzipFile(fileobj=file, mode="rb") if kind == "gzip" else file  # pyright: ignore[reportAssignmentType]
    metered = _Metered(plain)
    with tarfile.open(fileobj=metered, mode="r:", errorlevel=2) as tar:  # pyright: ignore[reportArgumentType, reportCallIssue]
        while (info := tar.next()) is not None:
            tar.members = []  # or the reader keeps every entry
            name = count.enter(info.name)
            if name is None or info.isdir():
                _require_small(info, count)
                continue
            if not info.isreg() or info.issparse():
                count.refuse(info.name, f"it is {_tar_kind(info)}, not a file")
            count.hold(info.name, info.size)
            once = _Once(count, lambda info=info: _tar_content(tar, info, metered))
            yield Member(name, info.size, once.read)
            once.end()
    if len(metered.last) < BLOCK or metered.last.strip(b"\0"):
        # The reader stops silently at a truncated or inconsistent header.
        raise tarfile.ReadError("no end-of-archive mark" if len(metered.last) < BLOCK else "bad header")
    if kind == "gzip":
        _drain(plain, count)


def _require_small(info: tarfile.TarInfo, count: Count) -> None:
    """Skip a member; in compressed archives that takes time."""
    if info.size:
        count.hold(info.name, info.size)


def _tar_content(tar: tarfile.TarFile, info: tarfile.TarInfo, metered: _Metered) -> bytes:
    file = tar.extractfile(info)
    assert file is not None, "regular files have content"
    metered.in_header = False
    try:
        with file:
            data = file.read()
    finally:
        metered.in_header = True
    if len(data) != info.size:
        raise tarfile.ReadError(f"{info.name!r} ends after {len(data):,} of {info.size:,} bytes")
    return data


def _tar_kind(info: tarfile.TarInfo) -> str:
    if info.issym() or info.islnk():
        return f"a link to {info.linkname!r}"
    return "sparse" if info.issparse() else "a device, pipe or other special entry"


def _drain(plain: IO[bytes], count: Count) -> None:
    """Read the padding after the last member, so that the checksum of the compressed data is checked."""
    while chunk := plain.read(CHUNK):
        count.hold("the padding at its end", len(chunk))


def _zip_members(file: IO[bytes], count: Count) -> Iterator[Member]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            raw = info.orig_filename  # `filename` is already cut at a NUL
            name = count.enter(raw)
            mode = info.external_attr >> 16
            if name is None or info.is_dir():
                continue
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                count.refuse(raw, "it is a link or special entry, not a file")
            if info.flag_bits & 1:
                count.refuse(raw, "it is encrypted")
            count.hold(raw, info.file_size)
            once = _Once(count, lambda info=info: _zip_content(archive, info))
            yield Member(name, info.file_size, once.read)
            once.end()


def _zip_content(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    with archive.open(info) as file:
        data = file.read(info.file_size + 1)  # at most the declared size; the checksum is checked
    if len(data) != info.file_size:
        raise zipfile.BadZipFile(f"{info.filename!r} has {len(data):,} bytes, not the declared {info.file_size:,}")
    return data


def _folder_members(folder: Path, count: Count) -> Iterator[Member]:
    root = folder.resolve()
    for place, folders, files in os.walk(root, followlinks=False, onerror=_raise):
        folders.sort()
        for link in (entry for entry in folders if (Path(place) / entry).is_symlink()):
            count.refuse(link, "it is a link to a folder")
        for file in sorted(files):
            path = Path(place) / file
            raw = path.relative_to(root).as_posix()
            name = count.enter(raw)
            if name is None:
                continue
            if not path.resolve().is_relative_to(root):
                count.refuse(raw, "it is a link that leaves the folder")
            if not path.is_file():
                count.refuse(raw, "it is not a file")
            size = path.stat().st_size
            count.hold(raw, size)
            once = _Once(count, path.read_bytes)
            yield Member(name, size, once.read)
            once.end()


def _raise(error: OSError) -> NoReturn:
    raise error


class _Once:
    """Reads a member, only while it is the current one: a stream cannot be rewound."""

    def __init__(self, count: Count, read: Callable[[], bytes]) -> None:
        self._count, self._read = count, read
        self._name, self._is_over = count.last, False

    def read(self) -> bytes:
        if self._is_over:
            raise LookupError(f"member {self._name} is read after the next one was asked for")
        try:
            return self._read()
        except UNREADABLE as error:
            raise _unreadable(error, self._count) from error

    def end(self) -> None:
        self._is_over = True


def _unreadable(error: BaseException, count: Count) -> BenchmarkError:
    if isinstance(error, OSError) and error.errno is not None:
        return BenchmarkError(
            f"{count.path} cannot be read ({error.strerror or error}); check its place and permissions"
        )
    reason = " ".join(str(error).split()) or type(error).__name__
    return BenchmarkError(f"{count.path} is cut off or damaged at {count.last} ({reason}); {REMEDY}")
