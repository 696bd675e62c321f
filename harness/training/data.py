"""What the engine hands to a method: batches of the current task's training images, and test batches without labels.

A method never holds the stream. It gets a ``TaskData`` made of one training view, so later tasks and test images are out
of its reach.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smope_bench.benchmarks.image_store.arrays import Raw
from smope_bench.benchmarks.stream import Stream, View, build_stream
from smope_bench.benchmarks.transforms.batch import Transforms
from smope_bench.harness.errors import UserError
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.run_spec import RunSpec, derive_seed
from smope_bench.methods.common.api import Batch, Method
from smope_bench.methods.common.backbone.vit import PromptedViT

Features = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class FrozenFeatures:
    """Where queries come from: ``of_images`` computes those of a batch, ``of_view`` knows those of a view at test time."""

    of_images: Features
    of_view: Callable[[View], Tensor]


class Feeder:
    """Assembles batches beside the network's work, on an accelerator in a stream of its own.

    A copy from the host then waits for the one before it, and not for the step that is still computing.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def feeding(self) -> contextlib.AbstractContextManager[Any]:
        """What is computed inside belongs to the next batch."""
        return contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def hand_over(self, *tensors: Tensor) -> None:
        """The network may use ``tensors`` from now on."""
        if self._stream is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_stream(self._stream)
            for tensor in tensors:
                tensor.record_stream(current)


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
        prefetch: bool | None = None,
    ) -> None:
        """``frozen_features`` is given where the method declares that it needs queries.

        ``prefetch``: read the next batch's images in a thread while this one is used; left out, on an accelerator alone.
        No bit depends on it.
        """
        self._view = view
        self._transforms = transforms
        self._batch_size = batch_size
        self._device = device
        self._seed = seed
        self._frozen_features = frozen_features
        self._features: Tensor | None = None
        self._prefetch = device.type == "cuda" if prefetch is None else prefetch
        self._feeder = Feeder(device)
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
        size = self._batch_size
        chosen = [order[step * size : (step + 1) * size] for step in range(self.steps(drop_last=drop_last))]
        read = self._read_ahead(chosen) if self._prefetch else ((part, self._view.take(part)) for part in chosen)
        with contextlib.closing(read):
            for positions, (raw, labels) in read:
                yield self._batch(positions, raw, labels, generator, augment)

    def _read_ahead(self, chosen: list[np.ndarray]) -> Generator[tuple[np.ndarray, tuple[Raw, np.ndarray]], None, None]:
        """Positions and what ``View.take`` gives of them, always one batch further than what is used."""
        with ThreadPoolExecutor(max_workers=1) as thread:
            ahead = thread.submit(self._view.take, chosen[0]) if chosen else None
            for number, positions in enumerate(chosen):
                assert ahead is not None
                taken = ahead.result()
                if number + 1 < len(chosen):
                    ahead = thread.submit(self._view.take, chosen[number + 1])
                yield positions, taken

    def _batch(
        self, positions: np.ndarray, raw: Raw, labels: np.ndarray, generator: torch.Generator, augment: bool
    ) -> Batch:
        transforms = self._transforms
        with self._feeder.feeding():
            images = transforms.train(raw, generator, self._device) if augment else transforms.test(raw, self._device)
            targets = torch.from_numpy(labels).to(self._device)
        self._feeder.hand_over(images, targets)
        self.images_read += len(labels)
        return Batch(images, targets, self._query(images, positions, augment))

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


def open_stream(registries: Registries, spec: RunSpec, data_root: Path) -> Stream:
    """The prepared benchmark of ``spec`` in its class order."""
    benchmark = registries.benchmarks.load(spec.benchmark.name)
    return build_stream(benchmark(benchmark.Config(**spec.benchmark.config), data_root), spec.order_seed)


def load_backbone(registries: Registries, spec: RunSpec, data_root: Path) -> PromptedViT:
    """The backbone of ``spec``; UserError where the weights are no longer those that the spec was planned with."""
    backbone = registries.backbones.load(spec.backbone.name).at(data_root)
    if backbone.sha256 != spec.backbone.sha256:
        raise UserError(
            f"backbone {spec.backbone.name!r} now has weights {backbone.sha256[:16]}, but the run was planned with"
            f" {spec.backbone.sha256[:16]}; plan it again"
        )
    loaded = backbone.load()
    if spec.precision == "bf16":
        loaded.keep_products_in(torch.bfloat16)
    return loaded


def flags_of(registries: Registries, spec: RunSpec, method: Method) -> dict[str, bool]:
    """What must be said of the run wherever it is shown."""
    backbone = registries.backbones.load(spec.backbone.name)
    leaking = type(method).leaks(method.config)
    return {"tiny": backbone.is_tiny, "random_backbone": backbone.is_random, "leaking": leaking}
