"""The run's log: continued from a mark, shown to other processes, and never a reason to stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from smope_bench.harness.records import event_log as run_log
from smope_bench.harness.records.event_log import RunLog


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def test_what_was_written_after_the_mark_is_dropped(tmp_path: Path) -> None:
    heard: list[dict[str, Any]] = []
    first = RunLog(tmp_path, heard.append)
    first.open((0, 0.0))
    first.log("one", number=1)
    mark = first.mark()
    first.log("two")
    first.close()
    second = RunLog(tmp_path, heard.append)
    second.open(mark)
    second.notify("heard only")
    second.log("three")
    second.close()
    assert [line["event"] for line in lines(tmp_path)] == ["one", "three"]
    assert [event["event"] for event in heard] == ["one", "two", "heard only", "three"]
    times = [line["t"] for line in lines(tmp_path)]
    assert times == sorted(times) and lines(tmp_path)[0]["number"] == 1


@pytest.mark.parametrize("size", [0, 10, 10**6])
def test_a_log_that_lost_its_end_is_cut_to_whole_lines(tmp_path: Path, size: int) -> None:
    (tmp_path / "events.jsonl").write_text('{"event": "one"}\n{"event": "tw')
    log = RunLog(tmp_path, lambda _: None)
    log.open((size, 3.0))
    log.log("three")
    log.close()
    assert [line["event"] for line in lines(tmp_path)] == (["one"] if size > 20 else []) + ["three"]
    assert lines(tmp_path)[-1]["t"] >= 3.0


def test_steps_are_throttled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, heard, shown = [100.0], [], []
    monkeypatch.setattr(run_log.time, "monotonic", lambda: now[0])
    log = RunLog(tmp_path, heard.append)
    for step in range(1, 101):
        now[0] += 0.0625
        log.step(1, 3, "train", step, 100)
        file = tmp_path / "progress.json"
        if file.exists() and (said := json.loads(file.read_text())) not in shown:
            shown.append(said)
    assert 25 <= len(heard) <= 26 and heard[-1]["step"] == 100
    assert heard[-1] == {"event": "step", "task": 1, "phase": "train", "step": 100, "total_steps": 100}
    assert len(shown) == 3
    assert {key: value for key, value in shown[0].items() if key != "updated"} == {
        "task": 1,
        "tasks": 3,
        "phase": "train",
        "step": 32,
        "total_steps": 100,
    }


def test_a_log_that_cannot_be_written_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, text: str) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            raise OSError(28, "No space left on device")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    heard: list[dict[str, Any]] = []
    log = RunLog(tmp_path, heard.append)
    log._file = Full()  # type: ignore[assignment]
    monkeypatch.setattr(run_log, "write_json_atomically", full)
    monkeypatch.setattr(run_log, "PROGRESS_INTERVAL_S", 0.0)
    log.log("one")
    log.step(0, 1, "train", 1, 1)
    log.close()
    assert [event["event"] for event in heard] == ["one", "step"]
