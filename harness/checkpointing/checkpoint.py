"""The files of checkpoints, from which a killed run is resumed. Reading them never executes code.

A checkpoint is a numbered marker, ``000012.json``, with its own checksum and the names and hashes of its files: tensors as
safetensors, observations as npz without pickles, the rest as JSON. The marker is written last. The two newest checkpoints are
kept, so that a damaged one costs only the work in between.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from pydantic import BaseModel
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from smope_bench.benchmarks.durable import make_folder
from smope_bench.harness.records.atomic_write import write_atomically, write_json_atomically
from smope_bench.harness.records.observations import VALIDATION_LOSS, Arrays, npz_arrays, npz_bytes
from smope_bench.harness.records.record import checksum_of, with_checksum

METHOD, START, TRAINING, OBSERVED = "method", "start", "training", "observed"
DAMAGE = (ValueError, BadZipFile, SafetensorError)
"""What reading a damaged file raises; ValueError includes pydantic's of a marker of another form. Others are faults of ours."""
ABSENT = (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""Error numbers of an OSError that mean that a file does not exist. With any other one it may exist: a disk that cannot be
reached now may come back."""


@dataclass
class RunProgress:
    """Measurements of a run so far; each list grows by one entry a task."""

    matrix: list[list[float | None]] = field(default_factory=list)
    predictions: list[list[int]] = field(default_factory=list)
    timings: list[dict[str, float]] = field(default_factory=list)
    train_images: int = 0
    test_images: int = 0
    learned: dict[str, int] = field(default_factory=dict)
    """Name and size of every parameter that has been trained in any phase so far."""
    peak_memory_mb: float = 0.0
    memory_increase_mib: float = 0.0
    """By how much the peak was above what was in use when training began, over all attempts."""
    devices: list[dict[str, Any]] = field(default_factory=list)
    """Every device that the run has used, in order, as ``describe_device`` gives them."""
    device_changes: list[dict[str, Any]] = field(default_factory=list)
    """Where the run went on on another type of device: ``from``, ``to`` and ``task``, the first one on the new device."""

    @property
    def tasks_done(self) -> int:
        """Number of finished training tasks."""
        return len(self.timings)


@dataclass(frozen=True)
class Position:
    """A position inside a task: after ``step`` steps of ``epoch`` of phase number ``phase``, or after all of its training."""

    phase: int = 0
    epoch: int = 0
    step: int = 0
    is_trained: bool = False
    """All phases are over; ``end_task`` has not begun."""
    segment_step: int = 0
    segment_done: int = 0
    loss_sum: float = 0.0
    """Sum of the losses of the epoch's steps so far."""
    passes: int = 0
    """Passes over the task's images and images read: at the start of the epoch, or in total once the task is trained."""
    images_read: int = 0
    observed_epochs: int = 0
    train_s: float = 0.0


@dataclass(frozen=True)
class Checkpoint:
    """State of a run between two tasks, or at a ``position`` inside one."""

    tensors: dict[str, Tensor]
    """Parameters and buffers of the method."""
    progress: RunProgress
    observe: tuple[str, ...] = ()
    """Names observed since the first task; ``observed`` holds their arrays."""
    observed: Arrays = field(default_factory=dict)
    position: Position | None = None
    training: dict[str, Tensor] = field(default_factory=dict)
    """Inside a task: moments of the optimiser and states of the random generators; ``values`` has their plain numbers."""
    values: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    """The backbone's memory plan: another plan changes the last bits of results."""
    log: tuple[int, float] = (0, 0.0)
    """Bytes of the run's event log, and seconds since its first line."""
    start: dict[str, Tensor] | None = None
    """Only when loaded, inside a later task: the method's tensors at the start of that task."""
    device: str = ""
    """Type of the device that made it, as ``cuda``; empty in checkpoints of before it was stored."""

    def at_task_boundary(self) -> Checkpoint | None:
        """The state in which the task began that was under way; None where that is the start of the run."""
        if self.position is None:
            return self
        if self.start is None:
            return None
        done, observed = self.progress.tasks_done, dict(self.observed)
        if (
            tasks := observed.get(f"{VALIDATION_LOSS}.task")
        ) is not None:  # one entry an epoch, also of the task under way
            for name in observed.keys() & {f"{VALIDATION_LOSS}.{part}" for part in ("task", "phase", "epoch", "loss")}:
                observed[name] = observed[name][tasks < done]
        return replace(self, tensors=self.start, observed=observed, position=None, training={}, values={}, start=None)


@dataclass(frozen=True)
class _File:
    name: str
    sha256: str


class _Marker(BaseModel):
    """A marker's JSON, its checksum aside."""

    fingerprint: str
    files: dict[str, _File]
    progress: RunProgress
    observe: tuple[str, ...]
    position: Position | None
    values: dict[str, Any]
    plan: dict[str, Any]
    log: tuple[int, float]
    device: str = ""


@dataclass(frozen=True)
class _Stored:
    """A checkpoint on disk. It must not share the run's ``RunProgress``, which changes while the run continues."""

    number: int
    files: Mapping[str, _File]
    is_inside: bool
    """Inside a task, not between two."""
    tasks_done: int


class Checkpoints:
    """The checkpoints of one run in one folder. ``fingerprint`` identifies its code and data: others are never resumed from."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder = folder
        self._fingerprint = fingerprint
        self._last: _Stored | None = None
        """The newest checkpoint that is known to be complete."""

    def load(self) -> Checkpoint | None:
        """The newest complete checkpoint, or None where there is none.

        Raises OSError where a file exists but cannot be read: the checkpoint may be good, so nothing may replace it.
        """
        self._last = None
        for number, file in self._markers():
            try:
                marker = _read_marker(file.read_text(encoding="utf-8"))
                if marker.fingerprint != self._fingerprint:
                    continue
                stored = _Stored(number, marker.files, marker.position is not None, marker.progress.tasks_done)
                found = self._read(marker)
            except DAMAGE:
                continue
            except OSError as error:
                if error.errno not in ABSENT:
                    raise
                continue
            self._last = stored
            return found
        return None

    def save(self, state: Checkpoint) -> None:
        """Write a checkpoint; all but the last are removed only after it is durable. Raises OSError.

        Inside a task, the previous checkpoint must have the tensors with which the task began.
        """
        number = max((number for number, _ in self._markers()), default=0) + 1
        try:
            written = self._write_all(number, state)
        except OSError:
            self._remove(number)
            raise
        self._remove_all_but([written, self._last])
        self._last = written

    def knows_start(self, task: int) -> bool:
        """Whether the tensors at the start of ``task`` are stored: a checkpoint inside the task is useless without them."""
        return task == 0 or (self._last is not None and self._last.tasks_done == task)

    @property
    def has_any(self) -> bool:
        """Whether a complete checkpoint of this run was written or loaded."""
        return self._last is not None

    def start_anew(self) -> None:
        """Ignore what was loaded, because the run starts from the beginning; its first checkpoint replaces the files."""
        self._last = None

    def forget(self) -> None:
        """Remove all checkpoints: class covariances of ViT-B/16 take half a gigabyte a run."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._last = None

    # -- files ---------------------------------------------------------------------------------------------------------

    def _write_all(self, number: int, state: Checkpoint) -> _Stored:
        if self._last is None:
            make_folder(self._folder)  # which also makes the name of the event log beside it durable
        files: dict[str, _File] = {}
        files[METHOD] = self._write(f"{number:06d}.safetensors", save(storable(state.tensors)))
        if state.training:
            files[TRAINING] = self._write(f"{number:06d}.training.safetensors", save(storable(state.training)))
        if state.observed:
            files[OBSERVED] = self._write(f"{number:06d}.npz", npz_bytes(state.observed))
        if state.position is not None and self._last is not None:
            before = self._last.files
            start = before.get(START) if self._last.is_inside else before[METHOD]
            if start is not None:
                files[START] = start
        marker = {
            "fingerprint": self._fingerprint,
            "files": {role: asdict(file) for role, file in files.items()},
            "progress": asdict(state.progress),
            "observe": list(state.observe),
            "position": None if state.position is None else asdict(state.position),
            "values": state.values,
            "plan": state.plan,
            "log": list(state.log),
            "device": state.device,
        }
        write_json_atomically(self._folder / f"{number:06d}.json", with_checksum(marker))
        return _Stored(number, files, state.position is not None, state.progress.tasks_done)

    def _write(self, name: str, data: bytes) -> _File:
        write_atomically(self._folder / name, data, sync_name=False)  # the marker is written after it
        return _File(name, hashlib.sha256(data).hexdigest())

    def _read(self, marker: _Marker) -> Checkpoint:
        found: dict[str, bytes] = {}
        for role, file in marker.files.items():
            found[role] = (self._folder / Path(file.name).name).read_bytes()
            if hashlib.sha256(found[role]).hexdigest() != file.sha256:
                raise ValueError(f"{file.name} does not have the hash that its marker names")
        return Checkpoint(
            load(found[METHOD]),
            marker.progress,
            marker.observe,
            npz_arrays(found[OBSERVED]) if OBSERVED in found else {},
            marker.position,
            load(found[TRAINING]) if TRAINING in found else {},
            marker.values,
            marker.plan,
            marker.log,
            load(found[START]) if START in found else None,
            marker.device,
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
        """Remove the files of an unfinished checkpoint, its marker first."""
        with contextlib.suppress(OSError):
            for file in sorted(self._folder.glob(f"{number:06d}.*")):
                file.unlink(missing_ok=True)

    def _remove_all_but(self, checkpoints: Iterable[_Stored | None]) -> None:
        kept: set[str] = set()
        for one in checkpoints:
            if one is not None:
                kept |= {f"{one.number:06d}.json", *(file.name for file in one.files.values())}
        with contextlib.suppress(OSError):
            for other in list(self._folder.iterdir()):
                if other.name not in kept:
                    other.unlink(missing_ok=True)


def _read_marker(text: str) -> _Marker:
    """Raises ValueError where the text is no JSON, another than was written, or lacks a part."""
    try:
        raw = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply for a marker") from error
    if not isinstance(raw, dict) or raw.get("seal") != checksum_of(raw):
        raise ValueError("the marker does not have the checksum that it names")
    marker = _Marker.model_validate(raw)
    if METHOD not in marker.files:
        raise ValueError("the marker names no tensors of the method")
    return marker


def storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors on the CPU, contiguous, and without shared memory, as safetensors requires."""
    seen: set[int] = set()
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        storage = plain.untyped_storage().data_ptr()
        found[name] = plain.clone() if storage in seen else plain
        seen.add(storage)
    return found
