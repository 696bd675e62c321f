"""Records are whole or absent; manifests merge; an unwritable folder is said before training."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from smope_bench.harness.errors import UserError
from smope_bench.harness.records import store as store_module
from smope_bench.harness.records.atomic_write import write_json_atomically
from smope_bench.harness.records.record import OBSERVATIONS, RECORD_SCHEMA, Broken, Record, with_checksum
from smope_bench.harness.records.store import Store


def result(run_id: str = "ab12", fingerprint: str = "f" * 64) -> dict[str, Any]:
    return {
        "schema_version": RECORD_SCHEMA,
        "run_id": run_id,
        "spec": {"method": {"name": "m", "config": {}}},
        "accuracy_matrix": [[50.0]],
        "test_counts": [2],
        "provenance": {"code_fingerprint": fingerprint},
        "costs": {},
        "timings": {},
    }


def test_states(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.state("ab12", "f" * 64) == "new"
    store.write_failure("ab12", {"error": "no"})
    assert store.state("ab12", "f" * 64) == "failed"
    store.write_result("ab12", result())
    assert store.state("ab12", "f" * 64) == "done"
    assert store.state("ab12", "0" * 64) == "stale"
    assert not (tmp_path / "ab12" / "failure.json").exists()
    store.write_failure("ab12", {"error": "later"})
    assert store.state("ab12", None) == "failed" and store.load("ab12") is None


def test_a_failure_removes_no_record_that_its_launcher_could_not_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    store.write_result("ab12", result())
    with monkeypatch.context() as patched:
        patched.setattr(Path, "exists", lambda path: False)  # as the cache of a network client shows it
        store.write_failure("ab12", {"error": "no"})
    assert store.state("ab12", "f" * 64) == "done"


def test_a_record_is_done_only_with_what_is_asked_to_be_observed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry = {"file": OBSERVATIONS, "sha256": hashlib.sha256(b"seen").hexdigest(), "names": ["keys", "counts"]}
    store.write_result("ab12", result() | {"observations": entry})
    assert store.state("ab12", None) == "done"
    assert store.state("ab12", None, ["keys"]) == "stale"
    (tmp_path / "ab12" / OBSERVATIONS).write_bytes(b"seen")
    assert store.state("ab12", "f" * 64, ["keys"]) == store.state("ab12", None, ("counts", "keys")) == "done"
    assert store.state("ab12", "0" * 64, ["keys"]) == "stale"
    assert store.state("ab12", None, ["keys", "losses"]) == "stale"
    (tmp_path / "ab12" / OBSERVATIONS).write_bytes(b"else")
    assert store.state("ab12", None, ["keys"]) == "stale"
    store.write_result("ab12", result() | {"observations": "?"})
    assert store.state("ab12", None, ["keys"]) == "stale" and store.state("ab12", None) == "done"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: text[:-20], "cannot be read"),
        (lambda text: "[]", "not a JSON object"),
        (lambda text: text.replace("50.0", "NaN"), "NaN is not a measurement"),
        (lambda text: text.replace("50.0", "1e999"), "cannot be read"),
        (lambda text: "[" * 100_000, "cannot be read"),
        (lambda text: text.replace('"schema_version": 2', '"schema_version": 0'), "schema 0, not 2"),
        (
            lambda text: text.replace('"schema_version": 2', '"schema_version": 1'),
            "not 2; bring it up to date with",
        ),
        (lambda text: text.replace('"schema_version": 2', '"schema_version": 9'), "schema 9, not 2"),
        (lambda text: text.replace("50.0", "90.0"), "changed after it was written"),
        (lambda text: text.replace('"seal"', '"sail"'), "its seal does not fit"),
        (lambda text: text.replace("ab12", "cd34"), "it says that it is run 'cd34'"),
        (lambda text: text.replace('"test_counts"', '"counts"'), "lacks test_counts"),
        (lambda text: text.replace("code_fingerprint", "fingerprint"), "which code"),
    ],
)
def test_a_damaged_record_is_named_and_not_used(tmp_path: Path, damage: Any, says: str) -> None:
    store = Store(tmp_path)
    store.write_result("ab12", result())
    file = tmp_path / "ab12" / "result.json"
    file.write_text(damage(file.read_text()))
    found = store.load("ab12")
    assert isinstance(found, Broken) and says in found.reason
    assert store.state("ab12", None) == "new"
    assert list(store.scan()) == [found]


def test_half_a_character_is_refused_and_a_whole_one_is_not(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_result("ab12", result())
    for text, is_whole in (("\U0001f40d", True), (r"\ud83d", True), ("\ud83d", False)):
        for noted in ({text: 1}, {"note": [text]}):
            (tmp_path / "ab12" / "result.json").write_text(json.dumps(with_checksum(result() | noted)))
            found = store.load("ab12")
            assert isinstance(found, Record) == is_whole and getattr(found, "fault", None) == (
                None if is_whole else "edited"
            )


def test_scan_finds_only_published_runs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert list(store.scan()) == []
    for name in ("b2", "a1"):
        store.write_result(name, result(name))
    store.write_failure("c3", {"error": "no"})
    store.write_manifest("smoke", {"rows": [], "columns": [], "cells": []})
    assert [record.run_id for record in store.scan() if isinstance(record, Record)] == ["a1", "b2"]


def test_a_failed_write_leaves_the_old_content_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.json"
    write_json_atomically(file, {"old": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_json_atomically(file, {"new": 2})
    assert json.loads(file.read_text()) == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_not_a_number_is_never_stored(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Out of range|not JSON compliant"):
        write_json_atomically(tmp_path / "x.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


def manifest(row: str, seeds: list[int], run_id: str) -> dict[str, Any]:
    cells = [{"row": row, "column": "d", "order_seed": s, "train_seed": s, "run_id": f"{run_id}{s}"} for s in seeds]
    return {"suite": "smoke", "rows": [{"label": row}], "columns": [{"label": "d"}], "cells": cells}


def test_manifests_merge_by_cell(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_manifest("smoke", manifest("A", [0, 1], "old"))
    store.write_manifest("smoke", manifest("B", [0], "b"))
    store.write_manifest("smoke", manifest("A", [1], "new"))
    merged = store.read_manifest("smoke")
    assert merged is not None
    assert [row["label"] for row in merged["rows"]] == ["A", "B"]
    assert sorted(cell["run_id"] for cell in merged["cells"]) == ["b0", "new1", "old0"]


def test_unreadable_manifest_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "smoke.json").write_text("{")
    with pytest.raises(UserError, match="run the suite again"):
        Store(tmp_path).read_manifest("smoke")
    Store(tmp_path).write_manifest("smoke", manifest("A", [0], "new"))
    assert [cell["run_id"] for cell in (Store(tmp_path).read_manifest("smoke") or {})["cells"]] == ["new0"]


@pytest.mark.parametrize(
    ("part", "value"),
    [
        (("cells",), 3),
        (("cells", 0), None),
        (("cells", 0, "run_id"), None),
        (("cells", 0, "row"), ["A"]),
        (("cells", 0, "row"), "unlisted"),
        (("cells", 0, "column"), "unlisted"),
        (("cells", 0, "order_seed"), "0"),
        (("cells", 0, "plugins"), "text"),
        (("rows",), None),
        (("rows", 0), {}),
        (("columns", 0), []),
        (("columns", 0), {"label": "d", "tasks": float("inf")}),
        (("rows", 0), {"label": "\ud800"}),
    ],
)
def test_a_manifest_that_cannot_be_merged_is_written_anew(tmp_path: Path, part: tuple[Any, ...], value: Any) -> None:
    store, old = Store(tmp_path), manifest("A", [0], "old")
    inside: Any = old
    for key in part[:-1]:
        inside = inside[key]
    inside[part[-1]] = value
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "smoke.json").write_text(json.dumps(old))
    store.write_manifest("smoke", new := manifest("B", [0], "new") | {"columns": [{"label": "e"}]} | named("B", "e"))
    assert store.read_manifest("smoke") == new


def named(row: str, column: str) -> dict[str, Any]:
    return {"cells": [{"row": row, "column": column, "order_seed": 0, "train_seed": 0, "run_id": "new0"}]}


@pytest.mark.parametrize("text", ["[]", "3", '"x"', "null", "{}", '{"cells": {}}', '{"cells": [3]}'])
def test_cells_of_what_is_no_plan_are_the_users_to_mend(tmp_path: Path, text: str) -> None:
    assert Store(tmp_path).read_cells("smoke") == []
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "smoke.json").write_text(text)
    if text != "null":
        with pytest.raises(UserError, match="the plan of suite 'smoke' cannot be used; run the suite again"):
            Store(tmp_path).read_cells("smoke")
    Store(tmp_path).write_manifest("smoke", manifest("A", [0], "new"))
    assert [cell["run_id"] for cell in Store(tmp_path).read_cells("smoke")] == ["new0"]


def test_unwritable_results_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written.*--results"):
        Store(tmp_path / "file" / "results").require_writable()
    with pytest.raises(UserError, match=r"it is a file; name another with --results"):
        Store(tmp_path / "file").require_writable()


def test_two_launchers_that_note_a_suite_at_once_both_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, files = store_module.write_atomically, Store(tmp_path)
    second = threading.Thread(target=files.write_manifest, args=("smoke", manifest("B", [0], "b")))

    def slowly(file: Path, data: bytes) -> None:
        if second.ident is None:
            second.start()
            second.join(timeout=0.3)  # time enough to write, were it not for the lock
        write(file, data)

    monkeypatch.setattr(store_module, "write_atomically", slowly)
    files.write_manifest("smoke", manifest("A", [0], "a"))
    second.join(timeout=30)
    assert sorted(cell["run_id"] for cell in (files.read_manifest("smoke") or {})["cells"]) == ["a0", "b0"]
    assert [file.name for file in (tmp_path / "suites").iterdir()] == ["smoke.json"]


def test_a_plan_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "suites").touch()
    with pytest.raises(UserError, match=r"the plan of suite 'mine' cannot be written .*--results DIR"):
        Store(tmp_path).write_manifest("mine", {"suite": "mine", "rows": [], "columns": [], "cells": []})


def test_a_manifest_that_may_not_be_read_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, file = Store(tmp_path), tmp_path / "suites" / "smoke.json"
    store.write_manifest("smoke", manifest("A", [0], "theirs"))
    before = file.read_bytes()

    def refuse(path: Path, *rest: Any, **options: Any) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", refuse)
        with pytest.raises(UserError, match=r"smoke.json' cannot be read \(Permission denied\); make it readable$"):
            store.write_manifest("smoke", manifest("B", [0], "ours"))
    assert file.read_bytes() == before
