"""Decoded images, kept once: memory-mapped uint8 files beside a manifest with their hashes.

A cache is keyed by what it was made of (its recipe), appears under its name only when complete, and is never trusted:
one whose manifest, sizes or hashes do not fit is built anew.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.base import SPLITS, ImageSet, Split
from benchmarks.errors import BenchmarkError

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
CHUNK = 1 << 22
ABANDONED_AFTER_S = 24 * 3600.0  # a temporary folder older than this belongs to nobody any more

Recipe = Mapping[str, Any]


@dataclass(frozen=True)
class ImageCache:
    """An opened cache."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name a class, indexed by original class id."""
        return tuple(self.manifest["class_names"])

    @property
    def content_hash(self) -> str:
        """Sha256 (hex) over class names and the hashes of all files: names the data without reading them."""
        fields = {key: self.manifest[key] for key in ("class_names", "image_shape", "files")}
        return hashlib.sha256(_canonical(fields)).hexdigest()

    def image_set(self, split: Split) -> ImageSet:
        """Map a split read-only: nothing is loaded until it is indexed."""
        shape = (self.manifest["counts"][split], *self.manifest["image_shape"])
        images = np.memmap(self.folder / f"{split}.images", dtype=np.uint8, mode="r", shape=shape)
        labels = np.fromfile(self.folder / f"{split}.labels", dtype="<i8").astype(np.int64)
        return ImageSet(images, labels)


class CacheWriter:
    """Appends images to a cache that is being built."""

    def __init__(self, folder: Path, class_names: tuple[str, ...]) -> None:
        self._class_names = class_names
        self._files: dict[str, _HashedFile] = {}
        for split in SPLITS:
            for kind in ("images", "labels"):
                self._files[f"{split}.{kind}"] = _HashedFile((folder / f"{split}.{kind}").open("wb"))
        self._counts = dict.fromkeys(SPLITS, 0)
        self._shape: tuple[int, ...] | None = None

    def add(self, split: Split, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
        """Append uint8 (n, H, W, 3) with class ids (n,); every call must bring images of one size."""
        shape = images.shape[1:]
        if images.dtype != np.uint8 or images.ndim != 4 or shape[-1] != 3 or len(images) != len(labels):
            raise ValueError(f"cannot keep {images.dtype} {images.shape} with {len(labels)} labels")
        if self._shape not in (None, shape):
            raise ValueError(f"images of {shape} beside images of {self._shape}")
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self._class_names):
            raise ValueError(f"a label lies outside the {len(self._class_names)} classes")
        self._shape = shape
        self._counts[split] += len(images)
        # Plain writes, no writable map: on a full disk they fail with an error, a map would kill the process.
        self._files[f"{split}.images"].write(np.ascontiguousarray(images))
        self._files[f"{split}.labels"].write(np.ascontiguousarray(labels, dtype="<i8"))

    def finish(self, recipe: Recipe) -> dict[str, Any]:
        """Flush to disk and return the manifest."""
        for split, count in self._counts.items():
            if not count:
                raise BenchmarkError(f"there are no {split} images")
        return {
            "schema_version": SCHEMA_VERSION,
            "recipe": recipe,
            "class_names": list(self._class_names),
            "image_shape": list(self._shape or ()),
            "counts": dict(self._counts),
            "files": {name: file.sync() for name, file in self._files.items()},
        }

    def close(self) -> None:
        """Close every file; harmless when already closed."""
        for file in self._files.values():
            file.close()


class _HashedFile:
    """A file whose sha256 grows with every write."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._digest, self._bytes = file, hashlib.sha256(), 0

    def write(self, data: NDArray[Any]) -> None:
        self._digest.update(data.data)
        self._bytes += data.nbytes
        self._file.write(data.data)

    def sync(self) -> dict[str, Any]:
        self._file.flush()
        os.fsync(self._file.fileno())
        return {"sha256": self._digest.hexdigest(), "bytes": self._bytes}

    def close(self) -> None:
        self._file.close()


def cache_folder(parent: Path, recipe: Recipe) -> Path:
    """Where the cache of a recipe lives: ``<parent>/<first 16 hex digits of the recipe's sha256>``."""
    return parent / hashlib.sha256(_canonical(recipe)).hexdigest()[:16]


def open_cache(parent: Path, recipe: Recipe, verify: bool = False) -> ImageCache | None:
    """Open the cache of a recipe, or return None where there is none that fits.

    Sizes are always checked; ``verify`` also reads every byte and compares hashes.
    """
    folder = cache_folder(parent, recipe)
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        if _canonical([manifest["schema_version"], manifest["recipe"]]) != _canonical([SCHEMA_VERSION, recipe]):
            return None
        for split in SPLITS:
            for kind, size in (("images", int(np.prod(manifest["image_shape"]))), ("labels", 8)):
                name = f"{split}.{kind}"
                entry, path = manifest["files"][name], folder / name
                if not path.stat().st_size == entry["bytes"] == manifest["counts"][split] * size:
                    return None
                if verify and _sha256(path) != entry["sha256"]:
                    return None
        return ImageCache(folder, manifest)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # absent, unreadable or of another shape: all mean "build it"


def build_cache(
    parent: Path, recipe: Recipe, class_names: tuple[str, ...], fill: Callable[[CacheWriter], None]
) -> ImageCache:
    """Build the cache of a recipe in a temporary folder and publish it by renaming; replaces one that does not fit.

    Raises BenchmarkError where the disk is full or the folder cannot be written; nothing half-built stays behind.
    """
    target = cache_folder(parent, recipe)
    temporary: Path | None = None
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _sweep(parent)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=parent))
        writer = CacheWriter(temporary, class_names)
        try:
            fill(writer)
            manifest = writer.finish(recipe)
        finally:
            writer.close()
        _write_synced(temporary / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode())
        return _publish(temporary, target, parent, recipe)
    except OSError as error:
        raise BenchmarkError(_in_words(error, parent)) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _publish(temporary: Path, target: Path, parent: Path, recipe: Recipe) -> ImageCache:
    """Rename into place. Whoever comes second with the same recipe takes what the first has published."""
    if target.exists() and open_cache(parent, recipe, verify=True) is None:
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=parent))
        target.rename(aside / "refused")
        shutil.rmtree(aside, ignore_errors=True)
    try:
        temporary.rename(target)
        _sync_folder(parent)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
    cache = open_cache(parent, recipe)
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
        return f"no space is left to keep images under {parent}; free some or choose another data folder"
    return f"images cannot be kept under {parent} ({error.strerror or error}); choose another data folder"


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
