"""Tensors of a file under the names, in the form and at the input size that a model of timm wants."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.pretrained_files.any_vit.names import NOT_NEEDED, Place
from smope_bench.methods.common.pretrained_files.containers import checked_tensor, some

Shape = tuple[int, ...]


def fit(place: Place, wanted: Mapping[str, Shape], file: str) -> tuple[dict[str, Tensor], dict[str, Shape]]:
    """The ``wanted`` tensors in float32, and shapes of what was left out, by its name in the file. Raises MethodError."""
    source = _Source(place.tensors)
    found = {name: value for name in wanted if (value := source.get(name)) is not None}
    missing = [place.prefix + place.original.get(name, name) for name in wanted if name not in found]
    if missing:
        raise MethodError(
            f"{file} lacks {some(missing)}: {len(missing)} of the {len(wanted)} tensors of its ViT; use a complete file"
        )
    unused = [name for name in place.tensors if name not in source.used]
    rest = {place.original[name]: place.tensors[name] for name in unused}
    unknown = [place.original[name] for name in unused if not NOT_NEEDED.match(name)]
    if unknown:
        raise MethodError(
            f"{file} has tensors that a ViT of timm of its shape does not have: {some(place.prefix + name for name in unknown)};"
            " what they do would be lost, so use a file without them, or one of another model"
        )
    dropped = {place.prefix + name: value for name, value in rest.items()} | place.beside
    try:
        tensors = {n: checked_tensor(found[n], wanted[n], place.original.get(n, n), file) for n in wanted}
    except MethodError as error:
        raise MethodError(f"{error}; use another copy of the file, or one of another model") from error
    return tensors, {name: tuple(getattr(value, "shape", ())) for name, value in dropped.items()}


def resampled(positions: Tensor, places: int, old: tuple[int, int], new: tuple[int, int], *, antialias: bool) -> Tensor:
    """Position embeddings (1, places + tokens, d) for another grid, the ``places`` before the grid unchanged."""
    from timm.layers import resample_abs_pos_embed

    return resample_abs_pos_embed(positions, [*new], [*old], num_prefix_tokens=places, antialias=antialias).contiguous()


class _Source:
    """Looks tensors up under any of the forms in which files hold them, and notes what was used."""

    def __init__(self, tensors: Mapping[str, Any]) -> None:
        self._tensors = tensors
        self.used: set[str] = set()

    def get(self, name: str) -> Any:
        if name in self._tensors:
            return self._take(name)
        if found := re.fullmatch(r"(.*)gamma_([12])", name):
            return self._take(f"{found[1]}ls{found[2]}.gamma")
        if found := re.fullmatch(r"(attn_pool\.)(q|kv)\.(weight|bias)", name):
            joint = self._take(f"{found[1]}qkv.{found[3]}")
            return None if joint is None else joint.chunk(3)[0] if found[2] == "q" else torch.cat(joint.chunk(3)[1:])
        if found := re.fullmatch(r"(.*attn\.)qkv\.(weight|bias)", name):
            return self._joined(found[1], found[2])
        if found := re.fullmatch(r"(.*attn\.)(q|k|v)_(?:proj\.(weight|bias)|(bias))", name):
            return self._part(found[1], found[2], found[3] or found[4])
        return None

    def _take(self, name: str) -> Any:
        if name in self._tensors:
            self.used.add(name)
        return self._tensors.get(name)

    def _joined(self, attention: str, kind: str) -> Tensor | None:
        parts = [self._take(f"{attention}{part}_proj.{kind}") for part in "qkv"]
        if kind == "bias" and all(part is None for part in parts):
            parts = [self._take(f"{attention}{part}_bias") for part in "qkv"]
        known = next((part for part in parts if part is not None), None)
        if known is None or (kind == "weight" and any(part is None for part in parts)):
            return None
        return torch.cat([torch.zeros_like(known) if part is None else part for part in parts])

    def _part(self, attention: str, part: str, kind: str) -> Tensor | None:
        joint = self._take(f"{attention}qkv.{kind}")
        if joint is not None:
            parts = dict(zip("qkv", joint.chunk(3), strict=True))
            masked = f"{attention}qkv.bias_mask" in self._tensors  # DINOv3 masks the bias of keys
            if kind == "bias" and not masked and parts["k"].count_nonzero():
                return None
            return parts[part]
        other = self._take(f"{attention}{part}_bias") if kind == "bias" else None
        return self._take(f"{attention}{part}_proj.{kind}") if other is None else other
