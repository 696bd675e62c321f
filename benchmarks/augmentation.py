"""Typed settings of augmentation and normalisation; every field is part of a run's identity."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Normalize = Literal["none", "imagenet", "half", "cifar100"]
Interpolation = Literal["bilinear", "bicubic"]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class NoAugmentation(_Settings):
    """No augmentation: features of a frozen network can be computed once."""

    kind: Literal["none"] = "none"


class Affine(_Settings):
    """A random shift, zoom and rotation about the centre; the border is repeated."""

    kind: Literal["affine"] = "affine"
    shift: float = Field(
        default=0.05, ge=0, le=0.5, description="largest shift along each axis, as a fraction of the side"
    )
    scale: float = Field(
        default=0.1, ge=0, le=1, description="largest zoom: factors lie in [1 / (1 + scale), 1 + scale]"
    )
    rotate: float = Field(default=0.0, ge=0, le=180, description="largest rotation in degrees, either way")


class RandomResizedCrop(_Settings):
    """A random box, resized with antialiasing, then mirrored half of the time: torchvision's transform of that name."""

    kind: Literal["random_resized_crop"] = "random_resized_crop"
    scale: tuple[float, float] = Field(
        default=(0.08, 1.0), description="range of the box's area, as a fraction of the image's"
    )
    ratio: tuple[float, float] = Field(
        default=(3 / 4, 4 / 3), description="range of the box's width divided by its height"
    )
    flip: bool = Field(default=True, description="mirror left and right with probability 0.5")
    interpolation: Interpolation = Field(default="bilinear", description="filter of the resize, with antialiasing")
    brightness: float = Field(
        default=0.0, ge=0, le=1, description="pixels are multiplied by a factor from [1 - brightness, 1 + brightness]"
    )

    @model_validator(mode="after")
    def _ranges_rise(self) -> Self:
        low, high = self.scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"scale={low},{high} must rise within (0, 1]")
        low, high = self.ratio
        if not 0 < low <= high:
            raise ValueError(f"ratio={low},{high} must be positive and rise")
        return self


Augmentation = Annotated[NoAugmentation | Affine | RandomResizedCrop, Field(discriminator="kind")]
