"""Images of a benchmark, kept once in a few large files beside a manifest with their hashes.

A cache is keyed by its recipe and renamed into place when it is complete. One whose manifest, sizes or hashes do not fit is built
again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from smope_bench.benchmarks.base import ImageSet, Split
from smope_bench.benchmarks.disk import refusal
from smope_bench.benchmarks.durable import make_folder, sync_folder, unfinished
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.image_store.arrays import (
    EncodedStore,
    FinishedStore,
    OrderedStore,
    SqueezedStore,
    Store,
    StoredArray,
)
from smope_bench.benchmarks.image_store.writer import SCHEMA_VERSION, CacheRecipe, CacheWriter, Part

MANIFEST = "manifest.json"
ABANDONED_AFTER_S = 24 * 3600.0  # older temporary folders are of killed processes


class _File(BaseModel):
    bytes: int
    sha256: str


class _Manifest(BaseModel):
    """Form of a manifest, as the writer makes it."""

    schema_version: int
    recipe: dict[str, Any]
    class_names: list[str]
    image_shape: list[int]
    counts: dict[str, int]
    files: dict[str, _File]


@dataclass(frozen=True)
class ImageCache:
    """An opened cache."""

    folder: Path
    manifest: Mapping[str, Any]
    part: Part

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name a class, indexed by original class id."""
        return tuple(self.manifest["class_names"])

    @property
    def content_hash(self) -> str:
        """Sha256 (hex) over class names and the hashes of all files: names the data without reading them.

        Pictures count in the order of their names, not in that of the files, which depends on their source.
        """
        content = "pictures" if "pictures" in self.manifest else "files"
        fields = {key: self.manifest[key] for key in ("class_names", "image_shape", content)}
        return hashlib.sha256(_canonical(fields)).hexdigest()

    def image_set(self, split: Split) -> ImageSet:
        """Open a split: images are read when they are indexed."""
        store, labels = self._store(split), self._numbers(split, "labels")
        if self.part.kind == "pixels":
            return ImageSet(store, labels)
        order = self._numbers(split, "order")
        return ImageSet(OrderedStore(store, order), labels[order])

    def _store(self, split: Split) -> Store:
        path = self.folder / f"{split}.images"
        if self.part.kind == "encoded":
            offsets = np.concatenate([np.zeros(1, np.int64), self._numbers(split, "ends")])
            return EncodedStore(path, offsets, self.part.upright)
        pixels = StoredArray(path, "u1", (self.manifest["counts"][split], *self.manifest["image_shape"]))
        if self.part.kind == "squeezed":
            return SqueezedStore(pixels, self._numbers(split, "sizes").reshape(-1, 2))
        return FinishedStore(pixels) if self.part.kind == "finished" else pixels

    def _numbers(self, split: Split, ending: str) -> NDArray[np.int64]:
        return np.fromfile(self.folder / f"{split}.{ending}", dtype="<i8").astype(np.int64)


@dataclass(frozen=True)
class CacheState:
    """Result of verifying a cache.

    ``bytes``: total size of the existing files; ``bad``: names of files that are missing or differ from the manifest.
    """

    name: str
    bytes: int
    bad: tuple[str, ...] = ()

    @property
    def state(self) -> Literal["intact", "damaged"]:
        """``intact`` if every file agrees with the manifest."""
        return "damaged" if self.bad else "intact"


def cache_folder(parent: Path, recipe: CacheRecipe) -> Path:
    """The folder of a recipe's cache: ``<parent>/<first 16 hex digits of the recipe's sha256>``."""
    return parent / hashlib.sha256(_canonical(recipe)).hexdigest()[:16]


def open_cache(parent: Path, part: Part, verify: bool = False) -> ImageCache | None:
    """Open a cache, or return None if none fits.

    Sizes are always checked; ``verify`` also reads every byte and compares hashes.
    """
    folder = cache_folder(parent, part.recipe)
    try:
        manifest = read_manifest(folder)
        if _canonical([manifest["schema_version"], manifest["recipe"]]) != _canonical([SCHEMA_VERSION, part.recipe]):
            return None
        if not (manifest["files"].keys() >= set(part.files) and manifest["counts"].keys() >= set(part.splits)):
            return None
        for name in part.files:
            entry, size = manifest["files"][name], (folder / name).stat().st_size
            if size != entry["bytes"] or size != _expected_bytes(name, part, manifest):
                return None
        if verify and _bad_files(folder, manifest):
            return None
        return ImageCache(folder, manifest, part)
    except (OSError, ValueError, RecursionError):
        return None  # absent, unreadable or of another shape: all mean "build it"


