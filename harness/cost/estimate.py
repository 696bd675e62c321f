"""Estimated cost of a run: passes over images, operations, and seconds at a named throughput.

Operations are the executed counts of ``stored_counts``, scaled to the backbone. Work without images (classifier alignment,
optimiser) and differences between settings of one method are left out. Apart from the throughput, accurate to about 10 %.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smope_bench.benchmarks.base import SPLITS, Benchmark, Protocol, Split
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.harness.cost.stored_counts import StoredCounts, stored_counts
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.run_spec import BackboneRef, Component, RunSpec, canonical_json
from smope_bench.methods.common.backbone.backbones import VIT_B16, RandomBackbone

NARROW = RandomBackbone("narrow", "", VIT_B16 | {"embed_dim": 12, "img_size": 32})
"""On which the phases of a method are counted."""


def trained_on(images: int, spec: RunSpec) -> int:
    """Training images less those that a run holds out."""
    return round(images * (1 - float(spec.benchmark.config.get("holdout") or 0.0)))


@dataclass(frozen=True)
class ImageCounts:
    """Images that a benchmark's stream uses; ``prepared``: counted on disk, otherwise published numbers."""

    train: int
    test: int
    prepared: bool
    protocol: Protocol = "class"


@dataclass(frozen=True)
class Work:
    """Work of a whole run: training images over all epochs and phases, and operations of training and evaluation."""

    image_passes: int
    train_flops: float
    test_flops: float

    @property
    def flops(self) -> float:
        """All operations."""
        return self.train_flops + self.test_flops


class Estimator:
    """Estimates for one plan; benchmarks and methods are made once per distinct configuration."""

    def __init__(self, registries: Registries, data: Path, stored: StoredCounts | None = None) -> None:
        self._registries, self._data = registries, data
        self._stored = stored or stored_counts()
        self._images: dict[str, ImageCounts | None] = {}
        self._epochs: dict[str, Mapping[str, float] | None] = {}
        self._ensembles: dict[str, list[int]] = {}
        self._statistics: dict[str, float] = {}
        """Mean ``statistics_passes`` of a task."""
        self._scales: dict[str, float] = {}
        self._narrow: Any = None

    def work(self, spec: RunSpec) -> Work | None:
        """The work of a run; None where the number of the benchmark's images is unknown."""
        images = self.images(spec.benchmark)
        if images is None:
            return None
        train = trained_on(images.train, spec)
        method, stored = self._registries.methods.load(spec.method.name), self._stored
        counts = stored.methods.get(spec.method.name)
        query = stored.forward if method.needs_query else 0
        epochs = self._phase_epochs(spec)
        if epochs is None:  # closed form: one pass over the frozen features
            passes, operations = float(train), float(train * stored.forward)
        else:
            passes = train * sum(epochs.values())
            step = stored.forward + stored.backward + query
            each = {name: (counts.phases.get(name, step) if counts else step) for name in epochs}
            operations = sum(train * epochs[name] * each[name] for name in epochs)
            operations += train * stored.forward * self._statistics[self._key(spec)]
        scale = self.scale(spec.backbone)
        tests = images.test * self._test_passes(spec, method, images.protocol)
        query_pass = stored.forward if (counts.queries_at_test if counts else method.needs_query) else 0
        ensemble = self._ensembles.get(self._key(spec), [1])
        predicting = counts.test - query_pass if counts else stored.forward * ensemble[-1]
        predicting *= _mean_share(ensemble)
        # Frozen queries are computed once an image and kept.
        tested = tests * predicting + images.test * query_pass
        return Work(round(passes), scale * operations, scale * tested)

    def is_closed_form(self, spec: RunSpec) -> bool:
        """Whether the method of a run is fitted in closed form, not trained by steps."""
        return self._phase_epochs(spec) is None

    def images(self, component: Component) -> ImageCounts | None:
        """Images of a benchmark: counted where its data is prepared, else the published numbers. Downloads nothing."""
        key = component.model_dump_json()
        if key not in self._images:
            self._images[key] = count_images(self._registries, component, self._data)
        return self._images[key]

    def scale(self, backbone: BackboneRef) -> float:
        """A backbone's pass relative to ViT-B/16's, by the published closed form."""
        key = backbone.model_dump_json()
        if key not in self._scales:
            from smope_bench.harness.cost.counting.flop_counters import plain_published_pass, published_pass
            from smope_bench.harness.planning.outline import plain_sizes

            found = self._registries.backbone(backbone, self._data)
            sizes = plain_sizes(found)
            operations = published_pass(found.skeleton()) if sizes is None else plain_published_pass(sizes)
            self._scales[key] = operations / self._stored.published_pass
        return self._scales[key]

    def _test_passes(self, spec: RunSpec, method: Any, protocol: Protocol) -> float:
        """Mean evaluations per test image, for equal tasks: once in joint training, else after its own task and every later one.

        Domains are tested on after the earlier ones too.
        """
        tasks = int(spec.benchmark.config.get("tasks") or 1)
        if method.trains_jointly:
            return 1.0
        return float(tasks) if protocol == "domain" else (tasks + 1) / 2

    def _phase_epochs(self, spec: RunSpec) -> Mapping[str, float] | None:
        """Mean epochs per task of each phase, for equal tasks; None for a method in closed form."""
        key = self._key(spec)
        if key not in self._epochs:
            self._epochs[key] = self._walked(spec)
        return self._epochs[key]

    def _key(self, spec: RunSpec) -> str:
        tasks = spec.benchmark.config.get("tasks")
        return canonical_json([spec.method.model_dump(), spec.schedule, tasks, spec.benchmark.name])

    def _walked(self, spec: RunSpec) -> Mapping[str, float] | None:
        import torch

        from smope_bench.harness.planning.outline import made_with_outline
        from smope_bench.methods.common.api import Method, Setup, TaskInfo
        from smope_bench.methods.common.schedules import Schedule

        method_class, schedule = self._registries.methods.load(spec.method.name), Schedule(**spec.schedule)
        if method_class.fit_task is not Method.fit_task:
            return None
        key = self._key(spec)
        tasks = 1 if method_class.trains_jointly else int(spec.benchmark.config.get("tasks") or 1)
        config, setup = method_class.Config(**spec.method.config), Setup(2 * tasks, tasks, schedule)

        def walk(vit: Any) -> Mapping[str, float]:
            found: dict[str, float] = {}
            ensemble = self._ensembles[key] = list[int]()
            self._statistics[key] = 0.0
            method = method_class(config, vit, setup)
            for index in range(tasks):
                task = TaskInfo(index, range(2 * index, 2 * index + 2), (1, 1))
                method.enter_task(task)
                method.begin_task(task)
                ensemble.append(method.passes_at_test)
                self._statistics[key] += method.statistics_passes / tasks
                for phase in method.phases():
                    found[phase.name] = found.get(phase.name, 0.0) + phase.epochs / tasks
            return found

        try:  # phases depend on settings and the task's number, not on the backbone's width
            with torch.random.fork_rng(devices=[]), _one_thread():
                return made_with_outline(walk, NARROW, self._skeleton)
        except Exception as error:
            is_built_in = self._registries.methods.owner(spec.method.name) == "built-in"
            if is_built_in and isinstance(error, AttributeError | ImportError | NameError | TypeError):
                raise
            # A plugin's method may need a real backbone; then assume one phase and one pass, as most methods have.
            self._ensembles.pop(key, None)
            self._statistics[key] = float(method_class.end_task is not Method.end_task)
            return {"train": float(schedule.epochs)}

    def _skeleton(self) -> Any:
        """The narrow backbone's modules, made once, as making them takes longer than a walk through the phases."""
        self._narrow = self._narrow or NARROW.skeleton()
        return self._narrow


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One thread of PyTorch within: for tensors this small, several wait for each other, for seconds on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _mean_share(passes: Sequence[int]) -> float:
    """Mean passes of a prediction, in those after the last task; after task t, from 1, all tasks up to it are tested."""
    weights = range(1, len(passes) + 1)
    return sum(weight * count for weight, count in zip(weights, passes, strict=True)) / (
        sum(weights) * max(1, passes[-1])
    )


