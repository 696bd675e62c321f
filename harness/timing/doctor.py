"""Short measurements of a machine for the command ``doctor``: its devices, their precision, waits, and feed against step."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from smope_bench.harness import provenance
from smope_bench.harness.cost.stored_counts import stored_counts
from smope_bench.harness.hardware import memory
from smope_bench.harness.hardware.device import FAST_BF16, cpu_instructions, usable_cores
from smope_bench.harness.hardware.gpus import visible_gpus
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.timing.claims.data import BATCH, made_files, made_stream
from smope_bench.harness.timing.claims.feed import feeder_epoch, timed_epoch
from smope_bench.harness.timing.claims.step import bare_step, method_step
from smope_bench.harness.timing.measure import synchronise, timed
from smope_bench.harness.training.batches.feeder import AHEAD_ELSEWHERE, Feeder

PICTURES, BATCHES = 64, 2
STEP_BATCH = {"cuda": 32}
"""Images of the timed step; ``STEP_BATCH_ELSEWHERE`` on other devices."""
STEP_BATCH_ELSEWHERE = 2
OMITTED = "needs a GPU; python -m smope_bench.harness.maintenance.device_waits counts them on a pretend device"


@dataclass(frozen=True)
class Speeds:
    """Images a second that the feeder makes, in both image modes, and that a step uses, on ViT-B/16 at 224 px.

    ``flops_per_s``: the step's counted operations a second, by which plans are priced.
    """

    exact: float
    fast: float
    step: float
    step_batch: int
    flops_per_s: float

    @property
    def fed(self) -> float:
        """How many times as fast the exact mode feeds as the step uses."""
        return self.exact / self.step


def devices() -> dict[str, Any]:
    """Cores, quota and memory of the machine as this process may use them, and its GPUs."""
    return {
        "cpu": provenance.device_name("cpu"),
        "cores": usable_cores(),
        "cpu_quota": memory.cpu_quota(),
        "memory_mb": round(memory.total_mb()),
        "free_mb": round(memory.free_mb("cpu")),
        "gpus": [{**asdict(gpu), "words": gpu.words} for gpu in visible_gpus()],
    }


def precisions() -> dict[str, dict[str, str]]:
    """How each device computes in the precisions that there are: ``native``, ``emulated`` or ``no``."""
    known = cpu_instructions()
    native = "unknown" if not known else "native" if known & FAST_BF16 else "emulated"
    found = {"cpu": {"fp32": "native", "tf32": "no", "bf16": native}}
    for gpu in visible_gpus():
        recent = "unknown" if not gpu.capability else "native" if float(gpu.capability) >= 8 else "no"
        found[gpu.words] = {"fp32": "native", "tf32": recent, "bf16": recent}
    return found


def waits(registries: Registries, methods: Sequence[str], device: torch.device) -> dict[str, int] | None:
    """Host synchronisations of a training step of each method, as torch's debug mode counts them; None without CUDA.

    Methods without training steps are left out.
    """
    if device.type != "cuda":
        return None
    vit = registries.backbones.load("tiny").load().to(device)
    images = torch.rand(4, 3, vit.image_size, vit.image_size, device=device)
    found: dict[str, int] = {}
    for name in methods:
        step = method_step(registries.methods.load(name), name, vit, images)
        if step is not None:
            step.take()  # what is made at the first use
            found[name] = waits_of(step.take, device)
    return found


def waits_of(step: Callable[[], None], device: torch.device) -> int:
    """Host synchronisations of one call on a CUDA device."""
    synchronise(device)
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return sum("synchronizing" in str(warning.message) for warning in caught)


def speeds(registries: Registries, device: torch.device, backbone: str = "random") -> Speeds:
    """Time a few batches and one step."""
    rates: dict[str, float] = {}
    with TemporaryDirectory() as folder, Feeder(device, ahead=AHEAD_ELSEWHERE) as feeder:
        files = made_files(PICTURES)
        for mode in ("exact", "fast"):
            epoch = feeder_epoch(feeder, made_stream(files, Path(folder), mode), BATCHES)
            timed_epoch(epoch, lambda: None)
            rates[mode] = BATCHES * BATCH / timed_epoch(epoch, lambda: None).wall
    batch = STEP_BATCH.get(device.type, STEP_BATCH_ELSEWHERE)
    vit = registries.backbones.load(backbone).load().to(device)
    images = torch.rand(batch, 3, vit.image_size, vit.image_size, generator=torch.Generator().manual_seed(0)).to(device)
    step = bare_step(vit, images)
    step()
    seconds = min(timed(step, device) for _ in range(2))
    operations = batch * stored_counts().complete
    return Speeds(rates["exact"], rates["fast"], batch / seconds, batch, operations / seconds)
