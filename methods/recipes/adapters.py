"""Recipes at paper scale of methods that adapt the backbone's weights: adapters and low-rank updates.

Values of the methods' official configuration files, as their cards record them; sources as in ``official``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smope_bench.methods.recipes.official import WIDE, with_other_counts
from smope_bench.methods.recipes.schema import TrainingRecipe, inferred

Values = Mapping[str, Any]

# -- EASE --------------------------------------------------------------------------------------------------------------

EASE_SGD: dict[str, Any] = {
    "epochs": 20,
    "optimizer": "sgd",
    "shape": "epoch_cosine",
    "epoch_lag": 0,
    "min_lr": 0.0,
    "drop_last": False,
}
EASE_SOURCE = "EASE card, section 7"


def _ease(benchmark: str, backbone: str, tasks: int, schedule: dict[str, Any], config: Values) -> TrainingRecipe:
    return TrainingRecipe("ease", benchmark, backbone, EASE_SOURCE, EASE_SGD | schedule, config, WIDE, tasks)


EASE_CIFAR: dict[str, Any] = {"batch_size": 48, "lr": 0.025, "weight_decay": 5e-4}
EASE_IMAGENET_R: dict[str, Any] = {"batch_size": 16, "lr": 0.05, "weight_decay": 5e-3}
EASE_CUB: dict[str, Any] = {"batch_size": 32, "lr": 0.008, "weight_decay": 5e-4}
EASE_STATED = [
    *(_ease("cifar100", backbone, 20, EASE_CIFAR, {}) for backbone in ("sup1k", "sup21k")),
    *(_ease("imagenet_r", backbone, 10, EASE_IMAGENET_R, {}) for backbone in ("sup1k", "sup21k")),
    *(_ease("imagenet_a", backbone, 10, EASE_IMAGENET_R | {"batch_size": 32}, {}) for backbone in ("sup1k", "sup21k")),
    _ease("cub200", "sup21k", 20, EASE_CUB, {"alpha": 0.05}),
    _ease(
        "cub200",
        "sup1k",
        20,
        EASE_CUB | {"batch_size": 16, "lr": 0.005},
        {"alpha": 0.005, "bare_features": True, "beta": 1.0},
    ),
]
EASE_FIVE = inferred(
    [_ease("five_datasets", "sup21k_orig", 5, EASE_CIFAR, {})], "no setting for 5-Datasets; as on CIFAR-100"
)
EASE_DOMAINNET = inferred(
    [_ease("domainnet_classes", "sup1k", 5, EASE_IMAGENET_R, {})], "no setting for DomainNet; as on ImageNet-R"
)
EASE = [*EASE_STATED, *EASE_FIVE, *EASE_DOMAINNET]

ADAPTERS: tuple[TrainingRecipe, ...] = tuple(with_other_counts([*EASE]))
