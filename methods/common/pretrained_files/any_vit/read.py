"""Reading: the file is searched for a ViT, its architecture is found, and every tensor is checked."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from smope_bench.methods.common.backbone.architectures import skeleton
from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.pretrained_files.any_vit import names
from smope_bench.methods.common.pretrained_files.any_vit.fitting import Shape, fit, resampled
from smope_bench.methods.common.pretrained_files.any_vit.structure import Settings, infer, pooling
from smope_bench.methods.common.pretrained_files.any_vit.timm_models import TimmModel, beside, named_model, timm_model
from smope_bench.methods.common.pretrained_files.containers import read_entries, some
from smope_bench.methods.common.vit.vit import obstacle

Feature = Literal["token", "avg", "map"]
Resample = Literal["antialias", "plain"]
FetchWeights = Callable[[str, tuple[str, ...]], Path]
"""``fetch(file_name, addresses)`` returns a downloaded file."""

_NUMPY_SCALAR: Any = np.float64(0).__reduce__()[0]
_RECORDS = (
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")),
    _NUMPY_SCALAR,
    (_NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
)
"""What training checkpoints hold beside tensors: settings of the command line, and numbers such as the best accuracy."""


@dataclass(frozen=True)
class ReadViT:
    """A ViT that was read: what builds it, its tensors in float32 under timm's names, and what its images go through.

    ``architecture``: JSON for ``architectures.build``, with ``img_size``. ``feature``: ``token``, ``avg``, ``map`` or another of
    timm's ways to pool. ``mean``, ``std``: for RGB in 0..1. ``image_size``: side in pixels. ``found``: one sentence with what it
    is, where it lay and what was assumed. ``dropped``: shapes of what was left out, by the file's names.
    """

    architecture: dict[str, Any]
    tensors: dict[str, Tensor]
    feature: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    image_size: int
    found: str
    dropped: dict[str, Shape]


def read_vit(
    path: Path,
    *,
    image_size: int | None = None,
    resample: Resample = "antialias",
    feature: Feature | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    heads: int | None = None,
    epsilon: float | None = None,
    activation: str | None = None,
    model: str | None = None,
) -> ReadViT:
    """The ViT in a weights file: safetensors, torch's (.pth, .pt, .bin, .tar) or Google's .npz.

    ``image_size``: another input size than the weights', for which position embeddings are resampled, with antialiasing
    (``antialias``, as timm does it) or without (``plain``). ``model``: ``MODEL[.TAG]`` of timm that the file holds. The others
    override what would be read beside the file or assumed. Raises MethodError.
    """
    path = Path(path)
    given = Settings(heads, epsilon, activation, mean, std, None, feature)
    if not path.is_file():
        what = (
            "is a folder; give the weights file in it"
            if path.is_dir()
            else "does not exist; give the path of a weights file"
        )
        raise MethodError(f"{path} {what}")
    try:
        entries = read_entries(path, ("safetensors", "torch", "npz"), _RECORDS)
    except MethodError as error:
        remedy = "give the complete file of a ViT's tensors, such as torch.save(vit.state_dict(), FILE) writes"
        raise MethodError(f"{error}; {remedy}") from error
    place, others = _place(entries, str(path))
    shown = beside(path)
    settings = given.otherwise(Settings(heads=place.heads)).otherwise(shown.settings)
    if model is not None:
        timm_model(model)  # raises for an unknown name
        try:
            described = _as_model(place, model, {}, given, str(path))
        except MethodError as error:
            raise MethodError(f"as timm's {model}: {error}") from error
    else:
        described = _described(path, place, shown.model, shown.arguments or {}, given, settings)
    return _at_size(described, place, others, image_size, resample, str(path))


def read_timm(
    model: str,
    *,
    file: Path | None = None,
    fetch: FetchWeights | None = None,
    image_size: int | None = None,
    resample: Resample = "antialias",
    feature: Feature | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
) -> ReadViT:
    """timm's ``MODEL[.TAG]`` with its published weights: from ``file``, a cache on this computer, or ``fetch``.

    Nothing is downloaded without ``fetch``. Raises MethodError, for a model that prompts cannot enter before anything is fetched.
    """
    found = timm_model(model)
    require_promptable(found)
    source = file or found.cached()
    if source is None and fetch is not None and found.addresses:
        source = fetch(found.hub_files[0] if found.hub else found.url.rsplit("/", 1)[-1], found.addresses)
    if source is None:
        where = f"download {found.addresses[0]}" if found.addresses else "timm names no published file for it: get one"
        raise MethodError(
            f"the weights of {found.spelled} are not on this computer: {where} and give"
            f" that file as --backbone FILE --set backbone.model={found.spelled.removeprefix('timm:')}"
        )
    spelled = found.spelled.removeprefix("timm:")
    return read_vit(
        source, image_size=image_size, resample=resample, feature=feature, mean=mean, std=std, model=spelled
    )


def require_promptable(model: TimmModel) -> None:
    """Raise MethodError, with what stands in the way, if prompts cannot enter a model of timm; no weights are needed."""
    try:
        reason = obstacle(skeleton({"model": model.name, "num_classes": 0}))
    except MethodError as error:
        reason = f"it cannot be built without weights ({str(error)[:160]})"
    if reason:
        raise MethodError(
            f"timm:{model.name} cannot be prompted: {reason}; choose a plain ViT, such as timm:vit_base_patch16_224"
        )


@dataclass(frozen=True)
class _Described:
    """A ViT at its weights' own size: what it is, its grid, places before the grid, and what was assumed."""

    architecture: dict[str, Any]
    tensors: dict[str, Tensor]
    dropped: dict[str, Shape]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    what: str
    assumed: tuple[str, ...] = ()


