"""Interleaved timing: each repeat takes every candidate once, so that what disturbs the machine disturbs all of them.

Ratios are taken pair by pair within a repeat; the median of the pairs is the claim, their extremes its spread.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

WARM_UPS = 2


@dataclass(frozen=True)
class Spread:
    """Median and extremes over the repeats, in the unit of the values."""

    median: float
    least: float
    most: float


def spread(values: Sequence[float]) -> Spread:
    """Summarise at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


def ratios(mine: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Of values that were taken side by side, repeat by repeat."""
    return spread([one / other for one, other in zip(mine, theirs, strict=True)])


def interleaved(
    steps: Mapping[str, Callable[[], object]], repeats: int, device: torch.device, warm_ups: int = WARM_UPS
) -> dict[str, list[float]]:
    """Seconds of each step in each repeat, after some that do not count."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(-warm_ups, repeats):
        for name, step in steps.items():
            seconds = timed(step, device)
            if repeat >= 0:
                times[name].append(seconds)
    return times


def timed(step: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, the device's queue included."""
    synchronise(device)
    started = time.perf_counter()
    step()
    synchronise(device)
    return time.perf_counter() - started


def saved_bytes(forward: Callable[[], object]) -> int:
    """Bytes of the distinct storages that the graphs of one call keep for their backward passes."""
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward()
    del output  # the graph lives as long as this: no address could be used twice
    return sum(saved.values())


def synchronise(device: torch.device) -> None:
    """Wait for an accelerator."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
