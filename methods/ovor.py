"""OVOR (ICLR 2024): one prompt for all tasks, and a classifier regularised by virtual outliers. Source: OVOR card.

A task ends with epochs that train the classifier alone: on features of the task's images, which should have low energy, and
on outliers far from them, which should have high energy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn

from smope_bench.methods.common.alignment.outliers import OutlierConfig, energy_loss, synthesize
from smope_bench.methods.common.api import (
    Batch,
    Geometry,
    Method,
    MethodCard,
    MethodConfig,
    ParameterGroup,
    Phase,
    PublishedCost,
    Setup,
    TrainingData,
)
from smope_bench.methods.common.classifier import current_task_loss, make_head, seen_logits
from smope_bench.methods.common.prefix import PlainPrefix, split_heads
from smope_bench.methods.common.vit.vit import AttentionRule, PromptedViT

GENERAL_BLOCKS = range(2)
EXPERT_BLOCKS = range(2, 5)
WARM_UP = "warm-up"
OUTLIERS = "outliers"


class OVORConfig(MethodConfig):
    """The prompt (card, section 1), the parts of a task's epochs (section 5) and the outliers (section 3a)."""

    general_rows: int = Field(
        default=10, ge=2, le=4096, multiple_of=2, description="rows in blocks 1 and 2; half are keys, half values"
    )
    expert_rows: int = Field(default=40, ge=2, le=4096, multiple_of=2, description="likewise in blocks 3 to 5")
    prompt_init: float = Field(default=1.0, gt=0, description="prompts start uniform in [0, prompt_init)")
    prompt_lr_mult: float = Field(default=1.0, gt=0, description="prompts' rate in units of the classifier's")
    outlier_share: float = Field(
        default=0.2, ge=0, lt=1, description="part of the epochs that train the classifier on outliers, one at least"
    )
    warmup_epochs: int = Field(
        default=0, ge=0, le=1000, description="epochs for the classifier alone, before the others, from the second task"
    )
    outliers: OutlierConfig = Field(default=OutlierConfig(), description="virtual outliers of the classifier's stage")


@dataclass(frozen=True, kw_only=True)
class OutlierBatch(Batch):
    """A step of the second stage: ``query`` holds prompted features (B, d), constants of the epoch; no images."""

    outliers: Tensor
    """Virtual outliers (B', d)."""


