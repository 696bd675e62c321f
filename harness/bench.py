"""Timed claims: a training step of a method against the same backbone without a prompt, interleaved, as a ratio.

``bare`` is what no method can avoid: timm's own forward of the frozen backbone, a linear head, cross-entropy, and the
backward pass down to the input, as a prompt in the first block needs it.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.optimise import Stretch, declare_trainable
from harness.provenance import device_name
from harness.registry import Registries
from harness.settings import validated
from methods.common.api import Batch, Method, Phase, Setup, TaskInfo
from methods.common.schedules import Schedule, adamw
from methods.common.vit import PromptedViT

CLASSES, TASKS = 200, 10


@dataclass(frozen=True)
class StepTimes:
    """Seconds of one step over the repeats, and the ratio to ``bare`` pair by pair; medians with their spread."""

    name: str
    median_s: float
    least_s: float
    most_s: float
    ratio_to_bare: float
    least_ratio: float
    most_ratio: float


@dataclass(frozen=True)
class StepReport:
    """What was timed, on what, and how."""

    backbone: str
    batch: int
    precision: str
    threads: int
    repeats: int
    device: str
    torch: str
    python: str
    rows: list[StepTimes]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def bench_step(
    registries: Registries, methods: list[str], *, backbone: str, batch: int, repeats: int, precision: str, device: str
) -> StepReport:
    """Time one training step of each method in its second task, interleaved with the bare step, after a warm-up.

    Methods in closed form take no step and are left out.
    """
    place = torch.device(device)
    vit = registries.backbones.load(backbone).load().to(place)
    images = torch.rand(batch, 3, vit.image_size, vit.image_size, generator=torch.Generator().manual_seed(0)).to(place)
    timed = [name for name in methods if registries.methods.load(name).fit_task is Method.fit_task]
    steps = {"bare": bare_step(vit, images)}
    for name in timed:
        step = method_step(registries.methods.load(name), name, vit, images)
        if step is not None:
            steps[name] = step
    context = torch.autocast(place.type, dtype=torch.bfloat16, enabled=precision == "bf16")
    times: dict[str, list[float]] = {name: [] for name in steps}
    with context:
        for repeat in range(-2, repeats):
            for name, step in steps.items():
                seconds = _timed(step, place)
                if repeat >= 0:
                    times[name].append(seconds)
    rows = [_row(name, seconds, times["bare"]) for name, seconds in times.items()]
    return StepReport(
        backbone=backbone,
        batch=batch,
        precision=precision,
        threads=torch.get_num_threads(),
        repeats=repeats,
        device=device_name(device),
        torch=torch.__version__,
        python=platform.python_version(),
        rows=rows,
    )


def bare_step(vit: PromptedViT, images: Tensor) -> Callable[[], None]:
    """A step of timm's forward with a head; the input carries the gradient, so that no block escapes the backward."""
    head = nn.Linear(vit.feature_dim, CLASSES).to(images.device)
    labels = torch.arange(len(images), device=images.device) % CLASSES
    optimizer = adamw([(list(head.parameters()), 1e-3)], Schedule())
    inputs = images.clone().requires_grad_()

    def step() -> None:
        loss = F.cross_entropy(head(vit.vit(inputs)), labels)
        optimizer.zero_grad(set_to_none=True)
        inputs.grad = None
        loss.backward()
        optimizer.step()

    return step


def method_step(method_class: type[Method], name: str, vit: PromptedViT, images: Tensor) -> Callable[[], None] | None:
    """A step of the longest phase as the engine takes it, in the second task, when every loss of a method is on.

    None for a method without training phases.
    """
    schedule = Schedule()
    config = validated(method_class.Config, {}, name)
    method = method_class(config, vit, Setup(CLASSES, TASKS, schedule)).to(images.device)
    size = CLASSES // TASKS
    phases: list[Phase] = []
    for index in range(2):
        task = TaskInfo(index, range(index * size, (index + 1) * size), (1,) * size)
        method.enter_task(task)
        method.begin_task(task)
        phases = method.phases() or phases
    if not phases:
        return None
    method.begin_phase(max(reversed(phases), key=lambda phase: phase.epochs))
    groups = method.parameter_groups()
    declare_trainable(method, groups)
    stretch = Stretch(schedule.model_copy(update={"lr": 1e-4, "shape": "constant"}), groups, epochs=1)
    labels = size + torch.arange(len(images), device=images.device) % size

    def step() -> None:
        query = (lambda: vit.features(images)) if method.needs_query else None
        loss = method.training_step(Batch(images, labels, query))
        loss.item()
        stretch.descend(loss, method)

    return step


def _timed(step: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _row(name: str, seconds: list[float], bare: list[float]) -> StepTimes:
    ratios = [mine / theirs for mine, theirs in zip(seconds, bare, strict=True)]
    return StepTimes(
        name=name,
        median_s=statistics.median(seconds),
        least_s=min(seconds),
        most_s=max(seconds),
        ratio_to_bare=statistics.median(ratios),
        least_ratio=min(ratios),
        most_ratio=max(ratios),
    )
