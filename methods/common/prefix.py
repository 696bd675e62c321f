"""Prefix attention: learnable key/value pairs beside the tokens' own, in the head space of a block.

Prefixes are added after the key and value projections. Shapes: keys and values (heads, P, head_dim), or with a leading batch
dimension where an image has a prefix of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.vit.attention import attend
from smope_bench.methods.common.vit.attention_rules import of_images


class PlainPrefix:
    """Ordinary prefix tuning: every query token attends to every prefix pair."""

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
    batch, heads, _, width = tokens.shape
    if prefix.dim() not in (3, 4) or (prefix.shape[-3], prefix.shape[-1]) != (heads, width):
        raise MethodError(
            f"a prefix is {tuple(prefix.shape)}, but a block with {heads} heads of width {width} takes ({heads}, length, {width})"
            f" or ({batch}, {heads}, length, {width})"
        )
    shared = prefix.expand(batch, *prefix.shape[-3:])
    return torch.cat([shared.to(tokens.dtype), tokens], dim=2)


def project_prefix(rows: Tensor, weights: Tensor) -> Tensor:
    """Prefix rows in model space (L, P, d) through frozen W (L, heads, head_dim, d): (L, heads, P, head_dim), no bias."""
    return torch.einsum("lpd,lhed->lhpe", rows, weights)
