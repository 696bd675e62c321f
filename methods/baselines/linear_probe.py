"""A linear head on frozen features, trained task after task: the floor without a prompt."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from smope_bench.methods.common.alignment.class_stats import ClassStatistics
from smope_bench.methods.common.alignment.tap import TapConfig, align_after_task
from smope_bench.methods.common.api import Batch, Method, MethodCard, MethodConfig, ParameterGroup, Setup, TrainingData
from smope_bench.methods.common.classifier import current_task_loss, make_head, seen_logits
from smope_bench.methods.common.vit.vit import PromptedViT


class LinearProbeConfig(MethodConfig):
    """Whether old logits are masked in training, and whether the head is aligned after each task."""

    mask_old_logits: bool = Field(default=True, description="only the current task's classes in the training softmax")
    tap: TapConfig = Field(
        default=TapConfig(enabled=False), description="alignment of the classifier after each task on class statistics"
    )


class LinearProbe(Method):
    """Sequential training of the head alone."""

    name = "linear_probe"
    card = MethodCard(
        title="Linear probe",
        summary="head alone on frozen features, trained sequentially; tap.enabled=true aligns it after each task",
        kind="floor",
    )
    Config = LinearProbeConfig
    only_for_training = ("statistics.*",)
    protocols = frozenset({"class", "domain"})
    config: LinearProbeConfig
    needs_query = True

    def __init__(self, config: LinearProbeConfig, backbone: PromptedViT, setup: Setup) -> None:
        super().__init__(config, backbone, setup)
        self.head = make_head(backbone.feature_dim, setup.num_classes)
        self.statistics = ClassStatistics(setup.num_classes, backbone.feature_dim, config.tap.cov)

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("head", list(self.head.parameters()))]

    def training_step(self, batch: Batch) -> Tensor:
        logits = self.predict(batch)
        return current_task_loss(
            logits, batch.targets, self.old_classes, mask_old=self.config.mask_old_logits, absent=self.absent_classes
        )

    def end_task(self, data: TrainingData) -> None:
        pairs = ((batch.features, batch.targets) for batch in data.batches())
        align_after_task(self.head, self.statistics, pairs, self.new_classes, self.config.tap)

    def predict(self, batch: Batch) -> Tensor:
        return seen_logits(self.head, batch.features, self.seen_classes)
