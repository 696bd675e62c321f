"""Phases: their rates, what continues, clipping, and a method's hold on its own step."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.training.optimization import (
    LossMeter,
    OptimizationSegment,
    declare_trainable,
    segment_epochs,
)
from smope_bench.harness.training.trainer import Trainer
from smope_bench.methods.common.api import Batch, Method, MethodCard, ParameterGroup, Phase
from smope_bench.methods.common.schedules import Schedule, learning_rate, optimizer_of, projected_step
from smope_bench.methods.common.vit.merging import Derived
from tests.conftest import micro_spec  # pyright: ignore[reportMissingImports]
from tests.harness.stand_ins import given  # pyright: ignore[reportMissingImports]


class Phased(Method):
    """Three phases: a warm-up with its own rate, then two that share an optimiser."""

    name: ClassVar[str] = "phased"
    card = MethodCard("Phased", "for tests")

    def __init__(self, config: Any, backbone: Any, setup: Any) -> None:
        super().__init__(config, backbone, setup)
        self.head = nn.Linear(backbone.feature_dim, setup.num_classes)
        self.spare = nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[str, float, bool, int]] = []
        self.phase = ""

    def phases(self) -> list[Phase]:
        return [Phase("warm", 1, lr=0.5, shape="constant"), Phase("both", 2), Phase("head", 1, continues=True)]

    def begin_phase(self, phase: Phase) -> None:
        self.phase = phase.name

    def parameter_groups(self) -> list[ParameterGroup]:
        groups = [ParameterGroup("head", list(self.head.parameters()))]
        return groups if self.phase == "head" else [*groups, ParameterGroup("spare", [self.spare])]

    def training_step(self, batch: Batch) -> Tensor:
        logits = self.head(self.backbone(batch.images))[:, : self.seen_classes]
        return nn.functional.cross_entropy(logits, batch.targets) + (self.spare - 1).square().sum()

    def apply_step(self, optimizer: torch.optim.Optimizer) -> None:
        steps = int(optimizer.state[self.head.weight]["step"]) if optimizer.state else 0
        self.seen.append((self.phase, optimizer.param_groups[0]["lr"], self.spare.grad is not None, steps))
        super().apply_step(optimizer)

    def predict(self, batch: Batch) -> Tensor:
        return self.head(self.backbone(batch.images))[:, : self.seen_classes]


def test_phases_with_rates_of_their_own_and_one_that_continues(registries: Registries, tmp_path: Path) -> None:
    registries.methods.add("phased", "tests", Phased)
    spec = micro_spec("phased").model_copy(
        update={"schedule": {"batch_size": 8, "epochs": 9, "shape": "cosine", "lr": 0.1}}
    )
    with Trainer(spec, *given(tmp_path), registries=registries) as session:
        session.run_tasks()
    method = session.method
    assert isinstance(method, Phased)
    assert session.progress.learned == {"head.weight": 24 * 6, "head.bias": 6, "spare": 1}
    task = method.seen[:12]  # three steps an epoch, four epochs a task
    assert [entry[0] for entry in task] == ["warm"] * 3 + ["both"] * 6 + ["head"] * 3
    assert all(rate == 0.5 for _, rate, _, _ in task[:3])
    # Quarter cosine over the three epochs of both phases: epochs 0 and 1 at the base rate, then cos(99 pi / 400).
    assert [rate for _, rate, _, _ in task[3:9]] == [0.1] * 6
    assert [rate for _, rate, _, _ in task[9:]] == pytest.approx([0.1 * 0.7126385] * 3)
    assert [moved for _, _, moved, _ in task] == [True] * 9 + [False] * 3
    assert [steps for *_, steps in task] == [0, 1, 2, *range(9)]


def plain_step(kind: str, p: Tensor, g: Tensor, kept: dict[str, Tensor], rate: float, decay: float) -> Tensor:
    """A step of the optimiser by its published formula; ``kept`` has its moments."""
    step = kept["step"] = kept.get("step", torch.zeros(())) + 1
    if kind != "adamw":
        g = g + decay * p
    if kind.startswith("sgd"):
        m = kept["m"] = g if step == 1 else 0.9 * kept["m"] + g
        return p - rate * (g + 0.9 * m if kind == "sgd nesterov" else m)
    m = kept["m"] = 0.9 * kept.get("m", torch.zeros_like(g)) + 0.1 * g
    v = kept["v"] = 0.999 * kept.get("v", torch.zeros_like(g)) + 0.001 * g**2
    p = p * (1 - rate * decay) if kind == "adamw" else p
    return p - rate * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd", "sgd nesterov"])
def test_every_optimiser_is_its_formula_with_rate_and_decay_of_each_group(kind: str) -> None:
    name, nesterov = kind.split(maxsplit=1)[0], "nesterov" in kind
    schedule = Schedule.model_validate(
        {"optimizer": name, "nesterov": nesterov, "lr": 0.1, "shape": "constant", "weight_decay": 0.2}
    )
    one, two = nn.Parameter(torch.tensor([1.0, -2.0])), nn.Parameter(torch.tensor([3.0]))
    groups = [ParameterGroup("one", [one]), ParameterGroup("two", [two], 0.5, weight_decay=0.0)]
    segment = OptimizationSegment(schedule, groups, epochs=1)
    expected: list[tuple[Tensor, dict[str, Tensor], float, float]] = [
        (one.detach().clone(), {}, 0.1, 0.2),
        (two.detach().clone(), {}, 0.05, 0.0),
    ]
    for step in range(3):
        segment.set_rate(1)
        for number, parameter in enumerate((one, two)):
            parameter.grad = (parameter.detach() + step) ** 2
            value, kept, rate, decay = expected[number]
            expected[number] = plain_step(kind, value, parameter.grad.clone(), kept, rate, decay), kept, rate, decay
        segment.optimizer.step()
    for parameter, (value, *_) in zip((one, two), expected, strict=True):
        torch.testing.assert_close(parameter.detach(), value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd"])
def test_a_step_marks_its_parameters_as_changed(kind: Any) -> None:
    """Fused optimisers do not, and what is derived from the parameters would stay as it was."""
    parameter, kept, made = nn.Parameter(torch.ones(2)), Derived[Tensor](), torch.zeros(1)
    segment = OptimizationSegment(Schedule(optimizer=kind), [ParameterGroup("all", [parameter])], epochs=1)
    method = Method.__new__(Method)
    for _ in range(2):
        kept(lambda: made.add_(1).clone(), parameter)
        segment.descend(parameter.sum(), method)
    assert float(kept(lambda: made.add_(1).clone(), parameter)) == 3


def test_a_projected_step_is_the_optimisers_with_a_projection_of_the_change() -> None:
    """The worked example of a router with two steps of Adam, lr 0.01, coupled decay 5e-5."""
    weight = nn.Parameter(torch.tensor([[1.0, 2.0], [0.0, 1.0], [3.0, -1.0]]))
    free = nn.Parameter(weight.detach().clone())
    keep = torch.diag(torch.tensor([0.0, 1.0, 1.0])) / 2**0.5
    schedule = Schedule(optimizer="adam", lr=0.01, weight_decay=5e-5)
    optimizer = optimizer_of([([weight, free], 0.01, None)], schedule)
    for gradient in ([[0.1, 0.2], [0.3, -0.4], [0.5, 0.6]], [[0.0, 0.2], [-0.3, -0.4], [0.5, 0.1]]):
        weight.grad = free.grad = torch.tensor(gradient)
        projected_step(optimizer, {weight: lambda change: keep @ change})
    expected = torch.tensor([[1.0, 2.0], [-0.0066989, 1.0141420], [2.9858580, -1.0126097]])
    torch.testing.assert_close(weight.detach(), expected, rtol=0, atol=1e-6)
    assert not torch.allclose(free, weight, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"shape": "milestones", "milestones": (4, 7), "epoch_lag": 0}, [0.1] * 4 + [0.01] * 3 + [0.001] * 3),
        ({"shape": "milestones", "milestones": (4, 7)}, [0.1] * 5 + [0.01] * 3 + [0.001] * 2),
        (
            {"shape": "epoch_cosine", "min_lr": 0.0, "epoch_lag": 0},
            [0.05 * (1 + math.cos(math.pi * e / 10)) for e in range(10)],
        ),
    ],
)
def test_rates_by_epoch_with_and_without_lag(options: dict[str, Any], expected: list[float]) -> None:
    schedule = Schedule(lr=0.1, **options)
    rates = [learning_rate(schedule, 0.1, step=3 * epoch + 2, loader_steps=3, epochs=10) for epoch in range(10)]
    assert rates == pytest.approx(expected)


def test_later_fields_of_a_schedule_are_absent_from_its_dump_where_they_have_their_default() -> None:
    """Run ids are hashes of dumps: they stay what they were."""
    assert set(Schedule().model_dump(mode="json")) == {
        "batch_size", "epochs", "lr", "shape", "freeze_steps", "steps_per_epoch", "lr_first_step_full", "decay_epochs",
        "decay_factor", "min_lr", "grad_clip", "weight_decay", "beta1", "beta2", "eps", "drop_last",
    }  # fmt: skip
    given = {"optimizer": "sgd", "nesterov": True, "milestones": [3]}
    dumped = Schedule.model_validate(given).model_dump(mode="json")
    assert {key: dumped[key] for key in given} == given and "sgd_momentum" not in dumped
    assert Schedule(**dumped) == Schedule.model_validate(given)


def test_nesterov_without_a_momentum_is_refused() -> None:
    with pytest.raises(ValueError, match="nesterov=True needs optimizer=sgd with a momentum, not optimizer=adam"):
        Schedule(optimizer="adam", nesterov=True)


def test_stretches_span_what_continues_them() -> None:
    phases = [Phase("a", 2), Phase("b", 3, continues=True), Phase("c", 5)]
    assert [segment_epochs(phases, 0), segment_epochs(phases, 2)] == [5, 5]
    assert segment_epochs(phases[:2], 0) == 5


@pytest.mark.parametrize(("clip", "expected"), [(0.0, 30.0), (3.0, 3.0)])
def test_clipping_bounds_the_global_norm(clip: float, expected: float, registries: Registries) -> None:
    class Noted(Phased):
        def apply_step(self, optimizer: torch.optim.Optimizer) -> None:
            norms = [p.grad.norm() for group in optimizer.param_groups for p in group["params"]]
            self.norm = float(torch.stack(norms).norm())

    one, two = nn.Parameter(torch.zeros(9)), nn.Parameter(torch.zeros(1))
    segment = OptimizationSegment(
        Schedule(grad_clip=clip), [ParameterGroup("a", [one]), ParameterGroup("b", [two])], epochs=1
    )
    method = Noted.__new__(Noted)
    nn.Module.__init__(method)
    segment.descend(one.sum() * 8 + two.sum() * 18, method)
    assert method.norm == pytest.approx(expected, rel=1e-5)


def test_a_parameter_that_a_loss_makes_trainable_is_not_trained() -> None:
    """Leaving peft's ``disable_adapter`` does that to frozen factors; neither they nor the clipped norm may change."""
    method = Method.__new__(Method)
    nn.Module.__init__(method)
    method.kept, method.learned = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    groups = [ParameterGroup("all", [method.learned])]
    declare_trainable(method, groups)
    assert not method.kept.requires_grad
    segment = OptimizationSegment(Schedule(optimizer="sgd", lr=1.0, grad_clip=0.5), groups, epochs=1)
    segment.set_rate(1)
    method.kept.requires_grad_(True)
    segment.descend(method.learned.sum() + 100 * method.kept.sum(), method)
    assert method.kept.item() == 1 and method.learned.item() == pytest.approx(0.5)


