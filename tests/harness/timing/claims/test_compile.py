"""Compiled blocks compute the same, and are gone when the bench has timed them. Nothing is translated to C++ here."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from timm.models.vision_transformer import Block
from torch._dynamo.utils import counters

from smope_bench.harness.errors import UserError
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.timing.claims import step as bench_compile
from smope_bench.harness.timing.claims.step import COMPILED, PARTS, WARM_UPS, CompiledBlocks, bench_step
from smope_bench.methods.common.backbone.backbones import MICRO
from smope_bench.methods.common.vit import block
from smope_bench.methods.common.vit.vit import PromptedViT, plain_attention


def test_compiled_blocks_compute_the_same_without_falling_back(micro_vit: PromptedViT) -> None:
    images, rules = torch.rand(2, 3, 16, 16), {0: lambda q, k, v: plain_attention(q, k, 2 * v)}
    plain = (micro_vit(images), micro_vit(images, rules), micro_vit.vit(images))
    blocks = CompiledBlocks("eager")
    counters.clear()
    with blocks.in_place():
        compiled = (micro_vit(images), micro_vit(images, rules), micro_vit.vit(images))
    for one, two in zip(plain, compiled, strict=True):
        torch.testing.assert_close(one, two)
    assert counters["stats"]["unique_graphs"] > 0 and not counters["graph_break"]


def test_the_plain_blocks_come_back_even_after_an_error() -> None:
    before = [Block.forward, *(getattr(block, name) for name in PARTS)]
    with pytest.raises(ZeroDivisionError), CompiledBlocks("eager").in_place():
        assert Block.forward is not before[0] and block._residuals is not before[3]  # pyright: ignore[reportPrivateUsage]
        raise ZeroDivisionError
    assert [Block.forward, *(getattr(block, name) for name in PARTS)] == before


def test_every_part_is_there() -> None:
    assert not [name for name in PARTS if not hasattr(block, name)], "the backbone's code has other parts now"


def test_every_step_is_also_timed_compiled(registries: Registries, monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[int] = []

    class Counted:
        def call(self, step: Callable[[], None]) -> None:
            entered.append(1)
            step()

    monkeypatch.setattr(bench_compile, "CompiledBlocks", Counted)
    asked = {"backbone": MICRO, "batch": 2, "repeats": 1, "precision": "fp32", "device": "cpu"}
    rows = bench_step(registries, ["smope"], is_compiled=True, **asked)
    names = ["bare", "frozen pass", "smope"]
    assert [row.name for row in rows] == [*names, *(f"{name}{COMPILED}" for name in names)]
    assert rows[2]["kept_mb"] == rows[5]["kept_mb"]
    assert len(entered) == 3 * (2 + WARM_UPS + 1), "three steps: two for peak memory, warm-ups, a repeat"


def test_a_block_that_cannot_be_compiled_whole_is_an_error(
    micro_vit: PromptedViT, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Block, tokens: torch.Tensor, **_: object) -> torch.Tensor:
        torch._dynamo.graph_break()
        return tokens

    monkeypatch.setattr(Block, "forward", broken)
    blocks = CompiledBlocks("eager")
    with pytest.raises(UserError, match=r"a block cannot be compiled .*; measure without it"):
        blocks.call(lambda: micro_vit.vit(torch.rand(2, 3, 16, 16)))


def test_where_nothing_can_be_compiled_a_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no C++ compiler\nlong story")

    monkeypatch.setattr(torch, "compile", fails)
    with pytest.raises(UserError, match=r"--compile: .* \(no C\+\+ compiler\); measure without it"):
        bench_compile.require_compiler()
