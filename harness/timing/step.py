"""Timed claims: a training step of a method against the same backbone without a prompt, interleaved, as ratios.

``bare`` is what no method can avoid: timm's own forward of the frozen backbone, a linear head, cross-entropy, and the
backward pass down to the input, as a prompt in the first block needs it. ``frozen pass`` is timm's forward without a graph,
which a method that asks for queries pays once more. A method's own floor is its counted operations at the speed of ``bare``;
``matrix product`` tells how far the device itself is from that speed.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from smope_bench.harness.cost.method_walk import make_method
from smope_bench.harness.cost.stored_counts import stored_counts
from smope_bench.harness.errors import UserError
from smope_bench.harness.hardware.memory import MIB
from smope_bench.harness.hardware.out_of_memory import PeakMemory
from smope_bench.harness.planning.settings import validated
from smope_bench.harness.provenance import device_name
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.timing.measure import Spread, interleaved, ratios, spread
from smope_bench.harness.training.optimization import LossMeter, OptimizationSegment, declare_trainable
from smope_bench.methods.common.api import Batch, Method, Phase, Setup, TaskInfo
from smope_bench.methods.common.backbone import vit
from smope_bench.methods.common.backbone.vit import PromptedViT
from smope_bench.methods.common.schedules import Schedule, adamw

CLASSES, TASKS = 200, 10
PRODUCT_SIZE = {"cuda": (8192, 1)}
"""Side and number of the square products that stand for a device's best speed; ``PRODUCT_SIZE_ELSEWHERE`` on others."""
PRODUCT_SIZE_ELSEWHERE = (2048, 4)


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
    segment = OptimizationSegment(schedule.model_copy(update={"lr": 1e-4, "shape": "constant"}), groups, epochs=1)
    losses, numbers = LossMeter(lambda *_: None), itertools.count()
    labels = finished * size + torch.arange(len(images), device=images.device) % size
    asked: list[int] = []

    def query() -> Tensor:
        asked.append(1)
        return vit.features(images)

    def step() -> None:
        asked.clear()
        loss = method.training_step(Batch(images, labels, query if method.needs_query else None))
        segment.descend(loss, method)
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
    side, count = PRODUCT_SIZE.get(device.type, PRODUCT_SIZE_ELSEWHERE)
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


BARE, FROZEN, PRODUCT, COMPILED = "bare", "frozen pass", "matrix product", ", compiled"
WARM_UPS = 1
"""Beside the step that a method takes while it is made."""

Maker = Callable[[], TimedStep | None]


@dataclass(frozen=True)
class StepTimes:
    """One step over the repeats: seconds, and ratios to what it is held against.

    ``to_passes``: to plain timm doing the same number of passes, ``queries`` frozen ones beside the bare step.
    ``to_floor``: to the method's counted operations at the speed of the bare step; ``of_peak``: those operations a second over
    the matrix product's; None where they are not counted at this size. ``peak_mb``: of one step without other methods in
    memory, in MiB; on a CPU the resident memory of the whole process, backbone and libraries included. ``kept_mb``: all that
    the method keeps between tasks, in MiB; ``task_mb``: how much of it each further task of as many classes takes. None for
    what is no method.
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
    of_peak: Spread | None = None


@dataclass(frozen=True)
class ProductTimes:
    """A large matrix product over the repeats, in the precision of the steps: seconds, and 10^12 operations a second."""

    name: str
    seconds: Spread
    tera_per_s: Spread


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
    products: list[ProductTimes] = field(default_factory=list[ProductTimes])
    """One where operations are counted at this size, else none: nothing would be held against it."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Counted:
    """What ratios to counted operations need: images a step, and seconds and operations of the matrix product."""

    batch: int
    product: Sequence[float]
    operations: int


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
    place, dtype = torch.device(device), torch.bfloat16 if precision == "bf16" else torch.float32
    vit = registries.backbones.load(backbone).load().to(place)
    if precision == "bf16":
        vit.keep_products_in(torch.bfloat16)
    images = torch.rand(batch, 3, vit.image_size, vit.image_size, generator=torch.Generator().manual_seed(0)).to(place)
    make: dict[str, Maker] = {
        BARE: lambda: TimedStep(bare_step(vit, images)),
        FROZEN: lambda: TimedStep(frozen_pass(vit, images)),
        **makers(registries, methods, vit, images, finished),
    }
    with torch.autocast(place.type, dtype=torch.bfloat16, enabled=precision == "bf16", cache_enabled=False):
        make |= _compiled(make) if is_compiled else {}
        peaks = {name: _peak(maker, place) for name, maker in make.items()}
        steps = {name: step for name, maker in make.items() if peaks[name] is not None and (step := maker())}
        product, operations = product_step(place, dtype) if _is_counted(vit) else (None, 0)
        timed = {PRODUCT: product} if product else {}
        times = interleaved(
            {**timed, **{name: step.take for name, step in steps.items()}}, repeats, place, warm_ups=WARM_UPS
        )
    counted = Counted(batch, times[PRODUCT], operations) if product else None
    return StepReport(
        backbone=backbone,
        batch=batch,
        precision=precision,
        threads=torch.get_num_threads(),
        repeats=repeats,
        device=device_name(device),
        torch=torch.__version__,
        python=platform.python_version(),
        rows=[step_times(name, step, times, peaks[name] or 0.0, counted) for name, step in steps.items()],
        finished=finished,
        products=[product_times(counted)] if counted else [],
    )


