"""Timing of the feeder: training batches a second against torch's DataLoader, and epochs of a simulated accelerator.

All sides make float32 batches of random crops of the same JPEG files, on the same two cores, two processes or threads each.
*The host's part* is what is left of it where an accelerator takes 8-bit pixels, and in fast mode whole pictures to cut from:
up to the memory from which a batch is copied to the device. What runs there, and the copy itself, is left out.
The accelerator is simulated by a sleep, which leaves the interpreter to other threads, as waiting for a device does.
"""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from smope_bench.benchmarks.base import ProgressCallback, silent
from smope_bench.benchmarks.stream import Stream
from smope_bench.benchmarks.transforms.batch import Transforms
from smope_bench.benchmarks.transforms.staging import Staged
from smope_bench.harness.timing.claims.data import BATCH, SIZE, made_files, made_stream
from smope_bench.harness.timing.records import Row, make_row, ratios, spread
from smope_bench.harness.training.batches.feeder import AHEAD_ELSEWHERE, Feeder

WORKERS = 2
LOADER, PILLOW_LOADER = "DataLoader: decode_jpeg, v2 transforms", "DataLoader: Pillow, v2 transforms"
EXACT, FAST = "feeder: exact", "feeder: fast"
HOST_EXACT, HOST_FAST = (
    "feeder: exact, the host's part for an accelerator",
    "feeder: fast, the host's part for an accelerator",
)
AHEAD, NOT_AHEAD = f"made {AHEAD_ELSEWHERE} batches ahead", "made when used"

Epoch = Callable[[Callable[[], object]], None]
"""Makes the batches of an epoch and calls its argument, the step, on each."""


class JpegFiles(Dataset[tuple[Tensor, int]]):
    """A folder of JPEG files as torchvision's documentation reads and transforms them for training."""

    def __init__(self, folder: Path, count: int, by_pillow: bool) -> None:
        from torchvision.transforms import v2

        self._folder, self._count, self._by_pillow = folder, count, by_pillow
        first = [v2.ToImage()] if by_pillow else []
        crop = [v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()]
        self._transform = v2.Compose([*first, *crop, v2.ToDtype(torch.float32, scale=True)])

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self._transform(self._read(str(self._folder / f"{row}.jpg"))), 0

    def _read(self, path: str) -> Any:
        if self._by_pillow:
            from torchvision.datasets.folder import default_loader

            return default_loader(path)
        from torchvision.io import ImageReadMode, decode_jpeg, read_file

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of torchvision's decoders, from 0.29 on
            return decode_jpeg(read_file(path), ImageReadMode.RGB)


@dataclass(frozen=True)
class Took:
    """Seconds of an epoch by the clock, and of all processors together in user and system mode."""

    wall: float
    cpu: float


def bench_feed(images: int, batches: int, repeats: int, progress: ProgressCallback = silent) -> list[Row]:
    """Time epochs of ``batches`` batches in turns, after a warm-up.

    ``images_a_second``; ``times_faster``: than the DataLoader that decodes with torchvision; ``cpu_ms``: a batch, user and
    system, of all processes; ``to_longer``: an epoch's time to the longer of making its batches and the accelerator's work.
    """
    with TemporaryDirectory() as folder, _two_cores():
        root = Path(folder)
        progress(f"making {images} JPEG files")
        files = made_files(images)
        for number, data in enumerate(files):
            (root / f"{number}.jpg").write_bytes(data)
        exact, fast = (made_stream(files, root, mode) for mode in ("exact", "fast"))
        loaders = {name: _loader(root, images, batches, name == PILLOW_LOADER) for name in (LOADER, PILLOW_LOADER)}
        here, there = torch.device("cpu"), torch.device("meta")
        with _feeder(here, AHEAD_ELSEWHERE) as feeder, _feeder(there, AHEAD_ELSEWHERE) as host:
            epochs = {
                **{name: _loader_epoch(loader) for name, loader in loaders.items()},
                EXACT: feeder_epoch(feeder, exact, batches),
                FAST: feeder_epoch(feeder, fast, batches),
                HOST_EXACT: feeder_epoch(host, exact, batches, HostTransforms.of(exact.transforms)),
                HOST_FAST: feeder_epoch(host, fast, batches, HostTransforms.of(fast.transforms)),
            }
            progress("timing batches")
            took = _in_turns(epochs, repeats)
            del epochs, loaders  # ends the DataLoaders' processes
            progress("timing epochs of a simulated accelerator")
            rows = [_rate_row(name, took, batches) for name in took]
            for name, stream in ((EXACT, exact), (FAST, fast)):
                rows += _simulated_rows(name, stream, feeder, batches, repeats)
    return rows


