"""Hash: history-aware prompt sharing (CVPR 2026). Source: Hash card, whose defaults these are; no official code is public.

All tasks share one pool of prompts; every task has a small router that picks and mixes a few of them for each image. How
often a prompt was used lowers its score in later tasks' routing (HDR) and shrinks its updates (HGM).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from smope_bench.methods.common.alignment.centroids import make_statistics
from smope_bench.methods.common.alignment.class_stats import ClassStatistics
from smope_bench.methods.common.alignment.tap import HIDE_TAP, TapConfig, align
from smope_bench.methods.common.alignment.task_inference import TaskInference, TaskInferenceConfig, classes_of, mlp_cost
from smope_bench.methods.common.api import (
    Batch,
    Geometry,
    Method,
    MethodCard,
    ParameterGroup,
    Phase,
    PublishedCost,
    Setup,
    TaskInfo,
    TrainingData,
)
from smope_bench.methods.common.classifier import current_task_loss, make_head, seen_logits
from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.prompts.routing import (
    PenaltyScope,
    Picker,
    RouterInput,
    Routing,
    RoutingLog,
    SharedPool,
)
from smope_bench.methods.common.prompts.usage_history import HistoryConfig, PromptHistory
from smope_bench.methods.common.vit.attention_rules import Trace
from smope_bench.methods.common.vit.vit import PromptedViT
from smope_bench.methods.hide_prompt import contrastive_loss

HASH_TAP = HIDE_TAP.model_copy(update={"weight_decay": 5e-4})
"""Classifier alignment of the Hash card, section 9.2: HiDe-Prompt's with the weight decay that its options name."""


