"""Google's ViT arrays (flax, .npz) under timm's names: kernels transposed; query, key and value joined.

The names are those of github.com/google-research/vision_transformer, as its 2020 checkpoints have them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from smope_bench.methods.common.errors import MethodError

Shape = tuple[int, ...]

_JOINED = "{query,key,value}"

_TOP = {
    "cls_token": "cls",
    "pos_embed": "Transformer/posembed_input/pos_embedding",
    "patch_embed.proj.weight": "embedding/kernel",
    "patch_embed.proj.bias": "embedding/bias",
    "norm.weight": "Transformer/encoder_norm/scale",
    "norm.bias": "Transformer/encoder_norm/bias",
}
_IN_BLOCK = {
    "norm1.weight": "LayerNorm_0/scale",
    "norm1.bias": "LayerNorm_0/bias",
    "attn.qkv.weight": "MultiHeadDotProductAttention_1/{query,key,value}/kernel",
    "attn.qkv.bias": "MultiHeadDotProductAttention_1/{query,key,value}/bias",
    "attn.proj.weight": "MultiHeadDotProductAttention_1/out/kernel",
    "attn.proj.bias": "MultiHeadDotProductAttention_1/out/bias",
    "norm2.weight": "LayerNorm_2/scale",
    "norm2.bias": "LayerNorm_2/bias",
    "mlp.fc1.weight": "MlpBlock_3/Dense_0/kernel",
    "mlp.fc1.bias": "MlpBlock_3/Dense_0/bias",
    "mlp.fc2.weight": "MlpBlock_3/Dense_1/kernel",
    "mlp.fc2.bias": "MlpBlock_3/Dense_1/bias",
}


def origin(name: str) -> str:
    """The arrays of timm's tensor ``name``: three for query, key and value, else one."""
    block = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    if block is None:
        return _TOP.get(name, name)
    return f"Transformer/encoderblock_{block[1]}/{_IN_BLOCK.get(block[2], block[2])}"


def rename(
    arrays: Mapping[str, Tensor], shapes: Mapping[str, Shape], heads: int, file: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors under timm's names with timm's axes, and the unused arrays.

    The heads are checked here: once joined, twelve heads of 64 look like six of 128. Raises MethodError.
    """
    found: dict[str, Tensor] = {}
    used: set[str] = set()
    for name, shape in shapes.items():
        sources = _sources(name)
        used.update(sources)
        if not all(source in arrays for source in sources):
            continue
        parts = []
        for source in sources:
            _require_shape(arrays[source], _original_shape(name, shape, heads), source, file)
            parts.append(_turned(name, arrays[source]))
        found[name] = torch.cat(parts) if len(parts) > 1 else parts[0]
    return found, {name: array for name, array in arrays.items() if name not in used}


def _sources(name: str) -> tuple[str, ...]:
    source = origin(name)
    return (
        tuple(source.replace(_JOINED, part) for part in ("query", "key", "value")) if _JOINED in source else (source,)
    )


def _original_shape(name: str, shape: Shape, heads: int) -> Shape:
    """The shape that timm's tensor has in the file: axes are input first, heads are an axis of their own."""
    special: dict[str, Callable[[], Shape]] = {
        "patch_embed.proj.weight": lambda: (shape[2], shape[3], shape[1], shape[0]),
        "attn.qkv.weight": lambda: (shape[1], heads, shape[0] // 3 // heads),
        "attn.qkv.bias": lambda: (heads, shape[0] // 3 // heads),
        "attn.proj.weight": lambda: (heads, shape[1] // heads, shape[0]),
    }
    for ending, original in special.items():
        if name.endswith(ending):
            return original()
    return shape[::-1] if len(shape) == 2 else shape


def _turned(name: str, array: Tensor) -> Tensor:
    if name == "patch_embed.proj.weight":
        return array.permute(3, 2, 0, 1)
    if name.endswith("attn.qkv.weight"):
        return array.flatten(1).T
    if name.endswith("attn.proj.weight"):
        return array.flatten(0, 1).T
    if name.endswith("attn.qkv.bias"):
        return array.flatten()
    return array.T if array.ndim == 2 else array


def _require_shape(array: Tensor, expected: Shape, source: str, file: str) -> None:
    if tuple(array.shape) != expected:
        grid = "; position embeddings of another grid are not resized" if "pos_embedding" in source else ""
        raise MethodError(f"{file}: {source!r} has shape {tuple(array.shape)}, expected {expected}{grid}")
