"""The check of a CUDA device: a run on the pretend device, or on a GPU where there is one; and where the host waits in it."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from smope_bench.harness.conformance.pretend_device.device import pretend_device
from smope_bench.harness.conformance.pretend_device.report import Report, Wait
from smope_bench.harness.conformance.runner import CheckRun, MethodUnderCheck, Verdict, run
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.run_spec import Precision
from smope_bench.harness.training.trainer import Trainer
from smope_bench.methods.common.api import Method

EVERY_STEP = {"training_step": "training step", "descend": "training step", "predict": "batch of predict"}
"""Phases in which the host must not wait, and what they are counted by."""
HOOKS = {"training_step": "training step", "predict": "batch of predict", "end_task": "task", "fit_task": "task"}
MOST_SHOWN = 5


@dataclass(frozen=True)
class DeviceRun:
    """Two tasks on the pretend device: the run, what the device observed, and calls of hooks by the units in ``HOOKS``."""

    run: CheckRun
    report: Report
    calls: Counter[str]

    def waits(self, phase: str) -> Counter[Wait]:
        """Host synchronisations of a phase, without those of the data feed."""
        return self.report.waits_in(phase)


def run_on_pretend_device(
    name: str,
    registries: Registries,
    folder: Path,
    *,
    precision: Precision = "fp32",
    steps: int | None = None,
    prepare: Callable[[Trainer], None] = lambda _: None,
) -> DeviceRun:
    """Run two tasks of the kit on the pretend device; options are those of ``runner.run``. Raises what the method raises."""
    calls: Counter[str] = Counter()

    def watch(trainer: Trainer) -> None:
        prepare(trainer)
        for hook, unit in HOOKS.items():
            trainer.method.__dict__[hook] = _counted(getattr(trainer.method, hook), calls, unit)

    with pretend_device() as report:
        done = run(
            name,
            registries,
            folder,
            precision=precision,
            device="cuda",
            stop=("task_evaluated", 1),
            steps=steps,
            prepare=watch,
        )
    return DeviceRun(done, report, calls)


def _counted(hook: Callable[..., Any], calls: Counter[str], unit: str) -> Callable[..., Any]:
    def counted(*args: Any) -> Any:
        calls[unit] += 1
        return hook(*args)

    return counted


def runs_on_a_device(subject: MethodUnderCheck) -> Verdict:
    """Two tasks under bf16 autocast run on a CUDA device; where the host waits for it in every step is noted."""
    if torch.cuda.is_available():
        subject.again("on a device", precision="bf16", device="cuda", stop=("task_evaluated", 1))
        return True, f"two tasks run under bf16 autocast on {torch.cuda.get_device_name()}"
    found = run_on_pretend_device(subject.name, subject.registries, subject.root / "on a device", precision="bf16")
    waits = waiting_places(found, type(subject.first.trainer.method))
    return True, "two tasks run under bf16 autocast on the pretend device" + (f"; warning: {waits}" if waits else "")


def waiting_places(found: DeviceRun, method: type[Method]) -> str:
    """Where the host waits for the device in every step, as a clause with lines of the method's file; empty where nowhere."""
    file, places = inspect.getsourcefile(method), Counter[tuple[str, str]]()
    for phase, unit in EVERY_STEP.items():
        for wait, count in found.waits(phase).items():
            own = next((place for place in wait.places if place.file == file), None)
            shown = own or (wait.places[0] if wait.places else None)
            where = f"{Path(shown.file).name}:{shown.line}" if shown else "an unknown place"
            places[f"{wait.operation} at {where}", unit] += count
    if not places:
        return ""
    parts = [
        f"{what} ({count / max(1, found.calls[unit]):.2g} times a {unit})"
        for (what, unit), count in places.most_common(MOST_SHOWN)
    ]
    more = f", and {len(places) - MOST_SHOWN} more places" if len(places) > MOST_SHOWN else ""
    return f"the host waits for the device: {', '.join(parts)}{more}"
