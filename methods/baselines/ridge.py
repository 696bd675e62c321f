"""Ridge regression to one-hot labels on frozen features: closed form, and independent of the order of tasks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from smope_bench.methods.common.alignment.ridge import RidgeMoments
from smope_bench.methods.common.api import Batch, Method, MethodCard, MethodConfig, ParameterGroup, Setup, TrainingData
from smope_bench.methods.common.vit.vit import PromptedViT


class RidgeConfig(MethodConfig):
    """Strength of the penalty, relative to the mean squared norm of features, so that one value fits all backbones."""

    penalty: float = Field(default=1e-2, gt=0, description="times the mean diagonal of the features' second moment")


class Ridge(Method):
    """Keeps the features' second moment and their sums by class; solves anew after every task."""

    name = "ridge"
    card = MethodCard(
        title="Ridge",
        summary="ridge regression on frozen features from accumulated second moments; no gradient step",
        kind="floor",
    )
    Config = RidgeConfig
    only_for_training = ("moments.*",)
    protocols = frozenset({"class", "domain"})
    config: RidgeConfig
    needs_query = True
    weight: Tensor

    def __init__(self, config: RidgeConfig, backbone: PromptedViT, setup: Setup) -> None:
        super().__init__(config, backbone, setup)
        size = backbone.feature_dim + 1
        self.moments = RidgeMoments(size, setup.num_classes)
        self.register_buffer("weight", torch.zeros(setup.num_classes, size))

    def parameter_groups(self) -> list[ParameterGroup]:
        return []

    @torch.no_grad()
    def fit_task(self, data: TrainingData) -> None:
        """Add the task's moments and solve for the classes seen so far; the bias is not penalised."""
        for batch in data.batches():
            self.moments.add(_with_one(batch.features), batch.targets)
        energy = self.moments.gram.diagonal()[:-1].mean()
        penalty = (self.config.penalty * energy).repeat(len(self.moments.gram))
        penalty[-1] = 0.0
        self.weight[: self.seen_classes] = self.moments.solve(penalty, self.seen_classes).T.float()

    def predict(self, batch: Batch) -> Tensor:
        return F.linear(_with_one(batch.features), self.weight[: self.seen_classes])


def _with_one(features: Tensor) -> Tensor:
    """Features with a constant last column for the bias."""
    return F.pad(features.float(), (0, 1), value=1.0)
