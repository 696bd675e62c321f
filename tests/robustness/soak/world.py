"""What a disturbed sweep lives in: the clock, the project's code, the speed of leases, and the processes that were started."""

from __future__ import annotations

import ctypes
import functools
import multiprocessing
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from unittest import mock

import psutil

from smope_bench.harness import provenance
from smope_bench.harness.execution import lease, scheduler

FAST = {"beat_s": 0.25, "dead_s": 3.0, "cache_s": 1.0}
"""Twenty times as fast as real leases, so that runs of killed and stopped holders on another machine are taken over in time."""
GONE_S = 5.0


class Clock:
    """The wall clock that Python's ``time.time`` shows to all launchers and workers; files get their times from the true one."""

    def __init__(self) -> None:
        self._shift = multiprocessing.RawValue(ctypes.c_double, 0.0)

    def jump(self, seconds: float) -> None:
        """Put the clock forward or back, within about a year of the true time."""
        shifted = self._shift.value + seconds
        self._shift.value = shifted if abs(shifted) < 5e7 else seconds

    def install(self) -> None:  # pragma: no cover
        """In a fork: take the place of the real clock."""
        real, shift = time.time, self._shift
        time.time = lambda: real() + shift.value


class Code:
    """A copy of the source files that count for a run; edited, and taken for this process's own by its forks."""

    def __init__(self, folder: Path) -> None:
        self._root, self._edits = folder, 0
        self._code_bytes = functools.cache(provenance.code_bytes)
        for file in provenance.source_files():
            place = folder / file.relative_to(provenance.PROJECT_ROOT)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)

    def edit(self, part: Literal["docstring", "code"]) -> bool:
        """Edit a source file; whether its hash is another one."""
        before = provenance.code_fingerprint()
        self._edits += 1
        line = f'"""Edit {self._edits}."""' if part == "docstring" else f"EDIT_{self._edits} = {self._edits}"
        with (self._root / "harness" / "run_spec.py").open("a", encoding="utf-8") as stream:
            stream.write(f"\n{line}\n")
        files = provenance.source_files(self._root)
        provenance.code_fingerprint.cache_clear()
        own = {"source_files": lambda: files, "PROJECT_ROOT": self._root, "code_bytes": self._code_bytes}
        with mock.patch.multiple(provenance, **own):
            return provenance.code_fingerprint() != before


def quicken() -> None:  # pragma: no cover
    """In a fork: leases that are noticed to be dead within seconds."""
    for function in (lease.LeaseMonitor.__init__, lease.acquire, lease.without_heartbeat):
        defaults = function.__kwdefaults__ or {}
        defaults.update({name: value for name, value in FAST.items() if name in defaults})
    lease.GONE_S, scheduler.LOOK_S = GONE_S, (0.1, 0.5)


def processes() -> list[psutil.Process]:
    """Everything that this process started, orphans included, which a subreaper inherits."""
    found = psutil.Process().children(recursive=True)
    return [one for one in found if one.is_running() and "resource_tracker" not in " ".join(command(one))]


def command(process: psutil.Process) -> Sequence[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return ()


def reap(own: set[int]) -> None:
    """Collect orphans that have ended; launchers are collected by whoever waits for them."""
    for process in psutil.Process().children():
        if process.pid not in own:
            try:
                os.waitpid(process.pid, os.WNOHANG)
            except ChildProcessError:
                continue
