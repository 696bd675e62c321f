"""Avalanche, both ways: our streams for its strategies, and its benchmarks, of new classes or new domains, for our methods.

Avalanche takes seconds to import: it is imported when a stream is converted, not with this module.
"""

from __future__ import annotations

import hashlib
import json
import random
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, field_validator

from smope_bench.benchmarks.avalanche.reader import Arrival, read_arrival, read_images, say_task_labels
from smope_bench.benchmarks.base import (
    SPLITS,
    Benchmark,
    BenchmarkCard,
    BenchmarkConfig,
    ClassOrder,
    ImageSet,
    ProgressCallback,
    Protocol,
    Split,
)
from smope_bench.benchmarks.base import silent as quiet
from smope_bench.benchmarks.domains import cell_names, in_domains, names_of_cells
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.image_store.cached_benchmark import CachedBenchmark
from smope_bench.benchmarks.stream import Stream, View, build_stream

if TYPE_CHECKING:
    from avalanche.benchmarks import CLScenario

    from smope_bench.benchmarks.image_store.cache import CacheWriter

RULES = 1  # increase when the stored pixels of the same benchmark change


def to_avalanche(
    stream: Stream, *, train_transform: bool = True, seed: int = 0, task_labels: bool = True
) -> CLScenario:
    """The stream as an Avalanche benchmark: one experience a task, streams ``train``, ``test`` and, with a holdout, ``valid``.

    Items are (float32 tensor (3, S, S), new label, task label 0); ``dataset.rows`` are the rows of the view. Training items
    are augmented by a generator made of ``seed`` (not with ``train_transform=False``). With
    ``task_labels=False`` experiences do not list task labels, which lets Avalanche 0.6 load training images by the batch.
    No random number is drawn and no generator is seeded.
    """
    from smope_bench.benchmarks.avalanche.streams import scenario_of

    return scenario_of(stream, augment=train_transform, seed=seed, task_labels=task_labels)


def from_avalanche(scenario: Any, *, image_size: int, progress: ProgressCallback = quiet, **settings: Any) -> Stream:
    """The stream of an Avalanche benchmark, its images read into memory under their eval transforms.

    Where classes come again, every experience is a domain; one test experience for all of them is tested on after each.
    Class order is that of arrival; classes of one experience are ordered by their ids. A row is an image's place in its
    split, experience after experience, or the datasets' attribute ``rows``. A ``valid`` stream becomes
    the validation views. ``settings`` are those of every benchmark (augment, normalize, ...), as in ``BenchmarkConfig``.
    Raises BenchmarkError for classes that are untested or numbered anew, and for pixels that are not uint8 or floats in [0, 1].
    """
    arrival = read_arrival(scenario)
    say_task_labels(arrival, progress)
    valid = "valid" if "valid" in scenario.streams else None
    if valid and settings.get("holdout"):
        raise BenchmarkError("the Avalanche benchmark holds images out in its valid stream; leave out holdout")
    try:
        config = _config(BenchmarkConfig(image_size=image_size, **settings), arrival)
    except ValidationError as error:
        raise BenchmarkError(f"from_avalanche: {error.errors()[0]['msg']} ({error.errors()[0]['loc'][0]})") from error
    train, is_valid = _together(scenario, ["train", *([valid] if valid else [])], arrival)
    test, _ = _together(scenario, ["test"], arrival)
    benchmark = _InMemory(config, arrival, {"train": train, "test": test})
    stream = build_stream(benchmark, 0)
    return _with_validation(stream, is_valid) if valid else stream


class AvalancheConfig(BenchmarkConfig):
    """Settings of an Avalanche benchmark. Tasks and class order are the benchmark's own; ``content`` is a hash of its images."""

    tasks_follow_data: ClassVar[bool] = True

    class_order: ClassOrder = Field(default="natural", description="that of arrival in the Avalanche benchmark")
    content: str | None = Field(
        default=None, pattern="^[0-9a-f]{64}$", description="hash of images, labels and tasks; filled in when planned"
    )

    @field_validator("class_order")
    @classmethod
    def _order_is_given(cls, order: ClassOrder) -> ClassOrder:
        if order != "natural":
            raise ValueError("the order of classes is that of the Avalanche benchmark; make the benchmark with another")
        return order


