"""What leases ask of the machine: file operations in a run's folder, and which processes live.

Tests put a simulated network file system in the place of ``LeaseFiles``.
"""

from __future__ import annotations

import functools
import hashlib
import os
import secrets
import tempfile
from pathlib import Path

from smope_bench.benchmarks.durable import make_folder

PROBE = ".clock-"
"""Prefix of the files from which the file system's clock is read."""
LONGEST = 4096
"""Bytes of a lease that are read; real ones have about 200."""


class LeaseFiles:
    """The operations that leases are made of, on a real file system. All raise OSError."""

    def make_folder(self, folder: Path) -> None:
        """Create a run's folder if it is missing."""
        make_folder(folder)

    def names(self, folder: Path) -> list[str]:
        """Names of the files in a folder; none if it is missing."""
        try:
            return [entry.name for entry in folder.iterdir()]
        except FileNotFoundError:
            return []

    def exists(self, file: Path) -> bool:
        """Whether there is such a file."""
        return file.exists()

    def create(self, file: Path, content: bytes) -> None:
        """Create a file that exactly one caller can create; FileExistsError for all others."""
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            os.write(handle, content)
        except OSError:  # on a full disk: an unreadable lease would keep all others waiting
            file.unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)

    def overwrite(self, file: Path, content: bytes) -> None:
        """Write over the content of an existing file in place, with the same length: a concurrent reader reads all of one."""
        handle = os.open(file, os.O_WRONLY)
        try:
            os.write(handle, content)
        finally:
            os.close(handle)

    def read(self, file: Path) -> tuple[bytes, float]:
        """Content of a file and the time of its last change, by the file system's clock in seconds since the epoch."""
        with file.open("rb") as stream:
            return stream.read(LONGEST), os.fstat(stream.fileno()).st_mtime

    def remove(self, file: Path) -> None:
        """Remove a file; nothing if it is missing."""
        file.unlink(missing_ok=True)

    def now(self, folder: Path) -> float:
        """Time by the clock of the file system of ``folder``, which on a network is another machine's."""
        with tempfile.NamedTemporaryFile(dir=folder, prefix=PROBE) as probe:
            probe.write(b".")
            probe.flush()
            return os.fstat(probe.fileno()).st_mtime

    def new_token(self) -> str:
        """32 characters that no other lease has."""
        return secrets.token_hex(16)

    def process(self) -> tuple[str, int, str]:
        """This process: hash of the machine (empty if unknown), number, and start time."""
        pid = os.getpid()
        return this_machine() or "", pid, process_started(pid)


@functools.cache
def this_machine() -> str | None:
    """Hash of this boot of this machine and of the process namespace; None if the system reports neither."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        return hashlib.sha256(f"{boot}{Path('/proc/self/ns/pid').readlink()}".encode()).hexdigest()[:16]
    except (OSError, ValueError):
        return None


def lives(pid: int, started: str) -> bool:
    """Whether a process of this machine runs and is the one that ``started`` then; a zombie does not count.

    Call it only if ``this_machine`` is known: on other systems ``os.kill`` itself could end a process.
    """
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's process, whose start time may be hidden
        return True
    return process_started(pid) == started


def process_started(pid: int) -> str:
    """Start time of a process in clock ticks since the boot; empty if it is gone or the system does not report it."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
