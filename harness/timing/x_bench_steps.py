"""What ``bench step`` times: the bare step, the frozen pass, a method's step as the engine takes it, and a large product."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smope_bench.harness.cost.method_walk import make_method
from smope_bench.harness.hardware.memory import MIB
from smope_bench.harness.planning.settings import validated
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.training.optimization import Losses, Stretch, declare_trainable
from smope_bench.methods.common.api import Batch, Method, Phase, Setup, TaskInfo
from smope_bench.methods.common.backbone.vit import PromptedViT
from smope_bench.methods.common.schedules import Schedule, adamw

CLASSES, TASKS = 200, 10
PRODUCT = {"cuda": (8192, 1)}
"""Side and number of the square products that stand for a device's best speed; ``PRODUCT_ELSEWHERE`` on others."""
PRODUCT_ELSEWHERE = (2048, 4)


@dataclass(frozen=True)
class TimedStep:
    """A step that can be taken again and again; ``queries``: frozen passes that it asks for; ``phase``: what it trains.

    ``trained``: parameters that the optimiser holds; ``kept_mb`` and ``task_mb``: see ``bench.StepTimes``.
    """

    take: Callable[[], None]
    queries: int = 0
    phase: str = ""
    trained: int = 0
    kept_mb: float | None = None
    task_mb: float | None = None
    is_warm: bool = False
    """Whether it has been taken already."""


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


def method_step(
    method_class: type[Method], name: str, vit: PromptedViT, images: Tensor, finished: int = 1
) -> TimedStep | None:
    """A step of the longest phase as the engine takes it, after ``finished`` tasks: from one on every loss of a method is on.

    It has been taken once. None for a method that takes no steps, or has no training phases.
    """
    if method_class.fit_task is not Method.fit_task:
        return None
    schedule = Schedule()
    config = validated(method_class.Config, {}, name)
    method = method_class(config, vit, Setup(CLASSES, TASKS, schedule)).to(images.device)
    size = CLASSES // TASKS
    phases: list[Phase] = []
    for index in range(finished + 1):
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
    losses, numbers = Losses(lambda *_: None), itertools.count()
    labels = finished * size + torch.arange(len(images), device=images.device) % size
    asked: list[int] = []

    def query() -> Tensor:
        asked.append(1)
        return vit.features(images)

    def step() -> None:
        asked.clear()
        loss = method.training_step(Batch(images, labels, query if method.needs_query else None))
        stretch.descend(loss, method)
        losses.note(loss, next(numbers))

    step()  # tells how often the query is asked for; a batch computes it once
    trained = sum(parameter.numel() for group in groups for parameter in group.parameters)
    kept = checkpoint_mb(method_class, name, vit)
    return TimedStep(step, min(len(asked), 1), phase.name, trained, *kept, is_warm=True)


def checkpoint_mb(method_class: type[Method], name: str, vit: PromptedViT) -> tuple[float, float]:
    """MiB that a method keeps between tasks in the bench's protocol, and MiB that each further task of as many classes adds.

    A checkpoint has its final shapes from the start, so that growth shows between protocols, not between tasks.
    """
    sizes: list[float] = []
    for factor in (1, 2):
        with torch.device("meta"):  # shapes are enough: class covariances of ViT-B/16 take gigabytes
            method, _ = make_method(method_class, name, vit, factor * CLASSES, factor * TASKS)
        sizes.append(sum(tensor.numel() * tensor.element_size() for tensor in method.state_dict().values()) / MIB)
    return sizes[0], (sizes[1] - sizes[0]) / TASKS


def product_step(device: torch.device, dtype: torch.dtype) -> tuple[Callable[[], None], int]:
    """Large square products in ``dtype``, and their operations: two for each multiply-add."""
    side, count = PRODUCT.get(device.type, PRODUCT_ELSEWHERE)
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(side, side, generator=generator).to(device, dtype) for _ in range(2))
    out = torch.empty_like(left)

    @torch.no_grad()
    def step() -> None:
        for _ in range(count):
            torch.mm(left, right, out=out)

    return step, count * 2 * side**3


def makers(
    registries: Registries, names: list[str], vit: PromptedViT, images: Tensor, finished: int
) -> dict[str, Callable[[], TimedStep | None]]:
    """What makes each method's step, by name; a maker gives None for a method that takes no steps."""

    def maker(method_class: type[Method], name: str) -> Callable[[], TimedStep | None]:
        return lambda: method_step(method_class, name, vit, images, finished)

    return {name: maker(registries.methods.load(name), name) for name in names}
