"""The task stream: classes in order of arrival, labels renumbered, and views of the stored images."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from smope_bench.benchmarks.base import Benchmark, BenchmarkConfig, ImageSet
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.image_store.arrays import Raw, Store

if TYPE_CHECKING:
    from smope_bench.benchmarks.transforms.batch import Transforms


@dataclass(frozen=True, eq=False)
class View:
    """Some images of one split, by row.

    ``images``: the whole split, uint8 (N, H, W, 3) or a store of raw batches; ``rows``: int64 (n,), indices into it;
    ``labels``: int64 (n,), new labels 0..C-1 in order of arrival.
    """

    images: Store
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        self.rows.setflags(write=False)
        self.labels.setflags(write=False)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: Sequence[int] | NDArray[np.int64] | slice) -> tuple[Raw, NDArray[np.int64]]:
        """Copy a raw batch (uint8 (b, H, W, 3), or as the store keeps images) and labels int64 (b,).

        ``positions`` count within this view.
        """
        index = positions if isinstance(positions, slice) else np.asarray(positions, dtype=np.int64)
        raw = self.images[self.rows[index]]
        return np.asarray(raw) if isinstance(raw, np.ndarray) else raw, self.labels[index].copy()


@dataclass(frozen=True, eq=False)
class Task:
    """One step of the stream. ``classes`` are the new labels that arrive with it, ``names`` theirs."""

    index: int
    classes: range
    names: tuple[str, ...]
    train: View
    validation: View
    test: View


@dataclass(frozen=True, eq=False)
class Stream:
    """A benchmark in one class order.

    ``tasks`` are trained on in turn; ``tests`` are what the columns of the accuracy matrix are measured on. They differ
    only in a merged stream. ``class_order`` and ``class_names`` are indexed by new label.
    """

    tasks: tuple[Task, ...]
    tests: tuple[View, ...]
    class_order: tuple[int, ...]
    class_names: tuple[str, ...]
    split_hash: str
    config: BenchmarkConfig
    content_hash: str = ""
    """Hash of the images without their order; empty in a search, which must not read test images."""

    @property
    def num_classes(self) -> int:
        """Classes of the whole stream."""
        return len(self.class_order)

    @property
    def num_tasks(self) -> int:
        """Tasks of the protocol: columns of the accuracy matrix, merged or not."""
        return len(self.tests)

    @property
    def image_size(self) -> int:
        """Side in pixels of what the network sees."""
        return self.config.image_size

    @property
    def transforms(self) -> Transforms:
        """Transforms from stored images to the network's input; they need torch."""
        from smope_bench.benchmarks.transforms.batch import Transforms

        return Transforms.from_config(self.config)

    def tests_after(self, task: Task) -> tuple[View, ...]:
        """Test views of all classes that have arrived once ``task`` is learnt; entry i is column i of the matrix."""
        return tuple(view for view in self.tests if not len(view) or int(view.labels.max()) < task.classes.stop)

    def merged(self) -> Stream:
        """All classes in one training task while the test views stay apart: for joint training."""
        task = Task(
            index=0,
            classes=range(self.num_classes),
            names=self.class_names,
            train=_joined([task.train for task in self.tasks]),
            validation=_joined([task.validation for task in self.tasks]),
            test=_joined([task.test for task in self.tasks]),
        )
        return replace(self, tasks=(task,))


def build_stream(benchmark: Benchmark[Any], order_seed: int, *, for_search: bool = False) -> Stream:
    """Cut a prepared benchmark into tasks, in the class order that ``order_seed`` draws.

    The configuration's ``holdout`` > 0 moves that fraction of each class's training images to the validation view, drawn
    by ``holdout_seed`` alone: it is the same in every class order. Test images are never touched. The configuration's ``limit``
    keeps that many images of each class in either split, before any are held out.

    ``for_search``: the stream of a hyper-parameter search. Test images are not read, the tasks' test views are empty, and the
    held-out images are tested on.
    """
    config = benchmark.config
    if for_search and not config.holdout:
        raise BenchmarkError(
            "a search is scored on held-out training images: give benchmark.holdout above 0, such as 0.2"
        )
    order, sizes, names = benchmark.class_order(order_seed), benchmark.task_sizes(), benchmark.class_names
    train = benchmark.image_set("train")
    rows = _limited(_rows_by_class(train, names, "training"), config.limit, "train")
    kept, held = _hold_out(rows, names, config.holdout, config.holdout_seed)
    test = train if for_search else benchmark.image_set("test")
    tested = (
        [found[:0] for found in held]
        if for_search
        else _limited(_rows_by_class(test, names, "test"), config.limit, "test")
    )
    tasks, start = [], 0
    for index, size in enumerate(sizes):
        classes = range(start, start + size)
        ids = {label: order[label] for label in classes}
        tasks.append(
            Task(
                index=index,
                classes=classes,
                names=tuple(names[ids[label]] for label in classes),
                train=_view(train.images, kept, ids),
                validation=_view(train.images, held, ids),
                test=_view(test.images, tested, ids),
            )
        )
        start += size
    content = "" if for_search else benchmark.content_hash()  # it covers test pixels too
    return Stream(
        tasks=tuple(tasks),
        tests=tuple(task.validation if for_search else task.test for task in tasks),
        class_order=order,
        class_names=tuple(names[original] for original in order),
        split_hash=_split_hash(content, order, tasks),
        config=benchmark.config,
        content_hash=content,
    )


