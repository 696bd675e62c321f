"""Memory of processes, of the machine and of control groups (cgroups), in MiB. Imports torch only for an accelerator."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

MIB = 1024 * 1024


def forget_peak() -> bool:
    """Reset the peak of this process's resident memory; False where the system cannot (it is Linux that can)."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return False
    return True


def return_freed() -> None:
    """Give memory that nothing refers to back to the system, where it would count as in use."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # other C libraries than glibc have no such call
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def heap_frozen() -> Iterator[None]:
    """What exists now is not looked through by the garbage collector in this block: the imported libraries take 0.2 s each time.

    Where the caller has frozen objects, no more are: they could not be told from the caller's afterwards.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def peak_mb() -> float:
    """Peak resident memory of this process in MiB."""
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
    """Free memory of the accelerator, or of the machine within the limits of this process's control groups."""
    if device == "cuda":
        import torch

        return torch.cuda.mem_get_info()[0] / MIB
    import psutil

    return min([psutil.virtual_memory().available, *(max(0.0, limit - used) for limit, used in _groups())]) / MIB


def total_mb(device: str = "cpu") -> float:
    """As ``free_mb``, with the memory in use."""
    if device == "cuda":
        import torch

        return torch.cuda.mem_get_info()[1] / MIB
    import psutil

    return min([psutil.virtual_memory().total, *(limit for limit, _ in _groups())]) / MIB


def cpu_quota() -> float | None:
    """CPUs that the control groups of this process, version 2 or 1, grant it: the least of their quotas; None without one."""
    found = []
    for folder in _own_folders():
        with contextlib.suppress(OSError, ValueError):  # 'max': no limit
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
            found.append(int(quota) / int(period))
    for folder in _own_folders_v1("cpu"):
        with contextlib.suppress(OSError, ValueError):  # -1: no limit
            quota, period = (
                (folder / f"cpu.cfs_{part}_us").read_text(encoding="ascii") for part in ("quota", "period")
            )
            found.append(int(quota) / int(period))
    return min((quota for quota in found if quota > 0), default=None)


def oom_kills() -> int | None:
    """Number of processes that the system has killed for lack of memory; None where it is not counted."""
    counts = []
    for file in (_own_folders()[0] / "memory.events", CGROUP / "memory" / "memory.oom_control", VMSTAT):
        with contextlib.suppress(OSError, ValueError, IndexError):
            lines = [line.split() for line in file.read_text(encoding="ascii").splitlines()]
            counts += [int(line[1]) for line in lines if line[0] == "oom_kill"]
    return sum(counts) if counts else None


def resident_mb(pid: int) -> float:
    """Resident memory of a process; 0 where it has ended or the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / MIB
    return 0.0


def own_mb() -> tuple[float, float]:
    """Resident memory of this process: all of it, and the part of mapped files, such as libraries; 0 where it is not told apart."""
    import psutil

    found = psutil.Process().memory_info()
    return found.rss / MIB, getattr(found, "shared", 0) / MIB


def _own_folders() -> list[Path]:
    """Folders of this process's control group (version 2) and its parents, innermost first; a batch system may limit any."""
    own = ""
    with contextlib.suppress(OSError, ValueError):
        lines = OWN_CGROUP.read_text(encoding="utf-8").splitlines()
        own = next((line for line in lines if line.startswith("0::")), "")
    parts = [part for part in own.removeprefix("0::").split("/") if part not in ("", "..")]
    folders = [CGROUP.joinpath(*parts[:count]) for count in range(len(parts), -1, -1)]
    # In a container the path can be one of the host, which does not exist here.
    return [folder for folder in folders if folder.is_dir()] or [CGROUP]


def _own_folders_v1(controller: str) -> list[Path]:
    """As ``_own_folders``, for one controller of version 1; its mount is the group itself in a container."""
    own = ""
    with contextlib.suppress(OSError, ValueError):
        lines = [line.split(":", 2) for line in OWN_CGROUP.read_text(encoding="utf-8").splitlines()]
        own = next((path for _, names, path in lines if controller in names.split(",")), "")
    parts = [part for part in own.split("/") if part not in ("", "..")]
    mounts = [CGROUP / controller, CGROUP / f"{controller},{controller}acct"]
    return [mount.joinpath(*parts[:count]) for mount in mounts for count in range(len(parts), -1, -1)]


def _groups() -> list[tuple[float, float]]:
    """(limit, usage without reclaimable file caches) in bytes of each control group of version 2 or 1 with a limit."""
    found = []
    for folder, limit, used, cache in (
        *((folder, "memory.max", "memory.current", "inactive_file") for folder in _own_folders()),
        (CGROUP / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        with contextlib.suppress(OSError, ValueError):  # 'max': no limit
            text = (folder / limit).read_text(encoding="ascii")
            stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
            in_use = int((folder / used).read_text(encoding="ascii")) - int(stat.get(cache, 0))
            found.append((float(text), float(in_use)))
    return found
