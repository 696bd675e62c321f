"""Attention with prefixes of given logits, in the fastest form for the device (docs/performance.md).

Prefixes act on a query token together as one pair: its logit is their log-sum-exp, its value their softmax-weighted mean. Adding
such a pair to attention over the tokens needs only the log-sum-exp of the tokens' scores, which fused kernels return.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from smope_bench.methods.common.prefix import prepend
from smope_bench.methods.common.prompts.fused_kernels import KERNELS, kernel_for
from smope_bench.methods.common.vit.attention import attend, product_type, without_unused


def attend_with_shared_logits(q: Tensor, k: Tensor, v: Tensor, logits: Tensor, values: Tensor) -> Tensor:
    """Attention in which prefix j has one logit for all query tokens: (B, heads, N, head_dim).

    ``logits``: (B, heads, P), already scaled, -inf for an absent prefix (at least one must be present); ``values``: (heads,
    P, head_dim).
    """
    form = through_a_channel if kernel_for(q) is None else beside_the_kernel
    return form(q, k, v, *shared_pair(logits, values))


def shared_pair(logits: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The pair that stands for all prefixes of an image: its logit (B, heads, 1), value (B, heads, 1, head_dim)."""
    mixed = torch.einsum("bhp,hpe->bhe", logits.softmax(dim=-1), values)
    return logits.logsumexp(dim=-1, keepdim=True), mixed[:, :, None]


def attend_with_logits(q: Tensor, k: Tensor, v: Tensor, logits: Tensor, values: Tensor) -> Tensor:
    """Attention in which every query token has a logit of its own for each prefix: (B, heads, N, head_dim).

    ``logits``: (B, heads, N, P), already scaled; ``values``: (heads, P, head_dim) or (B, heads, P, head_dim).
    """
    if kernel_for(q) is not None:
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return beside_the_kernel(q, k, v, wide.logsumexp(dim=-1), wide.softmax(dim=-1) @ values)
    form = in_plain_products if q.device.type == "cpu" else through_channels
    return form(q, k, v, logits, values)


def beside_the_kernel(q: Tensor, k: Tensor, v: Tensor, logit: Tensor, value: Tensor) -> Tensor:
    """The kernel attends to the tokens; its log-sum-exp gives the weight of the added pair.

    ``logit``: (B, heads, N or 1); ``value``: (B, heads, N or 1, head_dim). Only where ``kernel_for`` names a kernel.
    """
    name, dtype = kernel_for(q), product_type(q)
    heads = without_unused(*(each.to(dtype) for each in (q, k, v)))
    return _Beside.apply(name, *heads, logit, value.to(dtype))


class _Beside(torch.autograd.Function):
    """Attention over the tokens and one more pair: logit (B, heads, N or 1), value (B, heads, N or 1, head_dim).

    The kernel's backward takes output and log-sum-exp. Given those of tokens and pair together, it yields the gradients of
    the joint softmax. Sums and logits have float32 beside half precision.
    """

    @staticmethod
    def forward(ctx: Any, name: str, q: Tensor, k: Tensor, v: Tensor, logit: Tensor, value: Tensor) -> Tensor:
        tokens, of_tokens, rest = KERNELS[name].forward(q, k, v)
        share = torch.sigmoid(logit - of_tokens)
        output = torch.lerp(tokens, value, share[..., None].to(tokens.dtype))
        # Below the first trained prompt, q, k and v have no gradient, and that of the pair needs none of them.
        heads = (q, k, v) if any(ctx.needs_input_grad[1:4]) else (None, None, None)
        ctx.name = name
        ctx.save_for_backward(*heads, output, torch.logaddexp(of_tokens, logit), share, value, *rest)
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator hides parameter names
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        q, k, v, output, total, share, value, *rest = ctx.saved_tensors
        gradient, of_heads = gradients[0], (None, None, None)
        if q is not None:
            of_heads = KERNELS[ctx.name].backward(gradient, q, k, v, output, total, *rest)
        one_value = value.shape[2] == 1
        weights = share.to(gradient.dtype)
        of_value = weights[:, :, None] @ gradient if one_value else weights[..., None] * gradient
        through_sum = share * (gradient.to(share.dtype) * output).sum(dim=-1)
        of_logit = (of_value.to(share.dtype) * value).sum(dim=-1) - through_sum.sum_to_size(value.shape[:3])
        return (None, *of_heads, of_logit, of_value)


def through_a_channel(q: Tensor, k: Tensor, v: Tensor, logit: Tensor, value: Tensor) -> Tensor:
    """One more channel carries the pair's logit: 1 in every query, the logit in the added key."""
    width = q.shape[-1]
    scale = width**-0.5
    channel = F.pad((logit / scale)[..., None], (width, 0)).to(k.dtype)
    keys = torch.cat([channel, F.pad(k, (0, 1))], dim=2)
    pairs = F.pad(torch.cat([value.to(v.dtype), v], dim=2), (0, 1))
    return attend(F.pad(q, (0, 1), value=1.0), keys, pairs, scale=scale)[..., :-1]


def through_channels(q: Tensor, k: Tensor, v: Tensor, logits: Tensor, values: Tensor) -> Tensor:
    """One more channel a prefix: the logit in the query, 1 in that prefix's key. No (N, P + N) bias is ever stored."""
    (batch, heads, _, width), count = q.shape, logits.shape[-1]
    scale = width**-0.5
    channels = F.pad(torch.eye(count, dtype=k.dtype, device=k.device), (width, 0))
    keys = torch.cat([channels.expand(batch, heads, -1, -1), F.pad(k, (0, count))], dim=2)
    pairs = F.pad(prepend(values, v), (0, count))
    queries = torch.cat([q, logits.to(q.dtype) / scale], dim=-1)
    return attend(queries, keys, pairs, scale=scale)[..., :width]


def in_plain_products(q: Tensor, k: Tensor, v: Tensor, logits: Tensor, values: Tensor) -> Tensor:
    """Scores of the tokens beside the given logits, one softmax, one product."""
    scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
    return torch.cat([logits.to(scores.dtype), scores], dim=-1).softmax(dim=-1) @ prepend(values, v)
