"""Which runs may be in flight together: as many as there are workers, and never more than memory holds. Imports no torch
but to ask an accelerator."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from smope_bench.harness.execution.job import Job
from smope_bench.harness.hardware.memory import MIB
from smope_bench.harness.records.store import Record

CGROUP = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")
VMSTAT = Path("/proc/vmstat")
SPARE = 0.9
"""Share of the free memory that is given out: what runs need is known from other runs of their kind."""
CPU_BASE_MB, CUDA_BASE_MB = 500.0, 600.0
"""What a process needs before it holds a backbone: libraries, or a context on the device."""
COPIES = 4.0
"""Of a backbone's weights that a run holds at its peak where nothing was measured: a guess, on the safe side for one task."""


class Queue:
    """Runs that wait. Those that were ended from outside, maybe for want of memory, get the machine to themselves, last."""

    def __init__(self, jobs: Iterable[Job], budget_mb: float | None = None) -> None:
        self._waiting, self._alone = deque(jobs), deque[Job]()
        self._budget_mb = budget_mb
        self._solitary: set[str] = set()

    def take(self, in_flight: Sequence[Job]) -> Job | None:
        """The next run that fits beside those in flight; any fits an idle machine, or it would never be done."""
        if any(job.run_id in self._solitary for job in in_flight):
            return None
        used = sum(job.memory_mb for job in in_flight)
        for i, job in enumerate(self._waiting):
            if not in_flight or self._budget_mb is None or used + job.memory_mb <= self._budget_mb:
                del self._waiting[i]
                return job
        return self._alone.popleft() if self._alone and not (in_flight or self._waiting) else None

    def put_back(self, job: Job, *, alone: bool) -> None:
        """Try a run again: at once, or when no other is in flight."""
        if alone:
            self._solitary.add(job.run_id)
            self._alone.append(job)
        else:
            self._waiting.appendleft(job)


def workers_that_fit(peaks_mb: Sequence[float], budget_mb: float) -> int:
    """How many of these runs fit together whichever they are; at least one."""
    used, count = 0.0, 0
    for peak in sorted(peaks_mb, reverse=True):
        used += peak
        if used > budget_mb:
            break
        count += 1
    return max(1, count)


class Peaks:
    """What runs need at their peak, from what finished runs on such a device needed."""

    def __init__(self, records: Iterable[Record], device: str) -> None:
        """Runs that were short of memory and made do with less are passed over: another may have the machine to itself."""
        self._device = device
        self._known: dict[tuple[Any, ...], float] = {}
        for record in records:
            with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):
                costs, used = record.result["costs"], str(record.result["provenance"].get("device", ""))
                if used.partition(":")[0] == device and "memory_plan" not in costs:
                    self._learn(record.spec, float(costs["peak_memory_mb"]))

    def _learn(self, spec: Mapping[str, Any], peak_mb: float) -> None:
        for key in _keys(spec):
            self._known[key] = max(self._known.get(key, 0.0), peak_mb)

    def measured(self, spec: Mapping[str, Any]) -> float | None:
        """Of its method on its backbone and benchmark, else the largest of the backbone; MiB with the process's own.

        Only runs of the same batch size and precision tell anything of it; None where there was none.
        """
        found = next((self._known[key] for key in _keys(spec) if key in self._known), None)
        return None if not found else found + (CUDA_BASE_MB if self._device == "cuda" else 0.0)

    def guessed(self, weights_mb: float) -> float:
        """From the size of the backbone alone."""
        return (CUDA_BASE_MB if self._device == "cuda" else CPU_BASE_MB) + COPIES * weights_mb


def _keys(spec: Mapping[str, Any]) -> tuple[tuple[Any, ...], ...]:
    """What runs have in common whose peaks are alike, the closest first."""
    size = (spec["backbone"]["name"], spec["schedule"].get("batch_size"), spec["precision"])
    return (spec["method"]["name"], spec["benchmark"]["name"], *size), size


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
