"""The file operations of a command, as the kernel was asked for them: recorded by ``strace``, read into operations on a disk.

All processes and threads are followed, and all libraries, because it is the system's calls that are recorded. A call that
changes files in a way that is not modelled is an error, and ``power_loss`` compares what the operations give with the folder
that the command has really left, byte for byte.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

STRACE = shutil.which("strace")
LONGEST = 1 << 26
"""Bytes of one write that strace may print."""
ABSENT_TRACER = "strace is not installed, or not allowed to trace here"

_OPEN = ("open", "openat", "openat2", "creat")
_WRITE = ("write", "pwrite64", "writev", "pwritev", "pwritev2")
_NAMES = ("mkdir", "mkdirat", "rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "rmdir")
_OTHER = ("lseek", "ftruncate", "truncate", "fsync", "fdatasync", "mmap", "dup", "dup2", "dup3")
_REFUSED = (
    "symlink",
    "symlinkat",
    "fallocate",
    "copy_file_range",
    "sendfile",
    "splice",
    "sync_file_range",
    "mknod",
    "mknodat",
)
_WHOLE_DISK = ("sync", "syncfs")
CALLS = (*_OPEN, *_WRITE, *_NAMES, *_OTHER, *_REFUSED, *_WHOLE_DISK)

_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
_DESCRIPTOR = re.compile(r"^(\d+|AT_FDCWD)(?:<([^>]*)>)?(\(deleted\))?")
_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>")


@dataclass(frozen=True)
class Write:
    """Bytes written to a file."""

    file: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class Truncate:
    """A file cut, or extended with zeros, to ``size`` bytes."""

    file: int
    size: int


@dataclass(frozen=True)
class Names:
    """Entries of folders set to a file or folder, or to None for none: the change that one call makes at once."""

    entries: tuple[tuple[int, str, int | None], ...]
    is_folder: bool = False
    """The entry is a new folder."""


@dataclass(frozen=True)
class Sync:
    """An fsync of a file or of a folder."""

    of: int


@dataclass(frozen=True)
class Said:
    """Text that the command printed: from here on its user knows."""

    text: str


Operation = Write | Truncate | Names | Sync | Said


@dataclass
class Disk:
    """Files and folders by number; folder 0 is the root. Every operation has reached it."""

    folders: dict[int, dict[str, int]] = field(default_factory=lambda: {0: {}})
    files: dict[int, bytearray] = field(default_factory=dict)

    def do(self, operation: Operation) -> None:
        """Carry an operation out."""
        match operation:
            case Write(file, offset, data):
                write_at(self.files.setdefault(file, bytearray()), offset, data)
            case Truncate(file, size):
                cut_to(self.files.setdefault(file, bytearray()), size)
            case Names(entries, is_folder):
                for folder, name, to in entries:
                    set_name(self.folders[folder], name, to)
                    if to is not None and is_folder:
                        self.folders.setdefault(to, {})
                    elif to is not None and to not in self.folders:
                        self.files.setdefault(to, bytearray())
            case _:
                pass

    def find(self, path: PurePosixPath) -> int | None:
        """Number of the file or folder of this path below the root."""
        at: int | None = 0
        for part in path.parts:
            at = self.folders[at].get(part) if at in self.folders else None
            if at is None:
                return None
        return at


def write_at(content: bytearray, offset: int, data: bytes) -> None:
    """Write as a file system does; a gap is filled with zeros."""
    cut_to(content, max(len(content), offset))
    content[offset : offset + len(data)] = data


def cut_to(content: bytearray, size: int) -> None:
    """Set the size as ``ftruncate`` does."""
    del content[size:]
    content.extend(bytes(size - len(content)))


def set_name(folder: dict[str, int], name: str, to: int | None) -> None:
    """Set or remove an entry of a folder."""
    if to is None:
        folder.pop(name, None)
    else:
        folder[name] = to


def can_record(folder: Path) -> bool:
    """Whether a process can be traced here; containers may forbid it."""
    if STRACE is None:
        return False
    tried = subprocess.run([STRACE, "-f", "-o", str(folder / "try"), "true"], check=False, capture_output=True)
    return tried.returncode == 0


def record(
    command: Sequence[str], root: Path, log: Path, printed: Path, environment: dict[str, str]
) -> list[Operation]:
    """Run a command to its end and return its operations below ``root``. ``printed``: where its output goes.

    ``root`` must be empty. Raises RuntimeError where the command fails, or does what is not modelled.
    """
    assert STRACE is not None, ABSENT_TRACER
    tracer = [STRACE, "-f", "-qq", "-y", "-xx", "-s", str(LONGEST), "-e", "signal=none", "--seccomp-bpf"]
    tracer += ["-e", f"trace={','.join(f'?{call}' for call in CALLS)}", "-o", str(log)]
    with printed.open("wb") as output:
        ended = subprocess.run(
            [*tracer, *command], check=False, stdout=output, stderr=output, cwd=root, env=environment
        )
    if ended.returncode:
        raise RuntimeError(f"the recorded command ended with status {ended.returncode}: {printed.read_text()[-2000:]}")
    return _Reader(root, printed).read(log)


class _Reader:
    """Turns lines of strace into operations below ``root``."""

    def __init__(self, root: Path, printed: Path) -> None:
        self._root, self._printed = PurePosixPath(root), str(printed)
        self.disk = Disk()
        self.operations: list[Operation] = []
        self._number = 0
        self._offsets: dict[tuple[int, int], int | None] = {}
        """Position by file and descriptor; None for one that appends."""
        self._open_calls: dict[str, str] = {}

    def read(self, log: Path) -> list[Operation]:
        """All operations in the order in which the kernel ended them."""
        with log.open(encoding="ascii", errors="replace") as lines:
            for line in lines:
                call = self._whole(line.rstrip("\n"))
                if call is not None:
                    self._take(*call)
        return self.operations

    def _whole(self, line: str) -> tuple[str, str, str] | None:
        """(call, arguments, result) of a line, joined with the line on which the call began; None while it is not over."""
        process, _, text = line.partition(" ")
        text = text.lstrip()
        if text.endswith("<unfinished ...>"):
            self._open_calls[process] = text.removesuffix("<unfinished ...>")
            return None
        if resumed := _RESUMED.match(text):
            text = self._open_calls.pop(process, f"{resumed[1]}(") + text[resumed.end() :]
        name, bracket, rest = text.partition("(")
        arguments, equals, result = rest.rpartition(" = ")
        if not bracket or not equals or result.startswith(("-1", "?")):
            return None
        return name, arguments.rstrip().removesuffix(")"), result

    def _do(self, operation: Operation) -> None:
        self.disk.do(operation)
        self.operations.append(operation)

    def _below(self, path: str) -> PurePosixPath | None:
        """The path below the root, or None outside."""
        pure = PurePosixPath(path)
        return pure.relative_to(self._root) if pure.is_relative_to(self._root) else None

    def _take(self, call: str, arguments: str, result: str) -> None:
        if call in _OPEN:
            self._opened(call, arguments, result)
        elif call in _NAMES:
            self._named(call, arguments)
        elif call in _WHOLE_DISK:
            raise RuntimeError(f"the command called {call}, which is not modelled")
        else:
            self._on_descriptor(call, arguments, result)

    def _paths(self, call: str, arguments: str) -> list[PurePosixPath | None]:
        """Paths that a call names, below the root or None."""
        found: list[PurePosixPath | None] = []
        base = str(self._root)
        for part in _split(arguments):
            if (at := _DESCRIPTOR.match(part)) and at[2] is not None:
                base = _unescaped(at[2])
            elif text := _TEXT.match(part):
                path = PurePosixPath(_bytes(text).decode(errors="surrogateescape"))
                found.append(self._below(str(PurePosixPath(base) / path)))
        return found

    def _opened(self, call: str, arguments: str, result: str) -> None:
        # The result names the file that was opened, whatever links and relative paths were asked for.
        opened = _DESCRIPTOR.match(result)
        path = self._below(_unescaped(opened[2])) if opened and opened[2] is not None else None
        if opened is None or path is None or not path.parts:
            return
        if "O_TMPFILE" in arguments:
            raise RuntimeError("the command opened a file without a name, which is not modelled")
        number = self.disk.find(path)
        if number is None:
            if "O_CREAT" not in arguments and call != "creat":
                raise RuntimeError(f"{path} was opened and nothing had made it")
            number = self._made(path, is_folder=False)
        elif number in self.disk.files and ("O_TRUNC" in arguments or call == "creat") and self.disk.files[number]:
            self._do(Truncate(number, 0))
        self._offsets[number, int(opened[1])] = None if "O_APPEND" in arguments else 0

    def _made(self, path: PurePosixPath, *, is_folder: bool) -> int:
        self._number += 1
        parent = self.disk.find(path.parent)
        assert parent is not None, path
        self._do(Names(((parent, path.name, self._number),), is_folder))
        return self._number

    def _named(self, call: str, arguments: str) -> None:
        paths = self._paths(call, arguments)
        if all(path is None for path in paths):
            return
        if None in paths:
            raise RuntimeError(f"{call} moved something into the folder or out of it, which is not modelled")
        known = [path for path in paths if path is not None]
        parents = [self.disk.find(path.parent) for path in known]
        first, parent = self.disk.find(known[0]), parents[0]
        assert parent is not None, known
        if call in ("mkdir", "mkdirat"):
            self._made(known[0], is_folder=True)
        elif call in ("unlink", "unlinkat", "rmdir"):
            self._do(Names(((parent, known[0].name, None),)))
        else:
            target = parents[1]
            assert target is not None and first is not None and "RENAME_EXCHANGE" not in arguments, (call, known)
            gone = () if call in ("link", "linkat") else ((parent, known[0].name, None),)
            self._do(Names((*gone, (target, known[1].name, first))))

    def _on_descriptor(self, call: str, arguments: str, result: str) -> None:
        parts = _split(arguments)
        at = 4 if call == "mmap" else 0
        found = _DESCRIPTOR.match(parts[at]) if len(parts) > at else None
        if call == "truncate":
            (path,) = self._paths(call, arguments)
            number = None if path is None else self.disk.find(path)
            if number is not None:
                self._do(Truncate(number, int(parts[1])))
            return
        if found is None or found[2] is None or found[1] == "AT_FDCWD" or found[3]:
            return  # memory, or a file without a name any more: nothing of it can be on the disk
        name, descriptor = _unescaped(found[2]), int(found[1])
        if call in _WRITE and name == self._printed:
            self._do(Said(_texts(arguments)[: int(result)].decode(errors="replace")))
            return
        path = self._below(name)
        number = None if path is None else self.disk.find(path)
        if number is None:
            return
        if call in _WRITE:
            data = _texts(arguments)[: int(result)]
            place = self._offsets.get((number, descriptor), 0)
            offset = int(parts[-1]) if call == "pwrite64" else len(self.disk.files[number]) if place is None else place
            if call in ("pwritev", "pwritev2"):
                raise RuntimeError(f"{call} is not modelled")
            self._do(Write(number, offset, data))
            if place is not None and call != "pwrite64":
                self._offsets[number, descriptor] = offset + len(data)
        elif call == "lseek":
            if self._offsets.get((number, descriptor), 0) is not None:
                self._offsets[number, descriptor] = int(result.split(maxsplit=1)[0])
        elif call == "ftruncate":
            self._do(Truncate(number, int(parts[1])))
        elif call in ("fsync", "fdatasync"):
            self._do(Sync(number))
        elif call == "mmap":
            if "PROT_WRITE" in parts[2] and "MAP_SHARED" in parts[3]:
                raise RuntimeError(f"{path} was mapped to be written, which is not modelled")
        elif call.startswith("dup"):
            made = _DESCRIPTOR.match(result)
            assert made is not None
            self._offsets[number, int(made[1])] = self._offsets.get((number, descriptor), 0)
        else:
            raise RuntimeError(f"{call} of {path} is not modelled")


def _split(arguments: str) -> list[str]:
    """Arguments of a call; those of a structure come as several. No text has a comma: it is in hexadecimal numbers."""
    return arguments.split(", ")


def _bytes(text: re.Match[str]) -> bytes:
    if text[2]:
        raise RuntimeError(f"a text of more than {LONGEST} bytes was cut by strace")
    return bytes.fromhex(text[1].replace("\\x", ""))


def _texts(arguments: str) -> bytes:
    """The texts of a call one after the other: what it wrote."""
    return b"".join(_bytes(text) for text in _TEXT.finditer(arguments))


def _unescaped(path: str) -> str:
    if "\\x" not in path:
        return path
    return bytes.fromhex(path.replace("\\x", "")).decode(errors="surrogateescape")
