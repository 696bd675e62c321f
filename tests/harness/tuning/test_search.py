"""The search: no test image in reach, published grids, resumable, the same whatever the workers."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from optuna.storages.journal import JournalFileBackend

from smope_bench import run_all
from smope_bench.benchmarks.base import ImageSet, Split
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.stream import build_stream
from smope_bench.benchmarks.suites import SUITES
from smope_bench.harness.cli.commands.tune import describe, parse_grid, write_files
from smope_bench.harness.conformance.fixtures import ColouredNoise
from smope_bench.harness.errors import RunDivergedError, UserError
from smope_bench.harness.execution.job import Job
from smope_bench.harness.execution.monitoring.display import Display
from smope_bench.harness.hardware import gpus
from smope_bench.harness.hardware.gpus import VISIBLE
from smope_bench.harness.planning.planner import PlannedRun
from smope_bench.harness.planning.settings import Seeds, parse_setting
from smope_bench.harness.records.store import Store
from smope_bench.harness.registry import registry
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.run_options import Gpu, RunContext, RunOptions
from smope_bench.harness.run_spec import BackboneRef, Component, RunSpec
from smope_bench.harness.tracking.tracker import RunWriter, TrackedRun, Tracker, find_trackers
from smope_bench.harness.tuning import search as tune
from smope_bench.harness.tuning import trial as tune_trial
from smope_bench.harness.tuning.expected_time import expected_time, trial_seconds
from smope_bench.harness.tuning.search import SEED, SearchRequest, find_column, plan_search, search, search_space
from smope_bench.harness.tuning.study import JOURNAL, Study, TrialResult, grid_order
from smope_bench.methods.common.backbone.backbones import MICRO
from smope_bench.methods.recipes.search_grids import OURS
from tests.harness.stand_ins import publish, with_runner  # pyright: ignore[reportMissingImports]


class Sealed(ColouredNoise):
    """Training images only: whoever asks for a test image is stopped."""

    name: ClassVar[str] = "sealed"

    def image_set(self, split: Split) -> ImageSet:
        if split == "test":
            raise AssertionError("the search asked for test images")
        return super().image_set(split)


class Quiet(Display):
    """A display that shows nothing and remembers what ended."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    def update(self, run: PlannedRun, event: dict[str, Any]) -> None:
        pass

    def finish(self, status: Any) -> None:
        self.ended.append(status.planned.row)


@pytest.fixture
def sealed(registries: Registries, monkeypatch: pytest.MonkeyPatch) -> Registries:
    registries.benchmarks.add(Sealed.name, "tests", Sealed)
    monkeypatch.setattr(tune_trial, "open_registries", lambda plugins: registries)
    return registries


def asked(folder: Path, **changes: Any) -> SearchRequest:
    settings = ("benchmark.tasks=3", "benchmark.image_size=16", "batch_size=8", "epochs=1")
    base = SearchRequest(
        "linear_probe",
        Sealed.name,
        folder / "results",
        folder / "data",
        backbone=MICRO.name,
        settings=tuple(map(parse_setting, settings)),
        holdout=0.5,
        grid={"lr": (0.01, 0.1), "beta1": (0.9,)},
        workers=1,
    )
    return replace(base, **changes)


