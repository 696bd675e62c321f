"""Hash as a whole: HGM's numbers (card, section 12.2), its invariants (section 13), switches (14) and sizes (10)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from smope_bench.harness.training.optimization import OptimizationSegment, declare_trainable
from smope_bench.methods.common.api import Batch, Geometry, Phase, Setup
from smope_bench.methods.common.backbone.backbones import VIT_B16
from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.prompts.routing import route
from smope_bench.methods.common.schedules import Schedule
from smope_bench.methods.common.vit.vit import PromptedViT
from smope_bench.methods.hash_prompt import HashPrompt, HashPromptConfig
from tests.methods.task_data import Data, enter  # pyright: ignore[reportMissingImports]
from tests.tolerance import printed_tolerance  # pyright: ignore[reportMissingImports]

PHASE = Phase("prompts", 2)


def near(found: Tensor | float | None, expected: Any) -> None:
    assert found is not None
    dtype = found.dtype if isinstance(found, Tensor) else torch.float64
    found, wanted = torch.as_tensor(found).double(), torch.tensor(expected).double()
    tolerance = printed_tolerance(max(1.0, float(wanted.abs().max())), dtype=dtype)
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=0)


def batch(vit: PromptedViT, first: int, size: int = 4, seed: int = 0) -> Batch:
    images = torch.rand(size, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return Batch(images, first + torch.arange(size) % 2, vit.features(images))


def data_of(vit: PromptedViT, index: int) -> Data:
    """Two batches of a task, with frozen features."""
    return Data([batch(vit, 2 * index, seed=10 * index + part) for part in range(2)])


def make(vit: PromptedViT, **config: Any) -> HashPrompt:
    torch.manual_seed(0)
    small = {"epochs": 2, "samples": 4}
    values = {"pool_size": 4, "top_k": 2, "prefix_len": 3, "tap": small, "task_inference": {"epochs": 1, "tap": small}}
    return HashPrompt(HashPromptConfig(**values | config), vit, Setup(6, 3, Schedule(batch_size=4, epochs=2, lr=0.05)))


def learn(method: HashPrompt, vit: PromptedViT, index: int) -> HashPrompt:
    """A task as the engine trains it."""
    torch.manual_seed(index)
    enter(method, index, 4)
    data = data_of(vit, index)
    for phase in method.phases():
        method.begin_phase(phase)
        groups = method.parameter_groups()
        declare_trainable(method, groups)
        stretch = OptimizationSegment(method.setup.schedule, groups, phase.epochs)
        for _ in range(phase.epochs):
            for each in method.epoch_batches(data):
                stretch.set_rate(2)
                stretch.descend(method.training_step(each), method)
    method.end_task(data)
    return method


def learned(vit: PromptedViT, tasks: int = 2, **config: Any) -> HashPrompt:
    method = make(vit, **config)
    for index in range(tasks):
        learn(method, vit, index)
    return method


def same(one: HashPrompt, two: HashPrompt, but: tuple[str, ...] = ()) -> bool:
    states = one.state_dict(), two.state_dict()
    names = [name for name in states[0] if not name.endswith(but or ("\0",))]
    return all(torch.equal(states[0][name], states[1][name]) for name in names)


GRADIENTS = (1.0, 0.5, -0.25, 2.0)


def trajectory(
    vit: PromptedViT, optimizer: str, site: str, *, brake_from: int = 0, **config: Any
) -> tuple[list[float], list[float]]:
    """A braked and a free prompt under the card's gradients, in four steps at rate 0.1."""
    method = make(vit, hgm_site=site, **config)
    enter(method, 0, 4)
    method.begin_phase(PHASE)
    prompts = method.pool.prompts
    prompts.data.zero_()
    made = torch.optim.SGD([prompts], 0.1) if optimizer == "sgd" else torch.optim.Adam([prompts], 0.1)
    braked, free = [], []
    for step, gradient in enumerate(GRADIENTS):
        method.history.factor[:, 0] = 0.1 if step >= brake_from else 1.0
        prompts.grad = torch.full_like(prompts, gradient)
        method.apply_step(made)
        for place, values in ((0, braked), (1, free)):
            part = prompts.detach()[:, :, place]
            assert (part == part.flatten()[0]).all()
            values.append(float(part.flatten()[0]))
    return braked, free


