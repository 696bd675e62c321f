"""One shared prefix for all tasks, trained task after task: the floor of every prompt method."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor, nn

from smope_bench.methods.common.alignment.class_stats import ClassStatistics
from smope_bench.methods.common.alignment.tap import TapConfig, align_after_task
from smope_bench.methods.common.api import Batch, Method, MethodCard, MethodConfig, ParameterGroup, Setup, TrainingData
from smope_bench.methods.common.classifier import current_task_loss, make_head, seen_logits
from smope_bench.methods.common.prefix import PlainPrefix
from smope_bench.methods.common.vit.vit import AttentionRule, PromptedViT


class OnePromptConfig(MethodConfig):
    """A prefix of ``length`` pairs in the first blocks, and whether the classifier is aligned after each task."""

    prompt_blocks: int = Field(default=6, ge=1, le=64, description="the first so many blocks are prompted")
    length: int = Field(default=25, ge=1, le=4096, description="key/value pairs a head")
    prompt_lr_mult: float = Field(default=5.0, gt=0, description="prompts' rate in units of the classifier's")
    prompt_init: float = Field(default=1.0, gt=0, description="prefixes start uniform in [0, prompt_init)")
    mask_old_logits: bool = Field(default=True, description="only the current task's classes in the training softmax")
    tap: TapConfig = Field(
        default=TapConfig(enabled=False), description="alignment of the classifier after each task on class statistics"
    )


class OnePrompt(Method):
    """Ordinary prefix tuning with one classifier; same size and place of the prompt as the sparse methods."""

    name = "one_prompt"
    card = MethodCard(
        title="One prompt",
        summary="one shared prefix and head, trained sequentially; tap.enabled=true aligns the head after each task",
        kind="floor",
    )
    Config = OnePromptConfig
    only_for_training = ("statistics.*",)
    protocols = frozenset({"class", "domain"})
    config: OnePromptConfig

    def __init__(self, config: OnePromptConfig, backbone: PromptedViT, setup: Setup) -> None:
        super().__init__(config, backbone, setup)
        backbone.require_blocks(config.prompt_blocks, self.name)
        shape = (config.prompt_blocks, backbone.num_heads, config.length, backbone.head_dim)
        self.prefix_keys = nn.Parameter(torch.rand(shape) * config.prompt_init)
        self.prefix_values = nn.Parameter(torch.rand(shape) * config.prompt_init)
        self.head = make_head(backbone.feature_dim, setup.num_classes)
        self.statistics = ClassStatistics(setup.num_classes, backbone.feature_dim, config.tap.cov)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Prompts at a multiple of the classifier's rate."""
        return [
            ParameterGroup("prompts", [self.prefix_keys, self.prefix_values], self.config.prompt_lr_mult),
            ParameterGroup("head", list(self.head.parameters())),
        ]

    def training_step(self, batch: Batch) -> Tensor:
        logits = self.predict(batch)
        return current_task_loss(
            logits, batch.targets, self.old_classes, mask_old=self.config.mask_old_logits, absent=self.absent_classes
        )

    def end_task(self, data: TrainingData) -> None:
        pairs = self._training_features(data)
        align_after_task(self.head, self.statistics, pairs, self.new_classes, self.config.tap)

    def predict(self, batch: Batch) -> Tensor:
        return seen_logits(self.head, self.backbone(batch.images, self._rules()), self.seen_classes)

    @torch.no_grad()
    def _training_features(self, data: TrainingData) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in data.batches():
            yield self.backbone(batch.images, self._rules()), batch.targets

    def _rules(self) -> dict[int, AttentionRule]:
        pairs = zip(self.prefix_keys, self.prefix_values, strict=True)
        return {layer: PlainPrefix(keys, values) for layer, (keys, values) in enumerate(pairs)}
