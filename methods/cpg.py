"""CPG: prompts mixed from shared experts, whose updates leave old tasks' routing and prompts as they are (AAAI 2025).

Source: CPG card, all sections; the variant on a supervised ViT with one linear head (VPT-CPG). Defaults are the released code's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from smope_bench.methods.common.api import (
    Batch,
    Method,
    MethodCard,
    MethodConfig,
    ParameterGroup,
    Setup,
    TaskInfo,
    TrainingData,
)
from smope_bench.methods.common.classifier import current_task_loss, make_head, seen_logits, settled_rows
from smope_bench.methods.common.null_space import Ties, null_projector
from smope_bench.methods.common.schedules import projected_step
from smope_bench.methods.common.vit.attention_rules import Recorder, Trace, of_images
from smope_bench.methods.common.vit.block_adaptation import BlockAdaptation, ExtraTokens
from smope_bench.methods.common.vit.vit import PromptedViT

GateForm = Literal["double_softmax", "single_softmax"]
EPSILON = torch.finfo(torch.float32).eps


class CPGConfig(MethodConfig):
    """Sizes and switches of the card, section 12."""

    experts: int = Field(default=36, ge=4, le=4096, description="experts a block")
    keep: int = Field(default=4, ge=1, le=4096, description="experts that an image's prompt is mixed from")
    length: int = Field(default=4, ge=1, le=4096, description="tokens of an expert, and of the prompt")
    prompt_blocks: int | None = Field(
        default=None, ge=1, le=64, description="the first so many blocks are prompted; none = all"
    )
    balance: float = Field(default=0.05, ge=0, description="weight of the loss that spreads images over the experts")
    temperature: float = Field(default=28.0, gt=0, description="what logits are divided by in training")
    gate: GateForm = Field(
        default="double_softmax",
        description="weights: softmax of the kept probabilities (code), or of the kept scores",
    )
    noisy_gating: bool = Field(
        default=False,
        description="learnt noise on the scores in training; the released code has it, and never switches it on",
    )
    frozen_query: float = Field(
        default=0.0, ge=0, le=1, description="share of the frozen feature in what routers read; 0 needs no query pass"
    )
    projection: Literal["both", "router", "experts", "off"] = Field(
        default="both", description="whose steps are projected from the second task on"
    )
    eta_router: float = Field(default=1.0, ge=0, le=1, description="share of the projection in a router's step")
    eta_experts: float = Field(default=0.99, ge=0, le=1, description="share of the projection in the experts' step")
    scale_projector: bool = Field(
        default=True, description="projectors have Frobenius norm 1, which shortens steps by the root of their rank"
    )
    null_ties: Ties = Field(
        default="last",
        description="where the null space begins if singular values equal the threshold: at the last of them (code) or the first",
    )
    accumulate: Literal["sum", "mean"] = Field(
        default="sum", description="second moments of tasks: added, or averaged by their images"
    )
    gram_batch: int = Field(
        default=100, ge=1, le=65536, description="images of which second moments are a mean before they are added"
    )
    idle_experts: Literal["decay", "still"] = Field(
        default="decay",
        description="experts that no image of a batch used: moved by the optimiser's weight decay alone, or not at all",
    )
    second_head: Literal["reused", "fresh"] = Field(
        default="reused",
        description="reused: a task with as many classes as all before it starts from their classifier (code: the second one)",
    )

    @model_validator(mode="after")
    def _keeps_what_there_is(self) -> CPGConfig:
        if self.keep > self.experts:
            raise ValueError(f"keep={self.keep} is more than experts={self.experts}; lower keep or raise experts")
        return self


@dataclass(frozen=True)
class Routed:
    """What routers of a block read (B, d), mixing weights (B, E), and the load that images put on experts (B, E)."""

    queries: Tensor
    weights: Tensor
    load: Tensor


@dataclass(frozen=True)
class Noise:
    """Standard normal draws (B, E) for the scores of a block, and the matrix (d, E) that gives their deviation."""

    draws: Tensor
    router: Tensor

    def deviation(self, queries: Tensor) -> Tensor:
        """Of scores of queries (B, d): (B, E)."""
        return nn.functional.softplus(queries @ self.router) + 1e-2


def gates(scores: Tensor, keep: int, form: GateForm = "double_softmax") -> Tensor:
    """Mixing weights (B, E) of the ``keep`` highest scores (B, E), 0 elsewhere; ties go to the smaller index."""
    base = scores.softmax(dim=-1) if form == "double_softmax" else scores
    values, order = base.sort(dim=-1, descending=True, stable=True)
    return torch.zeros_like(base).scatter(-1, order[:, :keep], values[:, :keep].softmax(dim=-1))


def noisy_load(scores: Tensor, noisy: Tensor, deviation: Tensor, keep: int) -> Tensor:
    """Probability (B, E) that an expert is among the ``keep`` best under fresh noise on its own score."""
    highest = noisy.topk(keep + 1, dim=-1).values
    is_kept = noisy > highest[:, keep:]
    rival = torch.where(is_kept, highest[:, keep:], highest[:, keep - 1 : keep])
    return torch.special.ndtr((scores - rival) / deviation)


def squared_variation(totals: Tensor) -> Tensor:
    """Unbiased variance over squared mean of the last dimension."""
    return totals.var(dim=-1) / (totals.mean(dim=-1).square() + EPSILON)


def balance_loss(weights: Tensor, load: Tensor) -> Tensor:
    """How unevenly images spread over experts: weights and loads (blocks, B, E), mean over blocks."""
    return (squared_variation(weights.sum(dim=1)) + squared_variation(load.sum(dim=1))).mean()


@dataclass(frozen=True)
class ExpertMixture:
    """A block's prompt: mixed from experts (E, L, d) by the block's class token through the router (d, E)."""

    router: Tensor
    experts: Tensor
    config: CPGConfig
    record: Recorder[Routed] | None = None
    frozen: Tensor | None = None
    """Frozen features (B, d), mixed into the query."""
    noise: Noise | None = None

    def __call__(self, tokens: Tensor) -> Tensor:
        """The block's input (B, N, d), class token first, to the prompt (B, L, d)."""
        with torch.autocast(tokens.device.type, enabled=False):
            queries = tokens[:, 0].float()
            if self.frozen is not None:
                share = self.config.frozen_query
                queries = share * self.frozen.float() + (1 - share) * queries
            weights, load = self._route(queries)
            if self.record is not None:
                self.record(Routed(queries, weights, load))
            return (weights @ self.experts.flatten(1)).view(-1, *self.experts.shape[1:])

    def _route(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        keep, scores = self.config.keep, queries @ self.router
        noisy = scores if self.noise is None else scores + self.noise.draws * self.noise.deviation(queries)
        weights = gates(noisy, keep, self.config.gate)
        if self.noise is None or keep == self.config.experts:
            return weights, (weights > 0).to(weights.dtype)
        return weights, noisy_load(scores, noisy, self.noise.deviation(queries), keep)

    def part(self, rows: slice) -> ExpertMixture:
        """For some of the images."""
        return replace(
            self,
            record=None if self.record is None else self.record.part(rows),
            frozen=None if self.frozen is None else of_images(self.frozen, rows, 1),
            noise=None if self.noise is None else replace(self.noise, draws=of_images(self.noise.draws, rows, 1)),
        )


@dataclass
class SecondMoments:
    """Sums of X^T X / n over groups of ``size`` rows of X (blocks, n, width), across batches; the last group may be smaller."""

    size: int
    total: Tensor | float = 0.0
    waiting: list[Tensor] = field(default_factory=list)

    def add(self, rows: Tensor) -> None:
        """Take in the rows (blocks, B, width) of a batch."""
        joined = torch.cat([*self.waiting, rows], dim=1)
        *full, rest = joined.split(self.size, dim=1)
        self.waiting = [rest]
        for group in full:
            self._close(group)

    def finish(self) -> Tensor:
        """The sum (blocks, width, width) of all groups."""
        for group in self.waiting:
            self._close(group)
        return torch.as_tensor(self.total)

    def _close(self, group: Tensor) -> None:
        with torch.autocast(group.device.type, enabled=False):
            self.total = self.total + group.mT @ group / group.shape[1]


class CPG(Method):
    """Experts (blocks, E, L, d) and routers (blocks, d, E) shared by all tasks, and one classifier.

    After each task but the last, second moments of what routers read and of the mixing weights give the directions in which
    later steps may go.
    """

    name = "cpg"
    card = MethodCard(
        title="CPG",
        summary="prompt tokens mixed from shared experts in every block; Adam's steps projected into the old tasks' null space",
        paper="Training Consistent Mixture-of-Experts-Based Prompt Generator for Continual Learning, AAAI 2025",
        code_url="https://github.com/zugexiaodui/ConsistentMoEPromptGenerator",
    )
    Config = CPGConfig
    protocols = frozenset({"class", "domain"})
    only_for_training = ("moments_*", "projection_*", "images")
    not_extended_because = "the directions that its last task needs are not kept"
    config: CPGConfig
    moments_router: Tensor
    moments_experts: Tensor
    projection_router: Tensor
    projection_experts: Tensor
    images: Tensor

    def __init__(self, config: CPGConfig, backbone: PromptedViT, setup: Setup) -> None:
        super().__init__(config, backbone, setup)
        blocks = config.prompt_blocks or backbone.depth
        backbone.require_blocks(blocks, self.name)
        dim, experts = backbone.feature_dim, config.experts
        self.experts = nn.Parameter(torch.empty(blocks, experts, config.length, dim).uniform_(-1, 1))
        self.routers = nn.Parameter(torch.zeros(blocks, dim, experts))
        self.noise_routers = nn.Parameter(torch.zeros(blocks, dim, experts)) if config.noisy_gating else None
        self.head = make_head(dim, setup.num_classes)
        for kind, width in (("router", dim), ("experts", experts)):
            self.register_buffer(f"moments_{kind}", torch.zeros(blocks, width, width))
            self.register_buffer(f"projection_{kind}", torch.zeros(blocks, width, width))
        self.register_buffer("images", torch.zeros(()))
        self._used = torch.ones(blocks, experts, dtype=torch.bool)
        if config.frozen_query:
            self.__dict__["needs_query"] = True

    # -- training ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def begin_task(self, task: TaskInfo) -> None:
        """The classifier of the task's classes at its start (card, sections 1 and 8.2)."""
        old, seen = task.old_classes, task.seen_classes
        if task.index == 0:
            nn.init.trunc_normal_(self.head.weight[:seen], std=0.02)
            self.head.bias[:seen] = 0
        elif self.config.second_head == "reused" and 2 * old == seen:
            self.head.weight[old:seen] = self.head.weight[:old]
            self.head.bias[old:seen] = self.head.bias[:old]

    def parameter_groups(self) -> list[ParameterGroup]:
        """Generator and classifier, at the same rate."""
        generator = [self.experts, self.routers, *([] if self.noise_routers is None else [self.noise_routers])]
        return [ParameterGroup("generator", generator), ParameterGroup("head", list(self.head.parameters()))]

    def training_step(self, batch: Batch) -> Tensor:
        """Cross-entropy of the task's logits over the temperature, and the loss of uneven use of the experts."""
        config, trace = self.config, Trace[Routed]()
        logits = self._logits(batch, trace, self._draws(len(batch.images)))
        loss = current_task_loss(
            logits / config.temperature, batch.targets, self.old_classes, absent=self.absent_classes
        )
        weights, load = (torch.stack([getattr(one, name) for one in trace]) for name in ("weights", "load"))
        self._used = weights.detach().any(dim=1)
        return loss + config.balance * balance_loss(weights, load)

    def apply_step(self, optimizer: torch.optim.Optimizer) -> None:
        """The optimiser's step: classifiers of other tasks stay, that of the generator is projected after the first task."""
        changes: dict[nn.Parameter, Callable[[Tensor], Tensor]] = dict.fromkeys(
            self.head.parameters(), self._of_own_classes
        )
        is_later, projection = self.task_index > 0, self.config.projection
        if is_later and projection in ("both", "router"):
            changes[self.routers] = lambda change: self.projection_router @ change
        if self.config.idle_experts == "still" or (is_later and projection in ("both", "experts")):
            changes[self.experts] = self._of_experts
        projected_step(optimizer, changes)

    def _of_own_classes(self, change: Tensor) -> Tensor:
        """A step of the classifier without the rows of classes that have no images in this task."""
        kept = torch.zeros_like(change)
        kept[self.old_classes : self.seen_classes] = change[self.old_classes : self.seen_classes]
        return kept if self.absent_classes is None else kept.index_fill(0, self.absent_classes, 0)

    def _of_experts(self, change: Tensor) -> Tensor:
        """A step (blocks, E, L, d) of the experts as it is applied."""
        if self.config.idle_experts == "still":
            change = change * self._used[..., None, None]
        if self.task_index == 0 or self.config.projection not in ("both", "experts"):
            return change
        return (self.projection_experts @ change.flatten(2)).view_as(change)

    def _draws(self, images: int) -> Tensor | None:
        """Noise (blocks, B, E) of a training batch."""
        if self.noise_routers is None:
            return None
        return torch.randn(len(self.experts), images, self.config.experts, device=self.experts.device)

    # -- what later tasks must leave as it is --------------------------------------------------------------------------

    @torch.no_grad()
    def end_task(self, data: TrainingData) -> None:
        """Second moments over the task's images, added to those of earlier tasks, and the projectors that follow."""
        config = self.config
        if self.task_index + 1 == self.setup.num_tasks or config.projection == "off":
            return
        found = {"router": SecondMoments(config.gram_batch), "experts": SecondMoments(config.gram_batch)}
        for queries, weights in self._routed(data):
            found["router"].add(queries)
            found["experts"].add(weights)
        count = self.images + len(data)
        for kind, eta in (("router", config.eta_router), ("experts", config.eta_experts)):
            moments, new = getattr(self, f"moments_{kind}"), found[kind].finish()
            if config.accumulate == "sum":
                moments += new
            else:
                moments.copy_((moments * self.images + new * len(data)) / count)
            made = null_projector(moments, eta=eta, scale=config.scale_projector, ties=config.null_ties)
            getattr(self, f"projection_{kind}").copy_(made)
        self.images.copy_(count)

    def _routed(self, data: TrainingData) -> Iterator[tuple[Tensor, Tensor]]:
        """Queries (blocks, B, d) and mixing weights (blocks, B, E) of the task's images, a batch at a time."""
        for batch in data.batches(augment=False):
            trace = Trace[Routed]()
            self.backbone.run_prompted(batch.images, self._adaptations(batch, trace, None))
            yield torch.stack([one.queries for one in trace]), torch.stack([one.weights for one in trace])

    # -- prediction ----------------------------------------------------------------------------------------------------

    def predict(self, batch: Batch) -> Tensor:
        """Logits of all seen classes; every image is routed by itself, without noise."""
        return self._logits(batch)

    def _logits(self, batch: Batch, trace: Trace[Routed] | None = None, draws: Tensor | None = None) -> Tensor:
        features = self.backbone(batch.images, self._adaptations(batch, trace, draws))
        return seen_logits(self.head, features, self.seen_classes)

    def _adaptations(
        self, batch: Batch, trace: Trace[Routed] | None, draws: Tensor | None
    ) -> dict[int, BlockAdaptation]:
        frozen = batch.features if self.config.frozen_query else None
        noises: list[Noise | None] = [None] * len(self.experts)
        if draws is not None and self.noise_routers is not None:
            noises = [Noise(*pair) for pair in zip(draws, self.noise_routers, strict=True)]
        found: dict[int, BlockAdaptation] = {}
        for block, (router, experts, noise) in enumerate(zip(self.routers, self.experts, noises, strict=True)):
            record = None if trace is None else trace.recorder(block)
            mixture = ExpertMixture(router, experts, self.config, record, frozen, noise)
            found[block] = BlockAdaptation(tokens=ExtraTokens(mixture))
        return found

    def settled(self) -> dict[str, Tensor]:
        """Classifiers of finished tasks, where classes do not come again."""
        return settled_rows(self.head, self.seen_classes) if self.setup.protocol == "class" else {}
