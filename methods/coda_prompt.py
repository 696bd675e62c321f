"""CODA-Prompt (CVPR 2023): each prompt is a sum of components, weighted by cosines between attended queries and keys.

Source: CODA-Prompt card; the default is the official code's behaviour. Every task owns a slice of the components: it writes
new rows, trains them, and leaves them frozen but in use. Shapes: L prompted blocks, M components of T tokens, width d.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from smope_bench.methods.common.api import (
    Batch,
    Geometry,
    Method,
    MethodCard,
    MethodConfig,
    ParameterGroup,
    PublishedCost,
    Setup,
    TaskInfo,
)
from smope_bench.methods.common.classifier import current_task_loss, make_head, seen_logits
from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.prompts.pools import prefix_rules
from smope_bench.methods.common.vit.vit import AttentionRule, PromptedViT

SMALLEST_NORM = 1e-12
SMALLEST_SQUARED_ROW = 1e-8
"""Rows with a smaller norm are left out of projections; the official code would draw again without end (card, section 4)."""

Init = Literal["gram_schmidt", "qr", "global"]


class CODAPromptConfig(MethodConfig):
    """Hyper-parameters and switches (card, sections 1, 3.2, 4 and 5)."""

    prompt_blocks: int = Field(default=5, ge=1, le=64, description="the first so many blocks are prompted")
    components: int = Field(default=100, ge=1, le=65_536, description="components a block, shared out among the tasks")
    length: int = Field(default=8, ge=2, le=4096, multiple_of=2, description="tokens: half prefix keys, half values")
    init: Init = Field(
        default="gram_schmidt",
        description="new rows: gram_schmidt (code: classical form, by task), qr (exactly orthogonal, by task) or global"
        " (first release: all rows orthonormal before the first task)",
    )
    ortho_weight: float = Field(
        default=0.0,
        ge=0,
        description="weight of the orthogonality penalty; 1e-7 is what the paper-era release amounts to",
    )
    prompt_lr_mult: float = Field(default=1.0, gt=0, description="5 in VQ-Prompt's runs of this method")
    mask_old_logits: bool = Field(default=True, description="only the current task's classes in the training softmax")


class CODAPrompt(Method):
    """Packed components (L, M, T, d), keys and attention vectors (L, M, d), and one classifier."""

    name = "coda_prompt"
    card = MethodCard(
        title="CODA-Prompt",
        summary="prompts assembled from weighted components through attended queries; a slice of components a task",
        paper="CODA-Prompt: COntinual Decomposed Attention-based Prompting for Rehearsal-Free Continual Learning, CVPR 2023",
        paper_url="https://arxiv.org/abs/2211.13218",
        code_url="https://github.com/GT-RIPL/CODA-Prompt",
    )
    Config = CODAPromptConfig
    protocols = frozenset({"class", "domain"})
    not_extended_because = "its components are divided among all tasks before the first one is learnt"
    config: CODAPromptConfig
    needs_query = True

    def __init__(self, config: CODAPromptConfig, backbone: PromptedViT, setup: Setup) -> None:
        super().__init__(config, backbone, setup)
        backbone.require_blocks(config.prompt_blocks, self.name)
        self.slice_size = _slice_size(config.components, setup)
        rows, dim = (config.prompt_blocks, config.components), backbone.feature_dim
        self.components = nn.Parameter(torch.zeros(*rows, config.length, dim))
        self.keys = nn.Parameter(torch.zeros(*rows, dim))
        self.attention = nn.Parameter(torch.zeros(*rows, dim))
        self.head = make_head(dim, setup.num_classes)

    @classmethod
    def published_cost(cls, geometry: Geometry) -> PublishedCost:
        """Card, sections 6 and 7: the official code's count; the cost of assembling prompts is that of the first task."""
        config, dim = CODAPromptConfig(), geometry.dim
        prompts = config.prompt_blocks * config.components * (config.length + 2) * dim
        visible = config.components // geometry.num_tasks
        assembly = config.prompt_blocks * visible * (3 + 2 * config.length) * dim
        return PublishedCost(
            parameters=prompts + (dim + 1) * geometry.num_classes,
            train_passes=2,
            test_passes=2,
            extra_train_flops=assembly,
            extra_test_flops=assembly,
            note="all components and the whole classifier; a task trains only its slice. Assembly with the first task's"
            " components: with all of them the same count prints 67.45",
        )

    def begin_task(self, task: TaskInfo) -> None:
        """Write the task's rows, orthogonal to those before; rows of later tasks stay zero (card, section 4)."""
        start, stop = self._slice(task.index)
        if self.config.init == "global":
            if task.index > 0:
                return
            stop = self.slice_size * self.setup.num_tasks
        with torch.no_grad(), torch.autocast(self.keys.device.type, enabled=False):
            for tensor in self._pool():
                rows = tensor.flatten(2)
                drawn = torch.randn_like(rows[:, start:stop])
                new = orthogonal_rows(rows[:, :start], drawn, exact=self.config.init != "gram_schmidt")
                tensor[:, start:stop] = new.view_as(tensor[:, start:stop])

    def parameter_groups(self) -> list[ParameterGroup]:
        """One rate for all, as in the official code, unless configured."""
        return [
            ParameterGroup("prompts", list(self._pool()), self.config.prompt_lr_mult),
            ParameterGroup("head", list(self.head.parameters())),
        ]

    def training_step(self, batch: Batch) -> Tensor:
        """Cross-entropy over the current task's classes, and the orthogonality penalty where it has a weight."""
        components, keys, attention = visible = self._visible()
        features = self.backbone(batch.images, self._rules(batch, *visible))
        logits = seen_logits(self.head, features, self.seen_classes)
        loss = current_task_loss(
            logits, batch.targets, self.old_classes, mask_old=self.config.mask_old_logits, absent=self.absent_classes
        )
        if self.config.ortho_weight > 0:
            penalties = [ortho_penalty(rows) for rows in (keys, attention, components.flatten(2))]
            loss = loss + self.config.ortho_weight * torch.stack(penalties).sum()
        return loss

    def predict(self, batch: Batch) -> Tensor:
        features = self.backbone(batch.images, self._rules(batch, *self._visible()))
        return seen_logits(self.head, features, self.seen_classes)

    def settled(self) -> dict[str, Tensor]:
        """Each finished task's slice of components, keys and attention vectors."""
        names = ("components", "keys", "attention vectors")
        return {
            f"{name} of task {task}": tensor.detach()[:, slice(*self._slice(task))]
            for task in range(self.task_index + 1)
            for name, tensor in zip(names, self._pool(), strict=True)
        }

    def _pool(self) -> tuple[nn.Parameter, nn.Parameter, nn.Parameter]:
        return self.components, self.keys, self.attention

    def _slice(self, task: int) -> tuple[int, int]:
        return task * self.slice_size, (task + 1) * self.slice_size

    def _visible(self) -> tuple[Tensor, Tensor, Tensor]:
        """The rows written so far; those of earlier tasks are detached, so that their gradient is exactly zero."""
        start, stop = self._slice(self.task_index)
        components, keys, attention = (
            torch.cat([tensor[:, :start].detach(), tensor[:, start:stop]], dim=1) for tensor in self._pool()
        )
        return components, keys, attention

    def _rules(self, batch: Batch, components: Tensor, keys: Tensor, attention: Tensor) -> dict[int, AttentionRule]:
        prompts = assemble(batch.features, components, keys, attention)
        return prefix_rules(range(len(prompts)), prompts[:, :, None], self.backbone.num_heads)


