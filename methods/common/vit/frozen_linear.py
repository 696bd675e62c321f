"""Products of inputs and frozen weights on a CPU, by oneDNN where it is faster than the library that torch takes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

WIDTH = 128
"""Least number of inputs and of outputs of a layer whose products in float32 go to oneDNN: ``tiny``'s."""
FREE_WIDTH = 160
"""From here on oneDNN sums in its own order; narrower layers, whose results were stored before, keep MKL's bits."""
STRETCH = 192
"""Terms that MKL's AVX2 kernels sum before they add to what they have; up to twice as many are halved. Measured, MKL 2024.2."""
ROWS = 16
"""MKL sums one to three rows in another order, and shares up to 11 out so that a second thread may have as few."""
INSTRUCTIONS = ("amx_bf16", "avx512_bf16")
"""Without one of these, bfloat16 products are emulated, and packing was not tried."""
LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS")
"""Variables by which a user chooses the libraries' instructions, and so speed and rounding: then products are torch's own."""
PACKS = "_packs"
"""Attribute of a layer: its packed weights by whether they are transposed, as the product with gradients takes them."""
ZEN_5 = 26
"""AMD's family number of the first processors that execute AVX-512 at its full width."""
CPU_INFO = Path("/proc/cpuinfo")


class Processor(NamedTuple):
    """Vendor and family by CPUID, as Linux lists them (elsewhere ``""`` and 0), and whether torch may use AVX-512."""

    vendor: str
    family: int
    has_avx512: bool


class FrozenLinear(nn.Linear):
    """``nn.Linear``, frozen: ``frozen_linear`` in float32; in bfloat16 the same bits as torch's by weights that are packed once.

    Of inputs in bfloat16 that do not lie together, torch rounds product and bias apart, this form once. A layer in bfloat16 holds
    its weights up to three times: as they are, packed, and packed for the backward pass; one in float32 once.
    """

    def __getstate__(self) -> dict[str, Any]:
        """Without packed weights: a copy makes its own."""
        return {name: value for name, value in vars(self).items() if name != PACKS}

    def forward(self, input: Tensor) -> Tensor:
        """Inputs (..., in_features) to (..., out_features), in bfloat16 where the weights are packed."""
        if _takes_packed(self, input):
            return _PackedProduct.apply(input.to(torch.bfloat16), self)  # pyright: ignore[reportReturnType]
        return frozen_linear(input, self.weight, self.bias)


def freeze_products(layer: nn.Linear) -> None:
    """Make ``layer`` a ``FrozenLinear`` unless it is of another kind than ``nn.Linear``."""
    if type(layer) is nn.Linear:
        layer.__class__ = FrozenLinear


def frozen_linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``; in float32 up to rounding, by oneDNN where ``is_faster`` and only the inputs may have a gradient.

    Inputs (..., in), ``weight`` (out, in), ``bias`` (out) to (..., out). ``weight`` is used as it lies in memory, no copy is kept.
    """
    if not _takes_onednn(inputs, weight, bias):
        return F.linear(inputs, weight, bias)
    return _Product.apply(inputs, weight, bias)  # pyright: ignore[reportReturnType]


def is_faster(processor: Processor, shape: Sequence[int]) -> bool:
    """Whether oneDNN multiplies faster in float32 than MKL by weights of ``shape``; measured on Zen 5, docs/performance.md.

    MKL takes its AVX-512 kernels on Intel's processors alone; those were not at hand, and keep MKL's products. Before Zen 5, AMD's
    processors execute AVX-512 at the speed of AVX2.
    """
    is_known = processor.vendor == "AuthenticAMD" and processor.family >= ZEN_5
    return is_known and processor.has_avx512 and min(shape) >= WIDTH


def _takes_onednn(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    if _is_recorded() or not is_faster(_processor(), weight.shape):
        return False
    given = (inputs, weight) if bias is None else (inputs, weight, bias)
    if any(each.dtype != torch.float32 for each in given) or any(each.requires_grad for each in given[1:]):
        return False
    if torch.is_autocast_enabled("cpu") or not _is_eager(*given):
        return False
    fits = inputs.dim() > 0 and inputs.shape[-1] == weight.shape[-1]  # torch's own product has the sentence for others
    fits = fits and (_is_free(weight) or inputs.numel() >= ROWS * inputs.shape[-1])
    return fits and torch.backends.mkl.is_available() and has_operators()


def _takes_packed(layer: nn.Linear, inputs: Tensor) -> bool:
    weight = layer.weight
    if weight.dtype != torch.bfloat16 or weight.requires_grad or not _is_eager(inputs, weight):
        return False
    rounds = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return (rounds or inputs.dtype == torch.bfloat16) and can_pack()


def _is_eager(*given: Tensor) -> bool:
    """Whether tensors are plain ones on a CPU and no tool, such as a compiler, a counter or vmap, follows torch's operators."""
    if _is_recorded() or is_in_torch_dispatch_mode():
        return False
    are_plain = all(each.device.type == "cpu" and type(each) in (Tensor, nn.Parameter) for each in given)
    return are_plain and torch.backends.mkldnn.enabled and not torch._C._are_functorch_transforms_active()


