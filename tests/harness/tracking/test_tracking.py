"""Trackers: what they write of a run, that nothing comes twice, and that one that fails stops nothing."""

import csv
import json
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from smope_bench import run_all
from smope_bench.harness.metrics import METRICS
from smope_bench.harness.records.store import Store
from smope_bench.harness.run_options import RunOptions
from smope_bench.harness.tracking import follow
from smope_bench.harness.tracking.follow import RunFacts, Tracking, TrackWriter
from smope_bench.harness.tracking.points import points_of, summary_of
from smope_bench.harness.tracking.tracker import Point, TrackedRun, Tracker, find_trackers
from tests.harness.stand_ins import publish, spec_of, wait_for  # pyright: ignore[reportMissingImports]

RUN_SPEC = spec_of(pool=10, tap={"lr": 0.1})
RUN = RunFacts(RUN_SPEC.run_id, "M · b · seed 0", "s", RUN_SPEC.model_dump(mode="json"))
MATRIX = [[90.0, None], [80.0, 70.0]]


def epoch(task: int, loss: float, t: float) -> dict[str, Any]:
    return {"t": t, "event": "epoch", "task": task, "phase": "train", "epoch": 0, "loss": loss}


EVENTS = [
    {"t": 0.0, "event": "run_started", "total_tasks": 2, "tasks_done": 0},
    epoch(0, 2.0, 1.0),
    epoch(0, 1.0, 2.0),
    {"t": 3.0, "event": "task_evaluated", "task": 0, "accuracies": MATRIX[0]},
    epoch(1, 1.5, 4.0),
    {"t": 5.0, "event": "task_evaluated", "task": 1, "accuracies": MATRIX[1]},
]


def write_log(store: Store, events: Sequence[Mapping[str, Any]]) -> None:
    folder = store.path(RUN.run_id)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")


def write_record(store: Store) -> None:
    times = {"total_s": 5.0, "tasks": [{"task": 0, "train_s": 2.0, "end_s": 0.5, "evaluate_s": 0.5}]}
    job: Any = SimpleNamespace(run_id=RUN.run_id, spec=RUN_SPEC)
    options = RunOptions(store.root, store.root)
    publish(job, options, accuracy_matrix=MATRIX, test_counts=[1, 1], timings=times, costs={"peak_memory_mb": 12.5})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def writer_of(
    store: Store, *names: str, trackers: Sequence[Tracker] = (), said: list[str] | None = None
) -> TrackWriter:
    notify = (said if said is not None else []).append
    plugins = [Path("my own.py")] if trackers else []
    return TrackWriter([*find_trackers(names), *trackers], store, store.root / "tracked", METRICS, notify, plugins)


def rows_of(store: Store) -> list[tuple[str, int, float]]:
    with (store.root / "tracked" / "csv" / f"{RUN.run_id}.csv").open(encoding="utf-8", newline="") as stream:
        return [(row["name"], int(row["step"]), float(row["value"])) for row in csv.DictReader(stream)]


def test_points_are_losses_by_epoch_and_accuracies_by_task() -> None:
    found = [(point.name, point.axis, point.step, point.value) for point in points_of(EVENTS)]
    assert [row for row in found if row[0] == "loss/all tasks"] == [
        ("loss/all tasks", "epoch", step, value) for step, value in ((1, 2.0), (2, 1.0), (3, 1.5))
    ]
    assert ("loss/task 02, train", "epoch", 3, 1.5) in found
    assert ("accuracy/task 01", "task", 2, 80.0) in found and ("accuracy/average", "task", 2, 75.0) in found
    assert not [row for row in found if row[:3] == ("accuracy/task 02", "task", 1)], "not measured"
    assert list(points_of([{"event": "epoch", "loss": "x"}, {"event": "task_evaluated", "accuracies": 3}])) == []


def test_final_values_have_the_metrics_headings() -> None:
    result = {
        "accuracy_matrix": MATRIX,
        "test_counts": [1, 1],
        "timings": {"total_s": 5.0},
        "costs": {"a": 2, "b": "x"},
    }
    found = summary_of(result, METRICS)
    assert found["FAA"] == 75.0 and found["total_s"] == 5.0 and found["a"] == 2.0 and "b" not in found
    assert set(found) <= {*(metric.heading for metric in METRICS), "total_s", "a"}


