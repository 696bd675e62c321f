"""What figures draw of prompt experts, beside the counts and keys that are state anyway."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.common.experts import proxy_scores
from methods.common.vit import PromptedViT, plain_attention

EXPERT_STATE = ("activation_counts", "prefix_keys")
EXPERT_SCORES = ("expert_scores", "head_inputs", "head_keys")


class _FirstBlock:
    """An attention rule that leaves attention as it is and keeps what it was given."""

    q: Tensor
    k: Tensor

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.q, self.k = q, k
        return plain_attention(q, k, v)


@torch.no_grad()
def first_block_scores(backbone: PromptedViT, images: Tensor, keys: Tensor) -> dict[str, Tensor]:
    """What the first block's experts, ``keys`` (heads, Np, head_dim), see of images: no prompt lies before that block.

    ``expert_scores`` (B, heads, Np): raw, unscaled; ``head_inputs`` (B, heads, head_dim): the mean query that they score;
    ``head_keys``: the mean key of the tokens, likewise.
    """
    seen = _FirstBlock()
    backbone.run_prompted(images, {0: seen})
    means = (seen.q.float().mean(dim=2), seen.k.float().mean(dim=2))
    return dict(zip(EXPERT_SCORES, (proxy_scores(seen.q, keys), *means), strict=True))
