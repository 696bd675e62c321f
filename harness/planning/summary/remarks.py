"""Notes on planned runs: recipes of other settings, limits, settings of some rows only, schedules that rest at their floor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from smope_bench.benchmarks.suites import Column, Suite
from smope_bench.harness.planning.assets import image_settings, prepare_command
from smope_bench.harness.planning.planner import PlannedRun
from smope_bench.harness.planning.selection import CellSelector, Selection
from smope_bench.harness.registry.registry import Registries

MOST_AT_FLOOR = 0.2
"""Share of a run's optimisation steps at the floor rate above which ``plan`` and ``run`` warn."""
NAMED = 4
"""Places that a line names before it only counts them."""
TrainImages = Callable[[PlannedRun], int | None]
"""The number of training images of a run, held-out ones excluded; None where it is not known."""


def notes_of(run: PlannedRun, registries: Registries, images: TrainImages) -> list[str]:
    """What to know of one run: sentences that begin with ``note: `` or ``warning: ``."""
    from smope_bench.methods.recipes.schema import TAKEN

    limit = run.spec.benchmark.config.get("limit")
    found = [f"note: {note}" for note in run.notes]
    found += [f"note: recipe {run.recipe}"] if run.recipe.startswith(TAKEN) else []
    found += [f"note: limited to {limit} images a class, for trying out"] if limit else []
    warning = floor_warning(run, registries, images)
    return [*found, f"warning: {warning}"] if warning else found


def remarks(runs: Sequence[PlannedRun], notes: Sequence[Sequence[str]]) -> list[str]:
    """One line for each distinct note of some runs, with the rows and columns that it is about, then partial settings."""
    places: dict[str, dict[str, None]] = {}
    for run, found in zip(runs, notes, strict=True):
        for note in found:
            places.setdefault(note, {})[f"{run.row} on {run.benchmark}"] = None
    return [f"{note} ({_named(list(found))})" for note, found in places.items()] + _partial_settings(runs)


def further_columns(
    suites: Sequence[Suite], selection: Selection, registries: Registries, data_root: Path
) -> list[str]:
    """A line for each column that a suite has only where its images are prepared, which they are not: how to get it."""
    cells = CellSelector(selection, registries, data_root)

    def command(column: Column) -> str:
        settings = image_settings(column.benchmark, column.config, registries, data_root)
        return prepare_command([column.benchmark], registries, data_root, settings)

    return [
        f"note: {suite.name} also has the column {column.label!r} once its images are prepared: {command(column)}"
        for suite in suites
        for column in cells.unprepared(suite)
    ]


def _partial_settings(runs: Sequence[PlannedRun]) -> list[str]:
    """Settings that apply to some of the rows only."""
    rows = {(run.row, run.benchmark): run for run in runs}
    texts = dict.fromkeys(text for run in rows.values() for text in run.settings)
    applied = {text: [run for run in rows.values() if text in run.settings] for text in texts}
    return [
        f"note: --set {text} applies to {', '.join(dict.fromkeys(run.row for run in found))} only"
        for text, found in applied.items()
        if len(found) < len(rows)
    ]


def floor_warning(run: PlannedRun, registries: Registries, images: TrainImages) -> str:
    """A sentence on a schedule that leaves more than a fifth of the steps at its floor, with the remedy; empty otherwise.

    Counted over the tasks of the method's main phase, whose images are taken to be spread evenly over the classes.
    """
    from smope_bench.methods.common.api import Method
    from smope_bench.methods.common.schedules import FLOOR, Schedule, steps_at_floor

    schedule = Schedule(**run.spec.schedule)
    if schedule.shape != "coswm" or (schedule.freeze_steps == 0 and schedule.steps_per_epoch is None):
        return ""  # such a schedule never rests at its floor; the images need not be counted
    method, total = registries.methods.load(run.method), images(run)
    if method.fit_task is not Method.fit_task or total is None:
        return ""
    config = run.spec.benchmark.config
    sizes = config.get("split") or [1] * int(config["tasks"])
    shares = [1.0] if method.trains_jointly else [size / sum(sizes) for size in sizes]
    loaders = [_loader_steps(round(total * share), schedule.batch_size, schedule.drop_last) for share in shares]
    steps, idle = sum(loaders) * schedule.epochs, sum(steps_at_floor(schedule, each) for each in loaders)
    if idle <= MOST_AT_FLOOR * steps:
        return ""
    mended = "" if schedule.freeze_steps == 0 else f" --set {run.method}.schedule.freeze_steps=0"
    mended += "" if schedule.steps_per_epoch is None else f" --set {run.method}.schedule.steps_per_epoch=null"
    return f"{idle} of {steps} optimisation steps run at the floor rate {FLOOR:g}, where nothing is learnt; add{mended}"


def _loader_steps(images: int, batch_size: int, drop_last: bool) -> int:
    whole, rest = divmod(images, batch_size)
    return max(1, whole + (rest > 0 and not drop_last))


def _named(places: Sequence[str]) -> str:
    more = f" and {len(places) - NAMED} more" if len(places) > NAMED else ""
    return "; ".join(places[:NAMED]) + more
