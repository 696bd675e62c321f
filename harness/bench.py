"""Timed claims: a training step of a method against the same backbone without a prompt, interleaved, as ratios.

``bare`` is what no method can avoid: timm's own forward of the frozen backbone, a linear head, cross-entropy, and the
backward pass down to the input, as a prompt in the first block needs it. ``frozen pass`` is timm's forward without a graph,
which a method that asks for queries pays once more. A method's own floor is its counted operations at the speed of ``bare``.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.bench_timing import Spread, interleaved, ratios, spread
from harness.cost_counts import stored_counts
from harness.memory import PeakMemory
from harness.optimise import Stretch, declare_trainable
from harness.provenance import device_name
from harness.registry import Registries
from harness.settings import validated
from methods.common.api import Batch, Method, Phase, Setup, TaskInfo
from methods.common.schedules import Schedule, adamw
from methods.common.vit import PromptedViT

CLASSES, TASKS = 200, 10
BARE, FROZEN = "bare", "frozen pass"


@dataclass(frozen=True)
class StepTimes:
    """One step over the repeats: seconds, and ratios to what it is held against.

    ``to_passes``: to plain timm doing the same number of passes, ``queries`` frozen ones beside the bare step.
    ``to_floor``: to the method's counted operations at the speed of the bare step; None where they are not counted at this
    size. ``peak_mb``: of one step, in MiB, the backbone included.
    """

    name: str
    seconds: Spread
    to_bare: Spread
    queries: int
    to_passes: Spread
    to_floor: Spread | None
    peak_mb: float


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


@dataclass(frozen=True)
class TimedStep:
    """A step that can be taken again and again; ``queries``: frozen passes that it asks for; ``phase``: what it trains."""

    take: Callable[[], None]
    queries: int = 0
    phase: str = ""


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
    with torch.autocast(place.type, dtype=torch.bfloat16, enabled=precision == "bf16", cache_enabled=False):
        steps = {BARE: TimedStep(bare_step(vit, images)), FROZEN: TimedStep(frozen_pass(vit, images))}
        for name in timed:
            step = method_step(registries.methods.load(name), name, vit, images)
            if step is not None:
                steps[name] = step
        times = interleaved({name: step.take for name, step in steps.items()}, repeats, place)
        peaks = {name: _peak(step, place) for name, step in steps.items()}
    is_counted = vit.depth == 12 and vit.feature_dim == 768 and vit.image_size == 224
    rows = [_row(name, step, times, peaks[name], is_counted) for name, step in steps.items()]
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


def frozen_pass(vit: PromptedViT, images: Tensor) -> Callable[[], None]:
    """timm's forward without a graph."""

    def step() -> None:
        with torch.no_grad():
            vit.vit(images)

    return step


def method_step(method_class: type[Method], name: str, vit: PromptedViT, images: Tensor) -> TimedStep | None:
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
    phase = max(reversed(phases), key=lambda phase: phase.epochs)
    method.begin_phase(phase)
    groups = method.parameter_groups()
    declare_trainable(method, groups)
    stretch = Stretch(schedule.model_copy(update={"lr": 1e-4, "shape": "constant"}), groups, epochs=1)
    labels = size + torch.arange(len(images), device=images.device) % size
    asked: list[int] = []

    def query() -> Tensor:
        asked.append(1)
        return vit.features(images)

    def step() -> None:
        asked.clear()
        loss = method.training_step(Batch(images, labels, query if method.needs_query else None))
        loss.item()
        stretch.descend(loss, method)

    step()  # tells how often the query is asked for; a batch computes it once
    return TimedStep(step, min(len(asked), 1), phase.name)


def _peak(step: TimedStep, device: torch.device) -> float:
    memory = PeakMemory(device)
    step.take()
    return memory.read_mb()


def _row(name: str, step: TimedStep, times: dict[str, list[float]], peak: float, is_counted: bool) -> StepTimes:
    mine, bare, frozen = times[name], times[BARE], times[FROZEN]
    passes = [one + step.queries * other for one, other in zip(bare, frozen, strict=True)]
    operations = _operations(name, step) if is_counted else None
    floor = None if operations is None else [one * operations / stored_counts().complete for one in bare]
    return StepTimes(
        name=name,
        seconds=spread(mine),
        to_bare=ratios(mine, bare),
        queries=step.queries,
        to_passes=ratios(mine, passes),
        to_floor=None if floor is None else ratios(mine, floor),
        peak_mb=peak,
    )


def _operations(name: str, step: TimedStep) -> int | None:
    """Counted operations an image of a method's phase, its query pass included."""
    counts = stored_counts().methods.get(name)
    return None if counts is None else counts.phases.get(step.phase)
