"""Are key biases why prompts receive little attention? Measured on the tiny backbone: ``python -m`` this module.

A bias equal for all keys of an image adds the same q.b to their scores, which a softmax over them alone does not notice. Keys of a
prefix lack it, so that it decides between prefix and image.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from smope_bench.harness.facts.prompt_mass import sample_images
from smope_bench.methods.common.backbone.backbones import TINY
from smope_bench.methods.common.prompts.prompt_mass import untrained_shares
from smope_bench.methods.common.vit.block import joined_projection
from smope_bench.methods.common.vit.vit import AttentionRule, PromptedViT, plain_attention

IMAGES = 64
SCALES = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
"""What the key biases are multiplied by."""
ALONG = (-4.0, 4.0, 8.0, 16.0, 32.0)
"""Lengths of what is added to the key bias of every head, in the direction of its mean query."""


@torch.no_grad()
def queries_and_keys(vit: PromptedViT, images: Tensor) -> list[tuple[Tensor, Tensor]]:
    """By block, without prompts: q and k, each (B, heads, N, head_dim)."""
    found: list[tuple[Tensor, Tensor]] = []

    def spy(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        found.append((q, k))
        return plain_attention(q, k, v)

    rules: dict[int, AttentionRule] = dict.fromkeys(range(vit.depth), spy)
    vit(images, rules)
    return found


def key_bias(vit: PromptedViT, block: int) -> Tensor:
    """The key part of a block's bias, (heads, head_dim)."""
    bias = joined_projection(vit.attentions[block])[1]
    assert bias is not None  # the tiny backbone has one
    return bias.view(3, vit.num_heads, vit.head_dim)[1]


def changed(vit: PromptedViT, change: Callable[[int, Tensor], Tensor]) -> PromptedViT:
    """A copy whose key biases, (heads, head_dim), are what ``change`` makes of a block's number and its own."""
    found = copy.deepcopy(vit)
    for block, attention in enumerate(found.attentions):
        joint: Any = attention.qkv.bias
        own = joint.data.view(3, vit.num_heads, vit.head_dim)[1]
        own.copy_(change(block, own))
    return found


def study(vit: PromptedViT, images: Tensor) -> Iterable[tuple[str, list[float]]]:
    """Lines of the table: a label and a number a block."""
    seen, scale = queries_and_keys(vit, images), vit.head_dim**-0.5
    biases = [key_bias(vit, block) for block in range(vit.depth)]
    pairs = list(zip(seen, biases, strict=True))
    yield (
        "mean score that the bias adds",
        [float(torch.einsum("bhne,he->bhn", q, bias).mean()) * scale for (q, _), bias in pairs],
    )
    means = [q.mean(dim=(0, 2)) for q, _ in seen]
    directions = [torch.nn.functional.normalize(mean, dim=-1) for mean in means]
    yield (
        "mean score that a bias of length 1 along the mean query adds",
        [float(q.norm(dim=-1).mean()) * scale for q in means],
    )
    yield (
        "log of the mean exponential of the scores of the image's keys",
        [float(((q @ k.transpose(-2, -1)) * scale).logsumexp(dim=-1).mean()) - math.log(k.shape[2]) for q, k in seen],
    )
    for factor in SCALES:
        shares = untrained_shares(changed(vit, lambda _, bias, by=factor: bias * by), images)
        yield f"share, key bias x {factor:g} (%)", [100 * share for share in shares]
    for size in ALONG:
        shares = untrained_shares(changed(vit, lambda block, bias, by=size: bias + by * directions[block]), images)
        yield f"share, key bias {size:+g} along the mean query (%)", [100 * share for share in shares]


if __name__ == "__main__":
    tiny = TINY.load()
    print(f"| | {' | '.join(f'block {block + 1}' for block in range(tiny.depth))} |\n|---|{'--:|' * tiny.depth}")
    for label, row in study(tiny, sample_images(TINY, IMAGES)):
        print(f"| {label} | {' | '.join(f'{number:.3g}' for number in row)} |")
