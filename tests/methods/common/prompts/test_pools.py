"""The numbers of the L2P and DualPrompt cards' self-checks on the shared parts of prompt pools."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from smope_bench.methods.common.prefix import PlainPrefix
from smope_bench.methods.common.prompts.pools import (
    PromptPool,
    choose,
    cosine_scores,
    gather_entries,
    known_entry_loss,
    prefix_rules,
    pull_loss_over_batch,
    pull_loss_per_image,
)
from smope_bench.methods.common.vit.vit import AttentionRule
from tests.tolerance import sum_tolerance  # pyright: ignore[reportMissingImports]

QUERY = torch.tensor([[3.0, 0.0], [0.0, 0.5]])
KEYS = torch.tensor([[[2.0, 0.0], [0.6, 0.8], [0.0, 5.0]]])
POOL = torch.arange(24.0).view(1, 3, 4, 2)


def prefix(rule: AttentionRule) -> tuple[Tensor, Tensor]:
    """Keys and values of a rule of one head, without the head's dimension."""
    assert isinstance(rule, PlainPrefix)
    return rule.keys.squeeze(-3), rule.values.squeeze(-3)


def pairs(*numbers: float) -> list[list[float]]:
    return torch.tensor(numbers).view(-1, 2).tolist()


def test_cosines_and_choices_of_the_card() -> None:
    scores = cosine_scores(QUERY, KEYS)
    assert torch.allclose(scores, torch.tensor([[[1, 0.6, 0], [0, 0.8, 1]]]))
    assert choose(scores, 1).tolist() == [[[0], [2]]]
    assert choose(scores, 2).tolist() == [[[0, 1], [2, 1]]]


@pytest.mark.parametrize(("top_k", "over_batch", "per_image"), [(1, 2.0, 0.0), (2, 3.2, 0.6)])
def test_pull_losses_of_the_card(top_k: int, over_batch: float, per_image: float) -> None:
    scores = cosine_scores(QUERY, KEYS)
    chosen = choose(scores, top_k)
    tolerance = sum_tolerance(4.0, terms=16)
    assert pull_loss_over_batch(scores, chosen).item() == pytest.approx(over_batch, abs=tolerance)
    assert pull_loss_per_image(scores, chosen).item() == pytest.approx(per_image, abs=tolerance)


def test_pull_turns_used_keys_to_the_mean_query() -> None:
    keys, query = KEYS.clone().requires_grad_(), QUERY.clone().requires_grad_()
    scores = cosine_scores(query, keys)
    pull_loss_over_batch(scores, choose(scores, 2)).backward()
    assert keys.grad is not None and query.grad is None
    assert torch.allclose(keys.grad[0], torch.tensor([[0, -0.5], [-0.32, 0.24], [-0.2, 0]]), atol=1e-6)


def test_closed_form_is_the_sum_over_all_images_and_choices() -> None:
    torch.manual_seed(0)
    query, keys = torch.randn(128, 16, dtype=torch.double), torch.randn(1, 30, 16, dtype=torch.double)
    scores = cosine_scores(query, keys).double()
    chosen = choose(scores, 5)
    direct = (1 - scores[0][:, chosen[0]]).sum()
    assert direct.item() == pytest.approx(5 * 128**2 - scores[0][:, chosen[0]].sum().item(), rel=1e-6)
    assert pull_loss_over_batch(scores, chosen).item() == pytest.approx(direct.item(), rel=1e-6)


def test_layout_of_chosen_entries() -> None:
    entries = gather_entries(POOL, torch.tensor([[[0, 1], [2, 1]]]))
    keys, values = prefix(prefix_rules([3], entries, heads=1)[3])
    assert keys.tolist() == [pairs(0, 1, 2, 3, 8, 9, 10, 11), pairs(16, 17, 18, 19, 8, 9, 10, 11)]
    assert values.tolist() == [pairs(4, 5, 6, 7, 12, 13, 14, 15), pairs(20, 21, 22, 23, 12, 13, 14, 15)]


def test_known_entry_in_training() -> None:
    scores = cosine_scores(QUERY, KEYS)
    assert known_entry_loss(scores, 1).item() == pytest.approx(0.6, abs=1e-6)
    keys, values = prefix(prefix_rules([0], POOL[:, 1:2], heads=1)[0])
    assert (keys.tolist(), values.tolist()) == (pairs(8, 9, 10, 11), pairs(12, 13, 14, 15))


def test_nearest_entry_at_test() -> None:
    chosen = choose(cosine_scores(QUERY, KEYS), 1)
    keys, _ = prefix(prefix_rules([0], gather_entries(POOL, chosen), heads=1)[0])
    assert keys.tolist() == [pairs(0, 1, 2, 3), pairs(16, 17, 18, 19)]


def test_prefix_attention_of_the_card() -> None:
    entry = torch.tensor([[[[2.0, 2.0], [10.0, -10.0]]]])
    tokens = torch.eye(2)[None, None]
    found = prefix_rules([0], entry, heads=1)[0](tokens, tokens, tokens)[0, 0]
    assert torch.allclose(found, torch.tensor([[6.043749, -5.619724], [5.899783, -5.475758]]), atol=1e-6)
    readout = torch.tensor([[1.0, 0.0], [0.0, 1.0]])[None, None]
    first = prefix_rules([0], torch.tensor([[[[2.0, 2.0], [0.0, 0.0]]]]), heads=1)[0](tokens, tokens, readout)[0, 0]
    assert torch.allclose(first, torch.tensor([[0.283995, 0.140029], [0.140029, 0.283995]]), atol=1e-6)
    assert torch.allclose(1 - first.sum(dim=1), torch.full((2,), 0.575975), atol=1e-6)


def test_every_block_gathers_from_its_own_pool() -> None:
    torch.manual_seed(0)
    pool = PromptPool(3, 4, 2, 8)
    chosen = torch.randint(0, 4, (3, 5, 2))
    expected = torch.stack([pool.prompts[block][chosen[block]] for block in range(3)])
    assert torch.equal(pool.entries(chosen), expected)
    same = PromptPool(3, 4, 2, 8, shared_keys=True)
    shared = choose(same.scores(torch.randn(5, 8)), 2)
    assert shared.shape == (1, 5, 2)
    assert torch.equal(same.entries(shared), same.prompts[:, shared[0]])


def test_pool_starts_positive_and_scaled() -> None:
    torch.manual_seed(0)
    pool = PromptPool(2, 10, 4, 32, prompt_init=0.2, key_init=0.5)
    assert 0.19 < pool.prompts.max().item() < 0.2 and pool.prompts.min().item() >= 0
    assert 0.49 < pool.keys.max().item() < 0.5 and pool.keys.min().item() >= 0


def test_scores_stay_in_single_precision_under_autocast() -> None:
    torch.manual_seed(0)
    query, keys = torch.randn(4, 16), torch.randn(1, 3, 16)
    with torch.autocast("cpu", torch.bfloat16):
        half = cosine_scores(query, keys)
    assert half.dtype == torch.float32 and torch.equal(half, cosine_scores(query, keys))
