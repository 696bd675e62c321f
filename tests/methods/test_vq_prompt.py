"""VQ-Prompt's selection, losses, gradients, statistics stage and counts (card, sections 1 to 6 and 11)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from smope_bench.harness.metrics import (
    average_accuracies,
    cumulative_average_accuracy,
    final_average_accuracy,
    forgetting,
)
from smope_bench.methods.common.api import Batch, Geometry, Setup, TaskInfo, learnable_count
from smope_bench.methods.common.backbone.backbones import VIT_B16
from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.prefix import PlainPrefix
from smope_bench.methods.common.schedules import Schedule, learning_rate, quarter_cosine, restart_cosine
from smope_bench.methods.common.vit.vit import PromptedViT
from smope_bench.methods.vq_prompt import VQPrompt, VQPromptConfig, mixing_weights, quantise, squared_distances
from tests.methods.task_data import Data, enter  # pyright: ignore[reportMissingImports]
from tests.tolerance import printed_tolerance  # pyright: ignore[reportMissingImports]

TABLE_3 = Geometry(dim=768, num_heads=12, depth=12, tokens=197, num_classes=200, num_tasks=10)


def make(vit: PromptedViT, **config: Any) -> VQPrompt:
    torch.manual_seed(0)
    values = {"codewords": 4, "length": 4, "tap": {"epochs": 2, "samples": 8}} | config
    return VQPrompt(VQPromptConfig(**values), vit, Setup(6, 3, Schedule(batch_size=4, epochs=2)))


def batch(vit: PromptedViT, first: int, size: int = 4) -> Batch:
    images = torch.rand(size, 3, 16, 16, generator=torch.Generator().manual_seed(first))
    return Batch(images, first + torch.arange(size) % 2, lambda: vit.features(images))


# -- the card's own numbers (section 11) -------------------------------------------------------------------------------

QUERY = torch.tensor([[2.0, 1], [-1, 2]], dtype=torch.double)
KEYS = torch.tensor([[[1.0, 0], [0, 2], [3, 4]]], dtype=torch.double)
CODEWORDS = torch.tensor([[[[0.0, 1], [2, 0]], [[1, 1], [0, 2]], [[0.5, 0], [1, 1.5]]]], dtype=torch.double)
UPSTREAM = torch.tensor([[[0.1, 0], [0, 0.2]], [[0, -0.1], [0.3, 0]]], dtype=torch.double)


def close(found: Tensor, expected: list[Any]) -> None:
    torch.testing.assert_close(found.detach(), torch.tensor(expected, dtype=torch.double), atol=6e-7, rtol=0)


def card_step(temperature: float) -> tuple[Tensor, Tensor, Any, Tensor]:
    """Keys and codewords with gradients of the card's objective, what was quantised, and the loss."""
    keys, codewords = KEYS.clone().requires_grad_(), CODEWORDS.clone().requires_grad_()
    found = quantise(QUERY, keys, codewords, temperature)
    loss = found.loss(0.4, 0.1)
    (loss + (UPSTREAM * found.prompts[0]).sum()).backward()
    return keys, codewords, found, loss


def test_card_a_selection() -> None:
    weights = mixing_weights(QUERY, KEYS, 1.0)
    close(weights[0], [[0.422319, 0.155362, 0.422319], [0.035119, 0.705385, 0.259496]])
    distances = squared_distances(weights, CODEWORDS)
    close(distances[0], [[1.741564, 3.299534, 0.731708], [6.794621, 0.243239, 1.199923]])
    _, _, found, loss = card_step(1.0)
    close(found.mixture[0, 0], [[0.366522, 0.577681], [1.266956, 0.944203]])
    close(found.mixture[0, 1], [[0.835133, 0.740504], [0.329735, 1.800014]])
    assert found.chosen[0].tolist() == [2, 1]
    torch.testing.assert_close(found.prompts[0], CODEWORDS[0, [2, 1]])
    gap = (found.mixture - found.codes).square().mean()
    assert gap.item() == pytest.approx(0.121868, abs=5e-7)
    assert loss.item() == pytest.approx(0.060934, abs=5e-7)


