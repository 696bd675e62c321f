"""Frozen linear layers in bfloat16 on a CPU, whose weights oneDNN packs once instead of in every product."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

INSTRUCTIONS = ("amx_bf16", "avx512_bf16")
"""Without one of these, bfloat16 products are emulated, and packing was not tried."""
PACKS = "_packs"
"""Attribute of a layer: its packed weights by whether they are transposed, as the product with gradients takes them."""


class _Packed(NamedTuple):
    """Weights as oneDNN lays them out; ``source``: place and version of the weights that they were made of."""

    source: tuple[int, int]
    weights: Tensor


class PackedLinear(nn.Linear):
    """``nn.Linear``, frozen: the same bits by packed weights, where this processor has products in bfloat16.

    Of inputs that do not lie together, torch rounds product and bias apart, this form once. A layer then holds its weights up to
    three times: as they are, packed, and packed for the backward pass.
    """

    def __getstate__(self) -> dict[str, Any]:
        """Without packed weights: a copy makes its own."""
        return {name: value for name, value in vars(self).items() if name != PACKS}

    def forward(self, input: Tensor) -> Tensor:
        """Inputs (..., in_features) to (..., out_features), in bfloat16 where the products are packed."""
        if not (_takes_packed(self, input) and can_pack()):
            return super().forward(input)
        return _Product.apply(input.to(torch.bfloat16), self)  # pyright: ignore[reportReturnType]


def pack_products(layer: nn.Linear) -> None:
    """Make ``layer`` a ``PackedLinear`` unless it is of another kind than ``nn.Linear``."""
    if type(layer) is nn.Linear:
        layer.__class__ = PackedLinear


def _takes_packed(layer: nn.Linear, inputs: Tensor) -> bool:
    weight = layer.weight
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16 or weight.requires_grad:
        return False
    rounds = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    is_traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return (rounds or inputs.dtype == torch.bfloat16) and not is_traced


@cache
def can_pack() -> bool:
    """Whether the processor has products in bfloat16, and torch the operators by which its compiler packs frozen weights."""
    known = getattr(torch.cpu, "get_capabilities", dict)()  # versions of torch that cannot tell do not pack
    has_operators = hasattr(torch.ops.mkldnn, "_linear_pointwise") and hasattr(
        torch.ops.mkldnn, "_reorder_linear_weight"
    )
    return torch.backends.mkldnn.is_available() and has_operators and any(known.get(name) for name in INSTRUCTIONS)


def _packed(layer: nn.Linear, *, transposed: bool) -> Tensor:
    weight, packs = layer.weight.detach(), vars(layer).setdefault(PACKS, {})
    source = weight.data_ptr(), layer.weight._version
    found: _Packed | None = packs.get(transposed)
    if found is None or found.source != source:
        plain = weight.t().contiguous() if transposed else weight
        found = packs[transposed] = _Packed(source, torch.ops.mkldnn._reorder_linear_weight(plain))
    return found.weights


class _Product(torch.autograd.Function):
    """A frozen layer's outputs of inputs in bfloat16; only the inputs have a gradient, and nothing is kept for it."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, layer: nn.Linear) -> Tensor:
        ctx.layer = layer
        weights = _packed(layer, transposed=False)
        return torch.ops.mkldnn._linear_pointwise(inputs, weights, layer.bias, "none", [], "")

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator hides parameter names
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, None]:
        weights = _packed(ctx.layer, transposed=True)
        return torch.ops.mkldnn._linear_pointwise(gradients[0], weights, None, "none", [], ""), None
