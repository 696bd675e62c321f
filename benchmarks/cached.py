"""What benchmarks that keep their images in an image cache share."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

from benchmarks.base import Benchmark, ConfigT, ImageSet, Progress, Split, silent
from benchmarks.errors import BenchmarkError
from benchmarks.image_cache import CacheWriter, ImageCache, Recipe, build_cache, cache_folder, open_cache


class CachedBenchmark(Benchmark[ConfigT]):
    """A benchmark whose images are made once and then mapped: a subclass says what they are made of, and makes them."""

    @abstractmethod
    def recipe(self) -> Recipe:
        """Everything the stored images depend on, as JSON: source, sizes, seeds and a version of the code's rules."""

    @abstractmethod
    def fill(self, writer: CacheWriter, progress: Progress) -> None:
        """Make all images of both splits."""

    @property
    def cache_parent(self) -> Path:
        """The folder of this benchmark's caches."""
        return self.root / self.name

    def prepare(self, progress: Progress = silent) -> None:
        """Build the cache, or verify every byte of the one that is there. Raises BenchmarkError."""
        recipe = self.recipe()
        if open_cache(self.cache_parent, recipe, verify=True) is None:
            if cache_folder(self.cache_parent, recipe).exists():
                progress(f"{self.name}: the stored images do not match their manifest and are made anew")
            build_cache(self.cache_parent, recipe, self.class_names, lambda writer: self.fill(writer, progress))
        self.task_sizes()  # an impossible split is said here, before anything trains

    def image_set(self, split: Split) -> ImageSet:
        """Map a split of the cache. Raises BenchmarkError where ``prepare`` has not run."""
        return self.opened().image_set(split)

    def content_hash(self) -> str:
        """The hash of the cache's manifest, which holds the hashes of its files."""
        return self.opened().content_hash

    def missing(self) -> BenchmarkError:
        """What to say where the images are needed and are not there."""
        return BenchmarkError(f"{self.name}: no prepared images under {self.root}; call prepare first")

    def opened(self) -> ImageCache:
        """The cache, its sizes checked. Raises ``missing``."""
        cache = open_cache(self.cache_parent, self.recipe())
        if cache is None:
            raise self.missing()
        return cache
