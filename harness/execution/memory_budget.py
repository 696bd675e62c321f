"""Which runs may be in flight together: as many as there are workers, and never more than memory holds."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from smope_bench.harness.errors import UserError
from smope_bench.harness.execution.job import Job
from smope_bench.harness.records.record import Record
from smope_bench.harness.run_options import Gpu

SPARE = 0.9
"""Share of the free memory that is given out: needs are known from other runs of the kind only."""
CPU_BASE_MB, CUDA_BASE_MB = 500.0, 600.0
"""MiB of a process before it holds a backbone: libraries, or a context on the device."""
COPIES = 4.0
"""Copies of a backbone's weights that a run holds at its peak if nothing was measured: an upper estimate for one task."""


class Queue:
    """Jobs that wait. One that was ended from outside, maybe because memory ran out, is tried last and alone."""

    def __init__(self, jobs: Iterable[Job], budget_mb: float | None = None) -> None:
        self._waiting, self._alone = deque(jobs), deque[Job]()
        self._budget_mb = budget_mb
        self._solitary: set[str] = set()

    def take(
        self, in_flight: Sequence[Job], beside: Sequence[Job] | None = None, budget_mb: float | None = None
    ) -> Job | None:
        """The next job that fits beside those in flight; on an idle machine any fits, or it would never be done.

        ``beside``: those of the jobs in flight that share a GPU of ``budget_mb``; the queue's own budget unless given.
        """
        if any(job.run_id in self._solitary for job in in_flight):
            return None
        beside = in_flight if beside is None else beside
        budget_mb = self._budget_mb if budget_mb is None else budget_mb
        used = sum(job.memory_mb for job in beside)
        for i, job in enumerate(self._waiting):
            if not beside or budget_mb is None or used + job.memory_mb <= budget_mb:
                del self._waiting[i]
                return job
        return self._alone.popleft() if self._alone and not (in_flight or self._waiting) else None

    def take_all(self) -> list[Job]:
        """Empty the queue."""
        left = [*self._waiting, *self._alone]
        self._waiting.clear()
        self._alone.clear()
        return left

    def put_back(self, job: Job, *, alone: bool) -> None:
        """Try a job again: at once, or ``alone``, when no other is in flight."""
        if alone:
            self._solitary.add(job.run_id)
            self._alone.append(job)
        else:
            self._waiting.appendleft(job)


def workers_that_fit(peaks_mb: Sequence[float], budget_mb: float) -> int:
    """How many of these runs fit together whichever they are; at least one."""
    used, count = 0.0, 0
    for peak in sorted(peaks_mb, reverse=True):
        used += peak
        if used > budget_mb:
            break
        count += 1
    return max(1, count)


def gpu_budget_mb(gpu: Gpu) -> float | None:
    """MiB of a GPU that runs may need together; None where its free memory was not known when the launch began."""
    return None if gpu.free_mb is None else SPARE * gpu.free_mb


def require_room(workers: int, gpus: Sequence[Gpu], needs_mb: Sequence[float]) -> None:
    """Raise UserError where ``workers`` share ``gpus`` and even the smallest runs do not fit beside each other.

    ``needs_mb``: what each run is expected to need, 0 where unknown; a context on the device needs room in any case.
    """
    if not gpus or workers <= len(gpus):
        return
    needs = sorted(max(need, CUDA_BASE_MB) for need in needs_mb)
    for i, gpu in enumerate(gpus):  # named as the driver names it: --gpus and CUDA_VISIBLE_DEVICES number them anew
        count, budget = len(range(i, workers, len(gpus))), gpu_budget_mb(gpu)
        used = sum(needs[:count])
        if count > 1 and budget is not None and used > budget:
            raise UserError(
                f"--workers {workers} with {len(gpus)} GPU{'s' * (len(gpus) > 1)} puts {count} runs on {gpu.words}, {gpu.token}:"
                f" they need about {used / 1024:.1f} GiB and {budget / 1024:.1f} GiB are to be had; use --workers {len(gpus)}"
            )


class _Named(BaseModel):
    name: str


class _Schedule(BaseModel):
    batch_size: int | None = None


class _Spec(BaseModel):
    method: _Named
    benchmark: _Named
    backbone: _Named
    schedule: _Schedule
    precision: str


class _Costs(BaseModel):
    peak_memory_mb: float
    memory_plan: Any = None


class _Provenance(BaseModel):
    device: str = ""


class _Finished(BaseModel):
    """Form of the parts of a record that tell what its run needed."""

    spec: _Spec
    costs: _Costs
    provenance: _Provenance


class MemoryEstimator:
    """What runs need at their peak, from what finished runs on such a device needed."""

    def __init__(self, records: Iterable[Record], device: str) -> None:
        """``records``: of finished runs; those that had to recompute for want of memory are left out."""
        self._device = device
        self._known: dict[tuple[Any, ...], float] = {}
        for record in records:
            try:
                found = _Finished.model_validate(record.result)
            except ValidationError:
                continue
            if (
                found.provenance.device.partition(":")[0] == device
                and "memory_plan" not in found.costs.model_fields_set
            ):
                self._learn(record.spec, found.costs.peak_memory_mb)

    def _learn(self, spec: Mapping[str, Any], peak_mb: float) -> None:
        for key in _keys(spec):
            self._known[key] = max(self._known.get(key, 0.0), peak_mb)

    def measured(self, spec: Mapping[str, Any]) -> float | None:
        """MiB of its method on its backbone and benchmark, else the largest on the backbone, with the process's own.

        Only runs of the same batch size and precision count; None if there is none.
        """
        found = next((self._known[key] for key in _keys(spec) if key in self._known), None)
        return None if not found else found + (CUDA_BASE_MB if self._device != "cpu" else 0.0)

    def guessed(self, weights_mb: float) -> float:
        """MiB estimated from the size of the backbone alone."""
        return (CUDA_BASE_MB if self._device != "cpu" else CPU_BASE_MB) + COPIES * weights_mb


def _keys(spec: Mapping[str, Any]) -> tuple[tuple[Any, ...], ...]:
    """Keys of runs with similar peaks, the most specific first."""
    size = (spec["backbone"]["name"], spec["schedule"].get("batch_size"), spec["precision"])
    return (spec["method"]["name"], spec["benchmark"]["name"], *size), size
