"""Out of memory: recognition of the error, the message for a run that does not fit, and peak memory."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Sequence

import torch

from smope_bench.harness.errors import UserError
from smope_bench.harness.hardware.memory import MIB, forget_peak, own_mb, peak_mb, return_freed, total_mb
from smope_bench.methods.common.vit.memory_plan import MemoryPlan, is_memory_shortage


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one in its chain of causes, means that memory ran out on any device; a full disk does not count."""
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        if is_memory_shortage(current):
            return True
        seen.append(current)
        current = current.__cause__
    return False


class OutOfMemoryRun(UserError):
    """A run does not fit in memory under any plan; the message has the numbers and the remedy."""

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
        """``tried``: memory plans in order; ``peak_mb``: peak of the run in MiB; ``task``: the task that failed, from 0."""
        kind = device.partition(":")[0]
        where = f" in task {task}" if task is not None else ""
        plans = ", ".join(plan.words for plan in tried) or "nothing else"
        super().__init__(
            f"memory ran out{where} on {device}, which has {size(memory_mb(kind))}: the peak was {size(peak_mb)} with batches of"
            f" {batch} ({plans}); {_remedy(kind, batch, precision)}"
        )


def memory_mb(kind: str) -> float:
    """Memory limit of a process on ``cpu`` or ``cuda`` in MiB: the least of the device's, the container's and the process's."""
    total = total_mb(kind)
    if kind == "cpu":
        with contextlib.suppress(ImportError):  # not on Windows
            import resource

            limit = resource.getrlimit(resource.RLIMIT_AS)[0]
            if limit != resource.RLIM_INFINITY:
                total = min(total, limit / MIB)
    return total


def size(mebibytes: float) -> str:
    """Memory with its unit, such as ``3.2 GiB``."""
    return f"{mebibytes / 1024:.1f} GiB" if mebibytes >= 1024 else f"{mebibytes:.0f} MiB"


def _remedy(kind: str, batch: int, precision: str) -> str:
    use = "run fewer --workers" if kind == "cpu" else "end other programs on the device, run fewer --workers"
    if precision != "bf16":
        use += ", train with --precision bf16"
    if batch > 1:
        use += f", or take smaller batches, which gives other numbers: --set schedule.batch_size={max(1, batch // 2)}"
    return use


class PeakMemory:
    """Peak memory since construction: of the accelerator where the run uses one, else resident memory of this process."""

    def __init__(self, device: torch.device, *, optimizes: bool = True) -> None:
        """``optimizes``: whether the run makes an optimizer of torch."""
        self._device = device
        self._peak = self._increase = 0.0
        if device.type == "cuda":
            self._forget()
            self._start = torch.cuda.memory_allocated(device) / MIB
        else:
            if optimizes:
                # The first optimizer would import it: 77 MiB that are no matter of its run.
                importlib.import_module("torch._dynamo")
            return_freed()  # what earlier runs in this process have left
            self._forget()
            self._start, self._mapped = own_mb()

    def read_mb(self) -> float:
        """Peak in MiB."""
        if self._device.type == "cuda":
            return max(self._peak, torch.cuda.max_memory_allocated(self._device) / MIB)
        return max(self._peak, peak_mb())

    def increase_mb(self) -> float:
        """By how many MiB the peak outside ``apart`` is above what was in use at the start; of a process without mapped files.

        Code of a library is read when it is first used, which is no matter of the run but of what ran before. Where the system
        cannot forget the peak of earlier runs and this one is below it, it is what is in use now that counts: the most of
        several readings is then a lower bound.
        """
        if self._device.type == "cuda":
            increase = torch.cuda.max_memory_allocated(self._device) / MIB - self._start
        else:
            peak, (now, mapped) = peak_mb(), own_mb()
            increase = (peak if peak > self._earlier else now) - self._start - max(0.0, mapped - self._mapped)
        self._increase = max(self._increase, increase)
        return self._increase

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """What this block needs is in the peak, not in its increase: work that only the first of several runs has to do."""
        self.increase_mb()
        yield
        self._peak = self.read_mb()
        if self._device.type != "cuda":
            return_freed()
        self._forget()

    def _forget(self) -> None:
        """Measure peaks from here."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            self._earlier = 0.0 if forget_peak() else peak_mb()
