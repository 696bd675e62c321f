"""The architecture of a ViT from the shapes of its tensors, and from evidence for what no shape shows."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.pretrained_files.any_vit.names import CLIP, HALF, IMAGENET, Place, Statistics, foreign

Shape = tuple[int, ...]

ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu", "silu", "relu")
HEADS_OF_WIDTH = {1152: 16, 1280: 16, 1408: 16, 1664: 16, 1792: 16}
"""Widths whose published ViTs do not have heads of 64 (those of timm 1.0.31)."""


@dataclass(frozen=True)
class Settings:
    """What shapes do not show: given by the user, or read beside the file. None: unknown."""

    heads: int | None = None
    epsilon: float | None = None
    activation: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    image_size: int | None = None
    feature: str | None = None

    def otherwise(self, other: Settings) -> Settings:
        """These settings, and those of ``other`` where they are unknown."""
        return Settings(
            *(mine if mine is not None else theirs for mine, theirs in zip(self._all(), other._all(), strict=True))
        )

    def _all(self) -> tuple[Any, ...]:
        return self.heads, self.epsilon, self.activation, self.mean, self.std, self.image_size, self.feature


@dataclass
class Inferred:
    """An architecture at the weights' own input size, its input statistics, and what had to be assumed."""

    architecture: dict[str, Any]
    statistics: Statistics
    grid: tuple[int, int]
    assumed: list[str] = field(default_factory=list)


def infer(place: Place, settings: Settings, file: str) -> Inferred:
    """The architecture of a ViT. Raises MethodError with what stands in the way of prompts."""
    shapes = {name: tuple(getattr(value, "shape", ())) for name, value in place.tensors.items()}
    if reason := foreign([*shapes, *place.beside]):
        raise MethodError(f"{file} {reason}: prompts cannot enter it; use a ViT of plain attention blocks")
    return _Reader(place, shapes, settings, file).inferred()


