"""How runs are done: the options from the command line to the trainer, and what a running one shares with its launcher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smope_bench.harness.cancellation import StopRequest

CHECKPOINT_EVERY_S = 300.0


@dataclass(frozen=True)
class Gpu:
    """A GPU, or a part of one (MIG), that a run may use; memory in MiB. None or empty is unknown."""

    token: str
    """What ``CUDA_VISIBLE_DEVICES`` calls it."""
    name: str = ""
    index: int | None = None
    uuid: str = ""
    memory_mb: float | None = None
    free_mb: float | None = None
    driver: str = ""
    capability: str = ""

    @property
    def words(self) -> str:
        """For messages, as ``NVIDIA H100 (80 GiB)``."""
        size = f" ({self.memory_mb / 1024:.0f} GiB)" if self.memory_mb else ""
        return f"{self.name or f'GPU {self.token}'}{size}"


@dataclass(frozen=True)
class RunOptions:
    """Options that every run of a launch shares. None is part of a run's identity."""

    results: Path
    data: Path
    device: str = "cpu"
    workers: int | None = None
    """Runs at a time; None: as many as the machine holds."""
    threads: int | None = None
    """torch and BLAS threads of each run, on which the last bits of CPU sums depend; None: by the size of the backbone."""
    plugins: tuple[Path, ...] = ()
    executor: str = "auto"
    """``auto`` is ``serial`` for one worker, else ``local``."""
    address: str | None = None
    """Of an existing Ray cluster, ``HOST:PORT``."""
    slurm: tuple[str, ...] = ()
    """``KEY=VALUE`` texts for the batch system, for example ``partition=gpu``."""
    gpus_per_run: float = 1.0
    deterministic: bool = False
    """Refuse operations without a deterministic form: repeatable bits on a GPU, at a cost in time."""
    checkpoint_every_s: float = CHECKPOINT_EVERY_S
    """Seconds between two checkpoints inside a task."""
    memory_mb: float | None = None
    """MiB that runs in flight may need together on this machine; None: no limit."""
    runner: str = "smope_bench.harness.execution.job:train"
    """``module:function`` that does a job: workers import it themselves."""
    gpu_numbers: tuple[int, ...] = ()
    """The user's choice among the GPUs of this machine, by their numbers from 0; empty: all."""
    gpus: tuple[Gpu, ...] = ()
    """GPUs of this machine for runs on it, the first for worker 0 and so on around; empty: whatever CUDA shows."""
    allow_device_change: bool = False
    """Continue a run that was begun on another type of device from its last task boundary, and mark its record."""
    is_remote: bool = False
    """Whether runs are done on another machine than the launcher's, perhaps."""
    leases: bool = True
    """Whether each run is leased; False if the caller holds a lock over all of them."""
    keep: bool = True
    """Whether a finished run keeps its trained model beside its record."""
    extendable: bool = False
    """Whether what is kept has what only training needs, whatever its size; without it, only where that is small."""
    stop_file: Path | None = None
    """If this file exists, the launcher wants its runs to be saved and stopped."""


@dataclass(frozen=True)
class RunContext:
    """What a running job shares with the process that started it."""

    stop_request: StopRequest = field(default_factory=StopRequest)
    may_publish: Callable[[], bool] = lambda: True
    """Whether the run is still this process's to write; raises OSError if that cannot be read."""
    emit: Callable[[dict[str, Any]], None] = lambda _: None
    """Receives every event of the run."""
