"""DualPrompt: a general prefix for all tasks and an expert prefix for each. Source: DualPrompt card, all sections.

Training knows its task and uses that task's expert; at test an image takes, in each block, the expert with the nearest key.
The default is the behaviour of the CODA-Prompt repository, where keys of later tasks compete too.
"""

from __future__ import annotations

from pydantic import Field
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
from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.prompts.pools import PromptPool, choose, known_entry_loss, prefix_rules, uniform
from smope_bench.methods.common.vit.vit import PromptedViT

TABLE_GENERAL, TABLE_EXPERT = (2, 5), (3, 20)
"""Table 3's (blocks, tokens a side)."""
TABLE_NOTE = (
    "5 and 20 tokens a side and one key matrix for all blocks; the code has 3 and 10 a side and a key matrix a block. "
    "In training the table leaves out the query pass, which the code runs for its key loss"
)


class DualPromptConfig(MethodConfig):
    """Sizes (card, section 1) and switches (card, sections 9 and 10); lengths count keys and values together."""

    general_blocks: int = Field(default=2, ge=1, le=64, description="the first so many blocks share a prefix")
    expert_blocks: int = Field(default=3, ge=1, le=64, description="the next so many blocks have one for each task")
    general_length: int = Field(
        default=6, ge=2, le=4096, multiple_of=2, description="tokens of the shared prefix: half keys, half values"
    )
    expert_length: int = Field(
        default=20, ge=2, le=4096, multiple_of=2, description="tokens of an expert prefix: half keys, half values"
    )
    pool_size: int | None = Field(default=None, ge=1, le=4096, description="experts a block; one a task where absent")
    shared_keys: bool = Field(default=False, description="one key matrix for all blocks, as Table 3 counts it")
    mask_unseen_keys: bool = Field(default=False, description="at test, only experts of the tasks so far compete")
    key_weight: float = Field(default=1.0, ge=0, description="weight of the distance between queries and key")
    prompt_lr_mult: float = Field(default=1.0, gt=0, description="prompts' rate in units of the classifier's")
    prompt_init: float = Field(default=1.0, gt=0, description="prefixes start uniform in [0, prompt_init)")
    key_init: float = Field(default=1.0, gt=0, description="expert keys start uniform in [0, key_init)")
    mask_old_logits: bool = Field(default=True, description="only the current task's classes in the training softmax")


class DualPrompt(Method):
    """``general`` (blocks, tokens, d), a keyed pool of experts with one entry a task, and one classifier."""

    name = "dualprompt"
    card = MethodCard(
        title="DualPrompt",
        summary="a general prefix shared by all tasks and an expert prefix a task, found at test by its key",
        paper="DualPrompt: Complementary Prompting for Rehearsal-free Continual Learning, ECCV 2022",
        paper_url="https://arxiv.org/abs/2204.04799",
        code_url="https://github.com/GT-RIPL/CODA-Prompt",
    )
    Config = DualPromptConfig
    protocols = frozenset({"class", "domain"})
    grows_with_tasks = ("experts.*",)
    config: DualPromptConfig
    needs_query = True

    def __init__(self, config: DualPromptConfig, backbone: PromptedViT, setup: Setup) -> None:
        """Raise MethodError if there are too few blocks or experts, or if weight decay would change unused experts."""
        super().__init__(config, backbone, setup)
        _require_possible(config, backbone, setup)
        self.general = uniform(
            config.general_blocks, config.general_length, backbone.feature_dim, scale=config.prompt_init
        )
        self.experts = PromptPool(
            config.expert_blocks,
            config.pool_size or setup.num_tasks,
            config.expert_length,
            backbone.feature_dim,
            shared_keys=config.shared_keys,
            prompt_init=config.prompt_init,
            key_init=config.key_init,
        )
        self.head = make_head(backbone.feature_dim, setup.num_classes)

    @classmethod
    def published_cost(cls, geometry: Geometry) -> PublishedCost:
        general = 2 * TABLE_GENERAL[0] * TABLE_GENERAL[1]
        experts = 2 * TABLE_EXPERT[0] * TABLE_EXPERT[1] * geometry.num_tasks + geometry.num_tasks
        head = geometry.num_classes * (geometry.dim + 1)
        parameters = (general + experts) * geometry.dim + head
        return PublishedCost(parameters, train_passes=1, test_passes=2, note=TABLE_NOTE)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Prompts and classifier at one rate; rows of other tasks get no gradient and do not change."""
        return [
            ParameterGroup("prompts", [self.general, *self.experts.parameters()], self.config.prompt_lr_mult),
            ParameterGroup("head", list(self.head.parameters())),
        ]

    def training_step(self, batch: Batch) -> Tensor:
        """Cross-entropy with the task's own expert, and the distance of its keys to the queries."""
        task, config = self.task_index, self.config
        logits = self._logits(batch, self.experts.prompts[:, task : task + 1])
        loss = current_task_loss(
            logits, batch.targets, self.old_classes, mask_old=config.mask_old_logits, absent=self.absent_classes
        )
        return loss + config.key_weight * known_entry_loss(self.experts.scores(batch.features), task)

    def predict(self, batch: Batch) -> Tensor:
        """Logits of all seen classes, each image with the experts that its own query chooses."""
        return self._logits(batch, self.experts.entries(self.chosen_experts(batch.features)))

    def chosen_experts(self, query: Tensor) -> Tensor:
        """Expert of the nearest key for each query (B, d): (blocks, B, 1), or (1, B, 1) with shared keys."""
        scores = self.experts.scores(query)
        return choose(scores[..., : self.task_index + 1] if self.config.mask_unseen_keys else scores, 1)

    def settled(self) -> dict[str, Tensor]:
        """Experts and keys of the tasks so far; the general prompt goes on learning."""
        parts = {"expert": self.experts.prompts, "key": self.experts.keys}
        return {
            f"{part} of task {task}": tensor[:, task]
            for part, tensor in parts.items()
            for task in range(self.task_index + 1)
        }

    def _logits(self, batch: Batch, experts: Tensor) -> Tensor:
        """``experts``: (blocks, B, 1, tokens, d), or (blocks, 1, tokens, d) for all images."""
        heads, middle = self.backbone.num_heads, self.config.general_blocks
        rules = prefix_rules(range(middle), self.general[:, None], heads)
        rules |= prefix_rules(range(middle, middle + self.config.expert_blocks), experts, heads)
        return seen_logits(self.head, self.backbone(batch.images, rules), self.seen_classes)


def _require_possible(config: DualPromptConfig, backbone: PromptedViT, setup: Setup) -> None:
    blocks = config.general_blocks + config.expert_blocks
    if blocks > backbone.depth:
        raise MethodError(
            f"{DualPrompt.name} prompts the first {blocks} blocks, but the backbone has {backbone.depth}; "
            "lower general_blocks or expert_blocks"
        )
    if config.pool_size is not None and config.pool_size < setup.num_tasks:
        raise MethodError(
            f"{DualPrompt.name} keeps an expert a task: pool_size={config.pool_size} does not hold {setup.num_tasks} tasks; "
            "raise pool_size or leave it out"
        )
    if setup.schedule.weight_decay > 0:
        raise MethodError(
            f"{DualPrompt.name} rests on experts that do not change: weight_decay={setup.schedule.weight_decay:g} "
            "would wear them away; set weight_decay=0"
        )
