"""Suites become runs: names checked, defaults spelled out, identities stable, and settings that nobody takes refused."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from benchmarks.errors import BenchmarkError
from benchmarks.suites import SUITES
from harness.errors import UserError
from harness.plan import PlannedRun, Selection, manifest, plan
from harness.registry import Registries, open_registries
from harness.settings import Seeds, parse_setting
from methods.common.errors import MethodError
from methods.recipes import ANY, GENERIC, RECIPES, find_recipe


@pytest.fixture(scope="module")
def built_in() -> Registries:
    return open_registries()


def planned(registries: Registries, suite: str = "smoke", *settings: str, **selection: Any) -> list[PlannedRun]:
    chosen = Selection(settings=tuple(parse_setting(text) for text in settings), **selection)
    return plan([suite], chosen, registries, Path("data"))


@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_plans(suite: str, built_in: Registries) -> None:
    runs = planned(built_in, suite, tiny=True)
    rows, seeds = len(SUITES[suite].rows), len(SUITES[suite].seeds)
    assert len(runs) == rows * seeds * len(SUITES[suite].tiny)
    assert len({run.run_id for run in runs}) == len(runs)
    for run in runs:
        method = built_in.methods.load(run.method)
        assert method.Config(**run.spec.method.config).model_dump(mode="json") == run.spec.method.config


def test_smoke_compares_at_least_these(built_in: Registries) -> None:
    methods = {run.method for run in planned(built_in)}
    assert {"smope", "one_prompt", "linear_probe", "ncm", "ridge", "joint"} <= methods


def test_table_4_has_eight_cumulative_rows(built_in: Registries) -> None:
    runs = planned(built_in, "table4", tiny=True, seeds=(Seeds(0, 0),))
    assert len(runs) == 8
    first, last = runs[0].spec.method.config, runs[-1].spec.method.config
    assert first["top_k"] == 0 and first["score_agg"] == "per_token" and not first["tap"]["enabled"]
    (full,) = planned(built_in, "glyphs", methods=("smope",), seeds=(Seeds(0, 0),))
    assert last == full.spec.method.config and runs[-1].run_id == full.run_id
    changes = [
        {key for key in after.spec.method.config if before.spec.method.config[key] != after.spec.method.config[key]}
        for before, after in itertools.pairwise(runs)
    ]
    assert changes == [
        {"score_agg"},
        {"top_k"},
        {"epsilon"},
        {"tap"},
        {"dense_start"},
        {"alpha_router"},
        {"alpha_proto"},
    ]


def test_seeds_are_two_numbers(built_in: Registries) -> None:
    (run,) = planned(built_in, methods=("ncm",), seeds=(Seeds(3, 7),))
    assert (run.spec.order_seed, run.spec.train_seed) == (3, 7)


def test_one_and_one_point_zero_are_one_run(built_in: Registries) -> None:
    ids = {planned(built_in, "smoke", f"smope.epsilon={text}", methods=("smope",))[0].run_id for text in ("1", "1.0")}
    assert len(ids) == 1


@pytest.mark.parametrize(
    ("setting", "where"),
    [
        ("schedule.epochs=3", ("schedule", "epochs")),
        ("epochs=3", ("schedule", "epochs")),
        ("smope.epsilon=0.9", ("method", "epsilon")),
        ("epsilon=0.9", ("method", "epsilon")),
        ("benchmark.tasks=2", ("benchmark", "tasks")),
    ],
)
def test_settings_reach_their_place(setting: str, where: tuple[str, str], built_in: Registries) -> None:
    run = planned(built_in, "smoke", setting, methods=("smope",))[0]
    scope, field = where
    parts: dict[str, Any] = {
        "schedule": run.spec.schedule,
        "method": run.spec.method.config,
        "benchmark": run.spec.benchmark.config,
    }
    assert parts[scope][field] == parse_setting(setting).value


def test_a_setting_goes_to_those_who_have_it(built_in: Registries) -> None:
    runs = planned(built_in, "smoke", "tap.epochs=3", seeds=(Seeds(0, 0),))
    taken = {run.row: run.spec.method.config["tap"]["epochs"] for run in runs if "tap" in run.spec.method.config}
    assert taken and set(taken.values()) == {3}


@pytest.mark.parametrize(
    ("settings", "selection", "says"),
    [
        (("epsilom=1",), {}, r"has a setting 'epsilom'; did you mean 'epsilon'"),
        (("smope.epsilom=1",), {}, r"smope\.epsilom is not a setting; did you mean 'epsilon'"),
        (("schedule.epoch=1",), {}, r"schedule\.epoch is not a setting; did you mean 'epochs'"),
        (("benchmark.task=1",), {}, r"benchmark\.task is not a setting; did you mean 'tasks'"),
        (("smop.epsilon=1",), {}, r"has a setting 'smop\.epsilon'; did you mean 'smope\.epsilon'"),
        ((), {"methods": ("smoep",)}, r"unknown method 'smoep'; did you mean 'smope'"),
        ((), {"benchmarks": ("digit",)}, r"unknown benchmark 'digit'; did you mean 'digits'"),
        (("epochs=0",), {}, r"schedule\.epochs=0: .*allowed: >= 1"),
        (("benchmark.image_size=64",), {}, r"64 px but backbone 'tiny' takes 32 px"),
    ],
)
def test_mistakes_are_answered(
    settings: tuple[str, ...], selection: dict[str, Any], says: str, built_in: Registries
) -> None:
    with pytest.raises(UserError, match=says):
        planned(built_in, "smoke", *settings, **selection)


def test_unknown_suite_and_missing_size(built_in: Registries) -> None:
    with pytest.raises(UserError, match="unknown suite 'smokes'; did you mean 'smoke'"):
        planned(built_in, "smokes")
    with pytest.raises(UserError, match="run it with --tiny"):
        planned(built_in, "table4")


def test_recipes_are_never_guessed() -> None:
    with pytest.raises(
        MethodError, match="no recipe for smope on digits with backbone random; the nearest known is smope"
    ):
        find_recipe("smope", "digits", "random", own=False)
    assert find_recipe("mine", "digits", "tiny", own=True) is GENERIC
    assert find_recipe("ncm", "digits", "tiny", own=False).benchmark == ANY


def test_recipes_name_what_exists(built_in: Registries) -> None:
    for recipe in RECIPES:
        assert recipe.method in built_in.methods.names()
        assert recipe.benchmark == ANY or recipe.benchmark in built_in.benchmarks.names()
        assert recipe.backbone in built_in.backbones.names()
        assert recipe.source


def test_no_setting_is_ambiguous(built_in: Registries) -> None:
    """A bare name in --set must mean one thing: no method may call a setting as the schedule does."""
    from methods.common.schedules import Schedule

    for name in built_in.methods.names():
        assert not set(built_in.methods.load(name).Config.model_fields) & set(Schedule.model_fields)


def test_the_manifest_holds_what_reports_need(built_in: Registries) -> None:
    runs = planned(built_in)
    noted = manifest("smoke", runs, built_in)
    assert [row["label"] for row in noted["rows"]] == [row.label for row in SUITES["smoke"].rows]
    assert {cell["run_id"] for cell in noted["cells"]} == {run.run_id for run in runs}
    assert noted["tiny"] is True
    assert {row["kind"] for row in noted["rows"]} == {"method", "floor", "ceiling"}


def test_an_uneven_split_is_refused_or_spelled_out(built_in: Registries, tmp_path: Path) -> None:
    digits = built_in.benchmarks.load("digits")
    with pytest.raises(BenchmarkError, match=r"10 classes cannot be split evenly into 3 tasks; use tasks=1, 2, 5, 10"):
        digits(digits.Config(tasks=3), tmp_path).task_sizes()
    run = planned(built_in, "smoke", "benchmark.split=[4,3,3]", "benchmark.tasks=3", methods=("ncm",))[0]
    assert run.spec.benchmark.config["split"] == [4, 3, 3]
