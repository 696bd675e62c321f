"""Timed claims: a training step of a method against the same backbone without a prompt, interleaved, as ratios.

``bare`` is what no method can avoid: timm's own forward of the frozen backbone, a linear head, cross-entropy, and the
backward pass down to the input, as a prompt in the first block needs it. ``frozen pass`` is timm's forward without a graph,
which a method that asks for queries pays once more. A method's own floor is its counted operations at the speed of ``bare``.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.bench_timing import Spread, interleaved, ratios, spread
from harness.cost_counts import stored_counts
from harness.cost_walk import make_method
from harness.memory import PeakMemory
from harness.optimise import Stretch, declare_trainable
from harness.provenance import device_name
from harness.registry import Registries
from harness.resident import MIB
from harness.settings import validated
from methods.common.api import Batch, Method, Phase, Setup, TaskInfo
from methods.common.schedules import Schedule, adamw
from methods.common.vit import PromptedViT

CLASSES, TASKS = 200, 10
BARE, FROZEN, COMPILED = "bare", "frozen pass", ", compiled"


@dataclass(frozen=True)
class StepTimes:
    """One step over the repeats: seconds, and ratios to what it is held against.

    ``to_passes``: to plain timm doing the same number of passes, ``queries`` frozen ones beside the bare step.
    ``to_floor``: to the method's counted operations at the speed of the bare step; None where they are not counted at this
    size. ``peak_mb``: of one step, in MiB, the backbone included. ``kept_mb``: all that the method's checkpoint holds, in MiB;
    ``task_mb``: how much of it each further task of as many classes takes. None for what is no method.
    """

    name: str
    seconds: Spread
    to_bare: Spread
    queries: int
    to_passes: Spread
    to_floor: Spread | None
    peak_mb: float
    kept_mb: float | None = None
    task_mb: float | None = None


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
    finished: int = 1
    """Tasks before the one whose step is timed."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class TimedStep:
    """A step that can be taken again and again; ``queries``: frozen passes that it asks for; ``phase``: what it trains.

    ``trained``: parameters that the optimiser holds; ``kept_mb`` and ``task_mb``: see ``StepTimes``.
    """

    take: Callable[[], None]
    queries: int = 0
    phase: str = ""
    trained: int = 0
    kept_mb: float | None = None
    task_mb: float | None = None


def bench_step(
    registries: Registries,
    methods: list[str],
    *,
    backbone: str,
    batch: int,
    repeats: int,
    precision: str,
    device: str,
    finished: int = 1,
    is_compiled: bool = False,
) -> StepReport:
    """Time one training step of each method after ``finished`` tasks, interleaved with the bare step, after a warm-up.

    Methods in closed form take no step and are left out. ``is_compiled`` adds every step with compiled blocks.
    """
    place = torch.device(device)
    vit = registries.backbones.load(backbone).load().to(place)
    if precision == "bf16":
        vit.keep_products_in(torch.bfloat16)
    images = torch.rand(batch, 3, vit.image_size, vit.image_size, generator=torch.Generator().manual_seed(0)).to(place)
    classes = {name: registries.methods.load(name) for name in methods}
    with torch.autocast(place.type, dtype=torch.bfloat16, enabled=precision == "bf16", cache_enabled=False):
        steps = _steps(classes, vit, images, finished)
        steps |= _compiled(steps) if is_compiled else {}
        times = interleaved({name: step.take for name, step in steps.items()}, repeats, place)
        is_counted = vit.depth == 12 and vit.feature_dim == 768 and vit.image_size == 224
        rows = [_row(name, step, times, _peak(step, place), is_counted) for name, step in steps.items()]
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
        finished=finished,
    )


def _steps(
    classes: Mapping[str, type[Method]], vit: PromptedViT, images: Tensor, finished: int
) -> dict[str, TimedStep]:
    """What is timed, by name: the bare step, the frozen pass, and every method that takes steps."""
    steps = {BARE: TimedStep(bare_step(vit, images)), FROZEN: TimedStep(frozen_pass(vit, images))}
    for name, method_class in classes.items():
        step = method_step(method_class, name, vit, images, finished) if not _fits_at_once(method_class) else None
        if step is not None:
            steps[name] = step
    return steps


def _fits_at_once(method_class: type[Method]) -> bool:
    return method_class.fit_task is not Method.fit_task


def _compiled(steps: Mapping[str, TimedStep]) -> dict[str, TimedStep]:
    """The same steps with compiled blocks, each under its name with ``COMPILED`` behind it."""
    from harness.bench_compile import CompiledBlocks

    blocks = CompiledBlocks()

    def within(take: Callable[[], None]) -> Callable[[], None]:
        def step() -> None:
            with blocks.in_place():
                take()

        return step

    return {f"{name}{COMPILED}": replace(step, take=within(step.take)) for name, step in steps.items()}


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

    None for a method without training phases.
    """
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
    labels = finished * size + torch.arange(len(images), device=images.device) % size
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
    trained = sum(parameter.numel() for group in groups for parameter in group.parameters)
    return TimedStep(step, min(len(asked), 1), phase.name, trained, *checkpoint_mb(method_class, name, vit))


def checkpoint_mb(method_class: type[Method], name: str, vit: PromptedViT) -> tuple[float, float]:
    """MiB of a method's checkpoint in the bench's protocol, and MiB that each further task of as many classes adds.

    A checkpoint has its final shapes from the start, so that growth shows between protocols, not between tasks.
    """
    sizes: list[float] = []
    for factor in (1, 2):
        with torch.device("meta"):  # shapes are enough: class covariances of ViT-B/16 take gigabytes
            method, _ = make_method(method_class, name, vit, factor * CLASSES, factor * TASKS)
        sizes.append(sum(tensor.numel() * tensor.element_size() for tensor in method.state_dict().values()) / MIB)
    return sizes[0], (sizes[1] - sizes[0]) / TASKS


def _peak(step: TimedStep, device: torch.device) -> float:
    memory = PeakMemory(device)
    step.take()
    return memory.read_mb()


def _row(name: str, step: TimedStep, times: dict[str, list[float]], peak: float, is_counted: bool) -> StepTimes:
    mine, bare, frozen = times[name], times[BARE], times[FROZEN]
    passes = [one + step.queries * other for one, other in zip(bare, frozen, strict=True)]
    operations = _operations(name.removesuffix(COMPILED), step) if is_counted else None
    floor = None if operations is None else [one * operations / stored_counts().complete for one in bare]
    return StepTimes(
        name=name,
        seconds=spread(mine),
        to_bare=ratios(mine, bare),
        queries=step.queries,
        to_passes=ratios(mine, passes),
        to_floor=None if floor is None else ratios(mine, floor),
        peak_mb=peak,
        kept_mb=step.kept_mb,
        task_mb=step.task_mb,
    )


def _operations(name: str, step: TimedStep) -> int | None:
    """Counted operations an image of a method's phase, its query pass included."""
    counts = stored_counts().methods.get(name)
    return None if counts is None else counts.phases.get(step.phase)
