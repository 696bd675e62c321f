"""The lease of a run: a file with a heartbeat that at most one process holds at a time, on shared file systems too.

A run's leases are numbered files, ``claim.1``, ``claim.2``, and so on; the one with the highest number is valid. To take a run
over, a process creates the next number with ``O_EXCL``, which succeeds for one process only. A valid lease is never renamed or
removed, so two processes can never both believe that they hold one. A holder that finds a higher number has lost its lease,
and publishes nothing.

A lease identifies its holder by a hash of the machine's boot, a process number and that process's start time only.
"""

from __future__ import annotations

import contextlib
import errno
import json
import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from smope_bench.benchmarks.disk import refusal, remedy
from smope_bench.harness.errors import UserError
from smope_bench.harness.execution.lease_files import PROBE, LeaseFiles, lives, this_machine
from smope_bench.harness.records.cleanup import CHECKPOINT, TEMPORARY, matching_files, remove_temporary_files
from smope_bench.harness.records.event_log import PROGRESS

CANCEL = "cancel"
"""A file of this name in a run's folder asks its holder to save and stop."""
BEAT_S, DEAD_S = 5.0, 60.0
"""Seconds between two heartbeats, and without one until the holder counts as dead."""
GONE_S = 3600.0
"""Seconds without a heartbeat, by the file system's clock, after which the holder of a finished run's lease is gone for good."""
CANCEL_S = 1.0
"""Seconds between two checks for a cancel request."""
QUIET_BEATS = 3.0
"""Missed heartbeats after which the file system's clock is consulted."""
CACHE_S = 60.0
"""Longest time in seconds for which a network client goes on showing what was in a file before."""
SKEW_S = 600.0
"""Largest difference in seconds between the clocks of two machines whose times a network file system gives to files."""
HELD, FREE = "held", "free"
LOOKS = 3
FILES = LeaseFiles()
_GONE = (errno.ENOENT, errno.ESTALE)

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
        files: LeaseFiles = FILES,
    ) -> None:
        self.folder, self.number, self.token = folder, number, token
        self._files = files
        self.is_lost = self.cancelled = False
        self._beat_s, self._on_cancel, self._stop_file = beat_s, on_cancel, stop_file
        self.beats = 0  # written so far
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_alive, name="lease", daemon=True)

    def still_ours(self) -> bool:
        """Whether no process has taken it over; to be checked before publishing. Raises OSError if that cannot be read."""
        if not self.is_lost:
            with contextlib.suppress(OSError):  # a full disk can still be read
                self._files.now(self.folder)  # a write makes most network clients refresh their cache
            found = newest(self.folder, self._files)
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
            names = self._files.names(self.folder)
            for number in sorted(_numbers(names)):  # its own last: until then it is valid
                if number <= self.number:
                    self._files.remove(_file(self.folder, number))
            for name in names:
                if name == CANCEL or name.startswith(PROBE):
                    self._files.remove(self.folder / name)

    def start(self) -> Lease:
        """Start the heartbeat."""
        self._thread.start()
        return self

    def _keep_alive(self) -> None:
        due = time.monotonic() + self._beat_s
        while not self._ended.wait(min(self._beat_s, CANCEL_S)):
            with contextlib.suppress(OSError):  # a network file system may come back; if not, the lease is lost
                if not self.cancelled and self._files.exists(self.folder / CANCEL):
                    self.cancelled = True
                    self._on_cancel()
                if self._stop_file is not None and self._files.exists(self._stop_file):
                    self._on_cancel()
                if time.monotonic() >= due:
                    due = time.monotonic() + self._beat_s
                    if not self.beat():
                        self._on_cancel()  # from here on the run would write into the new holder's files
                        return

    def beat(self) -> bool:
        """Write one heartbeat; False, and none is written, if another process has taken the lease over. Raises OSError."""
        if not self.still_ours():
            return False
        if not self._ended.is_set():  # else it was released while this thread waited for the file system
            self._write(HELD)
        return True

    def _write(self, state: str) -> None:
        self.beats += 1
        content = _content(self.token, self.beats, state, self._files)
        self._files.overwrite(_file(self.folder, self.number), content)


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
        lease = without_heartbeat(folder, beat_s=beat_s, on_cancel=on_cancel, stop_file=stop_file)
    except OSError as error:
        raise UserError(
            f"run {folder.name} cannot be begun: nothing can be written to {str(folder)!r} ({refusal(error, folder)});"
            f" {remedy(error)} or name another folder with --results DIR, then run the same command"
        ) from error
    return lease.start() if isinstance(lease, Lease) else lease