def _is_recorded() -> bool:
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


@cache
def can_pack() -> bool:
    """Whether the processor has products in bfloat16, and torch the operators by which its compiler packs frozen weights."""
    return has_operators() and any(_capabilities().get(name) for name in INSTRUCTIONS)


@cache
def has_operators() -> bool:
    """Whether this build of torch has oneDNN, free in its instructions, and the operators by which its compiler reaches it."""
    if any(name in os.environ for name in LIMITS):
        return False
    names = "_linear_pointwise", "_reorder_linear_weight"
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)


@cache
def _processor() -> Processor:
    try:
        lines = CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    fields = [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    first = dict(reversed(fields))  # a field's first line is the first processor's
    family = first.get("cpu family", "")
    has_avx512 = bool(_capabilities().get("avx512_f"))
    return Processor(first.get("vendor_id", ""), int(family) if family.isdecimal() else 0, has_avx512)


def _capabilities() -> Mapping[str, Any]:
    return getattr(torch.cpu, "get_capabilities", dict)()  # empty for versions of torch that cannot tell


def _is_free(weight: Tensor) -> bool:
    return min(weight.shape) >= FREE_WIDTH


def stretches(terms: int) -> list[int]:
    """How many terms of a sum MKL's AVX2 kernels add up at a time, in order."""
    if STRETCH < terms <= 2 * STRETCH:
        return [terms // 2, terms - terms // 2]
    whole, rest = divmod(terms, STRETCH)
    return [STRETCH] * whole + [rest] * bool(rest)


def _multiply(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")


def _multiply_as_mkl(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``_multiply`` to the bits of MKL's AVX2 kernels: a product for each of ``stretches``, added in order."""
    terms = weight.shape[1]
    if terms <= STRETCH:
        return _multiply(inputs, weight, bias)
    sizes = stretches(terms)
    rows = inputs.reshape(-1, terms).split(sizes, dim=1)
    # Where neither rows nor columns of the weights lie without gaps, oneDNN takes a kernel a thousand times slower.
    parts = [part if part.stride(0) == 1 else part.contiguous() for part in weight.split(sizes, dim=1)]
    outputs = _multiply(rows[0], parts[0], bias)
    for left, right in zip(rows[1:], parts[1:], strict=True):
        outputs += _multiply(left, right)
    return outputs.view(*inputs.shape[:-1], len(weight))


class _Product(torch.autograd.Function):
    """A product by oneDNN; only the inputs have a gradient, of any order."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.save_for_forward(weight)
        return _multiply(inputs, weight, bias) if _is_free(weight) else _multiply_as_mkl(inputs, weight, bias)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # gradients have names there
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return frozen_linear(gradients[0], weight.t()), None, None

    @staticmethod
    def jvp(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *tangents: Tensor
    ) -> Tensor:
        (weight,) = ctx.saved_tensors
        return frozen_linear(tangents[0], weight)


class _Packed(NamedTuple):
    """Weights as oneDNN lays them out; ``source``: place and version of the weights that they were made of."""

    source: tuple[int, int]
    weights: Tensor


def _packed(layer: nn.Linear, *, transposed: bool) -> Tensor:
    weight, packs = layer.weight.detach(), vars(layer).setdefault(PACKS, {})
    source = weight.data_ptr(), layer.weight._version
    found: _Packed | None = packs.get(transposed)
    if found is None or found.source != source:
        plain = weight.t().contiguous() if transposed else weight
        found = packs[transposed] = _Packed(source, torch.ops.mkldnn._reorder_linear_weight(plain))
    return found.weights


class _PackedProduct(torch.autograd.Function):
    """A frozen layer's outputs of inputs in bfloat16; only the inputs have a gradient, and nothing is kept for it."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, layer: nn.Linear) -> Tensor:
        ctx.layer = layer
        return _multiply(inputs, _packed(layer, transposed=False), layer.bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator hides parameter names
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, None]:
        return _multiply(gradients[0], _packed(ctx.layer, transposed=True)), None
