"""``five_datasets``: SVHN, MNIST, CIFAR-10, notMNIST and Fashion-MNIST, a task each, 50 classes. Source: data card, 5-Datasets."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from smope_bench.benchmarks.base import (
    SPLITS,
    BenchmarkCard,
    BenchmarkConfig,
    ClassOrder,
    ImageSet,
    ProgressCallback,
    Split,
)
from smope_bench.benchmarks.datasets.published import fashion_mnist
from smope_bench.benchmarks.datasets.published.fashion_mnist import read_idx, unpacked
from smope_bench.benchmarks.download.fetch import Remote, fetch
from smope_bench.benchmarks.download.published_files import PaperPictureConfig, PublishedFiles, below
from smope_bench.benchmarks.download.safe_pickle import load_plain
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.image_store.arrays import Encoded, Store
from smope_bench.benchmarks.image_store.picture_benchmark import Picture, PictureBenchmark
from smope_bench.benchmarks.protocol import require_order_seed

RULES = 1  # increase when the pixels or the order of the same files change
CLASSES = 10
"""Of each data set."""
SETS = ("SVHN", "MNIST", "CIFAR-10", "notMNIST", "Fashion-MNIST")
"""In the fixed order of arrival."""
SLIPPED_FROM = "CIFAR-10"
DIGITS = tuple("0123456789")
NAMES: dict[str, tuple[str, ...]] = {
    "SVHN": DIGITS,
    "MNIST": DIGITS,
    "CIFAR-10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "notMNIST": tuple("ABCDEFGHIJ"),
    "Fashion-MNIST": fashion_mnist.NAMES,
}
CIFAR_TOP = "cifar-10-batches-py"
CIFAR_FILES: dict[Split, tuple[str, ...]] = {
    "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
    "test": ("test_batch",),
}
LETTERS_TOP = "notMNIST"
LETTERS_SPLITS: dict[str, Split] = {"Train": "train", "Test": "test"}
LETTERS_COUNTS = (16_853, 1_873)
"""Readable pictures to train and to test on, as the literature gives them; the archive itself decides."""
UNREADABLE = frozenset(
    {"A/RGVtb2NyYXRpY2FCb2xkT2xkc3R5bGUgQm9sZC50dGY=.png", "F/Q3Jvc3NvdmVyIEJvbGRPYmxpcXVlLnR0Zg==.png"}
)
"""Files of the published notMNIST that no program can decode; every other file must be readable."""

SVHN_HOLDER = "http://ufldl.stanford.edu/housenumbers/"
MNIST_HOLDER = "https://ossci-datasets.s3.amazonaws.com/mnist/"
LETTERS_HOLDER = "https://raw.githubusercontent.com/facebookresearch/Adversarial-Continual-Learning/"


def _svhn(name: str, md5: str, size: int) -> Remote:
    return Remote(name, (SVHN_HOLDER + name,), f"md5:{md5}", size)


def _mnist(name: str, md5: str, size: int) -> Remote:
    return Remote(f"mnist-{name}.gz", (f"{MNIST_HOLDER}{name}.gz",), f"md5:{md5}", size)


MNIST_FILES: dict[Split, tuple[str, str]] = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
REMOTES: tuple[Remote, ...] = (
    _svhn("train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373", 182_040_794),
    _svhn("test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3", 64_275_384),
    _mnist("train-images-idx3-ubyte", "f68b3c2dcbeaaa9fbdd348bbdeb94873", 9_912_422),
    _mnist("train-labels-idx1-ubyte", "d53e105ee54ea40749a09fcbcd1e9432", 28_881),
    _mnist("t10k-images-idx3-ubyte", "9fb629c4189551a2d022fa330f9573f3", 1_648_877),
    _mnist("t10k-labels-idx1-ubyte", "ec29112dd5afa0611ce80d1b7f02629c", 4_542),
    Remote(
        "cifar-10-python.tar.gz",
        ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
        "md5:c58f30108f718f92721af3b95e74349a",
        170_498_071,
    ),
    Remote(
        "notMNIST.zip",
        tuple(f"{LETTERS_HOLDER}{branch}/data/notMNIST.zip" for branch in ("main", "master")),
        "gitblob:3e15e76aba58fdd8ea2fe95180192c104b62f0f2",
    ),
    *(replace(remote, name=f"fashion-{remote.name}") for remote in fashion_mnist.FashionMnist.remotes),
)
TORCHVISION: dict[str, str] = {"mnist-": "MNIST/raw/", "fashion-": "FashionMNIST/raw/"}
"""Folders in which torchvision keeps the files of two sets, whose names are equal, by the beginning of ours."""


class FiveDatasetsConfig(PaperPictureConfig):
    """Settings of ``five_datasets``: a task is a data set, so that neither their number nor their classes can be changed."""

    tasks: int = Field(default=len(SETS), ge=len(SETS), le=len(SETS), description="a task is a data set: always 5")
    class_order: ClassOrder = Field(
        default="natural", description="classes arrive with their data set, in its own order; cannot be changed"
    )
    task_order: Literal["fixed", "seeded"] = Field(
        default="fixed",
        description="fixed: SVHN, MNIST, CIFAR-10, notMNIST, Fashion-MNIST for every seed; seeded: shuffled by the order seed",
    )
    normalize_slip: bool = Field(
        default=False,
        description="CIFAR-10 and the sets after it are normalised by CIFAR-100's statistics and those before it are not, as"
        " in official code by an oversight; results are marked",
    )

    @model_validator(mode="after")
    def _sets_are_whole(self) -> FiveDatasetsConfig:
        if self.class_order != "natural":
            raise ValueError("a task is a data set and its classes keep their order; order the tasks by task_order")
        if self.split is not None:
            raise ValueError("a task is a data set of ten classes, so that classes are not split; leave split out")
        if self.normalize_slip and (self.task_order != "fixed" or self.normalize != "none"):
            raise ValueError(
                "normalize_slip is of the fixed task_order and takes the place of normalize; leave them out"
            )
        return self

    @field_validator("image_mode")
    @classmethod
    def _pictures_stay_small(cls, mode: str) -> str:
        if mode != "exact":
            raise ValueError(
                "image_mode=fast would keep 260,110 pictures of 28 or 32 pixels enlarged, 51 GB; leave it out"
            )
        return mode


class FiveDatasets(PublishedFiles, PictureBenchmark[FiveDatasetsConfig]):
    """Pictures at their own 28 or 32 pixels, as files without loss; class c of set i has the id 10 i + c."""

    name: ClassVar[str] = "five_datasets"
    Config: ClassVar[type[BenchmarkConfig]] = FiveDatasetsConfig
    card: ClassVar[BenchmarkCard] = BenchmarkCard(
        title="5-Datasets",
        source="S. Ebrahimi et al., Adversarial Continual Learning, ECCV 2020; SVHN: Y. Netzer et al., 2011; MNIST: Y. LeCun et"
        " al., 1998; CIFAR-10: A. Krizhevsky, 2009; notMNIST: Y. Bulatov, 2011; Fashion-MNIST: H. Xiao et al., 2017",
        licence="SVHN: non-commercial use; MNIST: CC BY-SA 3.0; CIFAR-10 and notMNIST: none stated; Fashion-MNIST: MIT",
        summary="five sets of ten classes, one a task: 260,110 pictures to train on and 57,905 to test on, of 28 or 32 pixels",
    )
    published_counts: ClassVar[tuple[int, int] | None] = (260_110, 57_905)
    remotes: ClassVar[tuple[Remote, ...]] = REMOTES
    layout: ClassVar[str] = (
        "train_32x32.mat, test_32x32.mat, cifar-10-python.tar.gz, notMNIST.zip and the gzip files of MNIST and Fashion-MNIST"
        " (with mnist- and fashion- before their names, or in torchvision's folders MNIST/raw and FashionMNIST/raw)"
    )

    @property
    def class_names(self) -> tuple[str, ...]:
        """The set and its class."""
        return tuple(f"{one} {name}" for one in SETS for name in NAMES[one])

    def class_order(self, seed: int) -> tuple[int, ...]:
        """The sets in order of arrival, each with its classes in their own order."""
        require_order_seed(self.config.class_order, seed)
        order = list(range(len(SETS)))
        if self.config.task_order == "seeded":
            random.Random(seed).shuffle(order)
        return tuple(CLASSES * one + label for one in order for label in range(CLASSES))

    def source(self) -> dict[str, Any]:
        """The files and how they are read."""
        return {"rules": RULES, "files": {remote.name: remote.digest for remote in self.remotes}}

    def image_set(self, split: Split) -> ImageSet:
        """See ``Benchmark.image_set``; with ``normalize_slip`` each picture says how it is normalised."""
        found = super().image_set(split)
        if not self.config.normalize_slip:
            return found
        slipped = found.labels >= CLASSES * SETS.index(SLIPPED_FROM)
        return replace(found, images=_Normalized(found.images, np.where(slipped, "cifar100", "none")))

    def content_hash(self) -> str:
        """The cache's, changed where the pictures carry their normalisation."""
        own = super().content_hash()
        return hashlib.sha256(f"{own} slip".encode()).hexdigest() if self.config.normalize_slip else own

    def pictures(self, progress: ProgressCallback) -> Iterator[Picture]:
        """All pictures of all sets, set after set."""
        for number, one in enumerate(SETS):
            progress(f"{self.name}: reading {one}")
            for split in SPLITS:
                if one == "notMNIST":
                    continue
                images, labels = self._arrays(one, split, progress)
                _require_classes(one, split, images, labels)
                for row, (pixels, label) in enumerate(zip(images, labels.tolist(), strict=True)):
                    yield Picture(split, CLASSES * number + label, f"{one}/{split}/{row:06d}", portable(pixels))
            if one == "notMNIST":
                yield from self._letters(CLASSES * number, progress)

    def _arrays(
        self, one: str, split: Split, progress: ProgressCallback
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        if one == "SVHN":
            return read_svhn(self._file(f"{split}_32x32.mat", progress))
        if one == "CIFAR-10":
            return self._cifar(split, progress)
        prefix = {"MNIST": "mnist-", "Fashion-MNIST": "fashion-"}[one]
        (images, labels) = (
            read_idx(f"{prefix}{name}", unpacked(self._file(f"{prefix}{name}.gz", progress)), axes)
            for name, axes in zip(MNIST_FILES[split], (3, 1), strict=True)
        )
        return images, labels.astype(np.int64)

    def _file(self, name: str, progress: ProgressCallback) -> Path:
        """One published file, verified; given ones may lie as torchvision keeps them."""
        remote = next(remote for remote in self.remotes if remote.name == name)
        for prefix, folder in TORCHVISION.items():
            kept = [place / (folder + name.removeprefix(prefix)) for place in self.given if name.startswith(prefix)]
            if found := [path for path in kept if path.is_file()]:
                return fetch(remote, self.downloads, found, progress)
        return self.obtain(remote, progress)

    def _cifar(self, split: Split, progress: ProgressCallback) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """CIFAR-10's batches of a split, in their order."""
        path = self._file("cifar-10-python.tar.gz", progress)
        wanted: dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]] = {}
        for name, member in below(path, CIFAR_TOP):
            if name in CIFAR_FILES[split]:
                wanted[name] = read_cifar_batch(load_plain(member.read(), f"{name} in {path}"), f"{name} in {path}")
        if lost := [name for name in CIFAR_FILES[split] if name not in wanted]:
            raise BenchmarkError(f"{path} holds no {CIFAR_TOP}/{lost[0]}; fetch the archive again")
        images, labels = zip(*(wanted[name] for name in CIFAR_FILES[split]), strict=True)
        return np.concatenate(images), np.concatenate(labels)

    def _letters(self, first: int, progress: ProgressCallback) -> Iterator[Picture]:
        """notMNIST's files as they are. The known unreadable ones are left out and named."""
        path, counts, left_out = self._file("notMNIST.zip", progress), dict.fromkeys(SPLITS, 0), list[str]()
        for name, member in below(path, LETTERS_TOP):
            folder, _, file = name.partition("/")
            split, letter = LETTERS_SPLITS.get(folder), file.partition("/")[0]
            if split is None or letter not in NAMES["notMNIST"] or not file.endswith(".png"):
                continue
            if file in UNREADABLE:
                left_out.append(name)
                continue
            counts[split] += 1
            label = first + NAMES["notMNIST"].index(letter)
            yield Picture(split, label, f"notMNIST/{split}/{file}", member.read())
        if not all(counts.values()):
            raise BenchmarkError(
                f"{path} has no pictures below {LETTERS_TOP}/Train/A to J and Test/A to J; fetch it again"
            )
        if left_out:
            self._remark(f"notMNIST's unreadable files are left out: {', '.join(sorted(left_out))}", progress)
        if tuple(counts.values()) != LETTERS_COUNTS:
            trained, tested = counts.values()
            literature = " and ".join(f"{count:,}" for count in LETTERS_COUNTS)
            self._remark(
                f"notMNIST has {trained:,} pictures to train and {tested:,} to test on; the literature has {literature}",
                progress,
            )

    def _remark(self, text: str, progress: ProgressCallback) -> None:
        self.remarks.append(text)
        progress(f"{self.name}: {text}")


