"""SMoPE: a sparse mixture of prompt experts (ICLR 2026). Source: SMoPE card; the default is the official code's behaviour.

One prompt for all tasks. In the first blocks every head keeps a few key/value pairs, the experts, and each image uses the
best of them. Scores of experts that earlier tasks used much are lowered in training, so that a new task uses the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from smope_bench.methods.common.alignment.class_stats import ClassStatistics
from smope_bench.methods.common.alignment.tap import TapConfig, align_after_task
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
from smope_bench.methods.common.prefix import project_prefix
from smope_bench.methods.common.prompts.experts import (
    Choice,
    Form,
    Handicap,
    SparseExperts,
    prototype_loss,
    router_loss,
    select,
)
from smope_bench.methods.common.prompts.observations import EXPERT_SCORES, EXPERT_STATE, first_block_scores
from smope_bench.methods.common.vit.attention_rules import Trace
from smope_bench.methods.common.vit.vit import AttentionRule, PromptedViT

UNUSED_HANDICAP = 2.0

PAPER_LOSSES: dict[str, Any] = {
    "router_form": "prob",
    "router_scale": "sqrt_d",
    "router_margin": "none",
    "aux_reduce": "mean_heads",
    "proto_form": "prob",
    "proto_target": "current",
    "proto_reduce": "sum",
    "freq_mean": "all",
    "freq_latch": False,
}


class SMoPEConfig(MethodConfig):
    """Hyper-parameters (card, section 7) and the paper-versus-code switches (card, section 9), code first."""

    unstated_defaults: ClassVar[frozenset[str]] = frozenset({"noise_scale"})

    variant: Literal["code", "paper_losses"] = Field(
        default="code",
        description="paper_losses sets the switches of router loss, prototype loss and use together to the paper's",
    )
    prompt_blocks: int = Field(default=6, ge=1, le=64, description="the first so many blocks are prompted")
    experts: int = Field(default=25, ge=1, le=4096, description="experts a head, Np")
    top_k: int = Field(default=5, le=4096, description="experts an image uses in a head, K; 0 or less: all (dense)")
    epsilon: float = Field(
        default=0.4, ge=0, le=10, description="handicap of much-used experts in units of the score range"
    )
    alpha_router: float = Field(default=1e-5, ge=0, description="weight of the router loss")
    alpha_proto: float = Field(default=1e-5, ge=0, description="weight of the prototype loss")
    dense_start: bool = Field(default=True, description="the first task begins with half the epochs on all experts")
    prompt_lr_mult: float = Field(default=5.0, gt=0, description="prompts' rate in units of the classifier's")
    prompt_init: float = Field(default=1.0, gt=0, description="prefixes start uniform in [0, prompt_init)")
    mask_old_logits: bool = Field(default=True, description="only the current task's classes in the training softmax")
    score_agg: Literal["mean", "per_token"] = Field(
        default="mean",
        description="an expert's logit is one score an image, from the mean query, or its own for each token",
    )
    noise: Literal["adaptive", "fixed", "uniform"] = Field(
        default="adaptive",
        description="handicap of much-used experts in units of the score range (code) or as it is, or of all, drawn uniformly",
    )
    noise_scale: Literal["code", "paper"] = Field(
        default="code",
        description="fixed and uniform noise on scores as the code computes them, or on scores divided by the root of the"
        " head's width (paper), which is that root times stronger; adaptive noise is the same on both",
    )
    prefix_space: Literal["head", "model"] = Field(
        default="head",
        description="experts lie in the heads' space, or in the model's and are projected by the frozen keys and values",
    )
    router_form: Form = Field(
        default="logprob", description="router loss by log-probabilities (code) or probabilities (paper)"
    )
    router_scale: Literal["none", "sqrt_d"] = Field(
        default="none",
        description="scores in the router loss as they are (code), or divided by the root of the head's width (paper)",
    )
    router_margin: Literal["eps", "none"] = Field(
        default="eps",
        description="experts that were not chosen are raised by epsilon in the router loss (code), or not (paper)",
    )
    aux_reduce: Literal["sum", "mean_heads"] = Field(
        default="sum", description="both added losses summed over blocks and heads (code), or averaged (paper)"
    )
    proto_form: Form = Field(
        default="logprob", description="prototype loss by log-probabilities (code) or probabilities (paper)"
    )
    proto_target: Literal["old", "current"] = Field(
        default="old",
        description="the prototype loss chooses its experts by the old keys (code) or the current ones (paper)",
    )
    proto_reduce: Literal["mean", "sum"] = Field(
        default="mean",
        description="the prototype loss of a head averaged over its important keys (code), or summed (paper)",
    )
    freq_mean: Literal["active", "all"] = Field(
        default="active",
        description="an expert is used much if above the mean over the used experts (code), or over all (paper)",
    )
    freq_latch: bool = Field(default=True, description="an expert that was used much stays marked (code)")
    count_source: Literal["raw", "noised"] = Field(
        default="raw", description="uses are counted by scores without the handicap (code), or with it"
    )
    count_before_stats: bool = Field(
        default=True,
        description="uses are counted before the class statistics of a task, which then see fewer unused experts (code)",
    )
    mask_unused: Literal["stats_only", "always", "never"] = Field(
        default="stats_only",
        description="unused experts are kept from being chosen: for counts and class statistics (code), at test too, or never",
    )
    tap: TapConfig = Field(
        default=TapConfig(), description="alignment of the classifier after each task on class statistics"
    )

    @model_validator(mode="before")
    @classmethod
    def _paper_variant(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("variant") == "paper_losses":
            tap = values.get("tap", {})
            full = {"cov": "full"} | tap if isinstance(tap, dict) else tap
            values = PAPER_LOSSES | values | {"tap": full}
        return values

    @model_validator(mode="after")
    def _dense_has_no_prototypes(self) -> SMoPEConfig:
        if self.top_k <= 0 and self.alpha_proto > 0:
            raise ValueError(
                f"alpha_proto={self.alpha_proto:g} needs sparse selection; set alpha_proto=0 with top_k <= 0"
            )
        if self.top_k > self.experts:
            raise ValueError(
                f"top_k={self.top_k} is more than the {self.experts} experts; lower top_k or raise experts"
            )
        return self


class SMoPE(Method):
    """Packed experts (layers, heads, Np, head_dim), their use counts, and one classifier."""

    name = "smope"
    card = MethodCard(
        title="SMoPE",
        summary="sparse mixture of prompt experts in one shared prefix, adaptive noise, router and prototype losses, TAP",
        paper="One-Prompt Strikes Back: Sparse Mixture of Experts for Prompt-based Continual Learning, ICLR 2026",
        paper_url="https://arxiv.org/abs/2509.24483",
        code_url="https://github.com/Minhchuyentoancbn/SMoPE",
    )
    Config = SMoPEConfig
    only_for_training = ("statistics.*",)
    protocols = frozenset({"class", "domain"})
    observes = (*EXPERT_STATE, *EXPERT_SCORES)
    config: SMoPEConfig
    counts: Tensor
    important: Tensor
    old_keys: Tensor

    def __init__(self, config: SMoPEConfig, backbone: PromptedViT, setup: Setup) -> None:
        super().__init__(config, backbone, setup)
        self.layers = range(config.prompt_blocks)
        backbone.require_blocks(config.prompt_blocks, self.name)
        shape = self._expert_shape(config, backbone)
        self.prefix_keys = nn.Parameter(torch.rand(shape) * config.prompt_init)
        self.prefix_values = nn.Parameter(torch.rand(shape) * config.prompt_init)
        self.head = make_head(backbone.feature_dim, setup.num_classes)
        self.statistics = ClassStatistics(setup.num_classes, backbone.feature_dim, config.tap.cov)
        table = (config.prompt_blocks, backbone.num_heads, config.experts)
        self.register_buffer("counts", torch.zeros(table, dtype=torch.long))
        self.register_buffer("important", torch.zeros(table, dtype=torch.bool))
        self.register_buffer("old_keys", torch.zeros(*table, backbone.head_dim))
        self.dense = config.top_k <= 0

    @classmethod
    def published_cost(cls, geometry: Geometry) -> PublishedCost:
        """Experts of the first blocks and the classifier; one pass an image (card, sections 1 and 10)."""
        config = SMoPEConfig()
        experts = 2 * config.prompt_blocks * config.experts * geometry.dim
        head = (geometry.dim + 1) * geometry.num_classes
        note = "the dense start, the counting pass, the pass for statistics and the alignment are not counted"
        return PublishedCost(experts + head, train_passes=1, test_passes=1, note=note)

    @staticmethod
    def _expert_shape(config: SMoPEConfig, backbone: PromptedViT) -> tuple[int, ...]:
        if config.prefix_space == "model":
            return (config.prompt_blocks, config.experts, backbone.feature_dim)
        return (config.prompt_blocks, backbone.num_heads, config.experts, backbone.head_dim)

    # -- training ------------------------------------------------------------------------------------------------------

    def begin_task(self, task: TaskInfo) -> None:
        """From the second task on: store the present keys and mark the experts that were used much."""
        if task.index > 0:
            with torch.no_grad():
                self.old_keys.copy_(self._experts()[0])
            frequent = self.frequently_used()
            self.important.copy_(self.important | frequent if self.config.freq_latch else frequent)

    def phases(self) -> list[Phase]:
        """Half the epochs dense in the first task, then all epochs sparse; dense ones too where all experts are used."""
        epochs, is_sparse = self.setup.schedule.epochs, self.config.top_k > 0
        main = Phase("sparse" if is_sparse else "dense", epochs)
        if self.config.dense_start and self.task_index == 0 and epochs >= 2:
            return [Phase("dense" if is_sparse else "dense start", epochs // 2), main]
        return [main]

    def begin_phase(self, phase: Phase) -> None:
        """Dense phases use all experts and cross-entropy alone."""
        self.dense = phase.name != "sparse"

    def parameter_groups(self) -> list[ParameterGroup]:
        """Prompts at a multiple of the classifier's rate."""
        return [
            ParameterGroup("prompts", [self.prefix_keys, self.prefix_values], self.config.prompt_lr_mult),
            ParameterGroup("head", list(self.head.parameters())),
        ]

    def training_step(self, batch: Batch) -> Tensor:
        """Cross-entropy over the current task's classes, plus router and prototype losses in sparse phases."""
        config, keys_values = self.config, self._experts()
        trace: Trace[Choice] = Trace()
        features = self.backbone(batch.images, self._rules(*keys_values, self._training_handicaps(batch), trace))
        logits = seen_logits(self.head, features, self.seen_classes)
        loss = current_task_loss(
            logits, batch.targets, self.old_classes, mask_old=config.mask_old_logits, absent=self.absent_classes
        )
        if self.dense:
            return loss
        if config.alpha_router > 0:
            loss = loss + config.alpha_router * self._router_loss(trace)
        if config.alpha_proto > 0 and self.task_index > 0:
            loss = loss + config.alpha_proto * self._prototype_loss(keys_values[0])
        return loss

    def _router_loss(self, trace: Trace[Choice]) -> Tensor:
        scores = torch.stack([choice.scores for choice in trace])
        if self.config.router_scale == "sqrt_d":
            scores = scores * self.backbone.head_dim**-0.5
        margin = self.config.epsilon if self.config.router_margin == "eps" else 0.0
        selected = torch.stack([choice.selected for choice in trace])
        return router_loss(scores, selected, margin, self.config.router_form) / self._heads_averaged()

    def _prototype_loss(self, keys: Tensor) -> Tensor:
        config = self.config
        loss = prototype_loss(
            keys,
            self.old_keys,
            self.important,
            config.top_k,
            form=config.proto_form,
            target=config.proto_target,
            reduce=config.proto_reduce,
        )
        return loss / self._heads_averaged()

    def _heads_averaged(self) -> int:
        return len(self.layers) * self.backbone.num_heads if self.config.aux_reduce == "mean_heads" else 1

    # -- after a task --------------------------------------------------------------------------------------------------

    def end_task(self, data: TrainingData) -> None:
        """Count which experts the task uses, then its class statistics, then align the classifier."""
        self.dense = self.config.top_k <= 0
        if self.config.count_before_stats:
            self._count_use(data)
        pairs = self._training_features(data)
        align_after_task(self.head, self.statistics, pairs, self.new_classes, self.config.tap)
        if not self.config.count_before_stats:
            self._count_use(data)

    @torch.no_grad()
    def _count_use(self, data: TrainingData) -> None:
        """Add each image's best experts by raw score. The handicap of the unused ones follows the counts as they grow."""
        if self.dense:
            return
        masked = self.config.mask_unused != "never"
        for batch in data.batches(shuffle=True, drop_last=True):
            trace: Trace[Choice] = Trace()
            rules = self._rules(*self._experts(), self._inference_handicaps(masked), trace)
            self.backbone.run_prompted(batch.images, rules)
            for layer, choice in enumerate(trace):
                raw = self.config.count_source == "raw"
                chosen = select(choice.scores, self.config.top_k) if raw else choice.selected
                self.counts[layer] += chosen.sum(dim=0)

    @torch.no_grad()
    def _training_features(self, data: TrainingData) -> Iterator[tuple[Tensor, Tensor]]:
        masked = self.config.mask_unused != "never"
        for batch in data.batches():
            rules = self._rules(*self._experts(), self._inference_handicaps(masked))
            yield self.backbone(batch.images, rules), batch.targets

    def frequently_used(self) -> Tensor:
        """Experts used at least as often as the mean of their head: boolean (L, heads, Np)."""
        total = self.counts.sum(dim=-1, keepdim=True).double()
        if self.config.freq_mean == "all":
            threshold = total / self.counts.shape[-1]
        else:
            threshold = total / (self.counts > 0).sum(dim=-1, keepdim=True).clamp(min=1)
        return self.counts >= threshold

    # -- inference and what it shares with training --------------------------------------------------------------------

    def predict(self, batch: Batch) -> Tensor:
        """Logits of all seen classes, by default without the handicap of unused experts, as published (card, section 8)."""
        masked = self.config.mask_unused == "always"
        rules = self._rules(*self._experts(), self._inference_handicaps(masked))
        return seen_logits(self.head, self.backbone(batch.images, rules), self.seen_classes)

    def observed_state(self) -> dict[str, Tensor]:
        """Counts (L, heads, Np), summed over all tasks, and keys (L, heads, Np, head_dim)."""
        return dict(zip(EXPERT_STATE, (self.counts, self._experts()[0]), strict=True))

    def observed_batch(self, batch: Batch) -> dict[str, Tensor]:
        """Raw scores of the first block's experts, and the mean queries and keys behind them."""
        return first_block_scores(self.backbone, batch.images, self._experts()[0][0])

    def settled(self) -> dict[str, Tensor]:
        """Statistics of the classes that were seen, unless they come again; prompts and classifier go on learning."""
        if self.setup.protocol == "domain":
            return {}
        mean, covariance = self.statistics.mean, self.statistics.covariance
        classes = range(self.seen_classes)
        return {f"statistics of class {c}": torch.cat([mean[c], covariance[c].flatten()]) for c in classes}

    def _experts(self) -> tuple[Tensor, Tensor]:
        if self.config.prefix_space == "head":
            return self.prefix_keys, self.prefix_values
        key_weights, value_weights = self.backbone.key_value_weights(self.layers)
        return project_prefix(self.prefix_keys, key_weights), project_prefix(self.prefix_values, value_weights)

    def _rules(
        self, keys: Tensor, values: Tensor, handicaps: list[Handicap], trace: Trace[Choice] | None = None
    ) -> dict[int, AttentionRule]:
        top_k = 0 if self.dense else self.config.top_k
        per_token = self.config.score_agg == "per_token"
        records = [None if trace is None else trace.recorder(layer) for layer in self.layers]
        return {
            layer: SparseExperts(
                keys[layer], values[layer], top_k, handicaps[layer], per_token=per_token, record=record
            )
            for layer, record in zip(self.layers, records, strict=True)
        }

    def _training_handicaps(self, batch: Batch) -> list[Handicap]:
        config = self.config
        if config.noise == "adaptive":
            return [Handicap(of_range=row) for row in self.important * config.epsilon]
        amount = config.epsilon * (self.backbone.head_dim**0.5 if config.noise_scale == "paper" else 1)
        if config.noise == "fixed":
            return [Handicap(absolute=row) for row in self.important * amount]
        shape = (len(self.layers), len(batch.images), *self.counts.shape[1:])
        drawn = (torch.rand(shape, device=self.counts.device) * 2 - 1) * amount
        return [Handicap(absolute=row) for row in drawn]

    def _inference_handicaps(self, masked: bool) -> list[Handicap]:
        if not masked:
            return [Handicap()] * len(self.layers)
        return [Handicap(of_range=row) for row in (self.counts == 0) * UNUSED_HANDICAP]
