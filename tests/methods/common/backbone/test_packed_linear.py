"""Packed products in bfloat16: the bits of plain ones, and a new packing where weights change."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from smope_bench.methods.common.backbone import packed_linear
from smope_bench.methods.common.backbone.backbones import MICRO
from smope_bench.methods.common.backbone.packed_linear import PackedLinear, can_pack, pack_products
from smope_bench.methods.common.prefix import PlainPrefix

needs_products = pytest.mark.skipif(not can_pack(), reason="this processor has no products in bfloat16")


def layers(bias: bool = True) -> tuple[nn.Linear, nn.Linear]:
    """The same frozen layer, plain and packed."""
    torch.manual_seed(0)
    plain = nn.Linear(96, 40, bias=bias).bfloat16().requires_grad_(False)
    packed = copy.deepcopy(plain)
    pack_products(packed)
    assert type(packed) is PackedLinear and packed.state_dict().keys() == plain.state_dict().keys()
    return plain, packed


def results(layer: nn.Linear, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and the inputs' gradient under autocast."""
    inputs = inputs.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        outputs = layer(inputs)
    (gradient,) = torch.autograd.grad(
        outputs, inputs, torch.linspace(-1, 1, outputs.numel()).view_as(outputs).bfloat16()
    )
    return outputs, gradient


@needs_products
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1,), (4,), (3, 197), (2, 3, 5)])
def test_the_bits_are_those_of_plain_products(
    shape: tuple[int, ...], dtype: torch.dtype, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, packed = layers(bias)
    packings: list[int] = []
    make = packed_linear._packed
    monkeypatch.setattr(packed_linear, "_packed", lambda *a, **k: packings.append(1) or make(*a, **k))
    inputs = torch.randn(*shape, 96, dtype=dtype)
    for mine, theirs in zip(results(packed, inputs), results(plain, inputs), strict=True):
        assert mine.dtype == theirs.dtype and torch.equal(mine, theirs)
    assert len(packings) == 2, "forward and backward went through packed weights"


@needs_products
def test_changed_weights_are_packed_anew_and_copies_have_their_own() -> None:
    plain, packed = layers()
    inputs = torch.randn(5, 96)
    results(packed, inputs)
    copied = copy.deepcopy(packed)
    for layer in (plain, packed):
        layer.weight.mul_(2)
    assert torch.equal(results(packed, inputs)[1], results(plain, inputs)[1])
    assert torch.equal(results(copied, inputs)[1] * 2, results(plain, inputs)[1])


@pytest.mark.parametrize("case", ["fp32 weights", "fp32 inputs without autocast", "trained", "no such processor"])
def test_elsewhere_products_are_plain(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, packed = layers()
    if case == "no such processor":
        monkeypatch.setattr(packed_linear, "can_pack", lambda: False)
    for layer in (plain, packed):
        layer.to(torch.float32 if case.startswith("fp32") else torch.bfloat16).requires_grad_(case == "trained")
    monkeypatch.setattr(packed_linear, "_packed", None)
    inputs = torch.randn(2, 96)
    with torch.autocast("cpu", torch.bfloat16, enabled=not case.endswith("without autocast"), cache_enabled=False):
        assert torch.equal(packed(inputs), plain(inputs))


@pytest.mark.parametrize(
    ("known", "expected"),
    [({"amx_bf16": True}, True), ({"avx512_bf16": True}, True), ({"avx512_f": True, "avx512_bf16": False}, False)],
)
def test_the_processor_decides(known: dict[str, bool], expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert can_pack.__wrapped__() is expected
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert can_pack.__wrapped__() is False


@needs_products
def test_a_backbone_in_bfloat16_has_the_bits_of_plain_products(monkeypatch: pytest.MonkeyPatch) -> None:
    vit = MICRO.load()  # one of its own: the weights are converted
    vit.keep_products_in(torch.bfloat16)
    images = torch.rand(3, 3, vit.image_size, vit.image_size, generator=torch.Generator().manual_seed(2))
    keys, values = torch.randn(2, vit.num_heads, 3, vit.head_dim, generator=torch.Generator().manual_seed(3))
    found: list[tuple[Tensor, ...]] = []
    for packs in (True, False):
        monkeypatch.setattr(packed_linear, "can_pack", lambda packs=packs: packs)
        prefix = keys.clone().requires_grad_(), values.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            features = vit(images, dict.fromkeys(range(vit.depth), PlainPrefix(*prefix)))
        features.float().square().sum().backward()
        found.append((features.detach(), *(each.grad for each in prefix if each.grad is not None)))
    assert len(found[0]) == 3 and all(map(torch.equal, *found))