def test_csv_grows_with_the_log_and_has_a_row_a_run(store: Store) -> None:
    writer = writer_of(store, "csv")
    write_log(store, EVENTS[:3])
    writer.write(RUN)
    assert rows_of(store)[-1] == ("loss/task 01, train", 2, 1.0), "readable at once"
    write_log(store, EVENTS)
    write_record(store)
    writer.write(RUN, "done")
    rows = rows_of(store)
    assert len(rows) == len({row[:2] for row in rows}) == 16
    assert ("time/train", 1, 2.0) in rows
    with (store.root / "tracked" / "csv" / "runs.csv").open(encoding="utf-8", newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row["state"] == "done" and row["FAA"] == "75.0" and row["peak_memory_mb"] == "12.5"
    assert row["method.config.pool"] == "10" and row["method.config.tap.lr"] == "0.1"


def test_resumed_and_repeated_runs_double_nothing(store: Store) -> None:
    writer = writer_of(store, "csv", "tensorboard")
    write_log(store, EVENTS[:5])
    writer.write(RUN)
    write_log(store, EVENTS[:3])  # its worker died, and the next one goes on from a checkpoint
    writer.write(RUN)
    write_log(store, EVENTS[:5])
    writer.write(RUN)
    writer.close()
    write_log(store, EVENTS)
    write_record(store)
    for _ in range(2):  # another launch, and the command after it
        writer = writer_of(store, "csv", "tensorboard")
        writer.write(RUN, "done")
    rows = rows_of(store)
    assert len(rows) == len({row[:2] for row in rows}) == 16
    with (store.root / "tracked" / "csv" / "runs.csv").open(encoding="utf-8", newline="") as stream:
        assert [row["state"] for row in csv.DictReader(stream)] == ["done"]
    assert scalars(store)["loss/all tasks"] == [(1, 2.0, 1.0), (2, 1.0, 2.0), (3, 1.5, 4.0)]


def scalars(store: Store) -> dict[str, list[tuple[int, float, float]]]:
    """Step, value and seconds since the first point's run began, of every scalar that TensorBoard finds."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = (store.root / "tracked" / "tensorboard").iterdir()
    found = EventAccumulator(str(folder)).Reload()
    start = found.Scalars("loss/all tasks")[0].wall_time - 1.0
    return {
        tag: [(point.step, point.value, round(point.wall_time - start, 3)) for point in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def test_tensorboard_reads_curves_settings_and_final_values(store: Store) -> None:
    pytest.importorskip("tensorboard")
    write_log(store, EVENTS)
    write_record(store)
    writer = writer_of(store, "tensorboard")
    writer.write(RUN, "done")
    found = scalars(store)
    assert found["accuracy/task 01"] == [(1, 90.0, 3.0), (2, 80.0, 5.0)]
    assert found["final/FAA"][0][1] == 75.0 and found["final/peak_memory_mb"][0][1] == 12.5
    assert writer.looks() == [
        f"tracked in {str(store.root / 'tracked' / 'tensorboard')!r}; see it with: "
        f"tensorboard --logdir {store.root / 'tracked' / 'tensorboard'}"
    ]


class FakeWandb:
    """Stands for the library: notes what is called."""

    Settings = staticmethod(dict)

    def __init__(self, is_logged_in: bool = True) -> None:
        self.is_logged_in, self.calls = is_logged_in, list[Any]()
        self.summary: dict[str, Any] = {}

    def login(self, *, prompt: bool, verify: bool) -> bool:
        assert not (prompt or verify), "nothing may be asked, no server waited for"
        return self.is_logged_in

    def init(self, **given: Any) -> "FakeWandb":
        self.calls.append(given)
        return self

    def define_metric(self, *args: Any, **given: Any) -> None:
        pass

    def log(self, values: dict[str, Any]) -> None:
        self.calls.append(values)

    def finish(self, exit_code: int) -> None:
        self.calls.append(exit_code)


def test_a_login_is_asked_for_before_the_sweep_and_never_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb(is_logged_in=False))  # pyright: ignore[reportArgumentType]
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert run_all.main(["run", "smoke", "--track", "wandb"]) == 2
    assert "you are not logged in; do it with: wandb login" in capsys.readouterr().err
    monkeypatch.setenv("WANDB_MODE", "offline")
    find_trackers(["wandb"])


def test_wandb_gets_one_run_with_steps_of_its_own(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)  # pyright: ignore[reportArgumentType]
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    old = store.root / "tracked" / "wandb" / "wandb" / f"offline-run-1-{RUN.run_id}"
    old.mkdir(parents=True)
    write_log(store, EVENTS)
    write_record(store)
    writer_of(store, "wandb").write(RUN, "done")
    begun, *logged, code = fake.calls
    assert begun["id"] == RUN.run_id and begun["group"] == "s" and begun["config"]["method.config.pool"] == 10
    assert logged[0] == {"epoch": 1, "loss/all tasks": 2.0, "loss/task 01, train": 2.0}
    assert code == 0 and fake.summary["final/FAA"] == 75.0
    assert not old.exists(), "an offline copy of the same run would be sent, too"


def test_wandb_keeps_an_offline_run(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    write_log(store, EVENTS)
    write_record(store)
    said: list[str] = []
    writer = writer_of(store, "wandb", said=said)
    writer.write(RUN, "done")
    assert not said
    (kept,) = (store.root / "tracked" / "wandb" / "wandb").glob(f"offline-run-*/run-{RUN.run_id}.wandb")
    wait_for(lambda: b"final/FAA" in kept.read_bytes())  # the library's service writes for a moment after ``finish``
    assert kept.read_bytes().count(b"accuracy/average") >= 2
    assert writer.looks()[0].endswith("/wandb/offline-run-*")


class FakeMlflow:
    """Stands for the library's client: keeps runs by id."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}

    def MlflowClient(self, tracking_uri: str) -> "FakeMlflow":
        self.uri = tracking_uri
        return self

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id=name)

    def search_runs(self, experiments: list[str], text: str) -> list[Any]:
        return [SimpleNamespace(info=SimpleNamespace(run_id=one)) for one in self.runs]

    def delete_run(self, run_id: str) -> None:
        del self.runs[run_id]

    def create_run(self, experiment: str, start: int, tags: dict[str, str], name: str) -> Any:
        self.runs[name] = {"tags": tags, "metrics": [], "params": {}, "experiment": experiment}
        return SimpleNamespace(info=SimpleNamespace(run_id=name))

    def log_batch(self, run_id: str, metrics: Sequence[Any] = (), params: Sequence[Any] = ()) -> None:
        self.runs[run_id]["metrics"] += metrics
        self.runs[run_id]["params"] |= dict(params)

    def set_terminated(self, run_id: str, status: str, at: int) -> None:
        self.runs[run_id]["status"] = status