class _Normalized:
    """A store whose pictures say how each is normalised; ``names``: of statistics, one a row."""

    def __init__(self, store: Store, names: NDArray[np.str_]) -> None:
        self.store, self.names = store, names

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, rows: NDArray[np.int64], /) -> Encoded:
        return replace(self.store[rows], normalize=tuple(self.names[rows].tolist()))


def portable(pixels: NDArray[np.uint8]) -> bytes:
    """A picture (H, W) or (H, W, 3) as a binary PGM or PPM file: the same bytes with every library."""
    kind = b"P5" if pixels.ndim == 2 else b"P6"
    return b"%s\n%d %d\n255\n" % (kind, pixels.shape[1], pixels.shape[0]) + np.ascontiguousarray(pixels).tobytes()


def read_svhn(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images uint8 (N, 32, 32, 3) and digits int64 (N,) of a MATLAB file; its label 10 is the digit 0. Raises BenchmarkError."""
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=["X", "y"])
    except Exception as error:  # scipy raises many kinds for damage
        raise BenchmarkError(f"{path} cannot be read as a MATLAB file ({error}); fetch it again") from error
    images, labels = content.get("X"), content.get("y")
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4 or images.shape[2] != 3:
        raise BenchmarkError(f"{path}: X is not an array of bytes (height, width, 3, images); fetch it again")
    if not isinstance(labels, np.ndarray) or labels.size != images.shape[3] or labels.dtype.kind not in "iuf":
        raise BenchmarkError(f"{path}: y does not have a label for each of {images.shape[3]:,} images; fetch it again")
    digits = labels.reshape(-1).astype(np.int64)
    return images.transpose(3, 0, 1, 2), np.where(digits == CLASSES, 0, digits)


def read_cifar_batch(content: object, called: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images uint8 (N, 32, 32, 3) and labels int64 (N,) of an unpickled batch. Raises BenchmarkError."""
    rows, labels = (content.get("data"), content.get("labels")) if isinstance(content, dict) else (None, None)
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.shape[1] != 3 * 32 * 32:
        raise BenchmarkError(f"{called}: data is not an array of bytes with 3072 a row; fetch the archive again")
    if not isinstance(labels, list) or len(labels) != len(rows) or any(type(label) is not int for label in labels):
        raise BenchmarkError(f"{called}: {len(rows):,} images do not have as many labels; fetch the archive again")
    return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.array(labels, dtype=np.int64)


def _require_classes(one: str, split: Split, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
    """Raise BenchmarkError unless every image has one of ten labels and every label has an image."""
    if len(images) != len(labels):
        raise BenchmarkError(
            f"{one}: {len(images):,} {split} images have {len(labels):,} labels; fetch its files again"
        )
    if sorted(set(labels.tolist())) != list(range(CLASSES)):
        found = ", ".join(map(str, sorted(set(labels.tolist()))[:12]))
        raise BenchmarkError(f"{one}: the {split} labels are {found}, not 0 to {CLASSES - 1}; fetch its files again")
