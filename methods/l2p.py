"""L2P++: a pool of prefixes from which every image takes those with the nearest keys. Source: L2P card, all sections.

This is L2P with prefixes instead of input prompts, as in the CODA-Prompt repository, whose behaviour is the default.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from torch import Tensor

from smope_bench.methods.common.api import (
    Batch,
    Geometry,
    Method,
    MethodCard,
    MethodConfig,
    ParameterGroup,
    PublishedCost,
    Setup,
)
from smope_bench.methods.common.classifier import current_task_loss, make_head, seen_logits
from smope_bench.methods.common.prompts.pools import (
    PromptPool,
    choose,
    prefix_rules,
    pull_loss_over_batch,
    pull_loss_per_image,
)
from smope_bench.methods.common.vit.vit import PromptedViT

PULL_LOSSES = {"batch": pull_loss_over_batch, "image": pull_loss_per_image}


class L2PConfig(MethodConfig):
    """Sizes of the pool (card, section 1) and differences of the key loss from the official code."""

    prompt_blocks: int = Field(default=1, ge=1, le=64, description="the first so many blocks are prompted")
    pool_size: int = Field(default=30, ge=1, le=4096, description="entries a block")
    length: int = Field(
        default=20, ge=2, le=4096, multiple_of=2, description="tokens an entry, keys and values together"
    )
    top_k: int = Field(default=5, ge=1, le=4096, description="entries an image uses")
    shared_keys: bool = Field(default=False, description="one key matrix for all blocks, as Table 3 counts it")
    pull_loss: Literal["batch", "image"] = Field(
        default="batch",
        description="batch: keys turn to the batch's mean query (code); image: to those that chose them",
    )
    pull_weight: float = Field(default=1.0, ge=0, description="weight of the loss between queries and keys")
    prompt_lr_mult: float = Field(default=1.0, gt=0, description="prompts' rate in units of the classifier's")
    prompt_init: float = Field(default=1.0, gt=0, description="prefixes start uniform in [0, prompt_init)")
    key_init: float = Field(default=1.0, gt=0, description="pool keys start uniform in [0, key_init)")
    mask_old_logits: bool = Field(default=True, description="only the current task's classes in the training softmax")

    @model_validator(mode="after")
    def _pool_holds_the_choice(self) -> L2PConfig:
        if self.top_k > self.pool_size:
            raise ValueError(
                f"top_k={self.top_k} is more than the {self.pool_size} entries of the pool; lower top_k or raise pool_size"
            )
        return self


class L2P(Method):
    """A keyed pool for each prompted block, and one classifier. Everything is trained in every task."""

    name = "l2p++"
    card = MethodCard(
        title="L2P++",
        summary="a pool of prefixes in the first block; every image uses the five with the nearest keys",
        paper="Learning to Prompt for Continual Learning, CVPR 2022; with prefixes as in CODA-Prompt, CVPR 2023",
        paper_url="https://arxiv.org/abs/2112.08654",
        code_url="https://github.com/GT-RIPL/CODA-Prompt",
    )
    Config = L2PConfig
    protocols = frozenset({"class", "domain"})
    config: L2PConfig
    needs_query = True

    def __init__(self, config: L2PConfig, backbone: PromptedViT, setup: Setup) -> None:
        super().__init__(config, backbone, setup)
        backbone.require_blocks(config.prompt_blocks, self.name)
        self.pool = PromptPool(
            config.prompt_blocks,
            config.pool_size,
            config.length,
            backbone.feature_dim,
            shared_keys=config.shared_keys,
            prompt_init=config.prompt_init,
            key_init=config.key_init,
        )
        self.head = make_head(backbone.feature_dim, setup.num_classes)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Pool and classifier; the official code trains both at the same rate."""
        return [
            ParameterGroup("prompts", list(self.pool.parameters()), self.config.prompt_lr_mult),
            ParameterGroup("head", list(self.head.parameters())),
        ]

    def training_step(self, batch: Batch) -> Tensor:
        """Cross-entropy over the current task's classes, and the distance of the chosen keys to the queries."""
        config = self.config
        scores = self.pool.scores(batch.features)
        chosen = choose(scores, config.top_k)
        logits = self._logits(batch, chosen)
        loss = current_task_loss(
            logits, batch.targets, self.old_classes, mask_old=config.mask_old_logits, absent=self.absent_classes
        )
        return loss + config.pull_weight * PULL_LOSSES[config.pull_loss](scores, chosen)

    def predict(self, batch: Batch) -> Tensor:
        """Logits of all seen classes; entries are chosen image by image, as in training."""
        return self._logits(batch, choose(self.pool.scores(batch.features), self.config.top_k))

    def _logits(self, batch: Batch, chosen: Tensor) -> Tensor:
        blocks = range(self.config.prompt_blocks)
        rules = prefix_rules(blocks, self.pool.entries(chosen), self.backbone.num_heads)
        return seen_logits(self.head, self.backbone(batch.images, rules), self.seen_classes)


TABLE_BLOCKS, TABLE_POOL, TABLE_LENGTH = 5, 30, 10
TABLE_NOTE = "10 tokens an entry and one key matrix for all blocks; the code has 20 tokens and a key matrix a block"


class DeepL2PConfig(L2PConfig):
    """Settings of L2P++, in more blocks."""

    prompt_blocks: int = Field(default=5, ge=1, le=64, description="the first so many blocks are prompted")


class DeepL2P(L2P):
    """L2P++ in several blocks; images choose anew in each of them."""

    name = "deep_l2p++"
    card = MethodCard(
        title="Deep L2P++",
        summary="L2P++ with a pool of prefixes in each of the first five blocks",
        paper=L2P.card.paper,
        paper_url=L2P.card.paper_url,
        code_url=L2P.card.code_url,
    )
    Config = DeepL2PConfig

    @classmethod
    def published_cost(cls, geometry: Geometry) -> PublishedCost:
        """Table 3's row (card, sections 6 and 7): a smaller pool than Table 5 and the code have."""
        pool = (TABLE_BLOCKS * TABLE_POOL * TABLE_LENGTH + TABLE_POOL) * geometry.dim
        head = geometry.num_classes * (geometry.dim + 1)
        return PublishedCost(pool + head, train_passes=2, test_passes=2, note=TABLE_NOTE)
