"""SD-LoRA (ICLR 2025): a low-rank update of queries and values for each task, with the magnitudes of all of them trained.

Source: SD-LoRA card. Updates of earlier tasks keep their directions, ``up @ down`` divided by its factors' norms; one magnitude a
task, shared by all blocks, is trained anew in every later task.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from smope_bench.methods.common.api import (
    Batch,
    Method,
    MethodCard,
    MethodConfig,
    ParameterGroup,
    Setup,
    TaskInfo,
    TrainingData,
)
from smope_bench.methods.common.classifier import current_task_loss, make_head, seen_logits, settled_rows
from smope_bench.methods.common.vit.block_adaptation import BlockAdaptation, Layer, LowRank, Target
from smope_bench.methods.common.vit.merging import Derived, settled_updates
from smope_bench.methods.common.vit.vit import PromptedViT

TARGETS: tuple[Target, ...] = ("q", "v")
LEAST_NORM = 1.0
"""A current update that is normalised is divided by this at least: it starts from zero, where it has no direction."""


class SDLoRAConfig(MethodConfig):
    """Ranks and magnitudes (card, sections 1, 5 and 9)."""

    ranks: tuple[int, ...] = Field(
        default=(10,), min_length=1, max_length=64, description="rank of an update, by tasks; 10,8,6 is SD-LoRA-RR"
    )
    rank_every: int = Field(default=4, ge=1, le=1000, description="tasks with each of the ranks; the last one goes on")
    magnitude: float = Field(default=0.8, gt=0, description="magnitudes at their start")
    keep_magnitudes: bool = Field(
        default=False, description="earlier magnitudes go on from what they are (paper) instead of starting anew (code)"
    )
    normalise_current: bool = Field(
        default=False,
        description="the current update is divided by its norm, too (paper), not only once it is old (code)",
    )
    normaliser: Literal["factors", "product"] = Field(
        default="factors", description="product of the two factors' norms (code), or the norm of their product (paper)"
    )


class SDLoRA(Method):
    """Updates of all tasks and one classifier; ``down`` (blocks, 2, rank, d) and ``up`` (blocks, 2, width, rank) are the current.

    ``downs`` (tasks, blocks, 2, rank, d) and ``ups`` (tasks, blocks, 2, width, rank): the finished tasks', with the largest rank;
    what a smaller one leaves over is zero. ``magnitudes`` (tasks): the current task's is the last that is used.
    """

    name = "sd_lora"
    card = MethodCard(
        title="SD-LoRA",
        summary="low-rank updates of queries and values: earlier directions are kept, all magnitudes trained",
        paper="SD-LoRA: Scalable Decoupled Low-Rank Adaptation for Class Incremental Learning, ICLR 2025",
        paper_url="https://arxiv.org/abs/2501.13198",
        code_url="https://github.com/WuYichen-97/SD-Lora-CL",
        kind="adapter",
    )
    Config = SDLoRAConfig
    protocols = frozenset({"class", "domain"})
    on_host = ("_progress", "is_finished")
    grows_with_tasks = ("downs", "ups", "magnitudes")
    config: SDLoRAConfig
    downs: Tensor
    ups: Tensor
    is_finished: Tensor

    def __init__(self, config: SDLoRAConfig, backbone: PromptedViT, setup: Setup) -> None:
        super().__init__(config, backbone, setup)
        d, width, rank = backbone.feature_dim, backbone.num_heads * backbone.head_dim, max(config.ranks)
        self.down = nn.Parameter(torch.zeros(backbone.depth, len(TARGETS), rank, d))
        self.up = nn.Parameter(torch.zeros(backbone.depth, len(TARGETS), width, rank))
        LowRank(self.down[0, 0], self.up[0, 0])  # refuses a rank above the width
        self.magnitudes = nn.Parameter(torch.full((setup.num_tasks,), config.magnitude))
        self.register_buffer("downs", torch.zeros(setup.num_tasks, *self.down.shape))
        self.register_buffer("ups", torch.zeros(setup.num_tasks, *self.up.shape))
        self.register_buffer("is_finished", torch.tensor(False))
        self.head = make_head(d, setup.num_classes)
        nn.init.uniform_(self.head.weight, -math.sqrt(3 / d), math.sqrt(3 / d))
        nn.init.zeros_(self.head.bias)
        self.merged: Derived[dict[int, dict[Layer, Tensor]]] = Derived()
        self.directions: Derived[tuple[Tensor, Tensor]] = Derived()

    @torch.no_grad()
    def begin_task(self, task: TaskInfo) -> None:
        """A new update without effect, and magnitudes at their start."""
        blocks, targets, _, d = self.down.shape
        rank = self.rank_of(task.index)
        drawn = torch.rand(blocks, targets, rank, d) * 2 - 1
        self.down.zero_()[:, :, :rank].copy_(drawn / math.sqrt(d))
        self.up.zero_()
        self.magnitudes[task.index if self.config.keep_magnitudes else 0 :].fill_(self.config.magnitude)
        self.is_finished.fill_(False)

    def rank_of(self, task: int) -> int:
        """Rank of the 0-based task's update."""
        return self.config.ranks[min(task // self.config.rank_every, len(self.config.ranks) - 1)]

    @torch.no_grad()
    def end_task(self, data: TrainingData) -> None:
        """Keep the update. Answers go on using it as it was trained until the next task begins."""
        del data
        self.downs[self.task_index].copy_(self.down)
        self.ups[self.task_index].copy_(self.up)
        self.is_finished.fill_(True)
        self._adaptations()  # merges here what answers need

    @property
    def statistics_passes(self) -> int:
        """``end_task`` reads no image."""
        return 0

    def parameter_groups(self) -> list[ParameterGroup]:
        """The current update, all magnitudes and the classifier, at one rate."""
        return [
            ParameterGroup("update", [self.down, self.up]),
            ParameterGroup("magnitudes", [self.magnitudes]),
            ParameterGroup("head", list(self.head.parameters())),
        ]

    def training_step(self, batch: Batch) -> Tensor:
        """Cross-entropy over the current task's classes."""
        return current_task_loss(self.predict(batch), batch.targets, self.old_classes, absent=self.absent_classes)

    def predict(self, batch: Batch) -> Tensor:
        return seen_logits(self.head, self.backbone(batch.images, self._adaptations()), self.seen_classes)

    def settled(self) -> dict[str, Tensor]:
        """Finished updates, and the classifier's rows of classes that do not come again."""
        kept = settled_updates(self.downs, self.ups, self.task_index + int(self.is_finished))
        return kept | (settled_rows(self.head, self.seen_classes) if self.setup.protocol == "class" else {})

    def _adaptations(self) -> dict[int, BlockAdaptation]:
        """All updates beside the weights while magnitudes are trained, merged into weights once a task is over."""
        if not self.is_finished:
            return {block: BlockAdaptation(low_rank=each) for block, each in self._updates().items()}
        index = self.task_index
        sources = self.downs[:index], self.ups[:index], self.down, self.up, self.magnitudes
        weights = self.merged(lambda: self.backbone.merged(self._updates()), *sources)
        return {block: BlockAdaptation(weights=each) for block, each in weights.items()}

    def _updates(self) -> dict[int, dict[Target, LowRank]]:
        """The sum of all updates with their magnitudes, by block and projection."""
        index = self.task_index
        up = self.up * self.magnitudes[index]
        if self.config.normalise_current:
            up = up / self._norms(self.down, self.up).clamp(min=LEAST_NORM)[..., None, None]
        down = self.down
        if index:
            olds = self.downs[:index], self.ups[:index]
            old_down, old_up = self.directions(lambda: self._directions(*olds), *olds)
            scales = self.magnitudes[:index].repeat_interleave(self.down.shape[2])
            down, up = torch.cat([old_down, down], dim=2), torch.cat([old_up * scales, up], dim=3)
        return {
            block: {
                target: LowRank.of(each_down, each_up)
                for target, each_down, each_up in zip(TARGETS, downs, ups, strict=True)
            }
            for block, (downs, ups) in enumerate(zip(down, up, strict=True))
        }

    def _directions(self, downs: Tensor, ups: Tensor) -> tuple[Tensor, Tensor]:
        """Earlier updates one after another, normalised: (blocks, 2, tasks * rank, d) and (blocks, 2, width, tasks * rank)."""
        norms = self._norms(downs, ups)
        scales = torch.where(norms > 0, 1 / norms, 0.0)[..., None, None]  # an update that is zero has no direction
        return torch.cat(list(downs), dim=2), torch.cat(list(ups * scales), dim=3)

    @torch.no_grad()
    def _norms(self, down: Tensor, up: Tensor) -> Tensor:
        """What updates (..., rank, d) and (..., width, rank) are divided by: (...)."""
        if self.config.normaliser == "factors":
            return torch.linalg.matrix_norm(down) * torch.linalg.matrix_norm(up)
        squared = ((up.mT @ up) * (down @ down.mT)).sum(dim=(-2, -1))  # of up @ down, without making it
        return squared.clamp(min=0).sqrt()
