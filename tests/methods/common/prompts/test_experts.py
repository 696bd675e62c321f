"""SMoPE card, section 11 (a), (b), (c) and (e): the attention rule and its two losses, to the printed digits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from smope_bench.methods.common.prefix import PlainPrefix
from smope_bench.methods.common.prompts.experts import (
    Choice,
    Handicap,
    SparseExperts,
    prototype_loss,
    router_loss,
    select,
)
from smope_bench.methods.common.vit.attention_rules import Trace
from tests.tolerance import printed_tolerance  # pyright: ignore[reportMissingImports]

Q = torch.tensor([[1.0, 0, 2, 0], [0, 1, 0, -1]])[None, None]
K = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]])[None, None]
V = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0]])[None, None]
KEYS = torch.tensor([[1.0, 0, 1, 0], [0, 2, 0, 0], [1, 0, 0, 0]])[None]
VALUES = torch.tensor([[0.0, 0, 1, 0], [0, 0, 0, 1], [1, 1, 1, 1]])[None]


def table(*values: float) -> Tensor:
    return torch.tensor(values)[None]


CASES = {
    "dense": (
        0,
        Handicap(),
        {0, 1, 2},
        [[0.311439, 0.425020, 0.361168, 0.311439], [0.401471, 0.258803, 0.465575, 0.401471]],
    ),
    "train, K=1, no latch": (
        1,
        Handicap(of_range=table(0, 0, 0)),
        {0},
        [[0.254275, 0.419229, 0.326496, 0], [0.377087, 0.138723, 0.484190, 0]],
    ),
    "train, K=1, epsilon 0.6, first latched": (
        1,
        Handicap(of_range=table(0.6, 0, 0)),
        {1},
        [[0.274069, 0.451863, 0, 0.274069], [0.422319, 0.155362, 0, 0.422319]],
    ),
    "eval, K=2, second never used": (
        2,
        Handicap(of_range=table(0, 2, 0)),
        {0, 2},
        [[0.377541, 0.515228, 0.437823, 0.165296], [0.518494, 0.334240, 0.601283, 0.227009]],
    ),
    "eval, K=2, none ever used": (
        2,
        Handicap(of_range=table(2, 2, 2)),
        {0, 1},
        [[0.202727, 0.334240, 0.260306, 0.202727], [0.273830, 0.100736, 0.351604, 0.273830]],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_attention_example_of_the_card(case: str) -> None:
    top_k, handicap, chosen, expected = CASES[case]
    trace: Trace[Choice] = Trace()
    output = SparseExperts(KEYS, VALUES, top_k, handicap, record=trace.recorder(0))(Q, K, V)
    (choice,) = trace
    assert choice.scores[0, 0].tolist() == [1.5, 1.0, 0.5]
    assert set(choice.selected[0, 0].nonzero().flatten().tolist()) == chosen
    torch.testing.assert_close(output[0, 0], torch.tensor(expected), atol=printed_tolerance(1.0), rtol=0)


def test_ordinary_prefix_for_contrast() -> None:
    expected = [[0.286799, 0.379825, 0.533199, 0.230375], [0.379825, 0.230375, 0.286799, 0.533199]]
    for rule in (PlainPrefix(KEYS, VALUES), SparseExperts(KEYS, VALUES, 0, Handicap(), per_token=True)):
        output = rule(Q, K, V)[0, 0]
        torch.testing.assert_close(output, torch.tensor(expected), atol=printed_tolerance(1.0), rtol=0)


SCORES = torch.tensor([[1.0, 2, 0.75, -1], [0.5, 0, 2, 1.5]])[None, :, None]


@pytest.mark.parametrize(
    ("latch", "chosen", "code", "log_without_margin", "equation_14"),
    [
        ((0, 0, 0, 0), [[0, 1], [2, 3]], 2.754219, 1.958569, -0.548176),
        ((0, 1, 0, 0), [[0, 2], [2, 3]], 4.001969, 2.583569, -0.527059),
    ],
)
def test_router_loss_example_of_the_card(
    latch: tuple[int, ...], chosen: list[list[int]], code: float, log_without_margin: float, equation_14: float
) -> None:
    selected = select(Handicap(of_range=torch.tensor(latch) * 0.5).apply(SCORES), 2)
    assert [row.nonzero().flatten().tolist() for row in selected[0, :, 0]] == chosen
    tolerance = printed_tolerance(4.0)
    assert router_loss(SCORES, selected, 0.5).item() == pytest.approx(code, abs=tolerance)
    assert router_loss(SCORES, selected, 0.0).item() == pytest.approx(log_without_margin, abs=tolerance)
    assert router_loss(SCORES / 8, selected, 0.0, "prob").item() == pytest.approx(equation_14, abs=tolerance)


OLD = torch.tensor([[1.0, 0], [0, 1.5], [1, 1]])[None, None]
NOW = torch.tensor([[0.0, 1], [1, 0.5], [2, 1]])[None, None]
LATCH = torch.tensor([True, False, True])[None, None]


def test_prototype_loss_example_of_the_card() -> None:
    tolerance = printed_tolerance(4.0)
    assert prototype_loss(NOW, OLD, LATCH, 2).item() == pytest.approx(2.463962, abs=tolerance)
    paper = prototype_loss(NOW, OLD, LATCH, 2, form="prob", target="current", reduce="sum")
    assert paper.item() == pytest.approx(-1.810346, abs=tolerance)


def test_prototype_loss_moves_only_todays_keys() -> None:
    now, old = NOW.clone().requires_grad_(), OLD.clone().requires_grad_()
    prototype_loss(now, old, LATCH, 2).backward()
    assert now.grad is not None and now.grad.abs().sum() > 0
    assert old.grad is None


def test_full_size_closed_form() -> None:
    layers, batch, heads, experts = 6, 3, 12, 25
    scores = torch.zeros(layers, batch, heads, experts, dtype=torch.double)
    expected = layers * heads * 5 * math.log(experts)
    assert expected == pytest.approx(1158.795, abs=1e-3)
    assert router_loss(scores, select(scores, 5), 0.4).item() == pytest.approx(expected, rel=1e-6)
    keys = torch.zeros(layers, heads, experts, 64, dtype=torch.double)
    important = torch.zeros(layers, heads, experts, dtype=torch.bool)
    important[..., :3] = True
    assert prototype_loss(keys, keys, important, 5).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("top_k", [0, 1, 5])
def test_fused_attention_equals_the_naive_formula_with_gradients(top_k: int) -> None:
    torch.manual_seed(0)
    batch, heads, tokens, dim, experts = 3, 2, 11, 8, 7
    q, k, v = (torch.randn(batch, heads, tokens, dim, requires_grad=True) for _ in range(3))
    keys, values = (torch.rand(heads, experts, dim, requires_grad=True) for _ in range(2))
    handicap = Handicap(of_range=torch.rand(heads, experts))
    leaves = (q, k, v, keys, values)
    weight = torch.randn(batch, heads, tokens, dim)

    trace: Trace[Choice] = Trace()
    fused = SparseExperts(keys, values, top_k, handicap, record=trace.recorder(0))(q, k, v)
    found = torch.autograd.grad((fused * weight).sum(), leaves)

    shared = torch.einsum("bhe,hpe->bhp", q.mean(dim=2), keys) * dim**-0.5
    shared = shared.masked_fill(~next(iter(trace)).selected, -torch.inf)[:, :, None].expand(-1, -1, tokens, -1)
    own = q @ k.transpose(-1, -2) * dim**-0.5
    attention = torch.cat([shared, own], dim=-1).softmax(dim=-1)
    naive = attention @ torch.cat([values.expand(batch, -1, -1, -1), v], dim=2)
    wanted = torch.autograd.grad((naive * weight).sum(), leaves)

    torch.testing.assert_close(fused, naive, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_values_of_unselected_experts_get_exactly_no_gradient() -> None:
    torch.manual_seed(1)
    q, k, v = (torch.randn(1, 2, 5, 4) for _ in range(3))
    keys, values = (torch.rand(2, 6, 4, requires_grad=True) for _ in range(2))
    trace: Trace[Choice] = Trace()
    SparseExperts(keys, values, 2, Handicap(), record=trace.recorder(0))(q, k, v).square().sum().backward()
    unused = ~next(iter(trace)).selected[0]
    assert values.grad is not None and keys.grad is not None
    assert unused.sum() == 2 * 4
    assert (values.grad[unused] == 0).all() and (keys.grad[unused] == 0).all()
    assert (values.grad[~unused] != 0).all()


def test_handicap_affects_the_choice_but_not_the_mixture() -> None:
    torch.manual_seed(2)
    q, k, v = (torch.randn(2, 2, 5, 4) for _ in range(3))
    keys, values = torch.rand(2, 6, 4), torch.rand(2, 6, 4)
    everywhere_equal = Handicap(of_range=torch.full((2, 6), 0.7))
    plain = SparseExperts(keys, values, 3, Handicap())(q, k, v)
    torch.testing.assert_close(SparseExperts(keys, values, 3, everywhere_equal)(q, k, v), plain)


def test_per_token_scores_respect_the_selection() -> None:
    torch.manual_seed(3)
    q, k, v = (torch.randn(2, 2, 5, 4) for _ in range(3))
    keys, values = torch.rand(2, 6, 4), torch.rand(2, 6, 4, requires_grad=True)
    trace: Trace[Choice] = Trace()
    SparseExperts(keys, values, 2, Handicap(), per_token=True, record=trace.recorder(0))(q, k, v).sum().backward()
    used = next(iter(trace)).selected.any(dim=0)
    assert values.grad is not None
    assert (values.grad[~used] == 0).all() and (values.grad[used] > 0).all()
