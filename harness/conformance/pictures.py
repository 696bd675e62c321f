"""Search for copies of a stream's pictures among the tensors that a method keeps.

A copy is found as it is stored or as the trainer made it for the model (augmented, cropped, resized), in any type, in rows of
channels first or last, flipped, and under any map ``a * x + b`` of a channel: scaled, normalised or inverted.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smope_bench.benchmarks.stream import Stream
from smope_bench.harness.conformance.object_graph import reachable
from smope_bench.harness.training.trainer import Trainer
from smope_bench.methods.common.api import Method

ALIKE = 0.99
"""Least correlation of every channel with that of a picture. Rounding to 8 bits or bfloat16 leaves 0.999; two pictures of the
kit's noise have 0.06 as a standard deviation, and the mean of two has 0.7."""
MOST_VALUES = 200_000_000
"""Largest tensor that is searched."""
CHANNELS = 3

NOT_SEARCHED = (
    "not searched: pictures compressed, cut into pieces, mixed with each other or across channels, in bytes or beside other values"
    " in a row; features of pictures"
)


@dataclass
class Shown:
    """Every different image that the trainer made of the stream's pictures for the model, (3, S, S) each."""

    images: dict[bytes, Tensor] = field(default_factory=dict)

    def watch(self, trainer: Trainer) -> None:
        """Note the images of all batches of ``trainer`` from now on."""
        made = trainer.feeder.batches

        def noted(*arguments: Any, **options: Any) -> Generator[tuple[Tensor, Tensor], None, None]:
            batches = made(*arguments, **options)
            try:
                for images, labels in batches:
                    for image in images.detach().cpu():
                        self.images.setdefault(image.numpy().tobytes(), image.clone())
                    yield images, labels
            finally:
                batches.close()

        trainer.feeder.__dict__["batches"] = noted


def stored(stream: Stream) -> list[Tensor]:
    """The pictures of a stream as they are stored, (3, H, W) each."""
    views = [view for task in stream.tasks for view in (task.train, task.validation)] + list(stream.tests)
    return [
        torch.from_numpy(np.array(picture)).movedim(-1, 0)
        for view in views
        if len(view)
        for picture in np.asarray(view.take(slice(None))[0])
    ]


def kept_pictures(method: Method, states: Sequence[Mapping[str, Tensor]], pictures: Sequence[Tensor]) -> dict[str, int]:
    """Path of a tensor -> the number of rows in it that are copies of ``pictures``.

    Searched are the tensors and arrays that ``method`` reaches, and those of its ``states`` after each task.
    """
    by_size: dict[tuple[int, ...], list[Tensor]] = {}
    for picture in pictures:
        by_size.setdefault(tuple(picture.shape), []).append(picture)
    known = {size: torch.stack([_unit(one.double().flatten(1)) for one in group]) for size, group in by_size.items()}
    found: dict[str, int] = {}
    for path, values in _tensors(method, states):
        if not CHANNELS < values.numel() <= MOST_VALUES:
            continue
        copies = max((_copies(values, size, units) for size, units in known.items()), default=0)
        if copies:
            found[path] = max(copies, found.get(path, 0))
    return found


def _tensors(method: Method, states: Sequence[Mapping[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    for path, one in reachable(method, "method", lambda one: isinstance(one, (Tensor, np.ndarray))):
        name = re.sub(r"\._(?:buffers|parameters|modules)\['(\w+)'\]", r".\1", path)
        if isinstance(one, Tensor):
            yield name, one.detach().cpu()
        elif one.dtype.kind in "biuf":
            yield name, torch.from_numpy(np.ascontiguousarray(one).astype(np.float64))
    for state in states:  # a tensor may be emptied at the end of a run
        yield from ((f"method.{name}", tensor.cpu()) for name, tensor in state.items())


def _copies(values: Tensor, size: tuple[int, ...], units: Tensor) -> int:
    """Number of different rows of ``values`` that are pictures of one size; ``units`` (N, 3, H * W) are the pictures."""
    channels, height, width = size
    count = channels * height * width
    if values.is_complex() or values.is_quantized or values.numel() % count:
        return 0
    layouts = [values.reshape(-1, count)]
    if values.dim() > 1 and values.shape[0] == count:
        layouts.append(values.reshape(count, -1).T)  # a picture a column
    best = 0
    for layout in layouts:
        rows = torch.unique(layout.double().nan_to_num(), dim=0)
        copied = torch.zeros(len(rows), dtype=torch.bool)
        first = rows.reshape(-1, channels, height, width)
        last = rows.reshape(-1, height, width, channels).movedim(-1, 1)
        for form in (first, last):
            for flips in ((), (3,), (2,), (2, 3)):
                copied |= _alike(_unit(form.flip(flips).flatten(2)), units)
        best = max(best, int(copied.sum()))
    return best


def _unit(values: Tensor) -> Tensor:
    """Rows (..., n) of doubles without their mean and of length 1, in float32; rows of one value become zero."""
    centred = values - values.mean(dim=-1, keepdim=True)
    length = centred.norm(dim=-1, keepdim=True)
    varies = length > 1e-9 * values.abs().amax(dim=-1, keepdim=True)
    return torch.where(varies, centred / length.clamp(min=1e-300), 0.0).float()


def _alike(rows: Tensor, units: Tensor) -> Tensor:
    """(n,): whether each row (n, 3, p) is a picture (N, 3, p): all channels correlate, but for those of one value in both."""
    related = torch.einsum("ncp,mcp->cnm", rows, units).abs() >= ALIKE
    flat = (rows.norm(dim=2) == 0).T[:, :, None] & (units.norm(dim=2) == 0).T[:, None, :]
    return ((related | flat).all(dim=0) & related.any(dim=0)).any(dim=1)
