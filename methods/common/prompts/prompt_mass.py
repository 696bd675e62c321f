"""Prompt mass: the share of attention that prompts receive, by block, for any attention rule.

A rule's output is a mean of values, weighted by a softmax, so it is affine in the values of the image's own tokens. Called once
with ones and once with zeros in their place, it gives outputs that differ by the weight of these tokens; the rest of the weight
is that of the prompts. No rule has to store scores, and rules that choose or gate their prompts are measured as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.prefix import PlainPrefix
from smope_bench.methods.common.vit.attention_rules import AttentionRule, TokenRule
from smope_bench.methods.common.vit.block import Layout, joined_projection
from smope_bench.methods.common.vit.block_adaptation import BlockAdaptation
from smope_bench.methods.common.vit.vit import PromptedViT, plain_attention

INERT = 0.02
"""Share of attention below which a prompt can change a block's output hardly at all."""
LENGTH = 25
"""Key/value pairs a head of the untrained prefix, the default of the project's plain prefix."""
ROUNDING = 1e-3


class PromptMass:
    """Mean shares of attention that prompts receive, by block, of all passes of a backbone within ``watching``."""

    def __init__(self) -> None:
        self._shares: dict[int, list[Tensor]] = {}

    @contextlib.contextmanager
    def watching(self, backbone: PromptedViT) -> Iterator[None]:
        """Measure the passes of ``backbone``, which take about three times as long in prompted blocks."""
        backbone.watch = self._watched
        try:
            yield
        finally:
            backbone.watch = None

    def shares(self) -> dict[int, float]:
        """By number of a prompted block, from 0: the mean over passes, images, heads and the queries of the image's tokens."""
        return {number: float(torch.cat(found).mean()) for number, found in sorted(self._shares.items())}

    def _watched(self, number: int, adaptation: BlockAdaptation, layout: Layout, tokens: int) -> BlockAdaptation:
        extra, rule = adaptation.tokens, adaptation.attention
        if rule is None and extra is None and not (layout.start or layout.end):
            return adaptation
        own = partial(own_places, layout, tokens, at_start=extra is not None and extra.place == "start")
        note = self._shares.setdefault(number, []).append
        return replace(adaptation, attention=_Weighed(rule or plain_attention, own, note))


def own_places(layout: Layout, before: int, keys: int, *, at_start: bool) -> Tensor:
    """Which of a block's ``keys`` are of the image's own tokens, boolean (keys).

    ``before``: tokens that enter the block, laid out by ``layout``; the block adds ``keys - before`` prompt tokens, at the start
    or at the end.
    """
    patches = before - layout.first - layout.start - layout.end
    start = layout.first + layout.start + (keys - before if at_start else 0)
    own = torch.zeros(keys, dtype=torch.bool)
    own[: layout.first] = True
    own[start : start + patches] = True
    return own


class _Weighed(TokenRule):
    """A rule that notes the prompts' share, (B), in float32 or wider, and returns what ``rule`` returns."""

    def __init__(self, rule: AttentionRule, own: Callable[[int], Tensor], note: Callable[[Tensor], None]) -> None:
        self._rule = rule
        self._own = own
        self._note = note
        self._tokens: Tensor | None = None

    def read(self, tokens: Tensor) -> None:
        self._tokens = tokens

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads = self._attend(q, k, v)
        with torch.autocast(q.device.type, enabled=False):
            self._note(self._share(q, k, v))
        return heads

    def _share(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        exact, own = torch.promote_types(q.dtype, torch.float32), self._own(k.shape[2]).to(q.device)
        nothing = torch.zeros_like(v, dtype=exact)
        ones = nothing.clone()
        ones[:, :, own] = 1
        q, k = q.to(exact), k.to(exact)
        weights = self._attend(q, k, ones) - self._attend(q, k, nothing)
        share = 1 - weights[:, :, own].mean(dim=(1, 2, 3))
        if not bool(((share > -ROUNDING) & (share < 1 + ROUNDING)).all()):
            raise MethodError(
                "the share of attention that prompts receive cannot be measured: an attention rule's output is no mean of values"
                f" with weights that add up to 1 (that of the tokens is {float(1 - share.min()):.3g}); do not observe it here"
            )
        return share

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if isinstance(self._rule, TokenRule):
            assert self._tokens is not None  # a block shows its input before it attends
            self._rule.read(self._tokens.to(q.dtype))
        return self._rule(q, k, v)


# -- a backbone by itself ----------------------------------------------------------------------------------------------


@torch.no_grad()
def untrained_shares(backbone: PromptedViT, images: Tensor, *, length: int = LENGTH, seed: int = 0) -> list[float]:
    """Shares of attention that an untrained prefix receives in each block of ``backbone``, for ``images`` as it takes them.

    The prefix is in every block: ``length`` keys and values a head, drawn uniformly from [0, 1) by ``seed`` alone.
    """
    shape = (backbone.depth, 2, backbone.num_heads, length, backbone.head_dim)
    prefix = torch.rand(shape, generator=torch.Generator().manual_seed(seed)).to(images)
    mass = PromptMass()
    with mass.watching(backbone):
        backbone(images, {number: PlainPrefix(*pair) for number, pair in enumerate(prefix)})
    return list(mass.shares().values())


def key_bias_norms(backbone: PromptedViT) -> list[float]:
    """Euclidean norm of the bias of all keys, by block; 0 without a bias."""
    biases = [joined_projection(attention)[1] for attention in backbone.attentions]
    return [0.0 if bias is None else float(bias.chunk(3)[1].float().norm()) for bias in biases]


def is_inert(shares: Sequence[float]) -> bool:
    """Whether most of the blocks give prompts less than ``INERT`` of their attention."""
    return sum(share < INERT for share in shares) > len(shares) / 2