class _Reader:
    def __init__(self, place: Place, shapes: Mapping[str, Shape], settings: Settings, file: str) -> None:
        self.place = place
        self.shapes = shapes
        self.settings = settings
        self.file = file
        self.assumed: list[str] = []
        embedding = shapes["patch_embed.proj.weight"]
        if len(embedding) != 4 or embedding[1] != 3:
            raise MethodError(
                f"{file}: {place.original['patch_embed.proj.weight']!r} has shape {embedding}, expected (d, 3, p, p)"
            )
        self.width, self.patch = embedding[0], embedding[2:]
        self.depth = 1 + max(int(found[1]) for name in shapes if (found := re.match(r"blocks\.(\d+)\.", name)))

    def inferred(self) -> Inferred:
        eva = self._is_eva()
        dinov3 = eva and self._is_dinov3()
        prefix = ("cls_token" in self.shapes) + ("dist_token" in self.shapes) + self._registers()
        grid, embeds_prefix = self._grid(prefix, dinov3)
        architecture: dict[str, Any] = {
            "class": "Eva"
            if eva
            else "VisionTransformerDistilled"
            if "dist_token" in self.shapes
            else "VisionTransformer",
            "img_size": grid[0] * self.patch[0] if grid[0] == grid[1] else [side * self.patch[0] for side in grid],
            "patch_size": self.patch[0] if self.patch[0] == self.patch[1] else list(self.patch),
            "embed_dim": self.width,
            "depth": self.depth,
            "num_heads": self._heads(dinov3),
            "num_classes": 0,
        }
        optional = {
            "class_token": ("cls_token" in self.shapes, True),
            "no_embed_class": (not embeds_prefix and bool(prefix), False),
            "qk_norm": (self._has("attn.q_norm."), False),
        }
        epsilon = self._epsilon(dinov3)
        architecture |= {name: value for name, (value, default) in optional.items() if value != default}
        architecture |= self._mlp(eva) | (self._eva(dinov3) if eva else self._vit())
        if epsilon != 1e-6:
            architecture["norm_layer"] = {"layer": "LayerNorm", "eps": epsilon}
        architecture |= pooling(architecture["class"], self._feature(dinov3), self.shapes)
        statistics = self._statistics(dinov3)
        return Inferred(architecture, statistics, grid, self.assumed)

    def _has(self, part: str) -> bool:
        return any(name.startswith(f"blocks.0.{part}") for name in self.shapes)

    def _is_eva(self) -> bool:
        timm_names = self.place.scheme.name == "timm's names"
        own = self._has("attn.q_bias") or (timm_names and self._has("attn.q_proj."))
        return own or "pos_embed" not in self.shapes

    def _is_dinov3(self) -> bool:
        if "pos_embed" in self.shapes:
            return False
        rope = any(name.endswith("rope.freqs") for name in self.shapes)
        if {"cls_token", "reg_token"} <= set(self.shapes) and not rope:
            self.assumed.append("the rotary embedding of DINOv3, as it has registers and no position embedding")
            return True
        raise MethodError(
            f"{self.file} has no position embedding, and nothing beside it says which rotary embedding it has; put the"
            " config.json of its model beside it, or name its model of timm"
        )

    def _registers(self) -> int:
        return self.shapes["reg_token"][1] if "reg_token" in self.shapes else 0

    def _grid(self, prefix: int, dinov3: bool) -> tuple[tuple[int, int], bool]:
        """Rows and columns of patches, and whether the position embedding has places for the prefix tokens."""
        if "pos_embed" not in self.shapes:
            size = self.settings.image_size or (256 if dinov3 else 224)
            if self.settings.image_size is None:
                self.assumed.append(f"{size} px")
            return (size // self.patch[0], size // self.patch[1]), False
        count = self.shapes["pos_embed"][1]
        for places in (0, prefix) if self._registers() else (prefix, 0):
            side = math.isqrt(max(count - places, 0))
            if side and side * side == count - places:
                if prefix and not places and not self._registers():
                    self.assumed.append(
                        f"a square grid of {side} x {side} patches, with no place for the class token in its position embedding"
                    )
                return (side, side), bool(places)
        if "cls_token" not in self.shapes and math.isqrt(count - 1) ** 2 == count - 1:
            raise MethodError(f"{self.file} lacks a class token, but its position embedding has a place for one")
        raise MethodError(
            f"{self.file}: its position embedding has {count} places, no square grid with {prefix} or no tokens before it;"
            " images of benchmarks are square, so a backbone of rectangular images cannot be used"
        )

    def _heads(self, dinov3: bool) -> int:
        if self.settings.heads:
            return self._divided(self.settings.heads)
        norm = self.shapes.get("blocks.0.attn.q_norm.weight")
        if norm:
            return self._divided(self.width // norm[0])
        if self.width in HEADS_OF_WIDTH and not dinov3:
            return HEADS_OF_WIDTH[self.width]
        fitting = (count for count in range(1, self.width + 1) if self.width % count == 0 and self.width // count <= 64)
        heads = next(fitting)
        self.assumed.append(f"{heads} head{'s' * (heads > 1)} of {self.width // heads}")
        return heads

    def _divided(self, heads: int) -> int:
        if heads < 1 or self.width % heads:
            raise MethodError(
                f"{self.file}: its width {self.width} cannot be split into {heads} heads; give another number of heads"
            )
        return heads

    def _epsilon(self, dinov3: bool) -> float:
        if self.settings.epsilon is not None:
            return self.settings.epsilon
        clip = "norm_pre.weight" in self.shapes
        known = 1e-5 if dinov3 or clip else 1e-6 if "attn_pool.latent" in self.shapes else self.place.scheme.epsilon
        self.assumed.append(f"epsilon {known:g} in its norms")
        return known

    def _activation(self) -> str:
        if self.settings.activation is not None:
            if self.settings.activation not in ACTIVATIONS:
                raise MethodError(
                    f"{self.file}: its config.json names the activation {self.settings.activation!r}, which is not known; use"
                    f" --set backbone.activation=NAME with one of {', '.join(ACTIVATIONS)}"
                )
            return self.settings.activation
        openai = any(name.split(".")[-1] in ("input_resolution", "context_length") for name in self.place.beside)
        siglip = self.place.scheme.name == "transformers' CLIP names" and "attn_pool.latent" in self.shapes
        known = "quick_gelu" if openai else "gelu_tanh" if siglip else self.place.scheme.activation
        self.assumed.append(f"activation {known}")
        return known

    def _mlp(self, eva: bool) -> dict[str, Any]:
        gated = self._has("mlp.fc1_g.")
        try:
            first = self.shapes[f"blocks.0.mlp.{'fc1_g' if gated else 'fc1'}.weight"][0]
            second = self.shapes["blocks.0.mlp.fc2.weight"][1]
        except (KeyError, IndexError):
            raise MethodError(
                f"{self.file} lacks the MLP of its first block, or has one of another kind than timm's ViT"
            ) from None
        packed = not gated and first == 2 * second
        ratio = (second if eva else first) / self.width
        ratio = next((r for r in (ratio, ratio + 1e-9) if int(self.width * r) == (second if eva else first)), ratio)
        found: dict[str, Any] = {} if ratio == 4 else {"mlp_ratio": ratio}
        if self._has("mlp.norm."):
            found["scale_mlp" if eva else "scale_mlp_norm"] = True
        if eva and (gated or packed):
            return found | {"swiglu_mlp": True} | ({"swiglu_align_to": 1} if gated and "scale_mlp" not in found else {})
        if gated or packed:
            return found | {"mlp_layer": {"layer": "SwiGLU" if gated else "SwiGLUPacked"}, "act_layer": "silu"}
        activation = self._activation()
        if eva and activation != "gelu":
            raise MethodError(f"{self.file}: timm's Eva has GELU in its MLPs, not {activation}")
        return found if activation == "gelu" else found | {"act_layer": activation}

    def _vit(self) -> dict[str, Any]:
        optional = {
            "qkv_bias": (self._has("attn.qkv.bias") or self._has("attn.q_proj.bias"), True),
            "proj_bias": (self._has("attn.proj.bias"), True),
            "init_values": (1e-5 if self._has("ls1.gamma") else None, None),
            "reg_tokens": (self._registers(), 0),
            "pre_norm": ("norm_pre.weight" in self.shapes, False),
            "scale_attn_norm": (self._has("attn.norm."), False),
        }
        return {name: value for name, (value, default) in optional.items() if value != default}

    def _eva(self, dinov3: bool) -> dict[str, Any]:
        bias = any(self._has(f"attn.{name}") for name in ("q_bias", "qkv.bias", "q_proj.bias"))
        optional = {
            "qkv_bias": (bias, True),
            "qkv_fused": (dinov3 or not self._has("attn.q_proj."), True),
            "init_values": (1e-5 if self._has("ls1.gamma") else None, None),
            "num_reg_tokens": (self._registers(), 0),
            "use_pre_transformer_norm": ("norm_pre.weight" in self.shapes, False),
            "scale_attn_inner": (self._has("attn.norm."), False),
        }
        found: dict[str, Any] = {name: value for name, (value, default) in optional.items() if value != default}
        if dinov3:
            found |= {"use_abs_pos_emb": False, "use_rot_pos_emb": True, "rope_type": "dinov3"}
            return found | {"rope_temperature": 100, "rope_rotate_half": True}
        if self._has("mlp.fc1_g.") or self._has("attn.q_proj."):
            self.assumed.append("the rotary embedding of EVA-02")
            found |= {"use_rot_pos_emb": True, "ref_feat_shape": [16, 16]}
        return found

    def _feature(self, dinov3: bool) -> str:
        asked = self.settings.feature
        lacking = {"token": "cls_token", "map": "attn_pool.latent"}.get(asked or "")
        if lacking and lacking not in self.shapes:
            what = "class token" if asked == "token" else "attention pool"
            raise MethodError(
                f"{self.file} has no {what}, so its feature cannot be {asked!r}; leave the feature out, or take 'avg'"
            )
        if asked:
            return asked
        if "attn_pool.latent" in self.shapes:
            return "map"
        return "avg" if dinov3 or "cls_token" not in self.shapes or "fc_norm.weight" in self.shapes else "token"

    def _statistics(self, dinov3: bool) -> Statistics:
        clip = "norm_pre.weight" in self.shapes
        known = self.place.scheme.statistics
        if clip:
            known = CLIP
        elif "attn_pool.latent" in self.shapes:
            known = HALF
        elif dinov3:
            known = IMAGENET
        mean, std = self.settings.mean or known[0], self.settings.std or known[1]
        if self.settings.mean is None or self.settings.std is None:
            self.assumed.append(f"mean {_listed(mean)} and standard deviation {_listed(std)}")
        return mean, std  # type: ignore[return-value]


def pooling(kind: str, feature: str, shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """The arguments of a model class that make it give ``feature``, with its last norm where the weights have it."""
    after = "fc_norm.weight" in shapes
    if kind == "Eva":
        return {
            "global_pool": feature,
            "use_fc_norm": after,
            "use_post_transformer_norm": "norm.weight" in shapes or not after,
        }
    default = feature in ("avg", "avgmax", "max")
    return ({} if feature == "token" else {"global_pool": feature}) | ({} if after == default else {"fc_norm": after})


def _listed(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
