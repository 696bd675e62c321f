"""HiDe-Prompt: the card's numbers, its retrieval and the leak, momentum and task transitions (HiDe card, sections 2-7, 11)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from smope_bench.methods.common.api import Batch, Geometry, Phase, Setup
from smope_bench.methods.common.classifier import current_task_loss, seen_logits
from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.prefix import PlainPrefix, split_heads
from smope_bench.methods.common.schedules import Schedule
from smope_bench.methods.common.vit.vit import PromptedViT
from smope_bench.methods.hide_prompt import HidePrompt, HidePromptConfig, contrastive_loss, mixed_up
from tests.methods.task_data import Data, enter  # pyright: ignore[reportMissingImports]
from tests.tolerance import printed_tolerance  # pyright: ignore[reportMissingImports]

VIT_B16 = Geometry(dim=768, num_heads=12, depth=12, tokens=197, num_classes=200, num_tasks=10)


class Pictures(Data):
    """The images of one task in fixed batches, with their frozen features."""

    def __init__(self, vit: PromptedViT, task: int, size: int = 8, classes: tuple[int, ...] = (0, 1)) -> None:
        generator = torch.Generator().manual_seed(task)
        labels = 2 * task + torch.tensor(classes).repeat(size)[:size]
        images = torch.rand(size, 3, 16, 16, generator=generator) + 0.3 * (labels % 2)[:, None, None, None]
        parts = zip(images.split(4), labels.split(4), strict=True)
        super().__init__([Batch(part, mark, vit.features(part)) for part, mark in parts])


def make(vit: PromptedViT, **config: Any) -> HidePrompt:
    torch.manual_seed(0)
    small = {"epochs": 2, "samples": 8}
    values = {"length": 3, "tap": small, "task_inference": {"epochs": 1, "tap": small}} | config
    return HidePrompt(HidePromptConfig(**values), vit, Setup(6, 3, Schedule(batch_size=4, epochs=2)))


def train(method: HidePrompt, index: int, data: Data) -> None:
    """A task as the engine would train it, with a few plain Adam steps."""
    enter(method, index, 4)
    for phase in method.phases():
        method.begin_phase(phase)
        groups = method.parameter_groups()
        method.requires_grad_(False)
        for group in groups:
            for parameter in group.parameters:
                parameter.requires_grad_(True)
        optimizer = torch.optim.Adam([p for group in groups for p in group.parameters], lr=0.01)
        for batch in data.content:
            optimizer.zero_grad()
            method.training_step(batch).backward()
            optimizer.step()
    method.end_task(data)


@pytest.fixture(scope="module")
def trained(micro_vit: PromptedViT) -> HidePrompt:
    method = make(micro_vit)
    for task in range(2):
        train(method, task, Pictures(micro_vit, task))
    return method


def fill(shape: tuple[int, ...], frequency: float) -> Tensor:
    return torch.sin(frequency * torch.arange(1, math.prod(shape) + 1, dtype=torch.double)).view(shape)


def card_attention(rule: Any) -> Tensor:
    """The two-headed example of check B with ``rule`` made from its prefix: output (3, 4) after the projection."""
    x = fill((3, 4), 1.0)
    q, k, v = (
        split_heads(x @ fill((4, 4), w).T + fill((4,), b), 2)[None] for w, b in ((0.3, 1.1), (0.5, 1.3), (0.7, 1.7))
    )
    keys, values = split_heads(fill((2, 4), 2.3), 2), split_heads(fill((2, 4), 2.9), 2)
    heads = rule(keys, values)(q, k, v)
    return heads[0].transpose(0, 1).flatten(1) @ fill((4, 4), 0.9).T + fill((4,), 1.9)


def test_card_check_a_leaky_order() -> None:
    published = {
        4: ["K0 K1", "K2 K3", "V0 V1", "V2 V3"],
        3: ["K0 K1", "K2 V0", "V1 V2"],
        2: ["K0 K1", "V0 V1"],
        1: ["K0 V0"],
    }
    for size, expected in published.items():
        names = [[f"{kind}{sample}" for sample in range(size)] for kind in "KV"]
        numbers = torch.arange(2 * size).view(2, 1, size, 1).expand(2, 3, size, 5)
        keys, values = mixed_up(numbers)
        flat = [name for row in names for name in row]
        for block in range(3):
            found = [f"{flat[keys[block, b, 0]]} {flat[values[block, b, 0]]}" for b in range(size)]
            assert found == expected


def test_card_check_b_prefix_attention() -> None:
    expected = [
        [-0.101462, -0.466109, 0.235674, -0.588179],
        [0.201122, -0.613090, 0.196702, -0.371300],
        [1.428674, -1.366786, 0.320916, 0.159615],
    ]
    torch.testing.assert_close(card_attention(PlainPrefix), torch.tensor(expected).double(), atol=1e-6, rtol=0)


def test_card_check_c_contrastive_term() -> None:
    prototypes = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    features = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.5, -1.0]])
    loss, tolerance = contrastive_loss(features, prototypes), printed_tolerance(4.0)
    assert loss.item() == pytest.approx(0.593740, abs=tolerance)
    assert (0.1 * loss).item() == pytest.approx(0.059374, abs=tolerance)
    assert contrastive_loss(features, prototypes[:0]).item() == pytest.approx(0.236567, abs=tolerance)
    rows = torch.cat([prototypes, features])
    each = torch.logsumexp(rows @ rows.T / 0.8, 1) - rows.square().sum(1) / 0.8
    torch.testing.assert_close(each, torch.tensor([0.945076, 0.345380, 0.546018, 0.538488]), atol=tolerance, rtol=0)


def test_card_check_e_masked_cross_entropy_and_momentum(micro_vit: PromptedViT) -> None:
    logits, labels = torch.tensor([[2.0, 1.0, 0.0, 3.0], [0.5, 0.5, 4.0, -1.0]]), torch.tensor([1, 0])
    tolerance = printed_tolerance(2.0)
    assert current_task_loss(logits[:1, :2], labels[:1], 0).item() == pytest.approx(1.313262, abs=tolerance)
    assert current_task_loss(logits[1:, :2], labels[1:], 0).item() == pytest.approx(0.693147, abs=tolerance)
    assert current_task_loss(logits[:, :2], labels, 0).item() == pytest.approx(1.003204, abs=tolerance)
    method = make(micro_vit, momentum=0.1)
    enter(method, 2, 4)
    with torch.no_grad():
        for prompt, value in zip(method.prompts, (1.0, 2.0, 4.0), strict=True):
            prompt.fill_(value)
    mixed = method._with_momentum()
    torch.testing.assert_close(mixed, torch.full_like(mixed, 3.75))
    mixed.sum().backward()
    gradients = [prompt.grad for prompt in method.prompts]
    assert gradients[0] is None and gradients[1] is None
    torch.testing.assert_close(gradients[2], torch.full_like(mixed, 0.9))


def test_published_and_actual_parameters_are_those_of_the_card() -> None:
    cost = HidePrompt.published_cost(VIT_B16)
    assert cost.parameters == 4_206_736 and f"{cost.parameters / 1e6:.2f}" == "4.21"
    assert (cost.train_passes, cost.test_passes, cost.extra_train_flops) == (1, 2, 0)
    assert f"{(2 * 33.722097 + cost.extra_test_flops / 1e9):.2f}" == "67.45"
    assert 2 * 33.722097e9 + cost.extra_test_flops == pytest.approx(67.448919e9, abs=2e3)
    with torch.device("meta"):
        vit = PromptedViT(VisionTransformer(num_classes=0))
        methods = [
            HidePrompt(HidePromptConfig(length=length), vit, Setup(classes, tasks, Schedule()))
            for length, classes, tasks in ((20, 200, 10), (5, 100, 10), (20, 200, 5), (20, 200, 20))
        ]
    counts = [sum(p.numel() for p in method.parameters()) for method in methods]
    assert counts == [4_206_736, 2_900_936, 3_438_736, 5_742_736]


def test_rates_and_phases_of_the_official_code(micro_vit: PromptedViT) -> None:
    method = make(micro_vit)
    enter(method, 0, 4)
    inference, prompts = method.phases()
    assert (inference.lr, prompts.lr, prompts.epochs, prompts.continues) == (2.5e-4, None, 2, False)
    method.begin_phase(inference)
    assert [group.name for group in method.parameter_groups()] == ["task inference"]
    method.begin_phase(prompts)
    assert [(g.name, g.lr_multiplier) for g in method.parameter_groups()] == [("prompts", 1.0), ("head", 0.1)]
    assert method.config.tap.samples == 8 and method.config.tap.optimizer == "sgd" and method.config.tap.lr == 0.005


def test_prompt_is_copied_forward_and_earlier_ones_stay(trained: HidePrompt, micro_vit: PromptedViT) -> None:
    settled = {name: tensor.detach().clone() for name, tensor in trained.settled().items()}
    assert sorted(name for name in settled if name.startswith("prompt")) == ["prompt of task 0", "prompt of task 1"]
    assert not torch.equal(trained.prompts[0], trained.prompts[1])
    with torch.random.fork_rng():
        again = make(micro_vit)
        again.load_state_dict(trained.state_dict())
        enter(again, 2, 4)
        assert torch.equal(again.prompts[2], again.prompts[1])
        train(again, 2, Pictures(micro_vit, 2))
    assert not torch.equal(again.prompts[2], again.prompts[1])
    assert all(torch.equal(tensor, again.settled()[name]) for name, tensor in settled.items())


def test_stored_prompt_is_what_was_trained(micro_vit: PromptedViT) -> None:
    method = make(micro_vit, momentum=0.5)
    train(method, 0, Pictures(micro_vit, 0))
    enter(method, 1, 4)
    with torch.no_grad():
        method.prompts[1].add_(1.0)
    trained = method._with_momentum().detach().clone()
    method.end_task(Pictures(micro_vit, 1))
    assert torch.equal(method.prompts[1], trained)


def test_each_image_gets_the_prompt_of_its_own_task(trained: HidePrompt, micro_vit: PromptedViT) -> None:
    images = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(9))
    tasks = torch.tensor([1, 0, 0, 1, 0])
    trained.inference.task_of = lambda features, seen: tasks[: len(features)]  # type: ignore[method-assign]
    try:
        found = trained.predict(Batch(images, None, micro_vit.features(images)))
    finally:
        del trained.inference.task_of
    for row, task in enumerate(tasks):
        features = micro_vit(images[row : row + 1], trained._rules(trained.prompts[int(task)]))
        expected = seen_logits(trained.head, features, 4)
        torch.testing.assert_close(found[row : row + 1], expected, atol=1e-5, rtol=1e-5)
    assert found.shape == (5, 4)


def test_leak_is_declared_and_depends_on_the_batch(micro_vit: PromptedViT) -> None:
    assert not HidePrompt.leaks(HidePromptConfig())
    leaking = HidePromptConfig(retrieval="published_leak")
    assert HidePrompt.leaks(leaking)
    for retrieval, changes in (("corrected", False), ("published_leak", True)):
        method = make(micro_vit, retrieval=retrieval)
        enter(method, 0, 4)
        images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
        together = method._own_features(images, method.prompts[0])
        alone = torch.cat([method._own_features(image[None], method.prompts[0]) for image in images])
        assert torch.allclose(together, alone, atol=1e-5) is not changes


def test_statistics_are_of_the_test_transform_and_of_the_stored_prompt(
    trained: HidePrompt, micro_vit: PromptedViT
) -> None:
    method, data = make(micro_vit), Pictures(micro_vit, 0)
    train(method, 0, data)
    assert data.augmented == [False, False]
    features = torch.cat([micro_vit(b.images, method._rules(method.prompts[0])) for b in data.content])
    labels = torch.cat([b.targets for b in data.content])
    torch.testing.assert_close(method.statistics.mean[1], features[labels == 1].mean(0), atol=1e-5, rtol=1e-4)
    frozen = torch.cat([b.features for b in data.content])
    torch.testing.assert_close(method.inference.statistics.mean[1], frozen[labels == 1].mean(0), atol=1e-5, rtol=1e-4)
    del trained


def test_contrastive_term_uses_earlier_classes_even_without_alignment(micro_vit: PromptedViT) -> None:
    losses = []
    for weight in (0.0, 1.0):
        method = make(micro_vit, contrastive=weight, tap={"enabled": False})
        enter(method, 0, 4)
        method.end_task(Pictures(micro_vit, 0))
        enter(method, 1, 4)
        method.begin_phase(Phase("prompts", 1))
        losses.append(float(method.training_step(Pictures(micro_vit, 1).content[0]).detach()))
        assert method.statistics.prototypes(2).shape == (2, 24)
    assert losses[1] > losses[0]


@pytest.mark.parametrize("kind", ["full", "diag", "centroids"])
def test_a_class_with_one_image(micro_vit: PromptedViT, kind: str) -> None:
    method = make(micro_vit, statistics=kind)
    train(method, 0, Pictures(micro_vit, 0, size=5, classes=(0, 0, 0, 0, 1)))
    train(method, 1, Pictures(micro_vit, 1))
    assert all(torch.isfinite(p).all() for p in method.parameters())


def test_combinations_that_cannot_run(micro_vit: PromptedViT) -> None:
    with pytest.raises(MethodError, match="7 blocks, but the backbone has 6"):
        make(micro_vit, prompt_blocks=7)
    with pytest.raises(ValidationError, match="set statistics=diag"):
        HidePromptConfig(tap={"cov": "diag"})  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match=r"task_inference\.tap\.cov"):
        HidePromptConfig(task_inference={"tap": {"cov": "diag"}})  # type: ignore[arg-type]
