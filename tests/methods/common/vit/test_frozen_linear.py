"""Products with frozen weights: in bfloat16 to the bits of plain ones, in float32 by oneDNN where the rule allows it."""

from __future__ import annotations

import copy
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from smope_bench.methods.common.backbone.backbones import MICRO
from smope_bench.methods.common.prefix import PlainPrefix
from smope_bench.methods.common.vit import frozen_linear as frozen_linear_module
from smope_bench.methods.common.vit.block_adaptation import BlockAdaptation, LowRank
from smope_bench.methods.common.vit.frozen_linear import (
    FREE_WIDTH,
    LIMITS,
    ROWS,
    ZEN_5,
    FrozenLinear,
    Processor,
    can_pack,
    freeze_products,
    frozen_linear,
    has_operators,
    is_faster,
    stretches,
)
from smope_bench.methods.common.vit.plain_vit import PlainViT
from smope_bench.methods.common.vit.vit import PromptedViT
from tests.tolerance import assert_sum_close  # pyright: ignore[reportMissingImports]

needs_products = pytest.mark.skipif(not can_pack(), reason="this processor has no products in bfloat16")


needs_operators = pytest.mark.skipif(not has_operators(), reason="oneDNN is not reached, or limited")
AMD = Processor("AuthenticAMD", ZEN_5, has_avx512=True)


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """A processor of the rule; the shapes of the weights that oneDNN multiplied by, in order."""
    seen: list[tuple[int, ...]] = []
    multiply = frozen_linear_module._multiply
    monkeypatch.setattr(frozen_linear_module, "_processor", lambda: AMD)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(
        frozen_linear_module, "_multiply", lambda x, w, *b: seen.append(tuple(w.shape)) or multiply(x, w, *b)
    )
    return seen


def layers(bias: bool = True) -> tuple[nn.Linear, nn.Linear]:
    """The same frozen layer, plain and packed."""
    torch.manual_seed(0)
    plain = nn.Linear(96, 40, bias=bias).bfloat16().requires_grad_(False)
    packed = copy.deepcopy(plain)
    freeze_products(packed)
    assert type(packed) is FrozenLinear and packed.state_dict().keys() == plain.state_dict().keys()
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
    make = frozen_linear_module._packed
    monkeypatch.setattr(frozen_linear_module, "_packed", lambda *a, **k: packings.append(1) or make(*a, **k))
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
        monkeypatch.setattr(frozen_linear_module, "can_pack", lambda: False)
    for layer in (plain, packed):
        layer.to(torch.float32 if case.startswith("fp32") else torch.bfloat16).requires_grad_(case == "trained")
    monkeypatch.setattr(frozen_linear_module, "_packed", None)
    inputs = torch.randn(2, 96)
    with torch.autocast("cpu", torch.bfloat16, enabled=not case.endswith("without autocast"), cache_enabled=False):
        assert torch.equal(packed(inputs), plain(inputs))


