"""Timing of sweeps: the dispatch of a run, the trainer's own share of a run, and small runs in parallel."""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import torch

from smope_bench.benchmarks.base import (
    Benchmark,
    BenchmarkCard,
    BenchmarkConfig,
    ImageSet,
    ProgressCallback,
    Split,
    silent,
)
from smope_bench.benchmarks.stream import View
from smope_bench.harness.checkpointing.checkpoint import Checkpoints
from smope_bench.harness.errors import UserError
from smope_bench.harness.execution.scheduler import execute
from smope_bench.harness.planning.assets import prepare_benchmarks
from smope_bench.harness.planning.planner import PlannedRun, plan
from smope_bench.harness.planning.selection import Selection
from smope_bench.harness.planning.settings import Seeds
from smope_bench.harness.planning.suites.find import find_suite
from smope_bench.harness.registry.registry import Registries, open_registries
from smope_bench.harness.run_options import RunContext, RunOptions
from smope_bench.harness.run_spec import BackboneRef, Component, RunSpec
from smope_bench.harness.timing.records import Row, make_row, ratios, spread
from smope_bench.harness.training.batches.feature_cache import FrozenFeatureCache
from smope_bench.harness.training.batches.feeder import Making
from smope_bench.harness.training.optimization import OptimizationSegment
from smope_bench.methods.common.api import Method
from smope_bench.methods.common.backbone.backbones import Backbone
from smope_bench.methods.common.schedules import Schedule
from smope_bench.methods.common.vit.vit import PromptedViT

COMPUTED_S = 0.05


def empty_run(*_: Any) -> None:
    """An empty run: all that is left is its dispatch."""


def busy_run(*_: Any) -> None:
    """A run that uses ``COMPUTED_S`` seconds of CPU time."""
    started, total = time.process_time(), 0
    while time.process_time() - started < COMPUTED_S:
        total += sum(range(1000))


HOOKS = ("__init__", "begin_task", "training_step", "apply_step", "end_task", "fit_task", "predict")
PLACES: Sequence[tuple[type, Sequence[str]]] = (
    (OptimizationSegment, ("__init__", "descend")),
    (torch.Tensor, ("backward", "item", "cpu")),  # the last two wait for an accelerator
    (View, ("take",)),
    (Making, ("made",)),
    (FrozenFeatureCache, ("of",)),
    (Checkpoints, ("load", "save", "forget")),
    (PromptedViT, ("features", "tokens", "forward")),
)
FUNCTIONS: Sequence[tuple[str, Sequence[str]]] = (
    ("smope_bench.harness.training.batches.data", ("load_backbone", "open_stream")),
    ("smope_bench.harness.records.atomic_write", ("write_atomically",)),
    ("smope_bench.harness.records.observations", ("write_observations", "npz_bytes")),
    ("safetensors.torch", ("save", "load")),
)
"""Functions by module; they are also replaced in the modules that have imported them."""
TASKS, IMAGES, TESTS = 2, 16, 8


@dataclass(frozen=True)
class RunTime:
    """Seconds of a run (``wall``), and of its arithmetic and I/O (``inside``)."""

    wall: float
    inside: float

    @property
    def percent(self) -> float:
        """Overhead, in percent of the wall time."""
        return 100 * (1 - self.inside / self.wall)


class Clock:
    """Seconds that one thread spends in the timed functions; nested calls count once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0
        self._thread = threading.get_ident()

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, with the time of its calls added."""

        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            if self._depth or threading.get_ident() != self._thread:
                return function(*arguments, **named)
            self._depth, started = 1, time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds += time.perf_counter() - started
                self._depth = 0

        return call


@contextlib.contextmanager
def clocked(method_class: type[Method]) -> Iterator[Clock]:
    """A clock around all functions that are not overhead (``HOOKS``, ``PLACES``, ``FUNCTIONS``), for the length of the block."""
    clock = Clock()
    with ExitStack() as undo:
        # Only hooks that the method overrides: the trainer behaves differently where one is overridden.
        hooks = [name for name in HOOKS if getattr(method_class, name) is not getattr(Method, name)]
        for owner, names in ((method_class, hooks), *PLACES):
            for name in names:
                if hasattr(owner, name):
                    _replace(undo, owner, name, clock.timed(getattr(owner, name)))
        for module, names in FUNCTIONS:
            for name in names:
                original = getattr(sys.modules.get(module), name, None)
                if original is not None:
                    _replace_everywhere(undo, original, clock.timed(original))
        yield clock


def _replace_everywhere(undo: ExitStack, original: object, timed: object) -> None:
    """Replace a function in every module of the harness that has imported it."""
    for name, module in list(sys.modules.items()):
        if name.startswith("smope_bench.harness."):
            for key in [key for key, value in vars(module).items() if value is original]:
                _replace(undo, module, key, timed)


