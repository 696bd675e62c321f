"""Checkpoint files of a small ViT in each publisher's own layout, with what else such files carry."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

SMALL: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 16,
    "embed_dim": 24,
    "depth": 6,
    "num_heads": 2,
    "num_classes": 0,
}
HEAD = {"head.weight": (7, 24), "head.bias": (7,)}
Tensors = dict[str, Tensor]


def small_vit(seed: int = 0, **changes: Any) -> VisionTransformer:
    """Random everywhere, so that two tensors that changed places are seen."""
    vit = VisionTransformer(**(SMALL | changes)).eval()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.3)
    return vit


def weights(**changes: Any) -> Tensors:
    return {name: value.clone() for name, value in small_vit(**changes).state_dict().items()}


def shaped(shapes: dict[str, tuple[int, ...]]) -> Tensors:
    return {name: torch.full(shape, 0.5) for name, shape in shapes.items()}


def prefixed(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: value for name, value in tensors.items()}


def timm_safetensors(path: Path, tensors: Tensors) -> None:
    save_file(tensors | shaped(HEAD), path)


def timm_bin(path: Path, tensors: Tensors) -> None:
    torch.save(tensors | shaped(HEAD), path)


def dino(path: Path, tensors: Tensors) -> None:
    torch.save(tensors, path)


def dino_before_zip(path: Path, tensors: Tensors) -> None:
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


def ibot(path: Path, tensors: Tensors) -> None:
    torch.save(
        {"state_dict": tensors | shaped({"head.mlp.0.weight": (5, 24), "head.last_layer.weight_g": (5, 1)})}, path
    )


def ibot_prefixed(path: Path, tensors: Tensors) -> None:
    torch.save({"state_dict": prefixed("module.backbone.", tensors) | shaped({"module.head.mlp.0.bias": (5,)})}, path)


def ibot_training(path: Path, tensors: Tensors) -> None:
    """All that a training run saves: student, optimizer, arguments."""
    torch.save(
        {
            "student": prefixed("module.backbone.", weights(seed=5)),
            "teacher": prefixed("backbone.", tensors) | shaped({"head.mlp.0.weight": (5, 24)}),
            "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]},
            "fp16_scaler": {"scale": 65536.0},
            "epoch": 800,
            "args": argparse.Namespace(arch="vit_base", patch_size=16),
        },
        path,
    )


def moco(path: Path, tensors: Tensors) -> None:
    state = prefixed("module.base_encoder.", tensors | shaped({"head.0.weight": (5, 24), "head.1.running_mean": (5,)}))
    state |= prefixed("module.momentum_encoder.", weights(seed=5) | shaped({"head.0.weight": (5, 24)}))
    state |= shaped({"module.predictor.0.weight": (5, 3)}) | {"module.predictor.1.num_batches_tracked": torch.tensor(4)}
    torch.save({"epoch": 300, "arch": "vit_base", "state_dict": state, "optimizer": {"state": {}}, "scaler": {}}, path)


def moco_converted(path: Path, tensors: Tensors) -> None:
    torch.save({"model": tensors}, path)


def google_arrays(tensors: Tensors) -> dict[str, np.ndarray]:
    """The inverse of the mapping, written apart from it: flax keeps inputs first and heads as an axis."""
    arrays = {
        "cls": tensors["cls_token"],
        "Transformer/posembed_input/pos_embedding": tensors["pos_embed"],
        "embedding/kernel": tensors["patch_embed.proj.weight"].permute(2, 3, 1, 0),
        "embedding/bias": tensors["patch_embed.proj.bias"],
        "Transformer/encoder_norm/scale": tensors["norm.weight"],
        "Transformer/encoder_norm/bias": tensors["norm.bias"],
        "pre_logits/kernel": torch.zeros(24, 24),
        "pre_logits/bias": torch.zeros(24),
        "head/kernel": torch.zeros(24, 7),
        "head/bias": torch.zeros(7),
    }
    for number in range(6):
        block, ours = f"Transformer/encoderblock_{number}/", f"blocks.{number}."
        for norm, theirs in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            arrays[f"{block}{theirs}/scale"] = tensors[f"{ours}{norm}.weight"]
            arrays[f"{block}{theirs}/bias"] = tensors[f"{ours}{norm}.bias"]
        attention = f"{block}MultiHeadDotProductAttention_1/"
        parts = zip(tensors[f"{ours}attn.qkv.weight"].chunk(3), tensors[f"{ours}attn.qkv.bias"].chunk(3), strict=True)
        for part, (kernel, bias) in zip(("query", "key", "value"), parts, strict=True):
            arrays[f"{attention}{part}/kernel"] = kernel.T.reshape(24, 2, 12)
            arrays[f"{attention}{part}/bias"] = bias.reshape(2, 12)
        arrays[f"{attention}out/kernel"] = tensors[f"{ours}attn.proj.weight"].T.reshape(2, 12, 24)
        arrays[f"{attention}out/bias"] = tensors[f"{ours}attn.proj.bias"]
        for layer, theirs in (("fc1", "Dense_0"), ("fc2", "Dense_1")):
            arrays[f"{block}MlpBlock_3/{theirs}/kernel"] = tensors[f"{ours}mlp.{layer}.weight"].T
            arrays[f"{block}MlpBlock_3/{theirs}/bias"] = tensors[f"{ours}mlp.{layer}.bias"]
    return {name: value.numpy() for name, value in arrays.items()}


def google(path: Path, tensors: Tensors) -> None:
    with path.open("wb") as stream:
        np.savez(stream, **google_arrays(tensors))  # type: ignore[arg-type]


WRITERS: dict[str, tuple[str, Callable[[Path, Tensors], None]]] = {
    "timm safetensors": ("timm", timm_safetensors),
    "timm bin": ("timm", timm_bin),
    "google": ("google", google),
    "dino": ("dino", dino),
    "dino before zip": ("dino", dino_before_zip),
    "ibot": ("ibot", ibot),
    "ibot prefixed": ("ibot", ibot_prefixed),
    "ibot training": ("ibot", ibot_training),
    "moco": ("moco", moco),
    "moco converted": ("moco", moco_converted),
}
