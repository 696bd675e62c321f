"""Attention with given logits: every form says what an explicit softmax over prefixes and tokens says, gradients included."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from smope_bench.harness.conformance.pretend_device.device import pretend_device
from smope_bench.methods.common.prompts import prefix_logits
from smope_bench.methods.common.prompts.fused_kernels import kernel_for
from smope_bench.methods.common.prompts.prefix_logits import attend_with_logits, attend_with_shared_logits

SHARED = (2, 3, 6)
OF_TOKENS = (2, 3, 5, 6)
BF16_TOLERANCE = 3e-2  # of values of order one: scores and weights keep 8 bits
FORMS: dict[str, Callable[..., Tensor]] = {
    "channels": prefix_logits.through_channels,
    "plain products": prefix_logits.in_plain_products,
    "as used": attend_with_logits,
}


def inputs(logits: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """q, k, v (2, 3, 5, 4), the logits and six prefixes' values."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(shape, generator=generator).to(dtype) for shape in [(2, 3, 5, 4)] * 3 + [logits, (3, 6, 4)]]
    return [each.requires_grad_() for each in drawn]


def explicit(q: Tensor, k: Tensor, v: Tensor, logits: Tensor, values: Tensor) -> Tensor:
    """One softmax over the given logits and the tokens' scores."""
    logits = logits[:, :, None].expand(-1, -1, q.shape[2], -1) if logits.ndim == 3 else logits
    weights = torch.cat([logits, q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5], dim=-1).softmax(dim=-1)
    return weights @ torch.cat([values.expand(len(v), *values.shape[-3:]), v], dim=2)


def agree(form: Callable[..., Tensor], tensors: list[Tensor], rtol: float = 1e-7, atol: float = 1e-7) -> None:
    """Output and every gradient, with an upstream gradient that differs in every element."""
    ours, theirs = form(*tensors), explicit(*tensors)
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)
    weights = torch.linspace(-1, 1, ours.numel()).view_as(ours).to(ours)
    for mine, other in zip(
        torch.autograd.grad((ours * weights).sum(), tensors),
        torch.autograd.grad((theirs * weights).sum(), tensors),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=rtol, atol=atol)


def in_a_channel(q: Tensor, k: Tensor, v: Tensor, logits: Tensor, values: Tensor) -> Tensor:
    """What devices without the kernel's sum do with shared logits."""
    with sdpa_kernel(SDPBackend.MATH):
        return attend_with_shared_logits(q, k, v, logits, values)