def test_hgm_scales_the_step_and_adam_cancels_a_scaled_gradient_12_2(micro_vit: PromptedViT) -> None:
    adam = [-0.1, -0.193218, -0.249584, -0.322953]
    sgd = [-0.1, -0.15, -0.125, -0.325]
    near(torch.tensor(trajectory(micro_vit, "sgd", "grad")), [[-0.01, -0.015, -0.0125, -0.0325], sgd])
    near(torch.tensor(trajectory(micro_vit, "adam", "grad")), [adam, adam])
    near(torch.tensor(trajectory(micro_vit, "adam", "update")), [[-0.01, -0.019322, -0.024958, -0.032295], adam])
    near(torch.tensor(trajectory(micro_vit, "adam", "grad", brake_from=2)[0][2]), -0.263828)


@pytest.mark.parametrize(
    "config", [{"router_input": "per_layer"}, {"router_select": "two_pass"}, {"router_select": "tii"}]
)
def test_logits_do_not_depend_on_the_batch(micro_vit: PromptedViT, config: dict[str, Any]) -> None:
    method = learned(micro_vit, **config)
    many = batch(micro_vit, 0, 40, seed=99)
    order = torch.randperm(40)
    with torch.no_grad():
        reference = method.predict(many)
        assert reference.shape == (40, 4) and reference.isfinite().all()
        for size in (1, 7):
            parts = order.split(size)
            found = torch.cat([method.predict(Batch(many.images[p], None, many.features[p])) for p in parts])
            torch.testing.assert_close(found, reference[order], atol=1e-5, rtol=1e-5)


def test_neutral_brakes_are_no_brakes_to_the_bit(micro_vit: PromptedViT) -> None:
    off = learned(micro_vit, phi="none", psi="none")
    assert same(learned(micro_vit, delta=0.0, beta=1.0), off)
    assert same(learned(micro_vit, beta=1.0), learned(micro_vit, psi="none"))
    assert same(learned(micro_vit, delta=0.0), learned(micro_vit, phi="none"))
    assert not same(learned(micro_vit), off, but=("penalty", "factor"))


def test_first_task_knows_no_brakes_by_default(micro_vit: PromptedViT) -> None:
    free = learned(micro_vit, 1, phi="none", psi="none")
    assert same(learned(micro_vit, 1), free)
    online = learned(micro_vit, 1, history_update="online", delta=5.0)
    assert not same(online, free, but=("penalty", "factor"))
    assert (online.history.penalty[0] == 5.0).sum() == 2 and (online.history.factor < 1).sum() == 2


def test_weights_sum_to_one_on_the_chosen_and_counts_add_up(micro_vit: PromptedViT) -> None:
    found = route(torch.randn(9, 6), torch.rand(6), 3)
    near(found.weights.sum(dim=-1), [1.0] * 9)
    assert torch.equal(found.weights > 0, found.chosen) and (found.chosen.sum(dim=-1) == 3).all()
    method = learned(micro_vit)
    images = 2 * len(data_of(micro_vit, 0))
    assert method.history.routed.tolist() == [images, images, 0]
    assert method.history.counts.sum(dim=-1).flatten().tolist() == [2 * images, 2 * images, 0]
    assert torch.equal(method.log.images, method.history.routed)
    assert (method.log.entropy[:2] > 0).all() and (method.log.score_range[:2] > 0).all()


def test_clean_pass_counts_each_image_once(micro_vit: PromptedViT) -> None:
    method = learned(micro_vit, history_update="post_pass")
    assert method.history.routed.tolist() == [8, 8, 0] and (method.history.counts[:2].sum(dim=-1) == 16).all()


