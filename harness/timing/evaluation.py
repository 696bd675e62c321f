"""Timed claims about evaluation and alignment: what the kept queries save, and how long classifier alignment takes."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from smope_bench.benchmarks.base import BenchmarkConfig
from smope_bench.benchmarks.stream import Stream, Task, View
from smope_bench.harness.cost.method_walk import make_method
from smope_bench.harness.provenance import device_name
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.timing.measure import Spread, interleaved, ratios, spread
from smope_bench.harness.training.data import features_of
from smope_bench.harness.training.evaluator import Evaluator
from smope_bench.harness.training.feature_cache import FrozenFeatureCache
from smope_bench.methods.common.alignment.class_stats import ClassStatistics, Covariance
from smope_bench.methods.common.alignment.tap import TapConfig, align
from smope_bench.methods.common.api import Method, TaskInfo
from smope_bench.methods.common.backbone.vit import PromptedViT

TASKS = 10


@dataclass(frozen=True)
class EvalTimes:
    """Seconds of the evaluations of a whole run, and how they compare with computing every query every time.

    ``cold``: queries are computed once and kept; ``warm``: an earlier run has kept them. In all of them queries are computed in
    batches of a task's test images, so that the saving is that of passes alone.
    """

    name: str
    uncached_s: Spread
    cold: Spread
    warm: Spread


@dataclass(frozen=True)
class EvalReport:
    """What was timed, on what, and how."""

    backbone: str
    tasks: int
    images: int
    repeats: int
    device: str
    threads: int
    torch: str
    python: str
    rows: list[EvalTimes]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def bench_eval(
    registries: Registries, methods: list[str], *, backbone: str, images: int, repeats: int, device: str
) -> EvalReport:
    """Time all evaluations of a run of ten tasks, ``images`` test images a task, for methods that ask for queries at test.

    A run without kept queries computes ``images`` x (1 + 2 + … + 10) of them, and shows the method as many images.
    """
    place = torch.device(device)
    vit = registries.backbones.load(backbone).load().to(place)
    asking = [name for name in methods if registries.methods.load(name).needs_query]
    rows = []
    with TemporaryDirectory() as folder:
        stream = noise_stream(vit.image_size, images)
        for name in asking:
            method, tasks = make_method(registries.methods.load(name), name, vit, stream.num_classes, TASKS)
            if not method.trains_jointly and not method.is_closed_form:
                rows.append(_times(name, method.to(place), tasks, stream, vit, repeats, Path(folder), place))
    count = sum(len(view) for view in stream.tests)
    threads = torch.get_num_threads()
    return EvalReport(
        backbone,
        TASKS,
        count,
        repeats,
        device_name(device),
        threads,
        torch.__version__,
        platform.python_version(),
        rows,
    )


def noise_stream(side: int, images: int) -> Stream:
    """Ten tasks of one class each, with ``images`` seeded test images a task and nothing to train on."""
    pixels = np.random.default_rng(0).integers(0, 256, (TASKS * images, side, side, 3), dtype=np.uint8)
    nothing = View(pixels[:0], np.zeros(0, np.int64), np.zeros(0, np.int64))
    tests = [
        View(pixels, np.arange(task * images, (task + 1) * images), np.full(images, task)) for task in range(TASKS)
    ]
    tasks = tuple(
        Task(index, range(index, index + 1), (f"noise {index}",), nothing, nothing, test)
        for index, test in enumerate(tests)
    )
    names, config = tuple(f"noise {index}" for index in range(TASKS)), BenchmarkConfig(tasks=TASKS, image_size=side)
    return Stream(tasks, tuple(tests), tuple(range(TASKS)), names, "noise", config, f"noise of {len(pixels)} images")


def _times(
    name: str,
    method: Method,
    tasks: list[TaskInfo],
    stream: Stream,
    vit: PromptedViT,
    repeats: int,
    folder: Path,
    device: torch.device,
) -> EvalTimes:
    batches = _Batches(vit, len(stream.tests[0]))

    def computed(view: View) -> Tensor:
        return features_of(view, stream.transforms, batches.features, device)

    def whole_run(queries: Callable[[View], Tensor], count: int = TASKS, *, forget: bool = False) -> None:
        own = Evaluator(method, stream, device, queries)
        for task, info in list(zip(stream.tasks, tasks, strict=True))[:count]:
            method.enter_task(info)
            own.measure(task)
            own = Evaluator(method, stream, device, queries) if forget else own

    def kept(where: Path) -> Callable[[View], Tensor]:
        return FrozenFeatureCache(cast("PromptedViT", batches), stream, device, where, name, "fp32").of

    def cold() -> None:
        with TemporaryDirectory(dir=folder) as fresh:
            whole_run(kept(Path(fresh)))

    runs: dict[str, Callable[[], object]] = {
        "uncached": lambda: whole_run(computed, forget=True),
        "cold": cold,
        "warm": lambda: whole_run(kept(folder)),
    }
    for task in tasks:
        method.enter_task(task)
        method.begin_task(task)
    method.eval()
    whole_run(
        kept(folder), 1
    )  # a warm-up that keeps what later runs find; whole ones would take as long as the measurement
    times = interleaved(runs, repeats, device, warm_ups=0)
    uncached = times["uncached"]
    return EvalTimes(name, spread(uncached), ratios(times["cold"], uncached), ratios(times["warm"], uncached))


class _Batches:
    """A backbone whose frozen passes take so many images at a time, however many they are asked for."""

    def __init__(self, vit: PromptedViT, size: int) -> None:
        self._vit, self._size = vit, size

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vit, name)

    def features(self, images: Tensor) -> Tensor:
        """Features (n, feature_dim) of images (n, channels, side, side)."""
        return torch.cat([self._vit.features(part) for part in images.split(self._size)])


@dataclass(frozen=True)
class TapTimes:
    """Seconds of one classifier alignment."""

    covariance: str
    classes: int
    dim: int
    epochs: int
    seconds: Spread


def bench_tap(*, repeats: int, device: str, classes: int = 200, dim: int = 768, epochs: int = 50) -> list[TapTimes]:
    """Time the alignment of a head over the statistics of ``classes`` classes, all but a task of them old."""
    place, rows = torch.device(device), []
    kinds: tuple[Covariance, ...] = ("diag", "full")
    for kind in kinds:
        config = TapConfig(epochs=epochs, cov=kind)
        statistics = ClassStatistics(classes, dim, kind)
        statistics.mean.copy_(torch.randn(classes, dim))
        variance = torch.rand(classes, dim) + 0.5
        statistics.covariance.copy_(variance if kind == "diag" else torch.diag_embed(variance))
        statistics.count.fill_(100)
        head = nn.Linear(dim, classes).to(place)
        statistics.to(place)

        def take(statistics: ClassStatistics = statistics, head: nn.Linear = head, config: TapConfig = config) -> None:
            align(head, statistics, old_classes=classes - classes // TASKS, seen_classes=classes, config=config)

        times = interleaved({kind: take}, repeats, place, warm_ups=1)
        rows.append(TapTimes(kind, classes, dim, epochs, spread(times[kind])))
    return rows
