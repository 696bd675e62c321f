"""Recipes in words: settings under dotted names, schedules in a line, recipes that differ in the number of tasks alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from smope_bench.harness.console import counted

if TYPE_CHECKING:  # a suite is described without PyTorch
    from smope_bench.methods.common.schedules import Schedule
    from smope_bench.methods.recipes import TrainingRecipe


def grouped(recipes: Iterable[TrainingRecipe]) -> Iterator[tuple[TrainingRecipe, str]]:
    """Recipes, with those that differ only in the number of tasks merged into one, and the numbers of tasks as text.

    One that holds for every number has ``any``.
    """
    groups: list[tuple[TrainingRecipe, list[int]]] = []
    for recipe in recipes:
        alike, count = replace(recipe, tasks=None), recipe.tasks or 0
        known = next((counts for other, counts in groups if other == alike), None)
        if known is None:
            groups.append((alike, [count]))
        else:
            known.append(count)
    for recipe, counts in groups:
        yield recipe, ", ".join(str(count) for count in sorted(counts) if count) or "any"


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names, as on the command line."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def settings_text(values: Mapping[str, Any]) -> str:
    """``epsilon 0.4, tap.samples 128``; a dash without any."""
    return ", ".join(f"{key} {value_text(value)}" for key, value in values.items()) or "–"


def value_text(value: Any) -> str:
    """A value as people read it: ``yes``, ``unset``, ``0.08 1``."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return " ".join(value_text(item) for item in value)
    return {True: "yes", False: "no", None: "unset"}[value] if value is None or isinstance(value, bool) else str(value)


def schedule_text(schedule: Schedule) -> str:
    """``batch 64, 20 epochs, lr 0.0025, cosine, last batch dropped``."""
    shape: str = schedule.shape
    if schedule.shape == "coswm" and (schedule.steps_per_epoch or schedule.freeze_steps):
        shape += f" ({schedule.steps_per_epoch} nominal steps an epoch, {schedule.freeze_steps} at the floor)"
    elif schedule.shape == "step":
        shape += f" (x{schedule.decay_factor:g} every {schedule.decay_epochs} epochs)"
    elif schedule.shape == "epoch_cosine":
        shape += f" (to {schedule.min_lr:g})"
    elif schedule.shape == "milestones":
        shape += f" (x{schedule.decay_factor:g} from epoch {value_text(schedule.milestones)} on)"
    if not schedule.epoch_lag and schedule.shape in ("step", "epoch_cosine", "milestones"):
        shape += " without lag"
    parts = [f"batch {schedule.batch_size}", counted(schedule.epochs, "epoch"), f"lr {schedule.lr:g}", shape]
    momentum = (
        f" with {'Nesterov ' * schedule.nesterov}momentum {schedule.sgd_momentum:g}" if schedule.sgd_momentum else ""
    )
    names = {"adamw": [], "adam": ["Adam"], "sgd": [f"SGD{momentum}"]}
    parts += names[schedule.optimizer]
    parts += [f"clip {schedule.grad_clip:g}"] if schedule.grad_clip else []
    parts += [f"weight decay {schedule.weight_decay:g}"] if schedule.weight_decay else []
    return ", ".join([*parts, "last batch dropped" if schedule.drop_last else "last batch kept"])
