"""Several launchers on one results folder, signals, cancelling: real processes, with a stand-in for the engine."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from smope_bench.harness.execution.lease import CANCEL, acquire
from smope_bench.harness.execution.monitoring import status
from smope_bench.harness.execution.monitoring.status import Cell, cancel_runs, statuses
from smope_bench.harness.execution.scheduler import execute
from smope_bench.harness.planning.planner import PlannedRun
from smope_bench.harness.provenance import code_fingerprint
from smope_bench.harness.records.store import Store
from smope_bench.harness.run_options import RunOptions
from tests.harness.stand_ins import HERE, planned, python_path, wait_for  # pyright: ignore[reportMissingImports]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")

RUNNER = """
    import os, time
    from smope_bench.harness.cancellation import LeaseLost, Interrupted
    from stand_ins import publish

    def note(options, *words):
        with (options.results.parent / "log").open("a") as log:
            log.write(" ".join(map(str, words)) + "\\n")

    def run(job, options, context):
        todo = job.spec.method.config
        note(options, "began", job.run_id, os.getpid())
        context.emit({"event": "run_started", "total_tasks": 1, "tasks_done": 0})
        until, go = time.monotonic() + todo.get("seconds", 0.0), options.results.parent / "go"
        while time.monotonic() < until or (todo.get("gate") and not go.exists()):
            time.sleep(0.01)
            context.emit({"event": "step", "step": 1, "total_steps": 2})
            if context.stop_request.is_set() and not todo.get("deaf"):
                context.emit({"event": "step", "step": 2, "total_steps": 2})  # the signal may have come after the first
                note(options, "saved", job.run_id)
                raise Interrupted
        if not context.may_publish():
            raise LeaseLost
        note(options, "published", job.run_id)
        publish(job, options)
"""
LAUNCHER = """
    import sys
    from pathlib import Path
    from smope_bench.harness.execution.scheduler import execute
    from smope_bench.harness.run_options import RunOptions
    from smope_bench.harness.planning.planner import PlannedRun
    from smope_bench.harness.cancellation import Stopped, stop_signals
    from smope_bench.harness.run_spec import RunSpec
    from tests_launcher_runs import RUNS

    if __name__ == "__main__":
        options = RunOptions(Path("results"), Path("data"), workers=int(sys.argv[1]), runner="tests_launcher_runner:run")
        planned = [PlannedRun("s", "M", "m", "b", RunSpec.model_validate_json(text)) for text in RUNS]
        say = lambda *words: print(*words, flush=True)
        try:
            with stop_signals():
                for status in execute(planned, options, lambda run, event: say("event", event["event"], run.run_id)):
                    say("end", status.state, status.planned.run_id)
        except Stopped as stop:
            sys.exit(stop.status)
