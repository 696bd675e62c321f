"""SD-LoRA against the numbers of its card (section 12), and what may change in its tasks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from smope_bench.harness.metrics import forgetting
from smope_bench.harness.training.optimization import OptimizationSegment, declare_trainable
from smope_bench.methods.common.api import Batch, Setup, learnable_count
from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.schedules import Schedule, learning_rate
from smope_bench.methods.common.vit.vit import PromptedViT
from smope_bench.methods.sd_lora import SDLoRA, SDLoRAConfig
from tests.methods.task_data import enter  # pyright: ignore[reportMissingImports]

TASKS, WIDTH = 3, 24


def make(vit: PromptedViT, tasks: int = TASKS, lr: float = 0.05, **config: Any) -> SDLoRA:
    torch.manual_seed(0)
    schedule = Schedule(batch_size=4, epochs=2, lr=lr, shape="constant", optimizer="sgd", drop_last=False)
    return SDLoRA(SDLoRAConfig.model_validate({"ranks": (2,)} | config), vit, Setup(2 * tasks, tasks, schedule))


def step(method: SDLoRA, steps: int = 3) -> None:
    groups = method.parameter_groups()
    declare_trainable(method, groups)
    segment = OptimizationSegment(method.setup.schedule, groups, 2)
    for _ in range(steps):
        segment.set_rate(3)
        batch = Batch(torch.rand(4, 3, 16, 16), method.old_classes + torch.arange(4) % 2)
        segment.descend(method.training_step(batch), method)


def train(method: SDLoRA, index: int) -> None:
    enter(method, index, 6)
    step(method)
    method.end_task(None)  # type: ignore[arg-type]


# -- the card's numbers ------------------------------------------------------------------------------------------------


def of_the_card(vit: PromptedViT) -> SDLoRA:
    """The third task of section 2's example, of width 2, in the first block; ranks 1 and 2 are padded to 2."""
    method = make(vit, ranks=(2,))
    zero = [0.0, 0.0]
    downs = [
        [[[3.0, 4], zero], [[1, 0], zero]],
        [[[0, 1], [1, 0]], [[2, 0], [0, 0]]],
    ]
    ups = [
        [[zero, [2.0, 0]], [[1, 0], [1, 0]]],
        [[[1, 0], [0, 1]], [[0, 1], [3, 0]]],
    ]
    method.__dict__["_buffers"] |= {
        "downs": torch.tensor(downs)[:, None],
        "ups": torch.tensor(ups)[:, None],
    }
    method.down = torch.nn.Parameter(torch.tensor([[[[1.0, 1], zero], [[1, -1], zero]]]))
    method.up = torch.nn.Parameter(torch.tensor([[[[0.5, 0], [-0.5, 0]], [zero, zero]]]))
    method.magnitudes = torch.nn.Parameter(torch.tensor([0.8, 0.5, 0.8]))
    method._progress.copy_(torch.tensor([4, 6, 2]))
    return method


def added(method: SDLoRA, x: Tensor) -> tuple[Tensor, Tensor]:
    updates = method._updates()[0]
    q, v = (x @ (updates[target].up @ updates[target].down).T for target in ("q", "v"))
    return q, v


