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
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from smope_bench.harness.cost.stored_counts import stored_counts
from smope_bench.harness.hardware.x_memory import PeakMemory
from smope_bench.harness.provenance import device_name
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.timing.measure import Spread, interleaved, ratios, spread
from smope_bench.harness.timing.x_bench_steps import TimedStep, bare_step, frozen_pass, makers, product_step
from smope_bench.methods.common.backbone.vit import PromptedViT

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
    from smope_bench.harness.timing.x_bench_compile import CompiledBlocks

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
