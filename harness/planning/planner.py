"""From suites to runs: every default spelled out, every name checked, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smope_bench.benchmarks.augmentation import normalize_text
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.suites import Column, Row, Suite
from smope_bench.harness.errors import UserError, did_you_mean
from smope_bench.harness.planning.compatibility import CompatibilityChecker
from smope_bench.harness.planning.own_backbones import Notify, find_backbone, to_stderr, without_file_settings
from smope_bench.harness.planning.settings import (
    BACKBONE,
    Seeds,
    Setting,
    has_field,
    in_effect,
    merged,
    parse_setting,
    placed_setting,
    scoped,
    validated,
    values_of,
)
from smope_bench.harness.planning.suites.find import find_suites
from smope_bench.harness.planning.suites.titles import column_label, distinct
from smope_bench.harness.records.observations import require_observable
from smope_bench.harness.registry.registry import BUILT_IN, Registries
from smope_bench.harness.run_spec import (
    BackboneRef,
    CanonicalTexts,
    Component,
    Precision,
    RunSpec,
    canonical_json,
    run_id_of_text,
)
from smope_bench.harness.text import option_words
from smope_bench.methods.common.backbone.backbones import Backbone, BackboneSettings
from smope_bench.methods.common.errors import MethodError

if TYPE_CHECKING:
    from smope_bench.benchmarks.base import Protocol
    from smope_bench.methods.recipes import RecipeFrom, TrainingRecipe

MISSING = "missing"
Supply = Callable[[Any], None]


@dataclass(frozen=True)
class Selection:
    """Which part of a suite to run; an empty field means all of it."""

    tiny: bool = False
    methods: tuple[str, ...] = ()
    benchmarks: tuple[str, ...] = ()
    seeds: tuple[Seeds, ...] = ()
    settings: tuple[Setting, ...] = ()
    precision: Precision = "fp32"
    backbone: str | None = None
    """In place of every column's: a name, a weights file, or ``timm:MODEL``."""
    recipe: RecipeFrom | None = None
    """Where to take hyper-parameters from for settings without a recipe of their own; None refuses those."""


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
        self._notify = notify
        self._weights: dict[str, str] = {}
        self._backbones: dict[tuple[str, BackboneSettings], Backbone] = {}
        self._used: set[str] = set()
        self._used_of_suites: list[Setting] = []
        self._benchmarks: dict[str, Any] = {}
        self._protocols: dict[str, Protocol] = {}
        self._notes: dict[str, tuple[str, ...]] = {}
        self._fitting = CompatibilityChecker()

    def runs(self, suite: Suite) -> list[PlannedRun]:
        """All runs of a suite: column by column, row by row, seed by seed."""
        seeds = self.selection.seeds or tuple(Seeds(seed, seed) for seed in suite.seeds)
        runs = [
            run
            for column in self._columns(suite)
            for row in self._rows(suite)
            for run in self._cell(suite, row, column, seeds)
        ]
        if suite.file and not self.selection.methods:
            for setting in map(parse_setting, suite.settings):
                if setting not in self._used_of_suites:
                    raise UserError(f"{suite.file!r}, settings: {_unused_setting(setting, runs, self.registries)}")
        return runs

    def _columns(self, suite: Suite) -> tuple[Column, ...]:
        """The columns of the selected size, narrowed to, or replaced by, the selected benchmarks."""
        columns = suite.tiny if self._is_tiny(suite) else suite.full
        more = self._of_other_data(suite)
        if suite.file and not self.selection.backbone:
            columns = tuple(self._with_backbone(suite, column) for column in columns)
        if not columns:
            if suite.file:
                raise UserError(f"{suite.file!r} has no tiny_columns; run it without --tiny, or write some")
            raise UserError(f"suite {suite.name!r} has no paper-scale benchmarks in this version; run it with --tiny")
        chosen = [] if self.selection.benchmarks else [*columns, *filter(self.is_prepared, more)]
        for name in self.selection.benchmarks:
            own = [column for column in (*columns, *more) if column.benchmark == name]
            chosen += own or [Column("", name, {}, columns[0].backbone)]
        self._used |= {setting.text for setting in self.selection.settings if setting.path == BACKBONE}
        backbones = {column.backbone for column in columns}
        return distinct([resolved(suite, column, backbones, self.selection, self.registries) for column in chosen])

    def _of_other_data(self, suite: Suite) -> tuple[Column, ...]:
        """Columns that a suite has where their images are prepared; none where the user chooses another backbone."""
        is_own = not self.selection.backbone and all(one.path != BACKBONE for one in self.selection.settings)
        return suite.where_prepared if self._is_tiny(suite) and is_own else ()

    def is_prepared(self, column: Column) -> bool:
        """Whether the images of a column are in the data folder."""
        benchmark = self.registries.benchmarks.load(column.benchmark)
        return benchmark(validated(benchmark.Config, column.config, "benchmark"), self.data_root).is_prepared()

    def unprepared(self, suite: Suite) -> list[Column]:
        """Columns that a suite would have besides, were their images prepared; none where the user names benchmarks."""
        more = () if self.selection.benchmarks else self._of_other_data(suite)
        return [column for column in more if not self.is_prepared(column)]

    def _with_backbone(self, suite: Suite, column: Column) -> Column:
        """A column of a user's suite with the name of its backbone, which is imported where it is a file."""
        try:
            name = find_backbone(column.backbone, self.registries, self.data_root, self._notify)
        except (UserError, MethodError) as error:
            raise UserError(f"{_place(suite, column=column)}{error}") from error
        if name != column.backbone:
            self.registries.files[column.backbone] = str(name)
        return replace(column, backbone=str(name))

    def _is_tiny(self, suite: Suite) -> bool:
        return self.selection.tiny or suite.is_tiny_only

    def _rows(self, suite: Suite) -> tuple[Row, ...]:
        """The suite's rows of the selected methods, in the suite's order; a method that it lacks becomes a row of its own below."""
        own = suite.tiny_rows if self._is_tiny(suite) and suite.tiny_rows else suite.rows
        if not self.selection.methods:
            return own
        methods = {name: self.registries.methods.load(name) for name in self.selection.methods}
        known = {row.method for row in own}
        others = [Row(method.card.title, name) for name, method in methods.items() if name not in known]
        return (*(row for row in own if row.method in methods), *others)

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
            raise UserError(f"{_place(suite, row, column)}{error}") from error
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
        protocol = _without_replaced(column.config, given)
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
            "benchmark": merged(_transforms(recipe, backbone), protocol),
        }
        if owners[1] != BUILT_IN or backbone.changes.image_size:
            values["benchmark"] = _following(values["benchmark"], backbone)
        of_row = _of_row(row, method.Config, Schedule)
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


