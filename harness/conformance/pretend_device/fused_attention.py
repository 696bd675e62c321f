"""CUDA's fused attention operators in numbers of the CPU: their conditions, and the shapes and padding of what they give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

aten = torch.ops.aten
HALF = (torch.float16, torch.bfloat16)
ROWS = 32
"""The memory-efficient kernel pads its log-sum-exp to a multiple of this many queries, with infinity."""


def _require(kernel: str, q: Tensor, k: Tensor, v: Tensor) -> None:
    types, widest = ((*HALF, torch.float32), 1 << 16) if kernel == "efficient" else (HALF, 256)
    step = 8 if q.dtype in HALF else 4
    if not q.dtype == k.dtype == v.dtype or q.dtype not in types or q.shape[-1] > widest or q.shape[-1] % step:
        raise RuntimeError(f"the {kernel} attention kernel does not take head width {q.shape[-1]} in {q.dtype}")


def _forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)


def _backward(gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, output: Tensor, sums: Tensor) -> tuple[Tensor, ...]:
    if sums.dtype != torch.float32 or gradient.dtype != q.dtype or output.dtype != q.dtype:
        raise RuntimeError(f"attention's backward pass got {gradient.dtype}, {output.dtype} and sums in {sums.dtype}")
    return aten._scaled_dot_product_flash_attention_for_cpu_backward(gradient, q, k, v, output, sums, 0.0, False)


def _flash(q: Tensor, k: Tensor, v: Tensor, *_options: Any) -> tuple[Any, ...]:
    _require("flash", q, k, v)
    seed = torch.zeros(2, dtype=torch.int64)
    return (*_forward(q, k, v), None, None, q.shape[2], k.shape[2], seed, torch.zeros(()), torch.zeros(0))


def _flash_backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, output: Tensor, sums: Tensor, *_sizes: Any
) -> tuple[Tensor, ...]:
    return _backward(gradient, q, k, v, output, sums)


def _cudnn(q: Tensor, k: Tensor, v: Tensor, *_options: Any) -> tuple[Any, ...]:
    _require("cudnn", q, k, v)
    output, sums = _forward(q, k, v)
    seed = torch.zeros((), dtype=torch.int64)
    return output, sums[..., None], None, None, q.shape[2], k.shape[2], seed, seed, torch.zeros(0)


def _cudnn_backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, output: Tensor, sums: Tensor, *_sizes: Any
) -> tuple[Tensor, ...]:
    if sums.shape != (*q.shape[:3], 1):
        raise RuntimeError(f"cuDNN's log-sum-exp has shape {(*q.shape[:3], 1)}, not {tuple(sums.shape)}")
    return _backward(gradient, q, k, v, output, sums[..., 0])


def _efficient(q: Tensor, k: Tensor, v: Tensor, *_options: Any) -> tuple[Any, ...]:
    _require("efficient", q, k, v)
    output, sums = _forward(q, k, v)
    seed = torch.zeros((), dtype=torch.int64)
    return output, F.pad(sums, (0, -q.shape[2] % ROWS), value=torch.inf), seed, seed


def _efficient_backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, output: Tensor, sums: Tensor, *_rest: Any
) -> tuple[Any, ...]:
    count = q.shape[2]
    if bias is not None or sums.shape[2] != count + -count % ROWS or not sums[..., count:].isposinf().all():
        raise RuntimeError("the memory-efficient kernel needs its log-sum-exp padded with infinity, and no bias here")
    return (*_backward(gradient, q, k, v, output, sums[..., :count]), None)


OPERATORS: Mapping[Any, tuple[str | None, Callable[..., Any]]] = {
    aten._scaled_dot_product_flash_attention.default: ("flash", _flash),
    aten._scaled_dot_product_flash_attention_backward.default: (None, _flash_backward),
    aten._scaled_dot_product_cudnn_attention.default: ("cudnn", _cudnn),
    aten._scaled_dot_product_cudnn_attention_backward.default: (None, _cudnn_backward),
    aten._scaled_dot_product_efficient_attention.default: ("efficient", _efficient),
    aten._scaled_dot_product_efficient_attention_backward.default: (None, _efficient_backward),
}
"""Operators to the name under which a call is counted, if it is, and what runs in their place."""