@pytest.mark.parametrize("form", [attend_with_shared_logits, in_a_channel])
def test_shared_logits_equal_the_explicit_softmax(form: Callable[..., Tensor]) -> None:
    agree(form, inputs(SHARED))
    agree(form, inputs(SHARED, torch.float32), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_logits_of_tokens_equal_the_explicit_softmax(form: str) -> None:
    agree(FORMS[form], inputs(OF_TOKENS))
    agree(FORMS[form], inputs(OF_TOKENS, torch.float32), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [20.0, 60.0])
def test_large_logits_stay_exact(size: float) -> None:
    for logits, form in ((SHARED, attend_with_shared_logits), (OF_TOKENS, attend_with_logits)):
        tensors = inputs(logits, torch.float32)
        with torch.no_grad():
            tensors[3] *= size
        agree(form, tensors, rtol=1e-4, atol=1e-5)


def test_an_absent_prefix_has_no_part_and_no_gradient() -> None:
    tensors = inputs(SHARED)
    absent = torch.zeros(SHARED, dtype=torch.bool)
    absent[0, :, 2:] = absent[1, :, :5] = True
    logits = tensors[3].masked_fill(absent, -torch.inf)
    q, k, v, _, values = tensors
    output = attend_with_shared_logits(q, k, v, logits, values)
    torch.testing.assert_close(output[1], explicit(q[1:], k[1:], v[1:], logits[1:, :, 5:], values[:, 5:])[0])
    gradient = torch.autograd.grad(output.square().sum(), tensors[3])[0]
    assert gradient.isfinite().all() and not gradient[absent].any() and gradient[~absent].any()


def test_one_query_as_in_the_last_block_and_values_of_each_image() -> None:
    q, k, v, logits, values = inputs(OF_TOKENS)
    own = torch.stack([values, 2 * values])
    whole = attend_with_logits(q, k, v, logits, own)
    torch.testing.assert_close(attend_with_logits(q[:, :, :1], k, v, logits[:, :, :1], own), whole[:, :, :1])
    torch.testing.assert_close(whole, explicit(q, k, v, logits, own))


@pytest.mark.parametrize(("shape", "form"), [(SHARED, attend_with_shared_logits), (OF_TOKENS, attend_with_logits)])
def test_bfloat16_agrees_with_float32(shape: tuple[int, ...], form: Callable[..., Tensor]) -> None:
    tensors = inputs(shape, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        halved = form(*tensors)
    assert halved.dtype == torch.bfloat16
    torch.testing.assert_close(halved.float(), explicit(*tensors), rtol=BF16_TOLERANCE, atol=BF16_TOLERANCE)


def test_the_kernel_is_called_by_name_in_full_precision_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[torch.dtype] = []

    def noted(q: Tensor, *rest: Any) -> Tensor:
        calls.append(q.dtype)
        return q

    monkeypatch.setattr(prefix_logits, "beside_the_kernel", noted)
    attend_with_shared_logits(*inputs(SHARED, torch.float32))
    attend_with_logits(*inputs(OF_TOKENS))
    assert calls == [torch.float32, torch.float64]
    with sdpa_kernel(SDPBackend.MATH):
        attend_with_shared_logits(*inputs(SHARED))
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        attend_with_logits(*inputs(OF_TOKENS, torch.float32))
    attend_with_logits(*(each.detach().bfloat16() for each in inputs(OF_TOKENS)))
    assert len(calls) == 2


def test_rows_of_a_batch_stay_apart_to_the_bit() -> None:
    q, k, v, logits, values = (each.detach() for each in inputs(SHARED, torch.float32))
    whole = attend_with_shared_logits(q, k, v, logits, values)
    assert torch.equal(attend_with_shared_logits(q[1:], k[1:], v[1:], logits[1:], values), whole[1:])


# -- CUDA's kernels, on the pretend device ------------------------------------------------------------------------------

SWITCHES = ("flash", "cudnn", "mem_efficient")
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="the pretend device stands for a GPU where there is none")


@contextlib.contextmanager
def switched_on(*kernels: str) -> Iterator[None]:
    """torch's switches of CUDA's kernels: these alone."""
    named = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
    with sdpa_kernel([named.get(each, SDPBackend.EFFICIENT_ATTENTION) for each in kernels] or [SDPBackend.MATH]):
        yield


@NO_GPU
@pytest.mark.parametrize(
    ("dtype", "width", "switches", "kernel"),
    [
        (torch.bfloat16, 64, SWITCHES, "flash"),
        (torch.float16, 64, ("cudnn", "mem_efficient"), "cudnn"),
        (torch.bfloat16, 64, ("mem_efficient",), "efficient"),
        (torch.bfloat16, 256, SWITCHES, "efficient"),
        (torch.float32, 64, SWITCHES, "efficient"),
        (torch.float32, 12, SWITCHES, "efficient"),
        (torch.float32, 65, SWITCHES, None),
        (torch.bfloat16, 12, SWITCHES, None),
        (torch.float32, 64, ("flash", "cudnn"), None),
        (torch.float64, 64, SWITCHES, None),
        (torch.bfloat16, 64, (), None),
    ],
)
def test_the_rules_of_cuda(dtype: torch.dtype, width: int, switches: tuple[str, ...], kernel: str | None) -> None:
    with pretend_device(), switched_on(*switches):
        assert kernel_for(torch.empty(1, 1, 2, width, dtype=dtype, device="cuda")) == kernel
        with torch.autocast("cuda", dtype=torch.bfloat16):
            autocast = kernel_for(torch.empty(1, 1, 2, width, device="cuda"))
        assert autocast == kernel or dtype != torch.bfloat16


@NO_GPU
@pytest.mark.parametrize(("shape", "form"), [(SHARED, attend_with_shared_logits), (OF_TOKENS, attend_with_logits)])
@pytest.mark.parametrize("kernel", ["flash", "cudnn", "efficient"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_kernel_of_cuda_gives_the_joint_softmax(
    shape: tuple[int, ...], form: Callable[..., Tensor], kernel: str, dtype: torch.dtype
) -> None:
    if dtype == torch.float32 and kernel != "efficient":
        pytest.skip("these kernels take half precision")
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 5, 8)] * 3 + [shape, (3, 6, 8)]
    tensors = [torch.randn(each, generator=generator).requires_grad_() for each in shapes]
    expected = explicit(*tensors)
    weights = torch.linspace(-1, 1, expected.numel()).view_as(expected)
    theirs = torch.autograd.grad((expected * weights).sum(), tensors)
    with pretend_device() as report, switched_on(kernel):
        given = [each.detach().to("cuda").requires_grad_() for each in tensors]
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            output = form(*given)
        ours = torch.autograd.grad((output.float() * weights.to("cuda")).sum(), given)
        assert dict(report.kernels) == {kernel: 1}
        found = [each.cpu() for each in (output, *ours)]
    tolerance = 1e-5 if dtype == torch.float32 else BF16_TOLERANCE
    for mine, other in zip(found, (expected, *theirs), strict=True):
        scale = max(1.0, float(other.abs().max()))
        torch.testing.assert_close(mine.float(), other, rtol=0, atol=tolerance * scale)