class AvalancheBenchmark(CachedBenchmark[AvalancheConfig]):
    """Base of a plugin that runs our methods on an Avalanche benchmark: a subclass has a name, a card and ``scenario``."""

    takes_user_data: ClassVar[bool] = True
    Config: ClassVar[type[BenchmarkConfig]] = AvalancheConfig

    @abstractmethod
    def scenario(self) -> CLScenario:
        """Make the Avalanche benchmark, the same at every call; the states of global generators are restored afterwards."""

    def prepare(self, progress: ProgressCallback = quiet, given: Sequence[Path] = ()) -> None:
        """Read the benchmark and store its images under their hash, unless they are there."""
        if self.config.content is None:
            say_task_labels(self._arrival, progress)
        super().prepare(progress, given)

    @property
    def protocol(self) -> Protocol:
        """``domain`` where classes come again; a pinned configuration then has no split."""
        known = self._arrival.domains if self.config.content is None else self.config.split is None
        return "domain" if known else "class"

    @property
    def class_names(self) -> tuple[str, ...]:
        return self._names[1]

    @property
    def domain_names(self) -> tuple[str, ...]:
        """The experiences, where classes come again."""
        return self._names[0]

    @cached_property
    def _names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        if self.config.content is None:
            return self._arrival.domains, self._arrival.names
        stored = self.opened().class_names
        return names_of_cells(stored) if self.protocol == "domain" else ((), stored)

    def names_to_store(self, progress: ProgressCallback) -> tuple[str, ...]:
        del progress
        domains, names = self._names
        return cell_names(domains, names) if domains else names

    def image_set(self, split: Split) -> ImageSet:
        found, classes = super().image_set(split), len(self.class_names)
        if self.protocol == "class" or (split == "test" and int(found.labels.max()) < classes):  # one test for all
            return found
        return in_domains(found, classes)

    def task_sizes(self) -> tuple[int, ...]:
        """Classes of each experience, or all of them where they come again."""
        return self.pinned().split or (len(self.class_names),) * len(self.domain_names)

    def pinned(self) -> AvalancheConfig:
        """The configuration with the benchmark's own tasks, and the hash of its images."""
        if self.config.content is not None:
            return self.config
        return _config(self.config, self._arrival).model_copy(update={"content": self._content})

    def recipe(self) -> dict[str, Any]:
        return {"benchmark": self.name, "rules": RULES, "content": self.config.content or self._content}

    def missing(self) -> BenchmarkError:
        return BenchmarkError(f"{self.name}: no intact images under {self.root}; plan the run anew with its plugin")

    def fill(self, writer: CacheWriter, progress: ProgressCallback) -> None:
        """Read every image once more."""
        digest = _digest_of(self._arrival)
        for split in SPLITS:
            progress(f"{self.name}: keeping the {split} stream")
            for chunk in self._chunks(split, digest):
                writer.add(split, *chunk)
        if digest.hexdigest() != (self.config.content or self._content):
            raise BenchmarkError(
                f"{self.name}: the images differ from one reading to the next; make eval transforms fixed"
            )

    @cached_property
    def _scenario(self) -> Any:
        with _generators_kept():
            try:
                return self.scenario()
            except Exception as error:  # the user's code may raise anything
                raise BenchmarkError(f"{self.name}: scenario() failed with {type(error).__name__}: {error}") from error

    @cached_property
    def _arrival(self) -> Arrival:
        return read_arrival(self._scenario)

    @cached_property
    def _content(self) -> str:
        digest = _digest_of(self._arrival)
        for split in SPLITS:
            for _ in self._chunks(split, digest):
                pass
        return digest.hexdigest()

    def _chunks(self, split: Split, digest: Any) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
        with _generators_kept():
            for chunk in read_images(self._scenario, split, self._arrival):
                digest.update(f"{split} {chunk.images.shape}".encode())
                digest.update(chunk.labels.astype("<i8").tobytes() + chunk.images.tobytes())
                shared = not self._arrival.domains or (split == "test" and self._arrival.shares_tests)
                yield chunk.images, chunk.labels + (0 if shared else chunk.experience * len(self._arrival.names))


