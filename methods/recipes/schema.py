"""A recipe's fields. The recipes are data in the other files of this folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

ANY = "*"
INFERRED = "inferred: "
"""Begins the source of a recipe that no paper or official script states; the reason for it follows."""


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


def inferred(recipes: Iterable[TrainingRecipe], why: str, **changes: Any) -> list[TrainingRecipe]:
    """The recipes with ``changes``, marked as inferred for the reason given in ``why``; the first source stays readable."""
    return [
        replace(recipe, source=f"{INFERRED}{why}; {recipe.source.removeprefix(INFERRED)}", **changes)
        for recipe in recipes
    ]
