"""Prompt pools: entries are chosen by the cosine between an image's frozen feature and their keys.

Source: L2P and DualPrompt cards, sections 1 to 3. Shapes: L prompted blocks, M entries of T tokens, width d, B images, k
entries chosen for each. The first half of an entry's tokens are prefix keys, the second half prefix values.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smope_bench.methods.common.prefix import PlainPrefix, split_heads
from smope_bench.methods.common.vit.vit import AttentionRule


def uniform(*shape: int, scale: float = 1.0) -> nn.Parameter:
    """A parameter drawn uniformly from [0, scale): all positive, as in the official code."""
    return nn.Parameter(torch.rand(shape) * scale)


class PromptPool(nn.Module):
    """``prompts`` (L, M, T, d) and ``keys`` (L, M, d), or (1, M, d) where all blocks share one key matrix."""

    def __init__(
        self,
        blocks: int,
        size: int,
        length: int,
        dim: int,
        *,
        shared_keys: bool = False,
        prompt_init: float = 1.0,
        key_init: float = 1.0,
    ) -> None:
        super().__init__()
        self.prompts = uniform(blocks, size, length, dim, scale=prompt_init)
        self.keys = uniform(1 if shared_keys else blocks, size, dim, scale=key_init)

    def scores(self, query: Tensor) -> Tensor:
        """Cosine of each query (B, d) with each key: (L, B, M), or (1, B, M) with shared keys."""
        return cosine_scores(query, self.keys)

    def entries(self, chosen: Tensor) -> Tensor:
        """The entries with numbers ``chosen`` (L or 1, B, k): (L, B, k, T, d)."""
        return gather_entries(self.prompts, chosen)


def cosine_scores(query: Tensor, keys: Tensor) -> Tensor:
    """Cosine of queries (B, d), which get no gradient, with keys (L, M, d): (L, B, M), float32."""
    with torch.autocast(query.device.type, enabled=False):
        unit = F.normalize(query.detach().float(), dim=-1)
        return torch.einsum("bd,lmd->lbm", unit, F.normalize(keys.float(), dim=-1))


def choose(scores: Tensor, top_k: int) -> Tensor:
    """Numbers of the ``top_k`` largest scores (..., M) of each image, best first: (..., top_k)."""
    return scores.detach().topk(top_k, dim=-1).indices


def gather_entries(prompts: Tensor, chosen: Tensor) -> Tensor:
    """Rows of ``prompts`` (L, M, T, d) by number, ``chosen`` (L or 1, B, k): (L, B, k, T, d)."""
    blocks, size = prompts.shape[:2]
    first_rows = torch.arange(0, blocks * size, size, device=chosen.device)[:, None, None]
    # An embedding look-up, because its gradient is summed in a fixed order on any number of threads.
    rows = F.embedding(chosen + first_rows, prompts.flatten(0, 1).flatten(1))
    return rows.unflatten(-1, prompts.shape[2:])


def pull_loss_over_batch(scores: Tensor, chosen: Tensor) -> Tensor:
    """Distance of every image to every choice of the batch: scalar, summed over blocks (L2P card, section 3.2).

    With n_m the times that entry m was chosen in the whole batch: sum over m and images i of n_m (1 - cos(q_i, k_m)).
    ``scores``: (L, B, M); ``chosen``: (L, B, k). A used key is thus drawn to the mean query, not to the queries that chose it.
    """
    uses = F.one_hot(chosen, scores.shape[-1]).sum(dim=(1, 2))
    return (uses[:, None] * (1 - scores)).sum()


def pull_loss_per_image(scores: Tensor, chosen: Tensor) -> Tensor:
    """Distance of every image to its own choices alone, same shapes: scalar, summed over blocks, images and choices."""
    return (1 - scores.gather(-1, chosen)).sum()


def known_entry_loss(scores: Tensor, entry: int) -> Tensor:
    """Distance of every image to the key of one known entry: scalar, summed over blocks and images (DualPrompt card, 3.2)."""
    return (1 - scores[..., entry]).sum()


def prefix_rules(blocks: Iterable[int], entries: Tensor, heads: int) -> dict[int, AttentionRule]:
    """Prefix attention by block from entries (L, B, k, T, d), or (L, k, T, d) where all images share them.

    Each half of the tokens is concatenated entry by entry: k * T/2 prefix keys and as many values in every block.
    """
    half = entries.shape[-2] // 2
    keys = split_heads(entries[..., :half, :].flatten(-3, -2), heads)
    values = split_heads(entries[..., half:, :].flatten(-3, -2), heads)
    return {block: PlainPrefix(k, v) for block, k, v in zip(blocks, keys, values, strict=True)}
