"""The pretend device itself: ``torch.cuda`` as it answers on a machine with one GPU, and everything that follows."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

from smope_bench.harness.conformance.pretend_device.autocast import cuda_autocast
from smope_bench.harness.conformance.pretend_device.functions import Functions, Operators, backward_under
from smope_bench.harness.conformance.pretend_device.report import Report
from smope_bench.harness.conformance.pretend_device.tensor import CURRENT, DEVICE, PretendTensor, State

NAME = "pretend device"
MEMORY = 80 << 30
"""Bytes of memory that it reports; nothing runs out of it."""
CAPABILITY = (9, 0)


@contextlib.contextmanager
def pretend_device() -> Iterator[Report]:
    """Within the context, torch has one CUDA device, without kernels of its own. Returns what is observed on it.

    Mixing tensors of host and device raises RuntimeError with torch's words and the place. Do not nest.
    """
    if torch.cuda.is_available():
        raise RuntimeError("the pretend device stands for a GPU where there is none; here torch has one")
    state = State()
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    CURRENT.append(state)
    try:
        with (
            mock.patch.multiple(torch.cuda, create=True, **_cuda(state)),
            mock.patch.multiple(torch.accelerator, **_accelerator()),
            mock.patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
            mock.patch(
                "torch._C._group_tensors_by_device_and_dtype", _grouped(torch._C._group_tensors_by_device_and_dtype)
            ),
            mock.patch("torch.autograd._engine_run_backward", backward_under(torch.autograd._engine_run_backward)),
            mock.patch.object(threading.Thread, "run", _run_with_modes(threading.Thread.run)),
            cuda_autocast(lambda value: isinstance(value, PretendTensor)),
            Operators(),
            Functions(),
        ):
            yield state.report
    finally:
        CURRENT.pop()
        torch.__future__.set_overwrite_module_params_on_conversion(overwrites)


def _run_with_modes(run: Any) -> Any:
    """``Thread.run`` under the modes of the device, which torch keeps for each thread apart."""

    def wrapped(thread: threading.Thread) -> None:
        with Operators(), Functions():
            run(thread)

    return wrapped


def _grouped(group: Any) -> Any:
    """torch's grouping of tensors by device, which asks C++ for it, with the device as Python sees it."""

    def wrapped(lists: Any, with_indices: bool = False) -> Any:
        found = group(lists, with_indices).items()
        ours = {key: any(isinstance(each, PretendTensor) for row in value[0] for each in row) for key, value in found}
        return {(DEVICE if ours[key] else key[0], key[1]): value for key, value in found}

    return wrapped


class _Event:
    """A CUDA event; it has always happened."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
    def record(self, *args: Any) -> None: ...
    def wait(self, *args: Any) -> None: ...
    def synchronize(self) -> None: ...
    def query(self) -> bool:
        return True


class _Stream:
    """A CUDA stream; work is done at once."""

    device = DEVICE

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
    def wait_stream(self, other: Any) -> None: ...
    def wait_event(self, event: Any) -> None: ...
    def query(self) -> bool:
        return True

    def is_capturing(self) -> bool:
        return False

    def record_event(self, event: Any = None) -> Any:
        return event or _Event()

    def synchronize(self) -> None:
        CURRENT[-1].wait("stream.synchronize")


def _always(answer: Any) -> Callable[..., Any]:
    def function(*_args: Any, **_kwargs: Any) -> Any:
        return answer

    return function


def _accelerator() -> dict[str, Any]:
    """What stands for functions of ``torch.accelerator``."""
    return {
        "is_available": _always(True),
        "device_count": _always(1),
        "current_accelerator": _always(torch.device(DEVICE.type)),
        "current_device_index": _always(0),
        "current_stream": _always(_Stream()),
    }


def _cuda(state: State) -> dict[str, Any]:
    """What stands for functions and classes of ``torch.cuda``."""
    facts = {"name": NAME, "total_memory": MEMORY, "major": CAPABILITY[0], "minor": CAPABILITY[1]}
    return {
        "_lazy_init": _always(None),
        "_is_in_bad_fork": _always(False),
        "is_available": _always(True),
        "is_initialized": _always(True),
        "device_count": _always(1),
        "current_device": _always(0),
        "device": _always(contextlib.nullcontext()),
        "get_device_name": _always(NAME),
        "get_device_capability": _always(CAPABILITY),
        "get_device_properties": _always(SimpleNamespace(multi_processor_count=1, **facts)),
        "is_bf16_supported": _always(True),
        "Stream": _Stream,
        "Event": _Event,
        "stream": _always(contextlib.nullcontext()),
        "current_stream": _always(_Stream()),
        "default_stream": _always(_Stream()),
        "synchronize": lambda *_: state.wait("cuda.synchronize"),
        "empty_cache": _always(None),
        "reset_peak_memory_stats": _always(None),
        "memory_allocated": _always(0),
        "max_memory_allocated": _always(0),
        "mem_get_info": _always((MEMORY, MEMORY)),
        "get_rng_state": lambda *_: state.generator.get_state(),
        "set_rng_state": lambda new_state, *_: state.generator.set_state(new_state),
        "manual_seed": state.generator.manual_seed,
        "manual_seed_all": state.generator.manual_seed,
    }
