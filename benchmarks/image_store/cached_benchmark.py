"""Base of benchmarks with an image cache."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from smope_bench.benchmarks.base import Benchmark, ConfigT, ImageSet, ProgressCallback, Split, silent
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.image_store.cache import (
    CacheRecipe,
    CacheState,
    CacheWriter,
    ImageCache,
    Part,
    build_caches,
    cache_folder,
    open_cache,
    verify_caches,
)
from smope_bench.benchmarks.image_store.stores import made_of, note_use, remarks_on
from smope_bench.benchmarks.protocol import data_command


class CachedBenchmark(Benchmark[ConfigT]):
    """A benchmark whose images are made once and stored: a subclass gives their recipe and makes them."""

    given: tuple[Path, ...] = ()
    """Archives given by the user, for ``fill``."""
    remarks: list[str]
    """What was remarked on the images while they were made, a sentence each."""

    @abstractmethod
    def recipe(self) -> CacheRecipe:
        """Everything the stored images depend on, as JSON: source, sizes, seeds and a version of the code's rules."""

    @abstractmethod
    def fill(self, writer: CacheWriter, progress: ProgressCallback) -> None:
        """Make all images of both splits."""

    def parts(self) -> tuple[Part, ...]:
        """The caches that hold the images: one, unless splits depend on different things."""
        return (Part(self.recipe()),)

    def fill_parts(self, writers: Sequence[CacheWriter], progress: ProgressCallback) -> None:
        """Make the images of the missing parts, one writer each."""
        for writer in writers:
            self.fill(writer, progress)

    def names_to_store(self, progress: ProgressCallback) -> tuple[str, ...]:
        """Class names of caches to be built, for benchmarks that read them from their source."""
        del progress
        return self.class_names

    @property
    def origin(self) -> Path | None:
        """The user's folder that the images are made of, where they are the user's own."""
        return None

    def notes(self) -> tuple[str, ...]:
        """What was remarked on the images when they were made."""
        folders = (cache_folder(self.cache_parent, part.recipe) for part in self.parts())
        return tuple(dict.fromkeys(remark for folder in folders for remark in remarks_on(folder)))

    @property
    def cache_parent(self) -> Path:
        """The folder of this benchmark's caches."""
        return self.root / self.name

    def prepare(self, progress: ProgressCallback = silent, given: Sequence[Path] = ()) -> None:
        """Build the caches, or verify every byte of those that are there. Raises BenchmarkError."""
        self.given = tuple(given)

        def fill(writers: Sequence[CacheWriter]) -> None:
            self.fill_parts(writers, progress)
            for writer in writers:
                self.state_repeats(writer.digests, progress)

        parent, self.remarks = self.cache_parent, []
        lacking = [part for part in self.parts() if open_cache(parent, part, verify=True) is None]
        if any(cache_folder(parent, part.recipe).exists() for part in lacking):
            progress(f"{self.name}: the stored images cannot be read or do not match their manifest, and are made anew")
        if lacking:
            build_caches(parent, lacking, self.names_to_store(progress), fill)
        for part in self.parts():
            folder = cache_folder(parent, part.recipe)
            is_new = part in lacking or made_of(folder).settings is None
            remarks = self.remarks if part in lacking else None
            note_use(folder, self.origin, remarks, self._made_with() if is_new else None)
        self.task_sizes()  # raises for an impossible split

    def state_repeats(self, digests: Mapping[Split, Sequence[bytes]], progress: ProgressCallback) -> None:
        """Remark on images of both splits, by their digests. A user's own are compared before, file by file."""
        trained, tested = set(digests.get("train", ())), digests.get("test", ())
        repeated = sum(digest in trained for digest in tested)
        if repeated and not self.takes_user_data:
            self.remarks.append(
                f"{repeated:,} of {len(tested):,} test images are copies of training images, as published"
            )
            progress(f"{self.name}: {self.remarks[-1]}")

    def images_key(self) -> str:
        return json.dumps([part.recipe for part in self.parts()], sort_keys=True)

    def verify(self, progress: ProgressCallback = silent) -> list[CacheState]:
        """Verify all caches of this benchmark, of any settings."""
        states = []
        for state in verify_caches(self.cache_parent):
            states.append(state)
            progress(f"{self.name}: {state.name} is {state.state}")
        return states

    def image_set(self, split: Split) -> ImageSet:
        """Open a split of the cache. Raises BenchmarkError where ``prepare`` has not run."""
        return self.opened(split).image_set(split)

    def content_hash(self) -> str:
        """The hash of the caches' manifests, which hold the hashes of their files."""
        hashes = [self._open(part).content_hash for part in self.parts()]
        return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()

    def is_prepared(self) -> bool:
        """Whether the images of this configuration are stored; their bytes are not verified."""
        return all(open_cache(self.cache_parent, part) is not None for part in self.parts())

    def missing(self) -> BenchmarkError:
        """The error if the images are not prepared."""
        return BenchmarkError(f"{self.name}: no prepared images under {self.root}; call `{self.preparation}`")

    @property
    def preparation(self) -> str:
        """The command that makes these images."""
        place = {} if self.origin is None else {"path": str(self.origin)}
        return data_command("prepare", self.name, self.root, {**place, **self._made_with()})

    def _made_with(self) -> dict[str, Any]:
        """Settings that make the images of this configuration, with the tasks, which must fit the classes."""
        tasks = {name: value for name, value in self.changed_settings().items() if name in ("tasks", "split")}
        return {**tasks, **self.image_settings()}

    def opened(self, split: Split = "train") -> ImageCache:
        """The cache of a split, its sizes checked. Raises ``missing``."""
        return self._open(next(part for part in self.parts() if split in part.splits))

    def _open(self, part: Part) -> ImageCache:
        cache = open_cache(self.cache_parent, part)
        if cache is None:
            raise self.missing()
        return cache
