"""Every method on the pretend device: through the real trainer, stopped, short of memory, observed; bf16 is part of the check."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from smope_bench.harness.conformance.check import failed
from smope_bench.harness.conformance.checks.device import DeviceRun, run_on_pretend_device
from smope_bench.harness.conformance.pretend_device.device import NAME, pretend_device
from smope_bench.harness.conformance.runner import different, register, spec_of
from smope_bench.harness.maintenance import device_waits
from smope_bench.harness.maintenance.device_waits import table_row
from smope_bench.harness.provenance import PROJECT_ROOT
from smope_bench.harness.records.record import Record
from smope_bench.harness.records.store import Store
from smope_bench.harness.registry.registry import Registries, open_registries
from smope_bench.harness.run_options import RunContext, RunOptions
from smope_bench.harness.training.trainer import Trainer
from smope_bench.harness.training.trainer import run as run_to_the_end
from smope_bench.methods import BUILTIN
from smope_bench.methods.common.api import Batch
from smope_bench.methods.common.vit.memory_plan import MemoryPlan
from tests.harness.conformance.cheats import Honest, verdicts_of  # pyright: ignore[reportMissingImports]

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="the pretend device stands for a GPU where there is none"
)

PAGE = PROJECT_ROOT / "docs" / "performance.md"
BUDGET = Path(__file__).with_name("waits.json")
"""Host synchronisations of each method in two tasks, by phase: only numbers that are not zero."""
PHASES = ("training_step", "descend", "predict", "measure", "end_task", "fit_task")
DRAW_ON_THE_DEVICE = ("coda_prompt", "ease", "hash_prompt", "smope", "vq_prompt")


@pytest.fixture(scope="module")
def kit() -> Registries:
    made = open_registries()
    register(made)
    return made


def observed(found: DeviceRun) -> dict[str, int]:
    counts = {phase: found.waits(phase).total() for phase in PHASES}
    counts["feed"] = sum(count for wait, count in found.report.waits.items() if wait.feeds)
    return {phase: count for phase, count in counts.items() if count}


@pytest.mark.parametrize("name", BUILTIN)
def test_the_host_waits_no_more_than_its_budget(name: str, kit: Registries, tmp_path: Path) -> None:
    found = run_on_pretend_device(name, kit, tmp_path)
    assert found.report.mixed == [] and len(found.run.stages) == 1 + (not found.run.trainer.method.trains_jointly)
    counts, budget = observed(found), json.loads(BUDGET.read_text(encoding="utf-8"))[name]
    listed = "\n".join(f"{count} x {wait} in {wait.phase}" for wait, count in found.report.waits.most_common())
    assert counts == budget, f"{BUDGET.name} has {budget}: mend what grew, lower the budget where it fell\n{listed}"
    assert table_row(name, found) in PAGE.read_text(encoding="utf-8"), f"docs: python -m {device_waits.__name__}"


def test_the_host_never_waits_in_a_step() -> None:
    budget = json.loads(BUDGET.read_text(encoding="utf-8"))
    assert set(budget) == set(BUILTIN)
    assert not [name for name, counts in budget.items() if {"training_step", "descend", "predict"} & counts.keys()]


@pytest.mark.parametrize("name", DRAW_ON_THE_DEVICE)
def test_a_stopped_run_continues_with_the_same_bits(name: str, kit: Registries, tmp_path: Path) -> None:
    whole = run_on_pretend_device(name, kit, tmp_path / "whole", precision="bf16")
    assert whole.report.draws["cuda:0, default"] > 0
    run_on_pretend_device(name, kit, tmp_path / "stopped", precision="bf16", steps=8)
    again = run_on_pretend_device(name, kit, tmp_path / "stopped", precision="bf16")
    assert again.calls["training step"] < whole.calls["training step"]
    assert again.run.trainer.progress.predictions == whole.run.trainer.progress.predictions
    states = [each.run.stages[-1].state for each in (whole, again)]
    with pretend_device():
        assert different(*states) == []


def test_a_run_short_of_memory_continues_with_a_tighter_plan(kit: Registries, tmp_path: Path) -> None:
    def fail_once(trainer: Trainer) -> None:
        method = trainer.method_class
        step: Callable[[Any, Batch], Tensor] = method.training_step
        failures = iter([torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")])

        def failing(self: Any, batch: Batch) -> Tensor:
            if self.task_index == 1 and (error := next(failures, None)):
                raise error
            return step(self, batch)

        patch.setattr(method, "training_step", failing)

    with pytest.MonkeyPatch.context() as patch:
        found = run_on_pretend_device("smope", kit, tmp_path, prepare=fail_once)
    assert found.run.trainer.backbone.memory == MemoryPlan().tighter(8)
    assert found.run.trainer.progress.tasks_done == 2 and found.report.mixed == []


@pytest.mark.parametrize("name", ["hash_prompt", "smope"])
def test_an_observed_run_is_published(name: str, kit: Registries, tmp_path: Path) -> None:
    spec, observes = spec_of(name, kit), kit.methods.load(name).observes
    with pretend_device() as report:
        run_to_the_end(spec, RunOptions(tmp_path, tmp_path, device="cuda"), RunContext(), kit, observe=observes)
    record = Store(tmp_path).load(spec.run_id)
    assert isinstance(record, Record) and record.observes == frozenset(observes) and report.mixed == []
    assert NAME in json.dumps(json.loads((tmp_path / spec.run_id / "result.json").read_text(encoding="utf-8")))


class MixesDevices(Honest):
    """Weights its loss by a tensor that it makes on the CPU."""

    def training_step(self, batch: Batch) -> Tensor:
        return super().training_step(batch) + 0 * (self.head.bias * torch.ones(len(self.head.bias))).sum()


class KeepsATensorOnTheHost(Honest):
    """Answers with the help of a plain attribute, which ``to(device)`` leaves where it is."""

    def __init__(self, config: Any, backbone: Any, setup: Any) -> None:
        super().__init__(config, backbone, setup)
        self.offset = torch.zeros(setup.num_classes)

    def predict(self, batch: Batch) -> Tensor:
        return super().predict(batch) + self.offset[: self.seen_classes]


class DrawsOnTheHost(Honest):
    """Gives the CPU's generator for a draw on the device."""

    def training_step(self, batch: Batch) -> Tensor:
        loss, generator = super().training_step(batch), torch.Generator().manual_seed(1)
        return loss + 0 * torch.rand((), generator=generator, device=loss.device)


@pytest.mark.parametrize("method", [MixesDevices, KeepsATensorOnTheHost, DrawsOnTheHost])
def test_check_catches_a_plugin_that_mixes_devices(method: type[Honest]) -> None:
    faults = failed(verdicts_of(method))
    assert [fault.name for fault in faults] == ["on a CUDA device"]
    assert "cuda" in faults[0].detail and f"{Path(__file__).name}:" in faults[0].detail
    assert "batch.images.device" in faults[0].remedy


class WaitsForItsLoss(Honest):
    """Reads its loss in every step."""

    last: ClassVar[float] = 0.0

    def training_step(self, batch: Batch) -> Tensor:
        loss = super().training_step(batch)
        type(self).last = loss.item()
        return loss


def test_check_warns_where_a_plugin_makes_the_host_wait() -> None:
    verdicts = verdicts_of(WaitsForItsLoss)
    assert failed(verdicts) == []
    found = next(one for one in verdicts if one.name == "on a CUDA device").detail
    line = WaitsForItsLoss.training_step.__code__.co_firstlineno + 2
    assert f"item at {Path(__file__).name}:{line} (1 times a training step)" in found
    honest = next(one for one in verdicts_of(Honest) if one.name == "on a CUDA device").detail
    assert "warning" not in honest
