"""What clusters share: news of runs from the results folder alone, and work refused to other code."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import cluster
from harness.claims import CANCEL
from harness.cluster import Tail, ask_to_stop, run_remotely, travelling, withdraw_stop
from harness.jobs import ExecuteOptions, WorkerOptions
from tests.harness.cluster_runs import Heard, job, options  # noqa: F401  # pyright: ignore[reportMissingImports]


@pytest.fixture(autouse=True)
def _looks_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "POLL_S", 0.0)
    monkeypatch.setattr(cluster, "LOOK_S", 0.0)


def write(folder: Path, *events: dict[str, Any], rest: str = "") -> None:
    folder.mkdir(exist_ok=True)
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events) + rest)


def started(done: int, at: float = 0.0) -> dict[str, Any]:
    return {"t": at, "event": "run_started", "total_tasks": 3, "tasks_done": done}


def evaluated(task: int) -> dict[str, Any]:
    return {"t": 1.0, "event": "task_evaluated", "task": task}


def test_old_events_are_no_news_and_new_ones_come_once(tmp_path: Path) -> None:
    write(tmp_path / "r", started(0), evaluated(0))
    tail, heard = Tail(tmp_path, ["r"]), Heard()
    tail.tell(heard)
    assert heard.events == {}
    write(tmp_path / "r", started(0), evaluated(0), evaluated(1), rest='{"event": "half')
    tail.tell(heard)
    tail.tell(heard)
    assert heard.events == {"r": [evaluated(1)]}
    write(tmp_path / "r", started(0), evaluated(0), evaluated(1), {"event": "half written"})
    tail.forget("r", heard)
    assert heard.names("r") == ["task_evaluated", "half written"]


def test_a_new_attempt_is_told_from_its_start(tmp_path: Path) -> None:
    tail, heard = Tail(tmp_path, ["r"]), Heard()
    write(tmp_path / "r", started(0), evaluated(0), evaluated(1))
    tail.tell(heard)
    heard.events.clear()
    write(tmp_path / "r", evaluated(0), started(1, 0.5), evaluated(1), evaluated(2))
    tail.tell(heard)
    assert heard.events["r"] == [started(1, 0.5), evaluated(1), evaluated(2)]


def test_steps_come_from_the_progress_file_and_rubbish_is_passed_over(tmp_path: Path) -> None:
    tail, heard = Tail(tmp_path, ["r", "never"]), Heard()
    write(tmp_path / "r", started(0), rest="not json\n[1]\n")
    file = tmp_path / "r" / "progress.json"
    file.write_text('{"task": 0, "tasks": 3, "phase": "p", "step": 4, "total_steps": 9, "updated": 1.0}')
    tail.tell(heard)
    step = {"event": "step", "task": 0, "phase": "p", "step": 4, "total_steps": 9}
    assert heard.events == {"r": [started(0), step]}
    for rubbish in ("", "[]", "7", '{"step": 1}', "\x00"):
        time.sleep(0.002)
        file.write_text(rubbish)
        tail.tell(heard)
    assert len(heard.events["r"]) == 2


def test_the_file_server_is_not_asked_without_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "POLL_S", 60.0)
    tail, heard = Tail(tmp_path, ["r"]), Heard()
    tail.tell(heard)
    write(tmp_path / "r", started(0))
    tail.tell(heard)
    assert heard.events == {}
    tail.forget("r", heard)  # the end of a run is not put off
    assert heard.names("r") == ["run_started"]


def test_other_code_is_refused(options: ExecuteOptions) -> None:  # noqa: F811
    end = run_remotely(job(), options.for_workers(), "0" * 64)
    assert end.state == "failed" and end.error is not None
    assert end.error["kind"] == "OtherCode" and "000000000000" in end.error["error"]
    assert not (options.results / job().run_id / "attempts").exists()


def test_asking_to_stop_is_taken_back_without_a_trace(tmp_path: Path) -> None:
    write(tmp_path / "began", started(0))
    ask_to_stop(tmp_path, ["began", "waits"])
    assert (tmp_path / "began" / CANCEL).exists() and (tmp_path / "waits" / CANCEL).exists()
    withdraw_stop(tmp_path, ["began", "waits", "unheard of"])
    assert [file.name for file in (tmp_path / "began").iterdir()] == ["events.jsonl"]
    assert not (tmp_path / "waits").exists()


def test_paths_travel_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    there = travelling(WorkerOptions(Path("results"), Path("data"), plugins=(Path("p.py"),), threads=3))
    assert (there.results, there.data, there.plugins) == (tmp_path / "results", tmp_path / "data", (tmp_path / "p.py",))
    assert replace(there, results=Path("results"), data=Path("data"), plugins=(Path("p.py"),)).threads == 3
