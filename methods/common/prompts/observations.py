"""Values of prompt experts that figures draw and that are no state of the method."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from smope_bench.methods.common.prompts.experts import proxy_scores
from smope_bench.methods.common.vit.attention_rules import Recorder, Trace
from smope_bench.methods.common.vit.vit import PromptedViT, plain_attention

EXPERT_STATE = ("activation_counts", "prefix_keys")
EXPERT_SCORES = ("expert_scores", "head_inputs", "head_keys")


@dataclass(frozen=True)
class _Inputs:
    """Queries and keys of a block, each (B, heads, N, head_dim)."""

    q: Tensor
    k: Tensor


class _Spy:
    """Attention without a prompt that records its queries and keys."""

    def __init__(self, record: Recorder[_Inputs]) -> None:
        self.record = record

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.record(_Inputs(q, k))
        return plain_attention(q, k, v)

    def part(self, rows: slice) -> _Spy:
        return _Spy(self.record.part(rows))


@torch.no_grad()
def first_block_scores(backbone: PromptedViT, images: Tensor, keys: Tensor) -> dict[str, Tensor]:
    """Scores of the first block's experts, ``keys`` (heads, Np, head_dim), for images; no prompt precedes that block.

    ``expert_scores`` (B, heads, Np): raw, unscaled; ``head_inputs`` (B, heads, head_dim): the mean query that they score;
    ``head_keys``: the mean key of the tokens, likewise.
    """
    trace: Trace[_Inputs] = Trace()
    backbone.run_prompted(images, {0: _Spy(trace.recorder(0))})
    (seen,) = trace
    means = (seen.q.float().mean(dim=2), seen.k.float().mean(dim=2))
    return dict(zip(EXPERT_SCORES, (proxy_scores(seen.q, keys), *means), strict=True))
