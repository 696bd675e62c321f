"""What is kept of a trained method, and the method made from it again. Nothing is unpickled.

Kept are the parameters and buffers that ``predict`` reads, as safetensors, with those that only training needs where they are
small or asked for, so that the run can be extended. The frozen backbone is not among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor

from smope_bench.benchmarks.stream import Task
from smope_bench.harness.checkpointing.checkpoint import storable
from smope_bench.harness.checkpointing.manager import UnfitError, grow
from smope_bench.harness.training.task_trainer import task_info
from smope_bench.methods.common.api import Method, TaskInfo

SMALL_BYTES = 8_000_000
"""What only training needs is kept up to this size: class covariances of ViT-B/16 take hundreds of megabytes."""


def kept_tensors(method: Method, *, extendable: bool = False) -> dict[str, Tensor]:
    """Parameters and buffers to keep, by name, on the CPU: those that ``predict`` reads and, where they are small or the run is to
    be ``extendable``, those that only training needs."""
    whole, read = method.state_dict(), _read(method)
    more = sum(tensor.nbytes for name, tensor in whole.items() if name not in read)
    return storable(whole if extendable or more <= SMALL_BYTES else read)


def task_entry(task: Task) -> dict[str, Any]:
    """What a method knows of a task, as JSON: ``classes`` [first, after the last] and ``counts``, training images of each."""
    info = task_info(task)
    return {"classes": [info.new_classes.start, info.new_classes.stop], "counts": list(info.class_counts)}


def read_tasks(entries: Iterable[Mapping[str, Any]]) -> list[TaskInfo]:
    """The tasks that ``task_entry`` wrote. Raises LookupError, TypeError or ValueError for anything else."""
    return [
        TaskInfo(index, range(*map(int, entry["classes"])), tuple(map(int, entry["counts"])))
        for index, entry in enumerate(entries)
    ]


def restored(make: Callable[[], Method], tensors: Mapping[str, Tensor], tasks: Sequence[TaskInfo]) -> Method:
    """A method in the state in which ``tensors`` were kept after ``tasks``. ``make`` returns one before its first task.

    Hooks of tasks are called as on resuming a run: they add parameters, and set attributes that ``predict`` may read. Raises
    UnfitError where the tensors are not those of the method.
    """
    method = make()
    tensors = {name: tensor for name, tensor in tensors.items() if not is_only_for_training(type(method), name)}
    is_whole = _fits(method, tensors)
    if is_whole:
        method.load_state_dict(dict(tensors), strict=False)
    try:
        for info in tasks[-1:] if is_whole else tasks:
            grow(method, info)
    except UnfitError:
        if not is_whole:
            raise
    if not _fits(method, tensors):
        method = make()
    if not _fits(method, tensors):
        raise UnfitError("the kept tensors are not those of the method")
    method.load_state_dict(dict(tensors), strict=False)
    return method


def is_only_for_training(method: type[Method], name: str) -> bool:
    """Whether ``predict`` of a method never reads a parameter or buffer of this name."""
    return any(fnmatchcase(name, pattern) for pattern in method.only_for_training)


def _read(method: Method) -> dict[str, Tensor]:
    """Parameters and buffers that ``predict`` reads."""
    kind = type(method)
    return {name: tensor for name, tensor in method.state_dict().items() if not is_only_for_training(kind, name)}


def _fits(method: Method, tensors: Mapping[str, Tensor]) -> bool:
    own = {name: (tensor.shape, tensor.dtype) for name, tensor in _read(method).items()}
    return own == {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
