"""Layer norm of a frozen block. Under autocast it reads float32 and gives what the products after it compute in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

KINDS = ("torch.nn.modules.normalization.LayerNorm", "timm.layers.norm.LayerNorm")
"""Modules that compute ``F.layer_norm`` and no more; subclasses may cast or permute."""


def norm_for_products(norm: nn.Module, tokens: Tensor) -> Tensor:
    """``norm(tokens)`` for readers that are products, which autocast rounds anyway: same values, half kept for the backward pass.

    Outside of autocast, without a graph, for norms that are trained or of other kinds, and while compiling: ``norm(tokens)``.
    """
    kind = tokens.device.type
    if not (torch.is_grad_enabled() and tokens.requires_grad and torch.amp.is_autocast_available(kind)):
        return norm(tokens)
    if not torch.is_autocast_enabled(kind):
        return norm(tokens)
    dtype = torch.get_autocast_dtype(kind)
    if tokens.dtype != torch.float32 or dtype.itemsize >= tokens.itemsize or torch.compiler.is_compiling():
        return norm(tokens)
    if not _is_plain(norm):
        return norm(tokens)
    return _RoundedNorm.apply(tokens, norm.weight, norm.bias, norm.eps, dtype)  # pyright: ignore[reportReturnType]


def _is_plain(norm: nn.Module) -> bool:
    known = f"{type(norm).__module__}.{type(norm).__qualname__}" in KINDS
    return (
        known and not getattr(norm, "_fast_norm", False) and not any(each.requires_grad for each in norm.parameters())
    )


class _RoundedNorm(torch.autograd.Function):
    """Layer norm over the last dimension, rounded to ``dtype``; only tokens (B, N, d) have a gradient.

    Kept: the standardised tokens in ``dtype`` in place of the tokens in float32, and a number a token.
    """

    @staticmethod
    def forward(
        ctx: Any, tokens: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, dtype: torch.dtype
    ) -> Tensor:
        with torch.autocast(tokens.device.type, enabled=False):
            normed, mean, scale = torch.native_layer_norm(tokens, tokens.shape[-1:], weight, bias, eps)
            standard = torch.empty_like(tokens, dtype=dtype)
            torch.addcmul(-mean * scale, tokens, scale, out=standard)  # rounded as it is written
        ctx.save_for_backward(standard, scale, weight)
        return normed.to(dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator hides parameter names
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        standard, scale, weight = ctx.saved_tensors
        # The gradient of a norm is linear in its output's, so that tokens of mean 0 and scale 1 stand for the real ones.
        of_tokens = torch.ops.aten.native_layer_norm_backward(
            gradients[0] * scale,
            standard.to(scale.dtype),
            standard.shape[-1:],
            torch.zeros_like(scale),
            torch.ones_like(scale),
            weight,
            None,
            [True, False, False],
        )[0]
        return of_tokens, None, None, None, None
