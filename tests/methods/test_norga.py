"""NoRGa: the gate's arithmetic by the card's numbers, and when it learns (NoRGa card, sections 2, 5, 7 and 11)."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from smope_bench.methods.common.api import Geometry, Phase, Setup, TaskInfo
from smope_bench.methods.common.prefix import PlainPrefix, split_heads
from smope_bench.methods.common.prompts.gated_prefix import ACTIVATIONS, Activation, GatedPrefix
from smope_bench.methods.common.schedules import Schedule
from smope_bench.methods.common.vit.vit import PromptedViT
from smope_bench.methods.norga import NoRGa, NoRGaConfig

VIT_B16 = Geometry(dim=768, num_heads=12, depth=12, tokens=197, num_classes=200, num_tasks=10)


def gated(keys: Tensor, values: Tensor, tau: float, alpha: float, activation: Activation) -> GatedPrefix:
    return GatedPrefix(keys, values, torch.tensor(tau).double(), torch.tensor(alpha).double(), activation)


def fill(shape: tuple[int, ...], frequency: float) -> Tensor:
    return torch.sin(frequency * torch.arange(1, math.prod(shape) + 1, dtype=torch.double)).view(shape)


@pytest.mark.parametrize(
    ("gate", "first", "second"),
    [
        ((1.0, 0.0, "tanh"), (1.096417, 0.715816), (0.383476, 1.743549)),
        ((1.0, 1.0, "sigmoid"), (1.296546, 0.617986), (0.623941, 1.598897)),
        ((0.5, 2.0, "tanh"), (1.377790, 0.412244), (0.804079, 1.391317)),
    ],
)
def test_card_check_a(
    gate: tuple[float, float, Activation], first: tuple[float, float], second: tuple[float, float]
) -> None:
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).double()[None, None]
    keys = torch.tensor([[[1.0, 1.0], [-1.0, 0.5]]]).double()
    values = torch.tensor([[[2.0, 0.0], [0.0, 4.0]]]).double()
    found = gated(keys, values, *gate)(x, x, x)[0, 0]
    torch.testing.assert_close(found, torch.tensor([first, second]).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("gate", "weights"),
    [
        ((1.0, 0.0, "tanh"), [[0.365472, 0.088852, 0.365472, 0.180203], [0.170957, 0.084293, 0.041562, 0.703188]]),
        ((1.0, 1.0, "sigmoid"), [[0.516176, 0.089363, 0.264195, 0.130266], [0.295881, 0.127508, 0.032179, 0.544431]]),
        ((0.5, 2.0, "tanh"), [[0.549555, 0.034357, 0.278680, 0.137408], [0.388081, 0.111657, 0.027918, 0.472344]]),
    ],
)
def test_card_check_a_attention(gate: tuple[float, float, Activation], weights: list[list[float]]) -> None:
    """With one-hot values the output is the attention itself; the queries and keys are padded to four channels for it."""
    x = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]]).double() * 2**0.25
    keys = torch.tensor([[1.0, 1.0, 0.0, 0.0], [-1.0, 0.5, 0.0, 0.0]]).double() * 2**0.25
    eye = torch.eye(4).double()
    found = gated(keys[None], eye[None, :2], *gate)(x[None, None], x[None, None], eye[None, None, 2:])[0, 0]
    torch.testing.assert_close(found, torch.tensor(weights).double(), atol=1e-6, rtol=0)


def two_heads(tau: float, alpha: float) -> Tensor:
    x = fill((3, 4), 1.0)
    q, k, v = (
        split_heads(x @ fill((4, 4), w).T + fill((4,), b), 2)[None] for w, b in ((0.3, 1.1), (0.5, 1.3), (0.7, 1.7))
    )
    keys, values = split_heads(fill((2, 4), 2.3), 2), split_heads(fill((2, 4), 2.9), 2)
    heads = gated(keys, values, tau, alpha, "sigmoid")(q, k, v)
    return heads[0].transpose(0, 1).flatten(1) @ fill((4, 4), 0.9).T + fill((4,), 1.9)


def test_card_check_b_two_heads() -> None:
    expected = [
        [-0.056290, -0.496618, 0.245221, -0.574791],
        [0.249070, -0.643502, 0.203299, -0.352720],
        [1.423695, -1.354616, 0.304068, 0.177662],
    ]
    off = [
        [-0.101462, -0.466109, 0.235674, -0.588179],
        [0.201122, -0.613090, 0.196702, -0.371300],
        [1.428674, -1.366786, 0.320916, 0.159615],
    ]
    torch.testing.assert_close(two_heads(1.5, 0.5), torch.tensor(expected).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(two_heads(1.5, 0.0), torch.tensor(off).double(), atol=1e-6, rtol=0)
    assert (two_heads(0.5, 1.5) - torch.tensor(expected)).abs().max() > 1e-3


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_gated_rule_equals_explicit_attention_with_its_gradients(activation: Activation) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, 7, 4).double().unbind(0)
    keys, values = torch.randn(2, 2, 3, 5, 4).double().unbind(0)
    gate = torch.tensor([1.3, 0.7]).double()
    inputs = [t.requires_grad_() for t in (q, k, v, keys, values, gate)]

    fused = GatedPrefix(keys, values, gate[0], gate[1], activation)(q, k, v)
    scores = q @ keys.transpose(-2, -1) / 2
    scores = scores + gate[1] * ACTIVATIONS[activation](gate[0] * scores)
    attention = torch.cat([scores, q @ k.transpose(-2, -1) / 2], dim=-1).softmax(-1)
    explicit = attention @ torch.cat([values, v], dim=2)
    torch.testing.assert_close(fused, explicit)
    weight = torch.randn_like(fused)
    ours = torch.autograd.grad((fused * weight).sum(), inputs)
    theirs = torch.autograd.grad((explicit * weight).sum(), inputs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_without_alpha_the_gate_is_plain_prefix_attention() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, 7, 4).unbind(0)
    keys, values = torch.randn(2, 3, 5, 4).unbind(0)
    rule = partial(GatedPrefix, keys, values, torch.tensor(1.0))
    torch.testing.assert_close(rule(torch.tensor(0.0), "tanh")(q, k, v), PlainPrefix(keys, values)(q, k, v))


def make(vit: PromptedViT, **config: object) -> NoRGa:
    torch.manual_seed(0)
    return NoRGa(NoRGaConfig(length=3, **config), vit, Setup(6, 3, Schedule()))  # type: ignore[arg-type]


def declared(method: NoRGa, index: int) -> set[int]:
    method.enter_task(TaskInfo(index, range(2 * index, 2 * index + 2), (4, 4)))
    method.begin_phase(Phase("prompts", 1))
    return {id(p) for p in method.parameter_groups()[0].parameters}


def test_gates_start_at_one_and_learn_in_the_first_task_only(micro_vit: PromptedViT) -> None:
    method = make(micro_vit)
    assert method.gates.tolist() == [[1.0, 1.0]] * 5
    assert id(method.gates) in declared(method, 0)
    assert id(method.gates) not in declared(method, 1)
    assert "gates" in method.settled()
    always = make(micro_vit, gate_first_task_only=False)
    assert id(always.gates) in declared(always, 1) and "gates" not in always.settled()


def test_gate_changes_every_prompted_block(micro_vit: PromptedViT) -> None:
    method = make(micro_vit)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    rules = method._rules(method.prompts[0])
    assert sorted(rules) == [0, 1, 2, 3, 4] and all(isinstance(rule, GatedPrefix) for rule in rules.values())
    method._own_features(images, method.prompts[0]).square().sum().backward()
    assert method.gates.grad is not None and method.gates.grad.ne(0).all()


def test_published_and_actual_parameters_are_those_of_the_card() -> None:
    cost = NoRGa.published_cost(VIT_B16)
    assert cost.parameters == 4_206_746 and (cost.train_passes, cost.test_passes) == (1, 2)
    with torch.device("meta"):
        vit = PromptedViT(VisionTransformer(num_classes=0))
        method = NoRGa(NoRGaConfig(), vit, Setup(200, 10, Schedule()))
        small = NoRGa(NoRGaConfig(length=5), vit, Setup(100, 10, Schedule()))
    assert sum(p.numel() for p in method.parameters()) == 4_206_746
    assert sum(p.numel() for p in small.parameters()) == 2_900_946
    assert not NoRGa.leaks(NoRGaConfig()) and NoRGa.leaks(NoRGaConfig(retrieval="published_leak"))
