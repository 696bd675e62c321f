"""What the engine hands to a method: batches of the current task's training images, and test batches without labels.

A method never holds the stream. It gets a ``TaskData`` made of one training view, so later tasks and test images are out
of its reach.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.stream import View
from benchmarks.transforms import Transforms
from harness.spec import derive_seed
from methods.common.api import Batch

Features = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class FrozenFeatures:
    """Where queries come from: ``of_images`` computes those of a batch, ``of_view`` knows those of a view at test time."""

    of_images: Features
    of_view: Callable[[View], Tensor]


class TaskData:
    """One task's training images. Each pass draws its order and augmentation from a stream of its own."""

    def __init__(
        self,
        view: View,
        transforms: Transforms,
        *,
        batch_size: int,
        device: torch.device,
        seed: int,
        frozen_features: FrozenFeatures | None = None,
    ) -> None:
        """``frozen_features`` is given where the method declares that it needs queries."""
        self._view = view
        self._transforms = transforms
        self._batch_size = batch_size
        self._device = device
        self._seed = seed
        self._frozen_features = frozen_features
        self._features: Tensor | None = None
        self.passes = 0
        self.images_read = 0

    def __len__(self) -> int:
        return len(self._view)

    def steps(self, *, drop_last: bool) -> int:
        """Batches of one pass. A task smaller than one batch still gives one."""
        full, rest = divmod(len(self), self._batch_size)
        return full if rest == 0 or (drop_last and full > 0) else full + 1

    def batches(self, *, shuffle: bool = False, drop_last: bool = False, augment: bool = True) -> Iterator[Batch]:
        """One pass with training augmentation; the n-th pass of a task is the same in every run of the spec.

        ``augment=False`` shows the images as they look at test time.
        """
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "pass", self.passes))
        self.passes += 1
        count = len(self)
        order = torch.randperm(count, generator=generator).numpy() if shuffle else np.arange(count)
        for step in range(self.steps(drop_last=drop_last)):
            yield self._batch(order[step * self._batch_size : (step + 1) * self._batch_size], generator, augment)

    def _batch(self, positions: np.ndarray, generator: torch.Generator, augment: bool) -> Batch:
        raw, labels = self._view.take(positions)
        device, transforms = self._device, self._transforms
        images = transforms.train(raw, generator, device) if augment else transforms.test(raw, device)
        self.images_read += len(labels)
        return Batch(images, torch.from_numpy(labels).to(self._device), self._query(images, positions, augment))

    def _query(self, images: Tensor, positions: np.ndarray, augment: bool) -> Callable[[], Tensor] | None:
        frozen = self._frozen_features
        if frozen is None:
            return None
        if augment and not self._transforms.is_deterministic:
            return lambda: frozen.of_images(images)
        return lambda: self._known_features(frozen)[torch.from_numpy(positions)]

    def _known_features(self, frozen: FrozenFeatures) -> Tensor:
        """Features of all the task's images under the test transform."""
        if self._features is None:
            self._features = frozen.of_view(self._view)
        return self._features


def test_batches(
    view: View,
    transforms: Transforms,
    *,
    batch_size: int,
    device: torch.device,
    features: Tensor | None = None,
) -> Iterator[Batch]:
    """Test images in order, without labels; ``features`` are the frozen queries of the whole view, where asked for."""
    for start in range(0, len(view), batch_size):
        raw, _ = view.take(slice(start, start + batch_size))
        images = transforms.test(raw, device)
        query = None if features is None else features[start : start + batch_size]
        yield Batch(images, None, query)


def features_of(
    view: View, transforms: Transforms, frozen_features: Features, device: torch.device, batch_size: int = 256
) -> Tensor:
    """Frozen features (n, d) of a view as it looks at test time, computed once."""
    parts = [
        frozen_features(batch.images) for batch in test_batches(view, transforms, batch_size=batch_size, device=device)
    ]
    return torch.cat(parts)
