"""The attention product, in the form that is fastest where it runs (docs/performance.md has the timings)."""

from __future__ import annotations

from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    """Softmax attention of q (B, heads, N, e) over k and v (B, heads, M, e): (B, heads, N, e).

    ``mask``: boolean, broadcasts to (B, heads, N, M), true where a key takes part; ``scale``: 1/sqrt(e) unless given. torch's
    fused kernel, except in bfloat16 on a CPU, where two plain products take less time with a backward pass.
    """
    if q.device.type == "cpu" and product_type(q) == torch.bfloat16 and mask is None:
        return _plain(q.bfloat16(), k.bfloat16(), v.bfloat16(), scale)
    return F.scaled_dot_product_attention(*without_unused(q, k, v), attn_mask=mask, scale=scale)


def without_unused(*heads: Tensor) -> list[Tensor]:
    """The same tensors; with a graph, copies of those that are a half or less of a storage of which none uses the rest.

    The graph would keep all of it: of packed queries, keys and values, for example, where only the queries are still a view.
    """
    if not torch.is_grad_enabled():
        return list(heads)
    used = Counter[int]()
    for each in heads:
        used[each.untyped_storage().data_ptr()] += each.nbytes
    stores = [each.untyped_storage() for each in heads]
    return [
        each.clone(memory_format=torch.contiguous_format) if 2 * used[store.data_ptr()] <= store.nbytes() else each
        for each, store in zip(heads, stores, strict=True)
    ]


def product_type(q: Tensor) -> torch.dtype:
    """What autocast would compute the products in."""
    kind = q.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else q.dtype


def _plain(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    """Two batched products around a softmax; scores are rounded to bfloat16 before the softmax, unlike in the kernel."""
    batch, heads, count, width = q.shape
    rows = batch * heads
    factor = width**-0.5 if scale is None else scale
    keys, values = k.reshape(rows, -1, width).transpose(1, 2), v.reshape(rows, -1, v.shape[-1])
    scores = torch.baddbmm(q.new_empty(1, 1, 1), q.reshape(rows, count, width), keys, beta=0, alpha=factor)
    return torch.bmm(scores.softmax(dim=-1), values).view(batch, heads, count, -1)
