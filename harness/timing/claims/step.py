"""Timing of a training step of each method against the same backbone without a prompt, interleaved, as ratios.

``bare`` is the least that any method must compute: timm's forward of the frozen backbone, a linear head, cross-entropy, and
the backward pass down to the input, as a prompt in the first block needs it. ``frozen pass`` is timm's forward without a graph,
which methods with queries compute in addition. A method's floor is its counted operations at the speed of ``bare``;
``matrix product`` is the speed that the device reaches at best.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from smope_bench.harness.cost.counting.method_walk import make_method
from smope_bench.harness.cost.stored_counts import stored_counts
from smope_bench.harness.errors import UserError
from smope_bench.harness.hardware.device import products_in
from smope_bench.harness.hardware.memory import MIB, return_freed
from smope_bench.harness.hardware.out_of_memory import PeakMemory
from smope_bench.harness.planning.settings import validated
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.timing.measure import interleaved
from smope_bench.harness.timing.records import Row, make_row, ratios, spread
from smope_bench.harness.training.optimization import LossMeter, OptimizationSegment, declare_trainable
from smope_bench.methods.common.api import Batch, Method, Phase, Setup, TaskInfo
from smope_bench.methods.common.backbone.backbones import Backbone
from smope_bench.methods.common.schedules import Schedule, adamw
from smope_bench.methods.common.vit import block, plain_vit
from smope_bench.methods.common.vit.frozen_linear import frozen_linear
from smope_bench.methods.common.vit.memory_plan import MemoryPlan
from smope_bench.methods.common.vit.vit import PromptedViT

CLASSES, TASKS = 200, 10
PRODUCT_SIZE = {"cuda": (8192, 1)}
"""Side and number of the square products that measure a device's best speed; ``PRODUCT_SIZE_ELSEWHERE`` on others."""
PRODUCT_SIZE_ELSEWHERE = (2048, 4)


@dataclass(frozen=True)
class TimedStep:
    """A repeatable step; ``queries``: frozen passes that it needs; ``phase``: name of its training phase.

    ``trained``: parameters of the optimiser; ``kept_mb`` and ``task_mb``: see ``step_times``; ``is_warm``: it has run before.
    """

    take: Callable[[], None]
    queries: int = 0
    phase: str = ""
    trained: int = 0
    kept_mb: float | None = None
    task_mb: float | None = None
    is_warm: bool = False


