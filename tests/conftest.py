"""Parts that tests of several rooms share: a micro backbone, a micro benchmark and registries that know them."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from benchmarks.base import Benchmark, BenchmarkCard, BenchmarkConfig, ImageSet, Progress, Split, silent
from harness.registry import Registries, open_registries
from harness.spec import BackboneRef, Component, RunSpec
from methods.common.backbones import RandomBackbone
from methods.common.vit import PromptedViT

MICRO = RandomBackbone(
    "micro",
    "six narrow blocks with random weights",
    {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 6, "num_heads": 2, "num_classes": 0},
)


class Blobs(Benchmark[BenchmarkConfig]):
    """Six classes of coloured noise, separable by their mean colour; 12 training and 5 test images a class."""

    name: ClassVar[str] = "blobs"
    card: ClassVar[BenchmarkCard] = BenchmarkCard("Blobs", "made for tests", "none", "coloured noise")

    def prepare(self, progress: Progress = silent) -> None:
        """Nothing to do."""

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(f"blob {i}" for i in range(6))

    def image_set(self, split: Split) -> ImageSet:
        rng = np.random.default_rng(0 if split == "train" else 1)
        count = 12 if split == "train" else 5
        labels = np.repeat(np.arange(6), count)
        colour = np.array([[(label >> bit) & 1 for bit in range(3)] for label in range(1, 7)])[labels] * 140 + 40
        noise = rng.integers(0, 60, (len(labels), 16, 16, 3))
        return ImageSet((colour[:, None, None] + noise).astype(np.uint8), labels.astype(np.int64))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def micro_vit() -> PromptedViT:
    return MICRO.load()


@pytest.fixture
def registries() -> Registries:
    made = open_registries()
    made.backbones.add("micro", "tests", MICRO)
    made.benchmarks.add("blobs", "tests", Blobs)
    return made


def micro_spec(method: str, config: dict[str, object] | None = None, **changes: object) -> RunSpec:
    """A run of a few steps on ``blobs`` in three tasks."""
    schedule = {"batch_size": 8, "epochs": 2, "lr": 0.01} | dict(changes.pop("schedule", {}))  # type: ignore[call-overload]
    return RunSpec(
        method=Component(name=method, config=config or {}),
        benchmark=Component(name="blobs", config={"tasks": 3, "image_size": 16}),
        backbone=BackboneRef(name="micro", sha256=MICRO.sha256),
        schedule=schedule,
        **changes,  # type: ignore[arg-type]
    )


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    return tmp_path / "data"
