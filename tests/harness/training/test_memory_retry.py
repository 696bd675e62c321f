"""Out of memory, a run goes on with a tighter plan from its last checkpoint, or ends in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from smope_bench.harness.hardware.out_of_memory import OutOfMemoryRun
from smope_bench.harness.records.record import Record
from smope_bench.harness.records.store import Store
from smope_bench.harness.registry.registry import Registries
from smope_bench.methods.common.vit.memory_plan import MemoryPlan
from smope_bench.methods.common.vit.vit import PromptedViT
from tests.conftest import micro_spec  # pyright: ignore[reportMissingImports]
from tests.harness.resumed import (  # pyright: ignore[reportMissingImports]
    Hoarder,
    Killed,
    assert_same,
    dies_at_save,
    finish,
)

HIDDEN, RECOMPUTED = MemoryPlan(checkpoint_mlps=True), MemoryPlan(checkpoint_blocks=True)


class Device:
    """A backbone's device that has too little memory for ``plans``, from its pass number ``passes`` on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, passes: int, *plans: MemoryPlan) -> None:
        self.plans = plans
        self.left = passes
        self.used: list[MemoryPlan] = []
        forward = PromptedViT.forward

        def limited(backbone: PromptedViT, images: Tensor, *rules: Any) -> Tensor:
            self.left -= 1
            if self.left < 0 and (not self.plans or backbone.memory in self.plans):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            self.used.append(backbone.memory)
            return forward(backbone, images, *rules)

        monkeypatch.setattr(PromptedViT, "forward", limited)


@pytest.fixture(autouse=True)
def _plugin(registries: Registries) -> None:
    registries.methods.add("hoarder", "tests", Hoarder)


def plan_events(said: list[dict[str, Any]]) -> list[str]:
    return [event["plan"] for event in said if event["event"] == "memory_plan"]


@pytest.mark.parametrize(("passes", "often"), [(0, 300.0), (7, 0.0), (17, 0.0), (40, 300.0)])
def test_a_run_goes_on_with_less_memory(
    registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: int, often: float
) -> None:
    spec = micro_spec("hoarder")
    whole = finish(spec, registries, tmp_path / "whole")
    device, said = Device(monkeypatch, passes, MemoryPlan()), []
    found = finish(spec, registries, tmp_path / "short", on_event=said.append, checkpoint_every_s=often)
    assert plan_events(said) == ["hidden layers recomputed"]
    assert device.used[:passes] == [MemoryPlan()] * passes and set(device.used[passes:]) == {HIDDEN}
    assert found.costs.pop("memory_plan") == "hidden layers recomputed"
    assert "memory_plan" not in whole.costs
    found.events = [event for event in found.events if event["event"] != "memory_plan"]
    assert_same(found, whole)  # recomputation gives the same bits


def test_plans_are_tightened_until_one_fits(
    registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Device(monkeypatch, 5, MemoryPlan(), HIDDEN, RECOMPUTED)
    said: list[dict[str, Any]] = []
    found = finish(micro_spec("hoarder"), registries, tmp_path, on_event=said.append)
    assert plan_events(said) == ["hidden layers recomputed", "blocks recomputed", "1 image at a time"]
    assert found.costs["memory_plan"] == "1 image at a time"
    assert isinstance(Store(tmp_path).load(micro_spec("hoarder").run_id), Record)


def test_where_nothing_fits_one_sentence_has_the_numbers(
    registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Device(monkeypatch, 20)
    tried = r"batches of 8 \(all at once, hidden layers recomputed, blocks recomputed, 1 image at a time\)"
    with pytest.raises(OutOfMemoryRun, match=tried):
        finish(micro_spec("hoarder"), registries, tmp_path)


def test_a_resumed_run_keeps_its_plan(registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With another plan the last bits would be others."""
    spec = micro_spec("hoarder")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        Device(patch, 5, MemoryPlan())
        finish(spec, registries, tmp_path, may_publish=dies_at_save(30), checkpoint_every_s=0.0)
    device, said = Device(monkeypatch, 10**6), []
    found = finish(spec, registries, tmp_path, on_event=said.append)
    assert set(device.used) == {HIDDEN} and plan_events(said) == []
    assert found.costs["memory_plan"] == "hidden layers recomputed"


def test_other_errors_are_not_retried(registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Hoarder, batch: Any) -> Tensor:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(Hoarder, "training_step", fails)
    said: list[dict[str, Any]] = []
    with pytest.raises(RuntimeError, match="shapes"):
        finish(micro_spec("hoarder"), registries, tmp_path, on_event=said.append)
    assert plan_events(said) == []