def bare_step(vit: PromptedViT, images: Tensor) -> Callable[[], None]:
    """A step of timm's forward with a head; the input requires a gradient, so that every block has a backward pass."""
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
    """A step of the longest phase as the trainer runs it, after ``finished`` tasks; with one or more, every loss is active.

    It has run once. ``prepare_task`` and ``end_task``, which read images, are not called: state that they gather has its
    shape and its first values, with which a step costs the same. None for a method in closed form or without training phases.
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
    segment = OptimizationSegment(schedule.model_copy(update={"lr": 1e-4, "shape": "constant"}), groups, epochs=1)
    losses, numbers = LossMeter(lambda *_: None), itertools.count()
    labels = finished * size + torch.arange(len(images), device=images.device) % size
    queried: list[int] = []

    def query() -> Tensor:
        queried.append(1)
        return vit.features(images)

    def step() -> None:
        queried.clear()
        loss = method.training_step(Batch(images, labels, query if method.needs_query else None))
        segment.descend(loss, method)
        losses.note(loss, next(numbers))

    step()  # counts the uses of the query, which a batch computes once
    trained = sum(parameter.numel() for group in groups for parameter in group.parameters)
    kept = checkpoint_mb(method_class, name, vit)
    return TimedStep(step, min(len(queried), 1), phase.name, trained, *kept, is_warm=True)


def checkpoint_mb(method_class: type[Method], name: str, vit: PromptedViT) -> tuple[float, float]:
    """MiB of a method's state with ``TASKS`` tasks, and MiB that each further task of as many classes adds.

    A method has its final shapes from the start: growth is measured between two numbers of tasks.
    """
    sizes: list[float] = []
    for factor in (1, 2):
        with torch.device("meta"):  # shapes suffice: class covariances of ViT-B/16 take gigabytes
            method, _ = make_method(method_class, name, vit, factor * CLASSES, factor * TASKS)
        sizes.append(sum(tensor.numel() * tensor.element_size() for tensor in method.state_dict().values()) / MIB)
    return sizes[0], (sizes[1] - sizes[0]) / TASKS


def product_step(device: torch.device, dtype: torch.dtype) -> tuple[Callable[[], None], int]:
    """Large square products in ``dtype``, as a frozen layer multiplies, and their operations, two per multiply-add."""
    side, count = PRODUCT_SIZE.get(device.type, PRODUCT_SIZE_ELSEWHERE)
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(side, side, generator=generator).to(device, dtype) for _ in range(2))

    @torch.no_grad()
    def step() -> None:
        for _ in range(count):
            frozen_linear(left, right)

    return step, count * 2 * side**3


BARE, FROZEN, PRODUCT, COMPILED = "bare", "frozen pass", "matrix product", ", compiled"
PLANS = (MemoryPlan(checkpoint_mlps=True), MemoryPlan(checkpoint_blocks=True))
"""What a run short of memory tries first."""
WARM_UPS = 1
"""In addition to the step that a method runs when it is made."""

Maker = Callable[[], TimedStep | None]


@dataclass(frozen=True)
class Counted:
    """Images per step, and seconds and operations of the matrix product, for ratios to counted operations."""

    batch: int
    product: Sequence[float]
    operations: int


def bench_step(
    registries: Registries,
    methods: list[str],
    *,
    backbone: Backbone,
    batch: int,
    repeats: int,
    precision: str,
    device: str,
    finished: int = 1,
    is_compiled: bool = False,
    with_plans: bool = False,
) -> list[Row]:
    """Time one training step of each method after ``finished`` tasks, interleaved with the bare step, after a warm-up.

    Methods in closed form are left out. ``is_compiled`` adds every step with compiled blocks, ``with_plans`` each method's step
    under ``PLANS``. The matrix product has a row only where operations are counted at this size.
    """
    place, dtype = torch.device(device), torch.bfloat16 if precision == "bf16" else torch.float32
    vit = backbone.load().to(place)
    if precision == "bf16":
        vit.keep_products_in(torch.bfloat16, backbone.load)
    images = torch.rand(batch, 3, vit.image_size, vit.image_size, generator=torch.Generator().manual_seed(0)).to(place)
    classes = {name: registries.methods.load(name) for name in methods}
    make: dict[str, Maker] = {
        BARE: lambda: TimedStep(bare_step(vit, images)),
        FROZEN: lambda: TimedStep(frozen_pass(vit, images)),
        **{name: partial(method_step, found, name, vit, images, finished) for name, found in classes.items()},
    }
    with products_in(precision, place.type):
        plans = _under_plans(make, vit) if with_plans else {}
        make |= (_compiled(make) if is_compiled else {}) | plans
        peaks = {name: _peak(maker, place) for name, maker in make.items()}
        steps = {name: step for name, maker in make.items() if peaks[name] is not None and (step := maker())}
        product, operations = product_step(place, dtype) if _is_counted(vit) else (None, 0)
        timed = {PRODUCT: product} if product else {}
        times = interleaved(
            {**timed, **{name: step.take for name, step in steps.items()}}, repeats, place, warm_ups=WARM_UPS
        )
    counted = Counted(batch, times[PRODUCT], operations) if product else None
    rows = [step_times(name, step, times, peaks[name] or 0.0, counted) for name, step in steps.items()]
    return [*rows, product_times(counted)] if counted else rows


def _is_counted(vit: PromptedViT) -> bool:
    """Whether operations are counted at this size: that of ViT-B/16 at 224 px."""
    return vit.depth == 12 and vit.feature_dim == 768 and vit.image_size == 224


def _compiled(make: Mapping[str, Maker]) -> dict[str, Maker]:
    """The same steps with compiled blocks, with ``COMPILED`` after their names."""
    blocks = CompiledBlocks()

    def within(maker: Maker) -> TimedStep | None:
        step = maker()
        return None if step is None else replace(step, take=partial(blocks.call, step.take), is_warm=False)

    return {f"{name}{COMPILED}": partial(within, maker) for name, maker in make.items()}


def _under_plans(make: Mapping[str, Maker], vit: PromptedViT) -> dict[str, Maker]:
    """The steps of methods under each of ``PLANS``, with the plan's words after their names."""

    def under(maker: Maker, plan: MemoryPlan) -> TimedStep | None:
        step = maker()
        if step is None:
            return None

        def take() -> None:
            before, vit.memory = vit.memory, plan
            try:
                step.take()
            finally:
                vit.memory = before

        return replace(step, take=take, is_warm=False)

    methods = {name: maker for name, maker in make.items() if name not in (BARE, FROZEN)}
    return {f"{name}, {plan.words}": partial(under, maker, plan) for name, maker in methods.items() for plan in PLANS}