@pytest.fixture
def any_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coloured noise has no recipe of its own."""
    from smope_bench.methods import recipes

    monkeypatch.setattr(recipes, "find_recipe", lambda *args, **kwargs: recipes.GENERIC)


pytestmark = pytest.mark.usefixtures("any_recipe")


def faked(monkeypatch: pytest.MonkeyPatch, fail: dict[float, Exception] | None = None) -> list[float]:
    """Trials that score 100 times their rate without training; returns the rates that were computed."""
    done: list[float] = []

    def trial(job: Job, options: RunOptions, context: RunContext) -> None:
        rate = job.spec.schedule["lr"]
        done.append(rate)
        if error := (fail or {}).get(rate):
            raise error
        context.emit(
            {"event": "run_finished", "faa": 100 * rate + job.spec.train_seed / 1000, "caa": None, "seconds": 1.0}
        )

    monkeypatch.setattr(tune_trial, "run_trial", trial)
    return done


def test_a_search_trains_and_scores_without_test_images(sealed: Registries, tmp_path: Path) -> None:
    plan = plan_search(asked(tmp_path), sealed)
    found = search(plan, lambda total: Quiet(), 1, 1)
    assert [outcome.error for _, outcome in found] == [None, None]
    assert all(outcome.faa is not None and 0 <= outcome.faa <= 100 for _, outcome in found)
    assert not (plan.folder / "running").exists(), "checkpoints of trials must not stay"


def test_trackers_follow_the_trials_and_one_that_fails_stops_none(sealed: Registries, tmp_path: Path) -> None:
    def full_disk(run: TrackedRun, folder: Path) -> RunWriter:
        raise OSError(28, "No space left on device")

    plan, said = plan_search(asked(tmp_path), sealed), list[str]()
    trackers = [*find_trackers(["csv"]), Tracker("full_disk", full_disk)]
    found = search(plan, lambda total: Quiet(), 1, 1, said.append, trackers=trackers)
    assert all(outcome.faa is not None for _, outcome in found)
    folder = plan.folder / "tracked" / "csv"
    with (folder / "runs.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert sorted(row["schedule.lr"] for row in rows) == ["0.01", "0.1"] and all("lr=" in row["name"] for row in rows)
    for row in rows:
        points = (folder / f"{row['run_id']}.csv").read_text()
        assert row["state"] == "done" and points.count("loss/all tasks") == 3 and points.count("accuracy/average") == 3
    assert sum("full_disk" in line for line in said) == 1 and any(str(folder) in line for line in said)
    (line,) = (line for line in said if "full_disk" in line)
    assert "No space left on device" in line and line.endswith("no trial is lost by it")


def test_the_stream_of_a_search_holds_training_images_alone(tmp_path: Path) -> None:
    opened = Sealed(Sealed.Config(tasks=3, image_size=16, holdout=0.25), tmp_path)
    stream = build_stream(opened, 1000, for_search=True)
    train = opened.image_set("train")
    assert [len(task.test) for task in stream.tasks] == [0, 0, 0]
    assert len(stream.merged().tasks[0].test) == 0
    kept = {int(row) for task in stream.tasks for row in task.train.rows}
    scored = [int(row) for view in stream.tests for row in view.rows]
    assert scored and not kept & set(scored) and len(kept) + len(scored) == len(train.labels)
    assert all((train.labels[view.rows] >= 0).all() for view in stream.tests)
    with pytest.raises(AssertionError, match="asked for test images"):
        build_stream(opened, 1000)
    with pytest.raises(BenchmarkError, match=r"benchmark\.holdout above 0"):
        build_stream(Sealed(Sealed.Config(tasks=3, image_size=16), tmp_path), 1000, for_search=True)


def test_a_finished_trial_is_not_repeated_and_a_broken_one_is(
    sealed: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = asked(tmp_path, grid={"lr": (0.01, 0.02, 0.03, 0.04), "beta1": (0.9,)})
    plan = plan_search(want, sealed)
    fail: dict[float, Exception] = {0.02: RunDivergedError("diverged"), 0.03: OSError("disk full")}
    assert sorted(faked(monkeypatch, fail)) == []
    first = search(plan, lambda total: Quiet(), 1, 1)
    errors = {candidate["lr"]: outcome.error for candidate, outcome in first}
    assert errors == {0.01: None, 0.02: "diverged", 0.03: "disk full", 0.04: None}
    done = faked(monkeypatch)
    second = search(plan_search(want, sealed), lambda total: Quiet(), 1, 1)
    assert done == [0.03], "a loss that diverged would diverge again; a full disk would not"
    assert {candidate["lr"]: outcome.faa for candidate, outcome in second}[0.03] == pytest.approx(4.0)


def test_a_killed_search_goes_on(sealed: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(BaseException):
        pass

    want = asked(tmp_path, grid={"lr": (0.01, 0.02, 0.03), "beta1": (0.9,)})
    plan = plan_search(want, sealed)
    second = grid_order(plan.space, SEED, None)[1]["lr"]
    faked(monkeypatch, {second: Stopped()})  # type: ignore[dict-item]
    with pytest.raises(Stopped):
        search(plan, lambda total: Quiet(), 1, 1)
    with (plan.folder / JOURNAL).open("ab") as file:
        file.write(b'{"op_code": 4, "half a li')
    done = faked(monkeypatch)
    assert len(search(plan, lambda total: Quiet(), 1, 1)) == 3
    assert len(done) == 2 and second in done


def test_a_search_on_a_full_disk_is_one_sentence_and_goes_on(
    sealed: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = asked(tmp_path, grid={"lr": (0.01, 0.02, 0.03), "beta1": (0.9,)})
    plan, room = plan_search(want, sealed), [0]
    append = JournalFileBackend.append_logs

    def until_full(self: JournalFileBackend, logs: list[dict[str, Any]]) -> None:
        room[0] -= 1
        if room[0] < 0:
            raise OSError(28, "No space left on device")
        append(self, logs)

    faked(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(JournalFileBackend, "append_logs", until_full)
        for allowed in (0, 2):  # at the study's start, and at the second trial's result
            room[0] = allowed
            with pytest.raises(
                UserError, match=r"the search cannot be kept in .*No space left .* free\); make room there"
            ):
                search(plan, lambda total: Quiet(), 1, 1)
    done = faked(monkeypatch)
    assert len(search(plan, lambda total: Quiet(), 1, 1)) == 3 and len(done) == 2


def test_limits_seeds_and_means(sealed: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = {"lr": tuple(n / 100 for n in range(1, 11)), "beta1": (0.9,)}
    want = asked(tmp_path, grid=grid, trials=3, seeds=(Seeds(1000, 1000), Seeds(1001, 2000)))
    plan = plan_search(want, sealed)
    done = faked(monkeypatch)
    found = search(plan, lambda total: Quiet(), 1, 1)
    assert len(found) == 3 and len(done) == 6
    assert [dict(candidate) for candidate, _ in found] == [dict(c) for c in grid_order(plan.space, 1000, 3)]
    for candidate, outcome in found:
        assert outcome.faa == pytest.approx(100 * candidate["lr"] + 1.5) and outcome.seconds == 2.0
    more = plan_search(replace(want, trials=4), sealed)
    assert more.folder == plan.folder
    done.clear()
    assert len(search(more, lambda total: Quiet(), 1, 1)) == 4 and len(done) == 2


def test_what_decides_a_search_names_its_folder(sealed: Registries, tmp_path: Path) -> None:
    plans = [
        plan_search(asked(tmp_path, **changes), sealed).folder
        for changes in (
            {},
            {"holdout": 0.25},
            {"seeds": (Seeds(7, 7),)},
            {"sampler": "tpe"},
            {"grid": {"lr": (0.01,), "beta1": (0.9,)}},
        )
    ]
    assert len(set(plans)) == len(plans)
    assert plan_search(asked(tmp_path, trials=1, workers=5), sealed).folder == plans[0]


def test_tpe_stays_on_the_grid_and_goes_on(sealed: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = {"lr": tuple(n / 100 for n in range(1, 21)), "beta1": (0.9,)}
    want = asked(tmp_path, grid=grid, sampler="tpe", trials=6)
    done = faked(monkeypatch)
    found = search(plan_search(want, sealed), lambda total: Quiet(), 1, 1)
    assert {candidate["lr"] for candidate, _ in found} == set(done) <= set(grid["lr"])
    before = list(done)
    search(plan_search(want, sealed), lambda total: Quiet(), 1, 1)
    assert done == before, "six trials were asked for and six were done"
    again = Study(tmp_path / "other", plan_search(want, sealed).space, SEED, learns=True)
    first = again.ask()
    assert Study(tmp_path / "other", again.space, SEED, learns=True).ask() is not first  # the open trial was ended


def test_values_that_are_refused_together_do_not_stop_the_sampler(
    sealed: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = {"experts": (2, 3), "top_k": (1, 3), "lr": (0.01,)}
    want = asked(tmp_path, method="smope", grid=grid, sampler="tpe", trials=12)
    faked(monkeypatch)
    found = search(plan_search(want, sealed), lambda total: Quiet(), 1, 1)
    refused = [outcome for candidate, outcome in found if candidate["top_k"] > candidate["experts"]]
    assert refused and all("top_k=3" in str(outcome.error) and outcome.is_final for outcome in refused)
    assert sum(outcome.faa is not None for _, outcome in found) == len(found) - len(refused) > 0


def test_two_names_of_one_trial_both_get_its_score(
    sealed: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = asked(tmp_path, grid={"lr": (0.01,), "beta1": (0.9,), "weight_decay": (0.0, "0.0")})
    done = faked(monkeypatch)
    found = search(plan_search(want, sealed), lambda total: Quiet(), 1, 1)
    assert len(done) == 1 and [outcome.faa for _, outcome in found] == [pytest.approx(2.0)] * 2


def test_a_second_process_is_kept_out(sealed: Registries, tmp_path: Path) -> None:
    from smope_bench.benchmarks.download.locks import locked

    plan = plan_search(asked(tmp_path), sealed)
    plan.folder.mkdir(parents=True)
    with locked(plan.folder / "lock", lambda: None), pytest.raises(UserError, match="another process is working"):
        search(plan, lambda total: Quiet(), 1, 1)


def base_spec(rate: float) -> RunSpec:
    part = Component(name="x")
    return RunSpec(method=part, benchmark=part, backbone=BackboneRef(name="x", sha256="0"), schedule={"lr": rate})


def test_a_method_without_a_grid_varies_its_rate(tmp_path: Path) -> None:
    space, source = search_space(SearchRequest("plugin", "x", tmp_path, tmp_path), base_spec(0.03))
    assert space == {"lr": (0.01, 0.03, 0.09)} and source == OURS


def test_settings_narrow_the_grid_and_values_replace_it(tmp_path: Path) -> None:
    want = SearchRequest("smope", "x", tmp_path, tmp_path, settings=(parse_setting("smope.epsilon=0.4"),))
    space, _ = search_space(replace(want, grid={"smope.alpha_proto": (0.0, 1.0), "top_k": (5,)}), base_spec(1))
    assert list(space) == ["alpha_router", "alpha_proto", "top_k"]
    assert space["alpha_proto"] == (0.0, 1.0)
    with pytest.raises(UserError, match="nothing is left to search"):
        search_space(SearchRequest("plugin", "x", tmp_path, tmp_path), base_spec(1), closed_form=True)


def test_columns_come_from_the_suites(tmp_path: Path) -> None:
    column = find_column(SearchRequest("smope", "digits", tmp_path, tmp_path, tiny=True))
    assert (column.backbone, column.config["tasks"]) == ("tiny", 5)
    other = find_column(SearchRequest("smope", "digits", tmp_path, tmp_path, backbone="elsewhere"))
    assert other.backbone == "elsewhere" and other.config == column.config
    with pytest.raises(UserError, match="give --backbone NAME"):
        find_column(SearchRequest("smope", "unheard-of", tmp_path, tmp_path))


def test_a_mistyped_setting_is_answered(sealed: Registries, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'beta1'"):
        plan_search(asked(tmp_path, grid={"beta11": (0.9,)}), sealed)
    with pytest.raises(UserError, match=r"beta1=2"):
        plan = plan_search(asked(tmp_path, grid={"beta1": (0.9, 2.0), "lr": (0.1,)}), sealed)
        search(plan, lambda total: Quiet(), 1, 1)
    with pytest.raises(UserError, match="must lie between 0 and 1"):
        plan_search(asked(tmp_path, holdout=1.0), sealed)
    with pytest.raises(UserError, match=r"'benchmark.holdout=0' would change what trials are scored on"):
        plan_search(asked(tmp_path, settings=(parse_setting("benchmark.holdout=0"),)), sealed)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epsilon=0.2,0.4", ("epsilon", (0.2, 0.4))),
        ("metric=euclidean,cosine", ("metric", ("euclidean", "cosine"))),
        ("layers=[[1, 2], [3]]", ("layers", ([1, 2], [3]))),
    ],
)
def test_values_on_the_command_line(text: str, expected: tuple[str, tuple[Any, ...]]) -> None:
    assert parse_grid(text) == expected


@pytest.mark.parametrize("text", ["epsilon", "epsilon=", "=1", "x=[]"])
def test_values_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match="--grid"):
        parse_grid(text)


def test_report_and_files(sealed: Registries, tmp_path: Path) -> None:
    plan = plan_search(asked(tmp_path, grid={"lr": (0.01, 0.02, 0.03), "beta1": (0.9,)}), sealed)
    found = [
        ({"lr": 0.01, "beta1": 0.9}, TrialResult(50.0, 60.0, 1.0)),
        ({"lr": 0.02, "beta1": 0.9}, TrialResult(error="diverged", kind="RunDivergedError")),
        ({"lr": 0.03, "beta1": 0.9}, TrialResult(70.0, None, 2.0)),
    ]
    report = describe(plan, found)
    assert report["best"]["arguments"] == "--set lr=0.03 --set beta1=0.9"
    write_files(tmp_path / "out", report)
    lines = (tmp_path / "out" / "trials.csv").read_text().splitlines()
    assert lines == [
        "rank,lr,beta1,held_out_faa,held_out_caa,seconds,error",
        "1,0.03,0.9,70.00,,2.00,",
        "2,0.01,0.9,50.00,60.00,1.00,",
        "3,0.02,0.9,,,,diverged",
    ]
    assert json.loads((tmp_path / "out" / "study.json").read_text()) == report
    assert describe(plan, found[1:2])["best"] is None


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command(
    as_json: bool,
    sealed: Registries,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "open_registries", lambda plugins=(): sealed)
    faked(monkeypatch, {0.02: RunDivergedError("the loss became nan")})
    command = ["tune", "linear_probe", "sealed", "--backbone", MICRO.name, "--set", "benchmark.tasks=3"]
    command += ["--set", "benchmark.image_size=16", "--grid", "lr=0.01,0.02", "--set", "beta1=0.9", "--workers", "1"]
    assert run_all.main([*command, "--seeds", "0", "--device", "cpu", *(["--json"] if as_json else [])]) == 0
    told = capsys.readouterr()
    if as_json:
        assert json.loads(told.out)["best"]["arguments"] == "--set lr=0.01"
    else:
        assert "best: --set lr=0.01\n" in told.out and "1 of 2 trials failed: the loss became nan" in told.out
        assert "warning: seed 0:0 is a suite's" in told.out and "the loss became nan" in told.out
    assert run_all.main([*command, "--precision", "tf32", "--device", "cpu"]) == 2, "before any trial"
    assert "--precision tf32: TF32 is a format of NVIDIA's GPUs" in capsys.readouterr().err
    assert run_all.main([*command, "--holdout", "0"]) == 2
    assert "--holdout 0 must lie between 0 and 1" in capsys.readouterr().err


PLACES = """
    import os

    def run(job, options, context):
        (options.results.parent / f"{job.run_id}.gpu").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
        context.emit({"event": "run_finished", "faa": 50.0, "caa": None, "seconds": 1.0})