def _replace(undo: ExitStack, owner: Any, name: str, value: object) -> None:
    """Set an attribute; closing ``undo`` restores it, or removes it where it was inherited."""
    own = vars(owner)
    if name in own:
        undo.callback(setattr, owner, name, own[name])
    else:
        undo.callback(delattr, owner, name)
    setattr(owner, name, value)


def timed_run(
    spec: RunSpec,
    registries: Registries,
    data: Path,
    device: str,
    on_event: Callable[[dict[str, Any]], None] | None = None,
) -> RunTime:
    """Time a whole run, from loading the backbone to the published record, in a temporary results folder."""
    from smope_bench.harness.training import trainer

    context = RunContext() if on_event is None else RunContext(emit=on_event)
    with TemporaryDirectory() as folder, clocked(registries.methods.load(spec.method.name)) as clock:
        started = time.perf_counter()
        trainer.run(spec, RunOptions(Path(folder), data, device, keep=False), context, registries)
        return RunTime(time.perf_counter() - started, clock.seconds)


class Noise(Benchmark[BenchmarkConfig]):
    """Two classes of seeded noise of any size: short runs even on a large backbone."""

    name: ClassVar[str] = "bench-noise"
    card: ClassVar[BenchmarkCard] = BenchmarkCard("Noise", "made by the measurement", "none", "synthetic")

    def prepare(self, progress: ProgressCallback = silent, given: Sequence[Path] = ()) -> None:
        """Nothing to do."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Numbered names."""
        return tuple(f"noise {number}" for number in range(TASKS))

    def image_set(self, split: Split) -> ImageSet:
        """Seeded pixels, equal at every call."""
        count, side = (IMAGES if split == "train" else TESTS), self.config.image_size
        pixels = np.random.default_rng(count).integers(0, 256, (TASKS * count, side, side, 3), dtype=np.uint8)
        return ImageSet(pixels, np.repeat(np.arange(TASKS), count).astype(np.int64))


def noise_spec(method: str, backbone: Backbone, registries: Registries, precision: Any = "fp32") -> RunSpec:
    """A run of two tasks of one epoch, with 4 images a step and the method's default settings."""
    if Noise.name not in registries.benchmarks.names():
        registries.benchmarks.add(Noise.name, "the bench", Noise)
    config = registries.methods.load(method).Config()
    return RunSpec(
        method=Component(name=method, config=config.model_dump(mode="json")),
        benchmark=Component(name=Noise.name, config={"tasks": TASKS, "image_size": backbone.image_size}),
        backbone=BackboneRef(name=backbone.name, sha256=backbone.sha256),
        schedule=Schedule(batch_size=4, epochs=1).model_dump(mode="json"),
        precision=precision,
    )


SUITE = "smoke"
RUNNERS = "smope_bench.harness.timing.claims.sweep"
COMPUTING_RUNS = 40
"""Runs per worker, of ``COMPUTED_S`` seconds each."""
RUNS_PACKED = 2
"""Small runs per worker."""


@dataclass(frozen=True)
class Dispatched:
    """Seconds of one sweep: until the first run ended, between two ends in its middle half, and in all (``wall``).

    ``under_way``: from the first run's own start to the last one's end.
    """

    start: float
    each: float
    wall: float
    under_way: float


