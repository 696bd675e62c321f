"""Interleaved timing: each repeat runs every candidate once, so that a disturbance of the machine affects all of them.

Ratios are taken pair by pair within a repeat; the reported ratio is the median of the pairs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

WARM_UPS = 2


def interleaved(
    steps: Mapping[str, Callable[[], object]], repeats: int, device: torch.device, warm_ups: int = WARM_UPS
) -> dict[str, list[float]]:
    """Seconds of each step in each repeat, after uncounted warm-ups."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(-warm_ups, repeats):
        for name, step in steps.items():
            seconds = timed(step, device)
            if repeat >= 0:
                times[name].append(seconds)
    return times


def timed(step: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, including the work that it leaves in the device's queue."""
    synchronise(device)
    started = time.perf_counter()
    step()
    synchronise(device)
    return time.perf_counter() - started


def saved_bytes(forward: Callable[[], object]) -> int:
    """Bytes of the distinct storages that the graph of one call keeps for its backward pass."""
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward()
    del output  # keeps the graph alive until here, so that no address is used twice
    return sum(saved.values())


def synchronise(device: torch.device) -> None:
    """Wait for an accelerator."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
