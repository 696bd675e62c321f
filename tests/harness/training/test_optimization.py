"""Phases: their rates, what continues, clipping, and a method's hold on its own step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.training.optimization import LossMeter, OptimizationSegment, segment_epochs
from smope_bench.harness.training.trainer import Trainer
from smope_bench.methods.common.api import Batch, Method, MethodCard, ParameterGroup, Phase
from smope_bench.methods.common.schedules import Schedule
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