@dataclass(frozen=True)
class SweepBench:
    """Options of the measurement; sweeps with ``workers`` workers are compared with sweeps with one."""

    data: Path
    device: str
    threads: int
    workers: int
    repeats: int
    plugins: tuple[Path, ...] = ()

    def rows(self, methods: Sequence[str], backbone: Backbone, runs: int) -> list[Row]:
        """All rows: dispatch of ``runs`` empty runs, overhead of a small run and of one on ``backbone``, packing."""
        registries = open_registries(self.plugins)
        names = methods or [first_trained(registries)]
        planned = self.small_runs(names, registries)
        rows = self.dispatch(runs)
        for name in names:
            small = next(run.spec for run in planned if run.method == name)
            rows.append(self.overhead(f"{name} on digits, tiny", small, registries, warm_ups=1))
            large = noise_spec(name, backbone, registries)
            rows.append(self.overhead(f"{name} on noise, {backbone.name}", large, registries))
        return [*rows, self.packing(planned)]

    def dispatch(self, runs: int) -> list[Row]:
        """Empty runs with one worker and with several, and computing runs with several against one."""
        empty = self._in_turn(lambda side: self._dispatched(runs, side, "empty_run"), self.repeats)
        rows = [
            make_row(
                _workers("empty runs", side),
                _repeats_text(found),
                start_s=spread([one.start for one in found]),
                ms_a_run=spread([1000 * one.each for one in found]),
            )
            for side, found in empty.items()
        ]
        busy = self._in_turn(lambda side: self._dispatched(COMPUTING_RUNS * side, side, "busy_run"), self.repeats)
        faster = ratios([one.each for one in busy[1]], [one.each for one in busy[self.workers]])
        label = _workers(f"runs that compute for {1000 * COMPUTED_S:.0f} ms", self.workers)
        return [*rows, make_row(label, _repeats_text(busy[1]), times_one_worker=faster)]

    def overhead(self, label: str, spec: RunSpec, registries: Registries, warm_ups: int = 0) -> Row:
        """Share of the trainer in whole runs in this process."""
        runs = [timed_run(spec, registries, self.data, self.device) for _ in range(warm_ups + self.repeats)]
        found = runs[warm_ups:]
        return make_row(
            f"overhead: {label}",
            f"{len(found)} whole {'run' if len(found) == 1 else 'runs'}",
            percent=spread([one.percent for one in found]),
            ms=spread([1000 * (one.wall - one.inside) for one in found]),
            run_s=spread([one.wall for one in found]),
        )

    def packing(self, planned: Sequence[PlannedRun]) -> Row:
        """Small runs with one worker against several, with and without the start of the workers."""
        repeats = max(1, self.repeats // 3)  # each takes as long as all else together
        found = self._in_turn(lambda side: self._swept(planned, side), repeats)
        alone, packed = found[1], found[self.workers]
        return make_row(
            _workers(f"{len(planned)} small runs", self.workers),
            _repeats_text(packed),
            seconds=spread([one.wall for one in packed]),
            times_one_worker=ratios([one.wall for one in alone], [one.wall for one in packed]),
            times_one_worker_once_started=ratios([one.under_way for one in alone], [one.under_way for one in packed]),
        )

    def small_runs(self, methods: Sequence[str], registries: Registries) -> list[PlannedRun]:
        """Several seeds of suite ``SUITE``, with prepared data."""
        count = -(-RUNS_PACKED * self.workers // len(methods))
        chosen = Selection(methods=tuple(methods), seeds=tuple(Seeds(seed, seed) for seed in range(count)))
        planned = plan([SUITE], chosen, registries, self.data)
        prepare_benchmarks(planned, registries, self.data, lambda _: None)
        return planned

    def _in_turn(self, sweep: Callable[[int], Dispatched], repeats: int) -> dict[int, list[Dispatched]]:
        """Sweeps by number of workers, both in every repeat, after a warm-up that fills file and query caches for both."""
        found: dict[int, list[Dispatched]] = {1: [], self.workers: []}
        sweep(self.workers)
        for _ in range(repeats):
            for side, taken in found.items():
                taken.append(sweep(side))
        return found

    def _dispatched(self, runs: int, workers: int, runner: str) -> Dispatched:
        return self._swept([_empty_run(number) for number in range(runs)], workers, f"{RUNNERS}:{runner}")

    def _swept(self, planned: Sequence[PlannedRun], workers: int, runner: str = RunOptions.runner) -> Dispatched:
        """Execute the runs in a temporary results folder. Raises UserError for the first one that fails."""
        with TemporaryDirectory() as folder:
            options = RunOptions(
                results=Path(folder),
                data=self.data,
                device=self.device,
                executor="local",  # also with one worker, so that both use the same executor
                workers=workers,
                threads=self.threads,
                plugins=self.plugins,
                runner=runner,
            )
            started, ends, begun = time.perf_counter(), list[float](), list[float]()

            def listen(_: PlannedRun, event: dict[str, Any]) -> None:
                if event.get("event") == "run_started":
                    begun.append(time.perf_counter() - started)

            for status in execute(planned, options, listen):
                ends.append(time.perf_counter() - started)
                if status.state != "done":
                    raise UserError(f"a run of the bench is {status.state}: {status.error}")
        return Dispatched(ends[0], _pace(ends), ends[-1], ends[-1] - min(begun, default=0.0))


def first_trained(registries: Registries) -> str:
    """The first method of suite ``SUITE`` that trains in steps."""
    names = (row.method for row in find_suite(SUITE).rows)
    return next(name for name in names if registries.methods.load(name).fit_task is Method.fit_task)


def _pace(ends: Sequence[float]) -> float:
    """Mean seconds between ends in the middle half of a sweep, which leaves out its start and its last runs."""
    low, high = len(ends) // 4, max(3 * len(ends) // 4, len(ends) // 4 + 1)
    return (ends[high] - ends[low]) / (high - low)


def _repeats_text(found: Sequence[Dispatched]) -> str:
    repeats = "1 repeat" if len(found) == 1 else f"{len(found)} repeats"
    return f"{repeats}, one worker and several in turn, after a warm-up"


def _workers(what: str, count: int) -> str:
    return f"{what}, {count} {'worker' if count == 1 else 'workers'}"


def _empty_run(number: int) -> PlannedRun:
    """A planned run of no method; the runners ``empty_run`` and ``busy_run`` ignore it."""
    spec = RunSpec(
        method=Component(name="none"),
        benchmark=Component(name="none"),
        backbone=BackboneRef(name="none", sha256="none"),
        schedule={},
        train_seed=number,
    )
    return PlannedRun("bench", "none", "none", "none", spec)