def test_card_a_gradients() -> None:
    keys, codewords, _, _ = card_step(1.0)
    assert keys.grad is not None and codewords.grad is not None
    close(keys.grad[0], [[0, -0.012171], [0.083373, 0], [-0.023766, 0.017824]])
    close(codewords.grad[0, 0], [[0.036016, 0.019973], [0.022968, 0.060289]])
    close(codewords.grad[0, 1], [[0.005955, -0.073381], [0.230778, 0.013330]])
    close(codewords.grad[0, 2], [[0.035654, -0.022729], [0.091006, 0.069697]])


def test_card_a_at_temperature_five() -> None:
    weights = mixing_weights(QUERY, KEYS, 5.0)
    close(weights[0], [[0.354770, 0.290461, 0.354770], [0.231806, 0.422379, 0.345815]])
    distances = squared_distances(weights, CODEWORDS)
    close(distances[0], [[2.459197, 2.328437, 0.571202], [3.750493, 1.343712, 0.491994]])
    keys, _, found, loss = card_step(5.0)
    assert found.chosen[0].tolist() == [2, 2]
    assert weights[0, 1].argmax() == 1, "the nearest codeword is not the one of the largest weight"
    assert (found.mixture - found.codes).square().mean().item() == pytest.approx(0.132899, abs=5e-7)
    assert loss.item() == pytest.approx(0.066450, abs=5e-7)
    assert keys.grad is not None
    close(keys.grad[0], [[0, 0.017204], [0.022550, 0], [-0.001358, 0.001018]])


def test_card_a_with_more_blocks_sums_the_loss() -> None:
    one = quantise(QUERY, KEYS, CODEWORDS, 1.0)
    three = quantise(QUERY, KEYS.expand(3, -1, -1), CODEWORDS.expand(3, -1, -1, -1), 1.0)
    torch.testing.assert_close(three.loss(0.4, 0.1), 3 * one.loss(0.4, 0.1))


def test_distances_are_those_of_the_full_tensors() -> None:
    torch.manual_seed(0)
    codewords, query = torch.rand(5, 10, 8, 48), torch.randn(6, 48)
    keys = torch.rand(5, 10, 48)
    weights = mixing_weights(query, keys, 5.0)
    mixture = torch.einsum("lbn,lntd->lbtd", weights, codewords)
    plain = (mixture[:, :, None] - codewords[:, None]).double().square().sum(dim=(-1, -2))
    torch.testing.assert_close(squared_distances(weights, codewords), plain, rtol=1e-5, atol=1e-5)


def test_card_b_schedules() -> None:
    expected = [0.01, 1e-6, 1e-6, 0.01, 0.00975531, 0.00904518, 0.00793913, 0.00654543, 0.0050005, 0.00345557]
    expected += [0.00206187, 0.00095582, 0.000245693, 1e-6]
    schedule = Schedule(lr=0.01, epochs=4, steps_per_epoch=3, freeze_steps=2)
    rates = [learning_rate(schedule, 0.01, step=n, loader_steps=99, epochs=4) for n in range(14)]
    assert rates == pytest.approx(expected, rel=1e-5)
    cifar = Schedule(lr=0.0025, epochs=20, steps_per_epoch=40, freeze_steps=80)
    found = [learning_rate(cifar, 0.0125, step=n, loader_steps=39, epochs=20) for n in (0, 1, 80, 81, 82, 779)]
    assert found == pytest.approx([0.0125, 1e-6, 1e-6, 0.0125, 0.01249994, 2.97715e-5], rel=2e-6)
    epochs = [quarter_cosine(epoch, base=1e-3, epochs=5) for epoch in range(5)]
    assert epochs == pytest.approx([1e-3, 1e-3, 9.253752e-4, 7.126385e-4, 3.935408e-4], rel=1e-6)
    stage = [restart_cosine(n, base=1e-5, total=200, first=1e-4) for n in (0, 1, 2, 101, 199)]
    assert stage == pytest.approx([1e-4, 1e-5, 9.999445e-6, 5.5e-6, 1.002220e-6], rel=1e-6)


def test_card_c_prefix_attention() -> None:
    tokens = torch.eye(2)[None, None]
    prefix = PlainPrefix(torch.tensor([[[[1.0, 1]]]]), torch.tensor([[[[2.0, -1]]]]))
    expected = torch.tensor([[1.203336, -0.203336], [1, 0]])
    torch.testing.assert_close(prefix(tokens, tokens, tokens)[0, 0], expected, atol=printed_tolerance(2.0), rtol=0)


