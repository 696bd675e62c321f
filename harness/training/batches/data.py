"""Data of a method: batches of the current task's training images, and test batches without labels.

A method never gets the stream, only a ``TaskData`` of one training view, so it cannot access later tasks or test images.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from smope_bench.benchmarks.stream import Stream, View, build_stream, joined
from smope_bench.benchmarks.transforms.batch import Transforms
from smope_bench.harness.errors import UserError
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.run_spec import RunSpec, derive_seed
from smope_bench.harness.training.batches.feature_cache import FrozenFeatureCache
from smope_bench.harness.training.batches.feeder import Feeder
from smope_bench.methods.common.api import Batch, Method
from smope_bench.methods.common.progress import report_progress
from smope_bench.methods.common.vit.vit import PromptedViT

Features = Callable[[Tensor], Tensor]
"""Computes features (n, d) of images (n, channels, height, width)."""


class TaskData:
    """One task's training images. Each pass draws its order and augmentation from a random generator of its own."""

    def __init__(
        self,
        view: View,
        transforms: Transforms,
        *,
        batch_size: int,
        device: torch.device,
        seed: int,
        features: FrozenFeatureCache | None = None,
        feeder: Feeder | None = None,
    ) -> None:
        """``features``: only for methods that need frozen features (``needs_query``); ``feeder``: None = one of its own."""
        self._view = view
        self._transforms = transforms
        self._batch_size = batch_size
        self._device = device
        self._seed = seed
        self._features = features
        self._view_features: Tensor | None = None
        self._feeder = feeder or Feeder(device)
        self.passes = 0
        self.images_read = 0
        self.phase = ""
        """Name under which passes report their progress; empty while training steps do."""

    def __len__(self) -> int:
        return len(self._view)

    def steps(self, *, drop_last: bool) -> int:
        """Number of batches of one pass; at least one, also for a task smaller than a batch."""
        full, rest = divmod(len(self), self._batch_size)
        return full if rest == 0 or (drop_last and full > 0) else full + 1

    def batches(self, *, shuffle: bool = False, drop_last: bool = False, augment: bool = True) -> Iterator[Batch]:
        """One pass with training augmentation; the n-th pass of a task is the same in every run of the spec.

        ``augment=False`` applies the test transform.
        """
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "pass", self.passes))
        self.passes += 1
        count = len(self)
        order = torch.randperm(count, generator=generator).numpy() if shuffle else np.arange(count)
        size = self._batch_size
        chosen = [order[step * size : (step + 1) * size] for step in range(self.steps(drop_last=drop_last))]
        drawn = generator if augment else None
        with contextlib.closing(self._feeder.batches(self._view, self._transforms, chosen, drawn)) as made:
            done = 0
            for positions, (images, targets) in zip(chosen, made, strict=True):
                self.images_read += len(targets)
                yield Batch(images, targets, self._query(images, positions, augment))
                done += len(positions)
                if self.phase:
                    report_progress(self.phase, done, count)

    def _query(self, images: Tensor, positions: np.ndarray, augment: bool) -> Callable[[], Tensor] | None:
        """Function that returns the frozen features of a batch: computed if it is augmented, else those of the view."""
        cache = self._features
        if cache is None:
            return None
        if augment and not self._transforms.is_deterministic:
            return lambda: cache.of_images(images)
        return lambda: self._known_features(cache)[self._rows(positions)]

    def _rows(self, positions: np.ndarray) -> Tensor:
        """Positions as an index on the device, for which the host does not wait."""
        rows = torch.from_numpy(positions)
        return rows.pin_memory().to(self._device, non_blocking=True) if self._device.type == "cuda" else rows

    def _known_features(self, cache: FrozenFeatureCache) -> Tensor:
        if self._view_features is None:
            self._view_features = cache.of(self._view)
        return self._view_features


def test_batches(
    view: View,
    transforms: Transforms,
    *,
    batch_size: int,
    device: torch.device,
    features: Tensor | None = None,
    feeder: Feeder | None = None,
) -> Iterator[Batch]:
    """Test images in order, without labels; ``features``: frozen features of the whole view, for methods that need them."""
    chosen = [slice(start, start + batch_size) for start in range(0, len(view), batch_size)]
    with contextlib.closing((feeder or Feeder(device)).batches(view, transforms, chosen)) as made:
        for part, (images, _) in zip(chosen, made, strict=True):
            yield Batch(images, None, None if features is None else features[part])


def features_of(
    view: View, transforms: Transforms, frozen_features: Features, device: torch.device, batch_size: int = 256
) -> Tensor:
    """Frozen features (n, d) of a view under the test transform."""
    parts = [
        frozen_features(batch.images) for batch in test_batches(view, transforms, batch_size=batch_size, device=device)
    ]
    return torch.cat(parts)


def open_stream(registries: Registries, spec: RunSpec, data_root: Path) -> Stream:
    """The prepared benchmark of ``spec`` as a stream in its class order; of an extended run, after those that came before."""
    found = []
    for component in spec.benchmarks:
        benchmark = registries.benchmarks.load(component.name)
        found.append(build_stream(benchmark(benchmark.Config(**component.config), data_root), spec.order_seed))
    return joined(found)


def load_backbone(registries: Registries, spec: RunSpec, data_root: Path) -> PromptedViT:
    """The backbone of ``spec``. Raises UserError where its weights have changed since the spec was planned."""
    backbone = registries.backbone(spec.backbone, data_root)
    if backbone.sha256 != spec.backbone.sha256:
        raise UserError(
            f"backbone {spec.backbone.name!r} now has weights {backbone.sha256[:16]}, but the run was planned with"
            f" {spec.backbone.sha256[:16]}; plan it again"
        )
    loaded = backbone.load()
    if spec.precision == "bf16":
        loaded.keep_products_in(torch.bfloat16, backbone.load)
    return loaded


def flags_of(registries: Registries, spec: RunSpec, method: Method, data_root: Path) -> dict[str, bool | int]:
    """Warnings that accompany the run's results: a rehearsal (``tiny``), random weights, weights without a publicly stated
    hash, a method that leaks test information, the number of ``exemplars`` of one that keeps training images.
    """
    backbone = registries.backbone(spec.backbone, data_root)
    return {
        "tiny": backbone.is_rehearsal,
        "random_backbone": backbone.is_random,
        "unverified_weights": not backbone.is_verified,
        "leaking": type(method).leaks(method.config),
        **({"exemplars": method.exemplars} if method.exemplars else {}),
    }
