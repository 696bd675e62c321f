"""VQ-Prompt (NeurIPS 2024): a soft mixture of codewords picks the nearest codeword as prompt, trained straight-through.

Source: VQ-Prompt card; the default is the official code's behaviour. One pool for all tasks; nothing is frozen or added, and
the classifier is aligned after each task. Shapes: L prompted blocks, N codewords of T tokens, width d.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from smope_bench.methods.common.alignment.class_stats import ClassStatistics
from smope_bench.methods.common.alignment.tap import TapConfig, align_after_task, filled_from
from smope_bench.methods.common.api import (
    Batch,
    Geometry,
    Method,
    MethodCard,
    MethodConfig,
    ParameterGroup,
    PublishedCost,
    Setup,
    TrainingData,
)
from smope_bench.methods.common.classifier import current_task_loss, make_head, seen_logits
from smope_bench.methods.common.prompts.pools import PromptPool, gather_entries, prefix_rules
from smope_bench.methods.common.vit.vit import AttentionRule, PromptedViT

VQ_TAP = TapConfig(epochs=10, samples=512)
"""The statistics stage (card, section 4): samples are four times a training batch of 128, on CUB-200 twice."""


class VQPromptConfig(MethodConfig):
    """Hyper-parameters (card, sections 1 to 5)."""

    prompt_blocks: int = Field(default=5, ge=1, le=64, description="the first so many blocks are prompted")
    codewords: int = Field(default=10, ge=1, le=4096, description="codewords and keys a block, for any number of tasks")
    length: int = Field(default=8, ge=2, le=4096, multiple_of=2, description="tokens: half prefix keys, half values")
    temperature: float = Field(
        default=1.0, gt=0, description="of the mixture; scores grow with the norm of the query (5 on CUB-200)"
    )
    mixture_weight: float = Field(default=0.4, ge=0, description="pull of the mixture to its fixed codeword")
    codeword_weight: float = Field(default=0.1, ge=0, description="pull of the codeword to its fixed mixture")
    prompt_lr_mult: float = Field(default=5.0, gt=0, description="prompts' rate in units of the classifier's")
    prompt_init: float = Field(default=1.0, gt=0, description="codewords start uniform in [0, prompt_init)")
    mask_old_logits: bool = Field(default=True, description="only the current task's classes in the training softmax")
    tap: Annotated[TapConfig, filled_from(VQ_TAP)] = Field(
        default=VQ_TAP, description="alignment of the classifier after each task on class statistics"
    )


@dataclass(frozen=True)
class Quantised:
    """Prompts of B images: soft ``mixture`` and nearest ``codes``, each (L, B, T, d); ``chosen`` (L, B) numbers the codes."""

    mixture: Tensor
    codes: Tensor
    chosen: Tensor

    @property
    def prompts(self) -> Tensor:
        """The value of the codes with the gradient of the mixture."""
        return self.mixture + (self.codes - self.mixture).detach()

    def loss(self, mixture_weight: float, codeword_weight: float) -> Tensor:
        """Mean squared difference of a block, with both commitment terms (card, section 3): scalar, summed over blocks."""
        pulled = mixture_weight * (self.mixture - self.codes.detach()).square()
        pulling = codeword_weight * (self.codes - self.mixture.detach()).square()
        return (pulled + pulling).mean(dim=(1, 2, 3)).sum()


class VQPrompt(Method):
    """A pool of codewords (L, N, T, d) with keys (L, N, d), class statistics, and one classifier."""

    name = "vq_prompt"
    card = MethodCard(
        title="VQ-Prompt",
        summary="nearest codeword to a soft mixture, straight-through gradients, vector quantisation loss, TAP",
        paper="Vector Quantization Prompting for Continual Learning, NeurIPS 2024",
        paper_url="https://arxiv.org/abs/2410.20444",
        code_url="https://github.com/jiaolifengmi/VQ-Prompt",
    )
    Config = VQPromptConfig
    only_for_training = ("statistics.*",)
    protocols = frozenset({"class", "domain"})
    config: VQPromptConfig
    needs_query = True

    def __init__(self, config: VQPromptConfig, backbone: PromptedViT, setup: Setup) -> None:
        super().__init__(config, backbone, setup)
        backbone.require_blocks(config.prompt_blocks, self.name)
        dim = backbone.feature_dim
        self.pool = PromptPool(
            config.prompt_blocks, config.codewords, config.length, dim, prompt_init=config.prompt_init
        )
        self.head = make_head(dim, setup.num_classes)
        self.statistics = ClassStatistics(setup.num_classes, dim, config.tap.cov)

    @classmethod
    def published_cost(cls, geometry: Geometry) -> PublishedCost:
        """Card, sections 6 and 7: the code's own count; key scores and mixture, not the search for the nearest codeword."""
        config, dim = VQPromptConfig(), geometry.dim
        selection = config.prompt_blocks * config.codewords * 2 * (1 + config.length) * dim
        return PublishedCost(
            parameters=config.prompt_blocks * config.codewords * (config.length + 1) * dim
            + (dim + 1) * geometry.num_classes,
            train_passes=2,
            test_passes=2,
            extra_train_flops=selection,
            extra_test_flops=selection,
            note="stored class statistics and the alignment of the classifier are not counted",
        )

    def parameter_groups(self) -> list[ParameterGroup]:
        """Codewords and keys at a multiple of the classifier's rate."""
        return [
            ParameterGroup("prompts", list(self.pool.parameters()), self.config.prompt_lr_mult),
            ParameterGroup("head", list(self.head.parameters())),
        ]

    def training_step(self, batch: Batch) -> Tensor:
        """Cross-entropy over the current task's classes plus the quantisation loss."""
        config, found = self.config, self._quantised(batch)
        logits = seen_logits(self.head, self.backbone(batch.images, self._rules(found)), self.seen_classes)
        loss = current_task_loss(
            logits, batch.targets, self.old_classes, mask_old=config.mask_old_logits, absent=self.absent_classes
        )
        return loss + found.loss(config.mixture_weight, config.codeword_weight)

    def end_task(self, data: TrainingData) -> None:
        """Statistics of the new classes, on augmented images as published, then alignment."""
        pairs = self._training_features(data)
        align_after_task(self.head, self.statistics, pairs, self.new_classes, self.config.tap)

    def predict(self, batch: Batch) -> Tensor:
        """Logits of all seen classes; prompts are chosen as in training."""
        return seen_logits(self.head, self._features(batch), self.seen_classes)

    def settled(self) -> dict[str, Tensor]:
        """Each seen class's mean and covariance, which no later task refreshes unless classes come again."""
        if not self.config.tap.enabled or self.setup.protocol == "domain":
            return {}
        means = {f"mean of class {label}": self.statistics.mean[label] for label in range(self.seen_classes)}
        spreads = {f"covariance of class {c}": self.statistics.covariance[c] for c in range(self.seen_classes)}
        return means | spreads

    @torch.no_grad()
    def _training_features(self, data: TrainingData) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in data.batches():
            yield self._features(batch), batch.targets

    def _features(self, batch: Batch) -> Tensor:
        return self.backbone(batch.images, self._rules(self._quantised(batch)))

    def _quantised(self, batch: Batch) -> Quantised:
        return quantise(batch.features, self.pool.keys, self.pool.prompts, self.config.temperature)

    def _rules(self, found: Quantised) -> dict[int, AttentionRule]:
        prompts = found.prompts[:, :, None]
        return prefix_rules(range(self.config.prompt_blocks), prompts, self.backbone.num_heads)


