"""What of a results folder cannot be used is named with its reason and its remedy, and counted in a report's head."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from smope_bench.harness.records.record import RECORD_SCHEMA, with_checksum
from smope_bench.reports.loading.integrity import examine, integrity_warnings
from smope_bench.reports.tables.integrity import integrity_table
from smope_bench.reports.tables.table import Table


def edit(file: Path, change) -> None:
    result = json.loads(file.read_text())
    change(result)
    file.write_text(json.dumps(result))


def one_digit(result: dict[str, Any]) -> None:
    row = result["accuracy_matrix"][-1]
    row[0] = round(row[0] + 0.1, 4)


def newer(result: dict[str, Any]) -> None:
    result["schema_version"] = RECORD_SCHEMA + 1


def older(result: dict[str, Any]) -> None:
    result["schema_version"] = 1
    del result["seal"]


@pytest.fixture
def folder(factory):
    """Three finished runs of one suite, their result files in the order of seeds."""
    for seed in range(3):
        factory.publish("A", factory.spec("a", "digits", seed, seed, 4), factory.matrix(4, 90.0, 1.0, seed))
    factory.write()
    factory.files = [factory.root / cell["run_id"] / "result.json" for cell in factory.cells]
    return factory


def kinds(factory) -> list[tuple[str, str]]:
    return [(one.run_id, one.kind) for one in examine(factory.store).broken]


def texts(table: Table | None) -> dict[str, list[str]]:
    assert table is not None
    return {line.label: [entry.text for entry in line.cells] for line in table.rows}


def test_a_sound_folder_says_nothing(folder) -> None:
    integrity = examine(folder.store)
    assert (integrity.records, integrity.broken, integrity_warnings(integrity), integrity_table(integrity)) == (
        3,
        (),
        (),
        None,
    )


def test_a_folder_that_does_not_exist_is_empty(factory) -> None:
    assert examine(factory.store).records == 0


@pytest.mark.parametrize(
    ("change", "kind", "remedy"),
    [
        (one_digit, "edited", "put the original back, or do the run again: smope-bench run smoke --results {root}"),
        (
            older,
            "schema",
            "bring it up to date, which keeps the original beside it: smope-bench migrate --results {root}",
        ),
        (newer, "schema", f"read it with the version that wrote it; this one reads schema {RECORD_SCHEMA}"),
        (lambda r: r.pop("costs"), "incomplete", "put the original back, or do the run again: smope-bench run smoke"),
        (lambda r: r["timings"].update(total_s=float("nan")), "unreadable", "put the original back, or"),
    ],
)
def test_a_damaged_record_is_named_with_reason_and_remedy(folder, change, kind: str, remedy: str) -> None:
    edit(folder.files[1], change)
    run_id = folder.cells[1]["run_id"]
    integrity = examine(folder.store)
    assert kinds(folder) == [(run_id, kind)]
    line = texts(integrity_table(integrity))[run_id]
    assert run_id in line[1] and line[2] == "smoke" and line[3].startswith(remedy.format(root=folder.root))


def test_a_sealed_record_with_another_specification_counts_as_edited(folder) -> None:
    file = folder.files[0]
    result = json.loads(file.read_text())
    result["spec"]["schedule"]["lr"] = 1.0
    file.write_text(json.dumps(with_checksum(result)))
    assert kinds(folder) == [(folder.cells[0]["run_id"], "edited")]


def test_a_sealed_record_of_impossible_values_is_unusable(folder) -> None:
    file = folder.files[0]
    result = json.loads(file.read_text())
    result["accuracy_matrix"][3][0] = 101.0
    file.write_text(json.dumps(with_checksum(result)))
    assert kinds(folder) == [(folder.cells[0]["run_id"], "unusable")]


@pytest.mark.parametrize("text", ["", "{", '{"schema_version": 2', "[" * 100_000])
def test_a_truncated_record_is_unreadable(folder, text: str) -> None:
    folder.files[0].write_text(text)
    assert kinds(folder) == [(folder.cells[0]["run_id"], "unreadable")]


def test_a_folder_in_the_place_of_a_record_is_named_without_its_path(folder) -> None:
    folder.files[0].unlink()
    folder.files[0].mkdir()
    (one,) = examine(folder.store).broken
    assert one.kind == "unreadable" and "directory" in one.reason
    assert str(folder.root) not in one.reason


def test_a_copied_folder_is_found_though_no_suite_plans_it(folder) -> None:
    shutil.copytree(folder.files[0].parent, folder.root / "copy of it")
    integrity = examine(folder.store)
    assert [(one.run_id, one.kind) for one in integrity.broken] == [("copy of it", "misplaced")]
    assert texts(integrity_table(integrity))["copy of it"][2:] == [
        "no suite",
        "delete the folder, or give it back the name of its run where that is missing",
    ]
    assert integrity.records == 4


def test_folders_that_are_no_runs_are_passed_over(folder) -> None:
    (folder.root / "notes").mkdir()
    (folder.root / "notes" / "README.md").write_text("mine")
    (folder.root / "result.json").write_text("{}")
    assert examine(folder.store).records == 3
    (folder.root / "notes" / "result.json").write_text('{"score": 1}')
    assert kinds(folder) == [("notes", "schema")]


def test_the_head_counts_each_kind(folder) -> None:
    folder.files[0].write_text("{")
    edit(folder.files[1], one_digit)
    shutil.copytree(folder.files[2].parent, folder.root / "zz copy")
    integrity = examine(folder.store)
    assert integrity_warnings(integrity) == (
        "3 of 4 records were left out: 1 truncated or unreadable, 1 edited by hand, 1 copied or renamed; "
        "see 'Left out' for each and its remedy.",
    )
    table = integrity_table(integrity)
    assert table is not None and "Of 4 records in the folder, 3 cannot be used" in table.lead
    assert [line.label for line in table.rows] == [one.run_id for one in integrity.broken]


def test_a_manifest_that_cannot_be_used_is_in_the_grid(folder) -> None:
    (folder.root / "suites" / "other.json").write_text('{"suite": "other"}')
    integrity = examine(folder.store)
    assert integrity_warnings(integrity) == (
        "1 suite is not shown because the manifest cannot be used: other; see 'Left out'.",
    )
    line = texts(integrity_table(integrity))["suites/other.json"]
    assert line[1] == "the manifest is not usable at rows (Field required)"
    assert line[3] == "delete suites/other.json and run the suite again: finished runs are kept"


def test_a_link_that_leads_nowhere_is_named_and_counted(folder) -> None:
    folder.files[0].unlink()
    folder.files[0].symlink_to(folder.root / "gone.json")
    integrity = examine(folder.store)
    assert [(one.run_id, one.kind) for one in integrity.broken] == [(folder.cells[0]["run_id"], "unreadable")]
    assert integrity.records == 3


def test_one_of_several_records_is_counted_in_grammatical_english(folder) -> None:
    folder.files[0].write_text("{")
    assert integrity_warnings(examine(folder.store))[0].startswith("1 of 3 records was left out")


@pytest.mark.parametrize("value", [True, "50"])
def test_accuracies_and_counts_are_numbers_and_not_what_reads_as_one(folder, value) -> None:
    for file, field in zip(folder.files, ("accuracy_matrix", "test_counts"), strict=False):
        result = json.loads(file.read_text())
        place = result[field][3] if field == "accuracy_matrix" else result[field]
        place[0] = value
        file.write_text(json.dumps(with_checksum(result)))
    assert [kind for _, kind in kinds(folder)] == ["unusable", "unusable"]


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("costs", {"learnable_parameters": 10**400}),
        ("costs", {"learnable_parameters": -5}),
        ("costs", {"peak_memory_mb": -1.0}),
        ("timings", {"total_s": 1e308}),
    ],
)
def test_costs_beyond_any_machine_are_unusable(folder, part: str, change) -> None:
    result = json.loads(folder.files[0].read_text())
    result[part].update(change)
    folder.files[0].write_text(json.dumps(with_checksum(result)))
    assert kinds(folder) == [(folder.cells[0]["run_id"], "unusable")]


def test_a_test_count_beyond_any_data_is_unusable(folder) -> None:
    result = json.loads(folder.files[0].read_text())
    result["test_counts"][0] = 10**400
    folder.files[0].write_text(json.dumps(with_checksum(result)))
    assert kinds(folder) == [(folder.cells[0]["run_id"], "unusable")]


def test_a_sealed_record_with_half_a_character_is_left_out(folder) -> None:
    result = json.loads(folder.files[0].read_text())
    result["class_names"] = ["\ud800"]
    folder.files[0].write_text(json.dumps(with_checksum(result)))
    assert kinds(folder) == [(folder.cells[0]["run_id"], "edited")]