"""


@dataclass
class Place:
    """A folder in which launchers start."""

    root: Path
    runs: list[PlannedRun]

    @property
    def store(self) -> Store:
        return Store(self.root / "results")

    @property
    def cells(self) -> list[Cell]:
        return [Cell(run.run_id, f"run {i}") for i, run in enumerate(self.runs)]

    def start(self, workers: int = 1) -> subprocess.Popen[str]:
        environment = os.environ | {"PYTHONPATH": python_path(self.root)}
        command = [sys.executable, "launcher.py", str(workers)]
        return subprocess.Popen(
            command, cwd=self.root, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def log(self) -> list[list[str]]:
        file = self.root / "log"
        return [line.split() for line in file.read_text().splitlines()] if file.exists() else []

    def count(self, word: str) -> Counter[str]:
        return Counter(line[1] for line in self.log() if line[0] == word)

    def let_go(self) -> None:
        """Let runs that have a gate end."""
        (self.root / "go").touch()

    def done(self) -> list[str]:
        return [run.run_id for run in self.runs if self.store.state(run.run_id, code_fingerprint()) == "done"]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Callable[..., Place]]:
    def made(*configs: dict[str, Any]) -> Place:
        runs = [planned(i, **config) for i, config in enumerate(configs)]
        (tmp_path / "tests_launcher_runner.py").write_text(textwrap.dedent(RUNNER))
        (tmp_path / "launcher.py").write_text(textwrap.dedent(LAUNCHER))
        (tmp_path / "tests_launcher_runs.py").write_text(f"RUNS = {[run.spec.model_dump_json() for run in runs]!r}")
        return Place(tmp_path, runs)

    yield made
    for line in (tmp_path / "log").read_text().splitlines() if (tmp_path / "log").exists() else ():
        if line.startswith("began") and is_ours(pid := int(line.split()[2]), tmp_path):
            os.kill(pid, signal.SIGKILL)


def is_ours(pid: int, root: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").resolve() == root.resolve()
    except OSError:
        return False


def finish(*launchers: subprocess.Popen[str]) -> list[str]:
    return [launcher.communicate(timeout=300)[0] for launcher in launchers]


@pytest.mark.parametrize("workers", [1, 2])
def test_two_launchers_share_the_work_and_do_nothing_twice(place: Callable[..., Place], workers: int) -> None:
    here = place(*[{"seconds": 0.05}] * 12)
    told = finish(here.start(workers), here.start(workers))
    assert sorted(here.done()) == sorted(run.run_id for run in here.runs)
    assert set(here.count("published").values()) == {1} and len(here.count("published")) == 12
    for text in told:  # each knows how every run ended
        ends = [line.split()[1:] for line in text.splitlines() if line.startswith("end")]
        assert len(ends) == 12 and {state for state, _ in ends} <= {"done", "skipped"}
    assert not list(here.store.root.glob("*/claim.*"))


def test_a_launcher_that_is_killed_leaves_its_run_to_the_one_that_waits(place: Callable[..., Place]) -> None:
    here = place({"gate": True})
    first = here.start()
    wait_for(lambda: here.count("began"))
    second = here.start()
    assert second.stdout is not None
    assert second.stdout.readline().startswith("event held")
    first.kill()
    first.communicate()
    here.let_go()
    assert finish(second)[0].splitlines()[-1] == f"end done {here.runs[0].run_id}"
    assert here.count("published") == {here.runs[0].run_id: 1}


@pytest.mark.parametrize(("number", "workers", "exit_code"), [(signal.SIGTERM, 1, 143), (signal.SIGINT, 2, 130)])
def test_a_signal_saves_what_is_in_flight(
    place: Callable[..., Place], number: signal.Signals, workers: int, exit_code: int
) -> None:
    here = place(*[{"gate": True}] * 3)
    launcher = here.start(workers)
    wait_for(lambda: len(here.count("began")) == workers)
    os.killpg(launcher.pid, number)
    text = finish(launcher)[0]
    assert launcher.returncode == exit_code
    assert len(here.count("saved")) == workers and not here.done()
    assert text.count("event stopping") == text.count("end interrupted") == workers
    assert {view.state for view in statuses(here.store, here.cells)} == {"new"}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_signal_does_not_wait(place: Callable[..., Place], workers: int) -> None:
    here = place(*[{"gate": True, "deaf": True}] * 2)
    launcher = here.start(workers)
    wait_for(lambda: len(here.count("began")) == workers)
    launcher.send_signal(signal.SIGTERM)
    assert launcher.stdout is not None
    assert any(line.startswith("event stopping") for line in iter(launcher.stdout.readline, ""))
    assert launcher.poll() is None
    launcher.send_signal(signal.SIGTERM)
    finish(launcher)
    assert launcher.returncode == 143


def test_a_killed_worker_s_run_is_tried_again_and_the_others_go_on(place: Callable[..., Place]) -> None:
    here = place(*[{"gate": True}] * 3)
    launcher = here.start(2)
    wait_for(lambda: len(here.count("began")) == 2)
    victim = here.log()[0]
    os.kill(int(victim[2]), signal.SIGKILL)
    here.let_go()
    text = finish(launcher)[0]
    assert launcher.returncode == 0 and len(here.done()) == 3
    assert f"event run_retried {victim[1]}" in text
    assert here.count("began")[victim[1]] == 2 and set(here.count("published").values()) == {1}


def test_a_worker_that_is_asked_to_end_gives_its_run_to_another(place: Callable[..., Place]) -> None:
    here = place(*[{"gate": True}] * 2)
    launcher = here.start(2)
    wait_for(lambda: len(here.count("began")) == 2)
    os.kill(int(here.log()[0][2]), signal.SIGTERM)
    wait_for(lambda: here.count("saved"))
    here.let_go()
    finish(launcher)
    assert len(here.done()) == 2 and set(here.count("published").values()) == {1}


def test_a_sweep_is_seen_and_cancelled_from_elsewhere(place: Callable[..., Place]) -> None:
    here = place(*[{"gate": True}] * 4)
    launcher = here.start(2)
    wait_for(lambda: len(here.count("began")) == 2)
    wait_for(lambda: sum(view.state == "running" for view in statuses(here.store, here.cells)) == 2)
    views = statuses(here.store, here.cells)
    assert [(view.state, view.owner) for view in views] == [("running", "this")] * 2 + [("new", None)] * 2
    told: list[str] = []
    assert cancel_runs(here.store, here.cells, told.append) == []
    assert told == [
        "asked 2 of 4 runs: 2 running, 2 new to save and stop",
        "2 stopped, 0 finished before that, 0 still running.",
    ]
    text = finish(launcher)[0]
    assert text.count("end cancelled") == 4 and len(here.count("saved")) == len(here.count("began")) == 2
    assert not [view for view in statuses(here.store, here.cells) if view.state in ("running", "dead")]


def test_what_was_cancelled_can_be_asked_for_again(place: Callable[..., Place], monkeypatch: Any) -> None:
    here = place({})
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.syspath_prepend(here.root)
    folder = here.store.path(here.runs[0].run_id)
    folder.mkdir(parents=True)
    (folder / CANCEL).touch()
    options = RunOptions(here.root / "results", here.root, runner="tests_launcher_runner:run")
    assert [end.state for end in execute(here.runs, options, lambda run, event: None)] == ["done"]
    assert not (folder / CANCEL).exists()


def test_nothing_that_runs_is_nothing_to_cancel(place: Callable[..., Place]) -> None:
    here = place({}, {})
    here.store.root.mkdir()
    told: list[str] = []
    assert cancel_runs(here.store, here.cells, told.append) == []
    assert told == ["nothing is running."] and list(here.store.root.iterdir()) == []


def test_whoever_does_not_listen_is_reported(place: Callable[..., Place], monkeypatch: pytest.MonkeyPatch) -> None:
    here = place({})
    claim = acquire(here.store.path(here.runs[0].run_id))
    monkeypatch.setattr(status, "LOOK_S", 0.01)
    told: list[str] = []
    left = cancel_runs(here.store, here.cells, told.append, wait_s=0.05)
    assert [view.label for view in left] == ["run 0"] and told[-1].endswith("1 still running.")
    claim.release(forget=True)  # type: ignore[union-attr]


def test_a_run_that_somebody_else_took_over_is_not_published(
    place: Callable[..., Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = place({"seconds": 0.1})
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.syspath_prepend(here.root)
    folder, states = here.store.path(here.runs[0].run_id), []

    def usurp(run: PlannedRun, event: dict[str, Any]) -> None:
        states.append(event["event"])
        if event["event"] == "run_started" and states.count("run_started") == 1:
            heir = json.loads((folder / "claim.1").read_text()) | {"token": "other", "state": "free"}
            (folder / "claim.2").write_text(json.dumps(heir))

    options = RunOptions(here.root / "results", here.root, runner="tests_launcher_runner:run")
    assert [end.state for end in execute(here.runs, options, usurp)] == ["done"]
    assert states.count("held") == 1 and states.count("run_started") == 2
    assert here.count("began") == {here.runs[0].run_id: 2} and here.count("published") == {here.runs[0].run_id: 1}