def without_heartbeat(
    folder: Path,
    *,
    beat_s: float = BEAT_S,
    on_cancel: Callable[[], None] = lambda: None,
    stop_file: Path | None = None,
    files: LeaseFiles = FILES,
) -> Lease | LeaseState:
    """The same as ``acquire`` for a caller that starts the heartbeat, or calls ``beat``, itself. Raises OSError."""
    files.make_folder(folder)
    held = newest(folder, files)
    if held is not None and not held.is_free:
        return held
    token, number = files.new_token(), held.number + 1 if held else 1
    if not _create(folder, number, _content(token, 0, HELD, files), files):
        return newest(folder, files) or LeaseState(folder, number, "")
    lease = Lease(folder, number, token, beat_s, on_cancel, stop_file, files)
    if (
        max(_numbers(files.names(folder)), default=0) > number
    ):  # another process came and went since the folder was listed
        lease.release(forget=False)
        return newest(folder, files) or LeaseState(folder, number, "")
    return lease


class LeaseMonitor:
    """Decides when runs that other processes hold become free; to be polled.

    A holder on another machine is dead if its lease was seen not to change for ``dead_s`` + ``cache_s`` seconds of this process's
    monotonic clock; or for ``QUIET_BEATS`` heartbeats, if by the file system's clock it was silent for that time and ``skew_s``
    before. So neither a clock that jumps or is wrong, on any machine, nor a client that shows what was there ``cache_s`` ago
    takes a run from its holder.
    """

    def __init__(
        self,
        *,
        beat_s: float = BEAT_S,
        dead_s: float = DEAD_S,
        cache_s: float = CACHE_S,
        skew_s: float = SKEW_S,
        clock: Callable[[], float] = time.monotonic,
        files: LeaseFiles = FILES,
    ) -> None:
        self._quiet_s, self._silent_s, self._skew_s = QUIET_BEATS * beat_s, dead_s + cache_s, skew_s
        self._clock, self._files = clock, files
        self.seen: dict[Path, tuple[int, str, float]] = {}  # number and content of each lease, and since when

    def is_free(self, folder: Path) -> bool:
        """Whether the run may be tried now; releases the lease of a dead holder. Raises OSError."""
        held = newest(folder, self._files)
        if held is None or held.is_free:
            return True
        number, content, since = self.seen.get(folder, (0, "", 0.0))
        if (number, content) != (
            held.number,
            held.content,
        ):  # two that were not written yet have the same content: none
            self.seen[folder] = (held.number, held.content, self._clock())
            return False
        silent = self._clock() - since
        if silent > self._silent_s or (silent > self._quiet_s and self._age_s(held) > self._silent_s + self._skew_s):
            free = _content(self._files.new_token(), 0, FREE, self._files)
            return _create(folder, held.number + 1, free, self._files)
        return False

    def _age_s(self, held: LeaseState) -> float:
        return self._files.now(held.folder) - held.written


def newest(folder: Path, files: LeaseFiles = FILES) -> LeaseState | None:
    """The valid lease, or the last one; None if the run was never leased, or is done. Raises OSError."""
    for _ in range(LOOKS):
        number = max(_numbers(files.names(folder)), default=None)
        if number is None:
            break
        try:
            return _read(folder, number, files)
        except OSError as error:
            if error.errno not in _GONE:  # else it was removed since the folder was listed
                raise
    return None


def file_system_now(folder: Path) -> float:
    """Time by the clock of the file system of ``folder``, which on a network is another machine's."""
    return FILES.now(folder)


def _numbers(names: Iterable[str]) -> list[int]:
    return [int(match[1]) for name in names if (match := _NAME.fullmatch(name))]


def _file(folder: Path, number: int) -> Path:
    return folder / f"claim.{number}"


def _create(folder: Path, number: int, content: bytes, files: LeaseFiles) -> bool:
    """Whether this call created the file: at most one caller's does.

    Where the server's answer was lost and the client asked again, nobody's does: the file then counts as the lease of a holder
    that never shows a heartbeat.
    """
    try:
        files.create(_file(folder, number), content)
    except FileExistsError:
        return False
    return True


def _content(token: str, beat: int, state: str, files: LeaseFiles = FILES) -> bytes:
    machine, pid, started = files.process()
    lease = {
        "token": token,
        "beat": f"{beat:010d}",
        "state": state,
        "machine": machine,
        "pid": pid,
        "process_started": started,
    }
    return (json.dumps(lease) + "\n").encode()


def _read(folder: Path, number: int, files: LeaseFiles) -> LeaseState:
    """An unreadable lease counts as held by an unknown process: it is being written, or its writer died meanwhile."""
    data, written = files.read(_file(folder, number))
    text = data.decode("utf-8", errors="replace")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
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
        if not matching_files(folder, names):
            return
        lease = acquire(folder)
        if isinstance(lease, LeaseState) and file_system_now(folder) - lease.written > GONE_S:  # its machine went down
            _create(folder, lease.number + 1, _content(FILES.new_token(), 0, FREE), FILES)
            lease = acquire(folder)
        if isinstance(lease, LeaseState):
            return
        try:
            remove_temporary_files(folder)
        finally:
            lease.release(forget=True)
