"""Resident memory of this process at its peak, as the operating system accounts it. Imports no torch: reports use it too."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

MIB = 1024 * 1024


def forget_peak() -> None:
    """Forget the high-water mark so far, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def peak_mb() -> float:
    """The high-water mark in MiB."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024
