"""Cache of frozen features: features of the backbone without prompts, under the test transform.

They depend on backbone and image alone, so they are computed once and stored beside the image cache for all methods, seeds,
class orders and tasks. An image is always computed in the same chunk of its split, so that a stored feature has the same bits
as one computed now. Stored chunks are verified by their hash and computed anew where it does not match.
"""

from __future__ import annotations

import contextlib
import hashlib
import platform
import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smope_bench.benchmarks.stream import Stream, View
from smope_bench.harness import provenance
from smope_bench.harness.hardware.out_of_memory import PeakMemory
from smope_bench.harness.records.atomic_write import write_atomically
from smope_bench.harness.run_spec import canonical_json
from smope_bench.harness.training.batches.feeder import Feeder
from smope_bench.methods.common.progress import counted
from smope_bench.methods.common.vit.vit import PromptedViT

QUERIES = "queries"
"""Name of the folder among prepared data."""
CHUNK = 256
_DIGEST = 32  # bytes of a SHA-256


class FrozenFeatureCache:
    """Frozen features of one stream's images on one backbone, stored in ``folder`` between runs; None stores nothing."""

    def __init__(
        self,
        backbone: PromptedViT,
        stream: Stream,
        device: torch.device,
        folder: Path | None,
        weights: str,
        precision: str,
        feeder: Feeder | None = None,
        memory: PeakMemory | None = None,
    ) -> None:
        """``weights``: hash of the backbone's tensors; ``precision``: that of the autocast around calls of ``of``.

        ``feeder``: None = one of its own. ``memory``: where features are computed apart from what the run needs.
        """
        self._backbone = backbone
        self._names = _names_of_images(stream)
        self._transforms = stream.transforms
        self._device = device
        self._feeder = feeder or Feeder(device)
        self._apart = contextlib.nullcontext if memory is None else memory.apart
        self._folder = None if folder is None else _cache_folder(folder, _identity(stream, device, weights, precision))
        self._tables: dict[str, Tensor] = {}
        self._known: dict[str, NDArray[np.bool_]] = {}

    def of_images(self, images: Tensor) -> Tensor:
        """Features (n, feature_dim) of transformed images, which are not cached."""
        return self._backbone.features(images)

    def of(self, view: View) -> Tensor:
        """Features (n, feature_dim) of a view's images, in its order, on the device."""
        split, count = self._split(view), len(view.images)
        table, known = self._table(split, count)
        missing: list[tuple[int, NDArray[np.int64]]] = []
        for chunk in np.unique(view.rows // CHUNK).tolist():
            if known[chunk]:
                continue
            rows = np.arange(chunk * CHUNK, min((chunk + 1) * CHUNK, count))
            stored = self._stored(split, chunk, len(rows))
            if stored is None:
                missing.append((chunk, rows))
            else:
                table[rows[0] : rows[-1] + 1], known[chunk] = stored, True
        if missing:
            whole = View(view.images, np.arange(count), np.arange(count))
            parts = self._feeder.batches(whole, self._transforms, [rows for _, rows in missing])
            with self._apart(), contextlib.closing(parts) as batches:
                pairs = zip(missing, batches, strict=True)
                for (chunk, rows), (images, _) in counted(pairs, "features", len(missing), f"parts of {CHUNK} images"):
                    table[rows[0] : rows[-1] + 1], known[chunk] = self._computed(split, chunk, images), True
        return table[torch.from_numpy(view.rows.copy())].to(self._device)

    def _split(self, view: View) -> str:
        """Views of training images share one table, views of test images another; so for each of several joined streams."""
        return self._names.get(id(view.images), "test")

    def _table(self, split: str, images: int) -> tuple[Tensor, NDArray[np.bool_]]:
        if split not in self._tables:
            self._tables[split] = torch.empty(images, self._backbone.feature_dim)
            self._known[split] = np.zeros(-(-images // CHUNK), dtype=bool)
        return self._tables[split], self._known[split]

    def _file(self, split: str, chunk: int) -> Path | None:
        return None if self._folder is None else self._folder / f"{split}-{chunk:05d}.queries"

    def _stored(self, split: str, chunk: int, images: int) -> Tensor | None:
        file = self._file(split, chunk)
        return None if file is None else _read(file, (images, self._backbone.feature_dim))

    def _computed(self, split: str, chunk: int, images: Tensor) -> Tensor:
        made = self._backbone.features(images).float().cpu().contiguous()
        file = self._file(split, chunk)
        # Computed in micro-batches, features differ in the last bits: this run records that, other runs must not load them.
        if file is not None and self._backbone.memory.micro_batch is None:
            _write(file, made)
        return made


def _names_of_images(stream: Stream) -> dict[int, str]:
    """Names by identity of the stores of images: ``train``, ``test``, and ``train-1`` ... of further streams."""
    names: dict[int, str] = {}
    for kind, views in (("train", [task.train for task in stream.tasks]), ("test", stream.tests)):
        stores = dict.fromkeys(id(view.images) for view in views)
        for number, store in enumerate(stores):
            names.setdefault(store, f"{kind}-{number}" if number else kind)
    return names


def _read(file: Path, shape: tuple[int, int]) -> Tensor | None:
    """A stored chunk, or None where it is absent, of another size or damaged."""
    try:
        data = file.read_bytes()
    except OSError:
        return None
    body = data[_DIGEST:]
    if len(body) != 4 * shape[0] * shape[1] or hashlib.sha256(body).digest() != data[:_DIGEST]:
        return None
    return torch.from_numpy(np.frombuffer(body, dtype="<f4").astype(np.float32).reshape(shape))


def _write(file: Path, values: Tensor) -> None:
    body = values.numpy().astype("<f4").tobytes()
    # On a full disk only the next run loses time, as it computes the chunk again.
    with contextlib.suppress(OSError):
        write_atomically(file, hashlib.sha256(body).digest() + body)


def _identity(stream: Stream, device: torch.device, weights: str, precision: str) -> dict[str, object]:
    """Everything that can change a bit of a feature, except the code."""
    transforms = stream.transforms
    squeezed = ["squeezed"] if transforms.test_squeeze else []
    size = [transforms.image_size, transforms.test_resize, transforms.test_interpolation, transforms.normalize]
    return {
        "images": stream.content_hash,
        "size": [*size, *squeezed],
        "weights": weights,
        "precision": precision,
        "device": [str(device.type), provenance.device_name(str(device))],
        "threads": torch.get_num_threads(),
        "versions": [torch.__version__, version("timm"), np.__version__, platform.machine()],
    }


def _cache_folder(parent: Path, identity: dict[str, object]) -> Path:
    """The folder of features of ``identity`` made by this code; those made by other code are removed."""
    key = hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:16]
    own = parent / f"{key}-{provenance.code_fingerprint()[:16]}"
    for other in parent.glob(f"{key}-*"):
        if other != own:
            shutil.rmtree(other, ignore_errors=True)
    return own
