"""Typed settings of augmentation and normalisation; every field is part of a run's identity."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

Channels = tuple[float, float, float]

STATISTICS: dict[str, tuple[Channels, Channels]] = {
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
}
"""Mean and standard deviation of red, green and blue, of pixels in [0, 1], by name."""


def statistics_of(normalize: str) -> tuple[Channels, Channels]:
    """Mean and standard deviation of the channels, by name or written out as ``0.5,0.5,0.5/0.2,0.2,0.2``.

    Raises ValueError for any other text.
    """
    if normalize in STATISTICS:
        return STATISTICS[normalize]
    try:
        mean, std = (tuple(map(float, part.split(","))) for part in normalize.split("/"))
        if len(mean) == len(std) == 3 and min(std) > 0 and all(map(isfinite, mean + std)):
            return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])
    except ValueError:
        pass
    raise ValueError(
        f"Input should be {', '.join(map(repr, list(STATISTICS)[:-1]))} or {list(STATISTICS)[-1]!r}, or mean and standard"
        " deviation of red, green and blue such as 0.48,0.46,0.41/0.27,0.26,0.28"
    )


def normalize_text(mean: Sequence[float], std: Sequence[float]) -> str:
    """The setting ``normalize`` for these statistics: a name where they have one, else the numbers."""
    values = (tuple(map(float, mean)), tuple(map(float, std)))
    named = next((name for name, known in STATISTICS.items() if known == values), None)
    return named or "/".join(",".join(f"{value!r}" for value in part) for part in values)


Normalize = Annotated[str, AfterValidator(lambda text: normalize_text(*statistics_of(text)))]
"""Equal statistics have one spelling, so that a run has one identity."""
Interpolation = Literal["bilinear", "bicubic"]
Policy = Literal["imagenet", "cifar10", "svhn"]
"""AutoAugment's published policies."""


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
    """A random box, resized with antialiasing, then mirrored half of the time: torchvision's transform of that name.

    ``policy``, which came after the first records, is absent from a dump where there is none.
    """

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
    policy: Policy | None = Field(
        default=None,
        description="before that, operations on the whole picture that AutoAugment's policy of this name draws, with bilinear"
        " interpolation; none = no operation",
    )

    @model_serializer(mode="wrap")
    def _without_no_policy(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in dump(self).items() if key != "policy" or value is not None}

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
