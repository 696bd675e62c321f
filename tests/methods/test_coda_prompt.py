"""CODA-Prompt's assembly, penalty, slices and counts (card, sections 1 to 6 and 11)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from smope_bench.harness.metrics import average_accuracies, cumulative_average_accuracy, forgetting
from smope_bench.methods.coda_prompt import CODAPrompt, CODAPromptConfig, assemble, ortho_penalty, orthogonal_rows
from smope_bench.methods.common.api import Batch, Geometry, Setup, TaskInfo, learnable_count
from smope_bench.methods.common.backbone.backbones import VIT_B16
from smope_bench.methods.common.classifier import current_task_loss
from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.prefix import PlainPrefix
from smope_bench.methods.common.schedules import Schedule, adamw, quarter_cosine
from smope_bench.methods.common.vit.vit import PromptedViT
from tests.methods.task_data import enter  # pyright: ignore[reportMissingImports]
from tests.tolerance import printed_tolerance  # pyright: ignore[reportMissingImports]

TABLE_3 = Geometry(dim=768, num_heads=12, depth=12, tokens=197, num_classes=200, num_tasks=10)


def make(vit: PromptedViT, tasks: int = 3, **config: Any) -> CODAPrompt:
    torch.manual_seed(0)
    values: dict[str, Any] = {"components": 7, "length": 4, **config}
    return CODAPrompt(CODAPromptConfig(**values), vit, Setup(2 * tasks, tasks, Schedule(batch_size=4, epochs=2)))


def batch(vit: PromptedViT, first: int, size: int = 4) -> Batch:
    images = torch.rand(size, 3, 16, 16, generator=torch.Generator().manual_seed(first))
    return Batch(images, first + torch.arange(size) % 2, lambda: vit.features(images))


def train(method: CODAPrompt, task: int, steps: int = 2, lr: float = 0.05) -> Tensor:
    """Steps of the first batch of a task; the last loss."""
    optimizer = adamw([(group.parameters, lr) for group in method.parameter_groups()], method.setup.schedule)
    loss = torch.zeros(())
    for _ in range(steps):
        loss = method.training_step(batch(method.backbone, 2 * task))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.detach()


def overlaps(rows: Tensor) -> Tensor:
    """Largest entry of W W^T - I, by block."""
    unit = rows.flatten(2)
    return (unit @ unit.transpose(1, 2) - torch.eye(rows.shape[1])).abs().amax(dim=(1, 2))


# -- the card's own numbers (section 11) -------------------------------------------------------------------------------


CARD_KEYS = torch.tensor([[[1.0, 2, 2], [0, 3, 4]]])
CARD_ATTENTION = torch.tensor([[[1.0, 1, 1], [1, 0, -1]]])
CARD_COMPONENTS = torch.tensor([[[[1.0, 0, 0], [0, 1, 0]], [[0, 0, 2], [2, 0, 0]]]])


def test_card_a_assembly() -> None:
    query = torch.tensor([[1.0, 2, 2]])
    prompts = assemble(query, CARD_COMPONENTS, CARD_KEYS, CARD_ATTENTION)
    expected = torch.tensor([[1, 0, -1.431084], [-1.431084, 1, 0]])
    torch.testing.assert_close(prompts[0, 0], expected, atol=printed_tolerance(2.0), rtol=0)
    scaled = assemble(7 * query, CARD_COMPONENTS, CARD_KEYS, CARD_ATTENTION)
    torch.testing.assert_close(scaled, prompts)


def test_card_b_penalty() -> None:
    assert ortho_penalty(torch.tensor([[[1.0, 0], [1, 1]]])).item() == 0.75
    parts = [ortho_penalty(rows).item() for rows in (CARD_KEYS, CARD_ATTENTION, CARD_COMPONENTS.flatten(2))]
    assert parts == [258, 1.25, 12.5]
    assert 0.5 * sum(parts) == 135.875


def test_penalty_enters_the_loss_summed_over_blocks(micro_vit: PromptedViT) -> None:
    plain, penalised = make(micro_vit), make(micro_vit, ortho_weight=0.5)
    for method in (plain, penalised):
        torch.manual_seed(0)
        enter(method, 0)
        with torch.no_grad():
            method.keys.mul_(2)
    gap = penalised.training_step(batch(micro_vit, 0)) - plain.training_step(batch(micro_vit, 0))
    # rows of 2 visible unit vectors, doubled: W W^T = 4 I, so R = 9 * 2 / 4 in each of five blocks
    assert gap.item() == pytest.approx(0.5 * 5 * 4.5, rel=1e-4)


def test_card_c_gram_schmidt() -> None:
    earlier = torch.tensor([[[2.0, 0, 0, 0], [1, 1, 0, 0]]])
    new = orthogonal_rows(earlier, torch.tensor([[[3.0, 4, 5, 0], [1, 1, 1, 1]]]))
    expected = torch.tensor([[-0.571548, 0.081650, 0.816497, 0], [-0.548349, -0.017979, 0.494413, 0.674200]])
    tolerance = printed_tolerance(1.0, terms=32)
    torch.testing.assert_close(new[0], expected, atol=tolerance, rtol=0)
    dots = torch.tensor([-1.143095, -0.489898])
    torch.testing.assert_close(earlier[0] @ new[0, 0], dots, atol=2 * tolerance, rtol=0)


def test_card_c_only_the_first_slice_is_written_at_the_start(micro_vit: PromptedViT) -> None:
    method = make(micro_vit, tasks=2, components=4)
    enter(method, 0)
    for tensor in (method.components, method.keys, method.attention):
        norms = tensor.detach().flatten(2).norm(dim=-1)
        torch.testing.assert_close(norms, torch.tensor([1.0, 1, 0, 0]).expand_as(norms))


def test_card_d_gradient_reaches_the_current_slice_alone(micro_vit: PromptedViT) -> None:
    method = make(micro_vit, tasks=4, components=8, ortho_weight=0.1)
    enter(method, 0)
    enter(method, 1)
    method.training_step(batch(micro_vit, 2)).backward()
    for tensor in (method.components, method.keys, method.attention):
        assert tensor.grad is not None
        touched = tensor.grad.flatten(2).abs().sum(dim=-1) > 0
        assert (touched == torch.tensor([0, 0, 1, 1, 0, 0, 0, 0], dtype=torch.bool)).all()


def test_card_e_prefix_attention() -> None:
    tokens = torch.eye(2)[None, None]
    prefix = PlainPrefix(torch.tensor([[[[2.0, 2]]]]), torch.tensor([[[[10.0, -10]]]]))
    expected = torch.tensor([[6.043749, -5.619724], [5.899783, -5.475758]])
    torch.testing.assert_close(prefix(tokens, tokens, tokens)[0, 0], expected, atol=printed_tolerance(10.0), rtol=0)


@pytest.mark.parametrize("tasks", [5, 10, 20])
def test_card_f_counts(tasks: int) -> None:
    with torch.device("meta"):
        vit = PromptedViT(VisionTransformer(**VIT_B16))
        counts = [
            learnable_count(CODAPrompt(CODAPromptConfig(), vit, Setup(c, tasks, Schedule())).parameter_groups())
            for c in (200, 100)
        ]
    assert counts == [3_993_800, 3_916_900]


def test_published_cost_is_table_3() -> None:
    cost = CODAPrompt.published_cost(TABLE_3)
    assert (cost.parameters, cost.train_passes, cost.test_passes) == (3_993_800, 2, 2)
    backbone = 33_721_790_208
    flops = 2 * backbone + 307_200 + cost.extra_test_flops
    assert flops / 1e9 == pytest.approx(67.444617, abs=1e-6)
    assert f"{flops / 1e9:.2f}" == "67.44"


@pytest.mark.parametrize(
    ("epochs", "first", "last"),
    [
        (50, [1e-3, 1e-3, 9.994964e-4, 9.979863e-4], [1.106902e-4, 7.909824e-5, 4.742666e-5]),
        (20, [1e-3, 1e-3, 9.966524e-4, 9.866321e-4], [2.582866e-4, 1.784407e-4, 9.740006e-5]),
    ],
)
def test_card_5_schedule(epochs: int, first: list[float], last: list[float]) -> None:
    rates = [quarter_cosine(epoch, base=1e-3, epochs=epochs) for epoch in range(epochs)]
    assert rates[:4] == pytest.approx(first, rel=1e-6)
    assert rates[-3:] == pytest.approx(last, rel=1e-6)


def test_card_8_metrics() -> None:
    matrix = [[90.0, None, None], [80.0, 70.0, None], [60.0, 70.0, 80.0]]
    assert average_accuracies(matrix) == pytest.approx([90, 75, 70])
    assert cumulative_average_accuracy(matrix) == pytest.approx(78.3333, abs=1e-4)
    assert forgetting(matrix) == pytest.approx(15)


def test_card_3_loss_is_over_the_current_classes() -> None:
    logits = torch.tensor([[2.0, 1, 0, 3]])
    loss = current_task_loss(logits, torch.tensor([2]), 2)
    assert loss.item() == pytest.approx(3.048587, abs=printed_tolerance(3.0))


# -- slices over the tasks (sections 1 and 4) --------------------------------------------------------------------------


def test_finished_slices_keep_their_bits_and_stay_in_use(micro_vit: PromptedViT) -> None:
    method = make(micro_vit, ortho_weight=0.1)
    parameters = list(method.parameters())
    enter(method, 0)
    train(method, 0)
    left = {name: tensor.clone() for name, tensor in method.settled().items()}
    assert set(left) == {f"{name} of task 0" for name in ("components", "keys", "attention vectors")}
    enter(method, 1)
    fresh = [tensor.detach()[:, 2:4].clone() for tensor in (method.components, method.keys, method.attention)]
    train(method, 1, steps=5)
    assert all(torch.equal(tensor, method.settled()[name]) for name, tensor in left.items())
    trained = [tensor.detach()[:, 2:4] for tensor in (method.components, method.keys, method.attention)]
    assert all((before != after).flatten(2).any(dim=-1).all() for before, after in zip(fresh, trained, strict=True))
    assert all(tensor.detach()[:, 4:].count_nonzero() == 0 for tensor in (method.components, method.keys))
    assert all(one is two for one, two in zip(parameters, method.parameters(), strict=True))
    before = method.predict(batch(micro_vit, 2))
    with torch.no_grad():
        method.components[:, :2].mul_(3)
    assert not torch.allclose(before, method.predict(batch(micro_vit, 2)))


def test_rows_of_tasks_to_come_are_not_read(micro_vit: PromptedViT) -> None:
    method = make(micro_vit)
    enter(method, 0)
    before = method.predict(batch(micro_vit, 0))
    with torch.no_grad():
        for tensor in (method.components, method.keys, method.attention):
            tensor[:, 2:] = torch.nan
    assert torch.equal(before, method.predict(batch(micro_vit, 0)))


def test_other_tasks_rows_of_the_classifier_do_not_move(micro_vit: PromptedViT) -> None:
    method = make(micro_vit)
    enter(method, 0)
    enter(method, 1)
    before = method.head.weight.detach().clone()
    train(method, 1)
    moved = (method.head.weight.detach() != before).any(dim=1)
    assert moved.tolist() == [False, False, True, True, False, False]


@pytest.mark.parametrize("init", ["gram_schmidt", "qr", "global"])
def test_first_rows_are_orthonormal(micro_vit: PromptedViT, init: str) -> None:
    method = make(micro_vit, init=init)
    enter(method, 0)
    for tensor in (method.components, method.keys, method.attention):
        assert (overlaps(tensor.detach()[:, :2]) < 1e-5).all()


def test_qr_is_orthogonal_to_trained_rows_where_gram_schmidt_is_not(micro_vit: PromptedViT) -> None:
    largest = {}
    for init in ("gram_schmidt", "qr"):
        method = make(micro_vit, init=init)
        enter(method, 0)
        with torch.no_grad():
            method.keys[:, 1] += method.keys[:, 0]
        enter(method, 1)
        rows = method.keys.detach()
        largest[init] = float((rows[:, :2] @ rows[:, 2:4].transpose(1, 2)).abs().max())
    assert largest["qr"] < 1e-5 < 0.05 < largest["gram_schmidt"]


def test_global_rows_are_written_once(micro_vit: PromptedViT) -> None:
    method = make(micro_vit, init="global")
    enter(method, 0)
    assert (overlaps(method.keys.detach()[:, :6]) < 1e-5).all()
    assert method.keys.detach()[:, 6].count_nonzero() == 0
    before = method.keys.detach().clone()
    enter(method, 1)
    assert torch.equal(before, method.keys.detach())


def test_more_rows_than_dimensions_end_with_unit_rows() -> None:
    torch.manual_seed(0)
    for exact in (False, True):
        first = orthogonal_rows(torch.zeros(2, 0, 4), torch.randn(2, 6, 4), exact=exact)
        second = orthogonal_rows(first, torch.randn(2, 6, 4), exact=exact)
        rows = torch.cat([first, second], dim=1)
        torch.testing.assert_close(rows.norm(dim=-1), torch.ones(2, 12))
        assert (overlaps(rows[:, :4]) < 1e-4).all()
        assert (overlaps(rows[:, 4:8]) < 1e-4).all()


def test_a_vanished_row_is_left_out_of_the_projection() -> None:
    earlier = torch.tensor([[[1.0, 0, 0], [1e-6, 0, 0]]])
    new = orthogonal_rows(earlier, torch.tensor([[[5.0, 3, 4]]]))
    torch.testing.assert_close(new, torch.tensor([[[0, 0.6, 0.8]]]))


def test_new_rows_are_written_in_full_precision(micro_vit: PromptedViT) -> None:
    plain, halved = make(micro_vit), make(micro_vit)
    torch.manual_seed(1)
    enter(plain, 0)
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        enter(halved, 0)
    assert torch.equal(plain.components, halved.components)


# -- what cannot be ----------------------------------------------------------------------------------------------------


def test_too_few_components_for_the_tasks(micro_vit: PromptedViT) -> None:
    with pytest.raises(MethodError, match=r"no room for its components: 7 components .* 8 tasks none; set components"):
        make(micro_vit, tasks=8)
    assert make(micro_vit, tasks=7).slice_size == 1


def test_too_few_blocks(micro_vit: PromptedViT) -> None:
    with pytest.raises(MethodError, match="prompts the first 7 blocks, but the backbone has 6"):
        make(micro_vit, prompt_blocks=7)


def test_weight_decay_would_erode_frozen_rows(micro_vit: PromptedViT) -> None:
    with pytest.raises(MethodError, match=r"set schedule\.weight_decay=0"):
        CODAPrompt(CODAPromptConfig(), micro_vit, Setup(6, 3, Schedule(weight_decay=0.1)))


def test_odd_length_is_refused() -> None:
    with pytest.raises(ValidationError, match="multiple of 2"):
        CODAPromptConfig(length=7)


def test_one_rate_by_default(micro_vit: PromptedViT) -> None:
    assert [group.lr_multiplier for group in make(micro_vit).parameter_groups()] == [1.0, 1.0]
    assert make(micro_vit, prompt_lr_mult=5).parameter_groups()[0].lr_multiplier == 5


def test_one_image_a_class_trains(micro_vit: PromptedViT) -> None:
    method = make(micro_vit)
    task = TaskInfo(0, range(2), (1, 1))
    method.enter_task(task)
    method.begin_task(task)
    loss = method.training_step(batch(micro_vit, 0, size=1))
    assert torch.isfinite(loss)
