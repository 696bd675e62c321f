"""Peak memory of a run, as the device or the operating system accounts it."""

from __future__ import annotations

import torch

from smope_bench.harness.hardware.memory import MIB, forget_peak, peak_mb


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
