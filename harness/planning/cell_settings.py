"""The settings of a table cell before the user's: what its column, its row, its recipe and its backbone give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from smope_bench.benchmarks.augmentation import normalize_text
from smope_bench.benchmarks.suites import Row
from smope_bench.harness.planning.settings import has_field

if TYPE_CHECKING:
    from smope_bench.methods.common.backbone.backbones import Backbone
    from smope_bench.methods.recipes import TrainingRecipe


def without_replaced(protocol: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A column's settings less its number of tasks where the user gives a split alone, and the other way round."""
    stated = given.keys() & {"tasks", "split"}
    other = {"tasks": "split", "split": "tasks"}
    replaced = other[stated.pop()] if len(stated) == 1 else None
    return {key: value for key, value in protocol.items() if key != replaced}


def recipe_transforms(recipe: TrainingRecipe, backbone: Any) -> Mapping[str, Any]:
    """The recipe's transforms; none of a recipe that was taken from images of another size than the backbone's."""
    if recipe.is_taken and recipe.data.get("image_size", backbone.image_size) != backbone.image_size:
        return {}
    return recipe.data


def fitted_to(values: Mapping[str, Any], backbone: Backbone) -> dict[str, Any]:
    """Settings of a benchmark with the backbone's own input size and normalisation, where it has one.

    The shorter side at test is scaled along, so that the same share of a picture is seen.
    """
    size, found = backbone.image_size, dict(values)
    if found.get("test_resize") and found.get("image_size"):
        found["test_resize"] = round(found["test_resize"] * size / found["image_size"])
    if backbone.mean is not None and backbone.std is not None:
        found["normalize"] = normalize_text(backbone.mean, backbone.std)
    return found | {"image_size": size}


def row_settings(row: Row, config: type[Any], schedule: type[Any]) -> dict[str, dict[str, Any]]:
    """A row's settings by scope: those under ``schedule``, or that only the schedule has, are the schedule's."""
    own, of_schedule = dict(row.settings), dict[str, Any]()
    if not has_field(config, ("schedule",)) and isinstance(own.get("schedule"), Mapping):
        of_schedule = dict(own.pop("schedule"))
    for name in list(own):
        if not has_field(config, (name,)) and has_field(schedule, (name,)):
            of_schedule[name] = own.pop(name)
    return {row.method: own, "schedule": of_schedule}
