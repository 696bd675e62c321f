"""The fused attention kernels that give the log-sum-exp of the scores, and the rules by which one is called directly.

Each attends without a mask and without dropout, scaled by 1/sqrt(head_dim), and its backward pass takes output and log-sum-exp.
torch keeps the operators' names and arguments; what CUDA's take and give is in ``aten/src/ATen/native/transformers/cuda``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from smope_bench.methods.common.vit.attention import product_type

aten = torch.ops.aten
Heads: TypeAlias = tuple[Tensor, Tensor, Tensor]
Rest: TypeAlias = tuple[Tensor | None, ...]
"""What a kernel returns beside output and log-sum-exp, for its backward pass."""

EFFICIENT_ROWS = 32
"""The memory-efficient kernel's log-sum-exp is padded to a multiple of this many queries, with infinity."""


class Kernel(NamedTuple):
    """A fused kernel.

    ``forward(q, k, v)``: output (B, heads, N, head_dim), log-sum-exp (B, heads, N) and the rest. ``backward(gradient, q, k, v,
    output, log-sum-exp, *rest)``: the gradients of q, k and v.
    """

    forward: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Rest]]
    backward: Callable[..., Heads]


class Rule(NamedTuple):
    """When a kernel is called: on ``device``, in one of ``types``, for head widths that are multiples of ``step``.

    ``widest``: the largest head width. ``capability``: the least of CUDA's that has it. ``is_enabled``: torch's switch.
    """

    kernel: str
    device: str
    types: tuple[torch.dtype, ...]
    step: int
    widest: int
    capability: tuple[int, int]
    is_enabled: Callable[[], bool]


HALF, ANY = (torch.float16, torch.bfloat16), 1 << 16
RULES = (
    Rule("cpu", "cpu", (torch.float32, torch.float64), 1, ANY, (0, 0), torch.backends.cuda.flash_sdp_enabled),
    Rule("flash", "cuda", HALF, 8, 192, (8, 0), torch.backends.cuda.flash_sdp_enabled),
    Rule("cudnn", "cuda", HALF, 8, 128, (8, 0), torch.backends.cuda.cudnn_sdp_enabled),
    Rule("efficient", "cuda", HALF, 8, ANY, (8, 0), torch.backends.cuda.mem_efficient_sdp_enabled),
    Rule("efficient", "cuda", (torch.float32,), 4, ANY, (5, 0), torch.backends.cuda.mem_efficient_sdp_enabled),
)
"""The first rule that holds decides. In bfloat16 on a CPU two plain products are faster, so none holds there."""


def kernel_for(q: Tensor) -> str | None:
    """The kernel in ``KERNELS`` to be called for queries (B, heads, N, head_dim); None: no rule holds, or torch is tracing."""
    kind, width, dtype = q.device.type, q.shape[-1], product_type(q)
    if torch.jit.is_tracing() or (kind == "cuda" and torch.version.hip):
        return None
    capability = torch.cuda.get_device_capability(q.device) if kind == "cuda" else (0, 0)
    for rule in RULES:
        fits = dtype in rule.types and width % rule.step == 0 and width <= rule.widest
        if rule.device == kind and fits and capability >= rule.capability and rule.is_enabled():
            return rule.kernel
    return None


def _cpu(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Rest]:
    output, sums = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
    return output, sums, ()


def _cpu_backward(gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, output: Tensor, sums: Tensor) -> Heads:
    return aten._scaled_dot_product_flash_attention_for_cpu_backward(gradient, q, k, v, output, sums, 0.0, False)


def _flash(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Rest]:
    output, sums, first_q, first_k, _, _, seed, offset, _ = aten._scaled_dot_product_flash_attention(q, k, v)
    return output, sums, (first_q, first_k, seed, offset)


def _flash_backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, output: Tensor, sums: Tensor, *rest: Tensor | None
) -> Heads:
    first_q, first_k, seed, offset = rest
    sizes = first_q, first_k, q.shape[2], k.shape[2], 0.0, False, seed, offset
    return aten._scaled_dot_product_flash_attention_backward(gradient, q, k, v, output, sums, *sizes)


def _cudnn(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Rest]:
    found = aten._scaled_dot_product_cudnn_attention(q, k, v, None, True)
    output, sums, first_q, first_k, _, _, seed, offset, _ = found
    return output, sums.view(q.shape[:3]), (first_q, first_k, seed, offset)


def _cudnn_backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, output: Tensor, sums: Tensor, *rest: Tensor | None
) -> Heads:
    first_q, first_k, seed, offset = rest
    sizes = first_q, first_k, q.shape[2], k.shape[2], 0.0, False
    return aten._scaled_dot_product_cudnn_attention_backward(
        gradient, q, k, v, output, sums[..., None], seed, offset, None, *sizes
    )


def _efficient(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Rest]:
    output, sums, seed, offset = aten._scaled_dot_product_efficient_attention(q, k, v, None, True)
    return output, sums[..., : q.shape[2]], (seed, offset)


def _efficient_backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, output: Tensor, sums: Tensor, *rest: Tensor | None
) -> Heads:
    padded = F.pad(sums, (0, -sums.shape[2] % EFFICIENT_ROWS), value=torch.inf)
    wanted = [True, True, True, False]
    return aten._scaled_dot_product_efficient_attention_backward(
        gradient, q, k, v, None, output, padded, *rest, 0.0, wanted
    )[:3]


KERNELS: Mapping[str, Kernel] = {
    "cpu": Kernel(_cpu, _cpu_backward),
    "flash": Kernel(_flash, _flash_backward),
    "cudnn": Kernel(_cudnn, _cudnn_backward),
    "efficient": Kernel(_efficient, _efficient_backward),
}
