"""Writer of an image cache: appends to its files and hashes them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from smope_bench.benchmarks.base import SPLITS, Split
from smope_bench.benchmarks.errors import BenchmarkError

SCHEMA_VERSION = 1
CacheRecipe = Mapping[str, Any]
Kind = Literal["pixels", "encoded", "squeezed", "finished"]


@dataclass(frozen=True)
class Part:
    """One cache: its recipe, the form of its images, and its splits.

    ``pixels``: arrays of one size. ``encoded``: image files. ``squeezed``: pictures squeezed to a square, beside their
    sizes. ``finished``: pictures as the test transform leaves them. Pictures, that is all but ``pixels``, are read in the
    order of their names, so that an archive and a folder unpacked from it give the same rows.
    """

    recipe: CacheRecipe
    kind: Kind = "pixels"
    splits: tuple[Split, ...] = SPLITS
    upright: bool = False

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files beside the manifest."""
        extra = {"encoded": ("order", "ends"), "squeezed": ("order", "sizes"), "finished": ("order",)}.get(
            self.kind, ()
        )
        return tuple(f"{split}.{ending}" for split in self.splits for ending in ("images", "labels", *extra))


class CacheWriter:
    """Appends images to a cache that is being built."""

    def __init__(self, folder: Path, class_names: tuple[str, ...], part: Part) -> None:
        self.part = part
        self._class_names = class_names
        self._files = {name: _HashedFile((folder / name).open("wb")) for name in part.files}
        self._counts = dict.fromkeys(part.splits, 0)
        self._pictures: dict[Split, list[tuple[str, str]]] = {split: [] for split in part.splits}
        self._shape: tuple[int, ...] | None = None
        self.digests: dict[Split, list[bytes]] = {split: [] for split in part.splits}
        """Sha256 of every stored array, where all are of one size: to count those that are in both splits."""

    def add(self, split: Split, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
        """Append uint8 (n, H, W, 3) with class ids (n,); all of one size."""
        shape = images.shape[1:]
        if images.dtype != np.uint8 or images.ndim != 4 or shape[-1] != 3 or len(images) != len(labels):
            raise ValueError(f"cannot keep {images.dtype} {images.shape} with {len(labels)} labels")
        if self._shape not in (None, shape):
            raise ValueError(f"images of {shape} beside images of {self._shape}")
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self._class_names):
            raise ValueError(f"a label lies outside the {len(self._class_names)} classes")
        self._shape = shape
        self._counts[split] += len(images)
        if self.part.kind == "pixels":
            self.digests[split] += [hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in images]
        # Not a writable map: on a full disk it would kill the process, where a write raises an error.
        self._files[f"{split}.images"].write(np.ascontiguousarray(images))
        self._files[f"{split}.labels"].write(np.ascontiguousarray(labels, dtype="<i8"))

    def add_file(self, split: Split, data: bytes, label: int, name: str) -> None:
        """Append an image file, as it is, to a cache of kind ``encoded``."""
        if not 0 <= label < len(self._class_names):
            raise ValueError(f"a label lies outside the {len(self._class_names)} classes")
        self._counts[split] += 1
        images = self._files[f"{split}.images"]
        images.write(np.frombuffer(data, np.uint8))
        self._files[f"{split}.ends"].write(np.array([images.bytes], dtype="<i8"))
        self._files[f"{split}.labels"].write(np.array([label], dtype="<i8"))
        self._note(split, name, label, data)

    def add_picture(
        self, split: Split, pixels: NDArray[np.uint8], label: int, name: str, size: tuple[int, int]
    ) -> None:
        """Append a picture's pixels (H, W, 3); a cache of kind ``squeezed`` also keeps its ``size`` before that."""
        self.add(split, pixels[None], np.array([label], dtype=np.int64))
        if self.part.kind == "squeezed":
            self._files[f"{split}.sizes"].write(np.array([size], dtype="<i8"))
        self._note(split, name, label, f"{size}".encode() + pixels.tobytes())

    def _note(self, split: Split, name: str, label: int, content: bytes) -> None:
        self._pictures[split].append((name, f"{label} {hashlib.sha256(content).hexdigest()}"))

    def finish(self) -> dict[str, Any]:
        """Flush to disk and return the manifest."""
        for split, count in self._counts.items():
            if not count:
                raise BenchmarkError(f"there are no {split} images")
        pictures = {} if self.part.kind == "pixels" else {"pictures": self._sorted_pictures()}
        return {
            "schema_version": SCHEMA_VERSION,
            "recipe": self.part.recipe,
            "class_names": list(self._class_names),
            "image_shape": list(self._shape or ()),
            "counts": dict(self._counts),
            **pictures,
            "files": {name: file.sync() for name, file in self._files.items()},
        }

    def _sorted_pictures(self) -> dict[str, str]:
        """Write where the pictures lie in the order of their names; returns a sha256 (hex) of each split's in that order."""
        digests: dict[str, str] = {}
        for split, pictures in self._pictures.items():
            order = sorted(range(len(pictures)), key=lambda row: pictures[row][0])
            self._files[f"{split}.order"].write(np.array(order, dtype="<i8"))
            digests[split] = hashlib.sha256("\n".join(pictures[row][1] for row in order).encode()).hexdigest()
        return digests

    def close(self) -> None:
        """Close every file; may be called twice."""
        for file in self._files.values():
            file.close()


class _HashedFile:
    """A file whose sha256 grows with every write."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._digest, self.bytes = file, hashlib.sha256(), 0

    def write(self, data: NDArray[Any]) -> None:
        self._digest.update(data.data)
        self.bytes += data.nbytes
        self._file.write(data.data)

    def sync(self) -> dict[str, Any]:
        self._file.flush()
        os.fsync(self._file.fileno())
        return {"sha256": self._digest.hexdigest(), "bytes": self.bytes}

    def close(self) -> None:
        self._file.close()