def test_unselected_prompts_and_old_routers_stay_to_the_bit(micro_vit: PromptedViT) -> None:
    method = learned(micro_vit, 1, pool_size=12, delta=1e4)
    before, router = method.pool.prompts.detach().clone(), method.pool.routers[0].detach().clone()
    settled = {name: value.clone() for name, value in method.settled().items()}
    learn(method, micro_vit, 1)
    unused = method.history.counts[1, 0] == 0
    assert unused.any() and not unused.all()
    assert torch.equal(method.pool.prompts[:, :, unused], before[:, :, unused])
    assert (method.drift[1] == 0).tolist() == unused.tolist()
    assert torch.equal(method.pool.routers[0], router) and not torch.equal(method.pool.routers[1], router)
    assert all(torch.equal(value, method.settled()[name]) for name, value in settled.items())


def test_routers_start_from_the_one_before_or_afresh(micro_vit: PromptedViT) -> None:
    for init, copied in (("copy", True), ("fresh", False)):
        method = learned(micro_vit, 1, router_init=init)
        enter(method, 1, 4)
        assert torch.equal(method.pool.routers[1], method.pool.routers[0]) is copied


# -- section 14: switches ----------------------------------------------------------------------------------------------

SWITCHES = [
    {"pool_layers": "tied"},
    {"router_input": "embed_raw"},
    {"router_input": "per_layer"},
    {"router_input": "frozen_final"},
    {"router_select": "ncm"},
    {"router_select": "latest"},
    {"router_select": "mean_scores"},
    {"router_select": "two_pass"},
    {"phi": "log", "history_norm": "rate"},
    {"phi": "power"},
    {"penalty_scope": "select_only"},
    {"penalty_infer": "train_only"},
    {"penalty_infer": "current"},
    {"psi": "reciprocal", "history_norm": "rate"},
    {"psi": "exponential", "history_norm": "rate"},
    {"hgm_site": "anchor"},
    {"hot_set": "fraction", "hot_fraction": 0.25},
    {"hot_size": 1},
    {"history_update": "online"},
    {"sparse_step": True, "top_k": 1},
    {"tap": {"enabled": False}},
    {"contrastive_reg": 0.1},
    {"layers": [2, 5]},
    {"sharing": "isolated", "pool_size": 6},
]


@pytest.fixture(scope="module")
def default_logits(micro_vit: PromptedViT) -> Tensor:
    return learned(micro_vit).predict(batch(micro_vit, 0, 16, seed=5)).detach()


@pytest.mark.parametrize("config", SWITCHES, ids=lambda config: "-".join(f"{k}={v}" for k, v in config.items()))
def test_every_switch_trains_and_changes_something(
    micro_vit: PromptedViT, config: dict[str, Any], default_logits: Tensor
) -> None:
    found = learned(micro_vit, **config).predict(batch(micro_vit, 0, 16, seed=5)).detach()
    assert found.isfinite().all() and found.shape == (16, 4)
    assert not torch.equal(found, default_logits)


