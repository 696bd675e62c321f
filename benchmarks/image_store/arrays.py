"""Stored images of a benchmark and raw batches of them; only the requested rows are read.

Files are not memory-mapped: pages of a map count as the process's memory, which would grow with the data read.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.protocol import data_command


@dataclass(frozen=True, eq=False)
class Squeezed:
    """Whole pictures squeezed to a square. ``pixels``: uint8 (B, S, S, 3); ``sizes``: int64 (B, 2), height and width before."""

    pixels: NDArray[np.uint8]
    sizes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass(frozen=True, eq=False)
class Finished:
    """Pictures as the test transform leaves them. ``pixels``: uint8 (B, S, S, 3), S = image_size."""

    pixels: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass(frozen=True, eq=False)
class Encoded:
    """Image files as they are, not decoded. ``upright``: whether they are turned by their EXIF tag and put on white.

    ``names``: of the pictures, for messages; may be empty.
    ``normalize``: the statistics of each picture, where not all are normalised alike. ``remedy``: for one that cannot be read.
    """

    files: tuple[bytes, ...]
    upright: bool = False
    names: tuple[str, ...] = ()
    normalize: tuple[str, ...] | None = None
    remedy: str = "put an intact one in its place"

    def __len__(self) -> int:
        return len(self.files)

    def name(self, number: int) -> str:
        """The name of a picture in messages."""
        return self.names[number] if self.names else f"picture {number} of a batch"


Raw = NDArray[np.uint8] | Squeezed | Finished | Encoded
"""A raw batch; plain arrays are uint8 (B, H, W, 3)."""


class Store(Protocol):
    """All images of one split: an array (N, H, W, 3), or an object that returns raw batches."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: NDArray[np.int64], /) -> Any: ...


class StoredArray:
    """An array in a file, whose rows are read when indexed; a read-only array."""

    def __init__(self, path: Path, dtype: str, shape: tuple[int, ...]) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._file = _opened(path)
        self._path = path
        self._row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * self.dtype.itemsize

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[row] for row in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:] if dtype is None else self[:].astype(dtype)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            return self._span(start, stop) if step == 1 else self[np.arange(start, stop, step)]
        if isinstance(key, tuple) or key is Ellipsis:
            return self[:][key]
        rows = np.asarray(key)
        if rows.dtype == np.bool_:
            rows = np.flatnonzero(rows)
        rows = rows.astype(np.int64)
        if rows.size and not -len(self) <= int(rows.min()) <= int(rows.max()) < len(self):
            raise IndexError(f"a row lies outside the {len(self)} stored")
        rows = np.where(rows < 0, rows + len(self), rows)
        if rows.ndim == 0:
            return self._span(int(rows), int(rows) + 1)[0]
        out = np.empty((len(rows), *self.shape[1:]), dtype=self.dtype)
        for place, row in zip(out, rows.tolist(), strict=True):
            self._read_into(place, row)
        return out

    def _span(self, start: int, stop: int) -> NDArray[Any]:
        out = np.empty((max(stop - start, 0), *self.shape[1:]), dtype=self.dtype)
        if len(out):
            self._read_into(out, start)
        return out

    def _read_into(self, place: NDArray[Any], row: int) -> None:
        _read_into(self._file, place.data.cast("B"), row * self._row_bytes, self._path)


class SqueezedStore:
    """Squeezed pictures in a file of pixels (N, S, S, 3) beside a file of sizes (N, 2)."""

    def __init__(self, pixels: StoredArray, sizes: NDArray[np.int64]) -> None:
        self.pixels, self.sizes = pixels, sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, rows: NDArray[np.int64], /) -> Squeezed:
        return Squeezed(self.pixels[rows], self.sizes[rows])


class FinishedStore:
    """Pictures in a file (N, S, S, 3), kept as the test transform leaves them."""

    def __init__(self, pixels: StoredArray) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows: NDArray[np.int64], /) -> Finished:
        return Finished(self.pixels[rows])


class EncodedStore:
    """Image files, one behind another in one file; ``offsets``: int64 (N + 1,), where each begins and the last one ends."""

    def __init__(self, path: Path, offsets: NDArray[np.int64], upright: bool = False) -> None:
        self.offsets, self.upright = offsets, upright
        self._file, self._path = _opened(path), path

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, rows: NDArray[np.int64], /) -> Encoded:
        chosen = np.arange(len(self))[rows].tolist()
        names = tuple(f"picture {row} of {self._path}" for row in chosen)
        return Encoded(tuple(map(self._read, chosen)), self.upright, names, remedy=_made_anew(self._path))

    def _read(self, row: int) -> bytes:
        start, stop = int(self.offsets[row]), int(self.offsets[row + 1])
        try:
            data = os.pread(self._file.descriptor, stop - start, start)
        except OSError as error:
            raise BenchmarkError(_cannot_read(self._path, error)) from error
        if len(data) < stop - start:
            raise BenchmarkError(_too_short(self._path))
        return data


class OrderedStore:
    """Another store's images in another order; ``order``: int64 (N,), where each row lies in it."""

    def __init__(self, store: Store, order: NDArray[np.int64]) -> None:
        self.store, self.order = store, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, rows: NDArray[np.int64], /) -> Any:
        return self.store[self.order[rows]]


@dataclass(frozen=True, eq=False)
class _OpenFile:
    descriptor: int
    path: Path

    def __reduce__(self) -> tuple[Callable[[Path], _OpenFile], tuple[Path]]:
        return _opened, (self.path,)  # a descriptor is not valid in another process


def _opened(path: Path) -> _OpenFile:
    """A file that stays open while it is used, even if it is replaced, and that ``data remove`` leaves alone so long."""
    file = _OpenFile(os.open(path, os.O_RDONLY), path)
    _share(file.descriptor)
    weakref.finalize(file, os.close, file.descriptor)
    return file


def _share(descriptor: int) -> None:
    """Mark an open file as in use until it is closed; without effect where there are no locks."""
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)


def is_free(path: Path) -> bool:
    """Whether no process has a stored array or pack of this file open; True where there are no locks or no such file."""
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
    return True


def _read_into(file: _OpenFile, target: memoryview, offset: int, path: Path) -> None:
    done = 0
    while done < len(target):
        try:
            count = os.preadv(file.descriptor, [target[done:]], offset + done)
        except OSError as error:
            raise BenchmarkError(_cannot_read(path, error)) from error
        if not count:
            raise BenchmarkError(_too_short(path))
        done += count


def _cannot_read(path: Path, error: OSError) -> str:
    return f"stored images in {path} cannot be read: {error.strerror or error}"


def _too_short(path: Path) -> str:
    return f"stored images in {path} end too early; {_made_anew(path)}"


def _made_anew(path: Path) -> str:
    """The remedy for a damaged file of a store, which lies in ``<data folder>/<benchmark>/<id>``."""
    benchmark = path.parent.parent
    return f"`{data_command('verify', benchmark.name, benchmark.parent)}` names the command that makes them anew"
