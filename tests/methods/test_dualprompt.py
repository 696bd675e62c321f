"""DualPrompt as a whole method (DualPrompt card, sections 1-4, 6, 10 and 11)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from smope_bench.methods.common.api import Batch, Geometry, Setup, TaskInfo, learnable_count
from smope_bench.methods.common.backbone.backbones import VIT_B16
from smope_bench.methods.common.classifier import current_task_loss
from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.prompts.pools import known_entry_loss
from smope_bench.methods.common.schedules import Schedule, adamw
from smope_bench.methods.common.vit.vit import PromptedViT
from smope_bench.methods.dualprompt import DualPrompt, DualPromptConfig

TASKS = 3


def make(vit: PromptedViT, schedule: Schedule | None = None, **config: Any) -> DualPrompt:
    torch.manual_seed(0)
    return DualPrompt(DualPromptConfig(**config), vit, Setup(6, TASKS, schedule or Schedule(batch_size=4, epochs=2)))


def batch(vit: PromptedViT, first: int, size: int = 4) -> Batch:
    images = torch.rand(size, 3, 16, 16, generator=torch.Generator().manual_seed(first))
    return Batch(images, first + torch.arange(size) % 2, vit.features(images))


def enter(method: DualPrompt, index: int) -> None:
    method.enter_task(TaskInfo(index, range(2 * index, 2 * index + 2), (2, 2)))


def train(method: DualPrompt, index: int, steps: int = 3) -> None:
    enter(method, index)
    optimizer = adamw([(group.parameters, 0.01) for group in method.parameter_groups()], Schedule())
    for _ in range(steps):
        optimizer.zero_grad()
        method.training_step(batch(method.backbone, 2 * index)).backward()
        optimizer.step()


def aim_keys(method: DualPrompt, query: Tensor, *targets: int) -> None:
    """Let the key ``targets[i]`` of block i answer ``query`` (1, d) best."""
    with torch.no_grad():
        method.experts.keys.copy_(-query.expand_as(method.experts.keys))
        for block, target in enumerate(targets):
            method.experts.keys[block, target] = query[0]


TABLE_SIZES = {"general_length": 10, "expert_length": 40}


@pytest.mark.parametrize(
    ("config", "tasks", "classes", "parameters"),
    [
        ({}, 10, 200, 646_856),
        ({}, 5, 200, 404_936),
        ({}, 20, 200, 1_130_696),
        (TABLE_SIZES, 10, 200, 1_113_800),
        (TABLE_SIZES | {"shared_keys": True}, 10, 200, 1_098_440),
        ({}, 10, 100, 569_956),
        (TABLE_SIZES, 10, 100, 1_036_900),
        (TABLE_SIZES | {"shared_keys": True}, 10, 100, 1_021_540),
    ],
)
def test_learnable_parameters_of_the_card(config: dict[str, Any], tasks: int, classes: int, parameters: int) -> None:
    with torch.device("meta"):
        vit = PromptedViT(VisionTransformer(**VIT_B16))
        method = DualPrompt(DualPromptConfig(**config), vit, Setup(classes, tasks, Schedule()))
    assert learnable_count(method.parameter_groups()) == parameters
    assert sum(p.numel() for p in method.parameters()) == parameters


def test_published_row_of_table_3() -> None:
    published = DualPrompt.published_cost(Geometry(768, 12, 12, 197, num_classes=200, num_tasks=10))
    assert published.parameters == 1_098_440 and f"{published.parameters / 1e6:.2f}" == "1.10"
    assert (published.train_passes, published.test_passes) == (1, 2)
    assert published.extra_train_flops == published.extra_test_flops == 0


def test_one_expert_a_task(micro_vit: PromptedViT) -> None:
    method = make(micro_vit)
    assert method.general.shape == (2, 6, 24)
    assert method.experts.prompts.shape == (3, TASKS, 20, 24) and method.experts.keys.shape == (3, TASKS, 24)
    assert make(micro_vit, pool_size=10, shared_keys=True).experts.keys.shape == (1, 10, 24)


def test_loss_is_cross_entropy_plus_the_distance_of_the_own_key(micro_vit: PromptedViT) -> None:
    one = batch(micro_vit, 2)
    losses = {}
    for weight in (0.0, 0.5):
        method = make(micro_vit, key_weight=weight)
        enter(method, 1)
        losses[weight] = method.training_step(one).item()
    distance = known_entry_loss(method.experts.scores(one.features), 1).item()
    assert losses[0.5] == pytest.approx(losses[0.0] + 0.5 * distance, rel=1e-6)
    aim_keys(method, one.features[:1], 1, 1, 1)
    alone = Batch(one.images[:1], one.targets[:1], one.features[:1])
    assert current_task_loss(method.predict(alone), alone.targets, 2).item() == pytest.approx(
        method.training_step(alone).item(), rel=1e-5
    )


def test_a_task_moves_its_own_rows_alone(micro_vit: PromptedViT) -> None:
    method = make(micro_vit)
    train(method, 0)
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    left = {name: tensor.clone() for name, tensor in method.settled().items()}
    train(method, 1)
    moved = {name: tensor != before[name] for name, tensor in method.state_dict().items()}
    assert moved["general"].all()
    assert moved["experts.prompts"].flatten(2).any(dim=-1).tolist() == [[False, True, False]] * 3
    assert moved["experts.keys"].any(dim=-1).tolist() == [[False, True, False]] * 3
    assert moved["head.weight"].any(dim=1).tolist() == [False, False, True, True, False, False]
    assert set(left) == {"expert of task 0", "key of task 0"}
    assert all(torch.equal(method.settled()[name], tensor) for name, tensor in left.items())
    assert len(method.settled()) == 4


def test_test_time_choice_is_by_block_and_by_image(micro_vit: PromptedViT) -> None:
    method = make(micro_vit)
    enter(method, 0)
    query = batch(micro_vit, 0).features
    aim_keys(method, query[:1], 0, 2, 1)
    assert method.chosen_experts(query[:1]).flatten().tolist() == [0, 2, 1]
    opposite = method.chosen_experts(torch.cat([query[:1], -query[:1]]))
    assert opposite[:, 0].flatten().tolist() == [0, 2, 1] and (opposite[:, 1] != opposite[:, 0]).all()


def test_keys_of_tasks_to_come_compete_unless_masked(micro_vit: PromptedViT) -> None:
    one = batch(micro_vit, 0)
    for masked, expected in ((False, [2, 2, 2]), (True, [0, 0, 0])):
        method = make(micro_vit, mask_unseen_keys=masked)
        enter(method, 0)
        aim_keys(method, one.features[:1], 2, 2, 2)
        assert method.chosen_experts(one.features[:1]).flatten().tolist() == expected
        with torch.no_grad():
            alone = Batch(one.images[:1], None, one.features[:1])
            before = method.predict(alone)
            method.experts.prompts[:, 2] += 3.0
            assert torch.equal(method.predict(alone), before) == masked


def test_shared_keys_choose_once_for_all_blocks(micro_vit: PromptedViT) -> None:
    method = make(micro_vit, shared_keys=True)
    enter(method, 0)
    one = batch(micro_vit, 0)
    assert method.chosen_experts(one.features).shape == (1, 4, 1)
    assert method.predict(one).shape == (4, 2)
    train(method, 0)
    assert method.settled()["key of task 0"].shape == (1, 24)


@pytest.mark.parametrize(
    "config", [{"general_length": 5}, {"expert_length": 21}, {"expert_blocks": 0}, {"pool_size": 0}]
)
def test_impossible_sizes_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DualPromptConfig(**config)


def test_impossible_combinations_are_refused(micro_vit: PromptedViT) -> None:
    with pytest.raises(
        MethodError, match=r"first 7 blocks, but the backbone has 6; lower general_blocks or expert_blocks"
    ):
        make(micro_vit, general_blocks=4)
    with pytest.raises(MethodError, match=r"pool_size=2 does not hold 3 tasks; raise pool_size"):
        make(micro_vit, pool_size=2)
    with pytest.raises(MethodError, match=r"weight_decay=0.1 would wear them away; set weight_decay=0"):
        make(micro_vit, Schedule(weight_decay=0.1))


def test_a_batch_of_one_image(micro_vit: PromptedViT) -> None:
    method = make(micro_vit)
    enter(method, 2)
    method.training_step(batch(micro_vit, 4, size=1)).backward()
    assert method.experts.keys.grad is not None and torch.isfinite(method.experts.keys.grad).all()
