"""Search through the objects that a method can reach, for images that it has kept."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FunctionType, GeneratorType, MethodType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor

from smope_bench.benchmarks.stream import Stream, Task, View
from smope_bench.harness.training.batches.data import TaskData
from smope_bench.methods.common.api import Batch

HOLDERS = (View, Task, Stream, TaskData, Batch)
ATOMS = (str, bytes, int, float, complex, bool, type(None), type, ModuleType)
MAX_OBJECTS = 50_000
MAX_DEPTH = 12


def kept_images(root: object, name: str, stream: Stream) -> list[str]:
    """Paths, such as ``method.data``, at which ``root`` holds views, task data, batches or the stored pixels of ``stream``.

    Copies of pixels are found by ``pictures.kept_pictures``.
    """
    stores = [view.images for task in stream.tasks for view in (task.train, task.validation, task.test)]
    stores += [view.images for view in stream.tests]
    return [
        f"{path} ({type(one).__name__})"
        for path, one in reachable(root, name, lambda one: isinstance(one, HOLDERS) or _shares(one, stores))
    ]


def reachable(root: object, name: str, wanted: Callable[[object], bool]) -> Iterator[tuple[str, Any]]:
    """The objects that are ``wanted``, with the paths at which ``root`` reaches them; what they hold is not searched.

    Searched are attributes, those of its own class, containers, closures, bound methods and generators.
    """
    known = {id(root)}
    queue: deque[tuple[str, Any, int]] = deque([(name, root, 0)])
    queue.extend((f"{name}.{key}", value, 1) for key, value in vars(type(root)).items() if not _is_atom(value))
    while queue and len(known) < MAX_OBJECTS:
        path, one, depth = queue.popleft()
        if wanted(one):
            yield path, one
        elif depth < MAX_DEPTH:
            for label, child in _children(one):
                if not _is_atom(child) and id(child) not in known:
                    known.add(id(child))
                    queue.append((path + label, child, depth + 1))


def _is_atom(one: object) -> bool:
    return isinstance(one, ATOMS)


def _children(one: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(one, Mapping):
        yield from ((f"[{key!r}]", value) for key, value in list(one.items()))
    elif isinstance(one, (list, tuple, set, frozenset, deque)):
        yield from ((f"[{index}]", value) for index, value in enumerate(one))
    elif isinstance(one, FunctionType):
        yield from _captured(one)
    elif isinstance(one, MethodType):
        yield from ((".__self__", one.__self__), (".__func__", one.__func__))
    elif isinstance(one, functools.partial):
        yield from ((".func", one.func), (".args", one.args), (".keywords", one.keywords))
    elif isinstance(one, GeneratorType):
        frame = one.gi_frame
        yield from ((f".{key}", value) for key, value in (frame.f_locals.items() if frame else ()))
    elif isinstance(one, (property, functools.cached_property)):
        return
    else:
        yield from ((f".{key}", value) for key, value in list(getattr(one, "__dict__", {}).items()))
        yield from ((f".{key}", getattr(one, key, None)) for key in _slots(type(one)))


def _captured(function: FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f".{name}", cell.cell_contents
        except ValueError:  # the cell is empty
            continue
    yield ".__defaults__", function.__defaults__
    yield ".__kwdefaults__", function.__kwdefaults__


def _slots(kind: type) -> Iterable[str]:
    slots = [vars(base).get("__slots__", ()) for base in kind.__mro__]
    return [name for group in slots for name in ([group] if isinstance(group, str) else group) if name != "__dict__"]


def _shares(one: object, stores: list[Any]) -> bool:
    """Whether ``one`` is a store of images, or shares memory with one."""
    if any(one is store for store in stores):
        return True
    arrays = [store for store in stores if isinstance(store, np.ndarray)]
    if isinstance(one, Tensor) and one.device.type == "cpu" and one.numel():
        return any(0 <= one.data_ptr() - stored.ctypes.data < stored.nbytes for stored in arrays)
    return isinstance(one, np.ndarray) and any(np.may_share_memory(one, stored) for stored in arrays)