def assemble(query: Tensor, components: Tensor, keys: Tensor, attention: Tensor) -> Tensor:
    """Prompts (L, B, T, d) of queries (B, d), which get no gradient, from m visible components; float32.

    A component's weight is the cosine between the query times its attention vector, and its key (card, section 2.2). Both
    norm and product are matrix products, without a tensor of masked queries.
    """
    with torch.autocast(query.device.type, enabled=False):
        query = query.detach().to(keys.dtype)
        product = torch.einsum("bd,lmd->lbm", query, attention * F.normalize(keys, dim=-1))
        squared = torch.einsum("bd,lmd->lbm", query.square(), attention.square())
        weights = product / squared.clamp(min=SMALLEST_NORM**2).sqrt()
        return torch.einsum("lbm,lmtd->lbtd", weights, components)


def ortho_penalty(rows: Tensor) -> Tensor:
    """Mean squared entry of W W^T - I for rows (L, m, n): scalar, summed over blocks (card, section 3.2)."""
    with torch.autocast(rows.device.type, enabled=False):
        gram = rows @ rows.transpose(1, 2)
        return (gram - torch.eye(rows.shape[1], device=rows.device)).square().mean(dim=(1, 2)).sum()


def orthogonal_rows(earlier: Tensor, draws: Tensor, *, exact: bool = False) -> Tensor:
    """New unit rows (L, k, n) made of ``draws`` (L, k, n), to follow ``earlier`` (L, s, n).

    No more than n rows can be orthogonal, so every n rows begin a new set. ``exact`` uses QR instead of the
    classical form, which leaves overlaps with earlier rows that are not orthogonal among themselves.
    """
    start, width = earlier.shape[1:]
    rows = torch.cat([earlier, draws], dim=1)
    make = _complement if exact else _classical
    for first in range(start - start % width, rows.shape[1], width):
        low, high = max(first, start), min(first + width, rows.shape[1])
        rows[:, low:high] = make(rows[:, first:low], rows[:, low:high])
    return rows[:, start:]


def _classical(earlier: Tensor, draws: Tensor) -> Tensor:
    """Classical Gram-Schmidt: each draw less its projections on all rows before; normalised at the end."""
    basis = earlier
    for draw in draws.unbind(dim=1):
        squared = basis.square().sum(dim=-1)
        usable = squared >= SMALLEST_SQUARED_ROW
        shares = torch.einsum("lmn,ln->lm", basis, draw) / squared.where(usable, torch.ones_like(squared)) * usable
        rest = draw - torch.einsum("lm,lmn->ln", shares, basis)
        basis = torch.cat([basis, rest[:, None]], dim=1)
    return F.normalize(basis[:, earlier.shape[1] :], dim=-1)


def _complement(earlier: Tensor, draws: Tensor) -> Tensor:
    """Orthonormal rows in the complement of the earlier rows' span."""
    basis, _ = torch.linalg.qr(torch.cat([earlier, draws], dim=1).transpose(1, 2))
    return basis.transpose(1, 2)[:, earlier.shape[1] :]


def _slice_size(components: int, setup: Setup) -> int:
    """Components a task. Raises MethodError if a task gets none, or if weight decay would change frozen rows."""
    if components < setup.num_tasks:
        raise MethodError(
            f"coda_prompt has no room for its components: {components} components give each of {setup.num_tasks} tasks none;"
            f" set components to at least {setup.num_tasks} or lower the number of tasks"
        )
    if setup.schedule.weight_decay > 0:
        raise MethodError(
            f"weight_decay={setup.schedule.weight_decay:g} would erode the components that coda_prompt has frozen;"
            " set schedule.weight_decay=0"
        )
    return components // setup.num_tasks