def test_mlflow_gets_one_run_in_the_suites_experiment(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeMlflow()
    entities = SimpleNamespace(Metric=lambda *values: values, Param=lambda *values: values)
    monkeypatch.setitem(sys.modules, "mlflow", fake)  # pyright: ignore[reportArgumentType]
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)  # pyright: ignore[reportArgumentType]
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_log(store, EVENTS)
    write_record(store)
    for _ in range(2):
        writer_of(store, "mlflow").write(RUN, "done")
    (run,) = fake.runs.values()
    assert run["experiment"] == "s" and run["status"] == "FINISHED" and run["params"]["method.config.pool"] == "10"
    named = {(name, step): value for name, value, _, step in run["metrics"]}
    assert len(named) == len(run["metrics"]) and named["final/FAA", 0] == 75.0
    assert named["loss/task 01- train", 2] == 1.0, "the library takes no comma"
    assert fake.uri.startswith("sqlite:///") and fake.uri.endswith("/tracked/mlflow/mlflow.db")


def test_mlflow_keeps_runs_in_its_database(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_log(store, EVENTS)
    write_record(store)
    for _ in range(2):
        writer_of(store, "mlflow").write(RUN, "done")
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{store.root}/tracked/mlflow/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("s").experiment_id])
    assert run.data.metrics["final/FAA"] == 75.0 and run.data.params["method.config.pool"] == "10"
    assert [point.step for point in client.get_metric_history(run.info.run_id, "loss/all tasks")] == [1, 2, 3]


class Failing:
    """A tracker that fails at one call."""

    def __init__(self, at: str) -> None:
        self.at, self.calls = at, 0

    def _maybe(self, call: str) -> None:
        self.calls += 1
        if call == self.at:
            raise OSError(28, "No space left on device")

    def open(self, run: TrackedRun, folder: Path) -> "Failing":
        self._maybe("open")
        return self

    def write(self, points: Sequence[Point]) -> None:
        self._maybe("write")

    def end(self, state: str, summary: Mapping[str, float]) -> None:
        self._maybe("end")


