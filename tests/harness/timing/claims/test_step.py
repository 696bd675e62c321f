"""The step benchmark times what it says: the same images, interleaved, every loss of a method switched on."""

from __future__ import annotations

import weakref
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from smope_bench.harness.cost.stored_counts import stored_counts
from smope_bench.harness.hardware.out_of_memory import PeakMemory
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.timing.claims import step as bench_steps
from smope_bench.harness.timing.claims.step import (
    BARE,
    FROZEN,
    PRODUCT,
    Counted,
    TimedStep,
    bare_step,
    bench_step,
    method_step,
    product_step,
    product_times,
    step_times,
)
from smope_bench.harness.timing.measure import interleaved
from smope_bench.harness.timing.records import Spread, ratios, spread
from smope_bench.methods.common.api import Method
from smope_bench.methods.common.backbone.backbones import MICRO
from smope_bench.methods.common.vit.memory_plan import MemoryPlan
from smope_bench.methods.common.vit.vit import PromptedViT
from smope_bench.methods.smope import SMoPE


def test_ratios_are_taken_pair_by_pair(registries: Registries) -> None:
    rows = bench_step(registries, ["smope"], backbone=MICRO, batch=2, repeats=3, precision="fp32", device="cpu")
    bare, frozen, smope = rows
    one = Spread(1.0, 1.0, 1.0)
    assert (bare.name, bare["to_bare"], bare["to_passes"]) == ("bare", one, one) and frozen.name == "frozen pass"
    for found in (smope["seconds"], smope["to_bare"], smope["to_passes"]):
        assert 0 < found.least <= found.median <= found.most
    assert smope.name == "smope" and not {"to_floor", "of_peak"} & smope.measures.keys(), "counted for ViT-B/16 alone"


