"""Recipes: method x benchmark x backbone -> hyper-parameters. Data only: an unknown combination is refused.

``official`` has what the papers and their code state, with the section of the method's card as source; ``floors`` what this project
chose for its floors and ceilings at that scale; ``tiny`` the searched ones.
"""

from __future__ import annotations

from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.recipes.floors import FLOORS
from smope_bench.methods.recipes.official import OFFICIAL
from smope_bench.methods.recipes.schema import ANY, TrainingRecipe
from smope_bench.methods.recipes.tiny import TINY

__all__ = ["ANY", "GENERIC", "RECIPES", "TrainingRecipe", "find_recipe"]

RECIPES: tuple[TrainingRecipe, ...] = (*TINY, *OFFICIAL, *FLOORS)

GENERIC = TrainingRecipe(
    ANY, ANY, ANY, "generic: not tuned for this combination", {"batch_size": 32, "epochs": 10, "lr": 0.005}
)
"""For methods and backbones from plugins and for users' own images, none of which are tuned; marked as such in the plan."""


def find_recipe(
    method: str, benchmark: str, backbone: str, *, tasks: int | None = None, own: bool = False
) -> TrainingRecipe:
    """The recipe of a combination. ``own``: method, backbone or images are the user's, so that the generic recipe may be used.

    Raises MethodError for an unknown combination of built-in parts, naming the nearest known one.
    """
    fits = [
        recipe
        for recipe in RECIPES
        if recipe.method == method
        and recipe.benchmark in (benchmark, ANY)
        and recipe.backbone in (backbone, ANY)
        and recipe.tasks in (tasks, None)
    ]
    if fits:
        return min(fits, key=lambda recipe: (recipe.benchmark == ANY, recipe.backbone == ANY, recipe.tasks is None))
    if own:
        return GENERIC
    asked = _combination(method, benchmark, backbone, tasks)
    nearest = _nearest(method, benchmark, backbone, tasks)
    known = _combination(nearest.method, nearest.benchmark, nearest.backbone, nearest.tasks)
    raise MethodError(f"there is no recipe for {asked}; the nearest known is {known}")


def _combination(method: str, benchmark: str, backbone: str, tasks: int | None) -> str:
    many = "" if tasks is None else f" in {tasks} task{'s' * (tasks != 1)}"
    return f"{method} on {benchmark if benchmark != ANY else 'any benchmark'}{many} with backbone {backbone}"


def _nearest(method: str, benchmark: str, backbone: str, tasks: int | None) -> TrainingRecipe:
    def shared(recipe: TrainingRecipe) -> tuple[int, int]:
        same = 4 * (recipe.method == method) + 2 * (recipe.benchmark == benchmark) + (recipe.backbone == backbone)
        return same, 0 if None in (tasks, recipe.tasks) else -abs((tasks or 0) - (recipe.tasks or 0))

    return max(RECIPES, key=shared)
