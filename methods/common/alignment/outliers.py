"""Virtual outliers in feature space, and the energy loss that separates them from features (OVOR card, sections 3 and 3a)."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

Hinge = Literal["huber", "squared"]


class OutlierConfig(BaseModel):
    """Settings of outliers and their loss; the defaults are those of the released code."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    centre: Literal["origin", "boundary"] = Field(
        default="origin", description="what noise is added to: nothing (code) or the task's boundary features (paper)"
    )
    noise: float = Field(default=0.1, gt=0, description="deviation of the noise")
    draws: int = Field(default=600, ge=1, le=100_000, description="noise vectors an epoch")
    boundary: int = Field(default=50, ge=1, le=10_000, description="boundary features, at most the task's images")
    neighbours: int = Field(default=50, ge=1, le=10_000, description="which nearest neighbour's distance is the score")
    per_class: int = Field(default=40, ge=1, le=10_000, description="outliers kept for each class of the task")
    weight: float = Field(default=0.1, ge=0, description="of the regulariser beside cross-entropy, lambda")
    energy_in: float = Field(default=-15.0, description="energy that features are pushed below, m_id")
    energy_out: float = Field(default=-3.0, description="energy that outliers are pushed above, m_ood")
    hinge: Hinge = Field(
        default="huber", description="loss of an energy on the wrong side of its bound: Huber (code) or squared"
    )


def neighbour_distance(points: Tensor, index: Tensor, neighbours: int) -> Tensor:
    """Squared distance of points (n, d) to their k-th nearest row of ``index``: (n,), double.

    An index with fewer rows than ``neighbours`` gives the distance to its farthest row.
    """
    with torch.autocast(points.device.type, enabled=False):
        distances = torch.cdist(points.double(), index.double())
    return distances.kthvalue(min(neighbours, len(index)), dim=1).values.square()


def largest(scores: Tensor, count: int) -> Tensor:
    """Positions of the ``count`` largest scores, largest first; ties in order of position."""
    return scores.sort(descending=True, stable=True).indices[:count]


@torch.no_grad()
def synthesize(features: Tensor, num_classes: int, draws: Tensor, config: OutlierConfig) -> Tensor:
    """Outliers (M, d) for a task's features (n, d) from standard normal draws (R, d), farthest from the features first.

    M is ``per_class`` outliers a class, at most one for each pair of a boundary feature and a draw. The neighbours are
    looked for among the normalised features, though neither candidate is normalised (card, section 9).
    """
    index = F.normalize(features, dim=1)
    boundary, noise = min(config.boundary, len(features)), config.noise * draws
    count = min(boundary * len(draws), config.per_class * num_classes)
    if config.centre == "boundary":
        return _around_boundary(features, index, noise, boundary, count, config.neighbours)
    # The released code scores every draw once for each boundary feature, always about the origin, so that the scores tie.
    # It therefore selects each of the best draws several times (card, sections 3a and 10).
    best = largest(neighbour_distance(noise, index, config.neighbours), math.ceil(count / boundary))
    return noise[best].repeat_interleave(boundary, dim=0)[:count]


def _around_boundary(
    features: Tensor, index: Tensor, noise: Tensor, boundary: int, count: int, neighbours: int
) -> Tensor:
    centres = features[largest(neighbour_distance(index, index, neighbours), boundary)]
    scores = torch.cat([neighbour_distance(centre + noise, index, neighbours) for centre in centres])
    best = largest(scores, count)
    return centres[best // len(noise)] + noise[best % len(noise)]


def energy_loss(logits: Tensor, outlier_logits: Tensor, config: OutlierConfig) -> Tensor:
    """Unweighted regulariser of feature logits (B, C) and outlier logits (B', C), both over the current task's classes.

    The energy is the negative log-sum-exp; each hinge is averaged over its own batch.
    """
    inside = F.relu(-logits.logsumexp(dim=1) - config.energy_in)
    outside = F.relu(config.energy_out + outlier_logits.logsumexp(dim=1))
    return _mean_hinge(inside, config.hinge) + _mean_hinge(outside, config.hinge)


def _mean_hinge(excess: Tensor, hinge: Hinge) -> Tensor:
    zero = torch.zeros_like(excess)
    return F.huber_loss(excess, zero) if hinge == "huber" else F.mse_loss(excess, zero)
