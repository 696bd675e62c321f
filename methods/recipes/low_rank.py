"""Recipes at paper scale of the low-rank updates, values of their official code as their cards record them; see ``official``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smope_bench.methods.recipes.official import PLAIN, WIDE, with_other_counts
from smope_bench.methods.recipes.schema import TrainingRecipe, inferred

Values = Mapping[str, Any]

# -- InfLoRA -----------------------------------------------------------------------------------------------------------

INFLORA_SOURCE = "InfLoRA card, section 5"
INFLORA_ADAM: dict[str, Any] = {
    "batch_size": 128,
    "lr": 5e-4,
    "shape": "cosine",
    "optimizer": "adam",
    "drop_last": False,
}
ADAM_20, ADAM_50 = INFLORA_ADAM | {"epochs": 20}, INFLORA_ADAM | {"epochs": 50}
FEWER: dict[str, Any] = {"threshold": 0.98}


def _inflora(benchmark: str, tasks: int, schedule: Values, config: Values, backbone: str = "sup21k") -> TrainingRecipe:
    return TrainingRecipe("inflora", benchmark, backbone, INFLORA_SOURCE, schedule, config, PLAIN[benchmark], tasks)


SGD_5: dict[str, Any] = INFLORA_ADAM | {
    "epochs": 5,
    "lr": 0.005,
    "optimizer": "sgd",
    "shape": "milestones",
    "milestones": [4],
    "epoch_lag": 0,
}
INFLORA_STATED = [
    _inflora("cifar100", 10, ADAM_20, {}),
    *(_inflora("imagenet_r", tasks, ADAM_50, FEWER) for tasks in (5, 10, 20)),
    _inflora("domainnet_classes", 5, SGD_5, {"rank": 30, "head_lr_mult": 2.0}),
]
INFLORA = [
    *INFLORA_STATED,
    *inferred(INFLORA_STATED, "as with the weights sup21k, no setting for these", backbone="sup1k"),
    *inferred([_inflora("cub200", 10, ADAM_50, FEWER)], "no setting for CUB-200; as on ImageNet-R"),
    *inferred([_inflora("five_datasets", 5, ADAM_20, {}, "sup21k_orig")], "no setting for 5-Datasets; as on CIFAR-100"),
]

# -- SD-LoRA -----------------------------------------------------------------------------------------------------------

SD_LORA_SOURCE = "SD-LoRA card, section 6"
SD_LORA_SGD: dict[str, Any] = {
    "batch_size": 128,
    "epochs": 20,
    "shape": "constant",
    "optimizer": "sgd",
    "drop_last": False,
}


def _sd_lora(benchmark: str, tasks: int, lr: float, backbone: str = "sup1k") -> TrainingRecipe:
    schedule = SD_LORA_SGD | {"lr": lr}
    return TrainingRecipe("sd_lora", benchmark, backbone, SD_LORA_SOURCE, schedule, {}, WIDE, tasks)


FALLING: dict[str, Any] = SD_LORA_SGD | {
    "epochs": 10,
    "lr": 0.02,
    "shape": "milestones",
    "milestones": [4, 6, 8],
    "decay_factor": 0.005,
    "epoch_lag": 0,
}
SD_LORA_DOMAINNET = TrainingRecipe(
    "sd_lora",
    "domainnet_classes",
    "sup1k",
    f"{SD_LORA_SOURCE}: configured, though its code cannot read the data",
    FALLING,
    data=WIDE,
    tasks=5,
)
SD_LORA_STATED = [
    _sd_lora("cifar100", 10, 0.008),
    *(_sd_lora("imagenet_r", tasks, 0.01) for tasks in (5, 10, 20)),
    SD_LORA_DOMAINNET,
]
SD_LORA = [
    *SD_LORA_STATED,
    *inferred(SD_LORA_STATED, "as with the weights sup1k, no setting for these", backbone="sup21k"),
    *inferred(
        [_sd_lora("imagenet_a", 10, 0.01)],
        "the rate of the logs; the configuration's falls, and is halved after task 1",
    ),
    *inferred([_sd_lora("cub200", 10, 0.01, "sup21k")], "no setting for CUB-200; as on ImageNet-R"),
    *inferred([_sd_lora("five_datasets", 5, 0.008, "sup21k_orig")], "no setting for 5-Datasets; as on CIFAR-100"),
]

LOW_RANK: tuple[TrainingRecipe, ...] = tuple(with_other_counts([*INFLORA, *SD_LORA]))
