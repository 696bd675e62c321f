"""Functions of torch that the pretend device answers itself, and the modes that see every function and operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from smope_bench.harness.conformance.pretend_device.tensor import (
    CURRENT,
    DEVICE,
    HOST,
    PretendTensor,
    State,
    asked_device,
    dispatch,
    is_pinned,
    moved,
    pin,
)


class Operators(TorchDispatchMode):
    """Sees every operator, those without tensors of the device included."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return dispatch(func, args, dict(kwargs or {}))


class Functions(TorchFunctionMode):
    """Sees every function of torch that Python calls, and answers those in ``STAND_INS``."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        state, kwargs = CURRENT[-1], dict(kwargs or {})
        stand_in = STAND_INS.get(func) if func in STAND_INS else None
        if stand_in is not None:
            result = stand_in(state, *args, **kwargs)
            if result is not NotImplemented:
                return result
        asked = kwargs.get("device")
        here = asked is None or torch.device(asked).type != HOST.type
        with state.within(here and _has_ours((*args, *kwargs.values()))):
            return func(*args, **kwargs)


def backward_under(run: Callable[..., Any]) -> Callable[..., Any]:
    """torch's ``_engine_run_backward``: what C++ makes in it is on the device, Python code in it is seen as elsewhere.

    It runs inside a function that ``Functions`` has seen, for which torch has put the mode aside.
    """

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with CURRENT[-1].within(True), Functions():
            return run(*args, **kwargs)

    return wrapped


def _has_ours(values: Sequence[Any]) -> bool:
    return any(
        isinstance(each, PretendTensor) or (isinstance(each, list | tuple) and _has_ours(each)) for each in values
    )


def _to(state: State, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
    device, rest, named = asked_device(args, kwargs)
    if isinstance(tensor, PretendTensor) or device is None or device.type != DEVICE.type:
        return NotImplemented
    if not (named.pop("non_blocking", False) and is_pinned(tensor)):
        state.wait("copy to the device")
    named.pop("copy", None)
    with state.quiet():
        return moved(tensor.to(*rest, **named) if rest or named else tensor)


def _cuda(state: State, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
    del args
    return _to(state, tensor, DEVICE, **{k: v for k, v in kwargs.items() if k == "non_blocking"})


def _made_from(function: Callable[..., Tensor]) -> Callable[..., Any]:
    def make(state: State, data: Any, **kwargs: Any) -> Any:
        asked = kwargs.pop("device", None)
        if asked is None or torch.device(asked).type != DEVICE.type:
            return NotImplemented
        if isinstance(data, PretendTensor):
            return data.to(kwargs["dtype"]) if kwargs.get("dtype") else data
        state.wait("copy to the device")
        needs_gradient = kwargs.pop("requires_grad", False)
        with state.quiet():
            return PretendTensor(function(data, **kwargs), needs_gradient)

    return make


def _pin_memory(state: State, tensor: Tensor, *args: Any) -> Any:
    del args
    with state.quiet():
        return tensor if is_pinned(tensor) else pin(tensor.clone())


def _is_pinned(state: State, tensor: Tensor) -> bool:
    del state
    return is_pinned(tensor)


def _one_hot(state: State, tensor: Tensor, num_classes: int = -1) -> Any:
    """On CUDA, classes are counted only where their number is not given, and never checked on the host."""
    if not isinstance(tensor, PretendTensor):
        return NotImplemented
    if num_classes < 0:
        state.wait("one_hot without num_classes")
    with state.quiet():
        return PretendTensor(F.one_hot(tensor.numbers, num_classes))


def attention_kernel(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> str:
    """The kernel that CUDA chooses, ``flash``, ``efficient`` or ``math``, by torch's rules for compute capability 8 and above."""
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else q.dtype
    is_half, widths = dtype in (torch.float16, torch.bfloat16), (q.shape[-1], v.shape[-1])
    if is_half and mask is None and q.shape[-1] == k.shape[-1] == v.shape[-1] <= 256:
        return "flash"
    aligned = all(width % (8 if is_half else 4) == 0 for width in widths)
    return "efficient" if aligned and dtype != torch.float64 else "math"


def _attention(state: State, query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, **kwargs: Any) -> Any:
    if not isinstance(query, PretendTensor):
        return NotImplemented
    kernel = attention_kernel(query, key, value, attn_mask)
    state.report.kernels[kernel] += 1
    # The CPU's fused kernel stands for CUDA's: it keeps the same tensors for the backward pass.
    with state.within(True), sdpa_kernel(SDPBackend.MATH if kernel == "math" else SDPBackend.FLASH_ATTENTION):
        return F.scaled_dot_product_attention(query, key, value, attn_mask, **kwargs)


STAND_INS: dict[Any, Callable[..., Any]] = {
    Tensor.to: _to,
    Tensor.cuda: _cuda,
    torch.tensor: _made_from(torch.tensor),
    torch.as_tensor: _made_from(torch.as_tensor),
    Tensor.pin_memory: _pin_memory,
    Tensor.is_pinned: _is_pinned,
    F.one_hot: _one_hot,
    F.scaled_dot_product_attention: _attention,
}