def test_isolated_tasks_use_only_their_own_prompts(micro_vit: PromptedViT) -> None:
    method = learned(micro_vit, 3, sharing="isolated", pool_size=6)
    used = method.history.counts[:, 0] > 0
    assert used.tolist() == [[place // 2 == task for place in range(6)] for task in range(3)]


def test_penalty_at_test_follows_its_switch(micro_vit: PromptedViT) -> None:
    snapshot, none, current = (learned(micro_vit, penalty_infer=each) for each in ("snapshot", "train_only", "current"))
    assert (snapshot._test_penalty()[0] == 0).all() and (snapshot._test_penalty()[1] == 0.5).sum() == 2
    assert (none._test_penalty() == 0).all()
    assert torch.equal(current._test_penalty()[0], current._test_penalty()[1])
    assert (current._test_penalty()[0] == 0.5).sum() == 2


def test_anchor_is_half_lambda_use_times_squared_distance(micro_vit: PromptedViT) -> None:
    method = make(micro_vit, hgm_site="anchor", anchor_weight=4.0)
    enter(method, 0, 4)
    method.history.counts[0, 0] = torch.tensor([10, 0, 5, 0])
    method.history.routed[0] = 10
    enter(method, 1, 4)
    method.pool.prompts.data += 0.5
    size = method.pool.prompts[:, :, 0].numel()
    near(method._anchor_loss().detach() / size, 2.0 * (1 + 0.5) * 0.25)


def test_sparse_step_holds_what_the_batch_did_not_select(micro_vit: PromptedViT) -> None:
    for sparse in (False, True):
        method = make(micro_vit, sparse_step=sparse)
        enter(method, 0, 4)
        method.begin_phase(PHASE)
        optimizer = torch.optim.Adam([method.pool.prompts], 0.1)
        method.pool.prompts.grad = torch.ones_like(method.pool.prompts)
        method._selected = torch.tensor([[True, False, True, False]])
        before = method.pool.prompts.detach().clone()
        method.apply_step(optimizer)
        moved = (method.pool.prompts != before).flatten(3).any(dim=3)[0, 0]
        assert moved.tolist() == ([True, False, True, False] if sparse else [True] * 4)


def test_phases_and_rates(micro_vit: PromptedViT) -> None:
    method = make(micro_vit)
    enter(method, 1, 4)
    assert [phase.name for phase in method.phases()] == ["task inference", "prompts"]
    method.begin_phase(PHASE)
    groups = method.parameter_groups()
    assert {group.name: group.lr_multiplier for group in groups} == {"prompts": 1.0, "head": 0.1}
    assert [id(each) for each in groups[0].parameters] == [id(method.pool.prompts), id(method.pool.routers[1])]
    assert make(micro_vit, router_select="latest").phases() == [PHASE]


# -- section 10: parameters, and what is refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tasks", "classes", "config", "pool", "routers"),
    [
        (10, 100, {"prefix_len": 5}, 307_200, 76_800),
        (10, 100, {"prefix_len": 5, "pool_size": 8}, 245_760, 61_440),
        (10, 200, {}, 1_228_800, 76_800),
        (20, 200, {}, 1_228_800, 153_600),
    ],
)
def test_parameters_of_the_card(tasks: int, classes: int, config: dict[str, Any], pool: int, routers: int) -> None:
    from timm.models.vision_transformer import VisionTransformer

    with torch.device("meta"):
        vit = PromptedViT(VisionTransformer(**VIT_B16))
        method = HashPrompt(HashPromptConfig(**config), vit, Setup(classes, tasks, Schedule()))
    assert method.pool.prompts.numel() == pool
    assert sum(each.numel() for each in method.pool.routers) == routers
    total = pool + routers + 2_363_136 + 2 * (769 * classes)
    assert sum(each.numel() for each in method.parameters()) == total
    if not config:
        cost = HashPrompt.published_cost(Geometry(768, 12, 12, 197, classes, tasks))
        assert cost.parameters == total and cost.extra_test_flops == 4_723_968


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"top_k": 11}, "more than pool_size=10"),
        ({"layers": (0, 1)}, "must rise from 1"),
        ({"layers": (2, 2)}, "must rise from 1"),
        ({"router_input": "per_layer", "pool_layers": "tied"}, "pool_layers=per_layer"),
        ({"sharing": "isolated", "penalty_infer": "current"}, "penalty_infer=snapshot"),
        ({"delta": math.inf}, "finite"),
    ],
)
def test_impossible_settings_are_refused(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        HashPromptConfig(**config)


def test_what_does_not_fit_is_said_before_training(micro_vit: PromptedViT) -> None:
    with pytest.raises(MethodError, match="block 7, but the backbone has 6"):
        make(micro_vit, layers=(6, 7))
    with pytest.raises(MethodError, match="raise it to 6"):
        make(micro_vit, sharing="isolated", pool_size=5)


def test_class_with_one_image_is_no_obstacle(micro_vit: PromptedViT) -> None:
    method = make(micro_vit, router_select="latest")
    enter(method, 0, 4)
    data = data_of(micro_vit, 0)
    lonely = batch(micro_vit, 0, 3, seed=1)
    data.content = [Batch(lonely.images, torch.tensor([0, 0, 1]), lonely.features)]
    method.end_task(data)
    learn(method, micro_vit, 1)
    assert method.predict(lonely).isfinite().all()
