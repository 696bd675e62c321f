"""The manifest of a suite as ``run`` wrote it: read, checked, and refused with a reason where it cannot be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, ValidationError

from smope_bench.harness.errors import UserError
from smope_bench.harness.records.store import Store, has_half_character
from smope_bench.reports.loading.model import RowKind


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class RowEntry(_Entry):
    """A row as the manifest lists it."""

    label: str
    method: str
    kind: RowKind = "method"
    paper: str | None = None
    url: str | None = None


class ColumnEntry(_Entry):
    """A benchmark as the manifest lists it."""

    label: str
    benchmark: str
    tasks: int
    summary: str = ""
    backbone: str = ""


class CellEntry(_Entry):
    """One planned run: where it stands, its seeds, its id, and where its settings come from."""

    row: str
    column: str
    order_seed: int
    train_seed: int
    run_id: str
    recipe: str | None = None
    settings: tuple[str, ...] = ()
    plugins: dict[str, str] = {}


class Manifest(_Entry):
    """What ``run`` noted of a suite."""

    suite: str
    title: str = ""
    description: str = ""
    tiny: bool = False
    rows: list[RowEntry]
    columns: list[ColumnEntry]
    cells: list[CellEntry]


def manifest_names(store: Store) -> list[str]:
    """The suites that have a manifest, usable or not, by name; suites that are only counted have none."""
    files = (store.root / "suites").glob("*.json")
    return sorted(file.stem for file in files if not file.name.endswith(".cost.json") and not file.name.startswith("."))


def check_manifest(store: Store, suite: str) -> Manifest | str | None:
    """A suite's manifest; what is wrong with it, as the end of a sentence; or ``None`` where the suite was never run."""
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


def read_manifest(store: Store, suite: str, found: Manifest | str | None) -> Manifest:
    """What ``check_manifest`` found, or a UserError with the remedy."""
    if found is None:
        raise UserError(f"nothing was run for suite {suite!r} in {str(store.root)!r}; run: run_all.py run {suite}")
    if isinstance(found, str):
        file = store.root / "suites" / f"{suite}.json"
        raise UserError(
            f"the manifest of suite {suite!r} in {str(store.root)!r} {found}; "
            f"delete {str(file)!r} and run the suite again to write it anew, finished runs are kept"
        )
    return found


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
