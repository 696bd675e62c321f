"""The attention product: one value in every form, and the form that belongs to a place."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from smope_bench.methods.common.backbone.backbones import MICRO
from smope_bench.methods.common.prefix import prepend
from smope_bench.methods.common.vit.attention import attend, without_unused

BF16_TOLERANCE = 3e-2  # of values of order one: scores and weights keep 8 bits


def _heads(count: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 3, 5, 8, generator=generator)
    k, v = torch.randn(2, 2, 3, count, 8, generator=generator)
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_()


def _gradients(heads: tuple[Tensor, ...], output: Tensor) -> list[Tensor]:
    weights = torch.linspace(-1, 1, output.numel()).view_as(output)
    return list(torch.autograd.grad((output.float() * weights).sum(), heads, retain_graph=True))


@pytest.mark.parametrize("scale", [None, 0.7])
def test_float32_is_the_fused_kernel_to_the_bit(scale: float | None) -> None:
    q, k, v = _heads()
    assert torch.equal(attend(q, k, v, scale=scale), F.scaled_dot_product_attention(q, k, v, scale=scale))


@pytest.mark.parametrize("scale", [None, 0.7])
def test_bfloat16_products_agree_with_float32(scale: float | None) -> None:
    heads = _heads()
    exact = attend(*heads, scale=scale)
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        halved = attend(*heads, scale=scale)
    assert halved.dtype == torch.bfloat16
    torch.testing.assert_close(halved.float(), exact, rtol=BF16_TOLERANCE, atol=BF16_TOLERANCE)
    for mine, theirs in zip(_gradients(heads, halved), _gradients(heads, exact), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=BF16_TOLERANCE, atol=BF16_TOLERANCE * float(theirs.abs().max()))


def test_bfloat16_tensors_need_no_autocast() -> None:
    q, k, v = (each.detach().bfloat16() for each in _heads())
    kernel = F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(attend(q, k, v), kernel, rtol=BF16_TOLERANCE, atol=BF16_TOLERANCE)


def test_heads_need_not_lie_together_and_rows_stay_apart() -> None:
    qkv = torch.randn(2, 5, 3, 3, 8, generator=torch.Generator().manual_seed(1)).bfloat16()
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    assert torch.equal(attend(q, k, v)[1:], attend(q[1:], k[1:], v[1:]))


def packed_heads() -> tuple[Tensor, Tensor, Tensor]:
    """Views of one tensor, as a block's projection gives them: (2, 3, 5, 8) each."""
    qkv = torch.randn(2, 5, 3, 3, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    q, k, v = (qkv * 1).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def test_packed_heads_are_copied_where_the_rest_is_not_used() -> None:
    q, k, v = packed_heads()
    assert all(mine is theirs for mine, theirs in zip(without_unused(q, k, v), (q, k, v), strict=True))
    alone, *_ = without_unused(q, torch.cat([k, k], dim=2), torch.cat([v, v], dim=2))
    assert torch.equal(alone, q) and alone.untyped_storage().nbytes() == q.nbytes
    assert without_unused(q[:, :, :1], k, v)[1] is k, "two thirds are used"
    with torch.no_grad():
        assert without_unused(q)[0] is q, "nothing is kept"


@pytest.mark.parametrize("is_masked", [False, True])
def test_prefixes_keep_no_packed_heads_and_change_no_bit(is_masked: bool) -> None:
    """Of q, k, v, the prefix and the output, the graph keeps the copies that attention reads and no view of the projection."""
    q, k, v = packed_heads()
    prefix = torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(2))
    keys, values = prepend(prefix, k), prepend(prefix, v)
    mask = torch.ones(2, 3, 1, 7, dtype=torch.bool) if is_masked else None
    stores: dict[int, int] = {}

    def pack(saved: Tensor) -> Tensor:
        stores[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        found = attend(q, keys, values, mask=mask)
    assert q.untyped_storage().data_ptr() not in stores
    expected = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
    assert torch.equal(found, expected)
    for mine, theirs in zip(_gradients((q, k, v), found), _gradients((q, k, v), expected), strict=True):
        assert torch.equal(mine, theirs)


def test_a_mask_hides_keys_in_either_precision() -> None:
    q, k, v = (each.detach() for each in _heads())
    mask = torch.arange(9)[None, None, None] < 4
    seen = attend(q, k[:, :, :4], v[:, :, :4])
    torch.testing.assert_close(attend(q, k, v, mask=mask), seen)
    halved = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), mask=mask)
    torch.testing.assert_close(halved.float(), seen, rtol=BF16_TOLERANCE, atol=BF16_TOLERANCE)


def test_weights_kept_in_bfloat16_change_no_bit() -> None:
    vit = MICRO.load()  # one of its own: the weights are converted
    images = torch.rand(3, 3, vit.image_size, vit.image_size, generator=torch.Generator().manual_seed(2))
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        cast_in_every_pass = vit.features(images)
        vit.keep_products_in(torch.bfloat16)
        assert vit.attentions[0].qkv.weight.dtype == torch.bfloat16
        assert vit.blocks[0].norm1.weight.dtype == torch.float32
        assert torch.equal(vit.features(images), cast_in_every_pass)