def test_updates_of_the_card(micro_vit: PromptedViT) -> None:
    method, x = of_the_card(micro_vit), torch.tensor([[1.0, 2], [-1, 0]])
    q, v = added(method, x)
    torch.testing.assert_close(q, torch.tensor([[1.7, 0.81], [-0.4, -0.33]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        v, torch.tensor([[1, 1.0], [-1, -1]]) * torch.tensor([0.5656854, 1.0400271]), atol=1e-6, rtol=0
    )
    (q @ torch.tensor([1.0, 2]) + v @ torch.tensor([5.0, 6])).sum().backward()
    assert method.magnitudes.grad is not None and method.down.grad is not None and method.up.grad is not None
    torch.testing.assert_close(method.magnitudes.grad, torch.tensor([3.2, 1.0, -1.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(method.down.grad[0, 0, 0], torch.tensor([0.0, -0.8]), atol=1e-6, rtol=0)
    torch.testing.assert_close(method.up.grad[0, 0, :, 0], torch.tensor([1.6, 3.2]), atol=1e-6, rtol=0)
    assert torch.equal(method.down.grad[0, 1], torch.zeros(2, 2))
    torch.testing.assert_close(method.up.grad[0, 1, :, 0], torch.tensor([-8.0, -9.6]), atol=1e-5, rtol=0)


def test_the_other_normaliser(micro_vit: PromptedViT) -> None:
    """Divided by the norm of the product, not by that of the factors."""
    method = of_the_card(micro_vit)
    method.config = SDLoRAConfig(normaliser="product")
    down, up = method._directions(method.downs[:2], method.ups[:2])
    first, second = (up[0, 0, :, part] @ down[0, 0, part] for part in (slice(2), slice(2, 4)))
    torch.testing.assert_close(first, torch.tensor([[0.0, 0], [0.6, 0.8]]))
    torch.testing.assert_close(second, torch.tensor([[0.0, 1], [1, 0]]) / math.sqrt(2))


def test_an_update_of_zero_has_no_effect(micro_vit: PromptedViT) -> None:
    method = make(micro_vit)
    enter(method, 0, 6)
    method.end_task(None)  # type: ignore[arg-type]
    enter(method, 1, 6)
    images = torch.rand(3, 3, 16, 16)
    features = micro_vit(images, method._adaptations())
    torch.testing.assert_close(features, micro_vit.features(images), atol=1e-5, rtol=1e-5)


def test_ranks_of_the_card() -> None:
    with torch.device("meta"):
        vit = PromptedViT(VisionTransformer(num_classes=0))
        method = SDLoRA(SDLoRAConfig(), vit, Setup(200, 10, Schedule()))
        reduced = SDLoRA(SDLoRAConfig(ranks=(10, 8, 6)), vit, Setup(200, 10, Schedule()))
    assert learnable_count(method.parameter_groups()) == 368_640 + 10 + 769 * 200
    stored = sum(12 * 4 * 768 * method.rank_of(task) for task in range(10))
    assert stored + 10 + 769 * 200 == 3_840_210
    assert sum(12 * 4 * 768 * reduced.rank_of(task) for task in range(10)) == 3_096_576


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"lr": 0.01, "shape": "constant"}, {0: 0.01, 19: 0.01}),
        ({"lr": 0.01, "milestones": (10, 15), "decay_factor": 0.05}, {9: 0.01, 10: 5e-4, 14: 5e-4, 15: 2.5e-5}),
        ({"lr": 0.02, "milestones": (4, 6, 8), "decay_factor": 0.005}, {3: 0.02, 4: 1e-4, 6: 5e-7, 8: 2.5e-9}),
    ],
)
def test_rates_of_the_card(schedule: dict[str, Any], expected: dict[int, float]) -> None:
    made = Schedule.model_validate({"shape": "milestones", "epoch_lag": 0, "optimizer": "sgd"} | schedule)
    for epoch, rate in expected.items():
        found = learning_rate(made, made.lr, step=7 * epoch + 3, loader_steps=7, epochs=20)
        assert found == pytest.approx(rate)


def test_forgetting_of_constant_accuracies_is_zero() -> None:
    """Six tasks of 20 classes; the official figure sorts their names as text and prints 8.0."""
    matrix: list[list[float | None]] = [[100.0 - 10 * task for task in range(row + 1)] for row in range(6)]
    assert forgetting(matrix) == 0


# -- tasks -------------------------------------------------------------------------------------------------------------


def test_first_step_moves_up_projections_and_new_rows_alone(micro_vit: PromptedViT) -> None:
    method = make(micro_vit)
    train(method, 0)
    enter(method, 1, 6)
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    assert float(method.down.detach().abs().max()) <= 1 / math.sqrt(WIDTH)
    step(method, 1)
    for name in ("down", "downs", "ups"):
        assert torch.equal(method.state_dict()[name], before[name])
    assert method.magnitudes[1] == before["magnitudes"][1] and method.magnitudes[0] != before["magnitudes"][0]
    assert float(method.up.detach().abs().max()) > 0
    for old in (slice(0, 2), slice(4, 6)):
        assert torch.equal(method.head.weight[old], before["head.weight"][old])
    assert not torch.equal(method.head.weight[2:4], before["head.weight"][2:4])


@pytest.mark.parametrize("keeps", [False, True])
def test_magnitudes_and_features_at_the_start_of_a_task(micro_vit: PromptedViT, keeps: bool) -> None:
    method = make(micro_vit, keep_magnitudes=keeps)
    images = torch.rand(3, 3, 16, 16)
    enter(method, 0, 6)
    torch.testing.assert_close(
        micro_vit(images, method._adaptations()), micro_vit.features(images), atol=1e-5, rtol=1e-5
    )
    train(method, 0)
    train(method, 1)
    learnt = method.magnitudes.detach().clone()
    assert float((learnt[:2] - 0.8).abs().min()) > 0
    enter(method, 2, 6)
    expected = torch.cat([learnt[:2], torch.tensor([0.8])]) if keeps else torch.full((3,), 0.8)
    assert torch.equal(method.magnitudes, expected)
    changed = micro_vit(images, method._adaptations())
    own = method._updates()[0]["q"]
    norms = [method.downs[task, 0, 0].norm() * method.ups[task, 0, 0].norm() for task in range(2)]
    sums = [
        expected[task] * method.ups[task, 0, 0] @ method.downs[task, 0, 0] / norm for task, norm in enumerate(norms)
    ]
    torch.testing.assert_close(own.up @ own.down, sums[0] + sums[1])
    assert not torch.allclose(changed, micro_vit.features(images), atol=1e-3)


def test_merged_and_separate_updates_agree(micro_vit: PromptedViT) -> None:
    method = make(micro_vit)
    train(method, 0)
    train(method, 1)
    images = torch.rand(5, 3, 16, 16)
    merged = method.predict(Batch(images))
    assert all(one.weights and not one.low_rank for one in method._adaptations().values())
    method.is_finished.fill_(False)
    torch.testing.assert_close(method.predict(Batch(images)), merged, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(method.predict(Batch(images[:2])), merged[:2], atol=1e-5, rtol=1e-5)


def test_more_ranks_than_dimensions(micro_vit: PromptedViT) -> None:
    """Three tasks of rank 10 at width 24: one dense product, with the same gradients as in the sum."""
    method = make(micro_vit, ranks=(10,))
    for index in range(2):
        train(method, index)
    enter(method, 2, 6)
    assert len(method._updates()[0]["q"].down) == WIDTH
    step(method)
    assert float(method.magnitudes.detach()[0]) != pytest.approx(0.8, abs=1e-9)


def test_smaller_ranks_of_later_tasks(micro_vit: PromptedViT) -> None:
    method = make(micro_vit, ranks=(3, 1), rank_every=1)
    for index in range(3):
        train(method, index)
        kept = method.rank_of(index)
        assert kept == (3, 1, 1)[index]
        assert float(method.downs[index, ..., :kept, :].abs().min()) >= 0
        assert torch.equal(method.downs[index, ..., kept:, :], torch.zeros_like(method.downs[index, ..., kept:, :]))
        assert torch.equal(method.ups[index, ..., kept:], torch.zeros_like(method.ups[index, ..., kept:]))


def test_a_current_update_is_normalised_from_the_norm_of_one_on(micro_vit: PromptedViT) -> None:
    method = make(micro_vit, normalise_current=True)
    enter(method, 0, 6)
    with torch.no_grad():
        method.up.copy_(torch.randn_like(method.up))
    update = method._updates()[0]["q"]
    norm = method.down[0, 0].norm() * method.up[0, 0].norm()
    assert float(norm) > 1
    torch.testing.assert_close(update.up @ update.down, 0.8 * method.up[0, 0] @ method.down[0, 0] / norm)


def test_impossible_settings_are_refused(micro_vit: PromptedViT) -> None:
    with pytest.raises(MethodError, match="rank 25"):
        make(micro_vit, ranks=(25,))
