"""What the kit notices without judging: hooks by another name, parameters that stand still, the line that went wrong."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from smope_bench.harness.conformance.check import failed, mistaken_hooks
from smope_bench.methods.common.api import Batch, Method, ParameterGroup
from smope_bench.methods.common.vit.attention import attend
from tests.harness.conformance.cheats import Honest, verdicts_of  # pyright: ignore[reportMissingImports]


class AfterTask(Honest):
    """A hook by a name that nobody calls, and a helper of its own that looks like none."""

    def after_task(self, data: object) -> None:
        raise AssertionError("never called")

    def mean_feature(self) -> None:
        raise AssertionError("never called")

    def _end_tasks(self) -> None:
        raise AssertionError("never called")


class TrainedOnce(Honest):
    """A scale that has a gradient in the first task only."""

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("all", [*self.head.parameters(), self.scale])]

    def __init__(self, config: Any, backbone: Any, setup: Any) -> None:
        super().__init__(config, backbone, setup)
        self.scale = nn.Parameter(torch.ones(1))

    def training_step(self, batch: Batch) -> Tensor:
        scale = self.scale if self.task_index == 0 else self.scale.detach()
        return nn.functional.cross_entropy(scale * self.head(self.backbone(batch.images)), batch.targets)


class Misspells(Honest):
    def end_task(self, data: Any) -> None:
        self.served += self.surved  # pyright: ignore[reportAttributeAccessIssue]


class ReturnsNothing(Honest):
    def training_step(self, batch: Batch) -> Tensor:  # type: ignore[return]
        super().training_step(batch)


class PromptsBlocksThatAreNotThere(Honest):
    def predict(self, batch: Batch) -> Tensor:
        return self.head(self.backbone(batch.images, {self.backbone.depth: attend}))[:, : self.seen_classes]


def test_a_hook_by_another_name_is_named_and_a_helper_is_not() -> None:
    said = mistaken_hooks(AfterTask)
    assert "after_task (like " in said and "enter_task" not in said
    assert "mean_feature" not in said and "_end_tasks" not in said
    assert mistaken_hooks(Honest) == ""


def test_parameters_that_stand_still_are_named_with_the_task_they_last_moved_in() -> None:
    verdicts = {verdict.name: verdict for verdict in verdicts_of(TrainedOnce)}
    assert failed(verdicts.values()) == []
    said = verdicts["gradients only where declared"].detail
    assert said.endswith("; never changed: spare; changed last in: scale (task 1)")


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (Misspells, r"no attribute 'surved' \(end_task, test_hints.py line \d+\)"),
        (ReturnsNothing, "training_step of 'honest' returned None; return the loss"),
        (PromptsBlocksThatAreNotThere, r"adaptations are given for blocks \[6\], but the backbone has 6"),
    ],
)
def test_what_stops_a_run_is_said_with_its_place(method: type[Method], says: str) -> None:
    (verdict,) = verdicts_of(method)
    assert verdict.name == "runs" and not verdict.passed
    assert re.search(says, verdict.detail), verdict.detail
