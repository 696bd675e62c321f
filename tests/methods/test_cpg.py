"""CPG as a whole method (CPG card, sections 1 to 8 and 11)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from smope_bench.methods.common.api import Batch, Setup, TaskInfo, learnable_count
from smope_bench.methods.common.backbone.backbones import VIT_B16
from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.null_space import null_projector, null_start
from smope_bench.methods.common.schedules import Schedule, learning_rate, optimizer_of, projected_step
from smope_bench.methods.common.vit.attention_rules import Trace
from smope_bench.methods.common.vit.vit import PromptedViT
from smope_bench.methods.cpg import CPG, CPGConfig, ExpertMixture, Routed, SecondMoments, balance_loss, gates
from smope_bench.methods.recipes import find_recipe

SCHEDULE = Schedule(batch_size=8, epochs=1, lr=0.01, optimizer="adam", weight_decay=5e-5, shape="constant")


class Images:
    """Training images of a task, two classes, as a method sees them."""

    def __init__(self, task: int, count: int = 24) -> None:
        generator = torch.Generator().manual_seed(task)
        self.images = torch.rand(count, 3, 16, 16, generator=generator)
        self.labels = 2 * task + torch.arange(count) % 2

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, *, shuffle: bool = False, drop_last: bool = False, augment: bool = True) -> Iterator[Batch]:
        return (Batch(*pair) for pair in zip(self.images.split(8), self.labels.split(8), strict=True))


def make(vit: PromptedViT, **config: Any) -> CPG:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"experts": 8, "keep": 2, "length": 3} | config
    return CPG(CPGConfig(**sizes), vit, Setup(6, 3, SCHEDULE))


def enter(method: CPG, index: int) -> torch.optim.Optimizer:
    task = TaskInfo(index, range(2 * index, 2 * index + 2), (12, 12))
    method.enter_task(task)
    method.begin_task(task)
    return optimizer_of([(group.parameters, 0.01, None) for group in method.parameter_groups()], SCHEDULE)


def step(method: CPG, batch: Batch, optimizer: torch.optim.Optimizer) -> Tensor:
    optimizer.zero_grad()
    loss = method.training_step(batch)
    loss.backward()
    method.apply_step(optimizer)
    return loss.detach()


def train(method: CPG, index: int, steps: int = 6) -> Images:
    optimizer, data = enter(method, index), Images(index)
    batches = list(data.batches())
    for number in range(steps):
        step(method, batches[number % len(batches)], optimizer)
    method.end_task(data)
    return data


def routed(method: CPG, images: Tensor) -> list[Routed]:
    trace: Trace[Routed] = Trace()
    method.backbone.run_prompted(images, method._adaptations(Batch(images), trace, None))
    return list(trace)


ROUTER = torch.tensor([[1, 0, -1, 0.5, 2], [0, 1, 0, 0.5, -1], [0.5, 0.5, 0.5, 0.5, 0.5]])
EXPERTS = torch.arange(30.0).view(5, 2, 3)


@pytest.mark.parametrize(
    ("query", "weights", "first_row"),
    [
        ((1, 2, 0), {1: 0.5454247, 3: 0.4545753}, (11.4549046, 12.4549036, 13.4549036)),
        ((2, 0, 1), {0: 0.3280498, 4: 0.6719502}, (16.1268044, 17.1268044, 18.1268044)),
        ((0, 0, 1), {0: 0.5, 1: 0.5}, (3.0, 4.0, 5.0)),
    ],
)
def test_worked_example_of_the_mixture(
    query: tuple[int, ...], weights: dict[int, float], first_row: tuple[float, ...]
) -> None:
    """The third has all scores equal, where this project takes the smallest indices."""
    config = CPGConfig(experts=5, keep=2, length=2)
    tokens = torch.tensor([query, (9, 9, 9)]).float()[None]
    prompt = ExpertMixture(ROUTER, EXPERTS, config)(tokens)
    found = gates(tokens[:, 0] @ ROUTER, 2)[0]
    assert {index: pytest.approx(weight, abs=1e-6) for index, weight in weights.items()} == {
        int(index): float(found[index]) for index in found.nonzero()
    }
    assert prompt[0, 0].tolist() == pytest.approx(first_row, abs=3e-6)
    assert (prompt[0, 1] - prompt[0, 0]).tolist() == pytest.approx([3.0] * 3, abs=3e-6)


def test_single_softmax_is_another_prompt() -> None:
    scores = torch.tensor([[1.0, 2, -1, 1.5, 0]])
    kept = torch.tensor([2.0, 1.5]).softmax(0)
    found = gates(scores, 2, "single_softmax")[0]
    assert torch.allclose(found[[1, 3]], kept) and not torch.allclose(found, gates(scores, 2)[0])


def test_balance_loss_of_the_first_step() -> None:
    weights = gates(torch.zeros(16, 36), 4)[None].repeat(12, 1, 1).requires_grad_()
    loss = balance_loss(weights, (weights > 0).float())
    assert loss.item() == pytest.approx(16.4570722, abs=1e-4), "its epsilon counts by the batch's size"


def test_the_balance_loss_of_tied_scores_moves_no_router() -> None:
    scores = torch.zeros(4, 8, requires_grad=True)
    weights = gates(scores, 2)[None]
    balance_loss(weights, (weights > 0).float()).backward()
    assert scores.grad is not None and scores.grad.abs().max() < 1e-6


def test_every_column_of_a_router_gets_a_gradient() -> None:
    scores = torch.tensor([[1.0, 2, -1, 1.5, 0]], requires_grad=True)
    (gates(scores, 2) * torch.arange(5.0)).sum().backward()
    assert scores.grad is not None and scores.grad.all()


SPECTRUM = np.concatenate([[3, 2, 1.5, 0.4, 0.05], np.linspace(0.02, 0.001, 31)])


@pytest.mark.parametrize(
    ("values", "rank"),
    [
        (SPECTRUM, 33),
        (100 * np.exp(-np.arange(768) / 20), 743),
        (np.array([5, 4, 1, 0.1, 0.01]), 3),
        (np.concatenate([np.full(50, 10.0), np.full(718, 1e-6)]), 1),
    ],
    ids=["experts", "router", "short", "ties"],
)
def test_number_of_null_directions(values: np.ndarray, rank: int) -> None:
    assert len(values) - null_start(values) == rank


def test_ties_may_be_taken_from_the_first() -> None:
    values = np.concatenate([np.full(50, 10.0), np.full(718, 1e-6)])
    assert len(values) - null_start(values, "first") == 718


def test_projectors_of_the_card() -> None:
    made = null_projector(torch.diag(torch.tensor(SPECTRUM))[None], eta=0.99)[0]
    kept = made.diagonal()[:3].tolist(), made.diagonal()[3:].tolist()
    assert kept[0] == pytest.approx([0.01] * 3, abs=1e-6) and kept[1] == pytest.approx([0.182337] * 33, abs=1e-6)
    long = null_projector(torch.diag(torch.tensor(100 * np.exp(-np.arange(768) / 20)))[None])[0]
    assert long[-1, -1].item() == pytest.approx(0.0366864, abs=1e-6)
    assert long.norm().item() == pytest.approx(1, abs=1e-6)
    short = null_projector(torch.diag(torch.tensor([5, 4, 1, 0.1, 0.01]))[None])[0].diagonal()
    assert short.tolist() == pytest.approx([0, 0, *[0.5773503] * 3], abs=1e-6)
    plain = null_projector(torch.diag(torch.tensor([5, 4, 1, 0.1, 0.01]))[None], scale=False)[0]
    assert torch.allclose(plain @ plain, plain)


def test_two_projected_steps_of_the_card() -> None:
    weight = nn.Parameter(torch.tensor([[1.0, 2], [0, 1], [3, -1]]))
    keep = torch.diag(torch.tensor([0.0, 1, 1])) / 2**0.5
    optimizer = optimizer_of([([weight], 0.01, None)], SCHEDULE)
    expected = [
        [[1, 2], [-0.0070711, 1.0070711], [2.9929290, -1.0070711]],
        [[1, 2], [-0.0066989, 1.0141420], [2.9858580, -1.0126097]],
    ]
    for gradient, after in zip(
        ([[0.1, 0.2], [0.3, -0.4], [0.5, 0.6]], [[0, 0.2], [-0.3, -0.4], [0.5, 0.1]]), expected, strict=True
    ):
        weight.grad = torch.tensor(gradient)
        projected_step(optimizer, {weight: lambda change: keep @ change})
        assert torch.allclose(weight, torch.tensor(after), atol=1e-6)


def test_second_moments_are_means_of_groups_across_batches() -> None:
    rows = torch.randn(2, 11, 3)
    moments = SecondMoments(4)
    for part in rows.split(3, dim=1):
        moments.add(part)
    expected = sum(group.mT @ group / group.shape[1] for group in rows.split(4, dim=1))
    assert torch.allclose(moments.finish(), torch.as_tensor(expected), atol=1e-6)


@pytest.mark.parametrize(
    ("classes", "noisy", "parameters"), [(200, False, 1_812_680), (200, True, 2_144_456), (100, False, 1_735_780)]
)
def test_learnable_parameters_of_the_card(classes: int, noisy: bool, parameters: int) -> None:
    with torch.device("meta"):
        vit = PromptedViT(VisionTransformer(**VIT_B16))
        method = CPG(CPGConfig(noisy_gating=noisy), vit, Setup(classes, 10, Schedule()))
    assert learnable_count(method.parameter_groups()) == parameters


def test_rates_of_the_recipe() -> None:
    schedule = Schedule(**find_recipe("cpg", "imagenet_r", "sup21k", tasks=10).schedule)
    found = [learning_rate(schedule, 0.01, step=7 * epoch, loader_steps=7, epochs=100) for epoch in range(0, 100, 10)]
    assert found == pytest.approx([0.01] * 4 + [0.001] * 3 + [0.0001] * 3)


def test_what_the_first_block_reads_is_the_same_for_every_image(micro_vit: PromptedViT) -> None:
    method = make(micro_vit)
    train(method, 0)
    values = torch.linalg.svdvals(method.moments_router[0].double())
    assert values[1] < 1e-6 * values[0]
    assert torch.linalg.svdvals(method.moments_router[1].double())[1] > 1e-6 * values[0]


def test_later_steps_leave_old_scores_and_prompts_alone(micro_vit: PromptedViT) -> None:
    """Directions above the threshold are those that a projector maps to nothing."""
    method = make(micro_vit)
    data = train(method, 0)
    old = routed(method, data.images)[2]
    router, experts = method.routers[2].detach().clone(), method.experts[2].detach().clone()
    used = _above(method.moments_router[2])
    steps = 5
    optimizer = enter(method, 1)
    for batch in [*Images(1).batches(), *Images(1).batches()][:steps]:
        step(method, batch, optimizer)
    moved = method.routers[2] - router
    kept = old.queries @ used @ used.T @ moved
    assert moved.abs().max() > 1e-4 and kept.abs().max() < 1e-5
    change = (method.experts[2] - experts).flatten(1)
    guarded = _above(method.moments_experts[2])
    assert change.abs().max() > 1e-3
    assert (guarded.T @ change).norm(dim=1).max() < 0.01 * 0.011 * steps * change.shape[1] ** 0.5 * guarded.shape[
        0
    ] ** 0.5


def _above(moments: Tensor) -> Tensor:
    _, values, right = torch.linalg.svd(moments.double())
    return right[: null_start(values.numpy())].T.float()


@pytest.mark.parametrize(
    ("projection", "moves"), [("off", (True, True)), ("router", (False, True)), ("experts", (True, False))]
)
def test_switches_of_the_projection(micro_vit: PromptedViT, projection: str, moves: tuple[bool, bool]) -> None:
    """A projector of nothing shows whose steps pass through it."""
    method = make(micro_vit, projection=projection)
    train(method, 0)
    with torch.no_grad():
        method.projection_router.zero_()
        method.projection_experts.zero_()
    before = method.routers.detach().clone(), method.experts.detach().clone()
    step(method, next(Images(1).batches()), enter(method, 1))
    assert (not torch.equal(method.routers, before[0]), not torch.equal(method.experts, before[1])) == moves


@pytest.mark.parametrize("form", ["reused", "fresh"])
def test_the_second_task_starts_from_the_first_classifier(micro_vit: PromptedViT, form: str) -> None:
    method = make(micro_vit, second_head=form)
    train(method, 0)
    enter(method, 1)
    head = method.head
    assert torch.equal(head.weight[2:4], head.weight[:2]) == (form == "reused")
    train(method, 1)
    enter(method, 2)
    assert not torch.equal(head.weight[4:6], head.weight[2:4])


@pytest.mark.parametrize("form", ["decay", "still"])
def test_experts_that_no_image_used(micro_vit: PromptedViT, form: str) -> None:
    method = make(micro_vit, idle_experts=form)
    optimizer, before = enter(method, 0), method.experts.detach().clone()
    step(method, next(Images(0).batches()), optimizer)
    idle = ~method._used
    moved = (method.experts.detach() - before)[idle]
    assert idle.any()
    if form == "still":
        assert not moved.any()
    else:
        assert torch.equal(moved.sign(), -before[idle].sign())
        assert moved.abs().median().item() == pytest.approx(0.01, rel=0.05)


def test_a_task_moves_no_classifier_but_its_own(micro_vit: PromptedViT) -> None:
    method = make(micro_vit)
    train(method, 0)
    enter(method, 1)
    before = method.head.weight.detach().clone()
    train(method, 1)
    assert (method.head.weight != before).any(dim=1).tolist() == [False, False, True, True, False, False]


def test_no_moments_after_the_last_task(micro_vit: PromptedViT) -> None:
    method = make(micro_vit)
    train(method, 0)
    train(method, 1)
    before = method.moments_router.clone()
    train(method, 2)
    assert torch.equal(method.moments_router, before) and int(method.images) == 48


def test_moments_are_added_or_averaged(micro_vit: PromptedViT) -> None:
    added, averaged = make(micro_vit), make(micro_vit, accumulate="mean")
    for method in (added, averaged):
        train(method, 0, steps=0)
    assert torch.equal(added.moments_experts, averaged.moments_experts)
    first = added.moments_experts.clone()
    for method in (added, averaged):
        train(method, 1, steps=0)
    second = added.moments_experts - first
    assert torch.allclose(averaged.moments_experts, (first + second) / 2, atol=1e-6)


def test_learnt_noise_is_drawn_in_training_alone(micro_vit: PromptedViT) -> None:
    method = make(micro_vit, noisy_gating=True)
    batch, optimizer = next(Images(0).batches()), enter(method, 0)
    assert method.noise_routers is not None
    torch.manual_seed(1)
    first = step(method, batch, optimizer)
    assert method.noise_routers.detach().any()
    assert torch.equal(method.predict(batch), method.predict(batch))
    method = make(micro_vit, noisy_gating=True)
    optimizer = enter(method, 0)
    torch.manual_seed(2)
    assert step(method, batch, optimizer) != first


def test_frozen_query(micro_vit: PromptedViT) -> None:
    method = make(micro_vit, frozen_query=1.0)
    images = Images(0).images[:8]
    features = micro_vit.features(images)
    trace: Trace[Routed] = Trace()
    batch = Batch(images, Images(0).labels[:8], features)
    method.backbone.run_prompted(images, method._adaptations(batch, trace, None))
    assert method.needs_query and not make(micro_vit).needs_query
    assert all(torch.allclose(one.queries, features) for one in trace)


def test_impossible_sizes_are_refused(micro_vit: PromptedViT) -> None:
    with pytest.raises(ValidationError, match=r"keep=9 is more than experts=8; lower keep or raise experts"):
        CPGConfig(experts=8, keep=9)
    with pytest.raises(MethodError, match="cpg prompts the first 7 blocks, but the backbone has 6"):
        make(micro_vit, prompt_blocks=7)
