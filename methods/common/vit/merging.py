"""Low-rank updates merged into effective weights, and values that are made again only when their tensors have changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor

from smope_bench.methods.common.vit.block import joined_projection
from smope_bench.methods.common.vit.block_adaptation import QKV, Layer, LowRank, Target

Value = TypeVar("Value")


class Derived(Generic[Value]):
    """A value computed from tensors, such as merged weights, kept in a plain attribute of a method.

    It is not in a checkpoint: the first call after a start, or after a tensor has changed, computes it again. Changes are those
    in place, the trainer's steps among them; fused optimisers of a method's own need ``torch.autograd.graph.increment_version``.
    """

    def __init__(self) -> None:
        self._kept: tuple[list[tuple[Any, ...]], tuple[Tensor, ...], Value] | None = None

    def __call__(self, make: Callable[[], Value], *sources: Tensor) -> Value:
        """``make()``, a function of ``sources`` alone: parameters and buffers, or views of them."""
        state = [(one.data_ptr(), one._version, one.device, one.dtype, one.shape, one.stride()) for one in sources]
        if self._kept is None or self._kept[0] != state:
            self._kept = None  # the old value is freed before the new one is made
            self._kept = state, sources, make()  # held sources keep their addresses
        return self._kept[2]


@torch.no_grad()
def merged_layers(block: Any, original: Any, updates: Mapping[Target, LowRank]) -> dict[Layer, Tensor]:
    """Weights of ``original`` plus updates, in the type and on the device of the weights of ``block``, by layer."""
    found: dict[Layer, Tensor] = {}
    for target, update in updates.items():
        layer: Layer = "qkv" if target in QKV else cast("Layer", target)
        if layer not in found:
            given = _weight(original, layer)
            wide = torch.promote_types(given.dtype, torch.float32)
            found[layer] = given.to(_weight(block, layer).device, wide, copy=True)
        weight = found[layer]
        rows = weight.chunk(3)[QKV.index(target)] if target in QKV else weight
        with torch.autocast(weight.device.type, enabled=False):
            rows.addmm_(update.up.to(weight.dtype), update.down.to(weight.dtype))
    return {layer: weight.to(_weight(block, layer).dtype) for layer, weight in found.items()}


def settled_updates(downs: Tensor, ups: Tensor, finished: int) -> dict[str, Tensor]:
    """Both factors, (tasks, …) each, of the updates of the first ``finished`` tasks, by name, for ``Method.settled``."""
    factors = (("down", downs), ("up", ups))
    return {f"update of task {task}, {name}": kept[task] for task in range(finished) for name, kept in factors}


def _weight(block: Any, layer: Layer) -> Tensor:
    if layer == "qkv":
        return joined_projection(block.attn)[0]
    return (block.attn.proj if layer == "proj" else getattr(block.mlp, layer)).weight
