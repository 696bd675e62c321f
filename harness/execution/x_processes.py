"""Which process on which machine, told without a name of either: what claims go by. Linux; elsewhere nothing is told."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path


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
