"""SMoPE's bookkeeping, losses and switches at the level of the whole method (card, sections 2-5, 9 and 11 (d))."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from smope_bench.methods.common.api import Batch, Geometry, Phase, Setup, learnable_count
from smope_bench.methods.common.backbone.backbones import VIT_B16
from smope_bench.methods.common.schedules import Schedule
from smope_bench.methods.common.vit.vit import PromptedViT
from smope_bench.methods.smope import SMoPE, SMoPEConfig
from tests.methods.task_data import Data, enter  # pyright: ignore[reportMissingImports]


def make(vit: PromptedViT, **config: Any) -> SMoPE:
    torch.manual_seed(0)
    values = {"tap": {"epochs": 1, "samples": 4}, "experts": 6, "top_k": 2} | config
    return SMoPE(SMoPEConfig(**values), vit, Setup(6, 3, Schedule(batch_size=4, epochs=4)))


def batch(first: int, size: int = 4, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(torch.rand(size, 3, 16, 16, generator=generator), first + torch.arange(size) % 2)


def sparse(method: SMoPE) -> SMoPE:
    method.begin_phase(Phase("sparse", 4))
    return method


def test_latch_example_of_the_card(micro_vit: PromptedViT) -> None:
    method = make(micro_vit, experts=5, top_k=2)
    paper = make(micro_vit, experts=5, top_k=2, freq_mean="all", freq_latch=False)
    after = [[0, 6, 4, 8, 0], [9, 7, 4, 9, 7]]
    expected = {method: [[1, 3], [0, 1, 3]], paper: [[1, 2, 3], [0, 3]]}
    for one, marked in expected.items():
        for task, counts in enumerate(after):
            one.counts.copy_(torch.tensor(counts).expand_as(one.counts))
            enter(one, task + 1)
            assert one.important[0, 0].nonzero().flatten().tolist() == marked[task]
            assert (one.important == one.important[0, 0]).all()


def test_phases_start_dense_only_in_the_first_task(micro_vit: PromptedViT) -> None:
    method = make(micro_vit)
    enter(method, 0)
    assert method.phases() == [Phase("dense", 2), Phase("sparse", 4)]
    enter(method, 1)
    assert method.phases() == [Phase("sparse", 4)]
    always_dense = make(micro_vit, top_k=0, alpha_proto=0.0)
    enter(always_dense, 0)
    assert always_dense.phases() == [Phase("dense start", 2), Phase("dense", 4)], (
        "as the official code, whatever top_k is"
    )
    for phase in always_dense.phases():
        always_dense.begin_phase(phase)
        assert always_dense.dense
    enter(always_dense, 1)
    assert always_dense.phases() == [Phase("dense", 4)]
    straight = make(micro_vit, dense_start=False)
    enter(straight, 0)
    assert straight.phases() == [Phase("sparse", 4)]


def test_initialisation_is_positive_and_packed(micro_vit: PromptedViT) -> None:
    method = make(micro_vit, experts=25, top_k=5)
    assert method.prefix_keys.shape == (6, 2, 25, 12) == method.prefix_values.shape
    for prefix in (method.prefix_keys, method.prefix_values):
        assert prefix.min() >= 0 and prefix.max() < 1
        assert prefix.mean().item() == pytest.approx(0.5, abs=0.02)
    assert len(list(method.parameters())) == 4
    assert method.head.weight.abs().max() <= 24**-0.5


def test_prompts_learn_five_times_faster(micro_vit: PromptedViT) -> None:
    groups = {group.name: group.lr_multiplier for group in make(micro_vit).parameter_groups()}
    assert groups == {"prompts": 5.0, "head": 1.0}


def test_loss_is_cross_entropy_plus_weighted_parts(micro_vit: PromptedViT) -> None:
    losses = {}
    for name, weights in {"ce": (0, 0), "router": (0.01, 0), "proto": (0, 0.01), "both": (0.01, 0.01)}.items():
        method = make(micro_vit, alpha_router=weights[0], alpha_proto=weights[1])
        enter(method, 0)
        method.counts[..., :3] = torch.tensor([5, 1, 3])
        enter(method, 1)
        losses[name] = sparse(method).training_step(batch(2)).item()
    assert losses["router"] > losses["ce"] and losses["proto"] > losses["ce"]
    assert losses["both"] - losses["ce"] == pytest.approx(
        losses["router"] + losses["proto"] - 2 * losses["ce"], rel=1e-4
    )


def test_dense_phase_is_cross_entropy_alone_and_reaches_every_expert(micro_vit: PromptedViT) -> None:
    method = make(micro_vit, alpha_router=10.0)
    enter(method, 0)
    method.begin_phase(Phase("dense", 2))
    loss = method.training_step(batch(0))
    loss.backward()
    assert loss.item() < 5
    assert method.prefix_values.grad is not None and (method.prefix_values.grad != 0).any(dim=-1).all()


def test_old_rows_of_the_classifier_stay(micro_vit: PromptedViT) -> None:
    method = make(micro_vit)
    enter(method, 0)
    enter(method, 1)
    sparse(method).training_step(batch(2)).backward()
    gradient = method.head.weight.grad
    assert gradient is not None
    rows = gradient.abs().sum(dim=1) > 0
    assert rows.tolist() == [False, False, True, True, False, False]


@pytest.mark.parametrize("noise", ["adaptive", "fixed"])
def test_handicap_turns_training_away_from_important_experts(micro_vit: PromptedViT, noise: str) -> None:
    method = make(micro_vit, epsilon=10.0, noise=noise, alpha_proto=0.0, alpha_router=0.0)
    enter(method, 0)
    method.counts[..., :3] = 9
    enter(method, 1)
    sparse(method).training_step(batch(2)).backward()
    assert method.prefix_values.grad is not None
    used = (method.prefix_values.grad != 0).any(dim=-1)
    assert not used[..., :3].any() and used[..., 3:].any()


def test_adaptive_noise_draws_nothing_and_uniform_noise_does(micro_vit: PromptedViT) -> None:
    for noise, moves in {"adaptive": False, "fixed": False, "uniform": True}.items():
        method = make(micro_vit, noise=noise)
        enter(method, 0)
        before = torch.get_rng_state()
        sparse(method).training_step(batch(0))
        assert bool((torch.get_rng_state() != before).any()) is moves


@pytest.mark.parametrize("noise", ["fixed", "uniform"])
def test_noise_of_the_paper_is_on_scores_divided_by_the_root_of_the_width(micro_vit: PromptedViT, noise: str) -> None:
    drawn = {}
    for scale in ("code", "paper"):
        method = make(micro_vit, noise=noise, noise_scale=scale, epsilon=0.5)
        enter(method, 0)
        method.important[..., :2] = True
        torch.manual_seed(1)
        found = [one.absolute for one in method._training_handicaps(batch(0))]
        drawn[scale] = torch.stack([one for one in found if one is not None])
    torch.testing.assert_close(drawn["paper"], drawn["code"] * micro_vit.head_dim**0.5)
    assert drawn["code"].abs().max() <= 0.5 < drawn["paper"].abs().max()


def test_the_default_scale_of_noise_is_not_part_of_a_runs_identity() -> None:
    assert "noise_scale" not in SMoPEConfig(noise="fixed").model_dump()
    assert SMoPEConfig(noise="fixed", noise_scale="paper").model_dump()["noise_scale"] == "paper"


def test_counting_adds_top_k_an_image_and_head(micro_vit: PromptedViT) -> None:
    method = make(micro_vit)
    enter(method, 0)
    data = Data([batch(0, seed=1), batch(0, seed=2)])
    method.end_task(data)
    assert [each[:2] for each in data.asked] == [(True, True), (False, False)]
    assert (method.counts.sum(dim=-1) == 2 * 8).all()
    enter(method, 1)
    method.end_task(Data([batch(2, seed=3)]))
    assert (method.counts.sum(dim=-1) == 2 * 12).all()


def test_counting_is_on_raw_scores(micro_vit: PromptedViT) -> None:
    """The first block's counts equal the top K of unhandicapped scores, though its experts were unused before."""
    method = make(micro_vit)
    enter(method, 0)
    method.counts[:, :, 5] = 1
    before = method.counts.clone()
    method._count_use(Data([batch(0)]))
    raw: list[Tensor] = []

    def spy(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        raw.append(torch.einsum("bhe,hpe->bhp", q.mean(dim=2), method.prefix_keys[0]))
        return v

    micro_vit.run_prompted(batch(0).images, {0: spy})
    expected = torch.zeros(2, 6, dtype=torch.long)
    for image in raw[0]:
        for head in range(2):
            expected[head, image[head].topk(2).indices] += 1
    assert torch.equal((method.counts - before)[0], expected)


@pytest.mark.parametrize(("mode", "at_test"), [("stats_only", False), ("never", False), ("always", True)])
def test_unused_experts_are_masked_where_the_card_says(micro_vit: PromptedViT, mode: str, at_test: bool) -> None:
    method = make(micro_vit, mask_unused=mode, top_k=2)
    enter(method, 0)
    images = batch(0)
    untouched = method.predict(images)
    scores_first = method.prefix_keys.detach().sum(dim=-1).argsort(dim=-1)
    method.counts.scatter_(-1, scores_first[..., :2], 1)  # only the two weakest were ever used
    assert bool((method.predict(images) - untouched).abs().max() > 1e-5) is at_test


def test_old_keys_are_those_at_the_end_of_the_task_before(micro_vit: PromptedViT) -> None:
    method = make(micro_vit)
    enter(method, 0)
    assert (method.old_keys == 0).all()
    method.prefix_keys.data.fill_(0.25)
    enter(method, 1)
    assert (method.old_keys == 0.25).all()
    method.prefix_keys.data.fill_(0.75)
    assert (method.old_keys == 0.25).all()


def test_checkpoint_carries_counts_latch_old_keys_and_progress(micro_vit: PromptedViT) -> None:
    method = make(micro_vit)
    enter(method, 0)
    method.end_task(Data([batch(0)]))
    enter(method, 1)
    other = make(micro_vit)
    other.load_state_dict(method.state_dict())
    for name in ("counts", "important", "old_keys"):
        assert torch.equal(getattr(other, name), getattr(method, name))
    assert (other.seen_classes, other.old_classes, other.task_index) == (4, 2, 1)
    torch.testing.assert_close(other.predict(batch(0)), method.predict(batch(0)), atol=0, rtol=0)


def test_model_space_prefix_is_projected_by_the_frozen_weights(micro_vit: PromptedViT) -> None:
    method = make(micro_vit, prefix_space="model")
    assert method.prefix_keys.shape == (6, 6, 24)
    keys, values = method._experts()
    assert keys.shape == values.shape == (6, 2, 6, 12)
    weight = micro_vit.attentions[3].qkv.weight
    by_hand = method.prefix_keys[3] @ weight[24:48].T
    torch.testing.assert_close(keys[3].transpose(0, 1).flatten(1), by_hand)
    enter(method, 0)
    sparse(method).training_step(batch(0)).backward()
    assert method.prefix_keys.grad is not None and method.prefix_keys.grad.abs().sum() > 0


def test_reduction_switch_divides_by_the_heads(micro_vit: PromptedViT) -> None:
    values = []
    for reduce in ("sum", "mean_heads"):
        method = make(micro_vit, aux_reduce=reduce)
        enter(method, 0)
        method.counts[..., 0] = 1
        enter(method, 1)
        values.append(method._prototype_loss(method.prefix_keys * 1.5).item())
    assert values[0] == pytest.approx(values[1] * 12, rel=1e-5)


def test_paper_variant_flips_the_losses_together() -> None:
    paper = SMoPEConfig(variant="paper_losses")
    assert (paper.router_form, paper.router_scale, paper.router_margin) == ("prob", "sqrt_d", "none")
    assert (paper.proto_form, paper.proto_target, paper.proto_reduce) == ("prob", "current", "sum")
    assert (paper.freq_mean, paper.freq_latch, paper.tap.cov) == ("all", False, "full")
    single = SMoPEConfig(variant="paper_losses", router_form="logprob", tap={"epochs": 3})  # type: ignore[arg-type]
    assert (single.router_form, single.tap.cov, single.tap.epochs) == ("logprob", "full", 3)
    assert SMoPEConfig(**paper.model_dump()) == paper


@pytest.mark.parametrize(
    ("config", "says"),
    [({"top_k": 0}, "alpha_proto=0"), ({"top_k": 30}, "more than the 25 experts"), ({"epsilon": -1}, "greater than")],
)
def test_impossible_settings_are_refused(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        SMoPEConfig(**config)


@pytest.mark.parametrize(("classes", "parameters"), [(200, 384_200), (100, 307_300)])
def test_cost_is_the_published_one_and_that_of_the_code(classes: int, parameters: int) -> None:
    geometry = Geometry(dim=768, num_heads=12, depth=12, tokens=197, num_classes=classes, num_tasks=10)
    published = SMoPE.published_cost(geometry)
    assert published.parameters == parameters
    assert (published.train_passes, published.test_passes) == (1, 1)
    assert (published.extra_train_flops, published.extra_test_flops) == (0, 0)
    with torch.device("meta"):
        vit = PromptedViT(VisionTransformer(**VIT_B16))
        method = SMoPE(SMoPEConfig(), vit, Setup(classes, 10, Schedule()))
    assert learnable_count(method.parameter_groups()) == parameters
