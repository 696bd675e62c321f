"""Task-boundary checkpoints: what a killed run continues from. Nothing in them is ever executed when they are read.

Tensors are kept as safetensors, the rest as JSON. ``latest.json`` is the commit marker and names its tensor file and hash.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

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


def save_checkpoint(folder: Path, method: nn.Module, progress: Progress, fingerprint: str) -> None:
    """Write the method's own tensors and the progress; the previous checkpoint is removed only after the commit."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in method.state_dict().items()}
    data = save(tensors)
    name = f"task-{progress.tasks_done}.safetensors"
    write_bytes(folder / name, data)
    digest = hashlib.sha256(data).hexdigest()
    marker = {"tensors": name, "sha256": digest, "code_fingerprint": fingerprint, "progress": asdict(progress)}
    write_json(folder / "latest.json", marker)
    for other in folder.glob("task-*.safetensors"):
        if other.name != name:
            other.unlink(missing_ok=True)


def load_checkpoint(folder: Path, fingerprint: str) -> tuple[dict[str, Tensor], Progress] | None:
    """The last whole checkpoint that this code wrote; ``None`` where there is none, so that the run starts anew."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, SafetensorError):
        marker: dict[str, Any] = json.loads((folder / "latest.json").read_text(encoding="utf-8"))
        if marker["code_fingerprint"] != fingerprint:
            return None
        data = (folder / Path(marker["tensors"]).name).read_bytes()
        if hashlib.sha256(data).hexdigest() != marker["sha256"]:
            return None
        return load(data), Progress(**marker["progress"])
    return None
