"""Recipes of CPG at paper scale: values of the CPG card, section 6, on the AugReg weights of ImageNet-21k (``sup21k``).

"Ten epochs" of the paper are 100 passes: its loader lists every image ten times an epoch. Here a pass is an epoch, so there
are 100, and the rate falls after 40 and 70. Its AutoAugment is not built here, so all of them are inferred.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smope_bench.methods.recipes.schema import INFERRED, TrainingRecipe, inferred

STEPS: dict[str, Any] = {"optimizer": "adam", "weight_decay": 5e-5, "drop_last": False, "epoch_lag": 0}
HUNDRED_PASSES: dict[str, Any] = STEPS | {
    "batch_size": 360,
    "epochs": 100,
    "lr": 0.01,
    "shape": "milestones",
    "milestones": [40, 70],
}
PASSES = f"{INFERRED}100 passes as in the code (10 epochs, every image listed ten times), but without its AutoAugment"
CARD = "; CPG card, section 6"


def _images(test_resize: int | None, interpolation: str) -> dict[str, Any]:
    """Crops without a mirror image, normalised by the weights' own statistics."""
    crop = {"kind": "random_resized_crop", "scale": [0.08, 1.0], "flip": False, "interpolation": interpolation}
    return {
        "image_size": 224,
        "augment": crop,
        "test_resize": test_resize,
        "test_interpolation": interpolation,
        "normalize": "half",
    }


def _recipe(benchmark: str, tasks: int, temperature: float, data: Mapping[str, Any], test: str = "") -> TrainingRecipe:
    config, source = {"temperature": temperature}, f"{PASSES}{test}{CARD}"
    return TrainingRecipe("cpg", benchmark, "sup21k", source, HUNDRED_PASSES, config, data, tasks)


ON_CIFAR = [_recipe("cifar100", tasks, 28.0, _images(None, "bicubic")) for tasks in (10, 20)]
SQUARE = ", and test images keep their proportions, where its are squeezed to 256 x 256"
ON_IMAGENET_R = [_recipe("imagenet_r", 10, 30.0, _images(256, "bilinear"), SQUARE)]

CPG: tuple[TrainingRecipe, ...] = (
    *ON_CIFAR,
    *ON_IMAGENET_R,
    *(one for tasks in (50, 100) for one in inferred(ON_IMAGENET_R, "as in 10 tasks, no script", tasks=tasks)),
    *inferred(ON_IMAGENET_R, "as with sup21k, no script for these weights", backbone="ibot1k"),
)
