"""Prompt histories and routing: the worked numbers of the Hash card (section 12), and the forms of sections 5 to 9."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from smope_bench.harness.metrics import (
    average_accuracies,
    cumulative_average_accuracy,
    final_average_accuracy,
    forgetting,
)
from smope_bench.methods.common.prefix import PlainPrefix
from smope_bench.methods.common.prompts.routing import RoutedPrefix, Routing, mix, route, router_scores
from smope_bench.methods.common.prompts.usage_history import hot_set, routing_penalty, top_mask, update_factor, usage
from smope_bench.methods.common.vit.vit import PromptedViT
from smope_bench.methods.hide_prompt import contrastive_loss
from tests.tolerance import printed_tolerance  # pyright: ignore[reportMissingImports]

TOKENS = torch.tensor([[1.0, 0, 2, -1], [0, 1, 1, 1], [2, -1, 0, 0]])
ROUTER = torch.tensor([[1.0, 0, 0.5, -1], [0, 1, 0.5, 0], [1, 1, 0, 0.5], [0, -1, 1, 2]])


def near(found: Tensor | float | None, expected: Any) -> None:
    assert found is not None
    dtype = found.dtype if isinstance(found, Tensor) else torch.float64
    found, wanted = torch.as_tensor(found).double(), torch.tensor(expected).double()
    tolerance = printed_tolerance(max(1.0, float(wanted.abs().max())), dtype=dtype)
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=0)


def card_scores() -> Tensor:
    return router_scores(TOKENS.mean(dim=0, keepdim=True), ROUTER[None])[:, 0]


def card_route(delta: float, hot: list[int], scope: Any = "both") -> Routing:
    penalty = torch.zeros(4)
    penalty[hot] = delta
    return route(card_scores(), penalty, 2, scope)


def test_scores_of_the_mean_token_are_the_mean_of_the_tokens_scores() -> None:
    near(card_scores()[0], [1.0, 0.5, 0.25, -0.25])
    near((TOKENS @ ROUTER / 2).mean(dim=0), [1.0, 0.5, 0.25, -0.25])


def test_routing_without_history_12_1_a() -> None:
    found = card_route(0.0, [])
    near(found.weights[0], [0.622459, 0.377541, 0, 0])
    near(found.entropy[0], 0.662847)
    unit = torch.eye(4)
    pool = torch.stack([unit[[0, 1, 2, 3]], unit[[3, 2, 1, 0]]])[None, :, :, None, None]
    prefix = mix(found.weights, pool)[0, :, 0, 0, 0]
    near(prefix, [[0.622459, 0.377541, 0, 0], [0, 0, 0.377541, 0.622459]])


def test_history_marks_the_most_used_and_penalises_them_12_1_b() -> None:
    hot = hot_set(torch.tensor([7.0, 1, 5, 0]), "topk", size=2, fraction=1)
    assert hot.nonzero().flatten().tolist() == [0, 2]
    near(card_scores()[0] - 0.4 * hot, [0.6, 0.5, -0.15, -0.25])
    near(card_route(0.4, [0, 2]).weights[0], [0.524979, 0.475021, 0, 0])
    near(card_route(0.4, [0, 2], "select_only").weights[0], [0.622459, 0.377541, 0, 0])


def test_penalty_beyond_the_range_excludes_12_1_c() -> None:
    near(card_route(1.5, [0, 2]).weights[0], [0, 0.679179, 0, 0.320821])


def test_todays_hot_set_would_reroute_old_images_12_1_d() -> None:
    near(card_route(0.5, [1, 3]).weights[0], [0.679179, 0, 0.320821, 0])
    near(card_route(0.5, [0, 2]).weights[0], [0.5, 0.5, 0, 0])


def test_prefixes_keep_their_image_12_3() -> None:
    weights = torch.tensor([[1.0, 0], [0, 1], [0.5, 0.5], [1, 0]])
    pool = torch.tensor([[1.0, 2], [10, 20]])[None, :, :, None, None, None]
    together = mix(weights, pool).flatten(2)[0].T
    near(together, [[1.0, 10], [2, 20], [1.5, 15], [1, 10]])
    alone = torch.cat([mix(row[None], pool).flatten(2)[0].T for row in weights])
    assert torch.equal(together, alone)


def test_prefix_attention_12_4() -> None:
    tokens, values = torch.eye(2)[None, None], torch.tensor([[1.0, 0], [0, 2]])[None, None]
    rule = PlainPrefix(torch.ones(1, 1, 1, 2), torch.full((1, 1, 1, 2), 3.0))
    near(rule(tokens, tokens, values)[0, 0], [[1.604448, 1.598888], [1.401112, 2.005560]])


def test_metrics_of_the_card() -> None:
    matrix: list[list[float | None]] = [[90, None, None], [84, 88, None], [80, 86, 92]]
    assert average_accuracies(matrix) == [90, 86, 86] and final_average_accuracy(matrix) == 86
    near(cumulative_average_accuracy(matrix), 87.333333)
    assert forgetting(matrix) == 6
    matrix[2][1] = 89
    assert forgetting(matrix) == 4.5


def test_contrastive_term_of_the_hide_card() -> None:
    features, prototypes = torch.tensor([[1.0, 1, 0], [0, 0.5, -1]]), torch.tensor([[1.0, 0, 0], [0, 1, 1]])
    near(contrastive_loss(features, prototypes), 0.593740)
    near(contrastive_loss(features, prototypes[:0]), 0.236567)


# -- forms of history --------------------------------------------------------------------------------------------------


def test_of_equals_the_smaller_index_is_taken() -> None:
    assert top_mask(torch.zeros(2, 40), 3).nonzero()[:, 1].tolist() == [0, 1, 2] * 2
    assert top_mask(torch.tensor([1.0, 2, 1, 2, 1]), 3).nonzero().flatten().tolist() == [0, 1, 3]


@pytest.mark.parametrize(
    ("rule", "expected"), [("topk", [0, 2]), ("above_mean", [0, 2]), ("fraction", [0, 1, 2]), ("unused", [])]
)
def test_rules_of_the_hot_set(rule: Any, expected: list[int]) -> None:
    history = torch.tensor([7.0, 1, 5, 0, 0]) if rule != "unused" else torch.zeros(5)
    found = hot_set(history, "topk" if rule == "unused" else rule, size=2, fraction=0.6)
    assert found.nonzero().flatten().tolist() == expected


def test_rates_weigh_tasks_alike_and_counts_do_not() -> None:
    counts, images = torch.tensor([[[90, 10]], [[1, 9]], [[0, 0]]]), torch.tensor([100, 10, 0])
    near(usage(counts, images), [[91.0, 19.0]])
    near(usage(counts, images, "rate"), [[1.0, 1.0]])


def test_forms_of_penalty_and_factor() -> None:
    history, hot = torch.tensor([0.0, 4.0]), torch.tensor([False, True])
    phi = {"piecewise": [0, 2], "log": [0, 2 * math.log(5)], "power": [0, 4], "none": [0, 0]}
    for form, values in phi.items():
        near(routing_penalty(history, hot, form, delta=2.0, alpha=0.5), values)  # type: ignore[arg-type]
    psi = {"piecewise": [1, 0.1], "reciprocal": [1, 1 / 3], "exponential": [1, math.exp(-2)], "none": [1, 1]}
    for form, values in psi.items():
        near(update_factor(history, hot, form, beta=0.1, zeta=0.5), values)  # type: ignore[arg-type]


def test_dense_is_the_full_softmax_and_single_a_stored_prompt() -> None:
    scores = torch.randn(5, 4)
    near(route(scores, 0.0, 4).weights, scores.softmax(dim=-1).tolist())
    pool = torch.randn(2, 2, 4, 2, 3, 12)
    best = scores.argmax(dim=-1)
    assert torch.equal(mix(route(scores, 0.0, 1).weights, pool), pool[:, :, best])


def test_tokens_that_routers_read(micro_vit: PromptedViT) -> None:
    images = torch.rand(3, 3, 16, 16)
    last = micro_vit.tokens(images, micro_vit.depth)
    torch.testing.assert_close(last[:, 0], micro_vit.features(images))
    raw, shown = micro_vit.tokens(images, norm=False), []

    def note(inputs: Tensor) -> Tensor:
        shown.append(inputs)
        return torch.zeros(2, 3, 2, 1, 12)

    micro_vit.run_prompted(images, {0: RoutedPrefix(note)})
    torch.testing.assert_close(shown[0], micro_vit.tokens(images).mean(dim=1))
    torch.testing.assert_close(micro_vit.blocks[0].norm1(raw), micro_vit.tokens(images))
    with pytest.raises(RuntimeError, match="before it was shown"):
        RoutedPrefix(note)(raw, raw, raw)