"""
TWO = (Gpu("GPU-a", "A", free_mb=40000.0), Gpu("GPU-b", "B", free_mb=40000.0))


@pytest.mark.parametrize("workers", [1, 2])
def test_trials_take_turns_on_the_gpus(
    workers: int, sealed: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setattr(tune, "RUNNER", with_runner(tmp_path, monkeypatch, PLACES).runner)
    rates = tuple(n / 100 for n in range(1, 7))
    plan = plan_search(asked(tmp_path, device="cuda", gpus=TWO, grid={"lr": rates, "beta1": (0.9,)}), sealed)
    found = search(plan, lambda total: Quiet(), workers, 1, memory_mb=1000.0)
    assert [outcome.faa for _, outcome in found] == [50.0] * 6
    seen = [file.read_text() for file in plan.folder.glob("*.gpu")]
    assert len(seen) == 6 and set(seen) == {gpu.token for gpu in TWO[:workers]}
    assert VISIBLE not in os.environ


def test_the_command_places_trials_as_a_launch_places_runs(
    sealed: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setattr(registry, "open_registries", lambda plugins=(): sealed)
    monkeypatch.setattr(gpus, "machine_gpus", lambda: (list(TWO), []))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    asked_for: list[tuple[tuple[Gpu, ...], int]] = []
    monkeypatch.setattr(
        tune, "search", lambda plan, display, workers, *_: asked_for.append((plan.request.gpus, workers)) or []
    )
    command = ["tune", "linear_probe", "sealed", "--backbone", MICRO.name, "--set", "benchmark.tasks=3"]
    command += ["--set", "benchmark.image_size=16", "--grid", "lr=0.01,0.02,0.03,0.04", "--set", "beta1=0.9"]
    assert run_all.main(command) == run_all.main([*command, "--gpus", "1"]) == 1, "no trial has a score"
    assert asked_for == [(TWO, 2), (TWO[1:], 1)]
    capsys.readouterr()
    assert run_all.main([*command, "--gpus", "2"]) == 2
    assert "--gpus 2: there is no GPU 2 here; GPUs: 0: A; 1: B" in capsys.readouterr().err
    monkeypatch.setattr(gpus, "machine_gpus", lambda: ([replace(TWO[0], free_mb=500.0)], []))
    assert run_all.main([*command, "--workers", "3"]) == 2
    assert "--workers 3 with 1 GPU puts 3 runs on A, GPU-a" in capsys.readouterr().err
    assert len(asked_for) == 2


def test_the_default_seed_is_no_suites() -> None:
    assert all(tune.SEED not in suite.seeds for suite in SUITES.values())


def test_it_is_said_how_long_a_search_will_take(
    sealed: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said_by(**changes: Any) -> list[str]:
        said: list[str] = []
        grid = {"lr": tuple(0.01 * number for number in range(1, 7)), "beta1": (0.9,)}
        plan = plan_search(asked(tmp_path, grid=grid, **changes), sealed)
        search(plan, lambda total: Quiet(), 1, 1, said.append)
        return said

    faked(monkeypatch)
    assert said_by(trials=3) == [
        "3 trials to do; how long is not known before the first has ended",
        "2 trials to do (1 done), about 2 s: 1 s each, by 1 trial of this search",
    ]
    assert said_by(trials=6) == ["3 trials to do (3 done), about 3 s: 1 s each, by 3 trials of this search"]
    assert said_by(trials=6) == ["no trial to do (6 done)"]


def test_the_time_of_a_trial_is_measured_by_finished_runs_of_its_length(sealed: Registries, tmp_path: Path) -> None:
    plan = plan_search(asked(tmp_path), sealed)
    spec = plan.spec({key: values[0] for key, values in plan.space.items()})
    store = Store(tmp_path / "results")
    assert trial_seconds([], spec, 2, store) is None
    for number, (epochs, total) in enumerate(((1, 80.0), (1, 100.0), (1, 120.0), (50, 9000.0))):
        schedule = spec.schedule | {"epochs": epochs}
        other = spec.model_copy(update={"schedule": schedule, "train_seed": number})
        job = Job(other.run_id, other)
        publish(job, RunOptions(store.root, store.root), timings={"total_s": total})
    seconds, source = trial_seconds([], spec, 2, store) or (0.0, "")
    assert seconds == 100.0 * 0.5 * 2 and source == "3 finished runs of the same length"
    assert expected_time(10, 0, 4, (60.0, source)) == (
        "10 trials to do, about 3:00 min: 1:00 min each, 4 at a time, by 3 finished runs of the same length"
    )
