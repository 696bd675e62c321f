"""Restricted reader of pickles: numbers, text, containers and arrays of bytes only."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from smope_bench.benchmarks.errors import BenchmarkError


def load_plain(data: bytes, called: str) -> Any:
    """Unpickle what Python 2 and numpy wrote: text comes back as ``str`` (latin 1), arrays as uint8.

    A pickle can call any function that it names; here only three of ours. Raises BenchmarkError for anything else and for
    damage; ``called`` names the pickle in the message.
    """
    try:
        return _Unpickler(io.BytesIO(data), encoding="latin1").load()
    except BenchmarkError as error:
        raise BenchmarkError(f"{called} {error}") from error
    except Exception as error:
        # For a damaged pickle the unpickler, which is compiled, may raise anything: EOFError, AttributeError, MemoryError, ...
        # An error with a deeper frame was raised by Python code that it called: a fault of this program.
        if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
            raise
        raise BenchmarkError(f"{called} is damaged ({error or type(error).__name__})") from error


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise BenchmarkError(
                f"asks for {module}.{name}, which no data file needs: it is refused, as it could run any program"
            ) from None

    def persistent_load(self, pid: Any, /) -> Any:
        raise BenchmarkError(f"refers to something outside of itself ({pid!r})")


class _ArrayType:
    """Placeholder of ``numpy.ndarray`` in a pickle; it cannot be called."""


def _array(kind: object, shape: object, code: object) -> np.ndarray:
    """An empty array, which the pickle then fills; the requested size is ignored."""
    if kind is not _ArrayType or shape != (0,):
        raise BenchmarkError("builds an array in an unknown way")
    del code
    return np.empty(0, dtype=np.uint8)


def _dtype(code: object, *flags: object) -> np.dtype:
    del flags
    if code != "u1":
        raise BenchmarkError(f"holds an array of {code!r} and not of bytes ('u1')")
    # A copy: the pickle changes the state of the object it gets.
    return np.dtype(np.uint8, False, True)


_KNOWN: dict[tuple[str, str], type | Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _array,
    ("numpy", "ndarray"): _ArrayType,
    ("numpy", "dtype"): _dtype,
}