def _rate_row(name: str, took: Mapping[str, list[Took]], batches: int) -> Row:
    mine, base = took[name], [one.wall for one in took[LOADER]]
    return make_row(
        name,
        images_a_second=spread([batches * BATCH / one.wall for one in mine]),
        times_faster=ratios(base, [one.wall for one in mine]),
        cpu_ms=spread([1000 * one.cpu / batches for one in mine]),
        cpu_ratio=ratios([one.cpu for one in took[LOADER]], [one.cpu for one in mine]),
    )


def _simulated_rows(name: str, stream: Stream, feeder: Feeder, batches: int, repeats: int) -> list[Row]:
    """An accelerator that is busy as long as a batch takes to make, fed ahead and not; each repeat sets its own time."""
    alone = feeder_epoch(feeder, stream, batches)
    found: dict[str, list[float]] = {AHEAD: [], NOT_AHEAD: []}
    with _feeder(torch.device("cpu"), 0) as waiting:
        sides = {AHEAD: alone, NOT_AHEAD: feeder_epoch(waiting, stream, batches)}
        for repeat in range(-1, repeats):
            for side, epoch in sides.items():
                making = timed_epoch(alone, lambda: None).wall
                busy = Accelerator(making / batches)
                whole = timed_epoch(epoch, busy).wall
                if repeat >= 0:
                    found[side].append(whole / max(making, busy.slept))
    return [make_row(f"{name}, simulated accelerator, {side}", to_longer=spread(found[side])) for side in found]


class HostTransforms(Transforms):
    """Transforms of an accelerator without what runs there: batches end in the memory that would be copied to it."""

    def stage(self, *args: Any, **kwargs: Any) -> Staged:
        """The pieces of a batch, which has no images once they are done."""
        return replace(super().stage(*args, **kwargs), finish=lambda: (torch.empty(0), torch.empty(0)))

    @classmethod
    def of(cls, transforms: Transforms) -> HostTransforms:
        """The same transforms, up to the copy."""
        return cls(**{each.name: getattr(transforms, each.name) for each in fields(transforms)})


class Accelerator:
    """Sleeps ``seconds`` at each call; ``slept``: how long in all, by the clock."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.slept = 0.0

    def __call__(self) -> None:
        started = time.perf_counter()
        time.sleep(self.seconds)
        self.slept += time.perf_counter() - started


def timed_epoch(epoch: Epoch, step: Callable[[], object]) -> Took:
    """One epoch, with the time of this process and of those it has started, which must live on."""
    cpu, started = _cpu_seconds(), time.perf_counter()
    epoch(step)
    return Took(time.perf_counter() - started, _cpu_seconds() - cpu)


def _in_turns(epochs: Mapping[str, Epoch], repeats: int) -> dict[str, list[Took]]:
    took: dict[str, list[Took]] = {name: [] for name in epochs}
    for repeat in range(-1, repeats):
        for name, epoch in epochs.items():
            found = timed_epoch(epoch, lambda: None)
            if repeat >= 0:
                took[name].append(found)
    return took


def _cpu_seconds() -> float:
    times = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    return time.process_time() + sum(one.user + one.system for one in times)


def _loader(folder: Path, images: int, batches: int, by_pillow: bool) -> DataLoader[Any]:
    """Its processes live on from epoch to epoch, so that their start is not counted."""
    files = JpegFiles(folder, images, by_pillow)
    order = RandomSampler(files, num_samples=batches * BATCH, replacement=images < batches * BATCH)
    return DataLoader(files, batch_size=BATCH, sampler=order, num_workers=WORKERS, persistent_workers=True)


def _loader_epoch(loader: DataLoader[Any]) -> Epoch:
    def epoch(step: Callable[[], object]) -> None:
        for _ in loader:
            step()

    return epoch


def _feeder(device: torch.device, ahead: int) -> Feeder:
    return Feeder(device, threads=WORKERS, ahead=ahead)


def feeder_epoch(feeder: Feeder, stream: Stream, batches: int, transforms: Transforms | None = None) -> Epoch:
    """Epochs of random crops of the stream's first task, each in another order. ``transforms``: other than the stream's."""
    chosen = transforms or stream.transforms
    view, generator, rng = stream.tasks[0].train, torch.Generator().manual_seed(0), np.random.default_rng(0)

    def epoch(step: Callable[[], object]) -> None:
        count = len(view)
        rows = np.concatenate([rng.permutation(count) for _ in range(-(-batches * BATCH // count))])
        parts = [rows[number * BATCH : (number + 1) * BATCH] for number in range(batches)]
        for _ in feeder.batches(view, chosen, parts, generator):
            step()

    return epoch


@contextlib.contextmanager
def _two_cores() -> Iterator[None]:
    """Inside, this process and those that it starts use two cores; without effect where a system cannot do that."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:WORKERS])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
