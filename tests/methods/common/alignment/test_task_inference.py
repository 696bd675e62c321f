"""The task-inference network: the card's numbers, per-image decisions, and what survives between tasks (HiDe card, 1 to 4)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from smope_bench.methods.common.alignment.task_inference import (
    ResidualMlp,
    TaskInference,
    TaskInferenceConfig,
    mlp_cost,
)
from smope_bench.methods.common.schedules import Schedule, learning_rate
from tests.tolerance import printed_tolerance  # pyright: ignore[reportMissingImports]

SMALL = {"epochs": 2, "tap": {"epochs": 2, "samples": 8}}


def fill(shape: tuple[int, ...], frequency: float) -> Tensor:
    return torch.sin(frequency * torch.arange(1, math.prod(shape) + 1, dtype=torch.double)).view(shape).float()


def clusters(classes: range, dim: int = 6, count: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(classes.start)
    labels = torch.arange(classes.start, classes.stop).repeat_interleave(count)
    centres = torch.eye(dim)[:, labels % dim].T * 4
    return centres + 0.1 * torch.randn(len(labels), dim, generator=generator), labels


def make(**config: object) -> TaskInference:
    torch.manual_seed(0)
    return TaskInference(6, 6, TaskInferenceConfig(**(SMALL | config)))  # type: ignore[arg-type]


def test_card_check_d_mlp() -> None:
    mlp = ResidualMlp(3)
    with torch.no_grad():
        mlp.up.weight.copy_(fill((6, 3), 0.4))
        mlp.up.bias.copy_(fill((6,), 0.6))
        mlp.down.weight.copy_(fill((3, 6), 0.8))
        mlp.down.bias.copy_(fill((3,), 1.2))
    expected = torch.tensor([[1.170360, 0.102347, -1.272707], [-1.082757, 1.329241, -0.246483]])
    torch.testing.assert_close(mlp(fill((2, 3), 1.0)), expected, atol=printed_tolerance(3.0), rtol=0)


def test_initialisation_and_count_are_those_of_the_card() -> None:
    torch.manual_seed(0)
    with torch.device("meta"):
        large = TaskInference(768, 200, TaskInferenceConfig())
    assert sum(p.numel() for p in large.parameters()) == 2_363_136 + 153_800
    assert mlp_cost(768) == (2_363_136, 4 * 768 * 1536 + 1536 + 5 * 768)
    small = TaskInference(96, 50, TaskInferenceConfig())
    weights = torch.cat([p.flatten() for p in small.parameters() if p.dim() == 2])
    assert weights.std().item() == pytest.approx(0.02, rel=0.02)
    biases = torch.cat([p for n, p in small.named_parameters() if n.endswith("bias")])
    assert (biases == 0).all()


def test_phase_is_constant_at_its_own_rate() -> None:
    phase = TaskInference(6, 6, TaskInferenceConfig()).phase()
    assert (phase.name, phase.epochs, phase.lr, phase.shape) == ("task inference", 20, 2.5e-4, "constant")
    schedule = Schedule(lr=0.015, shape="step").model_copy(update={"lr": phase.lr, "shape": phase.shape})
    assert {learning_rate(schedule, 2.5e-4, step=s, loader_steps=3, epochs=20) for s in range(60)} == {2.5e-4}


def test_alignment_defaults_are_the_first_stages_even_where_a_table_is_partial() -> None:
    for tap in (TaskInferenceConfig().tap, TaskInferenceConfig(tap={"epochs": 30}).tap):  # type: ignore[arg-type]
        assert (tap.optimizer, tap.shape, tap.samples, tap.lr, tap.weight_decay) == (
            "sgd",
            "epoch_cosine",
            128,
            0.0025,
            0.0,
        )


def test_loss_sees_the_current_classes_only() -> None:
    network = make()
    features, labels = clusters(range(2, 4))
    logits = network(features)[:, 2:4]
    torch.testing.assert_close(
        network.loss(features, labels, 2, 4), torch.nn.functional.cross_entropy(logits, labels - 2)
    )
    network.loss(features, labels, 2, 4).backward()
    gradient = network.network[1].bias.grad
    assert gradient is not None and isinstance(gradient, Tensor)
    assert gradient[2:4].ne(0).all() and gradient[[0, 1, 4, 5]].eq(0).all()


def taught(network: TaskInference) -> TaskInference:
    for task, classes in enumerate((range(2), range(2, 5))):
        features, labels = clusters(classes)
        optimizer = torch.optim.Adam(network.network.parameters(), lr=0.01)
        for _ in range(40):
            optimizer.zero_grad()
            network.loss(features, labels, classes.start, classes.stop).backward()
            optimizer.step()
        network.finish_task(zip(features.split(5), labels.split(5), strict=True), classes, task)
    return network


def test_names_tasks_image_by_image_among_seen_classes() -> None:
    network = taught(make(tap={"epochs": 20, "samples": 32, "lr": 0.05}))
    features = torch.cat([clusters(range(2))[0], clusters(range(2, 5))[0]])
    found = network.task_of(features, 5)
    assert found.tolist() == [0] * 24 + [1] * 36
    alone = torch.cat([network.task_of(row[None], 5) for row in features])
    assert torch.equal(found, alone)
    assert network.task_of_class.tolist() == [0, 0, 1, 1, 1, -1]
    with torch.no_grad():
        network.network[1].bias[5] = 1e6  # type: ignore[index]
    assert torch.equal(network.task_of(features, 5), found)


def test_the_first_task_is_not_aligned_and_the_second_is() -> None:
    network = make()
    before = [p.detach().clone() for p in network.network.parameters()]
    features, labels = clusters(range(2))
    network.finish_task([(features, labels)], range(2), 0)
    assert all(torch.equal(a, b) for a, b in zip(before, network.network.parameters(), strict=True))
    features, labels = clusters(range(2, 4))
    network.finish_task([(features, labels)], range(2, 4), 1)
    moved = [not torch.equal(a, b) for a, b in zip(before, network.network.parameters(), strict=True)]
    assert all(moved)


def test_state_survives_a_checkpoint_and_settled_parts_stay() -> None:
    network = taught(make())
    settled = {name: tensor.clone() for name, tensor in network.settled().items()}
    assert sorted(settled) == ["statistics 0 of task 0", "statistics 0 of task 1"]
    again = make()
    again.load_state_dict(network.state_dict())
    features, labels = clusters(range(5, 6))
    assert torch.equal(network.task_of(features, 5), again.task_of(features, 5))
    again.finish_task([(features, labels)], range(5, 6), 2)
    assert all(torch.equal(tensor, again.settled()[name]) for name, tensor in settled.items())


def test_half_precision_changes_nothing() -> None:
    network = taught(make())
    features = clusters(range(2, 5))[0]
    expected = network(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(network(features), expected)