@pytest.mark.parametrize(
    ("known", "expected"),
    [({"amx_bf16": True}, True), ({"avx512_bf16": True}, True), ({"avx512_f": True, "avx512_bf16": False}, False)],
)
def test_the_processor_decides(known: dict[str, bool], expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    monkeypatch.setattr(frozen_linear_module, "has_operators", lambda: True)
    assert can_pack.__wrapped__() is expected
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert can_pack.__wrapped__() is False


def test_with_instructions_forbidden_products_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LIMITS:
        monkeypatch.delenv(name, raising=False)
    assert has_operators.__wrapped__() is torch.backends.mkldnn.is_available()
    for name in LIMITS:
        with monkeypatch.context() as patch:
            patch.setenv(name, "AVX2")
            assert has_operators.__wrapped__() is False


@needs_products
def test_a_backbone_in_bfloat16_has_the_bits_of_plain_products(monkeypatch: pytest.MonkeyPatch) -> None:
    vit = MICRO.load()  # one of its own: the weights are converted
    vit.keep_products_in(torch.bfloat16)
    images = torch.rand(3, 3, vit.image_size, vit.image_size, generator=torch.Generator().manual_seed(2))
    keys, values = torch.randn(2, vit.num_heads, 3, vit.head_dim, generator=torch.Generator().manual_seed(3))
    found: list[tuple[Tensor, ...]] = []
    for packs in (True, False):
        monkeypatch.setattr(frozen_linear_module, "can_pack", lambda packs=packs: packs)
        prefix = keys.clone().requires_grad_(), values.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            features = vit(images, dict.fromkeys(range(vit.depth), PlainPrefix(*prefix)))
        features.float().square().sum().backward()
        found.append((features.detach(), *(each.grad for each in prefix if each.grad is not None)))
    assert len(found[0]) == 3 and all(map(torch.equal, *found))


# -- float32 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vendor", "family", "has_avx512", "shape", "expected"),
    [
        ("AuthenticAMD", 26, True, (768, 768), True),
        ("AuthenticAMD", 27, True, (384, 1152), True),
        ("AuthenticAMD", 26, True, (640, 160), True),
        ("AuthenticAMD", 26, True, (512, 128), True),
        ("AuthenticAMD", 26, True, (512, 96), False),
        ("AuthenticAMD", 26, True, (100, 768), False),  # a classifier
        ("AuthenticAMD", 26, False, (768, 768), False),  # a hypervisor may hide it
        ("AuthenticAMD", 25, True, (768, 768), False),
        ("GenuineIntel", 26, True, (768, 768), False),
        ("", 0, True, (768, 768), False),
    ],
)
def test_the_rule(vendor: str, family: int, has_avx512: bool, shape: tuple[int, int], expected: bool) -> None:
    assert is_faster(Processor(vendor, family, has_avx512), shape) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, ("", 0)),
        ("processor\t: 0\nBogoMIPS\t: 50.0\n", ("", 0)),  # ARM
        (
            "vendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel\t\t: 2\n\nvendor_id\t: x\ncpu family\t: 1\n",
            ("AuthenticAMD", 26),
        ),
        ("vendor_id\t: AuthenticAMD\ncpu family\t: unknown\n", ("AuthenticAMD", 0)),
    ],
)
def test_the_processor_is_the_first_that_linux_lists(
    text: str | None, expected: tuple[str, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    info = tmp_path / "cpuinfo"
    if text is not None:
        info.write_text(text)
    monkeypatch.setattr(frozen_linear_module, "CPU_INFO", info)
    for knows in (True, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda knows=knows: {"avx512_f": knows}, raising=False)
        assert frozen_linear_module._processor.__wrapped__() == (*expected, knows)


@pytest.mark.parametrize(
    ("terms", "expected"),
    [(128, [128]), (192, [192]), (200, [100, 100]), (384, [192, 192]), (512, [192, 192, 128]), (576, [192, 192, 192])],
)
def test_the_order_of_mkl(terms: int, expected: list[int]) -> None:
    assert stretches(terms) == expected


NARROW = ((128, 128), (384, 128), (512, 128), (128, 512), (128, 384))
"""Weights, outputs x inputs, of the backbone whose results are stored."""


@needs_operators
@pytest.mark.parametrize("shape", NARROW)
def test_narrow_layers_sum_in_the_order_of_mkl(shape: tuple[int, int], products: list[tuple[int, ...]]) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, weight = torch.randn(ROWS, shape[1], generator=generator), torch.randn(shape, generator=generator)
    found = frozen_linear(inputs, weight)
    exact = inputs.double(), weight.double()
    assert_sum_close(found, F.linear(*exact), F.linear(*(each.abs() for each in exact)), shape[1])
    assert products == [(shape[0], terms) for terms in stretches(shape[1])]
    assert frozen_linear(inputs[1:], weight).shape == (ROWS - 1, shape[0]) and len(products) == len(stretches(shape[1]))


@needs_operators
@pytest.mark.skipif(
    not (is_faster(frozen_linear_module._processor(), NARROW[0]) and torch.backends.mkl.is_available())
    or "LD_PRELOAD" in os.environ,
    reason="MKL takes other kernels, or multiplies alone",
)
@pytest.mark.parametrize("shape", NARROW)
def test_narrow_layers_keep_the_bits_of_mkl(shape: tuple[int, int]) -> None:
    generator, threads = torch.Generator().manual_seed(0), torch.get_num_threads()
    weight, bias = torch.randn(shape, generator=generator), torch.randn(shape[:1], generator=generator)
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            for rows in ((1,), (7,), (ROWS,), (ROWS + 1,), (3, 17), (16, 65)):
                found: list[tuple[Tensor, ...]] = []
                for product in (frozen_linear, F.linear):
                    inputs = torch.randn(*rows, shape[1], generator=torch.Generator().manual_seed(1)).requires_grad_()
                    outputs = product(inputs, weight, bias)
                    found.append((outputs.detach(), *torch.autograd.grad(outputs, inputs, outputs.detach().sin())))
                assert all(map(torch.equal, *found)), (count, rows)
    finally:
        torch.set_num_threads(threads)


def wide(rows: tuple[int, ...] = (3, 5)) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, weights and biases of the narrowest layer that oneDNN sums in its own order."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((*rows, FREE_WIDTH), (2 * FREE_WIDTH, FREE_WIDTH), (2 * FREE_WIDTH,))
    inputs, weight, bias = (torch.randn(shape, generator=generator) for shape in shapes)
    return inputs, weight, bias


VIEWS: dict[str, Callable[[], Tensor]] = {
    "one row": lambda: wide(())[0],
    "a batch of one row": lambda: wide((1,))[0],
    "tokens": lambda: wide((2, 197))[0],
    "class tokens": lambda: wide((4, 5))[0][:, :1],
    "turned": lambda: wide((3, 5))[0].transpose(0, 1),
    "one image for all": lambda: wide((1, 5))[0].expand(3, -1, -1),
}
"""Inputs of a layer, not all of which lie together."""


@needs_operators
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("view", VIEWS)
def test_products_and_gradients_are_those_of_float64(
    view: str, has_bias: bool, products: list[tuple[int, ...]]
) -> None:
    _, weight, bias = wide()
    inputs, given = VIEWS[view]().requires_grad_(), bias if has_bias else None
    outputs = frozen_linear(inputs, weight, given)
    exact = [each.detach().double() for each in (inputs, weight, bias if has_bias else torch.zeros_like(bias))]
    magnitude = F.linear(*(each.abs() for each in exact))
    assert_sum_close(outputs.detach(), F.linear(*exact), magnitude, FREE_WIDTH + 1)
    upstream = torch.linspace(-1, 1, outputs.numel()).view_as(outputs)
    (gradient,) = torch.autograd.grad(outputs, inputs, upstream)
    of_exact = upstream.double() @ exact[1], upstream.double().abs() @ exact[1].abs()
    assert_sum_close(gradient, *of_exact, 2 * FREE_WIDTH)
    assert products == [(2 * FREE_WIDTH, FREE_WIDTH), (FREE_WIDTH, 2 * FREE_WIDTH)], (
        "forward, and backward by the same weights, turned"
    )


@needs_operators
def test_gradients_of_gradients_and_forward_derivatives(products: list[tuple[int, ...]]) -> None:
    inputs, weight, bias = wide()
    inputs.requires_grad_()
    found: list[tuple[Tensor, ...]] = []
    for product in (frozen_linear, F.linear):
        (first,) = torch.autograd.grad(product(inputs, weight, bias).sin().sum(), inputs, create_graph=True)
        found.append((first, *torch.autograd.grad(first.sum(), inputs)))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-2)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(inputs.detach(), torch.ones_like(inputs))
        tangent = torch.autograd.forward_ad.unpack_dual(frozen_linear(dual, weight, bias)).tangent
    torch.testing.assert_close(tangent, F.linear(torch.ones_like(inputs), weight), rtol=1e-4, atol=1e-4)
    assert len(products) > 4


@needs_operators
def test_rows_have_the_same_bits_in_any_batch_and_on_any_number_of_threads(products: list[tuple[int, ...]]) -> None:
    inputs, weight, bias = wide((400,))
    whole, threads = frozen_linear(inputs, weight, bias), torch.get_num_threads()
    for rows in (2, 7, 64, 197):
        assert torch.equal(frozen_linear(inputs[:rows], weight, bias), whole[:rows])
    try:
        torch.set_num_threads(2 if threads == 1 else 1)
        assert torch.equal(frozen_linear(inputs, weight, bias), whole)
    finally:
        torch.set_num_threads(threads)
    assert len(products) == 6


def transformed(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.func.vmap(lambda one: frozen_linear(one, weight, bias))(inputs)


def traced(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.jit.trace(lambda one: frozen_linear(one, weight, bias), inputs, check_trace=False)(inputs)  # type: ignore[return-value]


def compiled(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.compile(frozen_linear, backend="eager", fullgraph=True)(inputs, weight, bias)


def under_autocast(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        return frozen_linear(inputs, weight, bias)


def with_a_trained_weight(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return frozen_linear(inputs, nn.Parameter(weight), bias)


def with_a_trained_bias(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return frozen_linear(inputs, weight, nn.Parameter(bias))


def in_float64(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return frozen_linear(inputs.double(), weight.double(), bias.double())


def on_meta(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return frozen_linear(inputs.to("meta"), weight.to("meta"), bias.to("meta"))


def faked(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    with FakeTensorMode() as mode:
        found = frozen_linear(mode.from_tensor(inputs), mode.from_tensor(weight), mode.from_tensor(bias))
    return found.new_empty(found.shape, device="meta")


def without_onednn(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    with torch.backends.mkldnn.flags(enabled=False):
        return frozen_linear(inputs, weight, bias)


@pytest.mark.parametrize(
    "call",
    [
        transformed,
        traced,
        compiled,
        under_autocast,
        with_a_trained_weight,
        with_a_trained_bias,
        in_float64,
        on_meta,
        faked,
        without_onednn,
    ],
)
def test_elsewhere_products_in_float32_are_torchs(
    call: Callable[[Tensor, Tensor, Tensor], Tensor], products: list[tuple[int, ...]]
) -> None:
    inputs, weight, bias = wide()
    found = call(inputs, weight, bias)
    assert found.shape == (3, 5, 2 * FREE_WIDTH) and not products
    if found.device.type == "cpu":
        torch.testing.assert_close(found.float(), F.linear(inputs, weight, bias), rtol=2e-2, atol=0.5)


def test_torchs_counter_knows_the_products(products: list[tuple[int, ...]]) -> None:
    inputs, weight, bias = wide()
    with FlopCounterMode(display=False) as counter:
        frozen_linear(inputs, weight, bias)
    assert counter.get_total_flops() == 2 * inputs.numel() * len(weight) and not products


@needs_operators
def test_shapes_that_do_not_fit_are_torchs_error_and_empty_batches_pass(products: list[tuple[int, ...]]) -> None:
    inputs, weight, bias = wide()
    for bad in (inputs[..., 1:], torch.tensor(1.0)):
        with pytest.raises(RuntimeError, match=r"cannot be multiplied|at least 1D"):
            frozen_linear(bad, weight, bias)
    empty = inputs[:0].requires_grad_()
    frozen_linear(empty, weight, bias).sum().backward()
    assert empty.grad is not None and empty.grad.shape == (0, 5, FREE_WIDTH)


@needs_operators
def test_copies_and_pickles_of_layers_multiply_alike(products: list[tuple[int, ...]]) -> None:
    layer = nn.Linear(FREE_WIDTH, FREE_WIDTH).requires_grad_(False)
    freeze_products(layer)
    inputs = torch.randn(2, FREE_WIDTH)
    stored = io.BytesIO(pickle.dumps(layer))
    for other in (copy.deepcopy(layer), pickle.load(stored)):
        assert torch.equal(other(inputs), layer(inputs))
    assert len(products) == 4 and layer.state_dict().keys() == {"weight", "bias"}


@needs_operators
def test_a_wide_backbone_multiplies_by_its_own_and_by_merged_weights(products: list[tuple[int, ...]]) -> None:
    vit = PromptedViT(PlainViT(img_size=16, patch_size=8, embed_dim=FREE_WIDTH, depth=2, num_heads=5))
    generator = torch.Generator().manual_seed(0)
    for parameter in vit.parameters():
        parameter.normal_(std=0.05, generator=generator)
    images = torch.rand(2, 3, 16, 16, generator=generator)
    own = [
        (3 * FREE_WIDTH, FREE_WIDTH),
        (FREE_WIDTH, FREE_WIDTH),
        (4 * FREE_WIDTH, FREE_WIDTH),
        (FREE_WIDTH, 4 * FREE_WIDTH),
    ]
    split = [
        (FREE_WIDTH, FREE_WIDTH),
        (2 * FREE_WIDTH, FREE_WIDTH),
    ]  # the last block's queries, and its keys and values
    vit(images)
    assert products == [*own, *split, *own[1:]]
    products.clear()
    factors = torch.randn(2, FREE_WIDTH, generator=generator), torch.randn(FREE_WIDTH, 2, generator=generator)
    weights = vit.merged({0: {"k": LowRank(*factors), "fc2": LowRank(factors[0].repeat(1, 4), factors[1])}})
    updated = vit(images, {0: BlockAdaptation(weights=weights[0])})
    assert products == [*own, *split, *own[1:]]
    with torch.backends.mkldnn.flags(enabled=False):
        torch.testing.assert_close(updated, vit(images, {0: BlockAdaptation(weights=weights[0])}), rtol=1e-4, atol=1e-4)
