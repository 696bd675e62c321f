"""The prompted ViT against timm's own forward, against explicit concatenation, and its cheap last block."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer
from torch import Tensor, nn

from smope_bench.methods.common.backbone.architectures import build
from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.prefix import PlainPrefix
from smope_bench.methods.common.vit.attention_rules import TokenRule
from smope_bench.methods.common.vit.memory_plan import MemoryPlan
from smope_bench.methods.common.vit.vit import PromptedViT, plain_attention

ARCHITECTURES = {
    "plain": {},
    "deeper": {"depth": 9},
    "layer scale": {"init_values": 0.1},
    "query and key norm": {"qk_norm": True},
    "no qkv bias": {"qkv_bias": False},
    "registers": {"reg_tokens": 2},
    "three blocks": {"depth": 3},
    "mean of patches": {"global_pool": "avg"},
    "mean of patches after the norm": {"global_pool": "avg", "fc_norm": False, "reg_tokens": 2},
    "no class token": {"class_token": False, "global_pool": "avg"},
    "class token, then norm": {"fc_norm": True},
    "attention pool": {"class_token": False, "global_pool": "map"},
    "norm before the blocks": {"pre_norm": True, "act_layer": "quick_gelu"},
    "norms in attention and MLP": {"scale_attn_norm": True, "scale_mlp_norm": True},
    "distillation token": {"class": "VisionTransformerDistilled"},
    "Eva": {"class": "Eva", "global_pool": "avg"},
    "Eva, class token": {"class": "Eva", "global_pool": "token", "init_values": 0.1},
    "Eva, rope": {
        "class": "Eva",
        "use_rot_pos_emb": True,
        "qkv_fused": False,
        "swiglu_mlp": True,
        "scale_mlp": True,
        "scale_attn_inner": True,
        "global_pool": "token",
    },
    "Eva, rope as in DINOv3": {
        "class": "Eva",
        "use_rot_pos_emb": True,
        "rope_type": "dinov3",
        "rope_rotate_half": True,
        "use_abs_pos_emb": False,
        "num_reg_tokens": 4,
        "qkv_bias": False,
        "init_values": 0.1,
        "use_fc_norm": False,
    },
    "Eva, rope of each block": {"class": "Eva", "use_rot_pos_emb": True, "rope_type": "mixed", "attn_type": "rope"},
}


def make(**changes: Any) -> VisionTransformer:
    torch.manual_seed(0)
    shape = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 6, "num_heads": 2, "num_classes": 0}
    vit = build(shape | changes)
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


@pytest.mark.parametrize("changes", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_prompts_enter_every_kind(changes: dict[str, object], images: Tensor) -> None:
    """A prefix changes features, has a gradient, and gives the same features under each memory plan."""
    vit = PromptedViT(make(**changes))
    keys, values = (torch.randn(2, 4, 12, requires_grad=True) for _ in range(2))
    rules = {number: PlainPrefix(keys, values) for number in (0, 2)}
    ours = vit(images, rules)
    assert (ours - vit(images)).abs().max() > 1e-4
    expected = torch.autograd.grad(ours.square().sum(), (keys, values))
    for plan in (MemoryPlan(checkpoint_blocks=True), MemoryPlan(micro_batch=2)):
        vit.memory = plan
        again = vit(images, rules)
        torch.testing.assert_close(again, ours, atol=1e-5, rtol=0)
        torch.testing.assert_close(
            torch.autograd.grad(again.square().sum(), (keys, values)), expected, atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("changes", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_products_kept_in_half_precision_have_the_bits_of_autocast(changes: dict[str, object], images: Tensor) -> None:
    vit = PromptedViT(make(**changes))
    rules = {0: PlainPrefix(torch.randn(2, 4, 12), torch.randn(2, 4, 12))}
    with torch.autocast("cpu", torch.bfloat16):
        expected = vit(images, rules)
        vit.keep_products_in(torch.bfloat16)
        assert torch.equal(vit(images, rules), expected)
    assert expected.dtype == torch.float32


@pytest.mark.parametrize("changes", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_key_and_value_weights_are_those_of_the_rules(changes: dict[str, object], images: Tensor) -> None:
    """Values that a rule gets are W_V of what it reads, up to the bias, which differences between tokens do not have."""
    vit = PromptedViT(make(**changes))

    class Reader(TokenRule):
        def read(self, tokens: Tensor) -> None:
            self.tokens = tokens

        def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.values = v
            return plain_attention(q, k, v)

    reader = Reader()
    vit.run_prompted(images, {1: reader})
    torch.testing.assert_close(reader.tokens, vit.tokens(images, 1), atol=1e-5, rtol=0)
    _, weights = vit.key_value_weights(range(3))
    ours = torch.einsum("bnd,hed->bhne", reader.tokens.diff(dim=1), weights[1])
    torch.testing.assert_close(ours, reader.values.diff(dim=2), atol=1e-5, rtol=0)


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
        ({"global_pool": ""}, "does not pool its tokens"),
        ({"img_size": (16, 24)}, "16 x 24 pixels"),
        ({"block_fn": ParallelScalingBlock}, "blocks are of type ParallelScalingBlock"),
        ({"attn_layer": "diff"}, "attention of type DiffAttention"),
        ({"class": "Eva", "use_post_norm": True}, "blocks are of type EvaBlockPostNorm"),
    ],
)
def test_unsuitable_backbones_are_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(MethodError, match=says):
        PromptedViT(make(**changes))


def test_gated_attention_is_refused() -> None:
    vit: Any = make()
    vit.blocks[3].attn.gate = nn.Linear(24, 24)
    with pytest.raises(MethodError, match="gated"):
        PromptedViT(vit)


def test_too_many_prompted_blocks_are_refused() -> None:
    with pytest.raises(MethodError, match="first 7 blocks, but the backbone has 6"):
        PromptedViT(make()).require_blocks(7, "smope")
