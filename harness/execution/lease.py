"""Who is doing a run: a claim with a heartbeat, of which there is one at a time, on shared file systems too.

A run's claims are numbered files, ``claim.1``, ``claim.2``, and so on; the highest number holds. Taking over means to create
the next number with ``O_EXCL``, which one process alone can do, and nothing that holds is ever renamed or removed: there is
no moment in which two could believe that they have won. A holder that finds a higher number has lost, and publishes nothing.

A claim says nothing of whom it belongs to but a hash of the machine's boot, a process number and when that process started.
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

from smope_bench.harness.errors import UserError
from smope_bench.harness.records.cleanup import CHECKPOINT, TEMPORARY, _matching, remove_temporary_files
from smope_bench.harness.records.event_log import PROGRESS


@functools.cache
def this_machine() -> str | None:
    """Hash of this boot of this machine and of what processes are visible; None where the system tells neither."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        return hashlib.sha256(f"{boot}{Path('/proc/self/ns/pid').readlink()}".encode()).hexdigest()[:16]
    except (OSError, ValueError):
        return None


def lives(pid: int, started: str) -> bool:
    """Whether a process of this machine is there and is the one that ``started`` then; one that ended but was not waited
    for is not. Only where ``this_machine`` is known: elsewhere the question itself could end a process."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's, of which nothing more may be visible
        return True
    return process_started(pid) == started


def process_started(pid: int) -> str:
    """When a process started, in the system's ticks since the boot; empty where it is gone or the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


CANCEL = "cancel"
"""A file of this name in a run's folder asks whoever does the run to save and stop."""
BEAT_S, DEAD_S = 5.0, 60.0
CANCEL_S = 1.0
QUIET_BEATS = 3.0
HELD, FREE = "held", "free"
PROBE = ".clock-"
LOOKS = 3

_NAME = re.compile(r"claim\.(\d{1,9})")


@dataclass(frozen=True)
class LeaseState:
    """The newest claim of a run, as it was read."""

    folder: Path
    number: int
    content: str
    """All of the file: it changes with every beat."""
    token: str = ""
    machine: str = ""
    pid: int = 0
    process_started: str = ""
    is_released: bool = False
    written: float = 0.0
    """When it was last written, by the file system's clock."""

    @property
    def is_here(self) -> bool:
        """Whether its owner is, or was, a process that this one can see."""
        return bool(self.machine) and self.machine == this_machine()

    @property
    def is_free(self) -> bool:
        """Whether anybody may take the run at once: it was given back, or its owner is known to be gone."""
        return self.is_released or (self.is_here and not lives(self.pid, self.process_started))

    def age_s(self) -> float:
        """Seconds without a sign of life by the file system's own clock: nobody else's has a say."""
        return file_system_now(self.folder) - self.written


