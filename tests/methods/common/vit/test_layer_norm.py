"""The rounded layer norm of frozen blocks against the plain form: values, gradients, what the graph keeps, casts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.layers.norm import LayerNorm as TimmLayerNorm
from timm.layers.norm import LayerNormFp32
from torch import Tensor, nn

from smope_bench.harness.conformance.pretend_device.device import pretend_device
from smope_bench.methods.common.vit.layer_norm import _RoundedNorm, norm_for_products

WIDTH = 48
Form = Callable[[nn.Module, Tensor], Tensor]
FORMS: dict[str, Form] = {"plain": lambda norm, tokens: norm(tokens), "rounded": norm_for_products}


def frozen(kind: Any = TimmLayerNorm) -> nn.Module:
    """A norm with weights of both signs, some near zero, as pretrained ones have."""
    norm, generator = kind(WIDTH).requires_grad_(False), torch.Generator().manual_seed(0)
    for parameter in norm.parameters():
        parameter.copy_(torch.randn(WIDTH, generator=generator) * torch.logspace(-4, 0, WIDTH))
    return norm


def given_tokens() -> Tensor:
    """Tokens (2, 7, WIDTH) of which one channel is far from the others, as in the last blocks of a ViT."""
    tokens = torch.randn(2, 7, WIDTH, generator=torch.Generator().manual_seed(1))
    tokens[..., 3] += 40
    return tokens.requires_grad_()


def bf16(kind: str = "cpu") -> torch.autocast:
    return torch.autocast(kind, torch.bfloat16, cache_enabled=False)


def kept_by(form: Form, norm: nn.Module, tokens: Tensor) -> tuple[Tensor, int]:
    """What a product after the norm gives, and bytes that the graph keeps without the norm's and the product's weights."""
    weight = torch.eye(WIDTH).bfloat16()
    held = {each.data_ptr() for each in (weight, *norm.parameters())}
    found: dict[int, int] = {}

    def pack(saved: Tensor) -> Tensor:
        store = saved.untyped_storage()
        found.update({} if store.data_ptr() in held else {store.data_ptr(): store.nbytes()})
        return saved

    with bf16(), torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        outputs = F.linear(form(norm, tokens), weight)
    return outputs, sum(found.values())


def test_values_are_the_plain_forms_to_the_bit_and_half_is_kept() -> None:
    norm, tokens = frozen(), given_tokens()
    (plain, whole), (rounded, half) = (kept_by(form, norm, tokens) for form in FORMS.values())
    a_number_a_token = 4 * tokens[..., 0].numel()
    assert torch.equal(plain, rounded) and plain.dtype == torch.bfloat16
    assert whole == 4 * tokens.numel() + 2 * a_number_a_token
    assert half == 2 * tokens.numel() + a_number_a_token


def test_the_gradient_is_as_near_to_float64_as_the_plain_forms() -> None:
    norm = frozen()
    gradient = torch.randn(2, 7, WIDTH, generator=torch.Generator().manual_seed(2)).bfloat16()
    exact_tokens = given_tokens().detach().double().requires_grad_()
    weight, bias = (each.double() for each in norm.parameters())
    exact = F.layer_norm(exact_tokens, (WIDTH,), weight, bias, 1e-6)
    (expected,) = torch.autograd.grad(exact, exact_tokens, gradient.double())
    size = expected.abs().max()
    for name, form in FORMS.items():
        tokens = given_tokens()
        with bf16():
            outputs = form(norm, tokens).to(torch.bfloat16)
        (found,) = torch.autograd.grad(outputs, tokens, gradient)
        # The output's gradient is given in bfloat16; kept tokens in bfloat16 add a rounding of 2^-9 to one of three terms.
        assert found.dtype == torch.float32
        assert (found - expected).abs().max() <= size * (1e-5 if name == "plain" else 2**-9), name


@pytest.mark.parametrize("parts", ["both", "weight", "none"])
def test_in_float64_the_gradient_is_that_of_finite_differences(parts: str) -> None:
    weight, bias = (each.double() for each in frozen().parameters())
    given = {"both": (weight, bias), "weight": (weight, None), "none": (None, None)}[parts]
    tokens = torch.randn(2, 3, WIDTH, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda each: _RoundedNorm.apply(each, *given, 1e-6, torch.float64), tokens)


def test_a_gradient_of_the_gradient_is_refused() -> None:
    tokens = given_tokens()
    with bf16():
        outputs = norm_for_products(frozen(), tokens)
    (first,) = torch.autograd.grad(outputs.float().square().sum(), tokens, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


class Doubled(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


@pytest.mark.parametrize("case", ["fp32", "no graph", "trained", "other kind", "casts", "half tokens"])
def test_elsewhere_the_module_itself_runs(case: str) -> None:
    kind = {"other kind": Doubled, "casts": LayerNormFp32}.get(case, nn.LayerNorm)
    norm, tokens = frozen(kind).requires_grad_(case == "trained"), given_tokens()
    tokens = tokens.bfloat16() if case == "half tokens" else tokens
    with torch.autocast("cpu", torch.bfloat16, enabled=case != "fp32"), torch.set_grad_enabled(case != "no graph"):
        found, expected = norm_for_products(norm, tokens), norm(tokens)
    assert torch.equal(found, expected) and found.dtype == tokens.dtype


@pytest.mark.skipif(torch.cuda.is_available(), reason="the pretend device stands for a GPU where there is none")
def test_on_a_gpu_it_takes_no_cast_more_and_no_host_waits() -> None:
    casts: dict[str, int] = {}
    found: dict[str, Tensor] = {}
    for name, form in FORMS.items():
        with pretend_device() as report:
            norm, tokens = frozen().to("cuda"), given_tokens().detach().to("cuda").requires_grad_()
            weight = torch.eye(WIDTH).bfloat16().to("cuda")
            report.clear()
            with bf16("cuda"):
                outputs = F.linear(form(norm, tokens), weight)
            outputs.sum().backward()
            assert report.waits.total() == 0 and report.mixed == [] and tokens.grad is not None
            casts[name], found[name] = report.casts, outputs.detach().cpu()
    assert torch.equal(found["plain"], found["rounded"])
    assert casts["rounded"] <= casts["plain"]
