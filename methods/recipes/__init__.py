"""Recipes: method x benchmark x backbone -> hyper-parameters. Data only: an unknown combination is refused.

``official`` has what the papers and their code state, with the section of the method's card as source, ``adapters`` and
``low_rank`` the same for adapters and low-rank updates; ``floors`` what this project chose for its floors and ceilings at that
scale; ``tiny`` the searched ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.recipes.adapters import ADAPTERS
from smope_bench.methods.recipes.floors import FLOORS
from smope_bench.methods.recipes.low_rank import LOW_RANK
from smope_bench.methods.recipes.official import OFFICIAL
from smope_bench.methods.recipes.schema import ANY, TAKEN, RecipeFrom, TrainingRecipe, schedule_for
from smope_bench.methods.recipes.tiny import TINY

__all__ = ["ANY", "GENERIC", "RECIPES", "RecipeFrom", "TrainingRecipe", "find_recipe"]

SMALL = 32
"""Side in pixels of the images that recipes without transforms of their own were made for."""
RECIPES: tuple[TrainingRecipe, ...] = (*TINY, *OFFICIAL, *ADAPTERS, *LOW_RANK, *FLOORS)

GENERIC = TrainingRecipe(
    ANY, ANY, ANY, "generic: not tuned for this combination", {"batch_size": 32, "epochs": 10, "lr": 0.005}
)
"""For methods and backbones from plugins and for users' own images, none of which are tuned; marked as such in the plan."""


def find_recipe(
    method: str,
    benchmark: str,
    backbone: str,
    *,
    tasks: int | None = None,
    own: bool = False,
    take: RecipeFrom | None = None,
    image_size: int | None = None,
) -> TrainingRecipe:
    """The recipe of a combination.

    ``own``: method, backbone or images are the user's, so that the generic recipe may be used. ``take``: which recipe to take
    from another setting, whose source then says so; ``image_size``: of the backbone, since the nearest one was made for such
    images. Raises MethodError for an unknown combination of built-in parts, naming the option that takes the nearest one.
    """
    setting = _Setting(method, benchmark, backbone, tasks, image_size)
    mine = [recipe for recipe in RECIPES if recipe.method == method]
    fits = [recipe for recipe in mine if setting.fits(recipe)]
    is_known = take is None or take.benchmark is None or any(_is_named(one, take, take.benchmark) for one in RECIPES)
    if take is not None and not mine and not is_known:  # of a plugin's method
        raise MethodError(_not_named("", list(RECIPES), take))
    if take is not None and take.benchmark is not None and mine:
        named = [recipe for recipe in mine if _is_named(recipe, take, take.benchmark)]
        if not named and any(recipe.benchmark == take.benchmark for recipe in RECIPES):
            named = [recipe for recipe in mine if _is_named(recipe, take, ANY)]
        if not named:
            raise MethodError(_not_named(method, mine, take))
        fits = [recipe for recipe in fits if recipe in named]
        return setting.best(fits) if fits else setting.taken(named)
    if fits:
        return setting.best(fits)
    if take is not None and mine:
        return setting.taken(mine)
    if own:
        return GENERIC
    asked = _combination(method, benchmark, backbone, tasks)
    if not mine:
        raise MethodError(f"there is no recipe for {asked}, and none for {method} at all")
    raise MethodError(
        f"there is no recipe for {asked}; the nearest known is {_combination_of(setting.nearest(mine))}:"
        " add --recipe nearest to take it"
    )


@dataclass(frozen=True)
class _Setting:
    """What a recipe is wanted for."""

    method: str
    benchmark: str
    backbone: str
    tasks: int | None
    image_size: int | None

    def fits(self, recipe: TrainingRecipe) -> bool:
        return (
            recipe.benchmark in (self.benchmark, ANY)
            and recipe.backbone in (self.backbone, ANY)
            and recipe.tasks in (self.tasks, None)
        )

    def best(self, fits: list[TrainingRecipe]) -> TrainingRecipe:
        """The most specific of those that fit."""
        return min(fits, key=lambda recipe: (recipe.benchmark == ANY, recipe.backbone == ANY, recipe.tasks is None))

    def nearest(self, recipes: list[TrainingRecipe]) -> TrainingRecipe:
        """The recipe that shares benchmark, then backbone, then image size, then comes nearest in tasks; the first of equals."""

        def shared(recipe: TrainingRecipe) -> tuple[bool, bool, int, int]:
            same = recipe.benchmark in (self.benchmark, ANY), recipe.backbone in (self.backbone, ANY)
            size = 0 if self.image_size is None else -abs(recipe.data.get("image_size", SMALL) - self.image_size)
            return (
                *same,
                size,
                0 if None in (self.tasks, recipe.tasks) else -abs((self.tasks or 0) - (recipe.tasks or 0)),
            )

        return max(recipes, key=shared)

    def taken(self, recipes: list[TrainingRecipe]) -> TrainingRecipe:
        """The nearest recipe as one for this setting; its source says where it is from."""
        near = self.nearest(recipes)
        schedule = schedule_for(near, self.tasks)
        steps = ", nominal steps in proportion" if schedule != dict(near.schedule) else ""
        source = f"{TAKEN}{_combination_of(near)}{steps}, not published for this setting; {near.source}"
        return replace(near, schedule=schedule, source=source, tasks=self.tasks)


def _is_named(recipe: TrainingRecipe, take: RecipeFrom, benchmark: str) -> bool:
    return recipe.benchmark == benchmark and recipe.backbone in (take.backbone or recipe.backbone, ANY)


def _not_named(method: str, mine: list[TrainingRecipe], take: RecipeFrom) -> str:
    asked = take.benchmark if take.backbone is None else f"{take.benchmark}:{take.backbone}"
    known = sorted({f"{recipe.benchmark}:{recipe.backbone}" for recipe in mine if recipe.benchmark != ANY})
    said = (
        f"{method} has no recipe of that; it has those of"
        if method
        else "no method has a recipe of that; there are those of"
    )
    return f"--recipe-of {asked}: {said} {', '.join(known)}"


def _combination_of(recipe: TrainingRecipe) -> str:
    return _combination(recipe.method, recipe.benchmark, recipe.backbone, recipe.tasks)


def _combination(method: str, benchmark: str, backbone: str, tasks: int | None) -> str:
    many = "" if tasks is None else f" in {tasks} task{'s' * (tasks != 1)}"
    return f"{method} on {benchmark if benchmark != ANY else 'any benchmark'}{many} with backbone {backbone}"
