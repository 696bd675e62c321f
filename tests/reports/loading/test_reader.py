"""Records that no JSON can hold are left out, and versions of the code have an order."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from smope_bench.harness.errors import UserError
from smope_bench.reports.loading.load import load_suite, load_suites
from smope_bench.reports.loading.reader import Reader


def test_a_number_that_overflows_is_a_record_left_out_and_no_error(factory) -> None:
    factory.level("A", 80.0)
    file = factory.store.path(factory.cells[0]["run_id"]) / "result.json"
    file.write_text(re.sub(r'"total_s": [\d.]+', '"total_s": 1e999', file.read_text()))
    (cell,) = load_suite(factory.write(), "smoke", factory.FRESH).cells.values()
    run, whole = cell.runs
    assert (run.state, whole.state) == ("broken", "ok") and "cannot be read" in str(run.problem)


def test_versions_are_named_with_the_reference_first_and_then_by_their_runs(factory) -> None:
    for version, seeds in (("a" * 16, [0]), ("b" * 16, [1, 2]), (factory.FRESH, [3])):
        factory.level("A", 80.0, seeds=seeds, fingerprint=version)
    loaded = load_suites(factory.write(), ["smoke"], factory.FRESH, mixed=True)
    assert loaded.fingerprints == (factory.FRESH, "b" * 16, "a" * 16)


def test_a_manifest_that_may_not_be_read_is_not_to_be_deleted(factory, monkeypatch: pytest.MonkeyPatch) -> None:
    factory.write()

    def refuse(path: Path, *rest: Any, **options: Any) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(UserError, match=r"smoke.json' cannot be read \(Permission denied\); make it readable$"):
        Reader(factory.store).require_manifest("smoke")
