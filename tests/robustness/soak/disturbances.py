"""What is done to a sweep while it runs: one function for each kind of disturbance.

Each takes the sweep, does its worst, puts the world back in order, and returns whether it met anything that it could disturb.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from faults import Faults  # pyright: ignore[reportMissingImports]
from kill_sweep import kill as kill_one  # pyright: ignore[reportMissingImports]

if TYPE_CHECKING:
    from disturbed import Disturbed  # pyright: ignore[reportMissingImports]

JUMPS_S = (3.0, 90.0, 3_700.0, 86_400.0, 40_000_000.0)
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS)
ZONES, LANGUAGES = ("UTC", "Asia/Kathmandu", "America/St_Johns", "nowhere"), ("C", "C.UTF-8", "tr_TR.UTF-8", "")


def kill(sweep: Disturbed) -> bool:
    """SIGKILL to a launcher, one of its workers, or all of them."""
    slot = sweep.any_slot()
    return slot is not None and kill_one(slot.launcher, sweep.draw) is not None


def ask_to_end(sweep: Disturbed) -> bool:
    """SIGTERM or SIGINT to a launcher or its whole group, sometimes twice."""
    slot = sweep.any_slot()
    if slot is None:
        return False
    number, send = sweep.draw.choice((signal.SIGTERM, signal.SIGINT)), sweep.draw.choice((os.kill, os.killpg))
    for _ in range(sweep.draw.choice((1, 1, 2))):
        if slot.launcher.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # a fork that has not begun its own group yet
                send(slot.launcher.pid, number)
            time.sleep(sweep.draw.uniform(0, 0.3))
    if slot.launcher.poll() is None:
        os.kill(slot.launcher.pid, signal.SIGTERM)
    sweep.end(slot)
    return True


def stop(sweep: Disturbed) -> bool:
    """SIGSTOP to a launcher, its whole group or one process of it; SIGCONT later, perhaps after another took its runs over."""
    slot = sweep.any_slot()
    if slot is None:
        return False
    processes = sweep.processes_of(slot)
    if not processes:
        return False
    chosen = sweep.draw.choice((processes, processes[:1], [sweep.draw.choice(processes)]))
    stopped = [process for process in chosen if _send(process.pid, signal.SIGSTOP)]
    sweep.pause(sweep.longest_stop_s)
    for process in stopped:
        _send(process.pid, signal.SIGCONT)
    return bool(stopped)


def full_disk(sweep: Disturbed) -> bool:
    """Fill the disk of results and data, but for a few bytes, and make room again."""
    if not sweep.has_own_disk or sweep.any_slot() is None:
        return False
    ballast = sweep.disk / "ballast"
    with ballast.open("wb", buffering=0) as stream:
        try:
            while stream.write(bytes(1 << 16)):
                pass
        except OSError:
            stream.truncate(max(0, stream.tell() - sweep.draw.choice((0, 0, 4096, 1 << 16, 1 << 18))))
        sweep.pause(3.0)
    ballast.unlink()
    return True


def failing_calls(sweep: Disturbed) -> bool:
    """Another call of the command in which some writing calls fail: no space, an I/O error, no permission, read-only."""
    root, at, number = sweep.results, sweep.draw.randint(1, 150), sweep.draw.choice(ERRORS)
    lasting = sweep.draw.random() < 0.7
    faults = Faults(root, at, number, lasting=lasting)
    return sweep.call_anew(lambda: faults.install(pytest.MonkeyPatch()))


def clock(sweep: Disturbed) -> bool:
    """The wall clock jumps for all processes, and the times of files of runs may jump as well; the monotonic clock goes on."""
    jump = sweep.draw.choice(JUMPS_S) * sweep.draw.choice((-1, 1))
    sweep.clock.jump(jump)
    if sweep.draw.random() < 0.5:
        for file in sweep.results.glob("*/*"):
            try:
                found = file.stat()
                os.utime(file, (found.st_atime + jump, found.st_mtime + jump))
            except OSError:  # renamed or removed meanwhile
                continue
    return True


def folder_away(sweep: Disturbed) -> bool:
    """The results folder is gone for a while and returns; what is written in its place meanwhile is hidden again."""
    if sweep.any_slot() is None:
        return False
    away = sweep.results.with_name("away")
    sweep.results.rename(away)
    sweep.pause(2.0)
    while True:
        if sweep.results.exists():
            sweep.hide()
        try:
            away.rename(sweep.results)
            return True
        except OSError:  # a launcher was faster and made the folder once more
            continue


def environment(sweep: Disturbed) -> bool:
    """Another call with other time zone, language, home, folder for temporary files, width and mask of new files."""
    place = sweep.folder / f"home-{sweep.draw.randint(0, 3)}"
    place.mkdir(exist_ok=True)
    changed = {
        "TZ": sweep.draw.choice(ZONES),
        "LC_ALL": sweep.draw.choice(LANGUAGES),
        "LANG": sweep.draw.choice(LANGUAGES),
        "HOME": str(place),
        "TMPDIR": str(place),
        "COLUMNS": sweep.draw.choice(("40", "200", "none")),
        "PYTHONHASHSEED": str(sweep.draw.randint(1, 99)),
        "SOURCE_DATE_EPOCH": "0",
    }
    mask = sweep.draw.choice((0o022, 0o077, 0o002))

    def change() -> None:
        os.environ.update(changed)
        time.tzset()
        os.umask(mask)

    return sweep.call_anew(change)


def upgrade(sweep: Disturbed) -> bool:
    """All calls end, and the project's code is another one for the next: its docstrings alone, or what it computes."""
    sweep.end_all()
    sweep.new_code("docstring" if sweep.draw.random() < 0.3 else "code")
    return True


def flip_checkpoint(sweep: Disturbed) -> bool:
    """Everything is killed, and a bit of a checkpoint that is left is another one."""
    files = [file for file in sweep.results.glob("*/checkpoint/*") if not (file.parents[1] / "result.json").exists()]
    if not files:
        return False
    sweep.kill_all()
    file = sweep.draw.choice(files)
    if not file.is_file() or not (data := bytearray(file.read_bytes())):
        return False
    data[sweep.draw.randrange(len(data))] ^= 1 << sweep.draw.randrange(8)
    file.write_bytes(data)
    return True


def _send(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


KINDS: dict[Callable[[Disturbed], bool], int] = {
    kill: 4,
    ask_to_end: 2,
    stop: 3,
    full_disk: 2,
    failing_calls: 2,
    clock: 2,
    folder_away: 2,
    environment: 1,
    upgrade: 1,
    flip_checkpoint: 3,
}
"""How often each kind is drawn, relative to the others."""
