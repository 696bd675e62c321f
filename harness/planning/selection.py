"""Which part of a suite is planned: its rows and columns as the user narrows, replaces and sets them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from smope_bench.benchmarks.suites import Column, Row, Suite
from smope_bench.harness.errors import UserError
from smope_bench.harness.planning.cell_settings import without_replaced
from smope_bench.harness.planning.own_backbones import Notify, find_backbone, to_stderr
from smope_bench.harness.planning.settings import BACKBONE, Seeds, Setting, merged, scoped, validated
from smope_bench.harness.planning.suites.titles import column_label, distinct
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.run_spec import Precision
from smope_bench.methods.common.backbone.backbones import BackboneSettings
from smope_bench.methods.common.errors import MethodError

if TYPE_CHECKING:
    from smope_bench.methods.recipes import RecipeFrom


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


class CellSelector:
    """Chooses the rows and columns of suites for one selection."""

    def __init__(
        self, selection: Selection, registries: Registries, data_root: Path, notify: Notify = to_stderr
    ) -> None:
        self.selection = selection
        self.registries = registries
        self.data_root = data_root
        self._notify = notify

    def columns(self, suite: Suite) -> tuple[Column, ...]:
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
            raise UserError(f"{place(suite, column=column)}{error}") from error
        if name != column.backbone:
            self.registries.files[column.backbone] = str(name)
        return replace(column, backbone=str(name))

    def _is_tiny(self, suite: Suite) -> bool:
        return self.selection.tiny or suite.is_tiny_only

    def rows(self, suite: Suite) -> tuple[Row, ...]:
        """The suite's rows of the selected methods, in the suite's order; a method that it lacks becomes a row of its own below."""
        own = suite.tiny_rows if self._is_tiny(suite) and suite.tiny_rows else suite.rows
        if not self.selection.methods:
            return own
        methods = {name: self.registries.methods.load(name) for name in self.selection.methods}
        known = {row.method for row in own}
        others = [Row(method.card.title, name) for name, method in methods.items() if name not in known]
        return (*(row for row in own if row.method in methods), *others)


def resolved(
    suite: Suite, column: Column, backbones: Collection[str], selection: Selection, registries: Registries
) -> Column:
    """A column with the user's settings; one that they change, or that has no label, is named by its configuration.

    ``backbones``: those of the suite's columns; the label has the weights unless they are all the same.
    """
    given = scoped(selection.settings, "benchmark")
    base = without_replaced(column.config, given)
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
        raise UserError(f"{place(suite, column=found)}{error}") from error
    named = {
        name: value
        for name, value in found.config.items()
        if name in given or getattr(config, name) != getattr(usual, name)
    }
    label = column_label(found, config, named, with_weights=len({*backbones, found.backbone}) > 1)
    return replace(found, label=f"{label}, {changes}" if changes else label)


def place(suite: Suite, row: Row | None = None, column: Column | None = None) -> str:
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
