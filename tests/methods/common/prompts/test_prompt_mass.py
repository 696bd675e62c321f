"""The share of attention that prompts receive, against sums by hand, explicit softmaxes, and the rest that tokens receive."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.prefix import PlainPrefix
from smope_bench.methods.common.prompts.experts import Handicap, SparseExperts
from smope_bench.methods.common.prompts.gated_prefix import GatedPrefix
from smope_bench.methods.common.prompts.prompt_mass import (
    PromptMass,
    is_inert,
    key_bias_norms,
    own_places,
    untrained_shares,
)
from smope_bench.methods.common.prompts.routing import RoutedPrefix
from smope_bench.methods.common.vit.attention_rules import AttentionRule
from smope_bench.methods.common.vit.block import Layout
from smope_bench.methods.common.vit.block_adaptation import BlockAdaptation, ExtraTokens
from smope_bench.methods.common.vit.vit import PromptedViT

HEADS, PAIRS, TOKENS, WIDTH = 2, 5, 7, 4


def share_of(rule: AttentionRule, q: Tensor, k: Tensor, v: Tensor) -> float:
    """The share of one call, with the output checked to be the rule's own."""
    place: Any = SimpleNamespace(watch=None)
    mass = PromptMass()
    with mass.watching(place):
        watched = place.watch(0, BlockAdaptation(attention=rule), Layout(1), k.shape[2]).attention
    assert place.watch is None
    watched.read(q.transpose(1, 2).flatten(2))
    if not isinstance(rule, RoutedPrefix):
        assert torch.equal(watched(q, k, v), rule(q, k, v))
    else:
        watched(q, k, v)
    return mass.shares()[0]


def test_a_share_is_that_of_a_sum_by_hand() -> None:
    """Width 4, so a scale of 1/2. Query 1: weights 1, 3 and 4 of two tokens and one prefix; query 2 is zero: all alike."""
    q, k, v = (torch.zeros(1, 1, 2, 4, dtype=torch.double) for _ in range(3))
    q[0, 0, 0, 0] = 2
    k[0, 0, 1, 0] = math.log(3)
    v += torch.arange(4)
    keys = torch.tensor([[[math.log(4), 0, 0, 0]]], dtype=torch.double)
    found = share_of(PlainPrefix(keys, 100 * torch.ones_like(keys)), q, k, v)
    assert found == pytest.approx((4 / 8 + 1 / 3) / 2, abs=1e-14)


def plain(keys: Tensor, values: Tensor) -> AttentionRule:
    return PlainPrefix(keys, values)


def gated(keys: Tensor, values: Tensor) -> AttentionRule:
    return GatedPrefix(keys, values, torch.tensor(2.0), torch.tensor(3.0), "sigmoid")


def sparse(keys: Tensor, values: Tensor) -> AttentionRule:
    return SparseExperts(keys, values, 2, Handicap())


def sparse_per_token(keys: Tensor, values: Tensor) -> AttentionRule:
    return SparseExperts(keys, values, 2, Handicap(), per_token=True)


def routed(keys: Tensor, values: Tensor) -> AttentionRule:
    return RoutedPrefix(lambda tokens: torch.stack([keys, values])[:, None].expand(2, len(tokens), *keys.shape))


@pytest.mark.parametrize("make", [plain, gated, sparse, sparse_per_token, routed])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_shares_of_prompts_and_tokens_add_up_to_one(
    make: Callable[[Tensor, Tensor], AttentionRule], dtype: torch.dtype
) -> None:
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, HEADS, TOKENS, WIDTH, generator=draw).to(dtype) for _ in range(3))
    keys, values = torch.randn(2, HEADS, PAIRS, WIDTH, generator=draw)
    prompts = share_of(make(keys, values), q, k, v)
    only_tokens = make(keys, torch.zeros_like(values))
    if isinstance(only_tokens, RoutedPrefix):
        only_tokens.read(q[:, 0])
    tokens = only_tokens(q.float(), k.float(), torch.ones_like(v, dtype=torch.float32)).mean()
    assert 0.05 < prompts < 0.95 and prompts + float(tokens) == pytest.approx(1, abs=1e-5)


