"""Models of timm's registry: their tags, input statistics and weights on this computer; and what lies beside a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from smope_bench.methods.common.backbone.backbones import is_channels
from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.pretrained_files.any_vit.structure import Settings

HUB_FILES = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")
WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".tar", ".npz", ".ckpt")

_ACTIVATIONS = {
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_python": "gelu",
    "swish": "silu",
    "swiglu": "silu",
}


@dataclass(frozen=True)
class TimmModel:
    """A model with one of its published sets of weights. ``hub`` and ``url``: where they are published, either may be empty."""

    name: str
    tag: str
    is_default: bool
    hub: str
    hub_files: tuple[str, ...]
    url: str
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def spelled(self) -> str:
        """``timm:MODEL.TAG``"""
        return f"timm:{self.name}.{self.tag}" if self.tag else f"timm:{self.name}"

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where its file is published."""
        hub = tuple(f"https://huggingface.co/{self.hub}/resolve/main/{file}" for file in self.hub_files[:1] if self.hub)
        return hub + ((self.url,) if self.url else ())

    def cached(self) -> Path | None:
        """Its file in the caches of Hugging Face and torch; no network."""
        import torch
        from huggingface_hub import try_to_load_from_cache

        if self.hub:
            found = (try_to_load_from_cache(self.hub, file) for file in self.hub_files)
            for path in found:
                if isinstance(path, str):
                    return Path(path)
        path = Path(torch.hub.get_dir()) / "checkpoints" / self.url.rsplit("/", 1)[-1]
        return path if self.url and path.is_file() else None


def timm_model(spelled: str) -> TimmModel:
    """The model of ``MODEL[.TAG]``, with or without ``timm:`` before it. Raises MethodError with the nearest names."""
    import timm

    name, _, tag = spelled.removeprefix("timm:").partition(".")
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=3)
        hint = f"; the nearest are {', '.join(near)}" if near else "; timm.list_models() lists them"
        raise MethodError(f"timm {timm.__version__} has no model {name!r}{hint}")
    tags = [full.partition(".")[2] for full in timm.list_models(f"{name}.*", include_tags=True, pretrained=True)]
    if tag and tag not in tags:
        near = get_close_matches(tag, tags, n=3, cutoff=0.3) or tags
        hint = f"; it has {', '.join(near)}" if near else "; it has none, so leave the tag out and give the file"
        raise MethodError(f"timm's model {name!r} has no weights tagged {tag!r}{hint}")
    config: Any = timm.get_pretrained_cfg(f"{name}.{tag}" if tag else name)
    default = timm.get_pretrained_cfg(name)
    return TimmModel(
        name=name,
        tag=tag or (getattr(config, "tag", None) or ""),
        is_default=not tag or getattr(default, "tag", None) == tag,
        hub=getattr(config, "hf_hub_id", None) or "",
        hub_files=(config.hf_hub_filename,) if getattr(config, "hf_hub_filename", None) else HUB_FILES,
        url=getattr(config, "url", None) or "",
        image_size=int(config.input_size[-1]) if config else 224,
        mean=tuple(config.mean) if config else (0.5, 0.5, 0.5),
        std=tuple(config.std) if config else (0.5, 0.5, 0.5),
    )


def named_model(file: Path) -> str | None:
    """``MODEL[.TAG]`` of timm with which a file's name begins, or which its folder in a cache is named after."""
    import timm

    hub = [part.removeprefix("models--timm--") for part in file.parts if part.startswith("models--timm--")]
    for text in (file.name, *hub):
        ends = [place for place, letter in enumerate(text) if letter in "._-"] + [len(text)]
        for end in sorted(ends, reverse=True):
            if "." not in text[:end] and timm.is_model(text[:end]):
                rest = text[end + 1 :]
                tags = timm.list_models(f"{text[:end]}.*", include_tags=True, pretrained=True)
                fitting = [tag for tag in tags if rest.startswith(tag.partition(".")[2])]
                return max(fitting, key=len, default=text[:end])
    return None


@dataclass(frozen=True)
class Beside:
    """What ``config.json`` and ``preprocessor_config.json`` beside a file show."""

    settings: Settings = field(default_factory=Settings)
    model: str | None = None
    arguments: Mapping[str, Any] | None = None


def beside(file: Path) -> Beside:
    """The evidence beside a file: of timm's hub or of transformers; nothing where the folder holds several models."""
    if file.name not in HUB_FILES and len([path for path in file.parent.iterdir() if path.suffix in WEIGHTS]) > 1:
        return Beside()
    config, processor = (_json(file.parent / name) for name in ("config.json", "preprocessor_config.json"))
    config = _inner(config, "vision_config") or config
    if isinstance(config.get("architecture"), str):
        published, arguments = _inner(config, "pretrained_cfg"), _inner(config, "model_args")
        settings = Settings(
            heads=_count(arguments.get("num_heads")),
            mean=_triple(published.get("mean")),
            std=_triple(published.get("std"), positive=True),
            feature=config.get("global_pool") if config.get("global_pool") in ("token", "avg", "map") else None,
        )
        return Beside(settings, config["architecture"], arguments)
    activation = config.get("hidden_act")
    return Beside(
        Settings(
            heads=_count(config.get("num_attention_heads")),
            epsilon=_small(config.get("layer_norm_eps")),
            activation=_ACTIVATIONS.get(activation, activation) if isinstance(activation, str) else None,
            mean=_triple(processor.get("image_mean")),
            std=_triple(processor.get("image_std"), positive=True),
        )
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _inner(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    inner = config.get(name)
    return inner if isinstance(inner, dict) else {}


def _count(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None


def _small(value: Any) -> float | None:
    return value if isinstance(value, float) and 0 < value < 1 else None


def _triple(values: Any, *, positive: bool = False) -> tuple[float, float, float] | None:
    fits = is_channels(values, positive=positive)
    return (float(values[0]), float(values[1]), float(values[2])) if fits else None
