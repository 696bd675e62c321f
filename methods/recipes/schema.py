"""A recipe's fields. The recipes are data in the other files of this folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

ANY = "*"
INFERRED = "inferred: "
"""Begins the source of a recipe that no paper or official script states; the reason for it follows."""


TAKEN = "taken from "
"""Begins the source of a recipe that was taken from another setting because the user asked for it."""


@dataclass(frozen=True)
class RecipeFrom:
    """Which recipe to take for a setting that has none of its own: the nearest one of the method, or one of a benchmark."""

    benchmark: str | None = None
    """None: the nearest, and only where the setting has no recipe."""
    backbone: str | None = None


@dataclass(frozen=True)
class TrainingRecipe:
    """Settings of a method on a benchmark with a backbone; what is not given is the default of the method's ``Config``."""

    method: str
    benchmark: str
    backbone: str
    source: str
    schedule: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the benchmark that belong to the recipe: transforms of training and test images."""
    tasks: int | None = None
    """The number of tasks it holds for; None = any."""

    @property
    def is_inferred(self) -> bool:
        """Whether it is this project's reading of its source, not what the source states."""
        return self.source.startswith(INFERRED)

    @property
    def is_taken(self) -> bool:
        """Whether it was taken from another setting."""
        return self.source.startswith(TAKEN)


def schedule_for(recipe: TrainingRecipe, tasks: int | None) -> dict[str, Any]:
    """The schedule with its nominal steps in proportion to the images of a task."""
    schedule = dict(recipe.schedule)
    for key, least in (("steps_per_epoch", 1), ("freeze_steps", 0)):
        if key in schedule and recipe.tasks and tasks:
            schedule[key] = max(least, schedule[key] * recipe.tasks // tasks)
    return schedule


def inferred(recipes: Iterable[TrainingRecipe], why: str, **changes: Any) -> list[TrainingRecipe]:
    """The recipes with ``changes``, marked as inferred for the reason given in ``why``; the first source stays readable."""
    return [
        replace(recipe, source=f"{INFERRED}{why}; {recipe.source.removeprefix(INFERRED)}", **changes)
        for recipe in recipes
    ]
