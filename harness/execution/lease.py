"""The lease of a run: a file with a heartbeat that at most one process holds at a time, on shared file systems too.

A run's leases are numbered files, ``claim.1``, ``claim.2``, and so on; the one with the highest number is valid. To take a run
over, a process creates the next number with ``O_EXCL``, which succeeds for one process only. A valid lease is never renamed or
removed, so two processes can never both believe that they hold one. A holder that finds a higher number has lost its lease,
and publishes nothing.

A lease identifies its holder by a hash of the machine's boot, a process number and that process's start time only.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import secrets
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from smope_bench.benchmarks.durable import make_folder
from smope_bench.harness.errors import UserError
from smope_bench.harness.records.cleanup import CHECKPOINT, TEMPORARY, matching_files, remove_temporary_files
from smope_bench.harness.records.event_log import PROGRESS


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


CANCEL = "cancel"
"""A file of this name in a run's folder asks its holder to save and stop."""
BEAT_S, DEAD_S = 5.0, 60.0
"""Seconds between two heartbeats, and without one until the holder counts as dead."""
CANCEL_S = 1.0
"""Seconds between two checks for a cancel request."""
QUIET_BEATS = 3.0
"""Missed heartbeats after which the file system's clock is consulted."""
HELD, FREE = "held", "free"
PROBE = ".clock-"
LOOKS = 3

_NAME = re.compile(r"claim\.(\d{1,9})")


@dataclass(frozen=True)
class LeaseState:
    """The newest lease of a run, as it was read."""

    folder: Path
    number: int
    content: str
    """The whole file, which changes with every heartbeat."""
    token: str = ""
    machine: str = ""
    pid: int = 0
    process_started: str = ""
    is_released: bool = False
    written: float = 0.0
    """Time of the last heartbeat by the file system's clock, in seconds since the epoch."""

    @property
    def is_here(self) -> bool:
        """Whether its holder is, or was, a process of this machine."""
        return bool(self.machine) and self.machine == this_machine()

    @property
    def is_free(self) -> bool:
        """Whether the run may be taken at once: the lease was released, or its holder is known to be gone."""
        return self.is_released or (self.is_here and not lives(self.pid, self.process_started))

    def age_s(self) -> float:
        """Seconds since the last heartbeat by the file system's own clock."""
        return file_system_now(self.folder) - self.written


class Lease:
    """A lease that this process holds until ``release``; a thread writes its heartbeat."""

    def __init__(
        self,
        folder: Path,
        number: int,
        token: str,
        beat_s: float,
        on_cancel: Callable[[], None],
        stop_file: Path | None = None,
    ) -> None:
        self.folder, self.number, self.token = folder, number, token
        self.is_lost = self.cancelled = False
        self._beat_s, self._beats, self._on_cancel, self._stop_file = beat_s, 0, on_cancel, stop_file
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_alive, name="lease", daemon=True)

    def still_ours(self) -> bool:
        """Whether no process has taken it over; to be checked before publishing. Raises OSError if that cannot be read."""
        if not self.is_lost:
            with contextlib.suppress(OSError):  # a full disk can still be read
                file_system_now(self.folder)  # a write makes a network client refresh its cache
            found = newest(self.folder)
            self.is_lost = found is None or found.number != self.number or found.token != self.token
        return not self.is_lost

    def release(self, *, forget: bool) -> None:
        """Release it. ``forget`` removes every trace, to be used once the run is done."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        with contextlib.suppress(OSError):
            if not forget:
                self._write(FREE)
                return
            for number in sorted(_numbers(self.folder)):  # its own last: until then it is valid
                if number <= self.number:
                    _file(self.folder, number).unlink(missing_ok=True)
            for left in (self.folder / CANCEL, *self.folder.glob(f"{PROBE}*")):
                left.unlink(missing_ok=True)

    def start(self) -> Lease:
        """Start the heartbeat."""
        self._thread.start()
        return self

    def _keep_alive(self) -> None:
        due = time.monotonic() + self._beat_s
        while not self._ended.wait(min(self._beat_s, CANCEL_S)):
            with contextlib.suppress(OSError):  # a network file system may come back; if not, the lease is lost
                if not self.cancelled and (self.folder / CANCEL).exists():
                    self.cancelled = True
                    self._on_cancel()
                if self._stop_file is not None and self._stop_file.exists():
                    self._on_cancel()
                if time.monotonic() >= due:
                    due = time.monotonic() + self._beat_s
                    if not self.still_ours():
                        self._on_cancel()  # from here on the run would write into the new holder's files
                        return
                    if not self._ended.is_set():  # else it was released while this thread waited for the file system
                        self._write(HELD)

    def _write(self, state: str) -> None:
        """Overwrite the file in place with the same length: a concurrent reader always reads a whole lease."""
        self._beats += 1
        handle = os.open(_file(self.folder, self.number), os.O_WRONLY)
        try:
            os.write(handle, _content(self.token, self._beats, state))
        finally:
            os.close(handle)


def acquire(
    folder: Path,
    *,
    beat_s: float = BEAT_S,
    on_cancel: Callable[[], None] = lambda: None,
    stop_file: Path | None = None,
) -> Lease | LeaseState:
    """The lease of the run in ``folder``, or the state of the one that another process holds. Never waits.

    ``on_cancel`` is called, perhaps more than once, if the folder's ``cancel`` or ``stop_file`` appears, or the lease is lost.
    ``cancel`` stops the run whichever process holds it, ``stop_file`` only this holder. Raises UserError if the folder cannot
    be written.

    Whether a holder on another machine is dead is not judged here, because that takes time: ``LeaseMonitor`` does.
    """
    try:
        make_folder(folder)
        held = newest(folder)
        if held is not None and not held.is_free:
            return held
        token, number = secrets.token_hex(16), held.number + 1 if held else 1
        if not _create(folder, number, _content(token, 0, HELD)):
            return newest(folder) or LeaseState(folder, number, "")
        lease = Lease(folder, number, token, beat_s, on_cancel, stop_file)
        if max(_numbers(folder), default=0) > number:  # another process came and went since the folder was listed
            lease.release(forget=False)
            return newest(folder) or LeaseState(folder, number, "")
    except OSError as error:
        raise UserError(
            f"run {folder.name} cannot be leased in the results folder {str(folder.parent)!r}"
            f" ({error.strerror or error}); name another with --results DIR"
        ) from error
    return lease.start()


class LeaseMonitor:
    """Decides when runs that other processes hold become free; to be polled.

    A holder on another machine is dead if its lease has not changed for ``dead_s`` seconds of this process's monotonic clock;
    or for ``QUIET_BEATS`` heartbeats, if by the file system's clock it was silent for ``dead_s`` seconds before. So a wall
    clock that jumps, on any machine, takes no run from its holder.
    """

    def __init__(
        self, *, beat_s: float = BEAT_S, dead_s: float = DEAD_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._quiet_s, self._dead_s, self._clock = QUIET_BEATS * beat_s, dead_s, clock
        self._seen: dict[Path, tuple[str, float]] = {}

    def is_free(self, folder: Path) -> bool:
        """Whether the run may be tried now; releases the lease of a dead holder. Raises OSError."""
        held = newest(folder)
        if held is None or held.is_free:
            return True
        content, since = self._seen.get(folder, ("", 0.0))
        if content != held.content or folder not in self._seen:
            self._seen[folder] = (held.content, self._clock())
            return False
        silent = self._clock() - since
        if silent > self._dead_s or (silent > self._quiet_s and held.age_s() > self._dead_s):
            return _create(folder, held.number + 1, _content(secrets.token_hex(16), 0, FREE))
        return False


def newest(folder: Path) -> LeaseState | None:
    """The valid lease, or the last one; None if the run was never leased, or is done. Raises OSError."""
    for _ in range(LOOKS):
        number = max(_numbers(folder), default=None)
        if number is None:
            break
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            return _read(folder, number)
    return None


def file_system_now(folder: Path) -> float:
    """Time by the clock of the file system of ``folder``, which on a network is another machine's."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=PROBE) as probe:
        probe.write(b".")
        probe.flush()
        return os.fstat(probe.fileno()).st_mtime


