"""Task inference: a small network on frozen features that predicts an image's task (HiDe-Prompt card, sections 1.1 to 4).

It is trained task after task and aligned on class statistics; the task of its best class is the prediction.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from smope_bench.methods.common.alignment.centroids import StatisticsKind, StatisticsModule, make_statistics
from smope_bench.methods.common.alignment.tap import HIDE_TAP, TapConfig, align_after_task, filled_from
from smope_bench.methods.common.api import ParameterGroup, Phase
from smope_bench.methods.common.classifier import current_task_loss, make_head
from smope_bench.methods.common.schedules import Shape

HIDDEN_FACTOR = 2
NORM_EPS = 1e-6

INFERENCE_TAP = HIDE_TAP.model_copy(update={"samples": 128, "lr": 0.0025})
"""Alignment of the task-inference network at batch 128 (card, section 4.2)."""


class TaskInferenceConfig(BaseModel):
    """Training of the task-inference network; the defaults are those at batch size 128 (card, section 6.2)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: int = Field(default=20, ge=1, le=10_000, description="epochs of the network in each task")
    lr: float = Field(default=2.5e-4, gt=0, le=10, description="base rate of the network")
    shape: Shape = Field(default="constant", description="course of the network's rate, as in schedule.shape")
    tap: Annotated[TapConfig, filled_from(INFERENCE_TAP)] = Field(
        default=INFERENCE_TAP, description="alignment of the network after each task on class statistics"
    )


class ResidualMlp(nn.Module):
    """``norm(h + W2 gelu(W1 h))``, the hidden layer twice as wide as the features, exact GELU."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.up = nn.Linear(dim, HIDDEN_FACTOR * dim)
        self.down = nn.Linear(HIDDEN_FACTOR * dim, dim)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        for layer in (self.up, self.down):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, d) to features (B, d)."""
        return self.norm(features + self.down(F.gelu(self.up(features))))


class TaskInference(nn.Module):
    """The network, the class statistics for its alignment, and the task of each class; all are in the checkpoint.

    Features are always those of the frozen backbone without prompts, (B, dim). Everything is computed in float32.
    """

    task_of_class: Tensor

    def __init__(
        self, dim: int, num_classes: int, config: TaskInferenceConfig, statistics: StatisticsKind = "full"
    ) -> None:
        super().__init__()
        self.config = config
        self.network = nn.Sequential(ResidualMlp(dim), make_head(dim, num_classes, small=True))
        self.statistics = make_statistics(statistics, num_classes, dim)
        self.register_buffer("task_of_class", torch.full((num_classes,), -1, dtype=torch.long))

    def phase(self) -> Phase:
        """The phase that trains the network, with its own rate and schedule."""
        return Phase("task inference", self.config.epochs, lr=self.config.lr, shape=self.config.shape)

    def parameter_groups(self) -> list[ParameterGroup]:
        """MLP and classifier at one rate."""
        return [ParameterGroup("task inference", list(self.network.parameters()))]

    def forward(self, features: Tensor) -> Tensor:
        """Logits of all classes, those still to come included: (B, num_classes)."""
        with torch.autocast(features.device.type, enabled=False):
            return self.network(features.float())

    def loss(self, features: Tensor, labels: Tensor, old_classes: int, seen_classes: int) -> Tensor:
        """Mean cross-entropy over the classes of the current task, ``old_classes`` to ``seen_classes`` (card, section 3)."""
        return current_task_loss(self(features)[:, :seen_classes], labels, old_classes)

    def finish_task(self, pairs: Iterable[tuple[Tensor, Tensor]], new_classes: range, task_index: int) -> None:
        """Note the task of the new classes, gather their statistics and, after later tasks, align (card, section 4).

        ``pairs``: (frozen features, labels) of the task's training images under the test transform.
        """
        self.task_of_class[new_classes.start : new_classes.stop] = task_index
        align_after_task(self.network, self.statistics, pairs, new_classes, self.config.tap, forward=self)

    @torch.no_grad()
    def task_of(self, features: Tensor, seen_classes: int) -> Tensor:
        """Task (B,) of the best of the seen classes, image by image (card, section 2.2)."""
        return self.task_of_class[self(features)[:, :seen_classes].argmax(dim=1)]

    def settled(self, *others: StatisticsModule) -> dict[str, Tensor]:
        """Statistics of each finished task's classes: the network's own, and ``others`` that know the same classes."""
        found: dict[str, Tensor] = {}
        for task in range(int(self.task_of_class.max()) + 1):
            classes = classes_of(self.task_of_class, task)
            for number, statistics in enumerate((self.statistics, *others)):
                found[f"statistics {number} of task {task}"] = statistics.of_classes(classes)
        return found


def mlp_cost(dim: int) -> tuple[int, int]:
    """Parameters of the residual MLP, and its operations by Table 3's convention (card, section 7)."""
    weights, hidden = 2 * HIDDEN_FACTOR * dim * dim, HIDDEN_FACTOR * dim
    return weights + hidden + dim + 2 * dim, 2 * weights + hidden + 5 * dim


def classes_of(task_of_class: Tensor, task: int) -> range:
    """The consecutive classes of a task, from the tasks (C,) of the classes seen."""
    numbers = torch.nonzero(task_of_class == task).flatten()
    return range(int(numbers[0]), int(numbers[-1]) + 1)
