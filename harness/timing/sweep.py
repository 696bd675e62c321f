"""Timed claims about sweeps: what it costs to dispatch a run, what the engine costs in it, and small runs side by side."""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
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
from smope_bench.benchmarks.transforms.batch import Transforms
from smope_bench.harness.checkpointing.checkpoint import Checkpoints
from smope_bench.harness.errors import UserError
from smope_bench.harness.execution.scheduler import execute
from smope_bench.harness.planning.assets import prepare_benchmarks
from smope_bench.harness.planning.planner import PlannedRun, Selection, find_suite, plan
from smope_bench.harness.planning.settings import Seeds
from smope_bench.harness.registry.registry import Registries, open_registries
from smope_bench.harness.run_options import RunContext, RunOptions
from smope_bench.harness.run_spec import BackboneRef, Component, RunSpec
from smope_bench.harness.timing.measure import ratios, spread
from smope_bench.harness.timing.records import StoredRow, named_row
from smope_bench.harness.training.feature_cache import FrozenFeatureCache
from smope_bench.harness.training.optimization import OptimizationSegment
from smope_bench.methods.common.api import Method
from smope_bench.methods.common.backbone.vit import PromptedViT
from smope_bench.methods.common.schedules import Schedule

COMPUTED_S = 0.05


def nothing(*_: Any) -> None:
    """A run that ends as it begins: what is left is its dispatch."""


def computing(*_: Any) -> None:
    """A run that keeps a core busy for ``COMPUTED_S`` seconds of its own time, however many others are at it."""
    started, total = time.process_time(), 0
    while time.process_time() - started < COMPUTED_S:
        total += sum(range(1000))


HOOKS = ("__init__", "begin_task", "training_step", "apply_step", "end_task", "fit_task", "predict")
PLACES: Sequence[tuple[type, Sequence[str]]] = (
    (OptimizationSegment, ("__init__", "descend")),
    (torch.Tensor, ("backward", "item", "cpu")),  # the last two wait for an accelerator's arithmetic
    (View, ("take",)),
    (Future, ("result",)),  # images that were read ahead
    (Transforms, ("train", "test")),
    (FrozenFeatureCache, ("of",)),
    (Checkpoints, ("load", "save", "forget")),
    (PromptedViT, ("features", "tokens", "forward")),
)
FUNCTIONS: Sequence[tuple[str, Sequence[str]]] = (
    ("smope_bench.harness.training.data", ("load_backbone", "open_stream")),
    ("smope_bench.harness.records.store", ("write_bytes",)),
    ("smope_bench.harness.records.observations", ("write_observations", "npz_bytes")),
    ("safetensors.torch", ("save", "load")),
)
"""Functions of modules, wherever the harness has imported them to."""
TASKS, IMAGES, TESTS = 2, 16, 8


@dataclass(frozen=True)
class RunTime:
    """Seconds of a run, and of its arithmetic and I/O."""

    wall: float
    inside: float

    @property
    def percent(self) -> float:
        """The rest, in percent of the wall time."""
        return 100 * (1 - self.inside / self.wall)


class Clock:
    """Seconds that one thread spends in what is timed; nested calls count once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0
        self._thread = threading.get_ident()

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function`` with its time added."""

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
    """A clock around all that is not overhead, until the block is left."""
    clock = Clock()
    with ExitStack() as undo:
        # A hook that is not overridden must stay so: whether it is decides what the engine does.
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
    """In every module of the harness that has imported it."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "harness":
            for key in [key for key, value in vars(module).items() if value is original]:
                _replace(undo, module, key, timed)


def _replace(undo: ExitStack, owner: Any, name: str, value: object) -> None:
    """Set an attribute, and set or remove it again when ``undo`` closes: inherited ones were not the owner's."""
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
    """One whole run, from loading the backbone to its published record, in a results folder of its own."""
    from smope_bench.harness.training import trainer as engine

    context = RunContext() if on_event is None else RunContext(emit=on_event)
    with TemporaryDirectory() as folder, clocked(registries.methods.load(spec.method.name)) as clock:
        started = time.perf_counter()
        engine.run(spec, RunOptions(Path(folder), data, device), context, registries)
        return RunTime(time.perf_counter() - started, clock.seconds)


