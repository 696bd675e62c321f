"""OVOR against the numbers of its card (section 11), and its behaviour over stages and tasks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from smope_bench.harness.training.optimization import OptimizationSegment, declare_trainable, segment_epochs
from smope_bench.methods.common.alignment.outliers import (
    OutlierConfig,
    energy_loss,
    largest,
    neighbour_distance,
    synthesize,
)
from smope_bench.methods.common.api import Batch, Geometry, Setup, TaskInfo, learnable_count
from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.prefix import PlainPrefix
from smope_bench.methods.common.schedules import Schedule, learning_rate
from smope_bench.methods.common.vit.vit import PromptedViT
from smope_bench.methods.ovor import OVOR, OutlierBatch, OVORConfig
from tests.methods.task_data import Data  # pyright: ignore[reportMissingImports]
from tests.tolerance import printed_tolerance  # pyright: ignore[reportMissingImports]


def make(vit: PromptedViT, epochs: int = 5, batch_size: int = 4, **config: Any) -> OVOR:
    torch.manual_seed(0)
    schedule = Schedule(batch_size=batch_size, epochs=epochs, lr=1e-3, shape="cosine", drop_last=False)
    return OVOR(OVORConfig(**config), vit, Setup(6, 3, schedule))


def enter(method: OVOR, index: int, per_task: int = 2) -> None:
    method.enter_task(TaskInfo(index, range(per_task * index, per_task * (index + 1)), (6,) * per_task))


def images_of(first: int, count: int = 12) -> Data:
    images, labels = torch.rand(count, 3, 16, 16), first + torch.arange(count) % 2
    return Data([Batch(x, y) for x, y in zip(images.split(4), labels.split(4), strict=True)])


def train(method: OVOR, data: Data) -> dict[str, list[dict[str, Tensor]]]:
    """All phases of a task as the engine runs them; the state after every epoch, by phase."""
    phases, stretch, states = method.phases(), None, {}
    for number, phase in enumerate(phases):
        method.begin_phase(phase)
        groups = method.parameter_groups()
        declare_trainable(method, groups)
        if stretch is None or not phase.continues:
            stretch = OptimizationSegment(method.setup.schedule, groups, segment_epochs(phases, number))
        for _ in range(phase.epochs):
            for batch in method.epoch_batches(data):
                stretch.set_rate(len(data.content))
                stretch.descend(method.training_step(batch), method)
            state = {name: p.detach().clone() for name, p in method.named_parameters()}
            states.setdefault(phase.name, []).append(state)
    return states


ENERGY = printed_tolerance(16.0)
"""Tolerance of losses made of energies up to 16."""


# -- the card's numbers ------------------------------------------------------------------------------------------------


def test_regulariser_of_the_card() -> None:
    real = torch.tensor([[12.0, 3], [15, 1], [14.5, 14]])
    outliers = torch.tensor([[2.0, 2], [4, 1]])
    exact = {"abs": ENERGY, "rel": 0}
    assert (-real.logsumexp(1)).tolist() == pytest.approx([-12.000123, -15.000001, -14.974077], **exact)
    assert (-outliers.logsumexp(1)).tolist() == pytest.approx([-2.693147, -4.048587], **exact)
    config, far = OutlierConfig(), torch.tensor([[-99.0, -99]])
    inside, outside = energy_loss(real, far, config), energy_loss(torch.tensor([[99.0, 99]]), outliers, config)
    assert [inside.item(), outside.item()] == pytest.approx([0.833404, 0.274294], **exact)
    both = config.weight * energy_loss(real, outliers, config)
    cross_entropy = F.cross_entropy(real, torch.tensor([0, 0, 1]))
    found = [both.item(), cross_entropy.item(), (both + cross_entropy).item()]
    assert found == pytest.approx([0.110770, 0.324734, 0.435504], **exact)
    squared = config.weight * energy_loss(real, outliers, OutlierConfig(hinge="squared"))
    assert squared.item() == pytest.approx(0.354974, **exact)


def test_stage_two_loss_of_the_card(micro_vit: PromptedViT) -> None:
    """The same numbers through the method: a head that hands its inputs on, in the second task."""
    method = make(micro_vit)
    enter(method, 1)
    with torch.no_grad():
        method.head.weight.zero_()
        method.head.bias.zero_()
        method.head.weight[2:4, :2] = torch.eye(2)
    wide = lambda rows: F.pad(torch.tensor(rows), (0, 22))  # noqa: E731
    batch = OutlierBatch(
        torch.empty(0),
        torch.tensor([2, 2, 3]),
        wide([[12.0, 3], [15, 1], [14.5, 14]]),
        outliers=wide([[2.0, 2], [4, 1]]),
    )
    assert method.training_step(batch).item() == pytest.approx(0.435504, abs=ENERGY, rel=0)


def test_selection_of_the_card() -> None:
    features = torch.tensor([[2.0, 0], [0, 1], [1, 0.5], [-3, 1]])
    draws = torch.tensor([[1.0, 0], [0, -2]])
    config = OutlierConfig(neighbours=2, boundary=2, draws=2, per_class=3)
    index = F.normalize(features, dim=1)
    distances, tolerance = neighbour_distance(index, index, 2), printed_tolerance(2.0)
    assert distances.tolist() == pytest.approx([0.211146, 1.105573, 0.211146, 1.367544], abs=tolerance)
    assert largest(distances, 2).tolist() == [3, 1]
    assert neighbour_distance(0.1 * draws, index, 2).tolist() == pytest.approx([0.831115, 1.166491], abs=tolerance)
    released = synthesize(features, 1, draws, config)
    torch.testing.assert_close(released, torch.tensor([[0, -0.2], [0, -0.2], [0.1, 0]]))
    around = torch.tensor([[-2.9, 1], [-3, 0.8], [0.1, 1], [0, 0.8]])
    scores = neighbour_distance(around, index, 2)
    assert scores.tolist() == pytest.approx([8.41, 9.04, 0.936687, 0.924458], abs=1e-5)
    boundary = synthesize(features, 1, draws, config.model_copy(update={"centre": "boundary"}))
    torch.testing.assert_close(boundary, torch.tensor([[-3, 0.8], [-2.9, 1], [0.1, 1]]))


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (5, {0: 1e-3, 1: 1e-3, 2: 9.253752e-4, 3: 7.126385e-4, 4: 3.935408e-4}),
        (20, {2: 9.966524e-4, 10: 7.407429e-4, 16: 3.364033e-4, 19: 9.740006e-5}),
        (50, {0: 1e-3, 1: 1e-3, 2: 9.994964e-4, 25: 7.236804e-4, 40: 3.269486e-4, 49: 4.742666e-5}),
    ],
)
def test_schedule_of_the_card(epochs: int, expected: dict[int, float]) -> None:
    schedule = Schedule(lr=1e-3, shape="cosine")
    for epoch, rate in expected.items():
        found = learning_rate(schedule, 1e-3, step=7 * epoch + 3, loader_steps=7, epochs=epochs)
        assert found == pytest.approx(rate, rel=5e-7)


@pytest.mark.parametrize(
    ("images", "classes", "count", "kept", "size"),
    [(5000, 10, 40, 400, 10), (2400, 20, 19, 800, 42), (4800, 40, 38, 1600, 42), (1200, 10, 10, 400, 40), (600, 20, 5, 800, 160)],
)  # fmt: skip
def test_stage_two_batches_of_the_card(
    micro_vit: PromptedViT, monkeypatch: pytest.MonkeyPatch, images: int, classes: int, count: int, kept: int, size: int
) -> None:
    schedule = Schedule(batch_size=128, epochs=5, drop_last=False)
    method = OVOR(OVORConfig(), micro_vit, Setup(classes, 1, schedule))
    enter(method, 0, classes)
    features, labels = torch.randn(images, 4), torch.arange(images) % classes
    monkeypatch.setattr(method, "_training_features", lambda data: (features, labels))
    method.begin_phase(method.phases()[-1])
    batches = list(method.epoch_batches(Data([])))
    assert len(batches) == count == math.ceil(images / 128)
    assert all(isinstance(batch, OutlierBatch) and len(batch.outliers) == size for batch in batches)
    assert len(synthesize(features, classes, torch.randn(600, 4), OutlierConfig())) == kept
    seen = torch.cat([batch.features for batch in batches])
    assert torch.equal(seen.sort(dim=0).values, features.sort(dim=0).values)
    assert sum(len(batch.outliers) for batch in batches if isinstance(batch, OutlierBatch)) == count * size <= kept


@pytest.mark.parametrize(("classes", "distinct"), [(10, 8), (20, 16), (40, 32), (7, 6)])
def test_released_choice_is_that_of_thirty_thousand_candidates(classes: int, distinct: int) -> None:
    """Scoring every draw once gives what the released code takes from the draws repeated fifty times."""
    generator = torch.Generator().manual_seed(1)
    features, draws = torch.randn(200, 12, generator=generator), torch.randn(600, 12, generator=generator)
    found = synthesize(features, classes, draws, OutlierConfig())
    candidates = (0.1 * draws).repeat(50, 1)
    scores = neighbour_distance(candidates, F.normalize(features, dim=1), 50)
    expected = candidates[scores.topk(40 * classes).indices]
    assert torch.equal(found, expected)
    assert len(found.unique(dim=0)) == distinct


# -- behaviour ---------------------------------------------------------------------------------------------------------


def test_cost_is_table_three() -> None:
    with torch.device("meta"):
        vit = PromptedViT(VisionTransformer(num_classes=0))
        method = OVOR(OVORConfig(), vit, Setup(200, 10, Schedule()))
    geometry = Geometry(dim=768, num_heads=12, depth=12, tokens=197, num_classes=200, num_tasks=10)
    cost = OVOR.published_cost(geometry)
    assert learnable_count(method.parameter_groups()) == cost.parameters == 261_320
    assert f"{cost.parameters / 1e6:.2f}" == "0.26"
    assert (cost.train_passes, cost.test_passes) == (1, 1)


def test_prompt_lengths_by_block(micro_vit: PromptedViT) -> None:
    method = make(micro_vit)
    lengths = {}
    for block, rows in zip(range(5), [*method.general, *method.expert], strict=True):
        rule = method._rule(rows)
        assert isinstance(rule, PlainPrefix)
        lengths[block] = (rule.keys.shape[1], rule.values.shape[1])
        torch.testing.assert_close(rule.keys[1, 0], rows[0, 12:])
        torch.testing.assert_close(rule.values[0, 0], rows[len(rows) // 2, :12])
    assert lengths == {0: (5, 5), 1: (5, 5), 2: (20, 20), 3: (20, 20), 4: (20, 20)}


@pytest.mark.parametrize(
    ("epochs", "share", "last"), [(20, 0.2, 4), (50, 0.2, 10), (2, 0.2, 1), (1, 0.2, 0), (2, 0.9, 1), (20, 0, 0)]
)
def test_share_of_the_epochs(micro_vit: PromptedViT, epochs: int, share: float, last: int) -> None:  # fmt: skip
    method = make(micro_vit, epochs, outlier_share=share)
    enter(method, 0)
    found = [(phase.name, phase.epochs, phase.continues) for phase in method.phases()]
    expected = [("prompts", epochs - last, False), ("outliers", last, True)]
    assert found == expected[: 2 if last else 1]


def test_warm_up_from_the_second_task(micro_vit: PromptedViT) -> None:
    method = make(micro_vit, 2, warmup_epochs=1, outlier_share=0)
    enter(method, 0)
    assert [phase.name for phase in method.phases()] == ["prompts"]
    enter(method, 1)
    assert [phase.name for phase in method.phases()] == ["warm-up", "prompts"]
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    states = train(method, images_of(2))
    assert torch.equal(states["warm-up"][0]["general"], before["general"])
    assert not torch.equal(states["warm-up"][0]["head.weight"], before["head.weight"])
    assert not torch.equal(states["prompts"][-1]["general"], before["general"])


def test_stages_and_tasks_move_only_what_they_should(micro_vit: PromptedViT) -> None:
    method = make(micro_vit, 3)
    previous: dict[str, Tensor] = {}
    for index in range(2):
        enter(method, index)
        states = train(method, images_of(2 * index))
        last, final = states["prompts"][-1], states["outliers"][-1]
        assert torch.equal(last["general"], final["general"]) and torch.equal(last["expert"], final["expert"])
        assert not torch.equal(last["head.weight"][2 * index], final["head.weight"][2 * index])
        if previous:
            assert not torch.equal(previous["general"], final["general"])
            assert torch.equal(previous["head.weight"][:2], final["head.weight"][:2])
            assert torch.equal(previous["head.bias"][4:], final["head.bias"][4:])
        previous = final


def test_outliers_are_made_anew_every_epoch(micro_vit: PromptedViT) -> None:
    method = make(micro_vit, 5, outlier_share=0.4)
    enter(method, 0)
    data = images_of(0)
    method.begin_phase(method.phases()[-1])
    first, second = ([b for b in method.epoch_batches(data) if isinstance(b, OutlierBatch)] for _ in range(2))
    assert data.augmented == [True, True], "outliers are made from augmented images"
    assert len(first) == len(second) == 3
    assert not torch.equal(first[0].outliers, second[0].outliers)
    assert not any(batch.features.requires_grad for batch in first)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("centre", ["origin", "boundary"])
def test_fewer_images_than_neighbours(images: int, centre: str) -> None:
    config = OutlierConfig.model_validate({"centre": centre})
    found = synthesize(torch.randn(images, 6), 2, torch.randn(600, 6), config)
    assert found.shape == (80, 6) and found.isfinite().all()


def test_fewer_outliers_than_batches_are_used_again(micro_vit: PromptedViT, monkeypatch: pytest.MonkeyPatch) -> None:
    method = make(micro_vit, batch_size=1, outliers={"per_class": 1})
    enter(method, 0)
    monkeypatch.setattr(method, "_training_features", lambda data: (torch.randn(9, 24), torch.arange(9) % 2))
    method.begin_phase(method.phases()[-1])
    assert [len(batch.outliers) for batch in method.epoch_batches(Data([])) if isinstance(batch, OutlierBatch)] == [
        1
    ] * 9


@pytest.mark.parametrize("drop_last", [True, False])
def test_an_epoch_of_outliers_is_as_long_as_one_of_images(
    micro_vit: PromptedViT, monkeypatch: pytest.MonkeyPatch, drop_last: bool
) -> None:
    method = OVOR(OVORConfig(), micro_vit, Setup(6, 3, Schedule(batch_size=4, epochs=2, drop_last=drop_last)))
    enter(method, 0)
    for images, expected in [(10, 2 if drop_last else 3), (8, 2), (3, 1)]:
        labels = torch.arange(images) % 2
        monkeypatch.setattr(method, "_training_features", lambda data, y=labels: (torch.randn(len(y), 24), y))
        method.begin_phase(method.phases()[-1])
        assert len(list(method.epoch_batches(Data([])))) == expected


def test_impossible_settings_are_refused(micro_vit: PromptedViT, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="multiple of 2"):
        OVORConfig(general_rows=5)
    with pytest.raises(ValidationError, match="less than 1"):
        OVORConfig(outlier_share=1)
    monkeypatch.setattr(micro_vit, "blocks", micro_vit.blocks[:4])
    with pytest.raises(MethodError, match="first 5 blocks"):
        make(micro_vit)
