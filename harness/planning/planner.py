"""From suites to runs: every default spelled out, every name checked, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.suites import Column, Row, Suite
from smope_bench.harness.errors import UserError, did_you_mean
from smope_bench.harness.planning.cell_settings import fitted_to, recipe_transforms, row_settings, without_replaced
from smope_bench.harness.planning.compatibility import CompatibilityChecker
from smope_bench.harness.planning.own_backbones import Notify, find_backbone, to_stderr, without_file_settings
from smope_bench.harness.planning.selection import CellSelector, Selection, place
from smope_bench.harness.planning.settings import (
    BACKBONE,
    Seeds,
    Setting,
    in_effect,
    merged,
    parse_setting,
    placed_setting,
    scoped,
    validated,
    values_of,
)
from smope_bench.harness.planning.suites.find import find_suites
from smope_bench.harness.records.observations import require_observable
from smope_bench.harness.registry.registry import BUILT_IN, Registries
from smope_bench.harness.run_spec import (
    BackboneRef,
    CanonicalTexts,
    Component,
    RunSpec,
    canonical_json,
    run_id_of_text,
)
from smope_bench.harness.text import option_words
from smope_bench.methods.common.backbone.backbones import Backbone, BackboneSettings
from smope_bench.methods.common.errors import MethodError

if TYPE_CHECKING:
    from smope_bench.benchmarks.base import Protocol

MISSING = "missing"
Supply = Callable[[Any], None]


@dataclass(frozen=True)
class PlannedRun:
    """One cell entry of one suite's table."""

    suite: str
    row: str
    method: str
    benchmark: str
    spec: RunSpec
    leaking: bool = False
    recipe: str = ""
    settings: tuple[str, ...] = ()
    """The user's ``--set`` texts that apply to this run."""
    observe: tuple[str, ...] = ()
    """Names of what figures need of the run beside accuracies; not part of its identity, since it changes no number."""
    protocol: Protocol = "class"
    notes: tuple[str, ...] = ()
    """What the benchmark says of a user's own images."""
    command: tuple[str, ...] = ()
    """Words of the command that does this run, without the results folder; empty where none does it alone."""

    @property
    def lacks_weights(self) -> bool:
        """Whether the backbone's weights were missing when this was planned: such a run has no final id yet."""
        return self.spec.backbone.sha256 == MISSING

    @cached_property
    def run_id(self) -> str:
        """Identity of the run; two suites may plan the same one."""
        return self.spec.run_id


def plan(
    names: Sequence[str],
    selection: Selection,
    registries: Registries,
    data_root: Path,
    supply: Supply | None = None,
    notify: Notify = to_stderr,
) -> list[PlannedRun]:
    """All runs of some suites, in the order of their tables. Raises UserError and the rooms' errors; trains nothing.

    ``supply`` is called with a backbone whose weights are missing; without it such runs are planned as lacking weights. A
    user's own weights file is imported into the data folder here, and ``notify`` called with what it is.
    """
    settings, described = without_file_settings(selection.settings)
    validated(BackboneSettings, scoped(settings, "backbone"), "backbone")  # before anything is imported
    name = find_backbone(selection.backbone, registries, data_root, notify, described)
    selection = replace(selection, backbone=name, settings=settings)
    planner = Planner(selection, registries, data_root, supply, notify)
    runs = [run for suite in find_suites(names) for run in planner.runs(suite)]
    planner.require_all_settings_used(runs)
    return runs


