"""The project's own ViT against timm's: the same names and shapes, and the same bits forwards and backwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from smope_bench.methods.common.backbone.architectures import build, load, plain, skeleton
from smope_bench.methods.common.backbone.backbones import MICRO, TINY, VIT_B16
from smope_bench.methods.common.vit.plain_vit import PlainViT
from smope_bench.methods.common.vit.vit import PromptedViT, plain_attention


def pair(architecture: dict[str, Any]) -> tuple[Any, Any]:
    """timm's model with random weights, and the project's with the same ones."""
    torch.manual_seed(0)
    timms, own = build(architecture), skeleton(architecture)
    assert isinstance(own, PlainViT)
    load(own, {name: tensor.clone() for name, tensor in timms.state_dict().items()}, assign=True)
    return timms.eval(), own.eval()


@pytest.mark.parametrize("architecture", [TINY.architecture, VIT_B16], ids=["tiny", "ViT-B/16"])
def test_names_and_shapes_are_those_of_timm(architecture: dict[str, Any]) -> None:
    with torch.device("meta"):
        timms = build({**architecture, "weight_init": "skip"})
    own = skeleton(architecture)
    shapes = [[(name, tensor.shape) for name, tensor in vit.state_dict().items()] for vit in (timms, own)]
    assert shapes[0] == shapes[1]
    for name in ("num_features", "num_prefix_tokens", "global_pool", "attn_pool"):
        assert getattr(own, name) == getattr(timms, name), name
    for name in ("img_size", "patch_size", "grid_size", "num_patches"):
        assert getattr(own.patch_embed, name) == getattr(timms.patch_embed, name), name


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("architecture", [TINY.architecture, MICRO.architecture], ids=["tiny", "micro"])
def test_results_are_those_of_timm_to_the_bit(architecture: dict[str, Any], precision: torch.dtype) -> None:
    images = torch.rand(3, 3, architecture["img_size"], architecture["img_size"])
    rules = {1: lambda q, k, v: plain_attention(q, 2 * k, v)}
    found: list[list[Tensor]] = []
    for vit in pair(architecture):
        inputs = images.clone().requires_grad_()
        with torch.autocast("cpu", precision, enabled=precision is not torch.float32):
            bare = vit(inputs)
            prompted = PromptedViT(vit)
            features = prompted(inputs, rules)
        (gradient,) = torch.autograd.grad((features.float() ** 2).sum() + bare.float().sum(), inputs)
        found.append([bare, features, gradient, prompted.tokens(images, 2)])
    for timms, own in zip(*found, strict=True):
        assert torch.equal(timms, own)


@pytest.mark.parametrize(
    "changed",
    [
        {"num_classes": 10},
        {"depth": 0},
        {"num_heads": 5},
        {"img_size": 30},
        {"img_size": (32, 32)},
        {"reg_tokens": 4},
        {"class": "Eva"},
        {"model": "vit_tiny_patch16_224"},
    ],
    ids=str,
)
def test_other_architectures_are_left_to_timm(changed: dict[str, Any]) -> None:
    assert plain(TINY.architecture) is not None and plain({**TINY.architecture, **changed}) is None
