"""InfLoRA (CVPR 2024): a low-rank branch of keys and values for each task, orthogonal to the inputs of earlier tasks.

Source: InfLoRA card. A branch is ``up @ down``. Before a task, ``down`` is designed from second moments of the task's inputs
outside a protected space, and stays as it is; ``up`` is trained from zero. After the task, the leading directions of its inputs
join the protected space. Finished branches are merged into effective weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
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
from smope_bench.methods.common.vit.block_adaptation import BlockAdaptation, Layer, LowRank, Target
from smope_bench.methods.common.vit.merging import Derived, settled_updates
from smope_bench.methods.common.vit.vit import PromptedViT

Projection = Literal["q", "k", "v"]


class InfLoRAConfig(MethodConfig):
    """Branches, design of their reductions and the protected space (card, sections 4, 8 and 12)."""

    blocks: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="the first blocks have branches; without a value all of them; 5 is variant b5",
    )
    rank: int = Field(default=10, ge=1, le=1024, description="rank of a branch; 30 on DomainNet")
    targets: tuple[Projection, ...] = Field(
        default=("k", "v"),
        min_length=1,
        max_length=3,
        description="projections with a branch; they share the reduction",
    )
    threshold: float = Field(
        default=0.95, gt=0, le=1, description="share of the energy that is protected after the first task"
    )
    threshold_final: float = Field(
        default=1.0, gt=0, le=1, description="the share rises linearly to this with the tasks"
    )
    row_norm: float = Field(default=1 / math.sqrt(3), gt=0, description="norm of a reduction's rows; 1 in the paper")
    design: Literal["squared", "inputs"] = Field(
        default="squared",
        description="directions are ranked by squared second moments, correlation with protected ones included (code), or by"
        " the second moments of what is left of the inputs (paper)",
    )
    energy: Literal["squared", "plain"] = Field(
        default="squared", description="energy of a direction: its squared second moment (code) or the moment itself"
    )
    first_count: Literal["below", "reach"] = Field(
        default="below",
        description="the first task's directions stay below the share (code) or reach it, as later ones do",
    )
    statistics: Literal["augmented", "test"] = Field(
        default="augmented", description="images of the second moments: with training augmentation (code) or without"
    )
    fill_missing_rank: Literal["arbitrary", "zero"] = Field(
        default="arbitrary",
        description="rows of a reduction without a free direction: arbitrary, also protected ones (code), or zero",
    )
    head_lr_mult: float = Field(
        default=1.0, gt=0, description="classifier's rate in units of the branches'; 2 on DomainNet"
    )
    reduction: Literal["designed", "random", "current_only", "orthogonal_random"] = Field(
        default="designed",
        description="ablations: random; designed from the current inputs alone; random outside the protected space",
    )


def share_to_protect(config: InfLoRAConfig, task: int, tasks: int) -> float:
    """Share of the energy of a task's inputs that is inside the protected space after the 0-based ``task``."""
    return config.threshold + (config.threshold_final - config.threshold) * task / tasks


def outside(moments: Tensor, protected: Tensor, measure: str) -> Tensor:
    """Moments S (d, d) outside the space of the projector P (d, d): (I - P) S if ``squared``, else (I - P) S (I - P)."""
    left = moments - protected @ moments
    return left if measure == "squared" else left - left @ protected


def designed(moments: Tensor, protected: Tensor, config: InfLoRAConfig) -> Tensor:
    """The reduction (rank, d) of a task from its mean second moments (d, d) and the protected space's projector (d, d)."""
    directions, values, _ = torch.linalg.svd(outside(moments, protected, config.design))
    rows = config.row_norm * directions[:, : config.rank].T
    if config.fill_missing_rank == "zero":
        negligible = len(moments) * torch.finfo(torch.float32).eps * torch.linalg.matrix_norm(moments, 2)
        rows = torch.where(values[: config.rank, None] > negligible, rows, 0.0)
    return rows


