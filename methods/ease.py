"""EASE (CVPR 2024): an adapter in every block for each task, and a prototype of each class in every adapter's features.

Source: EASE card. Logits are cosines to prototypes, summed over the tasks' subspaces; the prototypes that an old class lacks in
the subspaces of later tasks are put together from those of later classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from smope_bench.methods.common.api import (
    Batch,
    Method,
    MethodCard,
    MethodConfig,
    ParameterGroup,
    Phase,
    Setup,
    TaskInfo,
    TrainingData,
)
from smope_bench.methods.common.classifier import current_task_loss
from smope_bench.methods.common.vit.block_adaptation import Adapter, BlockAdaptation, dropout_mask
from smope_bench.methods.common.vit.vit import PromptedViT


class EaseConfig(MethodConfig):
    """The adapters (card, sections 1 and 2), the loss (3), the prototypes (4) and the logits (5)."""

    bottleneck: int = Field(default=64, ge=1, le=4096, description="width of the adapters")
    adapter_scale: float = Field(default=0.1, gt=0, description="factor of what an adapter adds, its bias included")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="dropout of the bottleneck in training")
    proxy_scale: float = Field(default=1.0, gt=0, description="factor of the training logits at a task's start")
    train_proxy_scale: bool = Field(default=True, description="train that factor, with weight decay (code)")
    adapters: int | None = Field(
        default=None,
        ge=1,
        description="only the first tasks get an adapter, as many as given; their features and the bare ones are one vector, and"
        " reweight has no effect (moni_adam, adapter_num); no value: every task gets one",
    )
    recompute: bool = Field(
        default=True,
        description="make all missing prototypes anew after every task, from all later classes (code); else once, in the newest"
        " subspace, from the new classes",
    )
    diagonal: bool = Field(default=False, description="prototypes in a class's own subspace only; the others are zero")
    reweight: bool = Field(default=True, description="one cosine a subspace, weighted; else one cosine of all features")
    alpha: float = Field(default=0.1, ge=0, description="weight of the subspaces that are not a class's own")
    share_alpha: bool = Field(default=True, description="divide alpha by their number (code)")
    bare_features: bool = Field(default=False, description="add the subspace of the backbone without an adapter")
    beta: float = Field(default=1.0, ge=0, description="bare_features: its weight")


class TaskAdapters(nn.Module):
    """Adapters of one task, one a block: down (blocks, b, d), down_bias (blocks, b), up (blocks, d, b), up_bias (blocks, d)."""

    def __init__(self, blocks: int, bottleneck: int, width: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(width)
        self.down = nn.Parameter(torch.empty(blocks, bottleneck, width).uniform_(-bound, bound))
        self.down_bias = nn.Parameter(torch.zeros(blocks, bottleneck))
        self.up = nn.Parameter(torch.zeros(blocks, width, bottleneck))
        self.up_bias = nn.Parameter(torch.zeros(blocks, width))

    def adaptations(self, scale: float, masks: Sequence[Tensor] | None = None) -> dict[int, BlockAdaptation]:
        """All blocks with their adapter beside the MLP; ``masks``: dropout of each block."""
        parts = zip(self.down, self.up, self.down_bias, self.up_bias, masks or [None] * len(self.down), strict=True)
        return {
            block: BlockAdaptation(beside_mlp=Adapter(down, up, down_bias, up_bias, scale, mask=mask))
            for block, (down, up, down_bias, up_bias, mask) in enumerate(parts)
        }


class EASE(Method):
    """Adapters of all tasks; ``prototypes`` (classes, tasks, d), ``bare_prototypes`` (classes, d).

    A task is trained with proxies (classes, d), of which it uses the rows of its own classes, drawn at its start, and one scale.
    """

    name = "ease"
    card = MethodCard(
        title="EASE",
        summary="an adapter in every block for each task; cosines to class prototypes in the features of all tasks' adapters",
        paper="Expandable Subspace Ensemble for Pre-Trained Model-Based Class-Incremental Learning, CVPR 2024",
        paper_url="https://arxiv.org/abs/2403.12030",
        code_url="https://github.com/sun-hailong/CVPR24-Ease",
        kind="adapter",
    )
    Config = EaseConfig
    unfit_because = "it scores a class mainly in the features of the one task that it came with"
    grows_with_tasks = ("prototypes", "class_ends")
    only_for_training = ("proxies", "proxy_scale")
    on_host = ("_progress", "class_ends")
    config: EaseConfig
    prototypes: Tensor
    bare_prototypes: Tensor
    class_ends: Tensor
    """Number of classes seen after each task (tasks,)."""

    def __init__(self, config: EaseConfig, backbone: PromptedViT, setup: Setup) -> None:
        super().__init__(config, backbone, setup)
        width, count = backbone.feature_dim, min(config.adapters or setup.num_tasks, setup.num_tasks)
        self.uses_bare = config.bare_features or config.adapters is not None
        self.__dict__["needs_query"] = self.uses_bare
        self.adapters = nn.ModuleList(TaskAdapters(backbone.depth, config.bottleneck, width) for _ in range(count))
        self.proxies = nn.Parameter(torch.zeros(setup.num_classes, width))
        self.proxy_scale = nn.Parameter(torch.tensor(config.proxy_scale))
        self.register_buffer("prototypes", torch.zeros(setup.num_classes, count, width))
        self.register_buffer("class_ends", torch.zeros(setup.num_tasks, dtype=torch.long))
        if self.uses_bare:
            self.register_buffer("bare_prototypes", torch.zeros(setup.num_classes, width))

    # -- training ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def begin_task(self, task: TaskInfo) -> None:
        """Proxies of the new classes, and the scale."""
        bound = 1 / math.sqrt(self.backbone.feature_dim)
        self.class_ends[task.index] = task.seen_classes
        self.proxies[task.old_classes : task.seen_classes].uniform_(-bound, bound)
        self.proxy_scale.fill_(self.config.proxy_scale)

    def phases(self) -> list[Phase]:
        """The task's adapters and proxies; nothing in tasks without an adapter of their own."""
        return [Phase("adapters", self.setup.schedule.epochs)] if self.task_index < len(self.adapters) else []

    def parameter_groups(self) -> list[ParameterGroup]:
        """The task's own adapters, the proxies and their scale."""
        scale = [self.proxy_scale] if self.config.train_proxy_scale else []
        return [
            ParameterGroup("adapters", list(self.adapters[self.task_index].parameters())),
            ParameterGroup("proxies", [self.proxies, *scale]),
        ]

    def training_step(self, batch: Batch) -> Tensor:
        """Cross-entropy of scaled cosines to the proxies of the current task's classes."""
        masks = self._masks(batch.images) if self.config.dropout else None
        features = self.backbone(batch.images, self._adaptations(self.task_index, masks))
        with torch.autocast(features.device.type, enabled=False):
            proxies = F.normalize(self.proxies[self.old_classes : self.seen_classes], dim=1)
            logits = self.proxy_scale * F.linear(F.normalize(features.float(), dim=1), proxies)
        return current_task_loss(logits, batch.targets - self.old_classes, 0)

    def _masks(self, images: Tensor) -> list[Tensor]:
        size = len(images), self.backbone.num_tokens, self.config.bottleneck
        return [dropout_mask(*size, self.config.dropout, images.device) for _ in range(self.backbone.depth)]

    def _adaptations(self, task: int, masks: Sequence[Tensor] | None = None) -> dict[int, BlockAdaptation]:
        adapters = self.adapters[task]
        assert isinstance(adapters, TaskAdapters)
        return adapters.adaptations(self.config.adapter_scale, masks)

    # -- prototypes ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def end_task(self, data: TrainingData) -> None:
        """Class means of the task's images in all subspaces, then what old classes lack (card, section 4)."""
        classes, subspaces = len(self.new_classes), self.passes_at_test
        device, width = self.prototypes.device, self.backbone.feature_dim
        counts = torch.zeros(classes, dtype=torch.double, device=device)
        sums = torch.zeros(subspaces, classes, width, dtype=torch.double, device=device)
        bare = torch.zeros(classes, width, dtype=torch.double, device=device)
        for batch in data.batches(augment=False):
            labels = batch.targets - self.old_classes
            counts.index_add_(0, labels, torch.ones_like(labels, dtype=torch.double))
            sums.index_add_(1, labels, self._features(batch).double())
            if self.uses_bare:
                bare.index_add_(0, labels, batch.features.double())
        new = slice(self.old_classes, self.seen_classes)
        means = (sums / counts[:, None]).transpose(0, 1).float()
        first = self.task_index if self.config.diagonal else 0
        self.prototypes[new, first:subspaces] = means[:, first:]
        if self.uses_bare:
            self.bare_prototypes[new] = (bare / counts[:, None]).float()
        if not self.config.diagonal:
            self._complement()

    def _complement(self) -> None:
        """Prototypes of old classes in later subspaces: softmax-weighted means of those of later classes."""
        newest = self.task_index
        with torch.autocast(self.prototypes.device.type, enabled=False):
            for own in range(min(newest, len(self.adapters))):
                old = self._classes_of(own)
                for subspace in range(own + 1 if self.config.recompute else newest, self.passes_at_test):
                    later = slice(self._classes_of(subspace).start, self.seen_classes)
                    similarity = cosine(self.prototypes[old, own], self.prototypes[later, own])
                    self.prototypes[old, subspace] = similarity.softmax(dim=1) @ self.prototypes[later, subspace]

    def _classes_of(self, task: int) -> slice:
        return slice(int(self.class_ends[task - 1]) if task else 0, int(self.class_ends[task]))

    # -- answers -------------------------------------------------------------------------------------------------------

    @property
    def passes_at_test(self) -> int:
        """One for each adapter so far."""
        return min(self.task_index + 1, len(self.adapters))

    @property
    def statistics_passes(self) -> int:
        """Class means are taken in every subspace."""
        return self.passes_at_test + self.uses_bare

    def predict(self, batch: Batch) -> Tensor:
        features = self._features(batch).float().transpose(0, 1)
        bare = batch.features.float() if self.uses_bare else None
        with torch.autocast(features.device.type, enabled=False):
            return self.logits(features, bare)

    def logits(self, features: Tensor, bare: Tensor | None = None) -> Tensor:
        """Features (B, subspaces, d) and, if they are used, bare ones (B, d) to logits (B, seen classes) (card, section 5)."""
        config, subspaces = self.config, features.shape[1]
        prototypes = self.prototypes[: self.seen_classes, :subspaces]
        if not config.reweight or config.adapters is not None:
            rows, columns = features.flatten(1), prototypes.flatten(1)
            if bare is not None:
                rows, columns = (
                    torch.cat([bare, rows], 1),
                    torch.cat([self.bare_prototypes[: len(columns)], columns], 1),
                )
            return cosine(rows, columns)
        others = self.task_index if config.share_alpha else 1
        weights = prototypes.new_full((subspaces, 1, len(prototypes)), config.alpha / max(others, 1))
        for task in range(self.task_index + 1):
            weights[task, :, self._classes_of(task)] = 1
        rows, columns = F.normalize(features, dim=-1).transpose(0, 1), F.normalize(prototypes, dim=-1).permute(1, 2, 0)
        found = (rows @ columns * weights).sum(0)
        if bare is not None:
            found = found + config.beta * cosine(bare, self.bare_prototypes[: len(prototypes)])
        return found

    def _features(self, batch: Batch) -> Tensor:
        """Features (subspaces, B, d) with the adapters of each task so far."""
        return self.backbone.forward_each(
            batch.images, [self._adaptations(task) for task in range(self.passes_at_test)]
        )

    def settled(self) -> dict[str, Tensor]:
        """Adapters, and the prototypes that are true means, of finished tasks."""
        return dict(self._settled())

    def _settled(self) -> Iterator[tuple[str, Tensor]]:
        for task in range(self.task_index + 1):
            classes, subspaces = self._classes_of(task), min(task + 1, len(self.adapters))
            yield f"prototypes of task {task + 1}", self.prototypes[classes, :subspaces]
            if task < len(self.adapters):
                for name, tensor in self.adapters[task].named_parameters():
                    yield f"adapters of task {task + 1}, {name}", tensor


def cosine(rows: Tensor, columns: Tensor) -> Tensor:
    """Cosines (n, m) of vectors (n, d) and (m, d); 0 for a zero vector."""
    return F.linear(F.normalize(rows, dim=-1), F.normalize(columns, dim=-1))
