"""Expected accuracies: what meets them, what does not, and what is said of a file that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smope_bench import run_all
from smope_bench.benchmarks.suites import SUITES
from smope_bench.harness.cli.expectations import read_expected, stored_file, verify
from smope_bench.harness.errors import UserError
from smope_bench.harness.records.atomic_write import write_json_atomically
from smope_bench.harness.records.record import RECORD_SCHEMA, with_checksum
from smope_bench.harness.records.store import Store

COLUMN = "digits, 2 tasks"


def cell(row: str, faa: float, tolerance: float = 2.0) -> dict[str, object]:
    return {"row": row, "column": COLUMN, "faa": faa, "tolerance": tolerance}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two finished runs of row A with FAA 80 and 90, an unfinished one of row B."""
    cells = [("A", "0" * 16), ("A", "1" * 16), ("B", "2" * 16)]
    for run_id, faa in (("0" * 16, 80.0), ("1" * 16, 90.0)):
        record = {
            "schema_version": RECORD_SCHEMA,
            "run_id": run_id,
            "accuracy_matrix": [[99.0, None], [faa, faa]],
            "test_counts": [],
        }
        extra = {"spec": {}, "provenance": {"code_fingerprint": "x"}, "costs": {}, "timings": {}}
        write_json_atomically(tmp_path / run_id / "result.json", with_checksum({**record, **extra}))
    seeds = {"order_seed": 0, "train_seed": 0}
    planned = [{"row": row, "column": COLUMN, "run_id": run_id, **seeds} for row, run_id in cells]
    write_json_atomically(tmp_path / "suites" / "ci.json", {"cells": planned})
    return Store(tmp_path)


def test_means_over_seeds_are_compared_and_missing_runs_fail(store: Store) -> None:
    verdicts = verify("ci", store, [cell("A", 86.5), cell("A", 87.5), cell("B", 50), cell("C", 50)])
    assert [verdict.holds for verdict in verdicts] == [True, False, False, False]
    assert str(verdicts[1]) == f"OUTSIDE A on {COLUMN}: FAA 85.00, expected 87.50 ± 2.00"
    assert "B on digits, 2 tasks: no finished run" in str(verdicts[2])


@pytest.mark.parametrize("manifest", [[], {"cells": "x"}, {"cells": [{"row": "A"}]}])
def test_a_damaged_plan_is_one_sentence(store: Store, manifest: object) -> None:
    write_json_atomically(store.root / "suites" / "ci.json", manifest)
    with pytest.raises(UserError, match="the plan of suite 'ci' cannot be used; run the suite again"):
        verify("ci", store, [cell("A", 85)], only_planned=True)


def test_what_was_not_planned_can_be_left_out(store: Store) -> None:
    verdicts = verify("ci", store, [cell("A", 85), cell("C", 50)], only_planned=True)
    assert [verdict.row for verdict in verdicts] == ["A"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "must be JSON of the form"),
        ('{"cells": [{"row": "A", "column": "x", "faa": "high", "tolerance": 1}]}', "could not convert"),
        ('{"cells": [{"row": "A"}]}', "KeyError"),
    ],
)
def test_a_file_that_says_too_little(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_expected(SUITES["ci"], str(tmp_path / "mine.json"))


def test_a_missing_file_is_said_before_anything_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_all.main(["run", "ci", "--expect", "nowhere.json", "--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "error: --expect nowhere.json: no such file\n"
    assert run_all.main(["run", "smoke", "--expect", "stored", "--results", str(tmp_path)]) == 2
    assert "no stored expectations" in capsys.readouterr().err


def test_the_stored_expectations_name_every_row_of_the_suite() -> None:
    suite = SUITES["ci"]
    cells = json.loads(stored_file(suite).read_text(encoding="utf-8"))["cells"]
    assert {(entry["row"], entry["column"]) for entry in cells} == {
        (row.label, column.label) for row in suite.rows for column in suite.tiny
    }
    assert all(entry["faa"] - entry["tolerance"] > 20 for entry in cells), "no better than guessing one class in five"


def test_the_exit_status_says_whether_all_is_as_expected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for faa, status in ((99.0, 0), (10.0, 1)):
        write_json_atomically(tmp_path / "mine.json", {"cells": [cell("Nearest class mean", faa, 8.0)]})
        assert run_all.main(["run", "ci", "--methods", "ncm", "--expect", "mine.json"]) == status
        assert "Nearest class mean on digits, 2 tasks: FAA" in capsys.readouterr().out
