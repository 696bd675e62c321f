"""Training schedules: batch size, epochs, optimiser and learning rates, with the off-by-one steps of the official code.

Source: SMoPE card, section 5 (``coswm`` and ``cosine``) and section 9, rows 18 and 19; HiDe-Prompt card, section 6.1 (``step``
and ``epoch_cosine``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from torch import Tensor, nn

FLOOR = 1e-6

Shape = Literal["coswm", "cosine", "plain_cosine", "constant", "step", "epoch_cosine", "milestones"]


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
        description="course of the rate, by step (coswm, plain_cosine) or by epoch (cosine, step, epoch_cosine, milestones), or"
        " constant",
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
    weight_decay: float = Field(
        default=0.0, ge=0, le=1, description="weight decay, decoupled in AdamW, added to the gradient in Adam and SGD"
    )
    beta1: float = Field(default=0.9, ge=0, lt=1, description="decay of AdamW's mean of gradients")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="decay of AdamW's mean of squared gradients")
    eps: float = Field(default=1e-8, gt=0, description="AdamW's term against division by zero")
    drop_last: bool = Field(default=True, description="drop an incomplete last batch, unless it is the only one")
    optimizer: Literal["adamw", "adam", "sgd"] = Field(
        default="adamw", description="adam and sgd add the weight decay to the gradient"
    )
    sgd_momentum: float = Field(default=0.9, ge=0, lt=1, description="sgd: momentum")
    nesterov: bool = Field(default=False, description="sgd: Nesterov's form of the momentum")
    epoch_lag: int = Field(
        default=1,
        ge=0,
        le=1,
        description="step, epoch_cosine, milestones: epochs by which the rate lags, as the official code's",
    )
    milestones: tuple[int, ...] = Field(
        default=(),
        description="milestones: epochs, from 0, from which on the rate is multiplied by decay_factor once more",
    )

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Schedule:
        if self.nesterov and (self.optimizer != "sgd" or not self.sgd_momentum):
            raise ValueError(
                f"nesterov=True needs optimizer=sgd with a momentum, not optimizer={self.optimizer}"
                f" with sgd_momentum={self.sgd_momentum:g}"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Fields that came after the first records are absent where they have their default, so that run ids stay the same."""
        fields = type(self).model_fields
        return {
            key: value
            for key, value in dump(self).items()
            if key not in LATER or getattr(self, key) != fields[key].default
        }


LATER = frozenset({"optimizer", "sgd_momentum", "nesterov", "epoch_lag", "milestones"})


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

    The schedules by epoch lag by ``epoch_lag``: with 1, epochs 0 and 1 share the base rate, as in the official code.
    """
    if schedule.shape == "constant":
        return base
    lagging = max(step // loader_steps - schedule.epoch_lag, 0)
    if schedule.shape in ("step", "milestones"):
        is_regular = schedule.shape == "step"
        falls = (
            lagging // schedule.decay_epochs if is_regular else sum(lagging >= epoch for epoch in schedule.milestones)
        )
        return base * schedule.decay_factor**falls
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


def optimizer_of(
    groups: Iterable[tuple[list[nn.Parameter], float, float | None]], schedule: Schedule
) -> torch.optim.Optimizer:
    """The schedule's optimiser over (parameters, base rate, weight decay); None stands for the schedule's weight decay."""
    options: list[dict[str, Any]] = [
        {"params": parameters, "lr": rate, "base_lr": rate} | ({} if decay is None else {"weight_decay": decay})
        for parameters, rate, decay in groups
    ]
    decay = schedule.weight_decay
    if schedule.optimizer == "sgd":
        momentum, nesterov = schedule.sgd_momentum, schedule.nesterov
        return torch.optim.SGD(options, momentum=momentum, nesterov=nesterov, weight_decay=decay, fused=True)
    kind = torch.optim.AdamW if schedule.optimizer == "adamw" else torch.optim.Adam
    betas = schedule.beta1, schedule.beta2
    return kind(options, betas=betas, eps=schedule.eps, weight_decay=decay, fused=True)


@torch.no_grad()
def projected_step(
    optimizer: torch.optim.Optimizer, projections: Mapping[nn.Parameter, Callable[[Tensor], Tensor]]
) -> None:
    """A step of the optimiser of which some parameters take only a projection, a function of the step's change.

    For ``Method.apply_step``. The optimiser's moments see the gradients as they are; a projection of the gradients instead
    is written to ``parameter.grad`` there, before ``optimizer.step()``.
    """
    before = {parameter: parameter.clone() for parameter in projections}
    optimizer.step()
    for parameter, old in before.items():
        parameter.copy_(old + projections[parameter](parameter - old))