def quantise(query: Tensor, keys: Tensor, codewords: Tensor, temperature: float) -> Quantised:
    """Mix codewords (L, N, T, d) by the softmax of queries (B, d) on unit keys (L, N, d), then take the nearest; float32.

    The query, which gets no gradient, keeps its length (card, section 2).
    """
    with torch.autocast(query.device.type, enabled=False):
        weights = mixing_weights(query, keys, temperature)
        mixture = torch.einsum("lbn,lntd->lbtd", weights, codewords)
        chosen = squared_distances(weights, codewords).argmin(dim=-1)
        codes = gather_entries(codewords, chosen[:, :, None])[:, :, 0]
    return Quantised(mixture, codes, chosen)


def mixing_weights(query: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Softmax over codewords (L, B, N) of queries' products with the unit keys."""
    scores = torch.einsum("bd,lnd->lbn", query.detach().to(keys.dtype), F.normalize(keys, dim=-1))
    return (scores / temperature).softmax(dim=-1)


@torch.no_grad()
def squared_distances(weights: Tensor, codewords: Tensor) -> Tensor:
    """Squared distance (L, B, N) of each mixture to each codeword, in double precision.

    A mixture lies in the codewords' span, so their Gram matrix suffices; it is centred on their mean to avoid cancellation.
    """
    rows = codewords.flatten(2).double()
    rows = rows - rows.mean(dim=1, keepdim=True)
    gram = rows @ rows.transpose(1, 2)
    exact = weights.double()
    mixed = exact @ gram
    own = (mixed * exact).sum(dim=-1, keepdim=True)
    return own - 2 * mixed + gram.diagonal(dim1=1, dim2=2)[:, None]
