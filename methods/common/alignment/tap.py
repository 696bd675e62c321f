"""Task-adaptive prediction: the classifier is trained again on Gaussian pseudo-features of all classes.

Sources: SMoPE card, section 5 (AdamW, rate by step); HiDe-Prompt card, section 4.2 (SGD, rate by epoch).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, Protocol

import torch
import torch.nn.functional as F
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from torch import Tensor, nn

from smope_bench.methods.common.alignment.class_stats import Covariance
from smope_bench.methods.common.progress import report_progress
from smope_bench.methods.common.schedules import restart_cosine


class TapConfig(BaseModel):
    """Settings of classifier alignment; the defaults are the official code's."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    enabled: bool = Field(default=True, description="whether the classifier is aligned after each task")
    epochs: int = Field(default=50, ge=1, le=10_000, description="epochs of the alignment")
    samples: int = Field(
        default=128, ge=1, description="pseudo-features a class and epoch, and the batch size: n on the card"
    )
    lr: float = Field(
        default=1e-4, gt=0, description="rate of the first step; the cosine starts at a tenth of it (code)"
    )
    lr_first_step_full: bool = Field(default=True, description="the first step runs at the full rate (code)")
    weight_decay: float = Field(default=5e-4, ge=0, description="weight decay of the alignment's optimiser")
    optimizer: Literal["adamw", "sgd"] = Field(default="adamw", description="sgd has momentum 0.9 (HiDe-Prompt)")
    shape: Literal["restart_cosine", "epoch_cosine"] = Field(
        default="restart_cosine", description="epoch_cosine: from lr to zero, a step an epoch (HiDe-Prompt)"
    )
    cov: Covariance = Field(default="diag", description="diag (code) or full (paper, Eq. 53)")
    first_task: bool = Field(default=False, description="also align after the first task (paper)")
    steps: Literal["n_old", "n_all"] = Field(
        default="n_old", description="batches an epoch: old classes (code) or all (paper)"
    )


HIDE_TAP = TapConfig(
    epochs=30, samples=640, lr=0.005, weight_decay=0.0, optimizer="sgd", shape="epoch_cosine", cov="full"
)
"""Alignment as in HiDe-Prompt's second stage at batch 128 (HiDe-Prompt card, section 4.2)."""


def filled_from(defaults: TapConfig) -> BeforeValidator:
    """Validator of a field whose default is not ``TapConfig()``: missing settings are taken from ``defaults``."""

    def fill(value: Any) -> Any:
        return defaults.model_dump() | value if isinstance(value, dict) else value

    return BeforeValidator(fill)


HideTap = Annotated[TapConfig, filled_from(HIDE_TAP)]
"""Type of a field with ``HIDE_TAP`` as its default."""


class Sampler(Protocol):
    """Draws pseudo-features from ``rows`` distributions, one a class or a centroid."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        ...

    def draw(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """One sample for each entry of ``rows``: features (n, d) and labels (n,)."""
        ...


class Statistics(Protocol):
    """Class statistics as alignment uses them."""

    def collect(self, classes: range, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Statistics of ``classes`` from (features, labels) pairs."""
        ...

    def known(self, seen: int) -> int:
        """Number of classes below ``seen`` that have statistics."""
        ...

    def sampler_of(self, seen: int) -> Sampler | None:
        """A sampler over the usable classes below ``seen``; None where there is none."""
        ...


def align(
    head: nn.Module,
    stats: Statistics,
    *,
    old_classes: int,
    seen_classes: int,
    config: TapConfig,
    forward: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Train ``head`` alone on samples of all seen classes; does nothing after the first task unless configured.

    ``forward`` maps features (n, d) to logits of all classes; the head itself unless given. The official loop draws n samples
    of every class and shuffles them, then reads only the first few batches. Here the shuffled class labels are drawn first
    and only the samples that are read: the same distribution at less cost.
    """
    steps = old_classes if config.steps == "n_old" and old_classes > 0 else seen_classes
    if not config.enabled or (old_classes == 0 and not config.first_task):
        return
    sampler = stats.sampler_of(seen_classes)
    if sampler is None:
        return
    forward = forward or head
    optimizer = _optimizer(head, config)
    total, step = steps * config.epochs, 0
    for epoch in range(config.epochs):
        order = torch.randperm(sampler.rows * config.samples)[: steps * config.samples]
        features, labels = sampler.draw(order % sampler.rows)
        for part in range(0, len(labels), config.samples):
            for group in optimizer.param_groups:
                group["lr"] = _rate(config, epoch, step, total)
            logits = forward(features[part : part + config.samples])[:, :seen_classes]
            loss = F.cross_entropy(logits, labels[part : part + config.samples])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step += 1
            report_progress("alignment", step, total, "steps")


def _optimizer(head: nn.Module, config: TapConfig) -> torch.optim.Optimizer:
    parameters = list(head.parameters())
    for parameter in parameters:
        parameter.requires_grad_(True)
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=config.lr, momentum=0.9, weight_decay=config.weight_decay, fused=True)
    return torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)


def _rate(config: TapConfig, epoch: int, step: int, total: int) -> float:
    if config.shape == "epoch_cosine":
        return config.lr * (1 + math.cos(math.pi * epoch / config.epochs)) / 2
    first = config.lr if config.lr_first_step_full else None
    return restart_cosine(step, base=config.lr / 10, total=total, first=first)


def align_after_task(
    head: nn.Module,
    stats: Statistics,
    pairs: Iterable[tuple[Tensor, Tensor]],
    new_classes: range,
    config: TapConfig,
    *,
    forward: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Gather the new classes' statistics from (features, labels) ``pairs``, then align; nothing where alignment is off."""
    if config.enabled:
        # Where known classes come again they are among the new ones, and old in that they have statistics.
        seen = new_classes.stop
        old = new_classes.start or stats.known(seen)
        stats.collect(new_classes, pairs)
        align(head, stats, old_classes=old, seen_classes=seen, config=config, forward=forward)
