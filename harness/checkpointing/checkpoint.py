"""Checkpoints: what a killed run goes on from. Nothing in them is ever executed when they are read.

A checkpoint is a numbered marker, ``000012.json``, that names its files with their hashes and is sealed itself; tensors are
kept as safetensors, observations as npz without pickles, the rest as JSON. The marker is written last. The newest checkpoint
and the one before it are kept, so that a damaged one costs only the work in between.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from smope_bench.harness.records.checksum import checksum_of, with_checksum
from smope_bench.harness.records.observations import Arrays, npz_arrays, npz_bytes
from smope_bench.harness.records.store import write_bytes, write_json

METHOD, START, TRAINING, OBSERVED = "method", "start", "training", "observed"
DAMAGE = (ValueError, LookupError, TypeError, AttributeError, RecursionError, BadZipFile, SafetensorError)
ABSENT = (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""Of an OSError, what says that a file is not there. Anything else says nothing about it: a disk that is away may come back."""


@dataclass
class RunProgress:
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
class Position:
    """A place inside a task: ``step`` steps of ``epoch`` of the phase number ``phase`` are done, or all of it is trained."""

    phase: int = 0
    epoch: int = 0
    step: int = 0
    is_trained: bool = False
    """All phases are over, ``end_task`` has not begun."""
    stretch_step: int = 0
    stretch_done: int = 0
    loss_sum: float = 0.0
    """Of the epoch's steps so far."""
    passes: int = 0
    """Passes over the task's images and images read: when the epoch began, or so far where the task is trained."""
    images_read: int = 0
    observed_epochs: int = 0
    train_s: float = 0.0


@dataclass(frozen=True)
class Checkpoint:
    """A run as it was between two tasks, or at a ``position`` inside one."""

    tensors: dict[str, Tensor]
    """Parameters and buffers of the method."""
    progress: RunProgress
    observe: tuple[str, ...] = ()
    """Names that were observed from the first task on; ``observed`` is what came of it."""
    observed: Arrays = field(default_factory=dict)
    position: Position | None = None
    training: dict[str, Tensor] = field(default_factory=dict)
    """Inside a task: moments of the optimiser, states of the random generators; ``values`` are their plain numbers."""
    values: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    """How the backbone spent memory: other plans give other last bits."""
    log: tuple[int, float] = (0, 0.0)
    """Bytes of the run's log that belong to it, and seconds since its first line."""
    start: dict[str, Tensor] | None = None
    """Only when loaded, inside a later task: the method's tensors when that task began."""


@dataclass(frozen=True)
class _Kept:
    """A checkpoint on disk. It shares nothing with the progress of the run, which goes on."""

    number: int
    files: Mapping[str, Mapping[str, str]]
    is_inside: bool
    """Inside a task, not between two."""
    tasks_done: int