class Lease:
    """A run that is this process's to do, until ``release``; a thread keeps it alive."""

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
        self._thread = threading.Thread(target=self._keep_alive, name="claim", daemon=True)

    def still_ours(self) -> bool:
        """Whether nobody has taken it over: asked before anything is published. Raises OSError where that cannot be read."""
        if not self.is_lost:
            with contextlib.suppress(OSError):  # on a full disk nothing can be made, and much can be seen
                file_system_now(self.folder)  # a change makes a network's client look, instead of into its memory
            found = newest(self.folder)
            self.is_lost = found is None or found.number != self.number or found.token != self.token
        return not self.is_lost

    def release(self, *, forget: bool) -> None:
        """Give it back. ``forget`` removes every trace, which is right once nobody has to do the run again."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        with contextlib.suppress(OSError):
            if not forget:
                self._write(FREE)
                return
            for number in sorted(_numbers(self.folder)):  # its own last, for until then it holds
                if number <= self.number:
                    _file(self.folder, number).unlink(missing_ok=True)
            for left in (self.folder / CANCEL, *self.folder.glob(f"{PROBE}*")):
                left.unlink(missing_ok=True)

    def start(self) -> Lease:
        """Keep it alive from now on."""
        self._thread.start()
        return self

    def _keep_alive(self) -> None:
        due = time.monotonic() + self._beat_s
        while not self._ended.wait(min(self._beat_s, CANCEL_S)):
            with contextlib.suppress(
                OSError
            ):  # a file system that is away for a while comes back, or the claim is lost
                if not self.cancelled and (self.folder / CANCEL).exists():
                    self.cancelled = True
                    self._on_cancel()
                if self._stop_file is not None and self._stop_file.exists():
                    self._on_cancel()
                if time.monotonic() >= due:
                    due = time.monotonic() + self._beat_s
                    if not self.still_ours():
                        self._on_cancel()  # what the run writes from here on would go into its heir's files
                        return
                    if not self._ended.is_set():  # else it was given back while the file system kept this waiting
                        self._write(HELD)

    def _write(self, state: str) -> None:
        """In place and of the same length, so that whoever reads meanwhile reads a whole claim; never into another's."""
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
    """The claim of the run in ``folder``, or who has it. Of many that try, one wins. Raises UserError where nothing can be
    written; never waits.

    ``on_cancel`` is called, perhaps more than once, when the folder's ``cancel`` or ``stop_file`` appears: the first stops the
    run whoever holds it, the second only while this claim does. Also when the claim was lost.

    A claim whose owner is another machine's is not judged here, because that takes time: ``LeaseMonitor`` does.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = newest(folder)
        if held is not None and not held.is_free:
            return held
        token, number = secrets.token_hex(16), held.number + 1 if held else 1
        if not _create(folder, number, _content(token, 0, HELD)):
            return newest(folder) or LeaseState(folder, number, "")
        claim = Lease(folder, number, token, beat_s, on_cancel, stop_file)
        if max(_numbers(folder), default=0) > number:  # the folder was listed before others came and went
            claim.release(forget=False)
            return newest(folder) or LeaseState(folder, number, "")
    except OSError as error:
        raise UserError(
            f"run {folder.name} cannot be claimed in the results folder {str(folder.parent)!r}"
            f" ({error.strerror or error}); name another with --results DIR"
        ) from error
    return claim.start()


class LeaseMonitor:
    """Tells when runs that others have become free; asked again and again.

    An owner elsewhere is dead when its claim has not changed for ``dead_s`` while it was watched by this process's steady
    clock; or for ``QUIET_BEATS`` beats, where the file system's clock says that it was silent for ``dead_s`` before that.
    So a clock that jumps, on whatever machine, takes nothing from anybody.
    """

    def __init__(
        self, *, beat_s: float = BEAT_S, dead_s: float = DEAD_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._quiet_s, self._dead_s, self._clock = QUIET_BEATS * beat_s, dead_s, clock
        self._seen: dict[Path, tuple[str, float]] = {}

    def is_free(self, folder: Path) -> bool:
        """Whether the run may be tried now. A dead owner's claim is given up for it. Raises OSError."""
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
    """The claim that holds, or held last; None where the run was never claimed, or is done. Raises OSError."""
    for _ in range(LOOKS):
        number = max(_numbers(folder), default=None)
        if number is None:
            break
        with contextlib.suppress(FileNotFoundError):  # forgotten meanwhile
            return _read(folder, number)
    return None


def file_system_now(folder: Path) -> float:
    """The time by the clock of the file system that holds ``folder``, which on a network is another machine's."""
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
    """Whether this call made the file: exactly one caller's does."""
    try:
        handle = os.open(_file(folder, number), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    try:
        os.write(handle, content)
    except OSError:  # on a full disk: what nobody can read would keep everybody waiting
        _file(folder, number).unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)
    return True


def _content(token: str, beat: int, state: str) -> bytes:
    pid = os.getpid()
    claim = {
        "token": token,
        "beat": f"{beat:010d}",
        "state": state,
        "machine": this_machine() or "",
        "pid": pid,
        "process_started": process_started(pid),
    }
    return (json.dumps(claim) + "\n").encode()


def _read(folder: Path, number: int) -> LeaseState:
    """A claim that says nothing readable is held by nobody knows whom: it is being written, or its writer died then."""
    with _file(folder, number).open("rb") as stream:
        text = stream.read(4096).decode("utf-8", errors="replace")
        written = os.fstat(stream.fileno()).st_mtime
    try:
        said = json.loads(text)
        return LeaseState(
            folder,
            number,
            text,
            str(said["token"]),
            str(said["machine"]),
            int(said["pid"]),
            str(said["process_started"]),
            said["state"] == FREE,
            written,
        )
    except (ValueError, KeyError, TypeError):
        return LeaseState(folder, number, text, written=written)


_CLAIMED = ("claim.*", CANCEL, f"{PROBE}*")
"""What goes with the claim."""


def remove_leftovers_of(folder: Path) -> None:
    """The same for a finished run that nobody holds, and its claims, too; does nothing where all is tidy or somebody does."""
    with contextlib.suppress(OSError, UserError):  # what is left over disturbs no result
        names = (CHECKPOINT, PROGRESS, *TEMPORARY, *_CLAIMED)
        if not _matching(folder, names) or isinstance(claim := acquire(folder), LeaseState):
            return
        try:
            remove_temporary_files(folder)
        finally:
            claim.release(forget=True)