def _rows_by_class(images: ImageSet, names: tuple[str, ...], which: str) -> list[NDArray[np.int64]]:
    """Rows of each original class, rising; a class without images is an error."""
    if len(images.images) != len(images.labels):
        raise BenchmarkError(f"{len(images.images)} {which} images have {len(images.labels)} labels")
    if len(images.labels) and not 0 <= int(images.labels.min()) <= int(images.labels.max()) < len(names):
        raise BenchmarkError(f"a {which} label lies outside the {len(names)} classes")
    rows = [np.flatnonzero(images.labels == original).astype(np.int64) for original in range(len(names))]
    for original, found in enumerate(rows):
        if not len(found):
            raise BenchmarkError(f"class {names[original]!r} has no {which} images")
    return rows


def _limited(rows: list[NDArray[np.int64]], limit: int | None, split: str) -> list[NDArray[np.int64]]:
    """At most ``limit`` rows of each class, rising, the same in every class order; a larger limit keeps those of a smaller."""
    if limit is None:
        return rows
    kept = []
    for original, found in enumerate(rows):
        positions = list(range(len(found)))
        random.Random(f"limit {split} class {original}").shuffle(positions)
        kept.append(found[sorted(positions[:limit])])
    return kept


def _hold_out(
    rows: list[NDArray[np.int64]], names: tuple[str, ...], fraction: float, seed: int
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """Split each class's rows into (kept, held out), both rising and neither empty where ``fraction`` > 0."""
    if fraction == 0:
        return rows, [found[:0] for found in rows]
    kept, held = [], []
    for original, found in enumerate(rows):
        if len(found) < 2:
            raise BenchmarkError(f"class {names[original]!r} has one training image: nothing can be held out of it")
        first, second = stratum(len(found), fraction, f"holdout {seed} class {original}")
        kept.append(found[first])
        held.append(found[second])
    return kept, held


def stratum(count: int, fraction: float, seed: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw (the rest, ``fraction``) of ``count`` >= 2 positions, both rising, each of at least one.

    Python's generator gives the same sequence in every version.
    """
    positions = list(range(count))
    random.Random(seed).shuffle(positions)
    cut = min(max(1, round(count * fraction)), count - 1)
    return np.array(sorted(positions[cut:]), dtype=np.int64), np.array(sorted(positions[:cut]), dtype=np.int64)


def _view(images: Store, rows: list[NDArray[np.int64]], ids: dict[int, int]) -> View:
    """Rows of the given classes (new label -> original id), class after class."""
    labels = [np.full(len(rows[original]), label, dtype=np.int64) for label, original in ids.items()]
    return View(images, np.concatenate([rows[original] for original in ids.values()]), np.concatenate(labels))


def _joined(views: list[View]) -> View:
    rows, labels = (np.concatenate([getattr(view, name) for view in views]) for name in ("rows", "labels"))
    return View(views[0].images, rows, labels)


def _split_hash(content: str, order: tuple[int, ...], tasks: list[Task]) -> str:
    """Sha256 (hex) over the images' hash, the class order and every row and label of every view."""
    digest = hashlib.sha256(json.dumps({"content": content, "order": order}).encode())
    for task in tasks:
        for name, view in (("train", task.train), ("validation", task.validation), ("test", task.test)):
            digest.update(f"{task.index} {name} {len(view)}".encode())
            digest.update(view.rows.astype("<i8").tobytes() + view.labels.astype("<i8").tobytes())
    return digest.hexdigest()
