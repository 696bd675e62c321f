"""Base of benchmarks: named classes, uint8 images, a class order and the sizes of tasks."""

from __future__ import annotations

import hashlib
import json
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.fields import FieldInfo

from smope_bench.benchmarks.augmentation import Augmentation, Interpolation, NoAugmentation, Normalize
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.protocol import (
    MOST_TASKS,
    ClassOrder,
    arrange,
    permuted,
    read_class_order,
    read_split,
    require_order_seed,
    spelled,
    task_sizes,
)

Split = Literal["train", "test"]
SPLITS: tuple[Split, Split] = ("train", "test")
Protocol = Literal["class", "domain"]
"""What arrives with a task: new classes, or known classes in a new domain."""
ProgressCallback = Callable[[str], None]


def silent(message: str) -> None:
    """Discard a progress message; the default of every ``prepare``."""
    del message


class BenchmarkConfig(BaseModel):
    """Typed settings of a benchmark; every field is part of a run's identity (see ``Benchmark.pinned``)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    unstated_defaults: ClassVar[frozenset[str]] = frozenset({"limit", "stop_after", "test_squeeze"})
    """Fields that a dump leaves out while they have their default: a run's id does not change when such a field is added."""
    task_word: ClassVar[str] = "task"
    """What a task is called in labels."""
    tasks_follow_data: ClassVar[bool] = False
    """Whether the images give the number of tasks where the user gives none, so that the default means nothing."""

    tasks: int = Field(
        default=5, ge=1, le=MOST_TASKS, description="number of tasks the classes are split into, in order of arrival"
    )
    split: tuple[int, ...] | None = Field(
        default=None,
        description="classes of each task where the tasks are uneven, for example 4,3,3, or 50,10x5 for a task of 50"
        " classes and five of 10; it gives the number of tasks too; none = equal tasks",
    )
    stop_after: int | None = Field(
        default=None,
        ge=1,
        le=MOST_TASKS,
        description="only the first so many tasks are learnt, and their classes alone; 'extend' can go on with the others;"
        " none = all tasks",
    )
    image_size: int = Field(default=32, ge=8, le=1024, description="side in pixels of the images that the network sees")
    augment: Augmentation = Field(default_factory=NoAugmentation, description="what is done to training images")
    test_resize: int | None = Field(
        default=None,
        ge=8,
        le=2048,
        description="at test the shorter side is resized to this and the central square of image_size is cut out;"
        " none = the whole image is resized to image_size",
    )
    test_interpolation: Interpolation = Field(default="bilinear", description="filter of the resize at test")
    test_squeeze: bool = Field(
        default=False,
        description="at test the whole picture is squeezed to a square of test_resize, whatever its proportions, before the"
        " central square is cut out",
    )
    normalize: Normalize = Field(
        default="none",
        description="channel statistics subtracted and divided by: none = [0, 1], imagenet, half, cifar100, or mean and"
        " standard deviation of red, green and blue such as 0.48,0.46,0.41/0.27,0.26,0.28",
    )
    class_order: ClassOrder = Field(
        default="shuffled",
        description="shuffled by the order seed; natural_first: seed 0 keeps the natural order; natural: every seed does;"
        " numpy, numpy_inverse: numpy's permutation, as LAMDA-PILOT and as mammoth apply it; or the classes themselves as"
        " ids or names: a list 4,2,0 or a file (.txt, .json, .npy). docs/protocols.md",
    )
    limit: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="for trying out: at most this many training and this many test images of each class; none = all",
    )
    holdout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="fraction of each class's training images that is held out for validation and never trained on",
    )
    holdout_seed: int = Field(default=0, ge=0, description="seed of the held-out images")

    @model_validator(mode="before")
    @classmethod
    def _tasks_follow_split(cls, data: Any) -> Any:
        """Take the number of tasks from ``split`` where only that is given."""
        if not isinstance(data, Mapping) or data.get("split") is None:
            return data
        sizes = read_split(data["split"])
        return {"tasks": len(sizes), **data, "split": sizes}

    @field_validator("class_order", mode="before")
    @classmethod
    def _order_is_read(cls, order: Any) -> Any:
        return read_class_order(order)

    @model_serializer(mode="wrap")
    def _leave_out_unstated(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        return {
            key: value
            for key, value in serialize(self).items()
            if key not in self.unstated_defaults or getattr(self, key) != fields[key].default
        }

    @field_validator("split")
    @classmethod
    def _sizes_are_positive(cls, split: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if split is not None and (not split or min(split) < 1):
            raise ValueError("every task needs at least one class")
        return split

    @model_validator(mode="after")
    def _split_fits_tasks(self) -> BenchmarkConfig:
        if self.split is not None and len(self.split) != self.tasks:
            raise ValueError(
                f"split={spelled(self.split)} has {len(self.split)} tasks but tasks={self.tasks}; leave out one of them"
            )
        return self

    @model_validator(mode="after")
    def _test_square_fits(self) -> BenchmarkConfig:
        if self.test_resize is not None and self.test_resize < self.image_size:
            raise ValueError(
                f"test_resize={self.test_resize} leaves no square of image_size={self.image_size}; raise it or give none"
            )
        if self.test_squeeze and self.test_resize is None:
            raise ValueError(
                "test_squeeze=True has no effect without test_resize, where the whole picture is squeezed to image_size; leave"
                " out one of them"
            )
        return self


@dataclass(frozen=True)
class BenchmarkCard:
    """Origin and licence of a benchmark; shown by ``list benchmarks`` and in reports."""

    title: str
    source: str
    licence: str
    summary: str


@dataclass(frozen=True)
class ImageSet:
    """All images of one split.

    ``images``: uint8 (N, H, W, 3), or a store that returns raw batches of rows; ``labels``: int64 (N,), class ids before
    any reordering; ``domains``: int64 (N,), positions in ``Benchmark.domain_names``, only in a domain-incremental
    benchmark. Test images without domains belong to all of them.
    """

    images: Any
    labels: NDArray[np.int64]
    domains: NDArray[np.int64] | None = None


ConfigT = TypeVar("ConfigT", bound=BenchmarkConfig)


class Benchmark(ABC, Generic[ConfigT]):
    """A data set with a protocol. Subclasses supply the images; the stream is the same for all."""

    name: ClassVar[str]
    Config: ClassVar[type[BenchmarkConfig]] = BenchmarkConfig
    card: ClassVar[BenchmarkCard]
    takes_user_data: ClassVar[bool] = False
    """Whether the images are the user's own: ``prepare`` then runs when the run is planned, while their path is known."""
    upright: ClassVar[bool] = True
    """Whether pictures are turned by their EXIF tag and put on white when they are decoded."""
    published_counts: ClassVar[tuple[int, int] | None] = None
    """Published numbers of training and test images, for plans made before the data is prepared."""

    def __init__(self, config: ConfigT, root: Path) -> None:
        """``root`` is the data folder; nothing is read before ``prepare``."""
        self.config = config
        self.root = root

    @abstractmethod
    def prepare(self, progress: ProgressCallback = silent, given: Sequence[Path] = ()) -> None:
        """Download, verify and convert once, atomically; a second call only verifies. Raises BenchmarkError.

        ``given``: archives, or folders holding them, that the user already has and that take the place of a download.
        """

    @abstractmethod
    def image_set(self, split: Split) -> ImageSet:
        """Images and original class ids of a split; ``prepare`` must have run."""

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """One name a class, indexed by original class id."""

    @property
    def kept_side(self) -> int | None:
        """Side in pixels of the central squares that ``prepare`` keeps of the pictures; None: pictures stay whole."""
        return None

    @property
    def num_classes(self) -> int:
        """Number of classes; known before ``prepare``, so that runs can be planned without data."""
        return len(self.class_names)

    @property
    def protocol(self) -> Protocol:
        """Whether new classes or new domains arrive; known before ``prepare``, or for a user's own images after it."""
        return "class"

    @property
    def domain_names(self) -> tuple[str, ...]:
        """One name a domain, indexed by ``ImageSet.domains``; empty in a class-incremental benchmark."""
        return ()

    def domain_order(self, seed: int) -> tuple[int, ...]:
        """Positions in ``domain_names`` in order of arrival, a domain a task; those left out are not used."""
        del seed
        return tuple(range(len(self.domain_names)))

    def pinned(self) -> ConfigT:
        """The configuration as it enters a run's identity.

        A path on the user's disk is replaced by a hash of its content; a benchmark with the pinned configuration finds the
        images that ``prepare`` stored under ``root``.
        """
        return self.config

    def notes(self) -> tuple[str, ...]:
        """What to know of the images, a sentence each without a full stop; complete after ``prepare``."""
        return ()

    def expected_counts(self) -> tuple[int, int] | None:
        """Numbers of training and test images for plans made before the data is prepared; None where they are not known."""
        return self.published_counts

    def images_key(self) -> str:
        """Key of what ``prepare`` makes: of benchmarks with equal names and keys, only one needs to be prepared."""
        return self.config.model_dump_json()

    def changed_settings(self) -> dict[str, Any]:
        """The fields of the configuration that are not at their defaults, as JSON."""
        usual = {name: field.get_default(call_default_factory=True) for name, field in self._fields.items()}
        dumped = self.config.model_dump(mode="json")
        return {name: dumped[name] for name, value in self.config if value != usual[name]}

    def image_settings(self) -> dict[str, Any]:
        """Those of the changed settings without which ``prepare`` would make other images.

        Where a user's own images are, and what they hold, is not among them.
        """
        key = self.images_key()

        def decides(name: str) -> bool:
            if self._fields[name].is_required():
                return True
            usual = {name: self._fields[name].get_default(call_default_factory=True)}
            try:
                return type(self)(self.config.model_copy(update=usual), self.root).images_key() != key
            except BenchmarkError:  # without their folder nothing is known of a user's images
                return False

        return {name: value for name, value in self.changed_settings().items() if decides(name)}

    @property
    def _fields(self) -> Mapping[str, FieldInfo]:
        return type(self.config).model_fields

    def content_hash(self) -> str:
        """Sha256 (hex) over names, labels and pixels of both splits, before any order is drawn."""
        digest = hashlib.sha256(json.dumps(list(self.class_names)).encode())
        for split in SPLITS:
            images = self.image_set(split)
            digest.update(f"{split} {images.images.shape}".encode())
            digest.update(images.labels.astype("<i8").tobytes())
            if images.domains is not None:
                digest.update(b"domains" + images.domains.astype("<i8").tobytes())
            for start in range(0, len(images.images), 1024):
                digest.update(np.ascontiguousarray(images.images[start : start + 1024]).data)
        return digest.hexdigest()

    def class_order(self, seed: int) -> tuple[int, ...]:
        """Original class ids in order of arrival. Raises BenchmarkError.

        Drawn by ``seed`` as the official code does (the methods' cards, 'Data') or as other toolboxes do, or as listed.
        """
        rule, count = self.config.class_order, self.num_classes
        require_order_seed(rule, seed)
        if isinstance(rule, tuple):
            return arrange(rule, self.class_names if isinstance(rule[0], str) else None, count)
        if rule in ("numpy", "numpy_inverse"):
            return permuted(count, seed, inverse=rule == "numpy_inverse")
        order = list(range(count))
        if rule == "shuffled" or (rule == "natural_first" and seed > 0):
            random.Random(seed).shuffle(order)
        return tuple(order)

    def task_sizes(self) -> tuple[int, ...]:
        """Number of classes of each task. Raises BenchmarkError if the classes cannot be divided so."""
        return task_sizes(self.num_classes, self.config.tasks, self.config.split)

    def learnt_sizes(self) -> tuple[int, ...]:
        """``task_sizes`` of the tasks that are learnt: all, or the first ``stop_after``. Raises BenchmarkError."""
        sizes, stop = self.task_sizes(), self.config.stop_after
        if stop is not None and stop > len(sizes):
            raise BenchmarkError(
                f"stop_after={stop} but {self.name} has {len(sizes)} {self.config.task_word}s; give at most {len(sizes)}, or"
                " leave it out"
            )
        return sizes[:stop]