class HashPromptConfig(HistoryConfig):
    """Hyper-parameters and switches of the card, section 14; those of HDR and HGM themselves are inherited."""

    pool_size: int = Field(default=10, ge=1, le=4096, description="prompts in the pool, M")
    top_k: int = Field(default=5, ge=1, le=4096, description="prompts mixed for an image, K; pool_size makes it dense")
    prefix_len: int = Field(default=20, ge=1, le=4096, description="key rows, and value rows, of a prompt")
    layers: tuple[int, ...] = Field(default=(1, 2, 3, 4), min_length=1, description="prompted blocks, counted from 1")
    pool_layers: Literal["per_layer", "tied"] = Field(
        default="per_layer", description="a pool in each prompted block, or one for all"
    )
    sharing: Literal["shared", "isolated"] = Field(
        default="shared", description="isolated: each task has top_k prompts of its own and no other (a control)"
    )
    prompt_init: float = Field(default=1.0, gt=0, description="prompts start uniform in [-prompt_init, prompt_init)")
    router_init: Literal["copy", "fresh"] = Field(
        default="copy", description="a new router starts as a copy of the last one, or afresh"
    )
    router_input: RouterInput = Field(
        default="embed",
        description="mean of the tokens that routers read: at the first block, normed or not, at each prompted one, or at the end",
    )
    router_select: Literal["tii", "ncm", "latest", "mean_scores", "two_pass"] = Field(
        default="tii", description="whose router an image gets at test"
    )
    head_lr_mult: float = Field(default=0.1, gt=0, description="classifier's rate in units of the prompts' rate")
    penalty_scope: PenaltyScope = Field(
        default="both", description="the penalty lowers scores for selection and weights, or for selection alone"
    )
    penalty_infer: Literal["snapshot", "train_only", "current"] = Field(
        default="snapshot",
        description="penalty at test: that under which the image's router was trained, none, or that of the present history",
    )
    hgm_site: Literal["update", "grad", "anchor"] = Field(
        default="update", description="what HGM acts on; Adam cancels a factor on the gradient"
    )
    anchor_weight: float = Field(default=1.0, ge=0, description="hgm_site=anchor: lambda")
    history_update: Literal["task_end", "online", "post_pass"] = Field(
        default="task_end",
        description="uses are counted in training with effect at the task's end or at once, or in a pass over the images after it",
    )
    sparse_step: bool = Field(default=False, description="a step leaves prompts alone that its batch did not select")
    contrastive_reg: float = Field(
        default=0.0, ge=0, description="weight of HiDe-Prompt's contrastive regulariser; 0 leaves it out"
    )
    tap: TapConfig = Field(
        default=HASH_TAP, description="alignment of the classifier after each task on class statistics"
    )
    task_inference: TaskInferenceConfig = Field(
        default=TaskInferenceConfig(), description="the network that predicts an image's task"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> HashPromptConfig:
        if self.top_k > self.pool_size:
            raise ValueError(f"top_k={self.top_k} is more than pool_size={self.pool_size}; lower top_k")
        if min(self.layers) < 1 or list(self.layers) != sorted(set(self.layers)):
            raise ValueError(f"layers={self.layers} must rise from 1 on, each block once")
        if self.router_input == "per_layer" and self.pool_layers == "tied":
            raise ValueError("router_input=per_layer keeps a history a layer; use pool_layers=per_layer")
        if self.sharing == "isolated" and (self.penalty_infer != "snapshot" or self.router_select == "mean_scores"):
            raise ValueError("sharing=isolated needs penalty_infer=snapshot and a router_select other than mean_scores")
        return self


class HashPrompt(Method):
    """The pool with its routers, the history of its use, the classifier, and task inference.

    The card's ``oracle`` router needs the true task at test, which no method is given here; it is left out.
    """

    name = "hash_prompt"
    card = MethodCard(
        title="Hash",
        summary="shared prompt pool, a router a task, history-aware routing penalty (HDR) and update scaling (HGM), TAP",
        paper="Is Parameter Isolation Better for Prompt-Based Continual Learning?, CVPR 2026",
        paper_url="https://arxiv.org/abs/2601.20894",
    )
    Config = HashPromptConfig
    only_for_training = ("statistics.*", "inference.statistics.*", "pool_before", "drift")
    grows_with_tasks = ("drift", "history.*", "log.*")
    unfit_because = "it infers the task from the class, and a class belongs to one task only"
    config: HashPromptConfig
    needs_query = True
    pool_before: Tensor
    drift: Tensor
    task_of_class: Tensor

    def __init__(self, config: HashPromptConfig, backbone: PromptedViT, setup: Setup) -> None:
        super().__init__(config, backbone, setup)
        _require_room(config, backbone, setup)
        dim, tasks, prompts = backbone.feature_dim, setup.num_tasks, config.pool_size
        self.pool = SharedPool(
            backbone,
            [layer - 1 for layer in config.layers],
            prompts=prompts,
            length=config.prefix_len,
            tasks=tasks,
            reads=config.router_input,
            tied=config.pool_layers == "tied",
            bound=config.prompt_init,
        )
        self.head = make_head(dim, setup.num_classes, small=True)
        self.statistics = make_statistics(config.tap.cov, setup.num_classes, dim)
        uses_network, uses_means = config.router_select == "tii", config.router_select == "ncm"
        self.inference = TaskInference(dim, setup.num_classes, config.task_inference) if uses_network else None
        self.class_means = ClassStatistics(setup.num_classes, dim) if uses_means else None
        self.history = PromptHistory(config, tasks, self.pool.slots, prompts, config.top_k)
        self.register_buffer("pool_before", torch.zeros_like(self.pool.prompts))
        self.register_buffer("drift", torch.zeros(tasks, prompts))
        self.register_buffer("task_of_class", torch.zeros(setup.num_classes, dtype=torch.long))
        self.log = RoutingLog(tasks)
        self._inferring = False
        self._selected = torch.ones(self.pool.slots, prompts, dtype=torch.bool)

    @classmethod
    def published_cost(cls, geometry: Geometry) -> PublishedCost:
        """By the convention of Table 3's HiDe-Prompt row: everything trained in either network, once."""
        config, dim = HashPromptConfig(), geometry.dim
        pool = len(config.layers) * config.pool_size * 2 * config.prefix_len * dim
        routers = geometry.num_tasks * dim * config.pool_size
        head = dim * geometry.num_classes + geometry.num_classes
        mlp, mlp_flops = mlp_cost(dim)
        return PublishedCost(
            parameters=pool + routers + mlp + 2 * head,
            train_passes=1,
            test_passes=2,
            extra_test_flops=mlp_flops,
            note="not a row of the table; counted as HiDe-Prompt is: training leaves out task inference and routing",
        )

    # -- training ------------------------------------------------------------------------------------------------------

    def begin_task(self, task: TaskInfo) -> None:
        """A new router, and the penalty from earlier tasks' use of the prompts."""
        self.task_of_class[task.new_classes.start : task.new_classes.stop] = task.index
        with torch.no_grad():
            if task.index > 0 and self.config.router_init == "copy":
                self.pool.routers[task.index].copy_(self.pool.routers[task.index - 1])
            self.pool_before.copy_(self.pool.prompts)
        self._heed_history()

    def phases(self) -> list[Phase]:
        """Task inference, if it is trained, then prompts."""
        prompts = Phase("prompts", self.setup.schedule.epochs)
        return [prompts] if self.inference is None else [self.inference.phase(), prompts]

    def begin_phase(self, phase: Phase) -> None:
        """Task inference is trained apart from the prompts."""
        self._inferring = phase.name != "prompts"

    def parameter_groups(self) -> list[ParameterGroup]:
        """The pool and the task's own router at the base rate, the classifier at a part of it."""
        if self._inferring and self.inference is not None:
            return self.inference.parameter_groups()
        return [
            ParameterGroup("prompts", [self.pool.prompts, self.pool.routers[self.task_index]]),
            ParameterGroup("head", list(self.head.parameters()), self.config.head_lr_mult),
        ]

    def training_step(self, batch: Batch) -> Tensor:
        """Cross-entropy over the current task's classes, in either phase, and the regularisers that are switched on."""
        if self._inferring and self.inference is not None:
            return self.inference.loss(batch.features, batch.targets, self.old_classes, self.seen_classes)
        config = self.config
        if config.history_update == "online":
            self._heed_history()
        trace: Trace[Routing] = Trace()
        features = self._features(batch.images, self._own_router(batch), self.history.penalty, trace)
        logits = seen_logits(self.head, features, self.seen_classes)
        loss = current_task_loss(logits, batch.targets, self.old_classes)
        if config.contrastive_reg > 0:
            prototypes = self.statistics.prototypes(self.old_classes)
            loss = loss + config.contrastive_reg * contrastive_loss(features, prototypes)
        if config.hgm_site == "anchor" and config.psi != "none":
            loss = loss + self._anchor_loss()
        chosen = _choices(trace)
        self._selected = chosen.any(dim=1)
        self.log.note(self.task_index, trace)
        if config.history_update != "post_pass":
            self.history.add(self.task_index, chosen)
        return loss

    def apply_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Step, and shorten the step of much-used prompts: a factor on the gradient would cancel in Adam (card, 9.1)."""
        if self._inferring:
            optimizer.step()
            return
        config, prompts, scale = self.config, self.pool.prompts, torch.ones_like(self.history.factor)
        if config.hgm_site == "grad" and prompts.grad is not None:
            prompts.grad.mul_(_over_prompts(self.history.factor))
        if config.hgm_site == "update":
            scale = scale * self.history.factor
        if config.sparse_step:
            scale = scale * self._selected
        before = prompts.detach().clone()
        optimizer.step()
        with torch.no_grad():
            prompts.copy_(before.lerp(prompts, _over_prompts(scale)))  # with scale 1 exactly the new value

    def _anchor_loss(self) -> Tensor:
        """Half of lambda H ||P - P of the task before||^2, with H in uses an image (card, section 9.1)."""
        moved = (self.pool.prompts - self.pool_before).square() * _over_prompts(self.history.usage("rate"))
        return 0.5 * self.config.anchor_weight * moved.sum()

    def _heed_history(self) -> None:
        """Apply the history so far to the current task's router and to its steps."""
        isolated, first = self.config.sharing == "isolated", self.task_index * self.config.top_k
        self.history.heed(self.task_index, slice(first, first + self.config.top_k) if isolated else None)

    # -- after a task --------------------------------------------------------------------------------------------------

    def end_task(self, data: TrainingData) -> None:
        """History (if it is counted after the task), task inference, then class statistics and alignment."""
        config = self.config
        if config.history_update == "post_pass":
            self._count_afterwards(data)
        self.drift[self.task_index] = self._drift()
        queries = ((batch.features, batch.targets) for batch in data.batches(augment=False))
        if self.inference is not None:
            self.inference.finish_task(queries, self.new_classes, self.task_index)
        if self.class_means is not None:
            self.class_means.collect(self.new_classes, queries)
        if config.tap.enabled or config.contrastive_reg > 0:
            self.statistics.collect(self.new_classes, self._training_features(data))
            old, seen = self.old_classes, self.seen_classes
            align(self.head, self.statistics, old_classes=old, seen_classes=seen, config=config.tap)

    @torch.no_grad()
    def _count_afterwards(self, data: TrainingData) -> None:
        for batch in data.batches(augment=False):
            trace: Trace[Routing] = Trace()
            self._features(batch.images, self._own_router(batch), self.history.penalty, trace)
            self.history.add(self.task_index, _choices(trace))

    @torch.no_grad()
    def _training_features(self, data: TrainingData) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in data.batches(augment=False):
            yield self._features(batch.images, self._own_router(batch), self._test_penalty()), batch.targets

    @torch.no_grad()
    def _drift(self) -> Tensor:
        """How far each prompt has moved in the task, in units of its norm before: (M,)."""
        moved, before = (
            each.transpose(0, 2).flatten(1).norm(dim=1)
            for each in (self.pool.prompts - self.pool_before, self.pool_before)
        )
        return moved / before.clamp(min=1e-12)

    def settled(self) -> dict[str, Tensor]:
        """Routers, penalties, counts and class statistics of finished tasks; the pool itself is shared and changes."""
        kept = {f"router of task {task}": self.pool.routers[task] for task in range(self.task_index + 1)}
        for task in range(self.task_index + 1):
            classes = classes_of(self.task_of_class[: self.seen_classes], task)
            kept[f"penalty of task {task}"] = self.history.penalty[task]
            kept[f"counts of task {task}"] = self.history.counts[task]
            kept[f"prompted statistics of task {task}"] = self.statistics.of_classes(classes)
        return kept | (self.inference.settled() if self.inference is not None else {})

    # -- inference and what it shares with training --------------------------------------------------------------------

    def predict(self, batch: Batch) -> Tensor:
        """Logits of all seen classes, each image through the router of its inferred task (card, 8)."""
        return self._logits(batch, self._tasks_of(batch))

    def _logits(self, batch: Batch, tasks: Tensor | None) -> Tensor:
        features = self._features(batch.images, tasks, self._test_penalty())
        return seen_logits(self.head, features, self.seen_classes)

    def _tasks_of(self, batch: Batch) -> Tensor | None:
        """Task (B,) whose router each image gets; None for the mean of all routers."""
        if self.config.router_select == "mean_scores":
            return None
        if self.inference is not None:
            return self.inference.task_of(batch.features, self.seen_classes)
        latest = self._own_router(batch)
        if self.config.router_select == "latest":
            return latest
        if self.class_means is not None:
            means = self.class_means.mean[: self.seen_classes]
            return self.task_of_class[torch.cdist(batch.features.float(), means).argmin(dim=1)]
        return self.task_of_class[self._logits(batch, latest).argmax(dim=1)]

    def _own_router(self, batch: Batch) -> Tensor:
        return torch.full((len(batch.images),), self.task_index, device=batch.images.device)

    def _test_penalty(self) -> Tensor:
        if self.config.penalty_infer == "train_only":
            return torch.zeros_like(self.history.penalty)
        if self.config.penalty_infer == "current":
            return self.history.present_penalty().expand_as(self.history.penalty)
        return self.history.penalty

    def _features(
        self, images: Tensor, tasks: Tensor | None, penalty: Tensor, trace: Trace[Routing] | None = None
    ) -> Tensor:
        """Prompted features (B, d) with the routers of ``tasks`` (B,) under ``penalty`` (T, slots, M)."""
        config, kept = self.config, Trace[Routing]() if trace is None else trace
        pick = Picker(tasks, penalty, config.top_k, config.penalty_scope, kept)
        return self.pool.features(self.backbone, images, self.task_index + 1, pick)


def _choices(trace: Trace[Routing]) -> Tensor:
    """Choices of a batch: boolean (slots, B, M)."""
    return torch.stack([each.chosen for each in trace])


def _over_prompts(values: Tensor) -> Tensor:
    """Values (slots, M) to the pool's dimensions."""
    return values[:, None, :, None, None, None]


def _require_room(config: HashPromptConfig, backbone: PromptedViT, setup: Setup) -> None:
    if max(config.layers) > backbone.depth:
        raise MethodError(
            f"hash_prompt prompts block {max(config.layers)}, but the backbone has {backbone.depth} blocks; change layers"
        )
    if config.sharing == "isolated" and config.pool_size < setup.num_tasks * config.top_k:
        raise MethodError(
            f"hash_prompt with isolated prompts needs {config.top_k} for each of {setup.num_tasks} tasks, but"
            f" pool_size={config.pool_size}; raise it to {setup.num_tasks * config.top_k}"
        )