def test_a_loss_is_read_after_the_next_step_and_told_with_its_own() -> None:
    checked: list[tuple[float, int]] = []
    losses = LossMeter(lambda loss, step: checked.append((loss, step)), total=10.0, count=4)
    for step in (4, 5):
        losses.note(torch.tensor(float(step)), step)
    assert checked == [(4.0, 4)] and losses.count == 5
    assert losses.mean() == 19.0 / 6
    losses.read_pending()
    assert checked == [(4.0, 4), (5.0, 5)]


def test_a_state_put_back_continues_to_the_same_bits() -> None:
    def trained(cut: int | None) -> torch.Tensor:
        torch.manual_seed(0)
        weight, bias = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(4))
        groups = [ParameterGroup("a", [weight], 0.5), ParameterGroup("b", [bias])]
        segment, method = OptimizationSegment(Schedule(lr=0.1), groups, epochs=2), Method.__new__(Method)
        for step in range(6):
            if step == cut:
                tensors, values = segment.state()
                kept = {name: tensor.clone() for name, tensor in tensors.items()}
                segment = OptimizationSegment(Schedule(lr=0.1), groups, epochs=2)
                segment.restore(kept, json.loads(json.dumps(values)), step, step)
            segment.set_rate(3)
            segment.descend(((weight * (step + 1)).sum(dim=1) * bias).square().sum(), method)
        return torch.cat([weight.detach().flatten(), bias.detach()])

    whole = trained(None)
    assert all(torch.equal(trained(cut), whole) for cut in (0, 1, 5))