def _numbers(folder: Path) -> list[int]:
    try:
        names = [entry.name for entry in folder.iterdir()]
    except FileNotFoundError:
        return []
    return [int(match[1]) for name in names if (match := _NAME.fullmatch(name))]


def _file(folder: Path, number: int) -> Path:
    return folder / f"claim.{number}"


def _create(folder: Path, number: int, content: bytes) -> bool:
    """Whether this call created the file: exactly one caller's does."""
    try:
        handle = os.open(_file(folder, number), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    try:
        os.write(handle, content)
    except OSError:  # on a full disk: an unreadable lease would keep all others waiting
        _file(folder, number).unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)
    return True


def _content(token: str, beat: int, state: str) -> bytes:
    pid = os.getpid()
    lease = {
        "token": token,
        "beat": f"{beat:010d}",
        "state": state,
        "machine": this_machine() or "",
        "pid": pid,
        "process_started": process_started(pid),
    }
    return (json.dumps(lease) + "\n").encode()


def _read(folder: Path, number: int) -> LeaseState:
    """An unreadable lease counts as held by an unknown process: it is being written, or its writer died meanwhile."""
    with _file(folder, number).open("rb") as stream:
        text = stream.read(4096).decode("utf-8", errors="replace")
        written = os.fstat(stream.fileno()).st_mtime
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    named = {"token", "machine", "pid", "process_started", "state"}
    if not isinstance(found, dict) or not named <= found.keys() or not isinstance(found["pid"], int):
        return LeaseState(folder, number, text, written=written)
    return LeaseState(
        folder,
        number,
        text,
        str(found["token"]),
        str(found["machine"]),
        found["pid"],
        str(found["process_started"]),
        found["state"] == FREE,
        written,
    )


_LEASE_FILES = ("claim.*", CANCEL, f"{PROBE}*")


def remove_leftovers_of(folder: Path) -> None:
    """Remove temporary files and leases of a finished run; does nothing if there are none or a process holds the run."""
    with contextlib.suppress(OSError, UserError):  # leftovers change no result
        names = (CHECKPOINT, PROGRESS, *TEMPORARY, *_LEASE_FILES)
        if not matching_files(folder, names) or isinstance(lease := acquire(folder), LeaseState):
            return
        try:
            remove_temporary_files(folder)
        finally:
            lease.release(forget=True)