class Noise(Benchmark[BenchmarkConfig]):
    """Two classes of seeded noise at any size: a run that is short on a large backbone."""

    name: ClassVar[str] = "bench-noise"
    card: ClassVar[BenchmarkCard] = BenchmarkCard("Noise", "made by the measurement", "none", "synthetic")

    def prepare(self, progress: ProgressCallback = silent, given: Sequence[Path] = ()) -> None:
        """Nothing to do."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Numbered names."""
        return tuple(f"noise {number}" for number in range(TASKS))

    def image_set(self, split: Split) -> ImageSet:
        """The same pixels at every call."""
        count, side = (IMAGES if split == "train" else TESTS), self.config.image_size
        pixels = np.random.default_rng(count).integers(0, 256, (TASKS * count, side, side, 3), dtype=np.uint8)
        return ImageSet(pixels, np.repeat(np.arange(TASKS), count).astype(np.int64))


def noise_spec(method: str, backbone: str, registries: Registries, precision: Any = "fp32") -> RunSpec:
    """One epoch of steps of 4 images in each of two tasks, on any backbone, with the method's default settings."""
    if Noise.name not in registries.benchmarks.names():
        registries.benchmarks.add(Noise.name, "the bench", Noise)
    found = registries.backbones.load(backbone)
    config = registries.methods.load(method).Config()
    return RunSpec(
        method=Component(name=method, config=config.model_dump(mode="json")),
        benchmark=Component(name=Noise.name, config={"tasks": TASKS, "image_size": found.image_size}),
        backbone=BackboneRef(name=backbone, sha256=found.sha256),
        schedule=Schedule(batch_size=4, epochs=1).model_dump(mode="json"),
        precision=precision,
    )


SUITE = "smoke"
RUNNERS = "smope_bench.harness.timing.sweep"
COMPUTING_RUNS = 40
"""A worker, of ``COMPUTED_S`` seconds each."""
RUNS_PACKED = 2
"""Small runs a worker."""


@dataclass(frozen=True)
class Dispatched:
    """Seconds until the first run ended, and between two ends in the middle of the sweep; the whole sweep's wall time.

    ``under_way``: from the first run's start, as it says itself, to the last one's end.
    """

    start: float
    each: float
    wall: float
    under_way: float


