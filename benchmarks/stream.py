"""The task stream: classes or domains in order of arrival, labels renumbered, and views of the stored images."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from smope_bench.benchmarks.base import Benchmark, BenchmarkConfig, ImageSet, Protocol
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
    """One step of the stream.

    ``classes``: the labels that arrive with it or, in a domain-incremental stream, all labels seen once it is learnt, of
    which its images may have some only. ``names``: their names. ``domain``: the domain that arrives, if one does.
    """

    index: int
    classes: range
    names: tuple[str, ...]
    train: View
    validation: View
    test: View
    domain: str = ""


@dataclass(frozen=True, eq=False)
class Stream:
    """A benchmark in one class order.

    ``tasks`` are trained on in turn; ``tests`` are what the columns of the accuracy matrix are measured on. They differ
    only in a merged stream, and in one whose domains share their test images. ``class_order`` and ``class_names`` are
    indexed by new label.
    """

    tasks: tuple[Task, ...]
    tests: tuple[View, ...]
    class_order: tuple[int, ...]
    class_names: tuple[str, ...]
    split_hash: str
    config: BenchmarkConfig
    content_hash: str = ""
    """Hash of the images without their order; empty in a search, which must not read test images."""
    domains: tuple[str, ...] = ()
    """Names of the domains in order of arrival, one a task; empty in a class-incremental stream."""

    @property
    def num_classes(self) -> int:
        """Classes of the whole stream."""
        return len(self.class_order)

    @property
    def num_tasks(self) -> int:
        """Tasks of the protocol: columns of the accuracy matrix, merged or not."""
        return len(self.tests)

    @property
    def protocol(self) -> Protocol:
        """What arrives with a task: new classes, or a new domain."""
        return "domain" if self.domains else "class"

    @property
    def image_size(self) -> int:
        """Side in pixels of what the network sees."""
        return self.config.image_size

    @property
    def transforms(self) -> Transforms:
        """Transforms from stored images to the network's input; they need torch."""
        from smope_bench.benchmarks.transforms.batch import Transforms

        return Transforms.from_config(self.config)

    def tests_after(self, task: Task) -> dict[int, View]:
        """Test views that can be measured once ``task`` is learnt, by column of the matrix.

        They are those whose classes have all arrived: in a domain-incremental stream also domains that are still to come.
        Test images shared by all domains count only for the domains that have arrived.
        """
        shared = len(self.tests) > 1 and self.tests[0] is self.tests[1] and len(self.tasks) > 1
        return {
            column: view
            for column, view in enumerate(self.tests)
            if (not len(view) or int(view.labels.max()) < task.classes.stop) and not (shared and column > task.index)
        }

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
    train = benchmark.image_set("train")
    groups = _Groups(benchmark.class_names, benchmark.domain_names if benchmark.protocol == "domain" else ())
    found = groups.limited(groups.rows(train, "training"), config.limit, "train")
    kept, held = groups.hold_out(found, config.holdout, config.holdout_seed)
    test = train if for_search else benchmark.image_set("test")
    shared = bool(groups.domains) and test.domains is None and not for_search
    asked = _Groups(groups.classes, ()) if shared else groups
    tested = (
        [rows[:0] for rows in held]
        if for_search
        else asked.limited(asked.rows(test, "test", None if shared else found), config.limit, "test")
    )
    cut = _by_domain(benchmark, order_seed, groups, found) if groups.domains else _by_class(benchmark, order_seed)
    whole = _view(test.images, tested, dict(enumerate(cut.order))) if shared else None
    tasks = [
        Task(
            index=index,
            classes=classes,
            names=tuple(groups.classes[cut.order[label]] for label in classes),
            train=_view(train.images, kept, ids),
            validation=_view(train.images, held, ids),
            test=whole or _view(test.images, tested, ids),
            domain=cut.domains[index] if cut.domains else "",
        )
        for index, (classes, ids) in enumerate(cut.tasks)
    ]
    content = "" if for_search else benchmark.content_hash()  # it covers test pixels too
    return Stream(
        tasks=tuple(tasks),
        tests=tuple(task.validation if for_search else task.test for task in tasks),
        class_order=cut.order,
        class_names=tuple(groups.classes[original] for original in cut.order),
        split_hash=_split_hash(content, cut, tasks),
        config=benchmark.config,
        content_hash=content,
        domains=cut.domains,
    )


def joined(streams: Sequence[Stream]) -> Stream:
    """Class-incremental streams as one, each with new classes; transforms are the last one's. A single stream stays as it is.

    Tasks, labels and ids of classes are counted on. Raises BenchmarkError where a class comes again, or domains arrive.
    """
    if len(streams) == 1:
        return streams[0]
    tasks: list[Task] = []
    tests: list[View] = []
    names: list[str] = []
    order: list[int] = []
    for stream in streams:
        if stream.domains:
            raise BenchmarkError("a stream of domains cannot be joined with another one: its classes would come again")
        if again := [name for name in stream.class_names if name in names]:
            raise BenchmarkError(f"class {again[0]!r} comes again; classes of added tasks must be new ones")
        start, first = len(names), max(order, default=-1) + 1
        for task in stream.tasks:
            classes = range(task.classes.start + start, task.classes.stop + start)
            train, validation, test = (_counted_on(view, start) for view in (task.train, task.validation, task.test))
            tasks.append(Task(len(tasks), classes, task.names, train, validation, test))
            tests.append(test)
        names += stream.class_names
        order += [first + original for original in stream.class_order]
    hashes, contents = ([getattr(stream, name) for stream in streams] for name in ("split_hash", "content_hash"))
    return Stream(
        tuple(tasks),
        tuple(tests),
        tuple(order),
        tuple(names),
        _hash_of(hashes),
        streams[-1].config,
        _hash_of(contents) if all(contents) else "",
    )