def _is_counted(vit: PromptedViT) -> bool:
    """Whether operations are counted at this size: that of ViT-B/16 at 224 px."""
    return vit.depth == 12 and vit.feature_dim == 768 and vit.image_size == 224


def _compiled(make: Mapping[str, Maker]) -> dict[str, Maker]:
    """The same steps with compiled blocks, each under its name with ``COMPILED`` behind it."""
    pass  # REMOVED

    blocks = CompiledBlocks()

    def within(maker: Maker) -> Maker:
        def made() -> TimedStep | None:
            step = maker()
            return None if step is None else replace(step, take=lambda: blocks.call(step.take), is_warm=False)

        return made

    return {f"{name}{COMPILED}": within(maker) for name, maker in make.items()}


def _peak(maker: Maker, device: torch.device) -> float | None:
    """MiB at the peak of one step, the second at least, while no other step is in memory; None where there is no step."""
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
    """Give back what nothing refers to: the next step's peak would hold it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # other C libraries have no such call
        ctypes.CDLL(None).malloc_trim(0)


def step_times(
    name: str, step: TimedStep, times: Mapping[str, Sequence[float]], peak: float, counted: Counted | None
) -> StepTimes:
    """A row from the seconds of every step and what is known of this one."""
    mine, bare, frozen = times[name], times[BARE], times[FROZEN]
    passes = [one + step.queries * other for one, other in zip(bare, frozen, strict=True)]
    operations = None if counted is None else _operations(name.removesuffix(COMPILED), step)
    floor = of_peak = None
    if counted is not None and operations is not None:
        floor = ratios(mine, [one * operations / stored_counts().complete for one in bare])
        least = [one * counted.batch * operations / counted.operations for one in counted.product]
        of_peak = ratios(least, mine)
    return StepTimes(
        name=name,
        seconds=spread(mine),
        to_bare=ratios(mine, bare),
        queries=step.queries,
        to_passes=ratios(mine, passes),
        to_floor=floor,
        peak_mb=peak,
        kept_mb=step.kept_mb,
        task_mb=step.task_mb,
        of_peak=of_peak,
    )


def product_times(counted: Counted) -> ProductTimes:
    """The matrix product's own row."""
    rates = [counted.operations / one / 1e12 for one in counted.product]
    return ProductTimes(PRODUCT, spread(list(counted.product)), spread(rates))


def _operations(name: str, step: TimedStep) -> int | None:
    """Counted operations an image, the query pass included: of a method's phase, or of the bare step."""
    if name == BARE:
        return stored_counts().complete
    counts = stored_counts().methods.get(name)
    return None if counts is None else counts.phases.get(step.phase)


PARTS = ("_heads", "_leave_heads", "_residuals", "_class_token_block")
"""What of a block's code no attention rule changes. Rules stay as they are: they carry tensors of their own pass."""


class CompiledBlocks:
    """timm's blocks, and the method-independent parts of prompted ones, compiled once and put in place as often as asked.

    Each is compiled whole: what would fall back to running part of it as it is, is an error, not a slow measurement.
    """

    def __init__(self, backend: str = "inductor") -> None:
        places: list[tuple[Any, str]] = [(Block, "forward"), *((vit, name) for name in PARTS if hasattr(vit, name))]
        self._places = [
            (owner, name, torch.compile(getattr(owner, name), backend=backend, fullgraph=True))
            for owner, name in places
        ]

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it every transformer of this process runs compiled blocks."""
        plain = [(owner, name, getattr(owner, name)) for owner, name, _ in self._places]
        try:
            for owner, name, compiled in self._places:
                setattr(owner, name, compiled)
            yield
        finally:
            for owner, name, original in plain:
                setattr(owner, name, original)

    def call(self, step: Callable[[], None]) -> None:
        """Take a step on compiled blocks. Raises UserError where one of them cannot be compiled whole."""
        from torch._dynamo.exc import TorchDynamoException

        try:
            with self.in_place():
                step()
        except TorchDynamoException as error:
            raise UserError(f"--compile: a block cannot be compiled ({_reason(error)}); measure without it") from error


def require_compiler() -> None:
    """Compile something small. Raises UserError where torch.compile cannot work here, as without a C++ compiler."""
    try:
        torch.compile(lambda value: torch.nn.functional.gelu(value) + 1)(torch.zeros(2, 2))
    except Exception as error:  # the backends raise types of their own
        raise UserError(
            f"--compile: torch.compile does not work here ({_reason(error)}); measure without it"
        ) from error


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
