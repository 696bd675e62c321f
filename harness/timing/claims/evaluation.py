"""Timing of evaluation with and without kept queries, and of classifier alignment."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from smope_bench.benchmarks.base import BenchmarkConfig
from smope_bench.benchmarks.stream import Stream, Task, View
from smope_bench.harness.cost.counting.method_walk import make_method
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.timing.measure import interleaved
from smope_bench.harness.timing.records import Row, make_row, ratios, spread
from smope_bench.harness.training.batches.data import features_of
from smope_bench.harness.training.batches.feature_cache import FrozenFeatureCache
from smope_bench.harness.training.evaluator import Evaluator
from smope_bench.methods.common.alignment.class_stats import ClassStatistics, Covariance
from smope_bench.methods.common.alignment.tap import TapConfig, align
from smope_bench.methods.common.api import Method, TaskInfo
from smope_bench.methods.common.backbone.backbones import Backbone
from smope_bench.methods.common.vit.vit import PromptedViT

TASKS = 10


def bench_eval(
    registries: Registries, methods: list[str], *, backbone: Backbone, images: int, repeats: int, device: str
) -> list[Row]:
    """Time all evaluations of a run of ten tasks, ``images`` test images a task, for methods that use queries at test.

    ``uncached_s``: seconds where every evaluation computes its queries, ``images`` x (1 + 2 + … + 10) of them. ``cold``: the
    ratio to it where queries are computed once and kept; ``warm``: where an earlier run has kept them. All compute queries in
    batches of a task's test images, so that only the number of passes differs.
    """
    place = torch.device(device)
    vit = backbone.load().to(place)
    rows = list[Row]()
    with TemporaryDirectory() as folder:
        stream = noise_stream(vit.image_size, images)
        for name in methods:
            method_class = registries.methods.load(name)
            if not method_class.needs_query:
                continue
            method, tasks = make_method(method_class, name, vit, stream.num_classes, TASKS)
            if not method.trains_jointly and not method.is_closed_form:
                rows.append(_times(name, method.to(place), tasks, stream, vit, repeats, Path(folder), place))
    return rows


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
) -> Row:
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
    whole_run(kept(folder), 1)  # a short warm-up that also fills the cache of the "warm" runs
    times = interleaved(runs, repeats, device, warm_ups=0)
    uncached = times["uncached"]
    cold_ratio, warm_ratio = (ratios(times[kind], uncached) for kind in ("cold", "warm"))
    return make_row(name, uncached_s=spread(uncached), cold=cold_ratio, warm=warm_ratio)


class _Batches:
    """A backbone that computes frozen features in batches of ``size`` images, whatever number it is given."""

    def __init__(self, vit: PromptedViT, size: int) -> None:
        self._vit, self._size = vit, size

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vit, name)

    def features(self, images: Tensor) -> Tensor:
        """Features (n, feature_dim) of images (n, channels, side, side)."""
        return torch.cat([self._vit.features(part) for part in images.split(self._size)])


def bench_tap(*, repeats: int, device: str, classes: int = 200, dim: int = 768, epochs: int = 50) -> list[Row]:
    """Time the alignment of a head over the statistics of ``classes`` classes, all but one task's of them old."""
    place, rows = torch.device(device), list[Row]()
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
        old = classes - classes // TASKS
        take = partial(align, head, statistics, old_classes=old, seen_classes=classes, config=config)
        seconds = spread(interleaved({kind: take}, repeats, place, warm_ups=1)[kind])
        rows.append(make_row(f"{kind} covariances", classes=classes, dim=dim, epochs=epochs, seconds=seconds))
    return rows
