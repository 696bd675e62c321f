"""``cifar100``: CIFAR-100 from its original Python archive, as ten tasks of ten classes."""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from smope_bench.benchmarks.augmentation import Augmentation, RandomResizedCrop
from smope_bench.benchmarks.base import SPLITS, BenchmarkCard, BenchmarkConfig, ProgressCallback, Split
from smope_bench.benchmarks.download.fetch import Remote
from smope_bench.benchmarks.download.published_files import PublishedFiles, below
from smope_bench.benchmarks.download.safe_pickle import load_plain
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.image_store.cached_benchmark import CachedBenchmark
from smope_bench.benchmarks.image_store.writer import CacheWriter

RULES = 1  # increase when the pixels or the order of the same archive change
TOP = "cifar-100-python"
CLASSES, SIDE = 100, 32
BATCH = 5000

ARCHIVE = Remote(
    name="cifar-100-python.tar.gz",
    urls=("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",),
    digest="md5:eb9058c3a382ffc7106e4002c42a8d85",
    size=169_001_437,
)


class Cifar100Config(BenchmarkConfig):
    """Settings of ``cifar100``."""

    tasks: int = Field(default=10, ge=1, description="number of tasks the classes are split into, in order of arrival")
    image_size: int = Field(
        default=224, ge=8, le=1024, description="side in pixels of the images that the network sees"
    )
    augment: Augmentation = Field(
        default_factory=RandomResizedCrop, description="what is done to training images; most recipes' is the default"
    )


class Cifar100(PublishedFiles, CachedBenchmark[Cifar100Config]):
    """The images are kept at their 32 pixels; transforms enlarge them."""

    name: ClassVar[str] = "cifar100"
    Config: ClassVar[type[BenchmarkConfig]] = Cifar100Config
    card: ClassVar[BenchmarkCard] = BenchmarkCard(
        title="CIFAR-100",
        source="A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, technical report, 2009; "
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        licence="none stated by its author",
        summary="60,000 photographs of 32 pixels, 100 classes, 50,000 to train on and 10,000 to test on",
    )
    published_counts: ClassVar[tuple[int, int] | None] = (50_000, 10_000)
    remotes: ClassVar[tuple[Remote, ...]] = (ARCHIVE,)
    layout: ClassVar[str] = (
        "cifar-100-python.tar.gz (or the unpacked folder cifar-100-python/ with train, test and meta)"
    )
    digests: ClassVar[dict[str, str]] = {
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "meta": "7973b15100ade9c7d40fb424638fde48",
    }
    """Md5 of the files in the archive, to check an unpacked one."""

    @property
    def num_classes(self) -> int:
        return CLASSES

    def names_to_store(self, progress: ProgressCallback) -> tuple[str, ...]:
        """The fine labels' names."""
        names = self._content("meta", progress).get("fine_label_names")
        if not isinstance(names, list) or len(names) != CLASSES or not all(isinstance(name, str) for name in names):
            raise BenchmarkError(f"{self.name}: meta does not name {CLASSES} fine labels; fetch the archive again")
        return tuple(names)

    def recipe(self) -> dict[str, Any]:
        return {"benchmark": self.name, "rules": RULES, "files": self.digests}

    def fill(self, writer: CacheWriter, progress: ProgressCallback) -> None:
        """Turn channel-major rows into images."""
        for split in SPLITS:
            images, labels = as_images(split, self._content(split, progress))
            progress(f"{self.name}: {len(images):,} {split} images")
            for start in range(0, len(images), BATCH):
                writer.add(split, images[start : start + BATCH], labels[start : start + BATCH])

    def _content(self, wanted: str, progress: ProgressCallback) -> dict[str, Any]:
        """One file of the archive, unpickled. Raises BenchmarkError where it is not the published one."""
        source = self.archive_or_folder(self.remotes[0], TOP, progress)
        for name, member in below(source, TOP):
            if name == wanted:
                data = member.read()
                if hashlib.md5(data).hexdigest() != self.digests[wanted]:
                    raise BenchmarkError(
                        f"{wanted} in {source} is not the published file (another md5); fetch the archive again"
                    )
                content = load_plain(data, f"{wanted} in {source}")
                return content if isinstance(content, dict) else {}
        raise BenchmarkError(f"{source} holds no {TOP}/{wanted}; fetch the archive again")


def as_images(split: Split, batch: dict[str, Any]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images uint8 (N, 32, 32, 3) and fine labels int64 (N,) of an unpickled batch. Raises BenchmarkError."""
    rows, fine = batch.get("data"), batch.get("fine_labels")
    if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 3 * SIDE * SIDE:
        raise BenchmarkError(f"{split}: data is not an array of bytes with {3 * SIDE * SIDE} a row")
    if not isinstance(fine, list) or len(fine) != len(rows):
        raise BenchmarkError(f"{split}: {len(rows)} images do not have as many fine_labels")
    bad = next((label for label in fine if type(label) is not int or not 0 <= label < CLASSES), None)
    if bad is not None:
        raise BenchmarkError(f"{split}: the fine label {bad!r} lies outside 0..{CLASSES - 1}; fetch the archive again")
    absent = sorted(set(range(CLASSES)) - set(fine))
    if absent:
        raise BenchmarkError(f"{split}: no image has the fine label {absent[0]}; fetch the archive again")
    return rows.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1), np.array(fine, dtype=np.int64)
