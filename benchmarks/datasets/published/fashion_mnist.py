"""``fashion_mnist``: Zalando's articles of clothing, as five tasks of two classes."""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from smope_bench.benchmarks.augmentation import Augmentation, RandomResizedCrop
from smope_bench.benchmarks.base import BenchmarkCard, BenchmarkConfig, ProgressCallback, Split, silent
from smope_bench.benchmarks.download.fetch import Remote
from smope_bench.benchmarks.download.published_files import PublishedFiles
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.image_store.cached_benchmark import CachedBenchmark
from smope_bench.benchmarks.image_store.writer import CacheWriter

RULES = 1  # increase when the pixels or the order of the same files change
NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
SIDE = 28
BATCH = 5000
MOST_BYTES = 1 << 26  # limit of an unpacked file; the largest has 47 MB
IDX_BYTES = 8  # the code for values of one byte
HOLDERS = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
)
SUBFOLDERS = ("", "raw", "FashionMNIST/raw", "fashion-mnist", "fashion")


def _remote(name: str, md5: str, size: int) -> Remote:
    return Remote(f"{name}.gz", tuple(f"{holder}{name}.gz" for holder in HOLDERS), f"md5:{md5}", size)


class FashionMnistConfig(BenchmarkConfig):
    """Settings of ``fashion_mnist``."""

    image_size: int = Field(
        default=224, ge=8, le=1024, description="side in pixels of the images that the network sees"
    )
    augment: Augmentation = Field(
        default_factory=RandomResizedCrop, description="what is done to training images; most recipes' is the default"
    )


class FashionMnist(PublishedFiles, CachedBenchmark[FashionMnistConfig]):
    """Grey images of 28 pixels, repeated over three channels; transforms enlarge them."""

    name: ClassVar[str] = "fashion_mnist"
    Config: ClassVar[type[BenchmarkConfig]] = FashionMnistConfig
    card: ClassVar[BenchmarkCard] = BenchmarkCard(
        title="Fashion-MNIST",
        source="H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST, arXiv:1708.07747, 2017; "
        "https://github.com/zalandoresearch/fashion-mnist",
        licence="MIT",
        summary="70,000 grey images of clothing, 28 pixels, 10 classes, 60,000 to train on and 10,000 to test on",
    )
    published_counts: ClassVar[tuple[int, int] | None] = (60_000, 10_000)
    remotes: ClassVar[tuple[Remote, ...]] = (
        _remote("train-images-idx3-ubyte", "8d4fb7e6c68d591d4c3dfef9ec88bf0d", 26_421_880),
        _remote("train-labels-idx1-ubyte", "25c81989df183df01b3e8a0aad5dffbe", 29_515),
        _remote("t10k-images-idx3-ubyte", "bef4ecab320f06d8554ea6380940ec79", 4_422_102),
        _remote("t10k-labels-idx1-ubyte", "bb300cfdad3c16e7a12a480ee83cd310", 5_148),
    )
    layout: ClassVar[str] = (
        "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz "
        "(or the same unpacked, without .gz; Debian's package dataset-fashion-mnist installs them where they are found)"
    )
    contents: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    }
    """Sha256 of the unpacked files: Debian's packed files have other digests."""
    packaged: ClassVar[tuple[Path, ...]] = (Path("/usr/share/datasets/fashion-mnist"),)
    """Where Debian's package ``dataset-fashion-mnist`` installs the files; used before anything is downloaded."""

    @property
    def class_names(self) -> tuple[str, ...]:
        return NAMES

    def recipe(self) -> dict[str, Any]:
        return {"benchmark": self.name, "rules": RULES, "files": self.contents}

    @classmethod
    def download_fault(cls, file: Path, remote: Remote, folder: Path, progress: ProgressCallback = silent) -> str:
        """Compare the unpacked content, as in ``prepare``: files that were packed again are accepted."""
        fault = super().download_fault(file, remote, folder, progress)
        if fault and _is_published(unpacked(file), cls.contents[remote.name.removesuffix(".gz")]):
            return ""
        return fault

    def fill(self, writer: CacheWriter, progress: ProgressCallback) -> None:
        """Read the four files."""
        splits: tuple[tuple[Split, str], ...] = (("train", "train"), ("test", "t10k"))
        for split, prefix in splits:
            images = read_idx(f"{prefix}-images-idx3-ubyte", self._content(f"{prefix}-images-idx3-ubyte", progress), 3)
            labels = read_idx(f"{prefix}-labels-idx1-ubyte", self._content(f"{prefix}-labels-idx1-ubyte", progress), 1)
            check_pair(split, images, labels)
            progress(f"{self.name}: {len(images):,} {split} images")
            for start in range(0, len(images), BATCH):
                grey = images[start : start + BATCH]
                writer.add(
                    split, np.repeat(grey[..., None], 3, axis=-1), labels[start : start + BATCH].astype(np.int64)
                )

    def _content(self, name: str, progress: ProgressCallback) -> bytes:
        """The unpacked content of a file, verified: given, placed by hand, packaged by Debian, or downloaded."""
        for path in _found(name, self.given):
            return self._verified(path, name, progress)
        for path in _found(name, (self.downloads, *self.packaged)):
            try:
                return self._verified(path, name, progress)
            except BenchmarkError as error:
                progress(f"{self.name}: {error}")
        remote = next(remote for remote in self.remotes if remote.name == f"{name}.gz")
        return self._verified(self.obtain(remote, progress), name, progress)

    def _verified(self, path: Path, name: str, progress: ProgressCallback) -> bytes:
        data = unpacked(path)
        if not _is_published(data, self.contents[name]):
            raise BenchmarkError(f"{path} does not hold the published {name} (another sha256); get it again")
        progress(f"{self.name}: {path} is intact")
        return data


