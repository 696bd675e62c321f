"""Methods constructed for their checks alone: on the sizes of a plain ViT without its modules, and without drawing values.

timm, which makes the modules, takes longer to import than the rest of a plan; so does what PyTorch imports to draw on the meta
device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from smope_bench.methods.common.backbone.architectures import plain
from smope_bench.methods.common.backbone.backbones import Backbone
from smope_bench.methods.common.vit.vit import PromptedViT

Made = TypeVar("Made")


@dataclass(frozen=True)
class Sizes:
    """Sizes of a ViT with one class token, one position embedding a token, and hidden layers four times as wide."""

    image_size: int
    patch_size: int
    feature_dim: int
    depth: int
    num_heads: int

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.feature_dim // self.num_heads

    @property
    def tokens(self) -> int:
        """Tokens of an image, class token included."""
        return (self.image_size // self.patch_size) ** 2 + 1


def plain_sizes(backbone: Any) -> Sizes | None:
    """Sizes of a backbone whose architecture has no argument beside those of ViT-B/16; None for any other backbone.

    None too where making the modules would fail, so that the reason is found there.
    """
    if type(backbone).skeleton is not Backbone.skeleton or (given := plain(backbone.architecture)) is None:
        return None
    return Sizes(*(given[key] for key in ("img_size", "patch_size", "embed_dim", "depth", "num_heads")))


class BackboneOutline(PromptedViT):
    """Stands for a backbone where methods are constructed: it answers for the sizes, and records what else was asked."""

    KNOWN = frozenset({"image_size", "feature_dim", "depth", "num_heads", "head_dim"})

    def __init__(self, sizes: Sizes, unknown: list[str]) -> None:
        """Names of other attributes that were read are appended to ``unknown``: what was made of it is then worthless."""
        object.__setattr__(self, "_outline", (sizes, unknown))

    def __getattribute__(self, name: str) -> Any:
        """A size, or ``require_blocks``. Raises AttributeError for all else, with an entry in ``unknown``."""
        sizes, unknown = object.__getattribute__(self, "_outline")
        if name in BackboneOutline.KNOWN:
            return getattr(sizes, name)
        if name == "require_blocks":
            return object.__getattribute__(self, name)
        unknown.append(name)
        raise AttributeError(f"the outline of a backbone has no {name!r}")

    def __getattr__(self, name: str) -> Any:
        """Raises AttributeError, where a module would look among its parameters."""
        raise AttributeError(f"the outline of a backbone has no {name!r}")


def made_with_outline(make: Callable[[PromptedViT], Made], backbone: Any, skeleton: Callable[[], PromptedViT]) -> Made:
    """``make`` of a backbone's outline; of ``skeleton()`` where it has no outline, or ``make`` read more than sizes."""
    if (sizes := plain_sizes(backbone)) is not None:
        unknown: list[str] = []
        try:
            made = make(BackboneOutline(sizes, unknown))
            if not unknown:
                return made
        except Exception:
            if not unknown:
                raise
    return make(skeleton())


ARITHMETIC = (torch.Tensor.mul, torch.Tensor.add, torch.Tensor.sub, torch.Tensor.div)
"""What constructors do to values that they draw; of a tensor and a number."""


class Undrawn(TorchFunctionMode):
    """Within ``torch.device("meta")``: random tensors get shape and type, and are not drawn, shifted or scaled: nothing reads them.

    The results are those of the meta device; PyTorch would import its compiler to find them.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function of torch, or make the tensor that it would return."""
        del types
        kwargs = kwargs or {}
        if func in (torch.rand, torch.randn):
            return torch.empty(*args, **{name: value for name, value in kwargs.items() if name != "generator"})
        if func in (torch.Tensor.normal_, nn.init.normal_):
            return args[0] if args else kwargs["tensor"]
        if func in ARITHMETIC and not kwargs and _drawn(args[0]) and type(args[1]) in (int, float):
            return torch.empty(args[0].shape, dtype=args[0].dtype)
        return func(*args, **kwargs)


def _drawn(value: Any) -> bool:
    return type(value) is torch.Tensor and value.is_floating_point() and not value.requires_grad
