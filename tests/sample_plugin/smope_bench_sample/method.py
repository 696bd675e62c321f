"""Nearest class mean of the signs of frozen features: what a closed-form method needs, and no more."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from smope_bench.api import (
    Batch,
    Method,
    MethodCard,
    MethodConfig,
    ParameterGroup,
    PromptedViT,
    Setup,
    TrainingData,
)


class SignMeans(Method):
    """Every class is the mean sign of its features; each is learnt once."""

    name = "sign_means"
    card = MethodCard(title="Sign means", summary="nearest mean of feature signs; no gradient step", kind="floor")
    needs_query = True
    means: Tensor

    def __init__(self, config: MethodConfig, backbone: PromptedViT, setup: Setup) -> None:
        """Room for a mean a class."""
        super().__init__(config, backbone, setup)
        self.register_buffer("means", torch.zeros(setup.num_classes, backbone.feature_dim))

    def parameter_groups(self) -> list[ParameterGroup]:
        """Nothing is learnt by gradient."""
        return []

    @torch.no_grad()
    def fit_task(self, data: TrainingData) -> None:
        """Sums of signs: the cosine does not see how many there are."""
        for batch in data.batches(augment=False):
            self.means.index_add_(0, batch.targets, batch.features.float().sign())

    def predict(self, batch: Batch) -> Tensor:
        """Cosine similarity to each seen class: (images, seen classes)."""
        means = F.normalize(self.means[: self.seen_classes], dim=1)
        return F.normalize(batch.features.float().sign(), dim=1) @ means.T
