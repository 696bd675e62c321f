"""Task-adaptive prediction: the classifier re-balanced on Gaussian pseudo-features (SMoPE card, section 5)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from methods.common.class_stats import ClassStatistics, Covariance
from methods.common.schedules import restart_cosine


class TapConfig(BaseModel):
    """Settings of classifier alignment; the defaults are the official code's."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    enabled: bool = True
    epochs: int = Field(default=50, ge=1, le=10_000)
    samples: int = Field(
        default=128, ge=1, description="pseudo-features a class and epoch, and the batch size: n on the card"
    )
    lr: float = Field(
        default=1e-4, gt=0, description="rate of the first step; the cosine starts at a tenth of it (code)"
    )
    lr_first_step_full: bool = True
    weight_decay: float = Field(default=5e-4, ge=0)
    cov: Covariance = Field(default="diag", description="diag (code) or full (paper, Eq. 53)")
    first_task: bool = Field(default=False, description="also align after the first task (paper)")
    steps: Literal["n_old", "n_all"] = Field(
        default="n_old", description="batches an epoch: old classes (code) or all (paper)"
    )


def align(head: nn.Linear, stats: ClassStatistics, *, old_classes: int, seen_classes: int, config: TapConfig) -> None:
    """Train ``head`` alone on samples of all seen classes; does nothing after the first task unless configured.

    The official loop draws n samples of every class and shuffles them, then reads only the first few batches. Here the
    shuffled class labels are drawn first and only the samples that are read: the same distribution at less cost.
    """
    steps = old_classes if config.steps == "n_old" and old_classes > 0 else seen_classes
    if not config.enabled or (old_classes == 0 and not config.first_task):
        return
    classes = stats.usable_classes(seen_classes)
    if len(classes) == 0:
        return
    sampler = stats.sampler(classes)
    optimizer = torch.optim.AdamW(head.parameters(), lr=config.lr, weight_decay=config.weight_decay, foreach=True)
    total, step = steps * config.epochs, 0
    for _ in range(config.epochs):
        order = torch.randperm(len(classes) * config.samples, device=classes.device)[: steps * config.samples]
        features, labels = sampler.draw(order % len(classes))
        for part in range(0, len(labels), config.samples):
            rate = _rate(config, step, total)
            for group in optimizer.param_groups:
                group["lr"] = rate
            logits = F.linear(features[part : part + config.samples], head.weight, head.bias)[:, :seen_classes]
            loss = F.cross_entropy(logits, labels[part : part + config.samples])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step += 1


def _rate(config: TapConfig, step: int, total: int) -> float:
    first = config.lr if config.lr_first_step_full else None
    return restart_cosine(step, base=config.lr / 10, total=total, first=first)


def align_after_task(
    head: nn.Linear,
    stats: ClassStatistics,
    pairs: Iterable[tuple[Tensor, Tensor]],
    new_classes: range,
    config: TapConfig,
) -> None:
    """Gather the new classes' statistics from (features, labels) ``pairs``, then align; nothing where alignment is off."""
    if config.enabled:
        stats.collect(new_classes, pairs)
        align(head, stats, old_classes=new_classes.start, seen_classes=new_classes.stop, config=config)
