"""What the engine costs beside a method's arithmetic and I/O: a whole run under a clock that knows the one from the other.

The clock is put around the method's hooks, the optimiser, reading and transforming images, queries, and files, from outside:
the engine has no part in it. Everything else of the run's wall time is overhead, what could not be found included.
"""

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

from smope_bench.benchmarks.base import Benchmark, BenchmarkCard, BenchmarkConfig, ImageSet, Progress, Split, silent
from smope_bench.benchmarks.stream import View
from smope_bench.benchmarks.transforms.batch import Transforms
from smope_bench.harness.checkpointing.checkpoint import Checkpoints
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.run_spec import BackboneRef, Component, RunSpec
from smope_bench.harness.training.feature_cache import Queries
from smope_bench.harness.training.optimization import Stretch
from smope_bench.methods.common.api import Method
from smope_bench.methods.common.backbone.vit import PromptedViT
from smope_bench.methods.common.schedules import Schedule

HOOKS = ("__init__", "begin_task", "training_step", "apply_step", "end_task", "fit_task", "predict")
PLACES: Sequence[tuple[type, Sequence[str]]] = (
    (Stretch, ("__init__", "descend")),
    (torch.Tensor, ("backward", "item", "cpu")),  # the last two wait for an accelerator's arithmetic
    (View, ("take",)),
    (Future, ("result",)),  # images that were read ahead
    (Transforms, ("train", "test")),
    (Queries, ("of",)),
    (Checkpoints, ("load", "save", "forget")),
    (PromptedViT, ("features", "tokens", "forward")),
)
FUNCTIONS: Sequence[tuple[str, Sequence[str]]] = (
    ("smope_bench.harness.training.x_parts", ("load_backbone", "open_stream")),
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
    from smope_bench.harness.training import x_engine as engine

    options: dict[str, Any] = {} if on_event is None else {"on_event": on_event}
    with TemporaryDirectory() as folder, clocked(registries.methods.load(spec.method.name)) as clock:
        started = time.perf_counter()
        engine.run(spec, results_root=Path(folder), data_root=data, device=device, registries=registries, **options)
        return RunTime(time.perf_counter() - started, clock.seconds)


class Noise(Benchmark[BenchmarkConfig]):
    """Two classes of seeded noise at any size: a run that is short on a large backbone."""

    name: ClassVar[str] = "bench-noise"
    card: ClassVar[BenchmarkCard] = BenchmarkCard("Noise", "made by the measurement", "none", "synthetic")

    def prepare(self, progress: Progress = silent, given: Sequence[Path] = ()) -> None:
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