def _peak(maker: Maker, device: torch.device) -> float | None:
    """Peak MiB of one step, not the first, while no other step is in memory; None where there is no step."""
    step = maker()
    if step is None:
        return None
    if not step.is_warm:
        step.take()
    memory = PeakMemory(device)
    step.take()
    peak = memory.read_mb()
    del step
    _release(device)
    return peak


def _release(device: torch.device) -> None:
    """Free unreferenced memory, which would count for the next step's peak."""
    return_freed()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def step_times(
    name: str, step: TimedStep, times: Mapping[str, Sequence[float]], peak: float, counted: Counted | None
) -> Row:
    """The row of one step, from the seconds of all.

    ``to_passes``: ratio to plain timm with the same number of passes, ``queries`` frozen ones and the bare step. ``to_floor``:
    to the counted operations at the speed of the bare step; ``of_peak``: counted operations a second, as a share of the matrix
    product's; both only where operations are counted. ``peak_mb``: MiB at the peak of one step alone; on a CPU the resident
    memory of the process, libraries included. ``kept_mb``: MiB that a method keeps between tasks; ``task_mb``: the part of it
    that each further task of as many classes adds.
    """
    mine, bare, frozen = times[name], times[BARE], times[FROZEN]
    operations = None if counted is None else _operations(name.removesuffix(COMPILED), step)
    floor = of_peak = None
    if counted is not None and operations is not None:
        floor = ratios(mine, [one * operations / stored_counts().complete for one in bare])
        least = [one * counted.batch * operations / counted.operations for one in counted.product]
        of_peak = ratios(least, mine)
    return make_row(
        name,
        seconds=spread(mine),
        to_bare=ratios(mine, bare),
        queries=step.queries,
        to_passes=ratios(mine, [one + step.queries * other for one, other in zip(bare, frozen, strict=True)]),
        to_floor=floor,
        peak_mb=peak,
        kept_mb=step.kept_mb,
        task_mb=step.task_mb,
        of_peak=of_peak,
    )


def product_times(counted: Counted) -> Row:
    """The row of the matrix product: seconds, and 10^12 operations a second."""
    rates = [counted.operations / one / 1e12 for one in counted.product]
    return make_row(PRODUCT, seconds=spread(counted.product), tera_per_s=spread(rates))


def _operations(name: str, step: TimedStep) -> int | None:
    """Counted operations per image, query pass included, of a method's phase or of the bare step; None if not counted."""
    if name == BARE:
        return stored_counts().complete
    counts = stored_counts().methods.get(name)
    return None if counts is None else counts.phases.get(step.phase)


PARTS = ("_heads", "_leave_heads", "_residuals")
"""Functions of a block that no attention rule changes. Rules are not compiled: they hold tensors of their own pass."""


class CompiledBlocks:
    """Blocks as they are, and the method-independent parts of prompted ones, compiled once and patched in when needed.

    Each is compiled as one graph: a graph break is an error instead of a slow measurement.
    """

    def __init__(self, backend: str = "inductor") -> None:
        places: list[tuple[Any, str]] = [
            (Block, "forward"),
            (plain_vit.Block, "forward"),
            *((block, name) for name in PARTS),
        ]
        self._places = [
            (owner, name, torch.compile(getattr(owner, name), backend=backend, fullgraph=True))
            for owner, name in places
        ]

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Every transformer of this process runs compiled blocks within this context."""
        plain = [(owner, name, getattr(owner, name)) for owner, name, _ in self._places]
        try:
            for owner, name, compiled in self._places:
                setattr(owner, name, compiled)
            yield
        finally:
            for owner, name, original in plain:
                setattr(owner, name, original)

    def call(self, step: Callable[[], None]) -> None:
        """Run a step on compiled blocks. Raises UserError where one of them cannot be compiled as one graph."""
        from torch._dynamo.exc import TorchDynamoException

        try:
            with self.in_place():
                step()
        except TorchDynamoException as error:
            raise UserError(f"--compile: a block cannot be compiled ({_reason(error)}); measure without it") from error


def require_compiler() -> None:
    """Raises UserError where torch.compile does not work, for example without a C++ compiler."""
    try:
        torch.compile(lambda value: torch.nn.functional.gelu(value) + 1)(torch.zeros(2, 2))
    except Exception as error:  # each backend raises its own types
        raise UserError(
            f"--compile: torch.compile does not work here ({_reason(error)}); measure without it"
        ) from error


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
