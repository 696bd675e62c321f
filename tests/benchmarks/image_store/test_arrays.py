"""Stored images: rows are read when they are indexed, and nothing else is kept in memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.image_store.arrays import EncodedStore, StoredArray

KEYS = [
    slice(None),
    slice(2, 5),
    slice(5, 2),
    slice(None, None, 3),
    slice(-3, None),
    4,
    -1,
    [3, 1, 3],
    np.array([], dtype=np.int64),
    np.array([True, False] * 5),
    (slice(None), 0, 0),
    (..., 2),
    ([1, 2], 0),
]


@pytest.fixture
def array(tmp_path: Path) -> tuple[StoredArray, np.ndarray]:
    values = np.random.default_rng(0).integers(0, 256, (10, 3, 4, 3)).astype(np.uint8)
    (tmp_path / "images").write_bytes(values.tobytes())
    return StoredArray(tmp_path / "images", "u1", values.shape), values


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_a_stored_array_is_indexed_as_an_array(array: tuple[StoredArray, np.ndarray], key: object) -> None:
    stored, values = array
    np.testing.assert_array_equal(stored[key], values[key])  # pyright: ignore[reportArgumentType, reportCallIssue]


def test_a_stored_array_is_an_array(array: tuple[StoredArray, np.ndarray]) -> None:
    stored, values = array
    assert (stored.shape, stored.ndim, len(stored), stored.dtype) == (values.shape, 4, 10, np.uint8)
    np.testing.assert_array_equal(np.array(stored), values)
    np.testing.assert_array_equal(np.stack(list(stored)), values)
    batch = stored[[0, 1]]
    batch[:] = 0
    assert stored[0].any()


@pytest.mark.parametrize("row", [10, -11, [0, 10]])
def test_rows_that_are_not_there(array: tuple[StoredArray, np.ndarray], row: object) -> None:
    with pytest.raises(IndexError, match="outside the 10 stored"):
        array[0][row]


def test_a_file_that_shrinks_while_it_is_read_is_named(tmp_path: Path, array: tuple[StoredArray, np.ndarray]) -> None:
    os.truncate(tmp_path / "images", 100)
    benchmark = tmp_path.parent
    command = f"`smope-bench data verify {benchmark.name} --data {benchmark.parent}`"
    with pytest.raises(BenchmarkError, match=f"images end too early; {command} names the command"):
        array[0][:]


def open_files() -> int:
    listed = Path("/proc/self/fd")
    return len(list(listed.iterdir())) if listed.exists() else 0


def test_a_file_that_is_replaced_stays_open_and_is_closed_at_last(tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(b"abcdef")
    before = open_files()
    store = EncodedStore(tmp_path / "images", np.array([0, 1, 4, 6]))
    (tmp_path / "images").unlink()
    assert store[np.array([2, 0, 1])].files == (b"ef", b"a", b"bcd") and len(store) == 3
    del store
    assert open_files() == before


def peak(path: Path, count: int, side: int) -> int:
    """Bytes by which the peak memory of a process grows that reads all of a stored array in batches of 16."""
    code = (
        "import resource, sys, numpy as np; from pathlib import Path\n"
        "from smope_bench.benchmarks.image_store.arrays import StoredArray\n"
        f"stored = StoredArray(Path({str(path)!r}), 'u1', ({count}, {side}, {side}, 3))\n"
        "rows = np.random.default_rng(0).permutation(len(stored))\n"
        "stored[rows[:16]]; before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for start in range(0, len(rows), 16): stored[rows[start : start + 16]]\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == 'darwin' else 1024))"
    )
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def test_peak_memory_does_not_follow_the_size_of_the_data(tmp_path: Path) -> None:
    path, side = tmp_path / "images", 256
    with path.open("wb") as file:
        file.truncate(200 << 20)  # holes take no space on the disk and are read as zeros
    row = side * side * 3
    assert peak(path, (200 << 20) // row, side) < 8 << 20