def _place(entries: Mapping[str, Any], file: str) -> tuple[names.Place, list[names.Place]]:
    if (google := names.google(entries, file)) is not None:
        return google, []
    places = names.find(entries)
    if places:
        return places[0], places[1:]
    held = sorted({name for mapping in _all_names(entries) for name in mapping})
    reason = names.foreign(held)
    what = (
        f"{reason}, which prompts cannot enter"
        if reason
        else "has no ViT that is known here: no patch embedding with blocks"
    )
    raise MethodError(f"{file} {what}; at its top it has {some(map(str, entries))}; give the weights of a ViT")


def _all_names(held: Mapping[Any, Any], depth: int = 0) -> list[list[str]]:
    inner = [value for value in held.values() if isinstance(value, Mapping)] if depth < 3 else []
    return [[str(name) for name in held], *(found for value in inner for found in _all_names(value, depth + 1))]


def _described(
    path: Path,
    place: names.Place,
    configured: str | None,
    arguments: Mapping[str, Any],
    given: Settings,
    settings: Settings,
) -> _Described:
    """By the configuration beside the file, else by a model of timm that its name begins with, else by its shapes."""
    note = ""
    for spelled, extra, known, where in (
        (configured, arguments, given.otherwise(settings), "its config.json"),
        (named_model(path), {}, given, "its name"),
    ):
        if spelled is None:
            continue
        try:
            described = _as_model(place, spelled, extra, known, str(path))
        except MethodError:
            note = f"{where} names timm's {spelled}, which has other tensors"
            continue
        return replace(described, assumed=(f"that it is what {where} says", *described.assumed))
    inferred = infer(place, settings, str(path))
    kind = {"Eva": "an Eva ViT", "VisionTransformerDistilled": "a ViT with a distillation token"}
    built = inferred.architecture
    size = f"{built['depth']} blocks of width {built['embed_dim']}, patches of {built['patch_size']} px"
    tensors, dropped = fit(place, _shapes(built), str(path))
    assumed = (*inferred.assumed, *([note] if note else []))
    mean, std = inferred.statistics
    return _Described(built, tensors, dropped, mean, std, f"{kind.get(built['class'], 'a ViT')} of {size}", assumed)


