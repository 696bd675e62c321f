"""When memory runs out: which errors say so, and the one sentence for a run that no plan of spending memory makes small enough."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch

from smope_bench.harness.errors import UserError
from smope_bench.harness.hardware.memory import MIB, forget_peak, peak_mb, total_mb
from smope_bench.methods.common.backbone.memory_plan import MemoryPlan, is_memory_shortage


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that it was raised from, says that memory ran out on any device; not that a file or disk is full."""
    seen: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in seen:
        if is_memory_shortage(one):
            return True
        seen.append(one)
        one = one.__cause__
    return False


class OutOfMemoryRun(UserError):
    """A run does not fit under any plan: the message has the numbers and what to do."""

    def __init__(
        self,
        device: str,
        batch: int,
        tried: Sequence[MemoryPlan],
        peak_mb: float,
        *,
        precision: str = "fp32",
        task: int | None = None,
    ) -> None:
        """``tried``: plans in their order; ``peak_mb``: of this run so far, MiB; ``task``: the one that did not fit, from 0."""
        kind = device.partition(":")[0]
        where = f" in task {task}" if task is not None else ""
        plans = ", ".join(plan.words for plan in tried) or "nothing else"
        super().__init__(
            f"memory ran out{where} on {device}, which has {size(memory_mb(kind))}: the peak was {size(peak_mb)} with batches of"
            f" {batch} ({plans}); {_remedy(kind, batch, precision)}"
        )


def memory_mb(kind: str) -> float:
    """What a process may use at most on ``cpu`` or ``cuda``, in MiB: the device's, its container's or the process's own limit."""
    total = total_mb(kind)
    if kind == "cpu":
        with contextlib.suppress(ImportError):  # not on Windows
            import resource

            limit = resource.getrlimit(resource.RLIMIT_AS)[0]
            if limit != resource.RLIM_INFINITY:
                total = min(total, limit / MIB)
    return total


def size(mebibytes: float) -> str:
    """An amount of memory with its unit, such as ``3.2 GiB``."""
    return f"{mebibytes / 1024:.1f} GiB" if mebibytes >= 1024 else f"{mebibytes:.0f} MiB"


def _remedy(kind: str, batch: int, precision: str) -> str:
    use = "run fewer --workers" if kind == "cpu" else "end other programs on the device, run fewer --workers"
    if precision == "fp32":
        use += ", train with --precision bf16"
    if batch > 1:
        use += f", or take smaller batches, which gives other numbers: --set schedule.batch_size={max(1, batch // 2)}"
    return use


class PeakMemory:
    """Peak since construction: of the accelerator where the run uses one, else of this process's resident memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            forget_peak()  # that of earlier runs in this process

    def read_mb(self) -> float:
        """Mebibytes."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / MIB
        return peak_mb()
