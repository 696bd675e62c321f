"""Data of the conformance kit: benchmarks of coloured noise in classes and in domains, and a stream with other later images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from smope_bench.benchmarks.base import (
    SPLITS,
    Benchmark,
    BenchmarkCard,
    BenchmarkConfig,
    ImageSet,
    ProgressCallback,
    Protocol,
    Split,
    silent,
)
from smope_bench.benchmarks.stream import Stream, View, build_stream

TRAIN_IMAGES, TEST_IMAGES = 12, 22


class ColouredNoise(Benchmark[BenchmarkConfig]):
    """Six classes of distinct mean colours, 16 px: few training images, and more than 128 test images in all."""

    name: ClassVar[str] = "conformance-noise"
    card: ClassVar[BenchmarkCard] = BenchmarkCard("Coloured noise", "made by the conformance kit", "none", "synthetic")

    def prepare(self, progress: ProgressCallback = silent, given: Sequence[Path] = ()) -> None:
        """Nothing to do."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Numbered names."""
        return tuple(f"noise {i}" for i in range(6))

    def image_set(self, split: Split) -> ImageSet:
        """Seeded pixels, equal at every call."""
        seed, count = (0, TRAIN_IMAGES) if split == "train" else (1, TEST_IMAGES)
        labels = np.repeat(np.arange(6), count)
        return ImageSet(_noise(labels, seed), labels.astype(np.int64))


class ColouredDomains(ColouredNoise):
    """The classes of ``ColouredNoise`` in three domains: lit, dark and inverted. The first lacks class 5, the last class 4."""

    @property
    def protocol(self) -> Protocol:
        return "domain"

    @property
    def domain_names(self) -> tuple[str, ...]:
        return ("lit", "dark", "inverted")

    def task_sizes(self) -> tuple[int, ...]:
        """All classes with each task."""
        return (6, 6, 6)

    def image_set(self, split: Split) -> ImageSet:
        """Four images of each class of a domain."""
        present = [
            (domain, label) for domain in range(3) for label in range(6) if (domain, label) not in ((0, 5), (2, 4))
        ]
        domains, labels = np.repeat(np.array(present), 4, axis=0).T
        images = _noise(labels, SPLITS.index(split))
        images[domains == 1] //= 2
        images[domains == 2] = 255 - images[domains == 2]
        return ImageSet(images, labels.astype(np.int64), domains.astype(np.int64))


def _noise(labels: NDArray[np.int64], seed: int) -> NDArray[np.uint8]:
    """An image (16, 16, 3) in the colour of each label."""
    colours = np.array([[(label >> bit) & 1 for bit in range(3)] for label in range(1, 7)]) * 140 + 40
    noise = np.random.default_rng(seed).integers(0, 60, (len(labels), 16, 16, 3))
    return (colours[labels][:, None, None] + noise).astype(np.uint8)


def domain_stream(root: Path, image_size: int = 16) -> Stream:
    """Three domains; class 5 arrives with the second, and each of the outer two lacks a class.

    ``image_size``: side of the images in pixels.
    """
    return build_stream(ColouredDomains(BenchmarkConfig(tasks=3, image_size=image_size), root), 0)


def with_other_future(stream: Stream) -> Stream:
    """``stream`` with other pixels and permuted labels in the last task's training images, and with other test images in odd rows.

    Before the last task, a method must not be affected.
    """
    last = stream.tasks[-1]
    trained, tested = np.array(last.train.images), np.array(last.test.images)
    trained[last.train.rows] = 255 - trained[last.train.rows]
    tested[1::2] = 255 - tested[1::2]
    labels = np.random.default_rng(2).permutation(last.train.labels)
    tasks = tuple(
        replace(
            task,
            train=View(trained, task.train.rows, labels if task is last else task.train.labels),
            test=View(tested, task.test.rows, task.test.labels),
        )
        for task in stream.tasks
    )
    # No hash: features cached for the original pixels must not be found for the new ones.
    return replace(stream, tasks=tasks, tests=tuple(task.test for task in tasks), content_hash="")


def kept_test_images(stream: Stream, tasks: int) -> NDArray[np.bool_]:
    """Mask of the images of the first ``tasks`` test views that ``with_other_future`` leaves unchanged."""
    return np.concatenate([view.rows for view in stream.tests[:tasks]]) % 2 == 0