def protect(moments: Tensor, protected: Tensor, task: int, tasks: int, config: InfLoRAConfig) -> Tensor:
    """The projector (d, d) of the protected space after a task with these mean second moments (d, d).

    The official code stores the complement of a large space instead; the space is the same (card, section 4.2).
    """
    share, power = share_to_protect(config, task, tasks), 2 if config.energy == "squared" else 1
    total = torch.linalg.svdvals(moments).pow(power).sum()
    directions, values, _ = torch.linalg.svd(outside(moments, protected, config.energy))
    energies = values.pow(power) / total
    reached = 1 - energies.sum() + torch.cat([energies.new_zeros(1), energies.cumsum(0)])
    count = int((reached[:-1] < share).sum())
    if task == 0 and config.first_count == "below":
        count = max(int((reached[1:] < share).sum()), 1)
    added = directions[:, :count]
    return protected + added @ added.T


class InfLoRA(Method):
    """Branches of all tasks and one classifier; ``up`` (blocks, targets, width, rank) is the current task's.

    ``downs`` (tasks, blocks, rank, d) and ``ups`` (tasks, blocks, targets, width, rank): all reductions, and the finished tasks'
    up-projections. ``protected`` (blocks, d, d): projectors.
    """

    name = "inflora"
    card = MethodCard(
        title="InfLoRA",
        summary="low-rank branches of keys and values, each trained outside the space of earlier tasks' inputs",
        paper="InfLoRA: Interference-Free Low-Rank Adaptation for Continual Learning, CVPR 2024",
        paper_url="https://arxiv.org/abs/2404.00228",
        code_url="https://github.com/liangyanshuo/InfLoRA",
        kind="adapter",
    )
    Config = InfLoRAConfig
    protocols = frozenset({"class", "domain"})
    only_for_training = ("protected", "up")
    on_host = ("_progress", "protected", "is_merged")
    not_extended_because = "the share of the inputs that it protects after a task depends on the number of tasks"
    config: InfLoRAConfig
    downs: Tensor
    ups: Tensor
    protected: Tensor
    is_merged: Tensor

    def __init__(self, config: InfLoRAConfig, backbone: PromptedViT, setup: Setup) -> None:
        super().__init__(config, backbone, setup)
        blocks = config.blocks or backbone.depth
        backbone.require_blocks(blocks, self.name, "blocks")
        d, width = backbone.feature_dim, backbone.num_heads * backbone.head_dim
        self.up = nn.Parameter(torch.zeros(blocks, len(config.targets), width, config.rank))
        self.register_buffer("downs", torch.zeros(setup.num_tasks, blocks, config.rank, d))
        self.register_buffer("ups", torch.zeros(setup.num_tasks, *self.up.shape))
        self.register_buffer("protected", torch.zeros(blocks, d, d))
        self.register_buffer("is_merged", torch.tensor(False))
        LowRank(self.downs[0, 0], self.up[0, 0])  # refuses a rank above the width
        self.head = make_head(d, setup.num_classes)
        self.merged: Derived[dict[int, dict[Layer, Tensor]]] = Derived()

    # -- transitions between tasks -------------------------------------------------------------------------------------

    @torch.no_grad()
    def begin_task(self, task: TaskInfo) -> None:
        """A branch without effect."""
        del task
        self.up.zero_()
        self.is_merged.fill_(False)

    @torch.no_grad()
    def prepare_task(self, data: TrainingData) -> None:
        """Design the reductions."""
        made = [self._reduction(one, space) for one, space in zip(self._moments(data), self.protected, strict=True)]
        self.downs[self.task_index].copy_(torch.stack(made))
        self._adaptations()  # merges here what the steps need

    def _reduction(self, moments: Tensor, protected: Tensor) -> Tensor:
        config, space = self.config, protected.double()
        if config.reduction in ("designed", "current_only"):
            return designed(moments, space if config.reduction == "designed" else torch.zeros_like(space), config)
        rows = torch.rand(config.rank, len(moments), dtype=torch.double) * 2 - 1
        if config.reduction == "random":
            return rows * config.row_norm * math.sqrt(3 / len(moments))
        free = (rows - rows @ space).T
        return config.row_norm * torch.linalg.qr(free).Q.T

    @torch.no_grad()
    def end_task(self, data: TrainingData) -> None:
        """Merge the branch, and protect the leading directions of the task's inputs, as they are with it."""
        index, tasks = self.task_index, self.setup.num_tasks
        self.ups[index].copy_(self.up)
        self.is_merged.fill_(True)
        for moments, space in zip(self._moments(data), self.protected, strict=True):
            space.copy_(protect(moments, space.double(), index, tasks, self.config))

    def _moments(self, data: TrainingData) -> Tensor:
        """Mean outer products (blocks, d, d) of all tokens that enter the adapted blocks' attention, in double on the host."""
        sums = torch.zeros(self.protected.shape, device=self.downs.device)
        tokens = 0

        def reader(block: int) -> Callable[[Tensor], None]:
            def read(normed: Tensor) -> None:
                nonlocal tokens
                with torch.autocast(normed.device.type, enabled=False):
                    rows = normed.flatten(0, 1).float()
                    sums[block].addmm_(rows.T, rows)
                tokens += len(rows) if block == 0 else 0

            return read

        readers = {block: reader(block) for block in range(len(sums))}
        for batch in data.batches(shuffle=True, augment=self.config.statistics == "augmented"):
            self.backbone.run_prompted(batch.images, self._adaptations(readers))
        return sums.cpu().double() / tokens

    # -- training and answers ------------------------------------------------------------------------------------------

    def parameter_groups(self) -> list[ParameterGroup]:
        """The current branch and the classifier."""
        head = ParameterGroup("head", list(self.head.parameters()), self.config.head_lr_mult)
        return [ParameterGroup("branch", [self.up]), head]

    def training_step(self, batch: Batch) -> Tensor:
        """Cross-entropy over the current task's classes."""
        return current_task_loss(self.predict(batch), batch.targets, self.old_classes, absent=self.absent_classes)

    def predict(self, batch: Batch) -> Tensor:
        return seen_logits(self.head, self.backbone(batch.images, self._adaptations()), self.seen_classes)

    def settled(self) -> dict[str, Tensor]:
        """Finished branches, and the classifier's rows of classes that do not come again."""
        kept = settled_updates(self.downs, self.ups, self.task_index + int(self.is_merged))
        return kept | (settled_rows(self.head, self.seen_classes) if self.setup.protocol == "class" else {})

    def _adaptations(self, readers: dict[int, Callable[[Tensor], None]] | None = None) -> dict[int, BlockAdaptation]:
        """Finished branches as effective weights, the current one beside them."""
        finished, is_merged = self.task_index + int(self.is_merged), bool(self.is_merged)
        merged: dict[int, dict[Layer, Tensor]] = {}
        if finished:
            downs, ups = self.downs[:finished], self.ups[:finished]
            merged = self.merged(lambda: self.backbone.merged(self._joined(downs, ups)), downs, ups)
        found: dict[int, BlockAdaptation] = {}
        for block, up in enumerate(self.up):
            down = self.downs[self.task_index, block]
            branch: dict[Target, LowRank] = {}
            if not is_merged:
                branch = {target: LowRank(down, one) for target, one in zip(self.config.targets, up, strict=True)}
            reads = None if readers is None else readers[block]
            found[block] = BlockAdaptation(reads=reads, weights=merged.get(block, {}), low_rank=branch)
        return found

    def _joined(self, downs: Tensor, ups: Tensor) -> dict[int, dict[Target, LowRank]]:
        """The sum of several tasks' branches, by block and projection."""
        return {
            block: {
                target: LowRank.joined(
                    *(LowRank(down[block], up[block, place]) for down, up in zip(downs, ups, strict=True))
                )
                for place, target in enumerate(self.config.targets)
            }
            for block in range(len(self.up))
        }
