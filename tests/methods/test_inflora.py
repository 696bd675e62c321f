"""InfLoRA against the numbers of its card (section 11), and what may change in its tasks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from smope_bench.harness.training.optimization import OptimizationSegment, declare_trainable
from smope_bench.methods.common.api import Batch, Setup, learnable_count
from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.schedules import Schedule, learning_rate
from smope_bench.methods.common.vit.block import Layout, run_block
from smope_bench.methods.common.vit.block_adaptation import BlockAdaptation, LowRank
from smope_bench.methods.common.vit.merging import merged_layers
from smope_bench.methods.common.vit.vit import PromptedViT
from smope_bench.methods.inflora import InfLoRA, InfLoRAConfig, designed, protect, share_to_protect
from tests.methods.task_data import Data, enter  # pyright: ignore[reportMissingImports]

TASKS, WIDTH, LR = 3, 24, 1e-2
TOKENS = torch.tensor([[1.0, 0], [0, 2], [1, 1]])
NOTHING = InfLoRAConfig()


def make(vit: PromptedViT, **config: Any) -> InfLoRA:
    torch.manual_seed(0)
    schedule = Schedule(batch_size=4, epochs=2, lr=LR, shape="cosine", optimizer="adam", drop_last=False)
    return InfLoRA(InfLoRAConfig.model_validate({"rank": 3} | config), vit, Setup(2 * TASKS, TASKS, schedule))


def data_of(index: int) -> Data:
    images, labels = torch.rand(12, 3, 16, 16), 2 * index + torch.arange(12) % 2
    return Data([Batch(x, y) for x, y in zip(images.split(4), labels.split(4), strict=True)])


def step(method: InfLoRA, data: Data, steps: int | None = None) -> None:
    groups = method.parameter_groups()
    declare_trainable(method, groups)
    segment = OptimizationSegment(method.setup.schedule, groups, 2)
    for batch in data.content[:steps]:
        segment.set_rate(len(data.content))
        segment.descend(method.training_step(batch), method)


def train(method: InfLoRA, index: int) -> Data:
    data = data_of(index)
    enter(method, index, 6)
    method.prepare_task(data)
    step(method, data)
    method.end_task(data)
    return data


# -- the card's numbers ------------------------------------------------------------------------------------------------

THIRD = 3**-0.5
BRANCHES: list[dict[Any, LowRank]] = [
    {target: LowRank(torch.tensor([down]), torch.tensor([up]).T) for target, up in zip(("k", "v"), ups, strict=True)}
    for down, ups in [
        ([THIRD, 0.0], ([1.0, 2], [0.0, 1])),
        ([0.0, THIRD], ([-1.0, 1], [2.0, 0])),
    ]
]
ATTENDED = [
    [[0.8022242, 0.7966637], [0.2320821, 1.7225295], [0.5988879, 1.2033362]],
    [[0.8591807, 1.2072771], [0.6074012, 1.6244924], [0.8355631, 1.3709145]],
    [[1.5290213, 1.0586069], [2.2084246, 1.8032703], [1.8615167, 1.3709145]],
]


def plain_block() -> Any:
    """A block of width 2 with identity projections, without norms and MLP."""
    block: Any = Block(2, 1, mlp_ratio=1, qkv_bias=False)
    with torch.no_grad():
        block.attn.qkv.weight.copy_(torch.eye(2).repeat(3, 1))
        block.attn.proj.weight.copy_(torch.eye(2))
        for tensor in (block.attn.proj.bias, block.mlp.fc2.weight, block.mlp.fc2.bias):
            tensor.zero_()
    block.norm1 = nn.Identity()
    return block.requires_grad_(False)


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("is_merged", [False, True])
def test_attention_of_the_card(count: int, is_merged: bool) -> None:
    block, low_rank = plain_block(), dict[Any, LowRank]()
    for target in ("k", "v") if count else ():
        low_rank[target] = LowRank.joined(*(branch[target] for branch in BRANCHES[:count]))
    changed = BlockAdaptation(low_rank=low_rank)
    if is_merged:
        changed = BlockAdaptation(weights=merged_layers(block, block, low_rank))
    found = run_block(block, TOKENS[None], None, changed, Layout(1))[0] - TOKENS
    torch.testing.assert_close(found, torch.tensor(ATTENDED[count]), atol=1e-6, rtol=0)


def test_merged_deltas_of_the_card() -> None:
    sums = {target: LowRank.joined(*(branch[target] for branch in BRANCHES)) for target in ("k", "v")}
    keys, values = (one.up @ one.down for one in sums.values())
    torch.testing.assert_close(keys, torch.tensor([[1.0, -1], [2, 1]]) * THIRD)
    torch.testing.assert_close(values, torch.tensor([[0.0, 2], [1, 0]]) * THIRD)


def test_more_ranks_than_dimensions_are_joined_as_the_sum() -> None:
    pieces = [LowRank(torch.randn(2, 3), torch.randn(4, 2)) for _ in range(3)]
    for some in (pieces, [LowRank(one.up.T, one.down.T) for one in pieces]):
        joined, whole = LowRank.joined(*some), torch.stack([one.up @ one.down for one in some]).sum(dim=0)
        torch.testing.assert_close(joined.up @ joined.down, whole)
        assert len(joined.down) == 3


def test_second_moments_of_the_card(micro_vit: PromptedViT, monkeypatch: pytest.MonkeyPatch) -> None:
    method = make(micro_vit, blocks=1)
    monkeypatch.setattr(method, "protected", torch.zeros(1, 2, 2))
    shown = [TOKENS[None]]

    def run(images: Tensor, adaptations: dict[int, BlockAdaptation]) -> None:
        read = adaptations[0].reads
        assert read is not None
        read(images)

    monkeypatch.setattr(micro_vit, "run_prompted", run)
    moments = method._moments(Data([Batch(rows) for rows in shown]))[0]
    torch.testing.assert_close(moments, torch.tensor([[2 / 3, 1 / 3], [1 / 3, 5 / 3]]).double())
    shown.append(torch.tensor([[[2.0, 0]], [[0, 0]]]))
    moments = method._moments(Data([Batch(rows) for rows in shown]))[0]
    torch.testing.assert_close(moments, torch.tensor([[1.2, 0.2], [0.2, 1.0]]).double())


def spaces(*diagonal: float) -> Tensor:
    return torch.diag(torch.tensor(diagonal, dtype=torch.double))


def test_designs_of_the_card() -> None:
    one, none = InfLoRAConfig(rank=1), torch.zeros(3, 3, dtype=torch.double)
    moments = torch.tensor([[4.0, 2, 0], [2, 2, 0], [0, 0, 2.5]]).double()
    found = designed(moments, spaces(1, 0, 0), one)
    torch.testing.assert_close(found.T @ found, spaces(0, 1 / 3, 0))
    by_inputs = designed(moments, spaces(1, 0, 0), InfLoRAConfig(rank=1, design="inputs"))
    torch.testing.assert_close(by_inputs.T @ by_inputs, spaces(0, 0, 1 / 3))
    whole = designed(torch.tensor([[3.0, 1, 0], [1, 3, 0], [0, 0, 1]]).double(), none, InfLoRAConfig(rank=2))
    torch.testing.assert_close(whole.T @ whole, spaces(1 / 3, 1 / 3, 0))
    torch.testing.assert_close(whole[0] / whole[0, 0], torch.tensor([1.0, 1, 0]).double())


@pytest.mark.parametrize(("fill", "norm"), [("arbitrary", THIRD), ("zero", 0.0)])
def test_missing_rank(fill: str, norm: float) -> None:
    """Only the fourth direction is free: the second row is arbitrary, as in the official code, or zero."""
    config = InfLoRAConfig.model_validate({"rank": 2, "fill_missing_rank": fill})
    found = designed(spaces(3, 1, 1, 0.5), spaces(1, 1, 1, 0), config)
    torch.testing.assert_close(found[0].abs(), torch.tensor([0, 0, 0, THIRD]).double())
    assert float(found[1].norm()) == pytest.approx(norm, abs=1e-7)


def test_protected_space_of_the_card() -> None:
    diagonals = [[4, 2, 1, 0.5, 0.25, 0.125], [0.1, 0.1, 3, 2, 0.1, 0.1], [1, 1, 1, 1, 2, 0.1], [3, 1, 1, 1, 0.1, 0.1]]
    expected = [[1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 0]]
    space = torch.zeros(6, 6, dtype=torch.double)
    for task, (diagonal, kept) in enumerate(zip(diagonals, expected, strict=True)):
        space = protect(spaces(*diagonal), space, task, 10, NOTHING)
        torch.testing.assert_close(space, spaces(*kept))
    none = torch.zeros_like(space)
    plain = protect(spaces(*diagonals[0]), none, 0, 10, InfLoRAConfig(energy="plain"))
    assert round(float(plain.trace())) == 3
    reached = protect(spaces(*diagonals[0]), none, 0, 10, InfLoRAConfig(first_count="reach"))
    assert round(float(reached.trace())) == 3


@pytest.mark.parametrize(("energy", "eps", "expected"), [("squared", 0.95, 11), ("plain", 0.95, 535)])
def test_first_counts_of_the_card(energy: str, eps: float, expected: int) -> None:
    """Directions of 768 that are protected where the moments fall as 1/i."""
    config = InfLoRAConfig.model_validate({"energy": energy, "threshold": eps})
    values = 1 / torch.arange(1, 769, dtype=torch.double)
    space = protect(values.diag(), torch.zeros(768, 768, dtype=torch.double), 0, 10, config)
    assert round(float(space.trace())) == expected


@pytest.mark.parametrize(
    ("eps", "tasks", "expected"),
    [(0.95, 10, {0: 0.95, 1: 0.955, 9: 0.995}), (0.98, 5, {0: 0.98, 1: 0.984, 2: 0.988, 3: 0.992, 4: 0.996})],
)
def test_thresholds_of_the_card(eps: float, tasks: int, expected: dict[int, float]) -> None:
    config = InfLoRAConfig(threshold=eps)
    assert {task: share_to_protect(config, task, tasks) for task in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (20, {0: 5e-4, 1: 5e-4, 2: 4.983262e-4, 10: 3.703714e-4, 18: 8.922034e-5, 19: 4.870003e-5}),
        (50, {2: 4.997482e-4, 25: 3.618402e-4, 48: 3.954912e-5, 49: 2.371333e-5}),
        (5, {0: 5e-4, 1: 5e-4, 2: 4.626876e-4, 3: 3.563193e-4, 4: 1.967704e-4}),
    ],
)
def test_rates_of_the_card(epochs: int, expected: dict[int, float]) -> None:
    schedule = Schedule(lr=5e-4, shape="cosine", optimizer="adam")
    for epoch, rate in expected.items():
        found = learning_rate(schedule, 5e-4, step=7 * epoch + 3, loader_steps=7, epochs=epochs)
        assert found == pytest.approx(rate, rel=5e-7)


@pytest.mark.parametrize(
    ("config", "classes", "expected"),
    [
        ({}, 10, 192_010),
        ({}, 20, 199_700),
        ({}, 40, 215_080),
        ({"blocks": 5}, 10, 84_490),
        ({"blocks": 5}, 20, 92_180),
        ({"rank": 30}, 69, 606_021),
    ],
)
def test_parameters_of_the_card(config: dict[str, Any], classes: int, expected: int) -> None:
    with torch.device("meta"):
        vit = PromptedViT(VisionTransformer(num_classes=0))
        method = InfLoRA(InfLoRAConfig(**config), vit, Setup(classes, 1, Schedule()))
    assert learnable_count(method.parameter_groups()) == expected


# -- tasks -------------------------------------------------------------------------------------------------------------


def test_reductions_lie_outside_the_protected_space(micro_vit: PromptedViT) -> None:
    """Conditions on R, and on U R for the spaces of all earlier tasks."""
    method, kept = make(micro_vit, threshold=0.6), list[Tensor]()
    for index in range(TASKS):
        train(method, index)
        for rows, up in zip(method.downs[index], method.ups[index], strict=True):
            projector = 3 * rows.T @ rows
            torch.testing.assert_close(projector @ projector, projector, atol=1e-5, rtol=0)
            assert float(projector.trace()) == pytest.approx(3, abs=1e-5)
            assert float(up.abs().max()) > 1e-3
        for space in kept:
            inside = torch.einsum("bcde,bef,bfg->bcdg", method.ups[index], method.downs[index], space)
            assert float(inside.abs().max()) < 1e-6
        kept.append(method.protected.clone())
        assert float(kept[-1].diagonal(dim1=1, dim2=2).sum(-1).min()) > 0.999


def test_a_task_begins_where_the_last_one_ended(micro_vit: PromptedViT) -> None:
    method = make(micro_vit)
    images = Batch(torch.rand(5, 3, 16, 16))
    enter(method, 0, 6)
    torch.testing.assert_close(method._adaptations()[0].low_rank["k"].up, torch.zeros(WIDTH, 3), atol=0, rtol=0)
    features = micro_vit(images.images, method._adaptations())
    torch.testing.assert_close(features, micro_vit.features(images.images), atol=1e-5, rtol=1e-5)
    before = method.predict(Batch(torch.cat([images.images, data_of(0).content[0].images])))
    torch.testing.assert_close(method.predict(images), before[:5], atol=1e-5, rtol=1e-5)
    train(method, 0)
    ended = method.predict(images)
    enter(method, 1, 6)
    method.prepare_task(data_of(1))
    torch.testing.assert_close(method.predict(images)[:, :2], ended, atol=1e-6, rtol=1e-6)


def test_merged_and_separate_branches_agree(micro_vit: PromptedViT) -> None:
    method = make(micro_vit)
    for index in range(TASKS):
        train(method, index)
    images = torch.rand(5, 3, 16, 16)
    merged = micro_vit(images, method._adaptations())
    beside = method._joined(method.downs, method.ups)
    separate = micro_vit(images, {block: BlockAdaptation(low_rank=each) for block, each in beside.items()})
    torch.testing.assert_close(merged, separate, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(merged, micro_vit.features(images), atol=1e-3)


def test_only_the_current_branch_and_head_move(micro_vit: PromptedViT) -> None:
    method = make(micro_vit)
    train(method, 0)
    enter(method, 1, 6)
    data = data_of(1)
    method.prepare_task(data)
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    step(method, data, 1)
    assert 0 < float(method.up.detach().abs().max()) <= LR * (1 + 1e-5)
    step(method, data)
    for name in ("downs", "ups", "protected"):
        assert torch.equal(getattr(method, name), before[name])
    for old in (slice(0, 2), slice(4, 6)):
        assert torch.equal(method.head.weight[old], before["head.weight"][old])
    assert not torch.equal(method.head.weight[2:4], before["head.weight"][2:4])


def test_basis_and_complement_give_the_same_space() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        space = torch.zeros(12, 12, dtype=torch.double)
        for task in range(6):
            inputs = torch.randn(40, 12, generator=generator, dtype=torch.double) @ torch.diag(
                torch.logspace(0, -2, 12, dtype=torch.double)[torch.randperm(12, generator=generator)]
            )
            moments = inputs.T @ inputs / 40
            free, share = torch.eye(12, dtype=torch.double) - space, share_to_protect(NOTHING, task, 6)
            space = protect(moments, space, task, 6, NOTHING)
            if task:  # the complement of the last space, shrunk
                directions, values, _ = torch.linalg.svd(free @ moments)
                shares = values.square() / torch.linalg.svdvals(moments).square().sum()
                left, dropped = shares.sum(), 0
                while dropped < 12 and left >= 1 - share:
                    left, dropped = left - shares[dropped], dropped + 1
                free = free - directions[:, :dropped] @ directions[:, :dropped].T
                torch.testing.assert_close(torch.eye(12, dtype=torch.double) - free, space, atol=1e-9, rtol=0)


@pytest.mark.parametrize("reduction", ["random", "current_only", "orthogonal_random"])
def test_other_reductions(micro_vit: PromptedViT, reduction: str) -> None:
    method = make(micro_vit, reduction=reduction, threshold=0.6)
    for index in range(2):
        train(method, index)
        enter(method, index + 1, 6)
        method.prepare_task(data_of(index + 1))
    inside = (method.downs[2] @ method.protected).abs().max()
    assert (float(inside) < 1e-6) == (reduction == "orthogonal_random")
    norms = method.downs[2].norm(dim=-1)
    if reduction == "random":
        assert float(method.downs.abs().max()) <= 1 / math.sqrt(WIDTH)
    else:
        torch.testing.assert_close(norms, torch.full_like(norms, THIRD), atol=1e-6, rtol=0)


def test_images_of_the_statistics(micro_vit: PromptedViT) -> None:
    for statistics, expected in (("augmented", [True, True]), ("test", [False, False])):
        assert train(make(micro_vit, statistics=statistics), 0).augmented == expected


def test_impossible_settings_are_refused(micro_vit: PromptedViT) -> None:
    with pytest.raises(MethodError, match="rank 25"):
        make(micro_vit, rank=25)
    with pytest.raises(MethodError, match=r"first 7 blocks.*inflora\.blocks=6"):
        make(micro_vit, blocks=7)