def test_card_d_book_keeping() -> None:
    matrix = [[90.0, None, None], [80.0, 70.0, None], [75.0, 60.0, 88.0]]
    assert average_accuracies(matrix) == pytest.approx([90, 75, 74.3333], abs=1e-4)
    assert final_average_accuracy(matrix) == pytest.approx(74.3333, abs=1e-4)
    assert cumulative_average_accuracy(matrix) == pytest.approx(79.7778, abs=1e-4)
    assert forgetting(matrix) == pytest.approx(12.5)


@pytest.mark.parametrize(
    ("samples", "old", "drawn", "used"),
    [(512, 10, 10_240, 5_120), (256, 40, 20_480, 10_240), (256, 20, 10_240, 5_120), (256, 10, 5_120, 2_560)],
)
def test_card_d_statistics_stage(
    micro_vit: PromptedViT, monkeypatch: pytest.MonkeyPatch, samples: int, old: int, drawn: int, used: int
) -> None:
    """Pseudo-features used in the first epoch of the second task's alignment, of those the published loop draws."""
    asked: list[int] = []

    class Stop(Exception):
        pass

    class Sampler:
        rows = 2 * old

        def draw(self, rows: Tensor) -> tuple[Tensor, Tensor]:
            assert rows.max() < self.rows
            asked.append(len(rows))
            raise Stop

    setup = Setup(2 * old, 2, Schedule())
    method = VQPrompt(VQPromptConfig(tap={"samples": samples}), micro_vit, setup)  # type: ignore[arg-type]
    assert method.config.tap.epochs == 10
    monkeypatch.setattr(method.statistics, "collect", lambda classes, pairs: None)
    monkeypatch.setattr(method.statistics, "sampler_of", lambda seen: Sampler())
    method.enter_task(TaskInfo(1, range(old, 2 * old), (5,) * old))
    with pytest.raises(Stop):
        method.end_task(Data([]))
    assert asked == [used]
    assert samples * Sampler.rows == drawn


@pytest.mark.parametrize(("classes", "expected"), [(200, 499_400), (100, 422_500)])
def test_parameter_count(classes: int, expected: int) -> None:
    with torch.device("meta"):
        vit = PromptedViT(VisionTransformer(**VIT_B16))
        method = VQPrompt(VQPromptConfig(), vit, Setup(classes, 10, Schedule()))
    assert learnable_count(method.parameter_groups()) == expected


def test_published_cost_is_table_3() -> None:
    cost = VQPrompt.published_cost(TABLE_3)
    assert (cost.parameters, cost.train_passes, cost.test_passes) == (499_400, 2, 2)
    flops = 2 * 33_721_790_208 + 307_200 + cost.extra_test_flops
    assert flops == pytest.approx(67_444_578_916, abs=100), "the published tool rounds products to four digits"
    assert f"{flops / 1e9:.2f}" == "67.44"


# -- the method as a whole ---------------------------------------------------------------------------------------------


def test_loss_is_cross_entropy_plus_quantisation(micro_vit: PromptedViT) -> None:
    method = make(micro_vit)
    enter(method, 1)
    found = quantise(batch(micro_vit, 2).features, method.pool.keys, method.pool.prompts, 1.0)
    logits = method.predict(batch(micro_vit, 2))
    plain = torch.nn.functional.cross_entropy(logits[:, 2:4], batch(micro_vit, 2).targets - 2)
    total = method.training_step(batch(micro_vit, 2))
    gap = 0.5 * (found.mixture - found.codes).square().mean(dim=(1, 2, 3)).sum()
    torch.testing.assert_close(total, plain + gap)
    assert gap > 0


def test_gradient_reaches_every_codeword_but_other_tasks_classes(micro_vit: PromptedViT) -> None:
    method = make(micro_vit, codeword_weight=0)
    enter(method, 1)
    method.training_step(batch(micro_vit, 2)).backward()
    prompts, keys, head = method.pool.prompts.grad, method.pool.keys.grad, method.head.weight.grad
    assert prompts is not None and keys is not None and head is not None
    assert (prompts.flatten(2).abs().sum(dim=-1) > 0).all()
    assert (keys.abs().sum(dim=-1) > 0).all()
    assert (head.abs().sum(dim=1) > 0).tolist() == [False, False, True, True, False, False]