def count_images(registries: Registries, component: Component, data: Path) -> ImageCounts | None:
    """Images of a benchmark, at most its ``limit`` of each class; see ``Estimator.images``."""
    counts = [count_split(registries, component, data, split) for split in SPLITS]
    limit, opened = component.config.get("limit"), _opened(registries, component, data)
    if all(counts):
        train, test = (int(count or 0) for count in counts)
        return ImageCounts(train, test, prepared=True, protocol=opened.protocol)
    expected = opened.expected_counts()
    if expected is None:
        return None
    groups = opened.num_classes * (len(opened.domain_order(0)) if opened.protocol == "domain" else 1)
    share = _learnt_share(opened)
    train, test = (round(share * (min(count, limit * groups) if limit else count)) for count in expected)
    return ImageCounts(train, test, prepared=False, protocol=opened.protocol)


def count_split(registries: Registries, component: Component, data: Path, split: Split) -> int | None:
    """Images of one split that the stream uses; None where the benchmark's data is not prepared.

    They are those of the chosen domains, where there are domains, and at most ``limit`` of each class of a domain; of a stream
    that stops before its last task, in proportion to the classes.
    """
    limit, opened = component.config.get("limit"), _opened(registries, component, data)
    try:
        images = opened.image_set(split)
        groups = images.labels
        if images.domains is not None:
            used = np.isin(images.domains, opened.domain_order(0))
            groups = (images.domains * opened.num_classes + images.labels)[used]
    except (BenchmarkError, OSError):
        return None
    count = len(groups) if limit is None else int(np.minimum(np.bincount(groups), limit).sum())
    return round(_learnt_share(opened) * count)


def _learnt_share(opened: Benchmark[Any]) -> float:
    """The share of a benchmark's classes, or domains, that is learnt where its stream stops early."""
    if opened.config.stop_after is None:
        return 1.0
    return sum(opened.learnt_sizes()) / sum(opened.task_sizes())


def _opened(registries: Registries, component: Component, data: Path) -> Benchmark[Any]:
    benchmark = registries.benchmarks.load(component.name)
    return benchmark(benchmark.Config(**component.config), data)
