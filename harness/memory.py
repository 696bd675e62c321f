"""Peak memory of a run, as the device or the operating system accounts it."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import torch

MIB = 1024 * 1024


class PeakMemory:
    """Peak since construction: of the accelerator where the run uses one, else of this process's resident memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            with contextlib.suppress(OSError):  # Linux: forget the high-water mark of earlier runs in this process
                Path("/proc/self/clear_refs").write_text("5")

    def read_mb(self) -> float:
        """Mebibytes."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / MIB
        with contextlib.suppress(OSError, StopIteration):
            lines = Path("/proc/self/status").read_text().splitlines()
            return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
        import resource  # not on Windows

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / MIB if sys.platform == "darwin" else peak / 1024
