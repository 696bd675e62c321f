"""Putting a method back as a checkpoint has it, or saying that it does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from smope_bench.methods.common.api import Method, TaskInfo


class UnfitError(Exception):
    """A whole checkpoint that is not of this method as its hooks have made it: the work must be done again."""


def fits(method: Method, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the method has just these parameters and buffers, of the same shapes and types."""
    own = {name: (tensor.shape, tensor.dtype) for name, tensor in method.state_dict().items()}
    return own == {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def load_exactly(method: Method, tensors: Mapping[str, Tensor]) -> None:
    """Give the method all of its parameters and buffers. Raises UnfitError."""
    if not fits(method, tensors):
        raise UnfitError("the checkpoint's tensors are not those of the method")
    method.load_state_dict(dict(tensors))


def load_after(method: Method, tensors: Mapping[str, Tensor], tasks: Iterable[TaskInfo]) -> None:
    """``load_exactly`` after ``tasks``: a method that adds parameters as tasks arrive is first told of them. Raises UnfitError."""
    if not fits(method, tensors):
        for info in tasks:
            _grow(method, info)
    load_exactly(method, tensors)


def _grow(method: Method, info: TaskInfo) -> None:
    """The hooks of a task, for the parameters that they add; what they make of untrained ones is replaced afterwards."""
    try:
        with torch.no_grad():
            method.enter_task(info)
            method.begin_task(info)
            for phase in method.phases():
                method.begin_phase(phase)
    except Exception as error:
        raise UnfitError(f"task {info.index} cannot be begun again") from error
