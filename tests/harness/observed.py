"""What the tests of observers share: names, plugins that are awkward to observe, and micro runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from smope_bench.harness.records.record import Record
from smope_bench.harness.records.store import Store
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.run_spec import RunSpec
from smope_bench.harness.training import trainer as engine
from smope_bench.methods.common.api import Batch, Method, MethodCard, ParameterGroup
from tests.conftest import micro_spec  # pyright: ignore[reportMissingImports]
from tests.harness.stand_ins import given  # pyright: ignore[reportMissingImports]

OF_STATE = ("activation_counts", "prefix_keys")
OF_IMAGES = ("expert_scores", "head_inputs", "head_keys")
EVERYTHING = (*OF_STATE, *OF_IMAGES, "validation_loss", "prompt_mass")
SMOPE: dict[str, Any] = {"noise": "uniform", "tap": {"epochs": 2, "samples": 4}}


class Silent(Method):
    """A plugin that must not be asked, offers what it never gives, and cannot predict before a task has ended."""

    name: ClassVar[str] = "silent"
    card = MethodCard("Silent", "raises when it is observed")
    observes = ("mood",)

    def __init__(self, config: Any, backbone: Any, setup: Any) -> None:
        super().__init__(config, backbone, setup)
        self.head = torch.nn.Linear(backbone.feature_dim, setup.num_classes)

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("head", list(self.head.parameters()))]

    def training_step(self, batch: Batch) -> Tensor:
        return torch.nn.functional.cross_entropy(self.head(self.backbone(batch.images)), batch.targets)

    def predict(self, batch: Batch) -> Tensor:
        if self.training:
            raise AssertionError("shown test images in training mode")
        return self.head(self.backbone(batch.images))[:, : self.seen_classes]

    def observed_state(self) -> dict[str, Tensor]:
        raise AssertionError("asked")

    observed_batch = None  # type: ignore[assignment]


class Moody(Silent):
    """Gives nothing of what it offers, and predicts only once a task has ended."""

    name: ClassVar[str] = "moody"
    ended = False

    def end_task(self, data: Any) -> None:
        self.ended = True

    def predict(self, batch: Batch) -> Tensor:
        if not self.ended:
            raise KeyError("no centroids yet")
        return super().predict(batch)

    def observed_state(self) -> dict[str, Tensor]:
        return {}

    def observed_batch(self, batch: Batch) -> dict[str, Tensor]:
        return {}


def held_out(method: str, config: dict[str, Any] | None = None, **changes: object) -> RunSpec:
    """A micro run in which a quarter of the training images is held out."""
    spec = micro_spec(method, config, **changes)
    benchmark = spec.benchmark.model_copy(update={"config": {**spec.benchmark.config, "holdout": 0.25}})
    return spec.model_copy(update={"benchmark": benchmark})


def run(spec: RunSpec, registries: Registries, folder: Path, *observe: str, **options: Any) -> Record:
    engine.run(spec, *given(folder, **options), registries=registries, observe=observe)
    record = Store(folder).load(spec.run_id)
    assert isinstance(record, Record)
    return record
