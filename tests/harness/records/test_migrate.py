"""Older records are brought up to date with their originals kept; what cannot be trusted is left alone and said."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smope_bench.harness.cli.commands.data import migrate as migrate_command
from smope_bench.harness.errors import UserError
from smope_bench.harness.records.migrate import STEPS, migrate
from smope_bench.harness.records.observations import npz_bytes
from smope_bench.harness.records.record import RECORD_SCHEMA, Record, checksum_of
from smope_bench.harness.records.store import Store
from smope_bench.harness.run_spec import BackboneRef, Component, RunSpec

LABELS = np.array([0, 0, 1, 1, 2, 2], dtype=np.int32)
STAGES = [np.array([0, 0]), np.array([0, 0, 1, 0]), np.array([0, 1, 1, 1, 2, 2])]
MATRIX = [[100.0, None, None], [100.0, 50.0, None], [50.0, 100.0, 100.0]]


def write_old(root: Path, seed: int = 0, *, with_predictions: bool = True) -> Path:
    """A record of schema 1 as that version wrote it; returns its file."""
    spec = RunSpec(
        method=Component(name="m"),
        benchmark=Component(name="b"),
        backbone=BackboneRef(name="tiny", sha256="ab"),
        schedule={"lr": 0.1},
        order_seed=seed,
    )
    folder = root / spec.run_id
    folder.mkdir(parents=True)
    record = {
        "schema_version": 1,
        "run_id": spec.run_id,
        "spec": spec.model_dump(mode="json"),
        "accuracy_matrix": MATRIX,
        "test_counts": [2, 2, 2],
        "provenance": {"code_fingerprint": "f" * 64},
        "costs": {},
        "timings": {},
        "flags": {},
    }
    (folder / "result.json").write_text(json.dumps(record, indent=1))
    if with_predictions:
        stages = {f"stage_{stage}": row for stage, row in enumerate(STAGES)}
        (folder / "predictions.npz").write_bytes(npz_bytes({"labels": LABELS, **stages}))
    return folder / "result.json"


def edit(file: Path, change) -> bytes:
    record = json.loads(file.read_text())
    change(record)
    file.write_text(json.dumps(record))
    return file.read_bytes()


def test_every_older_schema_has_a_step() -> None:
    assert sorted(STEPS) == list(range(1, RECORD_SCHEMA))


def test_an_old_record_is_sealed_and_its_original_kept(tmp_path: Path) -> None:
    file = write_old(tmp_path)
    original = file.read_bytes()
    done = migrate(tmp_path)
    assert (done.moved, done.current, done.left) == ((file.parent.name,), (), ())
    assert (file.parent / "result.schema1.json").read_bytes() == original
    found = Store(tmp_path).load(file.parent.name)
    assert isinstance(found, Record)
    digest = hashlib.sha256((file.parent / "predictions.npz").read_bytes()).hexdigest()
    assert found.result["predictions_sha256"] == digest
    assert (found.result["schema_version"], found.result["migrated_from"]) == (RECORD_SCHEMA, 1)
    kept = json.loads(original)
    added = ("schema_version", "predictions_sha256", "migrated_from", "seal")
    assert {k: v for k, v in found.result.items() if k not in added} == {
        k: v for k, v in kept.items() if k != "schema_version"
    }


def test_a_second_time_changes_nothing(tmp_path: Path) -> None:
    file = write_old(tmp_path)
    migrate(tmp_path)
    before = {path: path.read_bytes() for path in file.parent.iterdir()}
    done = migrate(tmp_path)
    assert (done.moved, done.current) == ((), (file.parent.name,))
    assert {path: path.read_bytes() for path in file.parent.iterdir()} == before


def test_a_migration_that_was_stopped_goes_on(tmp_path: Path) -> None:
    file = write_old(tmp_path)
    shutil.copy(file, file.parent / "result.schema1.json")
    assert migrate(tmp_path).moved == (file.parent.name,)


def test_without_predictions_there_is_no_hash_of_them(tmp_path: Path) -> None:
    file = write_old(tmp_path, with_predictions=False)
    assert len(migrate(tmp_path).moved) == 1
    assert json.loads(file.read_text())["predictions_sha256"] is None


def nan(record: dict[str, Any]) -> None:
    record["timings"]["total_s"] = float("nan")


@pytest.mark.parametrize(
    ("change", "fault", "reason"),
    [
        (lambda r: r["accuracy_matrix"][2].__setitem__(0, 50.1), "edited", "not those of its predictions.npz"),
        (lambda r: r["accuracy_matrix"][0].__setitem__(1, 50.0), "edited", "not those of its predictions.npz"),
        (lambda r: r["accuracy_matrix"][2].__setitem__(0, 101), "edited", "cannot have been measured"),
        (lambda r: r["accuracy_matrix"].pop(), "edited", "cannot have been measured"),
        (lambda r: r.update(accuracy_matrix=7), "edited", "holds what no record can"),
        (lambda r: r["test_counts"].__setitem__(0, 0), "edited", "cannot have been measured"),
        (lambda r: r["spec"]["schedule"].update(lr=0.2), "edited", "specification that its id was not made from"),
        (nan, "edited", "holds what no record can"),
        (lambda r: r.pop("costs"), "incomplete", "lacks costs"),
        (lambda r: r["provenance"].clear(), "incomplete", "does not say which code"),
        (lambda r: r.update(run_id="ab"), "misplaced", "it says that it is run 'ab'"),
        (lambda r: r.update(schema_version=RECORD_SCHEMA + 1), "schema", f"has schema {RECORD_SCHEMA + 1}, newer than"),
        (lambda r: r.update(schema_version=0), "schema", "has schema 0, which is unknown"),
        (lambda r: r.update(schema_version="1"), "schema", "has schema '1', which is unknown"),
    ],
)
def test_what_cannot_be_trusted_is_left_as_it_was(tmp_path: Path, change, fault: str, reason: str) -> None:
    file = write_old(tmp_path)
    before = edit(file, change)
    other = write_old(tmp_path, seed=1)
    done = migrate(tmp_path)
    assert done.moved == (other.parent.name,)
    ((found),) = done.left
    assert (found.run_id, found.fault) == (file.parent.name, fault) and reason in found.reason
    assert file.read_bytes() == before and not list(file.parent.glob("result.schema*"))


@pytest.mark.parametrize("text", ["", '{"schema_version": 1, "spec', "[" * 100_000])
def test_a_truncated_record_is_left(tmp_path: Path, text: str) -> None:
    file = write_old(tmp_path)
    file.write_text(text)
    (found,) = migrate(tmp_path).left
    assert found.fault == "unreadable" and file.read_text() == text


def test_predictions_that_are_no_archive_are_said(tmp_path: Path) -> None:
    file = write_old(tmp_path)
    (file.parent / "predictions.npz").write_bytes(b"x")
    (one,) = migrate(tmp_path).left
    assert (one.fault, one.reason) == ("unreadable", "has a predictions.npz that cannot be read")


def test_truncated_predictions_are_said(tmp_path: Path) -> None:
    file = write_old(tmp_path)
    predictions = file.parent / "predictions.npz"
    predictions.write_bytes(predictions.read_bytes()[:100])
    (found,) = migrate(tmp_path).left
    assert (found.fault, found.reason) == ("unreadable", "has a predictions.npz that cannot be read")


def test_a_last_row_with_gaps_is_left(tmp_path: Path) -> None:
    edit(write_old(tmp_path, with_predictions=False), lambda record: record["accuracy_matrix"][2].__setitem__(0, None))
    (found,) = migrate(tmp_path).left
    assert found.fault == "edited" and "cannot have been measured" in found.reason


def test_predictions_of_more_images_than_were_tested_are_left(tmp_path: Path) -> None:
    file = write_old(tmp_path)
    stages = {f"stage_{stage}": row for stage, row in enumerate(STAGES)}
    (file.parent / "predictions.npz").write_bytes(npz_bytes({"labels": np.append(LABELS, 2), **stages}))
    (found,) = migrate(tmp_path).left
    assert found.fault == "edited" and "not those of its predictions.npz" in found.reason


def test_a_folder_that_cannot_be_written_is_the_users_to_mend(tmp_path: Path, monkeypatch) -> None:
    file = write_old(tmp_path)
    before = file.read_bytes()

    def refuse(file: Path, data: bytes) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("smope_bench.harness.records.migrate.write_atomically", refuse)
    with pytest.raises(
        UserError, match=rf"{file.parent.name}' cannot be migrated \(Permission denied\); make it writable"
    ):
        migrate(tmp_path)
    assert file.read_bytes() == before


def test_a_copied_folder_is_left(tmp_path: Path) -> None:
    file = write_old(tmp_path)
    shutil.copytree(file.parent, tmp_path / "copy")
    done = migrate(tmp_path)
    assert (done.moved, [one.fault for one in done.left]) == ((file.parent.name,), ["misplaced"])


def test_a_record_of_this_schema_that_was_edited_is_said(tmp_path: Path) -> None:
    file = write_old(tmp_path)
    migrate(tmp_path)
    edit(file, lambda record: record["accuracy_matrix"][2].__setitem__(0, 60.0))
    (found,) = migrate(tmp_path).left
    assert found.fault == "edited" and found.reason.startswith("was changed after it was written")


def test_the_command_says_what_it_did(tmp_path: Path, capsys) -> None:
    good, bad = write_old(tmp_path), write_old(tmp_path, seed=1)
    bad.write_text("{")
    migrate_command(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "1 of 2 records was brought to schema 2; each original is kept beside its record as result.schemaN.json."
    )
    assert lines[1] == "1 of 2 records was left:"
    assert lines[2].startswith(f"  {bad.parent.name} cannot be read: ")
    migrate_command(tmp_path)
    assert capsys.readouterr().out.startswith("1 of 2 records was up to date already.")
    record = json.loads(good.read_text())
    assert record["seal"] == checksum_of(record)


def test_nothing_to_migrate_is_said(tmp_path: Path, capsys) -> None:
    migrate_command(tmp_path)
    assert capsys.readouterr().out == "No records were found: there is nothing to migrate.\n"
    with pytest.raises(UserError, match="is not a folder; name a results folder"):
        migrate_command(tmp_path / "nowhere")


def test_half_a_character_is_left_and_nothing_is_written(tmp_path: Path) -> None:
    file = write_old(tmp_path)
    before = edit(file, lambda record: record.update(class_names=["\ud800"]))
    (one,) = migrate(tmp_path).left
    assert one.fault == "edited" and file.read_bytes() == before
    assert not (file.parent / "result.schema1.json").exists()
