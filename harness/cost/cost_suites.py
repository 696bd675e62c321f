"""Suites that are counted instead of trained: their counts are stored in, and read from, a results folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smope_bench.harness import provenance
from smope_bench.harness.errors import UserError
from smope_bench.harness.planning.suites.find import find_suite, find_suites, run_argument
from smope_bench.harness.records.atomic_write import write_json_atomically
from smope_bench.harness.records.record import RECORD_SCHEMA, checksum_of, with_checksum
from smope_bench.harness.records.store import Store
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.text import shell_command

if TYPE_CHECKING:
    from smope_bench.harness.planning.selection import Selection


def split_counted(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """(suites that train, suites that count), each once and in the given order. Raises UserError for an unknown name."""
    unique = list(dict.fromkeys(names))
    find_suites(unique)
    counted = [name for name in unique if find_suite(name).counts_only]
    return [name for name in unique if name not in counted], counted


def require_countable(counted: Sequence[str], trained: Sequence[str], selection: Selection) -> list[str]:
    """Notes that what was selected beside methods, seeds and size has no effect on suites that count.

    Raises UserError where no other suite is named.
    """
    parts = {
        "--set": any(setting.path != ("benchmark", "limit") for setting in selection.settings),
        "--limit": any(setting.path == ("benchmark", "limit") for setting in selection.settings),
        "--benchmarks": bool(selection.benchmarks),
        "--backbone": selection.backbone is not None,
        "--recipe": selection.recipe is not None,
        "--precision": selection.precision != "fp32",
    }
    given = ", ".join(name for name, is_given in parts.items() if is_given)
    if not counted or not given:
        return []
    said = (
        f"{', '.join(counted)} counts methods with their default settings on ViT-B/16, 200 classes in 10 tasks:"
        f" {given} would have no effect"
    )
    if not trained:
        raise UserError(f"{said}; leave it out")
    return [f"note: {said} there"]


def counted_suites(store: Store) -> list[str]:
    """Names of the suites with counts in a results folder."""
    return sorted(file.name.removesuffix(".cost.json") for file in (store.root / "suites").glob("*.cost.json"))


def count_suite(name: str, methods: Sequence[str], registries: Registries, store: Store) -> dict[str, Any]:
    """Count the methods of a suite, or ``methods``, on ViT-B/16; stores and returns the report."""
    from smope_bench.harness.cost.report import count_costs

    suite = find_suite(name)
    rows = methods or list(dict.fromkeys(row.method for row in suite.rows))
    report: dict[str, Any] = count_costs(registries, rows).as_json()
    if suite.file:  # a report does not read the file; the project's own suites are known by name
        labels = {row.method: row.label for row in reversed(suite.rows)}
        report["rows"] = [{**row, "title": labels.get(row["method"], row["title"])} for row in report["rows"]]
        report |= {"suite_title": suite.title, "suite_summary": suite.summary}
    stored = {"schema_version": RECORD_SCHEMA, "suite": suite.name, "cost": report, "provenance": provenance.collect()}
    write_json_atomically(_file(store, suite.name), with_checksum(stored))
    return report


def read_counted(store: Store, name: str) -> dict[str, Any]:
    """The stored report of a suite. Raises UserError where there is none, or where it was changed."""
    file = _file(store, name)
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(stored, dict) or stored.get("schema_version") != RECORD_SCHEMA:
            raise ValueError("it has another form")
        if stored.get("seal") != checksum_of(stored):
            raise ValueError("it was changed after it was written: its seal does not fit")
        if not isinstance(stored["cost"], dict):
            raise ValueError("it holds no counts")
        return stored["cost"]
    except FileNotFoundError as error:
        raise UserError(
            f"suite {name!r} was not counted yet in {str(store.root)!r}; do it with: "
            + shell_command("run", run_argument(name), results=store.root)
        ) from error
    except (OSError, ValueError, KeyError, RecursionError) as error:
        raise UserError(
            f"{str(file)!r} cannot be used ({error}); write it anew with: "
            + shell_command("run", run_argument(name), results=store.root)
        ) from error


def _file(store: Store, name: str) -> Path:
    return store.root / "suites" / f"{name}.cost.json"