def verify_caches(parent: Path) -> Iterable[CacheState]:
    """Verify every cache below ``parent``, of any recipe. Raises BenchmarkError for one that cannot be listed."""
    for folder in sorted(path for path in parent.glob("[0-9a-f]" * 16) if path.is_dir()):
        try:
            size = sum(path.stat().st_size for path in folder.iterdir())
        except OSError as error:
            raise BenchmarkError(
                f"{folder} cannot be read ({error.strerror}); make it readable, or choose another data folder"
            ) from error
        try:
            manifest = read_manifest(folder)
            named = cache_folder(parent, manifest["recipe"]) == folder
            bad = _bad_files(folder, manifest) if named and manifest["files"] else (MANIFEST,)
        except (OSError, ValueError, RecursionError):
            bad = (MANIFEST,)
        yield CacheState(folder.name, size, bad)


def build_caches(
    parent: Path, parts: Sequence[Part], class_names: tuple[str, ...], fill: Callable[[Sequence[CacheWriter]], None]
) -> list[ImageCache]:
    """Build caches in temporary folders and publish each by renaming; replaces those that do not fit.

    Raises BenchmarkError where the disk is full or the folder cannot be written; incomplete caches are removed.
    """
    folders: list[Path] = []
    try:
        try:
            with ExitStack() as open_files:
                make_folder(parent)
                _sweep(parent)
                writers = []
                for part in parts:
                    prefix = f".{cache_folder(parent, part.recipe).name}-"
                    folders.append(unfinished(parent, prefix))
                    folders[-1].mkdir()
                    writers.append(open_files.enter_context(closing(CacheWriter(folders[-1], class_names, part))))
                fill(writers)
                manifests = [writer.finish() for writer in writers]
            for folder, manifest in zip(folders, manifests, strict=True):
                _write_synced(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode())
                sync_folder(folder)
            return [_publish(folder, part, parent) for folder, part in zip(folders, parts, strict=True)]
        finally:
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise BenchmarkError(_in_words(error, parent)) from error


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a cache. Raises OSError, ValueError or RecursionError for one that is absent or of another form."""
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    _Manifest.model_validate(manifest, strict=True)
    return manifest


def _expected_bytes(name: str, part: Part, manifest: Mapping[str, Any]) -> int:
    """The size that a file must have by the number of images."""
    split, ending = name.split(".")
    if ending != "images":
        return manifest["counts"][split] * (16 if ending == "sizes" else 8)
    if part.kind == "encoded":
        return manifest["files"][name]["bytes"]
    return manifest["counts"][split] * int(np.prod(manifest["image_shape"]))


def _bad_files(folder: Path, manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Files that are absent or not what the manifest says."""
    return tuple(name for name, entry in manifest["files"].items() if _sha256(folder / name) != entry["sha256"])


def _publish(temporary: Path, part: Part, parent: Path) -> ImageCache:
    """Rename into place; if another process has published the same recipe first, use that one."""
    target = cache_folder(parent, part.recipe)
    if target.exists() and open_cache(parent, part, verify=True) is None:
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=parent))
        target.rename(aside / "refused")
        shutil.rmtree(aside, ignore_errors=True)
    try:
        temporary.rename(target)
        sync_folder(parent)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
    cache = open_cache(parent, part)
    if cache is None:
        raise BenchmarkError(f"the image cache {target} was changed by somebody else while it was built; try again")
    return cache


def _sweep(parent: Path) -> None:
    """Remove temporary folders that killed processes have left behind."""
    for leftover in parent.glob(".*-*"):
        if leftover.is_dir() and time.time() - leftover.stat().st_mtime > ABANDONED_AFTER_S:
            shutil.rmtree(leftover, ignore_errors=True)


def _in_words(error: OSError, parent: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space is left to keep images under {parent} ({refusal(error, parent)}); free some or choose another data folder"
    return f"images cannot be kept under {parent} ({refusal(error, parent)}); choose another data folder"


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
