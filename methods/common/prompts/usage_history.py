"""Counts of prompt use, and the penalties in routing and factors on updates computed from them.

Source: Hash card, sections 5 (HDR), 7 (history) and 9.1 (HGM). Histories have the prompts in their last dimension.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from smope_bench.methods.common.api import MethodConfig

Phi = Literal["piecewise", "log", "power", "none"]
Psi = Literal["piecewise", "reciprocal", "exponential", "none"]
HotRule = Literal["topk", "above_mean", "fraction"]
Norm = Literal["count", "rate"]


def top_mask(values: Tensor, count: int) -> Tensor:
    """Boolean mask of the ``count`` largest entries of the last dimension; ties go to the smaller index."""
    order = values.sort(dim=-1, descending=True, stable=True).indices[..., :count]
    return torch.zeros_like(values, dtype=torch.bool).scatter(-1, order, True)


def usage(counts: Tensor, images: Tensor, norm: Norm = "count") -> Tensor:
    """History (..., M) in float32 from counts (T, ..., M) a task and the images (T,) that were routed in it.

    ``rate`` divides each task's counts by its images, so that every task weighs the same.
    """
    if norm == "count":
        return counts.sum(dim=0).float()
    routed = images.clamp(min=1).view(-1, *[1] * (counts.dim() - 1))
    return (counts.double() / routed).sum(dim=0).float()


def hot_set(history: Tensor, rule: HotRule, *, size: int, fraction: float) -> Tensor:
    """The most activated prompts, only among those used at all: boolean, shaped as ``history``.

    ``topk``: the ``size`` most used; ``fraction``: that part of the pool, rounded, at least one; ``above_mean``: those used
    at least as often as the mean of the used ones.
    """
    used = history > 0
    if rule == "above_mean":
        mean = history.sum(dim=-1, keepdim=True) / used.sum(dim=-1, keepdim=True).clamp(min=1)
        return used & (history >= mean)
    if rule == "fraction":
        size = max(1, round(fraction * history.shape[-1]))
    return used & top_mask(history, size)


def routing_penalty(history: Tensor, hot: Tensor, form: Phi, *, delta: float, alpha: float) -> Tensor:
    """HDR's phi: what is subtracted from each prompt's score. ``delta`` is the step, or the factor of the smooth forms."""
    if form == "piecewise":
        return delta * hot
    if form == "log":
        return delta * history.log1p()
    if form == "power":
        return delta * history.pow(alpha)
    return torch.zeros_like(history)


def update_factor(history: Tensor, hot: Tensor, form: Psi, *, beta: float, zeta: float) -> Tensor:
    """HGM's psi: the factor on each prompt's update, in [0, 1]."""
    if form == "piecewise":
        return torch.where(hot, beta, 1.0)
    if form == "reciprocal":
        return 1 / (1 + zeta * history)
    if form == "exponential":
        return torch.exp(-zeta * history)
    return torch.ones_like(history)


class HistoryConfig(MethodConfig):
    """Switches of both mechanisms; HDR is off with ``phi=none``, HGM with ``psi=none``."""

    phi: Phi = Field(
        default="piecewise",
        description="how HDR lowers scores with use: a step for the most used, the logarithm, a power, or not at all",
    )
    delta: float = Field(default=0.5, ge=0, le=1e6, description="penalty of much-used prompts; factor of log and power")
    phi_alpha: float = Field(default=0.5, gt=0, description="exponent of phi=power")
    psi: Psi = Field(
        default="piecewise",
        description="how HGM scales updates with use: a step for the most used, reciprocally, exponentially, or not at all",
    )
    beta: float = Field(default=0.1, ge=0, le=1, description="update factor of much-used prompts")
    zeta: float = Field(default=1.0, ge=0, description="decay of psi=reciprocal and psi=exponential")
    hot_set: HotRule = Field(
        default="topk",
        description="the most used prompts: the first so many, those at or above the mean, or a fraction of the pool",
    )
    hot_size: int | None = Field(default=None, ge=1, description="hot_set=topk: how many; top_k where absent")
    hot_fraction: float = Field(default=0.5, gt=0, le=1, description="hot_set=fraction: part of the pool")
    history_norm: Norm = Field(
        default="count", description="history: uses counted, or divided by the images of their task"
    )


class PromptHistory(nn.Module):
    """Uses of each prompt in each task, and the penalty and factor in force, for each *slot* (unit of routing).

    Buffers: ``counts`` (T, slots, M) and ``routed`` (T,), uses and images; ``penalty`` (T, slots, M), under which each task's
    router was trained; ``factor`` (slots, M) of the current task's updates.
    """

    counts: Tensor
    routed: Tensor
    penalty: Tensor
    factor: Tensor

    def __init__(self, config: HistoryConfig, tasks: int, slots: int, prompts: int, top_k: int) -> None:
        super().__init__()
        self.config = config
        self.hot_size = config.hot_size or top_k
        self.register_buffer("counts", torch.zeros(tasks, slots, prompts, dtype=torch.long))
        self.register_buffer("routed", torch.zeros(tasks, dtype=torch.long))
        self.register_buffer("penalty", torch.zeros(tasks, slots, prompts))
        self.register_buffer("factor", torch.ones(slots, prompts))

    def usage(self, norm: Norm | None = None) -> Tensor:
        """History H of all tasks so far: (slots, M)."""
        return usage(self.counts, self.routed, norm or self.config.history_norm)

    def hot(self) -> Tensor:
        """The set A: boolean (slots, M)."""
        config = self.config
        return hot_set(self.usage(), config.hot_set, size=self.hot_size, fraction=config.hot_fraction)

    def present_penalty(self) -> Tensor:
        """Penalty of the present history: (slots, M)."""
        config = self.config
        return routing_penalty(self.usage(), self.hot(), config.phi, delta=config.delta, alpha=config.phi_alpha)

    def heed(self, task: int, allowed: slice | None = None) -> None:
        """Set penalty and factor for ``task`` from the history; with ``allowed``, exclude all other prompts instead."""
        config = self.config
        self.factor.copy_(update_factor(self.usage(), self.hot(), config.psi, beta=config.beta, zeta=config.zeta))
        if allowed is None:
            self.penalty[task] = self.present_penalty()
        else:
            self.penalty[task] = torch.inf
            self.penalty[task, :, allowed] = 0

    def add(self, task: int, chosen: Tensor) -> None:
        """Count the choices (slots, B, M) of a batch."""
        self.counts[task] += chosen.sum(dim=1)
        self.routed[task] += chosen.shape[1]
