"""Reads and checks the manifest of a suite, which ``run`` writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, ValidationError

from smope_bench.benchmarks.suites.schema import Drawing
from smope_bench.harness.errors import UserError
from smope_bench.harness.planning.suites.titles import suite_title
from smope_bench.harness.records.record import has_half_character
from smope_bench.harness.records.store import Store
from smope_bench.reports.loading.model import Column, ResultRow


class PlannedRun(BaseModel):
    """One planned run: its row and column, seeds and id, the source of its recipe, and what the user set by hand."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    row: str
    column: str
    order_seed: int
    train_seed: int
    run_id: str
    recipe: str | None = None
    settings: tuple[str, ...] = ()
    plugins: dict[str, str] = {}
    command: tuple[str, ...] = ()
    """Words of the command that does this run, without the results folder; empty in old manifests."""


class Manifest(BaseModel):
    """What ``run`` stores about a suite before it starts."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    suite: str
    title: str = ""
    description: str = ""
    tiny: bool = False
    suite_rows: list[list[str]] = []
    """Labels of the suite's own rows in each of its sizes; none in old manifests. ``suite_columns`` likewise."""
    suite_columns: list[list[str]] = []
    file: str = ""
    """Identity of what the user's file planned; empty for the project's own suites, as are the three fields below."""
    metrics: tuple[str, ...] = ()
    drawings: tuple[Drawing, ...] = ()
    reference: str = ""
    rows: list[ResultRow]
    columns: list[Column]
    cells: list[PlannedRun]

    @property
    def heading(self) -> str:
        """The suite's title if rows and columns are its own, else a title that is true of these."""
        title = self.title or self.suite
        if not self.suite_rows or not self.suite_columns:
            return title
        rows, columns = [row.label for row in self.rows], [column.label for column in self.columns]
        settings = [cell.settings for cell in self.cells]
        return suite_title(self.suite, title, self.suite_rows, self.suite_columns, rows, columns, settings)


def manifest_names(store: Store) -> list[str]:
    """Names of suites with a manifest, usable or not; suites that are only counted have none."""
    files = (store.root / "suites").glob("*.json")
    return sorted(file.stem for file in files if not file.name.endswith(".cost.json") and not file.name.startswith("."))


def check_manifest(store: Store, suite: str) -> Manifest | str | None:
    """A suite's manifest, its fault as the end of a sentence, or ``None`` where the suite was never run."""
    try:
        raw = store.read_manifest(suite)
    except UserError as error:
        cause = error.__cause__
        return f"cannot be read ({cause.strerror if isinstance(cause, OSError) else cause})"
    except RecursionError:
        return "cannot be read (it is nested too deeply)"
    if raw is None:
        return None
    if has_half_character(raw):
        return "is not usable (it holds half a character, which no file can be written with)"
    try:
        manifest = Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        return f"is not usable at {'.'.join(map(str, first['loc'])) or 'its top'} ({first['msg']})"
    return _contradiction(suite, manifest) or manifest


def _contradiction(suite: str, manifest: Manifest) -> str | None:
    if manifest.suite != suite:
        return f"is a copy: it says that it is of suite {manifest.suite!r}"
    for part, labels, named in (
        ("row", [row.label for row in manifest.rows], {cell.row for cell in manifest.cells}),
        ("column", [column.label for column in manifest.columns], {cell.column for cell in manifest.cells}),
    ):
        if twice := _twice(labels):
            return f"names {part} {twice!r} twice"
        if unknown := sorted(named - set(labels)):
            return f"has a cell of an unlisted {part} {unknown[0]!r}"
    if twice := _twice(f"{cell.run_id} of {cell.row!r} on {cell.column!r}" for cell in manifest.cells):
        return f"names run {twice} twice"
    places = (f"{c.row!r} on {c.column!r}, order {c.order_seed}, training {c.train_seed}" for c in manifest.cells)
    if twice := _twice(places):
        return f"names two runs of {twice}"
    return None


def _twice(names: Iterable[str]) -> str | None:
    return min((name for name, count in Counter(names).items() if count > 1), default=None)
