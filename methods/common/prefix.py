"""Prefix attention: learnable key/value pairs beside the tokens' own, in the head space of a block.

Prefixes live after the key and value projections. Shapes: keys and values (heads, P, head_dim), or with a leading batch
dimension where an image has a prefix of its own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.common.attention import attend
from methods.common.rules import of_images


class PlainPrefix:
    """Ordinary prefix tuning: every query token scores every prefix key itself."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys = keys
        self.values = values

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention over the P prefix pairs and the N token pairs: (B, heads, N, head_dim)."""
        return attend(q, prepend(self.keys, k), prepend(self.values, v))

    def part(self, rows: slice) -> PlainPrefix:
        """The rule for some of the images."""
        return PlainPrefix(of_images(self.keys, rows, 3), of_images(self.values, rows, 3))


def split_heads(rows: Tensor, heads: int) -> Tensor:
    """Prefix rows (..., P, d) to (..., heads, P, head_dim): head h owns channels h * head_dim and following."""
    return rows.unflatten(-1, (heads, -1)).transpose(-3, -2)


def prepend(prefix: Tensor, tokens: Tensor) -> Tensor:
    """Put a prefix (heads, P, e) or (B, heads, P, e) before tokens (B, heads, N, e): (B, heads, P+N, e)."""
    batch = tokens.shape[0]
    shared = prefix.expand(batch, *prefix.shape[-3:])
    return torch.cat([shared.to(tokens.dtype), tokens], dim=2)


def attend_with_shared_logits(q: Tensor, k: Tensor, v: Tensor, logits: Tensor, values: Tensor) -> Tensor:
    """Attention in which prefix j has one logit for all query tokens, through the fused kernel.

    ``logits``: (B, heads, P), already scaled, -inf for an absent prefix (at least one must be present); ``values``: (heads,
    P, head_dim). Prefixes whose logits do not depend on the query act together as a single pair: its logit is their
    log-sum-exp and its value their softmax-weighted mean. One extra channel carries that logit, 1 in every query and the
    logit in the added key, so that the kernel sees a plain product.
    """
    joint = logits.logsumexp(dim=-1)
    mixed = torch.einsum("bhp,hpe->bhe", logits.softmax(dim=-1), values)
    scale = q.shape[-1] ** -0.5
    channel = F.pad((joint / scale)[:, :, None, None], (q.shape[-1], 0)).to(k.dtype)
    queries = F.pad(q, (0, 1), value=1.0)
    keys = torch.cat([channel, F.pad(k, (0, 1))], dim=2)
    pairs = F.pad(torch.cat([mixed[:, :, None].to(v.dtype), v], dim=2), (0, 1))
    return attend(queries, keys, pairs, scale=scale)[..., :-1]


def project_prefix(rows: Tensor, weights: Tensor) -> Tensor:
    """Prefix rows in model space (L, P, d) through frozen W (L, heads, head_dim, d): (L, heads, P, head_dim), no bias."""
    return torch.einsum("lpd,lhed->lhpe", rows, weights)