class _InMemory(Benchmark[BenchmarkConfig]):
    """A benchmark that has been read."""

    name: ClassVar[str] = "avalanche"
    card: ClassVar[BenchmarkCard] = BenchmarkCard("Avalanche", "an Avalanche benchmark", "that of its images", "read")

    def __init__(self, config: BenchmarkConfig, arrival: Arrival, sets: dict[Split, ImageSet]) -> None:
        super().__init__(config, Path())
        self._arrival, self._sets = arrival, sets

    def prepare(self, progress: ProgressCallback = quiet, given: Sequence[Path] = ()) -> None:
        """Nothing to do."""

    @property
    def protocol(self) -> Protocol:
        return "domain" if self._arrival.domains else "class"

    @property
    def class_names(self) -> tuple[str, ...]:
        return self._arrival.names

    @property
    def domain_names(self) -> tuple[str, ...]:
        return self._arrival.domains

    def task_sizes(self) -> tuple[int, ...]:
        """Classes of each experience."""
        return self._arrival.sizes

    def image_set(self, split: Split) -> ImageSet:
        return self._sets[split]


def _config(config: Any, arrival: Arrival) -> Any:
    """A configuration with the tasks of an Avalanche benchmark; other tasks are refused."""
    asked = {name: getattr(config, name) for name in ("tasks", "split") if name in config.model_fields_set}
    own = {"tasks": len(arrival.sizes), "split": None if arrival.domains else arrival.sizes}
    for name, value in asked.items():
        if value is not None and value != own[name]:
            raise BenchmarkError(f"{name}={value} but the Avalanche benchmark has {name}={own[name]}; leave {name} out")
    return config.model_copy(update={**own, "class_order": "natural"})


def _together(scenario: Any, names: Sequence[str], arrival: Arrival) -> tuple[ImageSet, NDArray[np.bool_]]:
    """Streams joined into one split, and a mask of the rows of the last one, if there are several."""
    chunks = [(name, chunk) for name in names for chunk in read_images(scenario, name, arrival)]
    images = np.concatenate([chunk.images for _, chunk in chunks])
    labels = np.concatenate([chunk.labels for _, chunk in chunks])
    last = np.concatenate([np.full(len(chunk.labels), name != names[0]) for name, chunk in chunks])
    domains = np.concatenate([np.full(len(chunk.labels), chunk.experience, dtype=np.int64) for _, chunk in chunks])
    told = [chunk.rows for _, chunk in chunks if chunk.rows is not None]
    rows = np.concatenate(told) if told else np.empty(0, dtype=np.int64)
    if np.array_equal(np.sort(rows), np.arange(len(labels))):
        order = np.argsort(rows)
        images, labels, last, domains = images[order], labels[order], last[order], domains[order]
    in_one = not arrival.domains or (names[0] == "test" and arrival.shares_tests)
    return ImageSet(images, labels, None if in_one else domains), last


def _with_validation(stream: Stream, is_valid: NDArray[np.bool_]) -> Stream:
    """The stream with the marked training rows in its validation views."""

    def part(view: View, held: bool) -> View:
        chosen = is_valid[view.rows] == held
        return View(view.images, view.rows[chosen], view.labels[chosen])

    tasks = tuple(
        replace(task, train=part(task.train, False), validation=part(task.train, True)) for task in stream.tasks
    )
    held = hashlib.sha256(f"{stream.split_hash} held out {np.flatnonzero(is_valid).tolist()}".encode()).hexdigest()
    return replace(stream, tasks=tasks, split_hash=held)


def _digest_of(arrival: Arrival) -> Any:
    domains = [arrival.domains, arrival.shares_tests] if arrival.domains else []
    return hashlib.sha256(json.dumps([arrival.names, arrival.classes, arrival.sizes, *domains]).encode())


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Restore the generators of torch, numpy and Python: some of Avalanche's functions seed them."""
    import torch

    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
