"""Resident memory of this process at its peak, as the operating system accounts it. Imports no torch: reports use it too."""

from __future__ import annotations

import contextlib
import os
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


CGROUP = Path("/sys/fs/cgroup")


OWN_CGROUP = Path("/proc/self/cgroup")


VMSTAT = Path("/proc/vmstat")


def free_mb(device: str) -> float:
    """Memory that new processes may take: of the accelerator, or of the machine as far as this process's group may use it."""
    if device == "cuda":
        import torch

        return torch.cuda.mem_get_info()[0] / MIB
    import psutil

    return min([psutil.virtual_memory().available, *_group_limits()]) / MIB


def total_mb(device: str = "cpu") -> float:
    """As ``free_mb``, with what is in use."""
    import psutil

    limits = [limit for limit, _ in _groups()]
    return min([psutil.virtual_memory().total, *limits]) / MIB if device != "cuda" else _cuda_total_mb()


def oom_kills() -> int | None:
    """How often the system has ended a process for want of memory; None where nothing tells."""
    counts = []
    for file in (_own_folders()[0] / "memory.events", CGROUP / "memory" / "memory.oom_control", VMSTAT):
        with contextlib.suppress(OSError, ValueError, IndexError):
            lines = [line.split() for line in file.read_text(encoding="ascii").splitlines()]
            counts += [int(line[1]) for line in lines if line[0] == "oom_kill"]
    return sum(counts) if counts else None


def resident_mb(pid: int) -> float:
    """What a process holds now; 0 where it is gone or the system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / MIB
    return 0.0


def _cuda_total_mb() -> float:
    import torch

    return torch.cuda.mem_get_info()[1] / MIB


def _group_limits() -> list[float]:
    return [max(0.0, limit - used) for limit, used in _groups()]


def _own_folders() -> list[Path]:
    """The folder of this process's group and of those that it is in, innermost first; a batch system limits a group of its own."""
    said = ""
    with contextlib.suppress(OSError, ValueError):
        said = next((one for one in OWN_CGROUP.read_text(encoding="utf-8").splitlines() if one.startswith("0::")), "")
    parts = [part for part in said.removeprefix("0::").split("/") if part not in ("", "..")]
    folders = [CGROUP.joinpath(*parts[:count]) for count in range(len(parts), -1, -1)]
    # A container may be told a path of the machine's, of which it sees none.
    return [folder for folder in folders if folder.is_dir()] or [CGROUP]


def _groups() -> list[tuple[float, float]]:
    """(limit, in use without file caches that would make room) in bytes, of each group around, in either kind of group."""
    found = []
    for folder, limit, used, cache in (
        *((folder, "memory.max", "memory.current", "inactive_file") for folder in _own_folders()),
        (CGROUP / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        with contextlib.suppress(OSError, ValueError):  # 'max' is no limit
            text = (folder / limit).read_text(encoding="ascii")
            stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
            in_use = int((folder / used).read_text(encoding="ascii")) - int(stat.get(cache, 0))
            found.append((float(text), float(in_use)))
    return found