@pytest.mark.parametrize("call", ["open", "write", "end"])
def test_a_tracker_that_fails_is_left_out_and_said_once(store: Store, call: str) -> None:
    failing, said = Failing(call), list[str]()
    writer = writer_of(store, "csv", trackers=[Tracker("mine", failing.open)], said=said)
    for _ in range(3):
        write_log(store, EVENTS)
        write_record(store)
        writer.write(RUN, "done")
    assert failing.calls == ("open", "write", "end").index(call) + 1, "not called again"
    (sentence,) = said
    assert "tracking with mine has ended (OSError: [Errno 28] No space left on device)" in sentence
    assert sentence.endswith(
        f"smope-bench track {store.root} --to mine --out {store.root / 'tracked'} --plugin 'my own.py'"
    )
    assert writer.working == ["csv"] and len(rows_of(store)) == 16


def test_a_tracker_that_hangs_holds_up_the_end_for_a_while_only(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "WAIT_S", 0.05)
    server, said = threading.Event(), list[str]()

    def away(run: TrackedRun, folder: Path) -> Any:
        server.wait(30)
        raise ConnectionError("no server")

    write_log(store, EVENTS)
    with Tracking(writer_of(store, trackers=[Tracker("mine", away)], said=said)) as tracking:
        tracking.update(RUN, EVENTS[1])
        tracking.finish(RUN, "failed")
    assert "tracking with mine has not ended within 0 s" in said[0]
    server.set()


def test_logs_are_read_every_two_seconds_at_most(store: Store) -> None:
    now, opened = [0.0], list[int]()

    class Counting(Failing):
        def write(self, points: Sequence[Point]) -> None:
            opened.append(len(points))

    with Tracking(writer_of(store, trackers=[Tracker("mine", Counting("").open)]), lambda: now[0]) as tracking:
        for number in range(1, 6):
            write_log(store, EVENTS[: number + 1])
            tracking.update(RUN, EVENTS[number])
            now[0] += 0.5
    assert sum(opened) == len(list(points_of(EVENTS))) and len(opened) <= 2


def test_a_missing_library_is_found_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "mlflow", None)  # pyright: ignore[reportArgumentType]
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    for command in (["run", "smoke", "--track", "csv,mlflow"], ["track", "results", "--to", "mlflow"]):
        assert run_all.main(command) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: --track mlflow needs the package mlflow") and error.count("\n") == 1
        assert error.endswith("install it with: pip install mlflow\n")
    assert not list(tmp_path.glob("results/*")) and not (tmp_path / "data").exists()
    assert run_all.main(["run", "smoke", "--track", "tensorbord"]) == 2
    assert "unknown tracker 'tensorbord'; did you mean 'tensorboard'?" in capsys.readouterr().err


def test_a_sweep_is_tracked_and_the_command_makes_the_same_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = ["run", "smoke", "--methods", "linear_probe", "--seeds", "0", "--limit", "4", "--executor", "serial"]
    assert run_all.main([*run, "--device", "cpu", "--track", "csv"]) == 0
    live = {file.name: file.read_text(encoding="utf-8") for file in Path("results/tracked/csv").glob("*.csv")}
    assert len(live) == 3 and "tracked in 'results/tracked/csv'" in capsys.readouterr().out
    assert run_all.main([*run, "--device", "cpu", "--track", "csv"]) == 0
    assert "for the finished ones, too: smope-bench track results --to csv" in capsys.readouterr().out
    assert run_all.main(["track", "results", "--to", "csv", "--out", "again"]) == 0
    again = {file.name: file.read_text(encoding="utf-8") for file in Path("again/csv").glob("*.csv")}
    assert {name: sorted(text.splitlines()) for name, text in again.items() if name != "runs.csv"} == {
        name: sorted(text.splitlines()) for name, text in live.items() if name != "runs.csv"
    }
    assert run_all.main(["track", "data", "--to", "csv"]) == 2
    assert "no finished run is in 'data'" in capsys.readouterr().err
    Path("taken").write_text("", encoding="utf-8")
    assert run_all.main(["track", "results", "--to", "csv", "--out", "taken/out"]) == 2
    assert "'taken/out' cannot be written (Not a directory); name another with --out DIR" in capsys.readouterr().err