class OVOR(Method):
    """Prompt rows (blocks, rows, d), keys before values, and one classifier."""

    name = "ovor"
    card = MethodCard(
        title="OVOR",
        summary="one shared prompt; the last epochs of a task regularise the classifier with virtual outliers",
        paper="OVOR: OnePrompt with Virtual Outlier Regularization for Rehearsal-Free Class-Incremental Learning, ICLR 2024",
        paper_url="https://arxiv.org/abs/2402.04129",
        code_url="https://github.com/jpmorganchase/ovor",
    )
    Config = OVORConfig
    unfit_because = "it trains against outliers that stand for the classes of other tasks, which a domain does not have"
    config: OVORConfig

    def __init__(self, config: OVORConfig, backbone: PromptedViT, setup: Setup) -> None:
        super().__init__(config, backbone, setup)
        backbone.require_blocks(EXPERT_BLOCKS.stop, self.name, None)
        general = (len(GENERAL_BLOCKS), config.general_rows, backbone.feature_dim)
        expert = (len(EXPERT_BLOCKS), config.expert_rows, backbone.feature_dim)
        self.general = nn.Parameter(torch.rand(general) * config.prompt_init)
        self.expert = nn.Parameter(torch.rand(expert) * config.prompt_init)
        self.head = make_head(backbone.feature_dim, setup.num_classes)
        self.stage = ""

    @classmethod
    def published_cost(cls, geometry: Geometry) -> PublishedCost:
        """Prompts and classifier, one pass (card, sections 6 and 7)."""
        rows = len(GENERAL_BLOCKS) * 10 + len(EXPERT_BLOCKS) * 40
        return PublishedCost(
            parameters=rows * geometry.dim + geometry.num_classes * (geometry.dim + 1),
            train_passes=1,
            test_passes=1,
            note="one prompted pass and no query; the second stage's passes, without a gradient, are not counted apart",
        )

    def phases(self) -> list[Phase]:
        """Prompts and classifier, then the classifier with outliers; one optimiser and one schedule through both."""
        epochs, share = self.setup.schedule.epochs, self.config.outlier_share
        last = min(max(round(epochs * share), 1), epochs - 1) if share > 0 else 0
        phases = [Phase("prompts", epochs - last)]
        if self.config.warmup_epochs and self.task_index > 0:
            phases = [Phase(WARM_UP, self.config.warmup_epochs), Phase("prompts", epochs - last, continues=True)]
        return [*phases, Phase(OUTLIERS, last, continues=True)] if last else phases

    def begin_phase(self, phase: Phase) -> None:
        """Store the number of the stage."""
        self.stage = phase.name

    def parameter_groups(self) -> list[ParameterGroup]:
        """Prompts and classifier; with outliers the classifier alone. In the warm-up prompts get no gradient."""
        head = ParameterGroup("head", list(self.head.parameters()))
        if self.stage == OUTLIERS:
            return [head]
        return [ParameterGroup("prompts", [self.general, self.expert], self.config.prompt_lr_mult), head]

    def epoch_batches(self, data: TrainingData) -> Iterator[Batch]:
        """Images; with outliers: features and outliers, made anew every epoch."""
        return self._outlier_batches(data) if self.stage == OUTLIERS else super().epoch_batches(data)

    def _outlier_batches(self, data: TrainingData) -> Iterator[Batch]:
        """As many batches as there are of images. A remainder of the outliers is left out (card, section 3)."""
        features, labels = self._training_features(data)
        draws = torch.randn(self.config.outliers.draws, features.shape[1], device=features.device)
        outliers = synthesize(features, len(self.new_classes), draws, self.config.outliers)
        order = torch.randperm(len(labels)).to(labels.device)
        parts = list(order.split(self.setup.schedule.batch_size))
        if self.setup.schedule.drop_last and len(parts) > 1 and len(parts[-1]) < len(parts[0]):
            parts.pop()
        size = max(1, len(outliers) // len(parts))
        nothing = features.new_empty(0)
        for number, part in enumerate(parts):
            # The modulus only matters where there are fewer outliers than batches.
            chosen = torch.arange(number * size, (number + 1) * size, device=outliers.device) % len(outliers)
            yield OutlierBatch(nothing, labels[part], features[part], outliers=outliers[chosen])

    @torch.no_grad()
    def _training_features(self, data: TrainingData) -> tuple[Tensor, Tensor]:
        pairs = [(self._features(batch), batch.targets) for batch in data.batches()]
        return torch.cat([features for features, _ in pairs]).float(), torch.cat([labels for _, labels in pairs])

    def training_step(self, batch: Batch) -> Tensor:
        """Cross-entropy over the current task's classes, and the energies of an outlier batch."""
        if isinstance(batch, OutlierBatch):
            return self._outlier_step(batch)
        features = self._features(batch)
        if self.stage == WARM_UP:
            features = features.detach()
        return current_task_loss(self._logits(features), batch.targets, self.old_classes)

    def _outlier_step(self, batch: OutlierBatch) -> Tensor:
        logits, config = self._logits(batch.features), self.config.outliers
        outlier_logits = self._logits(batch.outliers)[:, self.old_classes :]
        regulariser = energy_loss(logits[:, self.old_classes :], outlier_logits, config)
        return current_task_loss(logits, batch.targets, self.old_classes) + config.weight * regulariser

    def predict(self, batch: Batch) -> Tensor:
        return self._logits(self._features(batch))

    def settled(self) -> dict[str, Tensor]:
        """The classifier's rows of all classes seen: they get no gradient in later tasks."""
        rows = torch.cat([self.head.weight, self.head.bias[:, None]], dim=1)
        return {f"classifier of class {number}": rows[number] for number in range(self.seen_classes)}

    def _logits(self, features: Tensor) -> Tensor:
        return seen_logits(self.head, features, self.seen_classes)

    def _features(self, batch: Batch) -> Tensor:
        """Prompted class-token features (B, d)."""
        prompts = [*zip(GENERAL_BLOCKS, self.general, strict=True), *zip(EXPERT_BLOCKS, self.expert, strict=True)]
        return self.backbone(batch.images, {block: self._rule(rows) for block, rows in prompts})

    def _rule(self, rows: Tensor) -> AttentionRule:
        keys, values = split_heads(rows, self.backbone.num_heads).chunk(2, dim=1)
        return PlainPrefix(keys, values)
