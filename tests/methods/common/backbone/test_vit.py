"""The prompted ViT against timm's own forward, against explicit concatenation, and its cheap last block."""

from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from smope_bench.methods.common.backbone.vit import PromptedViT, plain_attention
from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.prefix import PlainPrefix

ARCHITECTURES = {
    "plain": {},
    "deeper": {"depth": 9},
    "layer scale": {"init_values": 0.1},
    "query and key norm": {"qk_norm": True},
    "no qkv bias": {"qkv_bias": False},
    "registers": {"reg_tokens": 2},
}


def make(**changes: object) -> VisionTransformer:
    torch.manual_seed(0)
    shape = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 6, "num_heads": 2, "num_classes": 0}
    vit = VisionTransformer(**(shape | changes))  # type: ignore[arg-type]
    with torch.no_grad():  # timm's initial weights are so small that attention hardly matters
        for parameter in vit.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return vit


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("changes", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_without_prompts_it_is_timms_forward(changes: dict[str, object], images: Tensor) -> None:
    vit = make(**changes).eval()
    expected = vit(images)
    prompted = PromptedViT(vit)
    torch.testing.assert_close(prompted(images), expected, atol=1e-5, rtol=0)
    everywhere = dict.fromkeys(range(prompted.depth), plain_attention)
    torch.testing.assert_close(prompted(images, everywhere), expected, atol=1e-5, rtol=0)


def test_class_token_only_last_block_has_the_full_blocks_gradient(images: Tensor) -> None:
    vit = PromptedViT(make())
    cheap, full = images.clone().requires_grad_(), images.clone().requires_grad_()
    vit(cheap).square().sum().backward()
    vit(full, {vit.depth - 1: plain_attention}).square().sum().backward()
    assert cheap.grad is not None and full.grad is not None
    torch.testing.assert_close(cheap.grad, full.grad, atol=1e-5, rtol=1e-5)


def test_plain_prefix_is_explicit_concatenation(images: Tensor) -> None:
    vit = PromptedViT(make())
    keys, values = torch.rand(2, 5, 12), torch.rand(2, 5, 12)

    def by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows = []
        for image in range(len(q)):
            heads = []
            for head in range(2):
                all_keys = torch.cat([keys[head], k[image, head]])
                all_values = torch.cat([values[head], v[image, head]])
                heads.append((q[image, head] @ all_keys.T / 12**0.5).softmax(dim=-1) @ all_values)
            rows.append(torch.stack(heads))
        return torch.stack(rows)

    ours = vit(images, {block: PlainPrefix(keys, values) for block in range(6)})
    torch.testing.assert_close(ours, vit(images, dict.fromkeys(range(6), by_hand)), atol=1e-5, rtol=0)
    assert (ours - vit(images)).abs().max() > 1e-3


def test_a_prefix_may_differ_by_image(images: Tensor) -> None:
    vit = PromptedViT(make())
    keys, values = torch.rand(3, 2, 5, 12), torch.rand(3, 2, 5, 12)
    together = vit(images, {0: PlainPrefix(keys, values)})
    alone = torch.cat([vit(images[i : i + 1], {0: PlainPrefix(keys[i], values[i])}) for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_frozen_whatever_is_asked(images: Tensor) -> None:
    vit = PromptedViT(make(pos_drop_rate=0.5, drop_path_rate=0.5))
    assert not any(parameter.requires_grad for parameter in vit.parameters())
    vit.train()
    assert not vit.training and torch.equal(vit(images), vit(images))


def test_no_graph_below_the_first_prompt(images: Tensor) -> None:
    vit = PromptedViT(make())
    seen: list[bool] = []

    def spy(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen.append(q.requires_grad)
        return PlainPrefix(torch.rand(2, 1, 12, requires_grad=True), torch.rand(2, 1, 12))(q, k, v)

    vit(images, {2: spy, 3: spy})
    assert seen == [False, True]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"depth": 5}, "5 blocks"),
        ({"global_pool": "avg"}, "pools by 'avg'"),
        ({"class_token": False, "global_pool": "avg"}, "class token"),
    ],
)
def test_unsuitable_backbones_are_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(MethodError, match=says):
        PromptedViT(make(**changes))


def test_too_many_prompted_blocks_are_refused() -> None:
    with pytest.raises(MethodError, match="first 7 blocks, but the backbone has 6"):
        PromptedViT(make()).require_blocks(7, "smope")