def _is_published(data: bytes, sha256: str) -> bool:
    return hashlib.sha256(data).hexdigest() == sha256


def _found(name: str, places: Iterable[Path]) -> Iterator[Path]:
    """Existing files, packed or not."""
    for place in places:
        if place.is_file() and place.name in (name, f"{name}.gz"):
            yield place
        for path in (place / folder / file for folder in SUBFOLDERS for file in (f"{name}.gz", name)):
            if path.is_file():
                yield path


def unpacked(path: Path) -> bytes:
    """The content of a file, through gzip where its name ends so. Raises BenchmarkError for a damaged or huge one."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise BenchmarkError(f"{path} cannot be read ({error}); get it again") from error
    if len(data) > MOST_BYTES:
        raise BenchmarkError(f"{path} unpacks to more than {MOST_BYTES >> 20} MiB, which no file of this set does")
    return data


def read_idx(name: str, data: bytes, axes: int) -> NDArray[np.uint8]:
    """An IDX file of bytes with the given number of axes. Raises BenchmarkError for any other."""
    header = 4 + 4 * axes
    if data[:4] != bytes((0, 0, IDX_BYTES, axes)) or len(data) < header:
        raise BenchmarkError(f"{name} is not an IDX file of bytes with {axes} axes (it begins with {data[:4].hex()})")
    shape = struct.unpack(f">{axes}I", data[4:header])
    expected = header + int(np.prod(shape, dtype=object))
    if len(data) != expected:
        sides = " x ".join(map(str, shape))
        raise BenchmarkError(
            f"{name} says {sides}, which takes {expected:,} bytes, and has {len(data):,}; get it again"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def check_pair(split: Split, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
    """Raise BenchmarkError unless there are as many labels as images."""
    if images.shape[1:] != (SIDE, SIDE):
        raise BenchmarkError(f"{split} images have {images.shape[1]} x {images.shape[2]} pixels, not {SIDE} x {SIDE}")
    if len(images) != len(labels):
        raise BenchmarkError(f"{len(images):,} {split} images have {len(labels):,} labels; get both files again")
    if len(labels) and int(labels.max()) >= len(NAMES):
        raise BenchmarkError(
            f"a {split} label is {int(labels.max())}; there are {len(NAMES)} classes; get the file again"
        )
    absent = sorted(set(range(len(NAMES))) - set(labels.tolist()))
    if absent:
        raise BenchmarkError(f"no {split} image shows class {absent[0]}, {NAMES[absent[0]]!r}; get the file again")
