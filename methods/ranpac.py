"""RanPAC (NeurIPS 2023): ridge regression on a random, rectified expansion of frozen features. Source: arXiv 2307.02251.

There is no card of this method. As in the official code: rows relu(f W) without a bias, W standard normal, second moments
accumulated over tasks, the penalty chosen after every task on the last fifth of its shuffled training images.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from smope_bench.methods.common.alignment.ridge import RidgeMoments, choose_penalty
from smope_bench.methods.common.api import (
    Batch,
    Method,
    MethodCard,
    MethodConfig,
    ParameterGroup,
    Phase,
    Setup,
    TrainingData,
)
from smope_bench.methods.common.classifier import current_task_loss, make_head, seen_logits
from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.prefix import PlainPrefix
from smope_bench.methods.common.vit.vit import AttentionRule, PromptedViT

PUBLISHED_RATIO = 10_000 / 768
LARGEST = 20_000
PENALTIES = tuple(10.0**power for power in range(-8, 9))


class RanPACConfig(MethodConfig):
    """Size of the expansion, and whether a prefix is tuned on the first task before everything is frozen."""

    projection: int | None = Field(
        default=None,
        description="random features, M; without a value 10000 at the published feature width of 768, in proportion to it",
    )
    first_task_tuning: bool = Field(default=False, description="tune a prefix on the first task, then freeze it")
    prompt_blocks: int = Field(default=6, ge=1, le=64, description="this and the following: the tuned prefix")
    length: int = Field(default=25, ge=1, le=4096, description="key/value pairs a head")
    prompt_lr_mult: float = Field(default=5.0, gt=0, description="prompts' rate in units of the classifier's")
    prompt_init: float = Field(default=1.0, gt=0, description="prefixes start uniform in [0, prompt_init)")

    @field_validator("projection")
    @classmethod
    def _sensible(cls, value: int | None) -> int | None:
        if value is not None and not 2 <= value <= LARGEST:
            gigabytes = value**2 * 8 / 1e9
            raise ValueError(
                f"projection={value} would keep a {value} x {value} matrix ({gigabytes:.1f} GB); use 2 to {LARGEST}"
            )
        return value


class RanPAC(Method):
    """Accumulated moments of random features; a prefix beside them where the first task is tuned."""

    name = "ranpac"
    card = MethodCard(
        title="RanPAC",
        summary="random projection, ReLU and ridge on frozen features; first_task_tuning=true tunes a prefix first",
        paper="RanPAC: Random Projections and Pre-trained Models for Continual Learning, NeurIPS 2023",
        paper_url="https://arxiv.org/abs/2307.02251",
        code_url="https://github.com/McDonnell-Lab/RanPAC",
    )
    Config = RanPACConfig
    on_host = ("_progress", "seed")
    only_for_training = ("moments.*",)
    protocols = frozenset({"class", "domain"})
    config: RanPACConfig
    needs_query = True
    seed: Tensor
    weight: Tensor
    penalty: Tensor

    def __init__(self, config: RanPACConfig, backbone: PromptedViT, setup: Setup) -> None:
        super().__init__(config, backbone, setup)
        # A tuned model does not use frozen features; computing them would cost a pass.
        self.__dict__["needs_query"] = not config.first_task_tuning
        self.size = config.projection or round(PUBLISHED_RATIO * backbone.feature_dim)
        if self.size < setup.num_classes:
            raise MethodError(
                f"{self.name}: {self.size} random features cannot tell {setup.num_classes} classes apart;"
                f" set projection to at least {setup.num_classes}"
            )
        self.moments = RidgeMoments(self.size, setup.num_classes)
        self.register_buffer("weight", torch.zeros(setup.num_classes, self.size))
        self.register_buffer("penalty", torch.zeros((), dtype=torch.double))
        # Only the projection's seed is stored: it is drawn again from it, and checkpoints stay small.
        self.register_buffer("seed", torch.randint(2**62, ()))
        if config.first_task_tuning:
            backbone.require_blocks(config.prompt_blocks, self.name)
            shape = (config.prompt_blocks, backbone.num_heads, config.length, backbone.head_dim)
            self.prefix_keys = nn.Parameter(torch.rand(shape) * config.prompt_init)
            self.prefix_values = nn.Parameter(torch.rand(shape) * config.prompt_init)
            self.head = make_head(backbone.feature_dim, setup.num_classes)

    # -- the first task, where it is tuned -----------------------------------------------------------------------------

    def phases(self) -> list[Phase]:
        """Prefix and a temporary head in the first task, where configured; nothing is trained by gradient after it."""
        tunes = self.config.first_task_tuning and self.task_index == 0
        return [Phase("tune", self.setup.schedule.epochs)] if tunes else []

    def parameter_groups(self) -> list[ParameterGroup]:
        """The prefix and its temporary head; nothing without tuning."""
        if not self.config.first_task_tuning:
            return []
        return [
            ParameterGroup("prompts", [self.prefix_keys, self.prefix_values], self.config.prompt_lr_mult),
            ParameterGroup("head", list(self.head.parameters())),
        ]

    def training_step(self, batch: Batch) -> Tensor:
        """Cross-entropy of the temporary head."""
        logits = seen_logits(self.head, self._features(batch), self.seen_classes)
        return current_task_loss(logits, batch.targets, self.old_classes, absent=self.absent_classes)

    # -- closed form ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def end_task(self, data: TrainingData) -> None:
        """Choose the penalty on the task's own images, add their moments, and solve for all classes seen."""
        shown = data.batches(shuffle=True, augment=False)
        pairs = [(self._features(batch), batch.targets) for batch in shown]
        rows = self.expand(torch.cat([features for features, _ in pairs]))
        labels = torch.cat([targets for _, targets in pairs])
        self.penalty.fill_(choose_penalty(rows, labels, PENALTIES))
        self.moments.add(rows, labels)
        self.weight[: self.seen_classes] = self.moments.solve(self.penalty, self.seen_classes).T.float()

    def expand(self, features: Tensor) -> Tensor:
        """Features (B, d) to rectified random features (B, M) in float32."""
        with torch.autocast(features.device.type, enabled=False):
            return F.relu(features.float() @ self.projection(features.device))

    def projection(self, device: torch.device) -> Tensor:
        """The random matrix (d, M) of the kept seed; independent of the device that it is used on."""
        key = (int(self.seed), str(device))
        drawn: tuple[Any, Tensor] | None = self.__dict__.get("_drawn")
        if drawn is None or drawn[0] != key:
            generator = torch.Generator().manual_seed(key[0])
            matrix = torch.randn(self.backbone.feature_dim, self.size, generator=generator).to(device)
            drawn = self.__dict__["_drawn"] = (key, matrix)
        return drawn[1]

    def predict(self, batch: Batch) -> Tensor:
        rows = self.expand(self._features(batch))
        with torch.autocast(rows.device.type, enabled=False):
            return F.linear(rows, self.weight[: self.seen_classes])

    def settled(self) -> dict[str, Tensor]:
        """The random projection's seed, and the prefix once the first task is over."""
        kept = {"seed": self.seed}
        if self.config.first_task_tuning:
            kept |= {"prefix keys": self.prefix_keys, "prefix values": self.prefix_values}
        return kept

    def _features(self, batch: Batch) -> Tensor:
        if not self.config.first_task_tuning:
            return batch.features
        pairs = zip(self.prefix_keys, self.prefix_values, strict=True)
        rules: dict[int, AttentionRule] = {
            layer: PlainPrefix(keys, values) for layer, (keys, values) in enumerate(pairs)
        }
        return self.backbone(batch.images, rules)
