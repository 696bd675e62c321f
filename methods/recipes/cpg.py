"""Recipes of CPG at paper scale: values of the CPG card, section 6, on the AugReg weights of ImageNet-21k (``sup21k``).

"Ten epochs" of the paper are 100 passes: its loader lists every image ten times an epoch. Here a pass is an epoch, so there
are 100, and the rate falls after 40 and 70.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smope_bench.methods.recipes.schema import TrainingRecipe, inferred

STEPS: dict[str, Any] = {"optimizer": "adam", "weight_decay": 5e-5, "drop_last": False, "epoch_lag": 0}
HUNDRED_PASSES: dict[str, Any] = STEPS | {
    "batch_size": 360,
    "epochs": 100,
    "lr": 0.01,
    "shape": "milestones",
    "milestones": [40, 70],
}
SOURCE = "CPG card, section 6: 100 passes, as 10 epochs that list every image ten times"


def _images(policy: str, interpolation: str) -> dict[str, Any]:
    """AutoAugment and crops without a mirror image, normalised by the weights' own statistics."""
    crop = {"kind": "random_resized_crop", "scale": [0.08, 1.0], "flip": False, "interpolation": interpolation}
    return {
        "image_size": 224,
        "augment": crop | {"policy": policy},
        "test_resize": None,
        "test_interpolation": interpolation,
        "normalize": "half",
    }


PICTURES: dict[str, Any] = _images("imagenet", "bilinear") | {"test_resize": 256, "test_squeeze": True}


def _recipe(benchmark: str, tasks: int, config: Mapping[str, Any], data: Mapping[str, Any]) -> TrainingRecipe:
    return TrainingRecipe("cpg", benchmark, "sup21k", SOURCE, HUNDRED_PASSES, config, data, tasks)


ON_CIFAR = [_recipe("cifar100", tasks, {"temperature": 28.0}, _images("cifar10", "bicubic")) for tasks in (10, 20)]
ON_IMAGENET_R = [_recipe("imagenet_r", 10, {"temperature": 30.0}, PICTURES)]
ON_DOMAINNET = [_recipe("domainnet_200", 10, {"temperature": 30.0, "keep": 16}, PICTURES)]

CPG: tuple[TrainingRecipe, ...] = (
    *ON_CIFAR,
    *ON_IMAGENET_R,
    *ON_DOMAINNET,
    *(
        one
        for tasks in (50, 100)
        for one in inferred([*ON_IMAGENET_R, *ON_DOMAINNET], "as in 10 tasks, no script", tasks=tasks)
    ),
    *inferred(ON_IMAGENET_R, "as with sup21k, no script for these weights", backbone="ibot1k"),
)