@dataclass(frozen=True)
class SweepBench:
    """How all parts are measured: ``data`` prepared or to be prepared, ``workers`` beside one, ``threads`` a run."""

    data: Path
    device: str
    threads: int
    workers: int
    repeats: int
    plugins: tuple[Path, ...] = ()

    def rows(self, methods: Sequence[str], backbone: str, runs: int) -> list[StoredRow]:
        """Everything: dispatch of ``runs`` empty runs, overhead of a small run and of one on ``backbone``, packing."""
        registries = open_registries(self.plugins)
        names = methods or [first_trained(registries)]
        planned = self.small_runs(names, registries)
        rows = self.dispatch(runs)
        for name in names:
            small = next(run.spec for run in planned if run.method == name)
            rows.append(self.overhead(f"{name} on digits, tiny", small, registries, warm_ups=1))
            large = noise_spec(name, backbone, registries)
            rows.append(self.overhead(f"{name} on noise, {backbone}", large, registries))
        return [*rows, self.packing(planned)]

    def dispatch(self, runs: int) -> list[StoredRow]:
        """Empty runs with one worker and with several, and runs that only compute: several against one."""
        empty = self._in_turn(lambda side: self._dispatched(runs, side, "nothing"), self.repeats)
        rows = [
            named_row(
                _workers("empty runs", side),
                {
                    "start_s": spread([one.start for one in found]),
                    "ms_a_run": spread([1000 * one.each for one in found]),
                },
                _in_words(found),
            )
            for side, found in empty.items()
        ]
        busy = self._in_turn(self._computed, self.repeats)
        faster = ratios([one.each for one in busy[1]], [one.each for one in busy[self.workers]])
        label = f"runs that compute for {1000 * COMPUTED_S:.0f} ms"
        return [*rows, named_row(_workers(label, self.workers), {"times_one_worker": faster}, _in_words(busy[1]))]

    def overhead(self, label: str, spec: RunSpec, registries: Registries, warm_ups: int = 0) -> StoredRow:
        """Of whole runs in this process."""
        found: list[RunTime] = []
        for repeat in range(-warm_ups, self.repeats):
            one = timed_run(spec, registries, self.data, self.device)
            found += [one] if repeat >= 0 else []
        return named_row(
            f"overhead: {label}",
            {
                "percent": spread([one.percent for one in found]),
                "ms": spread([1000 * (one.wall - one.inside) for one in found]),
                "run_s": spread([one.wall for one in found]),
            },
            f"{len(found)} whole {'run' if len(found) == 1 else 'runs'}",
        )

    def packing(self, planned: Sequence[PlannedRun]) -> StoredRow:
        """The same small runs with one worker and with several, with and without the start of the workers."""
        repeats = max(1, self.repeats // 3)  # each takes as long as all else together
        found = self._in_turn(lambda side: self._swept(planned, side), repeats)
        alone, packed = found[1], found[self.workers]
        whole = ratios([one.wall for one in alone], [one.wall for one in packed])
        started = ratios([one.under_way for one in alone], [one.under_way for one in packed])
        return named_row(
            _workers(f"{len(planned)} small runs", self.workers),
            {
                "seconds": spread([one.wall for one in packed]),
                "times_one_worker": whole,
                "times_one_worker_once_started": started,
            },
            _in_words(packed),
        )

    def small_runs(self, methods: Sequence[str], registries: Registries) -> list[PlannedRun]:
        """Some seeds of the small suite, with their data prepared."""
        count = -(-RUNS_PACKED * self.workers // len(methods))
        chosen = Selection(methods=tuple(methods), seeds=tuple(Seeds(seed, seed) for seed in range(count)))
        planned = plan([SUITE], chosen, registries, self.data)
        prepare_benchmarks(planned, registries, self.data, lambda _: None)
        return planned

    def _in_turn(self, sweep: Callable[[int], Dispatched], repeats: int) -> dict[int, list[Dispatched]]:
        """Sweeps by number of workers, both in every repeat, after one that leaves files read and queries kept for both."""
        found: dict[int, list[Dispatched]] = {1: [], self.workers: []}
        sweep(self.workers)
        for _ in range(repeats):
            for side, taken in found.items():
                taken.append(sweep(side))
        return found

    def _computed(self, workers: int) -> Dispatched:
        return self._dispatched(COMPUTING_RUNS * workers, workers, "computing")

    def _dispatched(self, runs: int, workers: int, runner: str) -> Dispatched:
        return self._swept([_empty_run(number) for number in range(runs)], workers, f"{RUNNERS}:{runner}")

    def _swept(self, planned: Sequence[PlannedRun], workers: int, runner: str = RunOptions.runner) -> Dispatched:
        """Do the runs in a results folder of their own. Raises UserError for the first one that fails."""
        with TemporaryDirectory() as folder:
            options = RunOptions(
                results=Path(folder),
                data=self.data,
                device=self.device,
                executor="local",  # also with one worker: both sides go the same way
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
    """The first method of the small suite that trains in steps."""
    names = (row.method for row in find_suite(SUITE).rows)
    return next(name for name in names if registries.methods.load(name).fit_task is Method.fit_task)


def _pace(ends: Sequence[float]) -> float:
    """Seconds from end to end in the middle half of a sweep: neither starting nor running out of work counts."""
    low, high = len(ends) // 4, max(3 * len(ends) // 4, len(ends) // 4 + 1)
    return (ends[high] - ends[low]) / (high - low)


def _in_words(found: Sequence[Dispatched]) -> str:
    repeats = "1 repeat" if len(found) == 1 else f"{len(found)} repeats"
    return f"{repeats}, one worker and several in turn, after a warm-up"


def _workers(what: str, count: int) -> str:
    return f"{what}, {count} {'worker' if count == 1 else 'workers'}"


def _empty_run(number: int) -> PlannedRun:
    """Planned without a method: the runners of this bench look at nothing."""
    spec = RunSpec(
        method=Component(name="none"),
        benchmark=Component(name="none"),
        backbone=BackboneRef(name="none", sha256="none"),
        schedule={},
        train_seed=number,
    )
    return PlannedRun("bench", "none", "none", "none", spec)
