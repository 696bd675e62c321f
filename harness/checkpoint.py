"""Task-boundary checkpoints: what a killed run continues from. Nothing in them is ever executed when they are read.

Tensors are kept as safetensors, observations as npz without pickles, the rest as JSON. ``latest.json`` is the commit marker
and names the other files with their hashes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from harness.observations import Arrays, npz_arrays, npz_bytes
from harness.store import write_bytes, write_json


@dataclass
class Progress:
    """What a run has measured so far; grows by one entry a task."""

    matrix: list[list[float | None]] = field(default_factory=list)
    predictions: list[list[int]] = field(default_factory=list)
    timings: list[dict[str, float]] = field(default_factory=list)
    train_images: int = 0
    test_images: int = 0
    learned: dict[str, int] = field(default_factory=dict)
    """Every parameter that any phase so far has trained, with its size."""
    peak_memory_mb: float = 0.0

    @property
    def tasks_done(self) -> int:
        """Number of finished training tasks."""
        return len(self.timings)


@dataclass(frozen=True)
class Checkpoint:
    """A run as its last finished task left it."""

    tensors: dict[str, Tensor]
    progress: Progress
    observe: tuple[str, ...]
    """Names that were observed from the first task on; ``observed`` is what came of it."""
    observed: Arrays


def save_checkpoint(
    folder: Path,
    method: nn.Module,
    progress: Progress,
    fingerprint: str,
    observe: Sequence[str] = (),
    observed: Mapping[str, NDArray[Any]] | None = None,
) -> None:
    """Write the method's own tensors and the progress; the previous checkpoint is removed only after the commit.

    ``fingerprint`` names the code and the data of the run: nothing is continued with others.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in method.state_dict().items()}
    stem = f"task-{progress.tasks_done}"
    files = {f"{stem}.safetensors": save(tensors)}
    if observed:
        files[f"{stem}.npz"] = npz_bytes(observed)
    for name, data in files.items():
        write_bytes(folder / name, data)
    marker = {
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        "fingerprint": fingerprint,
        "progress": asdict(progress),
        "observe": list(observe),
    }
    write_json(folder / "latest.json", marker)
    for other in folder.glob("task-*.*"):
        if other.name not in files:
            other.unlink(missing_ok=True)


def load_checkpoint(folder: Path, fingerprint: str) -> Checkpoint | None:
    """The last whole checkpoint of this ``fingerprint``; ``None`` where there is none, so that the run starts anew."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, BadZipFile, SafetensorError):
        marker: dict[str, Any] = json.loads((folder / "latest.json").read_text(encoding="utf-8"))
        if marker["fingerprint"] != fingerprint:
            return None
        tensors: dict[str, Tensor] = {}
        observed: Arrays = {}
        for name, digest in marker["files"].items():
            data = (folder / Path(name).name).read_bytes()
            if hashlib.sha256(data).hexdigest() != digest:
                return None
            if name.endswith(".npz"):
                observed = npz_arrays(data)
            else:
                tensors = load(data)
        return Checkpoint(tensors, Progress(**marker["progress"]), tuple(marker["observe"]), observed)
    return None


def forget_checkpoint(folder: Path) -> None:
    """Remove the checkpoint of a published run: class covariances of ViT-B/16 take half a gigabyte a run."""
    shutil.rmtree(folder, ignore_errors=True)