def test_steps_under_memory_plans_stand_beside_the_others(
    registries: Registries, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[MemoryPlan] = []
    forward = PromptedViT.forward

    def noted(self: PromptedViT, *inputs: Any) -> Tensor:
        taken.append(self.memory)
        return forward(self, *inputs)

    monkeypatch.setattr(PromptedViT, "forward", noted)
    rows = bench_step(
        registries, ["smope"], backbone=MICRO, batch=2, repeats=2, precision="fp32", device="cpu", with_plans=True
    )
    recomputed = [f"smope, {plan.words}" for plan in bench_steps.PLANS]
    assert [row.name for row in rows] == ["bare", "frozen pass", "smope", *recomputed]
    # Of each turn, the last passes are the step, and the step under each plan.
    assert taken[-3:] == [MemoryPlan(), *bench_steps.PLANS] == taken[-6:-3]
    assert all(row["to_bare"].median > 0 for row in rows)


def test_a_frozen_pass_is_counted_for_methods_that_ask_for_it(registries: Registries) -> None:
    names = ["smope", "dualprompt"]
    rows = bench_step(registries, names, backbone=MICRO, batch=2, repeats=2, precision="fp32", device="cpu")
    smope, dualprompt = rows[2:]
    assert smope["queries"].median == 0 and smope["to_passes"] == smope["to_bare"]
    assert dualprompt["queries"].median == 1 and dualprompt["to_passes"].median < dualprompt["to_bare"].median


def test_summaries_and_ratios() -> None:
    assert spread([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert ratios([2.0, 6.0, 3.0], [1.0, 2.0, 3.0]) == Spread(2.0, 1.0, 3.0)


def test_steps_are_interleaved_and_warm_ups_do_not_count() -> None:
    calls: list[str] = []
    found = interleaved({name: partial(calls.append, name) for name in "ab"}, 2, torch.device("cpu"), warm_ups=1)
    assert calls == list("ababab") and {name: len(times) for name, times in found.items()} == {"a": 2, "b": 2}


def test_the_timed_step_has_every_loss(registries: Registries, monkeypatch: pytest.MonkeyPatch) -> None:
    parts: list[str] = []
    for name in ("_router_loss", "_prototype_loss"):
        original = getattr(SMoPE, name)

        def noted(self: SMoPE, value: object, name: str = name, original: object = original) -> Tensor:
            parts.append(name)
            return original(self, value)  # type: ignore[operator]

        monkeypatch.setattr(SMoPE, name, noted)
    step = method_step(SMoPE, "smope", registries.backbones.load(MICRO.name).load(), torch.rand(2, 3, 16, 16))
    assert step is not None
    parts.clear()
    step.take()
    assert parts == ["_router_loss", "_prototype_loss"]


def test_a_method_without_training_phases_takes_no_step(registries: Registries) -> None:
    rows = bench_step(registries, ["ranpac", "ncm"], backbone=MICRO, batch=2, repeats=1, precision="fp32", device="cpu")
    assert [row.name for row in rows] == ["bare", "frozen pass"]


def test_the_bare_step_reaches_the_input_and_trains_the_head(micro_vit: PromptedViT) -> None:
    before = [parameter.clone() for parameter in micro_vit.parameters()]
    bare_step(micro_vit, torch.rand(2, 3, 16, 16))()
    assert all(torch.equal(a, b) for a, b in zip(before, micro_vit.parameters(), strict=True))


def test_methods_that_do_not_step_are_not_timed(registries: Registries) -> None:
    rows = bench_step(
        registries, ["ncm", "linear_probe"], backbone=MICRO, batch=2, repeats=1, precision="fp32", device="cpu"
    )
    assert [row.name for row in rows] == ["bare", "frozen pass", "linear_probe"]


def test_a_step_is_held_against_the_matrix_product() -> None:
    counts = stored_counts()
    phase, operations = next(iter(counts.methods["smope"].phases.items()))
    times = {BARE: [1.0, 2.0], FROZEN: [0.5, 0.5], "smope": [2.0, 4.0], PRODUCT: [0.1, 0.2]}
    counted = Counted(
        batch=4, product=times[PRODUCT], operations=8 * operations
    )  # twice a step's: at 0.05 s, the step's own
    row = step_times("smope", TimedStep(lambda: None, phase=phase), times, 1.0, counted)
    assert row["of_peak"].median == pytest.approx(0.05 / 2)
    assert row["to_floor"].median == pytest.approx(2 * counts.complete / operations)
    frozen = step_times(FROZEN, TimedStep(lambda: None), times, 1.0, counted)
    assert not {"to_floor", "of_peak"} & frozen.measures.keys()
    found = product_times(counted)
    assert found["tera_per_s"].most == pytest.approx(8 * operations / 0.1 / 1e12) and found["seconds"].least == 0.1


def test_the_matrix_product_has_as_many_operations_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_steps, "PRODUCT_SIZE_ELSEWHERE", (16, 3))
    step, operations = product_step(torch.device("cpu"), torch.bfloat16)
    with FlopCounterMode(display=False) as counter:
        step()
    assert counter.get_total_flops() == operations == 3 * 2 * 16**3


def test_peaks_are_taken_one_step_at_a_time(registries: Registries, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Method]] = []
    alive: list[int] = []

    def noted(method: Method, *_: object) -> None:
        made.append(weakref.ref(method))

    def counting(device: torch.device) -> PeakMemory:
        alive.append(sum(one() is not None for one in made))
        return PeakMemory(device)

    monkeypatch.setattr("smope_bench.harness.timing.claims.step.declare_trainable", noted)
    monkeypatch.setattr("smope_bench.harness.timing.claims.step.PeakMemory", counting)
    names = ["smope", "one_prompt"]
    rows = bench_step(registries, names, backbone=MICRO, batch=2, repeats=1, precision="fp32", device="cpu")
    assert alive == [0, 0, 1, 1], "bare, frozen pass, and each method alone"
    assert len(made) == 4 and all(row["peak_mb"].median > 0 for row in rows)