def _counted_on(view: View, start: int) -> View:
    return replace(view, labels=view.labels + start)


def _hash_of(hashes: list[str]) -> str:
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()


@dataclass(frozen=True)
class _Cut:
    """How a benchmark is cut into tasks.

    ``order``: original class ids by new label. ``tasks``: each task's ``Task.classes``, and the group of each label that
    it has images of. ``domains``: names in order of arrival.
    """

    order: tuple[int, ...]
    tasks: list[tuple[range, dict[int, int]]]
    domains: tuple[str, ...] = ()


def _by_class(benchmark: Benchmark[Any], order_seed: int) -> _Cut:
    """New classes with each task."""
    order, tasks, start = benchmark.class_order(order_seed), [], 0
    for size in benchmark.learnt_sizes():
        classes = range(start, start + size)
        tasks.append((classes, {label: order[label] for label in classes}))
        start += size
    return _Cut(order[:start], tasks)


def _by_domain(benchmark: Benchmark[Any], order_seed: int, groups: _Groups, rows: list[NDArray[np.int64]]) -> _Cut:
    """A new domain with each task; classes are numbered as they first arrive, those of one domain by their ids."""
    learnt = len(benchmark.learnt_sizes())  # raises where the settings do not fit the domains
    labels: dict[int, int] = {}
    tasks, domains = [], benchmark.domain_order(order_seed)[:learnt]
    for domain in domains:
        first = domain * len(groups.classes)
        present = [original for original in range(len(groups.classes)) if len(rows[first + original])]
        for original in present:
            labels.setdefault(original, len(labels))
        ids = {labels[original]: first + original for original in present}
        tasks.append((range(len(labels)), dict(sorted(ids.items()))))
    return _Cut(tuple(labels), tasks, tuple(groups.domains[domain] for domain in domains))


@dataclass(frozen=True)
class _Groups:
    """Images that are always divided together: those of a class or, with ``domains``, of a class in a domain."""

    classes: tuple[str, ...]
    domains: tuple[str, ...]

    def rows(
        self, images: ImageSet, which: str, trained: list[NDArray[np.int64]] | None = None
    ) -> list[NDArray[np.int64]]:
        """Rows of each group, rising. ``trained``: the training rows.

        A class without images is an error; with domains, a class of a domain that has images in one of the splits only.
        """
        if len(images.images) != len(images.labels):
            raise BenchmarkError(f"{len(images.images)} {which} images have {len(images.labels)} labels")
        if len(images.labels) and not 0 <= int(images.labels.min()) <= int(images.labels.max()) < len(self.classes):
            raise BenchmarkError(f"a {which} label lies outside the {len(self.classes)} classes")
        numbers, count = images.labels, len(self.classes)
        if self.domains:
            if images.domains is None or len(images.domains) != len(numbers):
                raise BenchmarkError(f"{len(numbers)} {which} images do not have a domain each")
            numbers, count = images.domains * len(self.classes) + numbers, len(self.classes) * len(self.domains)
        rows = [np.flatnonzero(numbers == group).astype(np.int64) for group in range(count)]
        for group, found in enumerate(rows):
            if not len(found) and (not self.domains or (trained is not None and len(trained[group]))):
                raise BenchmarkError(f"{self._named(group)} has no {which} images")
            if len(found) and trained is not None and not len(trained[group]):
                raise BenchmarkError(f"{self._named(group)} has {which} images but no training images")
        return rows

    def limited(self, rows: list[NDArray[np.int64]], limit: int | None, split: str) -> list[NDArray[np.int64]]:
        """At most ``limit`` rows of each group, rising, the same in every order; a larger limit keeps those of a smaller."""
        if limit is None:
            return rows
        kept = []
        for group, found in enumerate(rows):
            positions = list(range(len(found)))
            random.Random(f"limit {split} {self._key(group)}").shuffle(positions)
            kept.append(found[sorted(positions[:limit])])
        return kept

    def hold_out(
        self, rows: list[NDArray[np.int64]], fraction: float, seed: int
    ) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
        """Split each group's rows into (kept, held out), both rising and neither empty where ``fraction`` > 0."""
        if fraction == 0:
            return rows, [found[:0] for found in rows]
        kept, held = [], []
        for group, found in enumerate(rows):
            if len(found) == 1:
                raise BenchmarkError(f"{self._named(group)} has one training image: nothing can be held out of it")
            seeded = f"holdout {seed} {self._key(group)}"
            first, second = stratum(len(found), fraction, seeded) if len(found) else (slice(0), slice(0))
            kept.append(found[first])
            held.append(found[second])
        return kept, held

    def _key(self, group: int) -> str:
        """The group's part of a seed: no other domain changes it."""
        domain, original = divmod(group, len(self.classes))
        return f"domain {self.domains[domain]} class {original}" if self.domains else f"class {original}"

    def _named(self, group: int) -> str:
        domain, original = divmod(group, len(self.classes))
        where = f" of domain {self.domains[domain]!r}" if self.domains else ""
        return f"class {self.classes[original]!r}{where}"


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


def _split_hash(content: str, cut: _Cut, tasks: list[Task]) -> str:
    """Sha256 (hex) over the images' hash, the order of classes and domains, and every row and label of every view."""
    domains = {"domains": cut.domains} if cut.domains else {}
    digest = hashlib.sha256(json.dumps({"content": content, "order": cut.order, **domains}).encode())
    for task in tasks:
        for name, view in (("train", task.train), ("validation", task.validation), ("test", task.test)):
            digest.update(f"{task.index} {name} {len(view)}".encode())
            digest.update(view.rows.astype("<i8").tobytes() + view.labels.astype("<i8").tobytes())
    return digest.hexdigest()
