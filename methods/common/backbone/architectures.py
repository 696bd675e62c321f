"""Architectures as JSON: what ``Backbone.architecture`` holds, and timm's model, or the project's own, built from it.

Keys: ``class`` (``VisionTransformer`` unless given, ``VisionTransformerDistilled`` or ``Eva``) or ``model`` (a name of timm's
registry), and the arguments of either. A layer type is its name in ``timm.layers``, with arguments as
``{"layer": "LayerNorm", "eps": 1e-05}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from smope_bench.methods.common.errors import MethodError

CLASSES = {
    "VisionTransformer": "timm.models.vision_transformer",
    "VisionTransformerDistilled": "timm.models.deit",
    "Eva": "timm.models.eva",
}


LOADING = frozenset({"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"})
"""Arguments with which timm would read other files, which a ``config.json`` must not name."""
UNUSABLE = TypeError, ValueError, RuntimeError, AssertionError, LookupError, AttributeError, ArithmeticError
"""What timm and torch raise for arguments that make no model."""


PLAIN = frozenset({"img_size", "patch_size", "embed_dim", "depth", "num_heads"})
"""Arguments of a plain ViT, which has the parts of ViT-B/16 and no others."""


def plain(architecture: Mapping[str, Any]) -> dict[str, int] | None:
    """The sizes of a plain ViT without a classifier; None for another architecture, and for sizes that make no model."""
    sizes = {name: value for name, value in architecture.items() if name != "num_classes"}
    if architecture.get("num_classes") != 0 or sizes.keys() != PLAIN:
        return None
    if not all(type(value) is int and value > 0 for value in sizes.values()):
        return None
    is_divisible = not (sizes["embed_dim"] % sizes["num_heads"] or sizes["img_size"] % sizes["patch_size"])
    return sizes if is_divisible else None


def build(architecture: Mapping[str, Any]) -> Any:
    """timm's model of an architecture, with random weights. Raises MethodError where timm cannot build it of it alone."""
    named = architecture.get("model")
    if named is not None and (found := sorted(LOADING & architecture.keys())):
        raise MethodError(f"an architecture cannot have {found[0]!r}, with which timm would read another file")
    try:
        return _built(named, architecture)
    except UNUSABLE as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise MethodError(f"timm cannot build {dict(architecture)}: {reason}") from error


def _built(model: str | None, architecture: Mapping[str, Any]) -> Any:
    from importlib import import_module

    kwargs = {name: _decoded(value) for name, value in architecture.items() if name not in ("class", "model")}
    if model is not None:
        from timm import create_model, is_model

        if not is_model(model):
            raise ValueError(f"it has no model {model!r}")
        return create_model(model, pretrained=False, **kwargs)
    name = architecture.get("class", "VisionTransformer")
    if name == "Eva":
        kwargs.pop("weight_init", None)
    return getattr(import_module(CLASSES[name]), name)(**kwargs)


def skeleton(architecture: Mapping[str, Any]) -> Any:
    """The model of an architecture on the meta device: names and shapes without values. Of a plain ViT it needs no timm."""
    import torch

    if (sizes := plain(architecture)) is not None:
        from smope_bench.methods.common.vit.plain_vit import PlainViT

        with torch.device("meta"):
            return PlainViT(**sizes)
    import torch._dynamo  # arithmetic on the meta device needs it, and torch 2.6 to 2.8 fail to import it there

    with torch.device("meta"):
        return build(architecture if "model" in architecture else {**architecture, "weight_init": "skip"})


def load(vit: Any, tensors: Mapping[str, Any], *, assign: bool = False) -> None:
    """Give a model its tensors; ``assign`` takes them without a copy, as a skeleton needs. Raises RuntimeError."""
    import torch

    vit.load_state_dict(tensors, strict=True, assign=assign)
    for module in vit.modules():
        computed = {name: buffer for name, buffer in module.named_buffers(recurse=False) if buffer.is_meta}
        for name, buffer in computed.items():
            module.register_buffer(name, torch.zeros_like(buffer, device="cpu"), persistent=False)
        if computed:  # rotary frequencies and the like, which no file holds
            module.init_non_persistent_buffers()


def _decoded(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    from timm import layers

    arguments = {name: item for name, item in value.items() if name != "layer"}
    kind = getattr(layers, value["layer"])
    return partial(kind, **arguments) if arguments else kind