class Planner:
    """Turns table cells into run specs for one selection; opens each benchmark once."""

    def __init__(
        self,
        selection: Selection,
        registries: Registries,
        data_root: Path,
        supply: Supply | None = None,
        notify: Notify = to_stderr,
    ) -> None:
        self.selection = selection
        self.registries = registries
        self.data_root = data_root
        self._supply = supply
        self._weights: dict[str, str] = {}
        self._backbones: dict[tuple[str, BackboneSettings], Backbone] = {}
        self._used = {setting.text for setting in selection.settings if setting.path == BACKBONE}
        self._used_of_suites: list[Setting] = []
        self._benchmarks: dict[str, Any] = {}
        self._protocols: dict[str, Protocol] = {}
        self._notes: dict[str, tuple[str, ...]] = {}
        self._fitting = CompatibilityChecker()
        self._cells = CellSelector(selection, registries, data_root, notify)

    def runs(self, suite: Suite) -> list[PlannedRun]:
        """All runs of a suite: column by column, row by row, seed by seed."""
        seeds = self.selection.seeds or tuple(Seeds(seed, seed) for seed in suite.seeds)
        runs = [
            run
            for column in self._cells.columns(suite)
            for row in self._cells.rows(suite)
            for run in self._cell(suite, row, column, seeds)
        ]
        if suite.file and not self.selection.methods:
            for setting in map(parse_setting, suite.settings):
                if setting not in self._used_of_suites:
                    raise UserError(f"{suite.file!r}, settings: {_unused_setting(setting, runs, self.registries)}")
        return runs

    def _cell(self, suite: Suite, row: Row, column: Column, seeds: Sequence[Seeds]) -> list[PlannedRun]:
        from smope_bench.benchmarks.protocol import require_order_seed

        try:
            spec, recipe, by_hand = self.spec(row, column, suite.settings)
            method = self.registries.methods.load(row.method)
            leaking = method.leaks(method.Config(**spec.method.config))
            for seed in seeds:
                require_order_seed(spec.benchmark.config.get("class_order"), seed.order)
            require_observable(
                suite.observe,
                method.observes,
                method=row.method,
                asker=f"suite {suite.name!r}",
                has_validation=spec.benchmark.config.get("holdout", 0) > 0,
            )
        except (UserError, BenchmarkError, MethodError) as error:
            if not suite.file:
                raise
            raise UserError(f"{place(suite, row, column)}{error}") from error
        plain = spec.model_dump(mode="json")
        runs = [
            PlannedRun(
                suite=suite.name,
                row=row.label,
                method=row.method,
                benchmark=column.label,
                spec=spec.model_copy(update={"order_seed": seed.order, "train_seed": seed.train}),
                leaking=leaking,
                recipe=recipe,
                settings=by_hand,
                observe=suite.observe,
                protocol=self._protocols[column.label],
                notes=self._notes.get(column.label, ()),
                command=self._command(suite, row, column, seed, by_hand),
            )
            for seed in seeds
        ]
        texts = CanonicalTexts()
        for run in runs:  # of thousands of seeds, a dump each would take most of the time of planning
            vars(run)["run_id"] = run_id_of_text(texts.of({**plain, **run.spec.seeds}))
        return runs

    def _command(self, suite: Suite, row: Row, column: Column, seed: Seeds, by_hand: Sequence[str]) -> tuple[str, ...]:
        """The words of ``PlannedRun.command``; they select other rows of the method, too."""
        selection, recipe = self.selection, self.selection.recipe
        words = ["run", suite.file or suite.name, "--methods", row.method, "--benchmarks", column.benchmark]
        words += ["--seeds", f"{seed.order}:{seed.train}", *(["--tiny"] if selection.tiny else [])]
        words += ["--precision", selection.precision] if selection.precision != "fp32" else []
        if recipe is not None:
            source = ":".join(filter(None, (recipe.benchmark, recipe.backbone)))
            words += ["--recipe-of", source] if source else ["--recipe", "nearest"]
        return (*words, *option_words(by_hand, self.registries.plugins, self.data_root))

    def spec(
        self, row: Row, column: Column, suite_settings: Sequence[str] = ()
    ) -> tuple[RunSpec, str, tuple[str, ...]]:
        """The spec of a table cell with both seeds 0, the source of its recipe, and the user's settings that apply to it.

        ``suite_settings`` apply before the user's, each where a row has its field.
        """
        from smope_bench.methods.common.schedules import Schedule
        from smope_bench.methods.recipes import find_recipe

        registries = self.registries
        method, benchmark = registries.methods.load(row.method), registries.benchmarks.load(column.benchmark)
        owners = registries.methods.owner(row.method), registries.backbones.owner(column.backbone)
        own = owners != (BUILT_IN, BUILT_IN) or benchmark.takes_user_data
        suite = [placed_setting(parse_setting(text), row.method, method.Config, Schedule) for text in suite_settings]
        user = [placed_setting(setting, row.method, method.Config, Schedule) for setting in self.selection.settings]
        mine = [placed for placed in user if placed.scope is not None]
        backbone = self._adapted(column.backbone, values_of([*suite, *mine], "backbone"))
        given = values_of(mine, "benchmark")  # a recipe may apply to one number of tasks only
        protocol = without_replaced(column.config, given)
        chosen = validated(benchmark.Config, merged(protocol, given), "benchmark")
        recipe = find_recipe(
            row.method,
            column.benchmark,
            column.backbone,
            tasks=chosen.tasks,
            own=own,
            take=self.selection.recipe,
            image_size=backbone.image_size,
        )
        values = {
            row.method: dict(recipe.config),
            "schedule": dict(recipe.schedule),
            "benchmark": merged(recipe_transforms(recipe, backbone), protocol),
        }
        if owners[1] != BUILT_IN or backbone.changes.image_size:
            values["benchmark"] = fitted_to(values["benchmark"], backbone)
        of_row = row_settings(row, method.Config, Schedule)
        for scope, settings in values.items():
            of_suite = merged(settings, values_of(suite, scope))
            values[scope] = merged(merged(of_suite, of_row.get(scope, {})), values_of(mine, scope))
        self._used_of_suites += [placed.setting for placed in suite if placed.scope is not None]
        self._used.update(placed.setting.text for placed in mine)
        by_hand = [placed.setting.text for placed in in_effect(user)]
        by_hand += [f"backbone={self.selection.backbone}"] if self.selection.backbone else []
        config = validated(method.Config, values[row.method], row.method)
        schedule = validated(Schedule, values["schedule"], "schedule")
        data = self._opened(column, values["benchmark"], backbone)
        pinned = data.pinned()
        self._protocols[column.label] = data.protocol
        if benchmark.takes_user_data:
            self._notes[column.label] = data.notes()
        if isinstance(pinned.class_order, tuple):  # names become ids
            pinned = pinned.model_copy(update={"class_order": data.class_order(0)})
        spec = RunSpec(
            method=Component(name=row.method, config=config.model_dump(mode="json")),
            benchmark=Component(name=column.benchmark, config=pinned.model_dump(mode="json")),
            backbone=BackboneRef(
                name=column.backbone, sha256=self._weights_of(backbone), **backbone.changes.model_dump()
            ),
            schedule=schedule.model_dump(mode="json"),
            precision=self.selection.precision,
            sources=registries.sources_of(row.method, column.benchmark, column.backbone),
        )
        learnt = data.learnt_sizes()
        classes = sum(learnt) if data.protocol == "class" else data.num_classes
        self._fitting.require(method, spec, backbone, classes, len(learnt), data.protocol)
        return spec, recipe.source, tuple(by_hand)

    def _adapted(self, name: str, values: Mapping[str, Any]) -> Backbone:
        """The backbone of a name with the settings ``backbone.FIELD``, made once."""
        key = name, validated(BackboneSettings, values, "backbone")
        if key not in self._backbones:
            self._backbones[key] = self.registries.backbones.load(name).at(self.data_root).adapted(key[1])
        return self._backbones[key]

    def _weights_of(self, backbone: Any) -> str:
        """The hash of a backbone's weights, verified once, and supplied if they are missing."""
        from smope_bench.methods.common.backbone.backbones import WeightsMissingError

        if backbone.name not in self._weights:
            try:
                backbone.verify()
            except WeightsMissingError:
                if self._supply is None:
                    return self._weights.setdefault(backbone.name, MISSING)
                self._supply(backbone)
                backbone.verify()
            self._weights[backbone.name] = backbone.sha256
        return self._weights[backbone.name]

    def _opened(self, column: Column, values: Mapping[str, Any], backbone: Any) -> Any:
        """The benchmark of a column, checked against the backbone; a user's own images are read here, once."""
        key = canonical_json([column.benchmark, column.backbone, dict(values)])
        if key not in self._benchmarks:
            benchmark = self.registries.benchmarks.load(column.benchmark)
            data = benchmark(validated(benchmark.Config, values, "benchmark"), self.data_root)
            _check_fit(data, backbone, column)
            if benchmark.takes_user_data:
                data.prepare()
            data.learnt_sizes()  # raises for an impossible split
            self._benchmarks[key] = data
        return self._benchmarks[key]

    def require_all_settings_used(self, runs: Sequence[PlannedRun]) -> None:
        """Raise UserError with the nearest name for a ``--set`` that applies to no run."""
        for setting in self.selection.settings:
            if setting.text not in self._used:
                raise UserError(_unused_setting(setting, runs, self.registries))


