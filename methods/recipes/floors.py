"""Floors, references and ceilings at paper scale. None of them has a published recipe in this setting: all are inferred.

They get the recipe that the main method has on a benchmark, less its own parts, so that a difference in a table is a
difference in method and not in training. The ceilings see all images at once: as many epochs, the rate falling over the
steps that there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from smope_bench.methods.recipes.official import SELF_SUPERVISED, SMOPE, STANDARD, with_other_counts
from smope_bench.methods.recipes.schema import INFERRED, TrainingRecipe

AS_THE_MAIN = f"{INFERRED}as SMoPE on the same benchmark without its own parts; SMoPE card, section 7"
AT_ONCE = f"{INFERRED}all images at once, SMoPE's batch, epochs and rates, cosine over the steps; SMoPE card, section 7"
CLOSED = f"{INFERRED}closed form on images without augmentation; SMoPE card, section 6"
EXPANDED = f"{INFERRED}expansion as published; first-task prompt as SMoPE's; SMoPE card, section 7"

BACKBONES: dict[str, tuple[str, ...]] = {
    "cifar100": (STANDARD["cifar100"], "sup21k_orig"),
    "imagenet_r": (STANDARD["imagenet_r"], "sup21k_orig", *SELF_SUPERVISED),
    "cub200": (STANDARD["cub200"], "sup21k_orig"),
}


def _of(
    main: TrainingRecipe, method: str, source: str, schedule: Mapping[str, Any], config: Mapping[str, Any]
) -> TrainingRecipe:
    return replace(main, method=method, source=source, schedule=schedule, config=config)


def _beside(main: TrainingRecipe) -> Iterator[TrainingRecipe]:
    """All floors, references and ceilings for one recipe of the main method."""
    switched_off = {"tap": {**main.config["tap"], "enabled": False}}
    at_once = {key: main.schedule[key] for key in ("batch_size", "epochs", "lr")} | {"shape": "plain_cosine"}
    yield _of(main, "one_prompt", AS_THE_MAIN, main.schedule, switched_off)
    yield _of(main, "linear_probe", AS_THE_MAIN, main.schedule, switched_off)
    yield _of(main, "ranpac", EXPANDED, main.schedule, {})
    yield _of(main, "joint", AT_ONCE, at_once, {})
    yield _of(main, "joint_head", AT_ONCE, at_once, {})
    still = {**main.data, "augment": {"kind": "none"}}
    for method in ("ncm", "ridge"):
        yield replace(_of(main, method, CLOSED, {"batch_size": 128}, {}), data=still)


def _all() -> Iterator[TrainingRecipe]:
    for main in with_other_counts(SMOPE):
        for backbone in BACKBONES[main.benchmark]:
            if main.tasks == 10 or backbone not in SELF_SUPERVISED:
                yield from _beside(replace(main, backbone=backbone))


FLOORS: tuple[TrainingRecipe, ...] = tuple(_all())