def resolved(
    suite: Suite, column: Column, backbones: Collection[str], selection: Selection, registries: Registries
) -> Column:
    """A column with the user's settings; one that they change, or that has no label, is named by its configuration.

    ``backbones``: those of the suite's columns; the label has the weights unless they are all the same.
    """
    given = scoped(selection.settings, "benchmark")
    base = _without_replaced(column.config, given)
    replaced = [str(setting.value) for setting in selection.settings if setting.path == BACKBONE]
    backbone = selection.backbone or [column.backbone, *replaced][-1]
    changes = validated(BackboneSettings, scoped(selection.settings, "backbone"), "backbone").words
    found = replace(column, config=merged(base, given), backbone=backbone)
    if column.label and (found.config, found.backbone, changes) == (column.config, column.backbone, ""):
        return found
    try:
        model = registries.benchmarks.load(column.benchmark).Config
        config, usual = validated(model, found.config, "benchmark"), model()
    except UserError as error:
        raise UserError(f"{_place(suite, column=found)}{error}") from error
    named = {
        name: value
        for name, value in found.config.items()
        if name in given or getattr(config, name) != getattr(usual, name)
    }
    label = column_label(found, config, named, with_weights=len({*backbones, found.backbone}) > 1)
    return replace(found, label=f"{label}, {changes}" if changes else label)


def _without_replaced(protocol: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A column's settings less its number of tasks where the user gives a split alone, and the other way round."""
    stated = given.keys() & {"tasks", "split"}
    other = {"tasks": "split", "split": "tasks"}
    replaced = other[stated.pop()] if len(stated) == 1 else None
    return {key: value for key, value in protocol.items() if key != replaced}


def _transforms(recipe: TrainingRecipe, backbone: Any) -> Mapping[str, Any]:
    """The recipe's transforms; none of a recipe that was taken from images of another size than the backbone's."""
    if recipe.is_taken and recipe.data.get("image_size", backbone.image_size) != backbone.image_size:
        return {}
    return recipe.data


def _following(values: Mapping[str, Any], backbone: Backbone) -> dict[str, Any]:
    """Settings of a benchmark with the backbone's own input size and normalisation, where it has one.

    The shorter side at test is scaled along, so that the same share of a picture is seen.
    """
    size, found = backbone.image_size, dict(values)
    if found.get("test_resize") and found.get("image_size"):
        found["test_resize"] = round(found["test_resize"] * size / found["image_size"])
    if backbone.mean is not None and backbone.std is not None:
        found["normalize"] = normalize_text(backbone.mean, backbone.std)
    return found | {"image_size": size}


def _of_row(row: Row, config: type[Any], schedule: type[Any]) -> dict[str, dict[str, Any]]:
    """A row's settings by scope: those under ``schedule``, or that only the schedule has, are the schedule's."""
    own, of_schedule = dict(row.settings), dict[str, Any]()
    if not has_field(config, ("schedule",)) and isinstance(own.get("schedule"), Mapping):
        of_schedule = dict(own.pop("schedule"))
    for name in list(own):
        if not has_field(config, (name,)) and has_field(schedule, (name,)):
            of_schedule[name] = own.pop(name)
    return {row.method: own, "schedule": of_schedule}


def _place(suite: Suite, row: Row | None = None, column: Column | None = None) -> str:
    """``'my.yaml', row 'mine' (line 4) on column 'digits' (line 2): ``; empty for the project's own suites."""
    if not suite.file:
        return ""
    parts = [("row", row), ("on column" if row else "column", column)]
    said = [
        f"{word} {one.label or getattr(one, 'benchmark', '')!r}" + (f" (line {one.line})" if one.line else "")
        for word, one in parts
        if one is not None
    ]
    return f"{suite.file!r}, {' '.join(said)}: "


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
