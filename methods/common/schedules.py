"""Training schedules: batch size, epochs, optimiser and learning rates, with the off-by-one steps of the official code.

Source: SMoPE card, section 5 (``coswm`` and ``cosine``) and section 9, rows 18 and 19; HiDe-Prompt card, section 6.1 (``step``
and ``epoch_cosine``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

FLOOR = 1e-6

Shape = Literal["coswm", "cosine", "plain_cosine", "constant", "step", "epoch_cosine"]


class Schedule(BaseModel):
    """How a method is trained; part of a run's identity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    batch_size: int = Field(default=128, ge=1, le=4096, description="images a step")
    epochs: int = Field(
        default=20, ge=1, le=10_000, description="passes over a task's images, in each phase that names no other number"
    )
    lr: float = Field(default=0.005, gt=0, le=10, description="base rate; a parameter group may multiply it")
    shape: Shape = Field(
        default="coswm",
        description="course of the rate, by step (coswm, plain_cosine) or by epoch (cosine, step, epoch_cosine), or constant",
    )
    freeze_steps: int = Field(default=0, ge=0, description="coswm: steps at the floor rate after the first")
    steps_per_epoch: int | None = Field(
        default=None,
        ge=1,
        description="coswm: nominal iterations an epoch (iter_step); the loader's length where absent",
    )
    lr_first_step_full: bool = Field(default=True, description="the first step of a phase runs at the base rate (code)")
    decay_epochs: int = Field(default=30, ge=1, description="step: epochs between two falls of the rate")
    decay_factor: float = Field(default=0.1, gt=0, lt=1, description="step: what each fall multiplies the rate by")
    min_lr: float = Field(default=1e-5, ge=0, description="epoch_cosine: the rate it falls to")
    grad_clip: float = Field(default=0.0, ge=0, description="largest global gradient norm; 0 does not clip")
    weight_decay: float = Field(default=0.0, ge=0, le=1, description="decoupled weight decay of AdamW")
    beta1: float = Field(default=0.9, ge=0, lt=1, description="decay of AdamW's mean of gradients")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="decay of AdamW's mean of squared gradients")
    eps: float = Field(default=1e-8, gt=0, description="AdamW's term against division by zero")
    drop_last: bool = Field(default=True, description="drop an incomplete last batch, unless it is the only one")


def restart_cosine(step: int, *, base: float, total: int, freeze: int = 0, first: float | None = None) -> float:
    """``coswm``: the rate of a phase's 0-based ``step``.

    The table s starts with ``freeze`` entries at the floor, then falls from ``base`` to the floor until ``total``. With
    ``first`` given, step 0 runs at that rate and step n at s[n-1], as the official scheduler's construction has it.
    """
    if first is not None:
        if step == 0:
            return first
        step -= 1
    if step < freeze or step >= total:
        return FLOOR
    return FLOOR + 0.5 * (base - FLOOR) * (1 + math.cos(math.pi * (step - freeze) / (total - freeze)))


def quarter_cosine(epoch: int, *, base: float, epochs: int) -> float:
    """``cosine``: the rate of a 0-based ``epoch``; the first two epochs share the base rate."""
    if epochs == 1:
        return base
    return base * math.cos(99 * math.pi * max(epoch - 1, 0) / (200 * (epochs - 1)))


def learning_rate(schedule: Schedule, base: float, *, step: int, loader_steps: int, epochs: int) -> float:
    """Rate of the 0-based ``step`` of a phase of ``epochs`` epochs whose loader gives ``loader_steps`` batches.

    The schedules by epoch lag by one: epochs 0 and 1 share the base rate, as in the official code.
    """
    if schedule.shape == "constant":
        return base
    lagging = max(step // loader_steps - 1, 0)
    if schedule.shape == "step":
        return base * schedule.decay_factor ** (lagging // schedule.decay_epochs)
    if schedule.shape == "epoch_cosine":
        return schedule.min_lr + (base - schedule.min_lr) * (1 + math.cos(math.pi * lagging / epochs)) / 2
    if schedule.shape == "cosine":
        return quarter_cosine(step // loader_steps, base=base, epochs=epochs)
    if schedule.shape == "plain_cosine":
        return restart_cosine(step, base=base, total=loader_steps * epochs)
    total = (schedule.steps_per_epoch or loader_steps) * epochs
    freeze = min(schedule.freeze_steps, total)
    first = base if schedule.lr_first_step_full else None
    return restart_cosine(step, base=base, total=total, freeze=freeze, first=first)


def steps_at_floor(schedule: Schedule, loader_steps: int) -> int:
    """How many of a task's steps run at the floor rate. Only ``coswm`` has some, by its nominal count of steps."""
    if schedule.shape != "coswm":
        return 0
    steps = loader_steps * schedule.epochs - schedule.lr_first_step_full
    total = (schedule.steps_per_epoch or loader_steps) * schedule.epochs
    return min(schedule.freeze_steps, total, steps) + max(0, steps - total)


def adamw(groups: Iterable[tuple[list[nn.Parameter], float]], schedule: Schedule) -> torch.optim.AdamW:
    """AdamW over (parameters, base rate) pairs with the schedule's constants."""
    return torch.optim.AdamW(
        [{"params": parameters, "lr": rate, "base_lr": rate} for parameters, rate in groups],
        betas=(schedule.beta1, schedule.beta2),
        eps=schedule.eps,
        weight_decay=schedule.weight_decay,
        fused=True,
    )