class Checkpoints:
    """The checkpoints of one run in one folder. ``fingerprint`` names its code and data: nothing is continued with others."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder = folder
        self._fingerprint = fingerprint
        self._last: _Kept | None = None
        """The newest checkpoint that is known to be whole."""

    def load(self) -> Checkpoint | None:
        """The newest whole checkpoint; ``None`` where there is none, so that the run starts anew.

        Raises OSError where a file is there and cannot be read: then nothing is known of it, and nothing may replace it.
        """
        self._last = None
        for number, file in self._markers():
            try:
                marker = json.loads(file.read_text(encoding="utf-8"))
                if marker["seal"] != checksum_of(marker) or marker["fingerprint"] != self._fingerprint:
                    continue
                kept, found = _kept(number, marker), self._read(marker)
            except DAMAGE:
                continue
            except OSError as error:
                if error.errno not in ABSENT:
                    raise
                continue
            self._last = kept
            return found
        return None

    def save(self, state: Checkpoint) -> None:
        """Write a checkpoint; older ones than the last are removed only after it is durable. Raises OSError.

        Inside a task, the tensors with which it began must be on disk from the checkpoint before it.
        """
        number = max((number for number, _ in self._markers()), default=0) + 1
        try:
            written = self._written(number, state)
        except OSError:
            self._remove(number)
            raise
        self._remove_all_but([written, self._last])
        self._last = written

    def knows_start(self, task: int) -> bool:
        """Whether the tensors with which ``task`` began are known: a checkpoint inside it would be of no use without."""
        return task == 0 or (self._last is not None and self._last.tasks_done == task)

    def start_anew(self) -> None:
        """What was loaded cannot be used: nothing refers to it, and the first checkpoint of the new run replaces it."""
        self._last = None

    def forget(self) -> None:
        """Remove all checkpoints: class covariances of ViT-B/16 take half a gigabyte a run."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._last = None

    # -- files ---------------------------------------------------------------------------------------------------------

    def _written(self, number: int, state: Checkpoint) -> _Kept:
        files: dict[str, Mapping[str, str]] = {}
        files[METHOD] = self._write(f"{number:06d}.safetensors", save(_apart(state.tensors)))
        if state.training:
            files[TRAINING] = self._write(f"{number:06d}.training.safetensors", save(_apart(state.training)))
        if state.observed:
            files[OBSERVED] = self._write(f"{number:06d}.npz", npz_bytes(state.observed))
        if state.position is not None and self._last is not None:
            before = self._last.files
            start = before.get(START) if self._last.is_inside else before[METHOD]
            if start is not None:
                files[START] = start
        marker = {
            "fingerprint": self._fingerprint,
            "files": files,
            "progress": asdict(state.progress),
            "observe": list(state.observe),
            "position": None if state.position is None else asdict(state.position),
            "values": state.values,
            "plan": state.plan,
            "log": list(state.log),
        }
        write_json(self._folder / f"{number:06d}.json", with_checksum(marker))
        return _kept(number, marker)

    def _write(self, name: str, data: bytes) -> dict[str, str]:
        write_bytes(self._folder / name, data)
        return {"name": name, "sha256": hashlib.sha256(data).hexdigest()}

    def _read(self, marker: Mapping[str, Any]) -> Checkpoint:
        found: dict[str, bytes] = {}
        for role, file in marker["files"].items():
            found[role] = (self._folder / Path(file["name"]).name).read_bytes()
            if hashlib.sha256(found[role]).hexdigest() != file["sha256"]:
                raise ValueError(f"{file['name']} is not what was written")
        position = marker["position"]
        return Checkpoint(
            load(found[METHOD]),
            RunProgress(**marker["progress"]),
            tuple(marker["observe"]),
            npz_arrays(found[OBSERVED]) if OBSERVED in found else {},
            None if position is None else Position(**position),
            load(found[TRAINING]) if TRAINING in found else {},
            marker["values"],
            marker["plan"],
            (int(marker["log"][0]), float(marker["log"][1])),
            load(found[START]) if START in found else None,
        )

    def _markers(self) -> Iterator[tuple[int, Path]]:
        """Numbered markers, newest first."""
        try:
            files = [file for file in self._folder.iterdir() if file.suffix == ".json" and file.stem.isdecimal()]
        except OSError as error:
            if error.errno not in ABSENT:
                raise
            return
        yield from sorted(((int(file.stem), file) for file in files), reverse=True)

    def _remove(self, number: int) -> None:
        """What was written of a checkpoint that could not be finished, its marker first."""
        with contextlib.suppress(OSError):
            for file in sorted(self._folder.glob(f"{number:06d}.*")):
                file.unlink(missing_ok=True)

    def _remove_all_but(self, checkpoints: Iterable[_Kept | None]) -> None:
        kept: set[str] = set()
        for one in checkpoints:
            if one is not None:
                kept |= {f"{one.number:06d}.json", *(file["name"] for file in one.files.values())}
        with contextlib.suppress(OSError):
            for other in list(self._folder.iterdir()):
                if other.name not in kept:
                    other.unlink(missing_ok=True)


def _kept(number: int, marker: Mapping[str, Any]) -> _Kept:
    return _Kept(number, marker["files"], marker["position"] is not None, len(marker["progress"]["timings"]))


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, contiguous, and no two in the same memory, as the format demands."""
    seen: set[int] = set()
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        storage = plain.untyped_storage().data_ptr()
        found[name] = plain.clone() if storage in seen else plain
        seen.add(storage)
    return found