def test_codeword_pull_reaches_the_chosen_alone(micro_vit: PromptedViT) -> None:
    method = make(micro_vit)
    found = quantise(batch(micro_vit, 0).features, method.pool.keys, method.pool.prompts, 1.0)
    found.loss(0.0, 0.1).backward()
    grad = method.pool.prompts.grad
    assert grad is not None
    touched = grad.flatten(2).abs().sum(dim=-1) > 0
    for block, chosen in enumerate(found.chosen):
        assert touched[block].nonzero().flatten().tolist() == sorted(set(chosen.tolist()))


def test_query_keeps_its_length() -> None:
    short, long = mixing_weights(QUERY, KEYS, 1.0), mixing_weights(3 * QUERY, KEYS, 1.0)
    torch.testing.assert_close(long, mixing_weights(QUERY, KEYS, 1 / 3))
    assert not torch.allclose(short, long)
    torch.testing.assert_close(short, mixing_weights(QUERY, 7 * KEYS, 1.0))


def test_statistics_come_from_augmented_images_and_old_ones_stay(micro_vit: PromptedViT) -> None:
    method = make(micro_vit)
    data = [Data([batch(micro_vit, 2 * task)]) for task in range(2)]
    heads: list[Tensor] = []
    kept: dict[str, Tensor] = {}
    for task in range(2):
        enter(method, task)
        heads.append(method.head.weight.detach().clone())
        method.end_task(data[task])
        found = method.settled()
        assert all(torch.equal(tensor, found[name]) for name, tensor in kept.items())
        kept = {name: tensor.clone() for name, tensor in found.items()}
        heads.append(method.head.weight.detach().clone())
        with torch.no_grad():
            method.pool.prompts.mul_(1.5)
    assert [each.augmented for each in data] == [[True], [True]]
    assert torch.equal(heads[0], heads[1]), "no alignment after the first task"
    assert not torch.equal(heads[2], heads[3])
    assert len(kept) == 8


def test_a_class_with_one_image_has_no_variance_and_is_not_drawn(micro_vit: PromptedViT) -> None:
    method = make(micro_vit)
    lone = batch(micro_vit, 0, size=2)
    pair = [lone, Batch(lone.images[:1].flip(2), lone.targets[:1], lone.features[:1])]
    enter(method, 0)
    method.end_task(Data(pair))
    assert method.statistics.count[:2].tolist() == [2, 1]
    assert method.statistics.covariance[1].count_nonzero() == 0
    assert method.statistics.usable_classes(2).tolist() == [0]
    enter(method, 1)
    method.end_task(Data([batch(micro_vit, 2)]))
    assert torch.isfinite(method.head.weight).all()


def test_stage_can_be_switched_off(micro_vit: PromptedViT) -> None:
    method = make(micro_vit, tap={"enabled": False})
    enter(method, 1)
    before = method.head.weight.detach().clone()
    method.end_task(Data([batch(micro_vit, 2)]))
    assert torch.equal(before, method.head.weight)
    assert method.settled() == {}


def test_start_and_rates(micro_vit: PromptedViT) -> None:
    method = make(micro_vit, prompt_init=0.2)
    assert method.pool.prompts.min() >= 0 and 0.19 < method.pool.prompts.max() < 0.2
    assert 0.9 < method.pool.keys.max() < 1
    assert [group.lr_multiplier for group in method.parameter_groups()] == [5.0, 1.0]


def test_one_codeword_is_its_own_mixture(micro_vit: PromptedViT) -> None:
    method = make(micro_vit, codewords=1)
    enter(method, 0)
    found = quantise(batch(micro_vit, 0).features, method.pool.keys, method.pool.prompts, 1.0)
    assert found.loss(0.4, 0.1) < 1e-12
    assert torch.isfinite(method.training_step(batch(micro_vit, 0)))


def test_what_cannot_be(micro_vit: PromptedViT) -> None:
    with pytest.raises(MethodError, match="prompts the first 7 blocks, but the backbone has 6"):
        make(micro_vit, prompt_blocks=7)
    with pytest.raises(ValidationError, match="multiple of 2"):
        VQPromptConfig(length=7)
    with pytest.raises(ValidationError, match="temperature"):
        VQPromptConfig(temperature=0)
