"""Timing of attention: the plain product, and the ways in which a prefix's logit that is no plain product can enter it.

Three kinds of logit: ``plain``, scores alone; ``shared``, one number per image, head and prefix for all query tokens;
``gated``, a function of the plain score. The first form of each kind is what ``methods/common`` uses on this device in this
precision, and is one of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from smope_bench.harness.hardware.device import products_in
from smope_bench.harness.hardware.memory import MIB
from smope_bench.harness.timing.measure import interleaved, saved_bytes
from smope_bench.harness.timing.records import Row, make_row, ratios, spread
from smope_bench.methods.common.prefix import prepend
from smope_bench.methods.common.prompts import prefix_logits
from smope_bench.methods.common.prompts.fused_kernels import kernel_for
from smope_bench.methods.common.prompts.gated_prefix import GatedPrefix
from smope_bench.methods.common.vit.attention import attend

HEADS, TOKENS, HEAD_DIM = 12, 197, 64
SHARED, GATED = 25, 20
"""Prefixes per head in the published recipes."""

Heads = tuple[Tensor, Tensor, Tensor]
Form = Callable[[Tensor, Tensor, Tensor], Tensor]


def bench_attention(*, batch: int, repeats: int, precision: str, device: str) -> list[Row]:
    """Forward and backward of every form at the sizes of ViT-B/16, 224 px, interleaved within its kind of logit.

    ``saved_mb``: MiB that the graph keeps for the backward pass.
    """
    place, rows, is_short = torch.device(device), list[Row](), precision == "bf16"
    dtype = torch.bfloat16 if is_short else torch.float32
    heads = make_heads(batch, place, dtype)
    kinds = {"plain": plain_forms(), "shared": shared_forms(batch, place, dtype), "gated": gated_forms(place, dtype)}
    with products_in(precision, place.type):  # as runs do
        for logit, forms in kinds.items():
            times = interleaved({name: _step(form, heads) for name, form in forms.items()}, repeats, place)
            used = times[next(iter(forms))]
            for name, form in forms.items():
                saved = saved_bytes(partial(form, *heads)) / MIB
                took = {"seconds": spread(times[name]), "to_used": ratios(times[name], used)}
                rows.append(make_row(f"{logit}: {name}", **took, saved_mb=saved))
    return rows


def make_heads(batch: int, device: torch.device, dtype: torch.dtype) -> Heads:
    """Random q, k, v (B, heads, N, head_dim) as a block's projection yields them: views of one tensor."""
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(batch, TOKENS, 3, HEADS, HEAD_DIM, generator=generator).to(device, dtype).requires_grad_()
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def plain_forms() -> dict[str, Form]:
    """Forms of attention without a prefix."""

    def products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.transpose(-2, -1) * HEAD_DIM**-0.5).softmax(dim=-1) @ v

    return {
        "as used": attend,
        "fused kernel": F.scaled_dot_product_attention,
        "plain products": products,
    }


def shared_forms(batch: int, device: torch.device, dtype: torch.dtype) -> dict[str, Form]:
    """Forms with one logit per prefix for all query tokens of an image."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(batch, HEADS, SHARED, generator=generator).to(device).requires_grad_()
    values = torch.randn(HEADS, SHARED, HEAD_DIM, generator=generator).to(device).requires_grad_()

    def merged() -> tuple[Tensor, Tensor]:
        return prefix_logits.shared_pair(logits, values)

    def beside(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return prefix_logits.beside_the_kernel(q, k, v, *merged())

    def channel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return prefix_logits.through_a_channel(q, k, v, *merged())

    def with_mask(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, pairs: Tensor) -> Tensor:
        count = bias.shape[-1]
        mask = F.pad(bias, (0, k.shape[2])).to(q.dtype)[:, :, None].expand(-1, -1, q.shape[2], -1)
        joined = torch.cat([pairs.to(v.dtype), v], dim=2)
        return F.scaled_dot_product_attention(q, F.pad(k, (0, 0, count, 0)), joined, attn_mask=mask)

    def all_masked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return with_mask(q, k, v, logits, values.expand(batch, -1, -1, -1))

    def products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        joint, mixed = merged()
        scores = q @ k.transpose(-2, -1) * HEAD_DIM**-0.5
        constant = joint[:, :, None].to(scores.dtype).expand(-1, -1, scores.shape[2], 1)
        return torch.cat([constant, scores], dim=-1).softmax(dim=-1) @ torch.cat([mixed.to(v.dtype), v], dim=2)

    return {
        "as used": lambda q, k, v: prefix_logits.attend_with_shared_logits(q, k, v, logits, values),
        **(
            {"one pair, beside the kernel": beside}
            if kernel_for(torch.empty(1, 1, 1, HEAD_DIM, dtype=dtype, device=device))
            else {}
        ),
        "one pair, extra channel": channel,
        "one pair, additive mask": lambda q, k, v: with_mask(q, k, v, *merged()),
        "all pairs, additive mask": all_masked,
        "one pair, plain products": products,
    }


def gated_forms(device: torch.device, dtype: torch.dtype) -> dict[str, Form]:
    """Forms whose logit is the plain score plus a gate of it."""
    generator = torch.Generator().manual_seed(2)
    keys, values = torch.randn(2, HEADS, GATED, HEAD_DIM, generator=generator).to(device)
    keys, values = keys.requires_grad_(), values.requires_grad_()
    alpha, tau = (torch.tensor(value, device=device, requires_grad=True) for value in (0.5, 1.5))

    def gate(q: Tensor) -> Tensor:
        return alpha * torch.sigmoid(tau * (q @ keys.transpose(-2, -1).to(q.dtype)) * HEAD_DIM**-0.5)

    def gated(q: Tensor) -> Tensor:
        return (q @ keys.transpose(-2, -1).to(q.dtype)) * HEAD_DIM**-0.5 + gate(q)

    def beside(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        logits = gated(q)
        return prefix_logits.beside_the_kernel(q, k, v, logits.logsumexp(dim=-1), logits.softmax(dim=-1) @ values)

    def masked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = F.pad(gate(q), (0, k.shape[2])).to(q.dtype)
        return F.scaled_dot_product_attention(q, prepend(keys, k), prepend(values, v), attn_mask=mask)

    return {
        "as used": GatedPrefix(keys, values, tau, alpha, "sigmoid"),
        **(
            {"one pair, beside the kernel": beside}
            if kernel_for(torch.empty(1, 1, 1, HEAD_DIM, dtype=dtype, device=device))
            else {}
        ),
        "extra channel a prefix": lambda q, k, v: prefix_logits.through_channels(q, k, v, gated(q), values),
        "additive mask": masked,
        "plain products": lambda q, k, v: prefix_logits.in_plain_products(q, k, v, gated(q), values),
    }


def _has_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether an attention kernel that returns its log-sum-exp is called directly."""
    return kernel_for(torch.empty(1, 1, 1, HEAD_DIM, dtype=dtype, device=device)) is not None


def _step(form: Form, heads: Heads) -> Callable[[], None]:
    def step() -> None:
        detached = tuple(each.detach().requires_grad_() for each in heads)
        output = form(detached[0], detached[1], detached[2])
        output.backward(torch.ones_like(output))

    return step