def test_a_rule_that_is_no_mean_of_values_is_refused() -> None:
    q = torch.randn(2, 1, 3, 4)
    with pytest.raises(MethodError, match=r"cannot be measured: .*that of the tokens is 2\)"):
        share_of(lambda q, k, v: v * 2, q, q, q)


@pytest.mark.parametrize("place", ["start", "end"])
@pytest.mark.parametrize("keep", [False, True])
def test_prompt_tokens_are_told_from_the_images_own(micro_vit: PromptedViT, place: Any, keep: bool) -> None:
    """Against softmaxes of the queries and keys of both blocks; kept tokens have a share in the next block, too."""
    vit, images, seen = copy.deepcopy(micro_vit).double(), torch.rand(3, 3, 16, 16, dtype=torch.double), {}

    def spy(number: int) -> AttentionRule:
        def rule(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
            seen.setdefault(number, weights)
            return weights @ v

        return rule

    rows = torch.randn(3, vit.feature_dim, dtype=torch.double)
    first = BlockAdaptation(attention=spy(0), tokens=ExtraTokens(rows, place, keep))
    mass = PromptMass()
    with torch.no_grad(), mass.watching(vit):
        vit(images, {0: first, 1: spy(1)})
    prompts = torch.zeros(8, dtype=torch.bool)  # a class token and four patches are the image's own
    prompts[slice(1, 4) if place == "start" else slice(5, 8)] = True
    expected = seen[0][:, :, ~prompts][..., prompts].sum(dim=-1).mean()
    found = mass.shares()
    assert found[0] == pytest.approx(float(expected), abs=1e-12) and 0.05 < found[0] < 0.95
    if keep:
        later = float(seen[1][:, :, ~prompts][..., prompts].sum(dim=-1).mean())
        assert found[1] == pytest.approx(later, abs=1e-12) and later > 0.05
    assert list(found) == (list(range(6)) if keep else [0, 1]) and (keep or abs(found[1]) < 1e-12)


def test_own_places_lie_around_prompts_at_both_ends() -> None:
    """Class token, two kept prompts, three patches, one kept prompt; two more enter."""
    layout = Layout(1, 2, 1)
    assert own_places(layout, 7, 9, at_start=True).nonzero().flatten().tolist() == [0, 5, 6, 7]
    assert own_places(layout, 7, 9, at_start=False).nonzero().flatten().tolist() == [0, 3, 4, 5]


def test_an_untrained_prefix_is_the_same_each_time_and_leaves_the_backbone_as_it_was(micro_vit: PromptedViT) -> None:
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    before, drawn = micro_vit.features(images), torch.get_rng_state()
    shares = untrained_shares(micro_vit, images)
    assert shares == untrained_shares(micro_vit, images) and len(shares) == 6
    # Random weights are small, so keys differ little and 25 prefix pairs beside 5 tokens receive about 25/30.
    assert all(0.7 < share < 0.95 for share in shares)
    assert torch.equal(torch.get_rng_state(), drawn) and torch.equal(micro_vit.features(images), before)


def test_key_biases_along_the_queries_make_prompts_inert(micro_vit: PromptedViT) -> None:
    """The bias of a key adds the same amount to the scores of all of the image's keys, and nothing to those of a prefix."""
    images, vit = torch.rand(4, 3, 16, 16), copy.deepcopy(micro_vit)
    for attention in vit.attentions:
        bias: Any = attention.qkv.bias
        bias.data.zero_()
    assert key_bias_norms(vit) == [0.0] * 6 and not is_inert(untrained_shares(vit, images))
    for attention in vit.attentions:
        bias = attention.qkv.bias
        bias.data.view(3, -1)[:2] = (
            torch.tensor([1.0, -1.0]).repeat(12) * 5
        )  # q.b / sqrt(12) is about 12 * 25 / sqrt(12)
    assert key_bias_norms(vit) == pytest.approx([5 * math.sqrt(24)] * 6)
    shares = untrained_shares(vit, images)
    assert is_inert(shares) and max(shares) < 1e-6
    assert not is_inert([0.01, 0.03]) and is_inert([0.01, 0.03, 0.0199])
