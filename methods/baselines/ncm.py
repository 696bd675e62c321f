"""Nearest class mean on frozen features (SimpleCIL where the metric is cosine): no training at all."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from smope_bench.methods.common.alignment.class_stats import ClassStatistics
from smope_bench.methods.common.api import Batch, Method, MethodCard, MethodConfig, ParameterGroup, Setup, TrainingData
from smope_bench.methods.common.vit.vit import PromptedViT


class NcmConfig(MethodConfig):
    """The distance to a class mean."""

    metric: Literal["euclidean", "cosine"] = Field(default="euclidean", description="cosine compares directions only")


class Ncm(Method):
    """One mean feature a class, over all its images; it changes only where the class comes again in another domain."""

    name = "ncm"
    card = MethodCard(
        title="Nearest class mean",
        summary="mean frozen feature of each class, nearest mean wins; no gradient step",
        kind="floor",
    )
    Config = NcmConfig
    only_for_training = ("statistics.covariance",)
    protocols = frozenset({"class", "domain"})
    config: NcmConfig
    needs_query = True

    def __init__(self, config: NcmConfig, backbone: PromptedViT, setup: Setup) -> None:
        super().__init__(config, backbone, setup)
        self.statistics = ClassStatistics(setup.num_classes, backbone.feature_dim)

    def parameter_groups(self) -> list[ParameterGroup]:
        return []

    def fit_task(self, data: TrainingData) -> None:
        pairs = ((batch.features, batch.targets) for batch in data.batches())
        self.statistics.collect(self.new_classes, pairs)

    def predict(self, batch: Batch) -> Tensor:
        """Negative squared distances, or cosine similarities, to the seen classes' means."""
        means = self.statistics.mean[: self.seen_classes]
        if self.config.metric == "cosine":
            return F.normalize(batch.features, dim=-1) @ F.normalize(means, dim=-1).T
        return 2 * batch.features @ means.T - torch.sum(means * means, dim=-1)
