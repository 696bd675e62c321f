"""A backbone with another input size or another feature than its weights have, made whenever it is loaded.

Nothing is written: the record of a run names the weights and what was changed. Importing this module imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from smope_bench.methods.common.backbone.architectures import skeleton
from smope_bench.methods.common.backbone.backbones import (
    Backbone,
    BackboneSettings,
    Channels,
    Feature,
    Fetch,
    ProgressCallback,
    silent,
)
from smope_bench.methods.common.errors import MethodError

if TYPE_CHECKING:
    from smope_bench.methods.common.vit.vit import PromptedViT

POSITIONS = "pos_embed"


@dataclass(frozen=True)
class AdaptedBackbone(Backbone):
    """``base`` with ``settings``, of which every field that is not None changes something."""

    base: Backbone
    settings: BackboneSettings
    architecture: Mapping[str, Any]

    @classmethod
    def of(cls, base: Backbone, settings: BackboneSettings) -> Backbone:
        """``base`` adapted; ``base`` itself where the settings are its own. Raises MethodError for impossible ones."""
        size = settings.image_size if settings.image_size != base.image_size else None
        feature = settings.feature if settings.feature != base.feature else None
        if settings.resample and settings.image_size is None:
            raise MethodError(
                f"backbone.resample={settings.resample!r} changes nothing: position embeddings are resampled to another size"
                f" than {base.image_size} px only, given as backbone.image_size=N"
            )
        if not size and not feature:
            return base
        architecture = {**base.architecture, **({"img_size": size} if size else {})}
        vit = base.skeleton().vit
        if size:
            _require_grid(base, vit, size)
        if feature:
            architecture |= _with_feature(base, vit, feature)
        resample = (settings.resample or "antialias") if size else None
        return cls(base, BackboneSettings(image_size=size, resample=resample, feature=feature), architecture)

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The base's."""
        return self.base.name

    @property
    def summary(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The base's, and what was changed."""
        return f"{self.base.summary}, {self.settings.words}"

    @property
    def is_random(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The base's."""
        return self.base.is_random

    @property
    def is_rehearsal(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The base's."""
        return self.base.is_rehearsal

    @property
    def ships(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The base's."""
        return self.base.ships

    @property
    def mean(self) -> Channels | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The base's."""
        return self.base.mean

    @property
    def std(self) -> Channels | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The base's."""
        return self.base.std

    @property
    def licence(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The base's."""
        return self.base.licence

    @property
    def changes(self) -> BackboneSettings:
        """The settings."""
        return self.settings

    @property
    def is_verified(self) -> bool:
        """Whether the base's weights are."""
        return self.base.is_verified

    @property
    def sha256(self) -> str:
        """Hash of the base's weights."""
        return self.base.sha256

    @property
    def image_size(self) -> int:
        """Side in pixels of its input."""
        return self.settings.image_size or self.base.image_size

    @property
    def feature(self) -> str:
        """The feature of the settings, else the base's."""
        return self.settings.feature or self.base.feature

    @property
    def weight_count(self) -> int:
        """The base's."""
        return self.base.weight_count

    def at(self, root: Path) -> Backbone:
        """The same with its base under another data folder."""
        return self.base.at(root).adapted(self.settings)

    def prepare(self, fetch: Fetch, given: Any = (), progress: ProgressCallback = silent) -> None:
        """Prepare the base's weights."""
        self.base.prepare(fetch, given, progress)

    def verify(self) -> Path | None:
        """Verify the base's weights."""
        return self.base.verify()

    def load(self) -> PromptedViT:
        """The base's weights in the adapted architecture. Raises MethodError where they do not fit."""
        from smope_bench.methods.common.pretrained_files.any_vit.fitting import resampled

        old, new = cast("Any", self.base.load().vit), cast("Any", skeleton(self.architecture))
        tensors = {name: tensor for name, tensor in old.state_dict().items() if not name.startswith(self._unused)}
        if self.settings.image_size and POSITIONS in tensors:
            grid, positions = old.patch_embed.grid_size, tensors[POSITIONS]
            before = positions.shape[1] - grid[0] * grid[1]
            smooth = self.settings.resample != "plain"
            tensors[POSITIONS] = resampled(positions, before, grid, new.patch_embed.grid_size, antialias=smooth)
        return self.fill(new, tensors, assign=True)

    @property
    def _unused(self) -> tuple[str, ...]:
        return ("attn_pool.",) if self.settings.feature in ("token", "avg") else ()


def _require_grid(base: Backbone, vit: Any, size: int) -> None:
    height, width = vit.patch_embed.patch_size
    if size % height or size % width:
        near = max(height, round(size / height) * height)
        raise MethodError(
            f"backbone.image_size={size} cannot be divided into the {height} px patches of backbone {base.name!r}; use"
            f" {near}, for example"
        )


def _with_feature(base: Backbone, vit: Any, feature: Feature) -> dict[str, Any]:
    """The arguments that change the feature. Raises MethodError for one that the model does not have."""
    has = {"token": vit.cls_token is not None, "avg": True, "map": getattr(vit, "attn_pool", None) is not None}
    if not has[feature]:
        lacks = {"token": "class token", "map": "attention pool"}[feature]
        known = ", ".join(repr(name) for name, is_there in has.items() if is_there)
        raise MethodError(f"backbone.feature={feature!r}: backbone {base.name!r} has no {lacks}; use one of {known}")
    held = vit.state_dict()
    after = "fc_norm.weight" in held  # the norm stays where it is: timm would otherwise move it behind the mean
    if type(vit).__name__ == "Eva":
        before = "norm.weight" in held
        return {"global_pool": feature, "use_fc_norm": after, "use_post_transformer_norm": before}
    return {"global_pool": feature, "fc_norm": after}
