"""Integrity of a results folder: which records and manifests cannot be used, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from smope_bench.harness.errors import without_home
from smope_bench.harness.planning.suites.find import run_argument
from smope_bench.harness.records.store import Store
from smope_bench.harness.text import shell_command, whole_commands
from smope_bench.reports.loading.manifest import Manifest
from smope_bench.reports.loading.reader import Reader
from smope_bench.reports.loading.run_result import Kind, LeftOut


@dataclass(frozen=True)
class Integrity:
    """Result of ``examine``.

    ``records``: number of folders with a ``result.json``. ``broken``: records that cannot be used, by run id.
    ``manifests``: suite -> fault of its manifest. ``named``: run id of a broken record -> the suites that plan it; ``again``: the
    same -> the command that does the run again. ``migration``: the command that brings records up to date.
    """

    records: int
    broken: tuple[LeftOut, ...] = ()
    manifests: Mapping[str, str] = field(default_factory=dict)
    named: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    again: Mapping[str, str] = field(default_factory=dict)
    migration: str = ""

    @property
    def is_sound(self) -> bool:
        """Whether nothing was left out."""
        return not self.broken and not self.manifests


def examine(store: Store, reader: Reader | None = None) -> Integrity:
    """Read and check every record and manifest of a folder. ``reader``: reuses what it has read."""
    reader = reader or Reader(store)
    ids = store.published()
    broken = [left_out for run_id in ids if (left_out := reader.find(run_id).left_out) is not None]
    manifests = {suite: reader.manifest(suite) for suite in reader.suites()}
    named = {one.run_id: list[str]() for one in broken}
    again = dict[str, str]()
    for suite, manifest in manifests.items():
        for cell in manifest.cells if isinstance(manifest, Manifest) else ():
            if cell.run_id in named and suite not in named[cell.run_id]:
                named[cell.run_id].append(suite)
                words = cell.command or ("run", run_argument(suite))
                again.setdefault(cell.run_id, without_home(shell_command(*words, results=store.root)))
    migration = without_home(shell_command("migrate", results=store.root))
    broken = [replace(one, reason=without_home(whole_commands(one.reason, results=store.root))) for one in broken]
    wrong = {suite: manifest for suite, manifest in manifests.items() if isinstance(manifest, str)}
    suites = {run_id: tuple(found) for run_id, found in named.items()}
    return Integrity(len(ids), tuple(broken), wrong, suites, again, migration)


def integrity_warnings(integrity: Integrity, *, listed: bool = True) -> tuple[str, ...]:
    """Warnings about a folder, at most one for records and one for manifests.

    ``listed``: the report has a table ``Left out`` of this folder.
    """
    see, where = ("; see 'Left out' for each and its remedy", "; see 'Left out'") if listed else ("", "")
    found = []
    if integrity.broken:
        counts = Counter(one.kind for one in integrity.broken)
        kinds = ", ".join(f"{counts[kind]} {words}" for kind, words in KIND_WORDS.items() if counts[kind])
        records = "record" if integrity.records == 1 else "records"
        left_out = f"{records} {'was' if len(integrity.broken) == 1 else 'were'}"
        found.append(f"{len(integrity.broken)} of {integrity.records} {left_out} left out: {kinds}{see}.")
    if integrity.manifests:
        names = ", ".join(integrity.manifests)
        suites = "1 suite is" if len(integrity.manifests) == 1 else f"{len(integrity.manifests)} suites are"
        found.append(f"{suites} not shown because the manifest cannot be used: {names}{where}.")
    return tuple(found)


KIND_WORDS: Mapping[Kind, str] = {
    "unreadable": "truncated or unreadable",
    "schema": "of another schema",
    "incomplete": "incomplete",
    "edited": "edited by hand",
    "misplaced": "copied or renamed",
    "unusable": "with values that cannot have been measured",
}
