"""What clusters share: news of runs from the results folder alone, and work refused to other code."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from smope_bench.harness.execution import lease as claims
from smope_bench.harness.executors import remote as cluster
from smope_bench.harness.executors.remote import EventFollower, ask_to_stop, for_remote, run_remotely, withdraw_stop
from smope_bench.harness.provenance import code_fingerprint
from smope_bench.harness.run_options import RunOptions
from tests.harness.executors.cluster_runs import (  # noqa: F401  # pyright: ignore[reportMissingImports]
    Heard,
    attempts,
    job,
    options,
)
from tests.harness.stand_ins import wait_for  # pyright: ignore[reportMissingImports]


@pytest.fixture(autouse=True)
def _looks_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "POLL_S", 0.0)
    monkeypatch.setattr(cluster, "LOOK_S", 0.0)


def write(folder: Path, *events: dict[str, Any], rest: str = "") -> None:
    folder.mkdir(exist_ok=True)
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events) + rest)


def started(done: int, at: float = 0.0) -> dict[str, Any]:
    return {"t": at, "event": "run_started", "total_tasks": 3, "tasks_done": done}


def evaluated(task: int, at: float = 1.0) -> dict[str, Any]:
    return {"t": at, "event": "task_evaluated", "task": task}


def test_old_events_are_no_news_and_new_ones_come_once(tmp_path: Path) -> None:
    write(tmp_path / "r", started(0), evaluated(0))
    tail, heard = EventFollower(tmp_path, ["r"]), Heard()
    tail.notify(heard)
    assert heard.events == {}
    write(tmp_path / "r", started(0), evaluated(0), evaluated(1), rest='{"event": "half')
    tail.notify(heard)
    tail.notify(heard)
    assert heard.events == {"r": [started(1), evaluated(1)]}
    write(tmp_path / "r", started(0), evaluated(0), evaluated(1), {"event": "half written"})
    tail.forget("r", heard)
    assert heard.names("r") == ["run_started", "task_evaluated", "half written"]


def test_an_attempt_that_resumes_tells_where_though_its_log_does_not(tmp_path: Path) -> None:
    write(tmp_path / "r", started(0), evaluated(0), evaluated(1, at=2.0))
    tail, heard = EventFollower(tmp_path, ["r"]), Heard()
    write(tmp_path / "r", started(0), evaluated(0))  # cut back to its checkpoint
    tail.notify(heard)
    assert heard.events["r"] == [started(1)]
    write(tmp_path / "r", started(0), evaluated(0), evaluated(1, at=3.0))
    tail.notify(heard)
    assert heard.events["r"] == [started(1), evaluated(1, at=3.0)]
    # Another attempt, between two looks.
    write(tmp_path / "r", started(0), evaluated(0), evaluated(1, at=4.0), evaluated(2))
    tail.notify(heard)
    assert heard.events["r"][2:] == [started(1), evaluated(1, at=4.0), evaluated(2)]


def test_an_attempt_from_scratch_is_told_from_its_start(tmp_path: Path) -> None:
    tail, heard = EventFollower(tmp_path, ["r"]), Heard()
    write(tmp_path / "r", started(0), evaluated(0), evaluated(1))
    tail.notify(heard)
    heard.events.clear()
    for first in (started(0), started(0, 0.25)):  # its first line may be the same to the letter
        write(tmp_path / "r", first, evaluated(0, at=9.0))
        tail.notify(heard)
        assert heard.events.pop("r") == [first, evaluated(0, at=9.0)]


def test_a_step_is_no_first_news(tmp_path: Path) -> None:
    write(tmp_path / "r", started(0), evaluated(0))
    tail, heard = EventFollower(tmp_path, ["r"]), Heard()
    (tmp_path / "r" / "progress.json").write_text('{"step": 4, "total_steps": 9}')
    tail.notify(heard)
    assert heard.events["r"] == [started(1), {"event": "step", "step": 4, "total_steps": 9}]


def test_steps_come_from_the_progress_file_and_rubbish_is_passed_over(tmp_path: Path) -> None:
    tail, heard = EventFollower(tmp_path, ["r", "never"]), Heard()
    write(tmp_path / "r", started(0), rest="not json\n[1]\n")
    file = tmp_path / "r" / "progress.json"
    file.write_text('{"task": 0, "tasks": 3, "phase": "p", "step": 4, "total_steps": 9, "updated": 1.0}')
    tail.notify(heard)
    step = {"event": "step", "task": 0, "phase": "p", "step": 4, "total_steps": 9}
    assert heard.events == {"r": [started(0), step]}
    for rubbish in ("", "[]", "7", '{"step": 1}', "\x00"):
        time.sleep(0.002)
        file.write_text(rubbish)
        tail.notify(heard)
    assert len(heard.events["r"]) == 2


def test_the_file_server_is_not_asked_without_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "POLL_S", 60.0)
    tail, heard = EventFollower(tmp_path, ["r"]), Heard()
    tail.notify(heard)
    write(tmp_path / "r", started(0))
    tail.notify(heard)
    assert heard.events == {}
    tail.forget("r", heard)  # the end of a run is not put off
    assert heard.names("r") == ["run_started"]


def test_other_code_is_refused(options: RunOptions) -> None:  # noqa: F811
    end = run_remotely(job(), options, "0" * 64)
    assert end.state == "failed" and end.error is not None
    assert end.error["kind"] == "OtherCode" and "000000000000" in end.error["error"]
    assert not (options.results / job().run_id / "attempts").exists()


def test_stopping_one_launcher_stops_no_other_s_runs(
    options: RunOptions,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(claims, "CANCEL_S", 0.05)
    one, other = for_remote(options), for_remote(options)
    jobs = [job(0, sleep=60), job(1, sleep=60)]
    with ThreadPoolExecutor(2) as pool:
        first, second = (
            pool.submit(run_remotely, run, there, code_fingerprint())
            for run, there in zip(jobs, (one, other), strict=True)
        )
        wait_for(lambda: all(attempts(run, options) for run in jobs))
        ask_to_stop(one)
        assert first.result(60).state == "interrupted" and not second.done()
        waits = job(2)
        assert run_remotely(waits, one, code_fingerprint()).state == "interrupted" and attempts(waits, options) == 0
        assert run_remotely(waits, other, code_fingerprint()).state == "done"
        ask_to_stop(other)
        assert second.result(60).state == "interrupted"
    for there in (one, other):
        withdraw_stop(there)
    assert list(options.results.glob(".stop-*")) == []


def test_paths_travel_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    there = for_remote(RunOptions(Path("results"), Path("data"), plugins=(Path("p.py"),), threads=3))
    assert (there.results, there.data, there.plugins) == (tmp_path / "results", tmp_path / "data", (tmp_path / "p.py",))
    assert there.threads == 3


def test_a_job_for_a_gpu_that_lands_without_one_does_not_train_on_the_cpu(
    options: RunOptions,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    threads = torch.get_num_threads()
    remote = replace(for_remote(options), device="cuda", runner=RunOptions.runner, threads=threads)
    end = run_remotely(job(), remote, code_fingerprint())
    sentence = (end.error or {})["error"]
    assert end.state == "failed" and "the job landed where torch sees no cuda device" in sentence
    assert "--slurm gres=gpu:1" in sentence and "--device cpu" in sentence