ALIASES = {"learning_rate": "schedule.lr", "num_epochs": "schedule.epochs", "batchsize": "schedule.batch_size"}
"""Names of schedule settings in other toolboxes."""


def _unused_setting(setting: Setting, runs: Sequence[PlannedRun], registries: Registries) -> str:
    from smope_bench.methods.common.schedules import Schedule

    methods, key = sorted({run.method for run in runs}), ".".join(setting.path)
    known: set[str] = {*Schedule.model_fields, *(f"schedule.{name}" for name in Schedule.model_fields)}
    for name in methods:
        known |= set(registries.methods.load(name).Config.model_fields)
        known |= {f"{name}.{field}" for field in registries.methods.load(name).Config.model_fields}
        if key.count(".") > 1:
            known |= {f"{name}.schedule.{field}" for field in Schedule.model_fields}
    hint = did_you_mean(ALIASES.get(setting.path[-1], key), known)
    return f"--set {setting.text!r}: no method of this plan ({', '.join(methods)}) has a setting {key!r}{hint}"


def _check_fit(data: Any, backbone: Any, column: Column) -> None:
    if data.config.image_size != backbone.image_size:
        raise UserError(
            f"{column.benchmark} gives images of {data.config.image_size} px but backbone {column.backbone!r} takes"
            f" {backbone.image_size} px; use --set benchmark.image_size={backbone.image_size}"
        )
