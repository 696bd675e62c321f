"""L2P++ and Deep L2P++ as whole methods (L2P card, sections 1-4, 6 and 11)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from pydantic import ValidationError
from timm.models.vision_transformer import VisionTransformer

from smope_bench.methods.common.api import Batch, Geometry, Setup, TaskInfo, learnable_count
from smope_bench.methods.common.backbone.backbones import VIT_B16
from smope_bench.methods.common.classifier import current_task_loss
from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.prompts.pools import choose, pull_loss_over_batch, pull_loss_per_image
from smope_bench.methods.common.schedules import Schedule, adamw
from smope_bench.methods.common.vit.vit import PromptedViT
from smope_bench.methods.l2p import L2P, DeepL2P, L2PConfig
from tests.tolerance import printed_tolerance  # pyright: ignore[reportMissingImports]

VIT_B16_GEOMETRY = Geometry(dim=768, num_heads=12, depth=12, tokens=197, num_classes=200, num_tasks=10)


def configure(kind: type[L2P], **config: Any) -> L2PConfig:
    return cast("L2PConfig", kind.Config(**config))


def make(vit: PromptedViT, kind: type[L2P] = L2P, **config: Any) -> L2P:
    torch.manual_seed(0)
    return kind(configure(kind, **config), vit, Setup(6, 3, Schedule(batch_size=4, epochs=2)))


def batch(vit: PromptedViT, first: int, size: int = 4) -> Batch:
    images = torch.rand(size, 3, 16, 16, generator=torch.Generator().manual_seed(first))
    return Batch(images, first + torch.arange(size) % 2, vit.features(images))


def train(method: L2P, index: int, steps: int = 3) -> None:
    method.enter_task(TaskInfo(index, range(2 * index, 2 * index + 2), (2, 2)))
    optimizer = adamw([(group.parameters, 0.01) for group in method.parameter_groups()], Schedule())
    for _ in range(steps):
        optimizer.zero_grad()
        method.training_step(batch(method.backbone, 2 * index)).backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("kind", "config", "classes", "parameters"),
    [
        (L2P, {}, 200, 637_640),
        (L2P, {}, 100, 560_740),
        (DeepL2P, {}, 200, 2_573_000),
        (DeepL2P, {}, 100, 2_496_100),
        (DeepL2P, {"shared_keys": True, "length": 10}, 200, 1_328_840),
    ],
)
def test_learnable_parameters_of_the_card(
    kind: type[L2P], config: dict[str, Any], classes: int, parameters: int
) -> None:
    with torch.device("meta"):
        method = kind(
            configure(kind, **config), PromptedViT(VisionTransformer(**VIT_B16)), Setup(classes, 10, Schedule())
        )
    assert learnable_count(method.parameter_groups()) == parameters
    assert sum(p.numel() for p in method.parameters()) == parameters


def test_published_row_of_table_3() -> None:
    published = DeepL2P.published_cost(VIT_B16_GEOMETRY)
    assert published.parameters == 1_328_840 and f"{published.parameters / 1e6:.2f}" == "1.33"
    assert (published.train_passes, published.test_passes) == (2, 2)
    assert published.extra_train_flops == published.extra_test_flops == 0
    assert L2P.published_cost(VIT_B16_GEOMETRY) is None


def test_prompted_blocks_and_prefix_sizes(micro_vit: PromptedViT) -> None:
    assert make(micro_vit).pool.prompts.shape == (1, 30, 20, 24)
    deep = make(micro_vit, DeepL2P)
    assert deep.pool.prompts.shape == (5, 30, 20, 24) and deep.pool.keys.shape == (5, 30, 24)
    assert deep.name == "deep_l2p++" and L2P.name == "l2p++"


@pytest.mark.parametrize(("switch", "pull"), [("batch", pull_loss_over_batch), ("image", pull_loss_per_image)])
def test_loss_is_cross_entropy_plus_weighted_pull(
    micro_vit: PromptedViT, switch: str, pull: Callable[..., Any]
) -> None:
    method = make(micro_vit, DeepL2P, pull_loss=switch, pull_weight=0.5, prompt_init=0.5)
    method.enter_task(TaskInfo(1, range(2, 4), (2, 2)))
    one = batch(micro_vit, 2)
    scores = method.pool.scores(one.features)
    expected = current_task_loss(method.predict(one), one.targets, 2) + 0.5 * pull(scores, choose(scores, 5))
    assert method.training_step(one).item() == pytest.approx(expected.item(), rel=1e-6)


def test_keys_learn_from_the_pull_alone_and_prompts_from_the_classes(micro_vit: PromptedViT) -> None:
    method = make(micro_vit, DeepL2P, pull_weight=0.0)
    method.enter_task(TaskInfo(0, range(2), (2, 2)))
    method.training_step(batch(micro_vit, 0)).backward()
    keys, prompts = method.pool.keys.grad, method.pool.prompts.grad
    assert keys is not None and not keys.any()
    assert prompts is not None and prompts.any()


@pytest.mark.parametrize("kind", [L2P, DeepL2P])
def test_a_task_moves_its_own_classes_and_the_chosen_entries(micro_vit: PromptedViT, kind: type[L2P]) -> None:
    method = make(micro_vit, kind)
    train(method, 0)
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    train(method, 1)
    rows = (method.head.weight != before["head.weight"]).any(dim=1)
    assert rows.tolist() == [False, False, True, True, False, False]
    prompts = (method.pool.prompts != before["pool.prompts"]).flatten(2).any(dim=-1)
    keys = (method.pool.keys != before["pool.keys"]).any(dim=-1)
    assert prompts.any() and not prompts.all()
    assert not (prompts & ~keys).any()


def test_prefix_comes_from_the_nearest_entries(micro_vit: PromptedViT) -> None:
    """An entry that no image chose may be anything; one that was chosen may not."""
    method = make(micro_vit)
    method.enter_task(TaskInfo(0, range(2), (2, 2)))
    one = batch(micro_vit, 0)
    chosen = set(choose(method.pool.scores(one.features), 5).flatten().tolist())
    other = next(entry for entry in range(30) if entry not in chosen)
    with torch.no_grad():
        before = method.predict(one)
        method.pool.prompts[0, other] = 7.0
        assert torch.equal(method.predict(one), before)
        method.pool.prompts[0, min(chosen)] = 7.0
        assert not torch.equal(method.predict(one), before)


def test_official_rate_is_the_same_for_pool_and_classifier(micro_vit: PromptedViT) -> None:
    assert [group.lr_multiplier for group in make(micro_vit).parameter_groups()] == [1.0, 1.0]
    faster = make(micro_vit, prompt_lr_mult=5.0)
    assert [group.lr_multiplier for group in faster.parameter_groups()] == [5.0, 1.0]


def test_masked_cross_entropy_of_the_card() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, 3.0]])
    loss = current_task_loss(logits, torch.tensor([2]), 2)
    assert loss.item() == pytest.approx(3.048587, abs=printed_tolerance(3.0))


@pytest.mark.parametrize(
    "config", [{"pool_size": 4}, {"top_k": 31}, {"length": 5}, {"length": 0}, {"pull_loss": "mean"}]
)
def test_impossible_sizes_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        L2P.Config(**config)


def test_too_few_blocks(micro_vit: PromptedViT) -> None:
    with pytest.raises(MethodError, match=r"deep_l2p\+\+ prompts the first 7 blocks, but the backbone has 6"):
        make(micro_vit, DeepL2P, prompt_blocks=7)


def test_a_batch_of_one_image(micro_vit: PromptedViT) -> None:
    method = make(micro_vit, DeepL2P)
    method.enter_task(TaskInfo(0, range(2), (1, 1)))
    method.training_step(batch(micro_vit, 0, size=1)).backward()
    assert method.pool.keys.grad is not None and torch.isfinite(method.pool.keys.grad).all()