def _as_model(place: names.Place, spelled: str, arguments: Mapping[str, Any], given: Settings, file: str) -> _Described:
    """A file that holds a model of timm, ``MODEL[.TAG]``. Raises MethodError where its tensors are others."""
    model = timm_model(spelled)
    require_promptable(model)
    architecture = {
        "model": model.name,
        "img_size": model.image_size,
        **arguments,
        "num_classes": 0,
        "dynamic_img_size": False,
    }
    if model.name.startswith("deit") and "distilled" in model.name:
        architecture.pop("dynamic_img_size")
    overrides = {"num_heads": given.heads, "act_layer": given.activation}
    architecture |= {name: value for name, value in overrides.items() if value is not None}
    if given.epsilon is not None:
        architecture["norm_layer"] = {"layer": "LayerNorm", "eps": given.epsilon}
    shapes = _shapes(architecture)
    positions = getattr(place.tensors.get("pos_embed"), "shape", None)
    if positions and "pos_embed" in shapes and tuple(positions) != shapes["pos_embed"]:
        architecture["img_size"] = _own_size(architecture, shapes, positions[1])
        shapes = _shapes(architecture)
    if given.feature is not None:
        held = {name: shapes.get(name, ()) for name in ("norm.weight", "fc_norm.weight") if name in shapes}
        kind = type(skeleton(architecture)).__name__
        architecture |= {"global_pool": given.feature, **pooling(kind, given.feature, held)}
        shapes = _shapes(architecture)
    tensors, dropped = fit(place, shapes, file)
    tagged = "." in spelled
    what = f"timm's {model.name}" + (
        f" with tag {model.tag}{', its default' if model.is_default else ''}" if tagged else ""
    )
    mean, std = given.mean or model.mean, given.std or model.std
    complete = tagged or (given.mean is not None and given.std is not None)
    assumed = () if complete else (f"mean and standard deviation of its default tag {model.tag}",)
    return _Described(architecture, tensors, dropped, mean, std, what, assumed)


def _own_size(architecture: Mapping[str, Any], shapes: Mapping[str, Shape], count: int) -> int:
    """The input size for which a file has ``count`` position embeddings; the model's where none fits."""
    vit = skeleton(architecture)
    places = shapes["pos_embed"][1] - vit.patch_embed.num_patches
    side = math.isqrt(max(count - places, 0))
    fits = side > 0 and side * side == count - places
    return side * vit.patch_embed.patch_size[0] if fits else int(architecture["img_size"])


def _shapes(architecture: Mapping[str, Any]) -> dict[str, Shape]:
    return {name: tuple(value.shape) for name, value in skeleton(architecture).state_dict().items()}


def _at_size(
    described: _Described,
    place: names.Place,
    others: list[names.Place],
    image_size: int | None,
    resample: Resample,
    file: str,
) -> ReadViT:
    vit = skeleton(described.architecture)
    if reason := obstacle(vit):
        raise MethodError(f"{file} holds {described.what}, which cannot be prompted: {reason}; use a plain ViT")
    own, patch = int(vit.patch_embed.img_size[0]), int(vit.patch_embed.patch_size[0])
    architecture, tensors, size = dict(described.architecture), dict(described.tensors), own
    sized = f"at its own {own} px"
    if image_size is not None and image_size != own:
        if image_size < patch or image_size % patch:
            near = max(1, round(image_size / patch)) * patch
            raise MethodError(
                f"image_size={image_size} is no multiple of {file}'s patches of {patch} px; the nearest is {near}"
            )
        architecture["img_size"] = size = image_size
        sized = f"at {size} px, its weights are for {own} px"
        if "pos_embed" in tensors:
            positions, grid = tensors["pos_embed"], vit.patch_embed.grid_size
            places, new = positions.shape[1] - grid[0] * grid[1], (size // patch, size // patch)
            tensors["pos_embed"] = resampled(positions, places, grid, new, antialias=resample == "antialias")
            sized += f" (position embeddings resampled {'with' if resample == 'antialias' else 'without'} antialiasing)"
    feature = str(vit.global_pool)
    reads = {"token": "class token", "avg": "mean of its patches", "map": "attention pool"}.get(feature, feature)
    reads = "mean of class and distillation token" if type(vit).__name__ == "VisionTransformerDistilled" else reads
    parts = [f"{described.what}, {sized}, feature {reads}", f"found {place.words} under {place.scheme.name}"]
    if others:
        parts.append(
            f"also there, not taken: {some(dict.fromkeys('/'.join((*other.entry, other.prefix)) for other in others))}"
        )
    if described.dropped:
        parts.append(f"left out: {some(described.dropped)}")
    if described.assumed:
        parts.append(f"assumed: {', '.join(described.assumed)}")
    mean, std = (tuple(float(value) for value in values) for values in (described.mean, described.std))
    return ReadViT(architecture, tensors, feature, mean, std, size, "; ".join(parts), dict(described.dropped))  # type: ignore[arg-type]
