"""The step benchmark times what it says: the same images, interleaved, every loss of a method switched on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from harness.bench import bare_step, bench_step, method_step
from harness.conformance import MICRO
from harness.registry import Registries
from methods.common.vit import PromptedViT
from methods.smope import SMoPE


def test_ratios_are_taken_pair_by_pair(registries: Registries) -> None:
    report = bench_step(registries, ["smope"], backbone=MICRO.name, batch=2, repeats=3, precision="fp32", device="cpu")
    bare, smope = report.rows
    assert bare.name == "bare" and bare.ratio_to_bare == bare.least_ratio == bare.most_ratio == 1.0
    assert smope.least_ratio <= smope.ratio_to_bare <= smope.most_ratio
    assert smope.least_s <= smope.median_s <= smope.most_s
    assert report.as_json()["rows"][1]["name"] == "smope" and report.threads >= 1


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
    step()
    assert parts == ["_router_loss", "_prototype_loss"]


def test_a_method_without_training_phases_takes_no_step(registries: Registries) -> None:
    report = bench_step(
        registries, ["ranpac", "ncm"], backbone=MICRO.name, batch=2, repeats=1, precision="fp32", device="cpu"
    )
    assert [row.name for row in report.rows] == ["bare"]


def test_the_bare_step_reaches_the_input_and_trains_the_head(micro_vit: PromptedViT) -> None:
    before = [parameter.clone() for parameter in micro_vit.parameters()]
    bare_step(micro_vit, torch.rand(2, 3, 16, 16))()
    assert all(torch.equal(a, b) for a, b in zip(before, micro_vit.parameters(), strict=True))


def test_methods_that_do_not_step_are_not_timed(registries: Registries) -> None:
    report = bench_step(
        registries, ["ncm", "linear_probe"], backbone=MICRO.name, batch=2, repeats=1, precision="fp32", device="cpu"
    )
    assert [row.name for row in report.rows] == ["bare", "linear_probe"]
