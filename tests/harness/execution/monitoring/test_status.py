"""What another terminal sees of a sweep, from the results folder alone."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from smope_bench import run_all
from smope_bench.harness.errors import UserError
from smope_bench.harness.execution import lease as claims
from smope_bench.harness.execution.lease import DEAD_S, Lease, acquire
from smope_bench.harness.execution.monitoring.status import Cell, RunView, _progress, planned_cells, statuses, summary
from smope_bench.harness.provenance import code_fingerprint
from smope_bench.harness.records.record import RECORD_SCHEMA
from smope_bench.harness.records.store import Store

IDS = [f"{n:016x}" for n in range(4)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "results")
    cells = [
        {"row": "M", "column": "b", "order_seed": n, "train_seed": n, "run_id": run_id} for n, run_id in enumerate(IDS)
    ]
    rows, columns = [{"label": "M"}], [{"label": "b"}]
    store.write_manifest("mine", {"suite": "mine", "rows": rows, "columns": columns, "cells": cells})
    return store


def held(folder: Path) -> Lease:
    claim = acquire(folder)
    assert isinstance(claim, Lease)
    return claim


def elsewhere(folder: Path, age: float) -> None:
    folder.mkdir(exist_ok=True)
    said = json.loads(claims._content("t", 0, "held")) | {"machine": "another"}
    (folder / "claim.1").write_text(json.dumps(said))
    os.utime(folder / "claim.1", (time.time() - age, time.time() - age))


def say(folder: Path, *events: dict[str, Any], progress: dict[str, Any] | None = None) -> None:
    folder.mkdir(exist_ok=True)
    lines = [json.dumps(event) for event in events]
    (folder / "events.jsonl").write_text("\n".join([*lines, '{"event": "half a li']))
    if progress is not None:
        (folder / "progress.json").write_text(json.dumps(progress))


EVENTS = (
    {"t": 0.0, "event": "run_started", "total_tasks": 5, "tasks_done": 0},
    {"t": 0.1, "event": "task_started", "task": 0},
    {"t": 8.0, "event": "task_evaluated", "task": 0},
    {"t": 16.0, "event": "task_evaluated", "task": 1},
)


def test_each_run_is_what_the_folder_tells(store: Store) -> None:
    running, remote, silent, waiting = (store.path(run_id) for run_id in IDS)
    claim = held(running)
    say(running, *EVENTS, progress={"task": 2, "tasks": 5, "phase": "p", "step": 7, "total_steps": 20, "updated": 0.0})
    elsewhere(remote, 1)
    elsewhere(silent, DEAD_S + 5)
    (waiting / "checkpoint").mkdir(parents=True)
    say(waiting, *EVENTS, progress={"task": 1, "tasks": 5, "phase": "p", "step": 7, "total_steps": 20, "updated": 0.0})
    views = statuses(store, planned_cells(store, ["mine"]))
    claim.release(forget=True)
    assert views[0] == RunView(IDS[0], "M · b · seed 0", "running", 2, 5, 7, 20, 8.0, "this")
    assert (views[1].state, views[1].owner, views[2].state) == ("running", "another", "dead")
    assert (views[3].state, views[3].task, views[3].step) == ("waiting", 2, None), "that progress was of a task before"
    assert summary(views) == "4 runs: 2 running, 1 dead, 1 waiting"


def test_a_failed_run_that_is_tried_again_runs(store: Store) -> None:
    store.write_failure(IDS[0], {"error": "no"})
    cells = planned_cells(store, [])
    assert statuses(store, cells)[0].state == "failed"
    claim = held(store.path(IDS[0]))
    assert statuses(store, cells)[0].state == "running"
    claim.release(forget=False)
    assert statuses(store, cells)[0].state == "failed"


def test_a_finished_run_whose_process_died_afterwards_is_done(store: Store) -> None:
    folder = store.path(IDS[0])
    elsewhere(folder, DEAD_S + 5)
    record = {
        "schema_version": RECORD_SCHEMA,
        "run_id": IDS[0],
        "spec": {},
        "accuracy_matrix": [[50.0]],
        "test_counts": [1],
    }
    made = {"code_fingerprint": code_fingerprint()}
    store.write_result(IDS[0], {**record, "costs": {}, "timings": {}, "provenance": made})
    assert statuses(store, planned_cells(store, []))[0].state == "done"
    elsewhere(folder, 1)
    assert statuses(store, planned_cells(store, []))[0].state == "running", "it may be observed anew"


def test_progress_of_anybody_s_making_hurts_nothing(store: Store) -> None:
    folder = store.path(IDS[0])
    claim = held(folder)
    say(folder, {"event": "run_started"}, {"event": "task_evaluated", "task": "x", "t": None}, progress={"task": []})
    (folder / "events.jsonl").write_bytes(b"\xff\n[1]\n" + b"[" * 100_000)
    view = statuses(store, planned_cells(store, []))[0]
    claim.release(forget=True)
    assert (view.state, view.task) == ("running", None)


def test_only_ids_are_ids(store: Store) -> None:
    file = store.root / "suites" / "mine.json"
    manifest = json.loads(file.read_text())
    manifest["cells"][0] |= {"run_id": "../../outside"}
    manifest["cells"][1] |= {"row": "a\x1b[2Jb"}
    file.write_text(json.dumps(manifest))
    cells = planned_cells(store, ["mine"])
    assert [cell.run_id for cell in cells] == IDS[1:]
    assert "\x1b" not in cells[0].label


CELL = {"row": "M", "column": "b", "order_seed": 0, "train_seed": 0, "run_id": IDS[0]}


@pytest.mark.parametrize(
    "manifest",
    [
        {},
        [],
        {"cells": 1},
        {"cells": [{}]},
        {"cells": [1]},
        *({"cells": [CELL | {"plugins": p}]} for p in ("x", ["x"])),
    ],
)
def test_a_damaged_plan_is_one_sentence(store: Store, manifest: Any) -> None:
    (store.root / "suites" / "mine.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="the plan of suite 'mine' cannot be used; run the suite again"):
        planned_cells(store, ["mine"])


def test_two_suites_show_a_shared_run_once(store: Store) -> None:
    manifest = store.read_manifest("mine")
    assert manifest is not None
    store.write_manifest("other", manifest | {"suite": "other"})
    assert planned_cells(store, []) == [Cell(run_id, f"M · b · seed {n}") for n, run_id in enumerate(IDS)]


def test_the_command_shows_what_is_going_on(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    claim = held(store.path(IDS[0]))
    say(store.path(IDS[0]), *EVENTS)
    where = ["--results", str(store.root)]
    assert run_all.main(["status", "mine", *where]) == 0
    text = capsys.readouterr().out
    assert "M · b · seed 0" in text and "task 3 of 5" in text and "8 s a task" in text and "this" in text
    assert "seed 1" not in text and "4 runs: 1 running, 3 new" in text
    assert run_all.main(["status", "--json", *where]) == 0
    assert [row["state"] for row in json.loads(capsys.readouterr().out)] == ["running", "new", "new", "new"]
    claim.release(forget=True)
    assert run_all.main(["status", "--watch", *where]) == 0
    assert "4 runs: 4 new" in capsys.readouterr().out
    assert run_all.main(["cancel", *where]) == 0
    assert capsys.readouterr().out == "nothing is running.\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["status", "mien"], "nothing was run for suite 'mien'"),
        (["cancel", "mien"], "did you mean 'mine'?"),
        (["status", "--results", "absent"], "nothing was run in 'absent'"),
    ],
)
def test_what_was_never_run_is_one_sentence(
    store: Store,
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(store.root.parent)
    assert run_all.main(arguments) == 2
    told = capsys.readouterr().err
    assert words in told and told.startswith("error: ") and told.count("\n") == 1


def test_work_without_steps_is_shown(store: Store) -> None:
    folder = store.path(IDS[0])
    shown = {"task": 2, "tasks": 5, "phase": "fit", "done": 5120, "total": 50000, "unit": "images", "updated": 0.0}
    say(folder, *EVENTS, progress=shown)
    assert _progress(folder)["work"] == "fit 5,120 of 50,000 images"
    say(folder, progress=shown | {"done": "x"})
    assert "work" not in _progress(folder)


def test_why_a_run_failed_is_shown(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    for run_id in IDS[:2]:
        store.write_failure(run_id, {"schema_version": RECORD_SCHEMA, "kind": "UserError", "error": "no GPU [here]"})
    views = statuses(store, planned_cells(store, ()))
    assert [view.reason for view in views] == ["no GPU [here]", "no GPU [here]", None, None]
    assert run_all.main(["status", "--results", str(store.root)]) == 0
    assert "failed (2): no GPU [here]" in capsys.readouterr().out
