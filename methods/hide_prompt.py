"""HiDe-Prompt: a prefix a task, chosen by a task-inference network (NeurIPS 2023). Source: HiDe-Prompt card.

Each task trains the inference network on frozen features, then its own prefix and the classifier. At test the first predicts
an image's task and the second classifies it with that task's prefix. Both are aligned on class statistics.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from smope_bench.methods.common.alignment.centroids import StatisticsKind, make_statistics
from smope_bench.methods.common.alignment.tap import HIDE_TAP, HideTap, align
from smope_bench.methods.common.alignment.task_inference import TaskInference, TaskInferenceConfig, mlp_cost
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
    TaskInfo,
    TrainingData,
)
from smope_bench.methods.common.classifier import current_task_loss, make_head, seen_logits
from smope_bench.methods.common.prefix import PlainPrefix
from smope_bench.methods.common.vit.vit import AttentionRule, PromptedViT


def contrastive_loss(features: Tensor, prototypes: Tensor, temperature: float = 0.8) -> Tensor:
    """Contrastive loss that separates every row from all others: scalar, mean over prototypes and features.

    ``features``: (B, d), not normalised; ``prototypes``: (M, d) of earlier classes, without gradient, M may be 0. Each row is
    its own target in a softmax over its dot products with all M + B rows; labels are not used. Float32 throughout: squared
    norms over the temperature are large.
    """
    with torch.autocast(features.device.type, enabled=False):
        rows = torch.cat([prototypes.detach().float(), features.float()])
        logits = rows @ rows.T / temperature
        return F.cross_entropy(logits, torch.arange(len(rows), device=rows.device))


TABLE_BLOCKS, TABLE_LENGTH = 5, 20


class HidePromptConfig(MethodConfig):
    """Hyper-parameters (card, sections 2, 3 and 6.2) and the published leak as a switch (card, section 2.4)."""

    prompt_blocks: int = Field(default=5, ge=1, le=64, description="the first so many blocks are prompted")
    length: int = Field(default=20, ge=1, le=4096, description="key/value pairs a head: half of the paper's N_p")
    prompt_init: float = Field(default=1.0, gt=0, description="prefixes start uniform in (-prompt_init, prompt_init)")
    head_lr_mult: float = Field(
        default=0.1, gt=0, description="classifier's rate relative to the prompts'; 1 on CUB-200"
    )
    contrastive: float = Field(default=0.1, ge=0, description="weight of the contrastive regulariser, lambda")
    temperature: float = Field(default=0.8, gt=0, description="of the contrastive regulariser")
    momentum: float = Field(default=0.01, ge=0, le=1, description="share of the earlier prompts' mean in a new prompt")
    retrieval: Literal["corrected", "published_leak"] = Field(
        default="corrected",
        description="published_leak mixes keys and values of different images of a batch, as the official code does",
    )
    statistics: StatisticsKind = Field(
        default="full", description="full or diagonal covariance, or ten k-means centroids a class"
    )
    tap: HideTap = Field(
        default=HIDE_TAP, description="alignment of the classifier after each task on class statistics"
    )
    task_inference: TaskInferenceConfig = Field(
        default=TaskInferenceConfig(), description="the network that predicts an image's task"
    )

    @model_validator(mode="after")
    def _one_kind_of_statistics(self) -> HidePromptConfig:
        for where, tap in (("tap", self.tap), ("task_inference.tap", self.task_inference.tap)):
            if tap.cov != "full":
                raise ValueError(f"{where}.cov={tap.cov} is not read by this method; set statistics={tap.cov} instead")
        return self


class HidePrompt(Method):
    """One prefix parameter a task, (2, blocks, heads, length, head_dim), one classifier, and the inference network."""

    name = "hide_prompt"
    card = MethodCard(
        title="HiDe-Prompt",
        summary="a prefix a task chosen by a task-inference network, contrastive regulariser, classifier alignment",
        paper="Hierarchical Decomposition of Prompt-Based Continual Learning: Rethinking Obscured Sub-optimality, NeurIPS 2023",
        paper_url="https://arxiv.org/abs/2310.07234",
        code_url="https://github.com/thu-ml/HiDe-Prompt",
    )
    Config = HidePromptConfig
    only_for_training = ("statistics.*", "inference.statistics.*")
    unfit_because = "it infers the task from the class, and a class belongs to one task only"
    config: HidePromptConfig
    needs_query = True

    def __init__(self, config: HidePromptConfig, backbone: PromptedViT, setup: Setup) -> None:
        super().__init__(config, backbone, setup)
        backbone.require_blocks(config.prompt_blocks, self.name)
        dim, classes = backbone.feature_dim, setup.num_classes
        shape = (2, config.prompt_blocks, backbone.num_heads, config.length, backbone.head_dim)
        self.prompts = nn.ParameterList(
            nn.Parameter((torch.rand(shape) * 2 - 1) * config.prompt_init) for _ in range(setup.num_tasks)
        )
        self.head = make_head(dim, classes, small=True)
        self.statistics = make_statistics(config.statistics, classes, dim)
        self.inference = TaskInference(dim, classes, config.task_inference, config.statistics)
        self.infers_tasks = False
        self.prototypes = torch.empty(0, dim)

    @classmethod
    def leaks(cls, config: HidePromptConfig) -> bool:
        """Whether images of a batch exchange their prompts."""
        return config.retrieval == "published_leak"

    @classmethod
    def published_cost(cls, geometry: Geometry) -> PublishedCost:
        """Everything trained in either stage, for all tasks; one prompted forward in training (card, section 7)."""
        dim, classes = geometry.dim, geometry.num_classes
        mlp_parameters, mlp_flops = mlp_cost(dim)
        prompts = 2 * TABLE_BLOCKS * TABLE_LENGTH * dim * geometry.num_tasks
        return PublishedCost(
            parameters=prompts + 2 * (dim * classes + classes) + mlp_parameters,
            train_passes=1,
            test_passes=2,
            extra_test_flops=mlp_flops,
            note="leaves out training of the task-inference network (a frozen pass an image) and the stored statistics",
        )

    # -- training ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def begin_task(self, task: TaskInfo) -> None:
        """A later task's prompt starts as a copy of the one before, as that was stored; prototypes of the classes before."""
        self.prototypes = self.statistics.prototypes(task.old_classes)
        if task.index > 0:
            self.prompts[task.index].copy_(self.prompts[task.index - 1])

    def phases(self) -> list[Phase]:
        """The inference network, then prompt and classifier; the order of the tasks' stages does not matter (card, 5)."""
        return [self.inference.phase(), Phase("prompts", self.setup.schedule.epochs)]

    def begin_phase(self, phase: Phase) -> None:
        """Store which of the two networks is trained."""
        self.infers_tasks = phase.name == self.inference.phase().name

    def parameter_groups(self) -> list[ParameterGroup]:
        """The current task's prompt at the base rate and the classifier at its share; or the inference network."""
        if self.infers_tasks:
            return self.inference.parameter_groups()
        return [
            ParameterGroup("prompts", self._prompt_parameters()),
            ParameterGroup("head", list(self.head.parameters()), self.config.head_lr_mult),
        ]

    def _prompt_parameters(self) -> list[nn.Parameter]:
        return [self.prompts[self.task_index]]

    def training_step(self, batch: Batch) -> Tensor:
        """Cross-entropy over the current classes; for prompts also the contrastive term against earlier classes."""
        if self.infers_tasks:
            return self.inference.loss(batch.features, batch.targets, self.old_classes, self.seen_classes)
        features = self._own_features(batch.images, self._with_momentum())
        logits = seen_logits(self.head, features, self.seen_classes)
        loss = current_task_loss(logits, batch.targets, self.old_classes)
        if self.config.contrastive > 0:
            loss = loss + self.config.contrastive * contrastive_loss(features, self.prototypes, self.config.temperature)
        return loss

    def _with_momentum(self) -> Tensor:
        """The current prompt, mixed with the mean of the earlier ones (card, section 2.5)."""
        own, share = self.prompts[self.task_index], self.config.momentum
        if self.task_index == 0 or share == 0:
            return own
        earlier = torch.stack([prompt.detach() for prompt in self.prompts[: self.task_index]])
        return (1 - share) * own + share * earlier.mean(dim=0)

    # -- after a task --------------------------------------------------------------------------------------------------

    def end_task(self, data: TrainingData) -> None:
        """Store the prompt as it was trained; statistics and alignment of both networks."""
        with torch.no_grad():
            self.prompts[self.task_index].copy_(self._with_momentum())
        self.inference.finish_task(_frozen_features(data), self.new_classes, self.task_index)
        self.statistics.collect(self.new_classes, self._instructed_features(data))
        old, seen = self.old_classes, self.seen_classes
        align(self.head, self.statistics, old_classes=old, seen_classes=seen, config=self.config.tap)

    @torch.no_grad()
    def _instructed_features(self, data: TrainingData) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in data.batches(augment=False):
            yield self._own_features(batch.images, self.prompts[self.task_index]), batch.targets

    def settled(self) -> dict[str, Tensor]:
        """Prompts and class statistics of finished tasks."""
        prompts = {f"prompt of task {task}": self.prompts[task] for task in range(self.task_index + 1)}
        return prompts | self.inference.settled(self.statistics)

    # -- inference and what it shares with training --------------------------------------------------------------------

    def predict(self, batch: Batch) -> Tensor:
        """Logits of all seen classes, each image with the prompt of the task inferred for it."""
        tasks = self.inference.task_of(batch.features, self.seen_classes)
        pool = torch.stack([*self.prompts[: self.task_index + 1]], dim=2)
        return seen_logits(self.head, self._prompted(batch.images, pool[:, :, tasks]), self.seen_classes)

    def _own_features(self, images: Tensor, prompt: Tensor) -> Tensor:
        """Features (B, d) where all images use one prompt (2, blocks, heads, length, head_dim)."""
        if self.leaks(self.config):
            return self._prompted(images, prompt[:, :, None].expand(-1, -1, len(images), -1, -1, -1))
        return self.backbone(images, self._rules(prompt))

    def _prompted(self, images: Tensor, prompts: Tensor) -> Tensor:
        """Features (B, d) where each image has a prompt: (2, blocks, B, heads, length, head_dim)."""
        return self.backbone(images, self._rules(mixed_up(prompts) if self.leaks(self.config) else prompts))

    def _rules(self, prompts: Tensor) -> dict[int, AttentionRule]:
        keys, values = prompts
        return {layer: self._rule(layer, keys[layer], values[layer]) for layer in range(self.config.prompt_blocks)}

    def _rule(self, layer: int, keys: Tensor, values: Tensor) -> AttentionRule:
        del layer
        return PlainPrefix(keys, values)


def mixed_up(prompts: Tensor) -> Tensor:
    """The published leak (card, section 2.4): prompts (2, blocks, B, ...) as the official reshape mixes them.

    Keys and values of a block are laid out one after the other, 2B rows, and read as B pairs of neighbours.
    """
    by_block = prompts.transpose(0, 1)
    return by_block.reshape(len(by_block), -1, 2, *prompts.shape[3:]).permute(2, 0, 1, *range(3, prompts.dim()))


def _frozen_features(data: TrainingData) -> Iterator[tuple[Tensor, Tensor]]:
    return ((batch.features, batch.targets) for batch in data.batches(augment=False))
