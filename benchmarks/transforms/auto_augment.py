"""AutoAugment on single pictures: torchvision's transform, whose random numbers are drawn beforehand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from smope_bench.benchmarks.augmentation import Policy

DRAWS = 5
"""Numbers of one picture, uniform on [0, 1): which pair of operations, whether each is applied, and the sign of each."""


def auto_augmented(image: Image.Image, policy: Policy, draws: Sequence[float]) -> Image.Image:
    """A picture of any size under the published policy of that name, with bilinear interpolation and black borders.

    ``draws``: ``DRAWS`` numbers.
    """
    from torchvision.transforms import AutoAugment, AutoAugmentPolicy, InterpolationMode  # half a second to import

    place, *rest = draws

    class Drawn(AutoAugment):
        @staticmethod
        def get_params(transform_num: int) -> tuple[int, Tensor, Tensor]:
            signs = (torch.tensor(rest[2:], dtype=torch.float64) * 2).long()
            return int(place * transform_num), torch.tensor(rest[:2], dtype=torch.float64), signs

    found = Drawn(AutoAugmentPolicy(policy), InterpolationMode.BILINEAR)(image)
    assert isinstance(found, Image.Image)  # torchvision's annotation knows tensors only
    return found
