"""Suites become runs: names checked, defaults spelled out, identities stable, and settings that nobody takes refused."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.suites import SUITES
from smope_bench.harness.errors import UserError
from smope_bench.harness.planning.planner import PlannedRun, Selection, manifest, plan
from smope_bench.harness.planning.settings import Seeds, parse_setting
from smope_bench.harness.registry.registry import Registries, open_registries
from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.recipes import GENERIC


@pytest.fixture(scope="module")
def built_in() -> Registries:
    return open_registries()


def planned(registries: Registries, suite: str = "smoke", *settings: str, **selection: Any) -> list[PlannedRun]:
    chosen = Selection(settings=tuple(parse_setting(text) for text in settings), **selection)
    return plan([suite], chosen, registries, Path("data"))


@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_plans(suite: str, built_in: Registries) -> None:
    runs = planned(built_in, suite, tiny=True)
    shown = SUITES[suite].tiny_rows or SUITES[suite].rows
    assert len(runs) == len(shown) * len(SUITES[suite].seeds) * len(SUITES[suite].tiny)
    assert len({run.run_id for run in runs}) == len(runs)
    for run in runs:
        method = built_in.methods.load(run.method)
        assert method.Config(**run.spec.method.config).model_dump(mode="json") == run.spec.method.config


@pytest.mark.parametrize("suite", [name for name, suite in SUITES.items() if suite.full])
def test_every_suite_plans_at_paper_scale_without_data_or_weights(
    suite: str, built_in: Registries, tmp_path: Path
) -> None:
    """Each method is also built, without storage, at the size of ViT-B/16: a recipe that cannot run fails here."""
    runs = plan([suite], Selection(), built_in, tmp_path)
    whole = SUITES[suite]
    assert len(runs) == len(whole.rows) * len(whole.seeds) * len(whole.full)
    assert len({run.run_id for run in runs}) == len(runs)
    assert all(run.lacks_weights and run.observe == whole.observe for run in runs)
    assert not any(tmp_path.iterdir()), "planning fetches and writes nothing"
    assert manifest(suite, runs, built_in)["tiny"] is False


def test_table_1_is_nine_methods_and_joint_training_on_three_benchmarks(built_in: Registries, tmp_path: Path) -> None:
    runs = plan(["table1"], Selection(), built_in, tmp_path)
    assert len(runs) == 150
    cells = {(run.spec.benchmark.name, run.spec.backbone.name, run.spec.benchmark.config["tasks"]) for run in runs}
    assert cells == {("imagenet_r", "sup1k", 10), ("cifar100", "sup1k", 10), ("cub200", "sup21k", 10)}
    assert {run.spec.benchmark.config["class_order"] for run in runs} == {"shuffled"}, "one order a seed for all"


def test_the_number_of_tasks_chooses_the_recipe(built_in: Registries, tmp_path: Path) -> None:
    def epsilon(tasks: int) -> float:
        settings = (parse_setting(f"benchmark.tasks={tasks}"),)
        chosen = Selection(methods=("smope",), benchmarks=("imagenet_r",), seeds=(Seeds(0, 0),), settings=settings)
        table = plan(["table1"], chosen, built_in, tmp_path)
        return table[0].spec.method.config["epsilon"]

    assert [epsilon(tasks) for tasks in (5, 10, 20)] == [0.7, 0.5, 0.3]
    with pytest.raises(MethodError, match=r"in 8 tasks .*; the nearest known is smope on imagenet_r in 10 tasks"):
        epsilon(8)


def test_a_benchmark_outside_the_suite_gets_the_recipe_of_its_own_number_of_tasks(built_in: Registries) -> None:
    (run,) = planned(built_in, "smoke", methods=("smope",), benchmarks=("fashion_mnist",), seeds=(Seeds(0, 0),))
    assert run.recipe.startswith("inferred: as on digits")
    assert run.spec.benchmark.config["image_size"] == 32 and run.spec.benchmark.config["augment"] == {"kind": "none"}


def test_asking_for_a_benchmark_keeps_all_its_columns(built_in: Registries, tmp_path: Path) -> None:
    chosen = Selection(methods=("smope",), benchmarks=("imagenet_r",), seeds=(Seeds(0, 0),))
    runs = plan(["table6"], chosen, built_in, tmp_path)
    assert [run.spec.benchmark.config["tasks"] for run in runs] == [5, 10, 20]


def test_another_kind_of_augmentation_replaces_the_recipes(built_in: Registries, tmp_path: Path) -> None:
    settings = (parse_setting("benchmark.augment.kind=none"),)
    chosen = Selection(methods=("smope",), benchmarks=("cub200",), seeds=(Seeds(0, 0),), settings=settings)
    (run,) = plan(["table1"], chosen, built_in, tmp_path)
    assert run.spec.benchmark.config["augment"] == {"kind": "none"}


def test_recipes_bring_their_transforms(built_in: Registries, tmp_path: Path) -> None:
    runs = plan(["table1"], Selection(benchmarks=("cifar100",), seeds=(Seeds(0, 0),)), built_in, tmp_path)
    seen = {run.method: run.spec.benchmark.config for run in runs}
    assert (seen["smope"]["normalize"], seen["smope"]["test_resize"]) == ("none", None)
    assert (seen["norga"]["normalize"], seen["norga"]["test_resize"]) == ("cifar100", 256)
    assert seen["norga"]["augment"]["brightness"] == pytest.approx(63 / 255)


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
        (("learning_rate=1",), {}, r"has a setting 'learning_rate'; did you mean 'schedule\.lr'"),
        (("smop.epsilon=1",), {}, r"has a setting 'smop\.epsilon'; did you mean 'smope\.epsilon'"),
        (
            (),
            {"methods": ("smoep",)},
            r"unknown method 'smoep'; did you mean 'smope'\?.* One of your own needs --plugin FILE\.py",
        ),
        ((), {"methods": ("Hide-Prompt",)}, r"unknown method 'Hide-Prompt'; did you mean 'hide_prompt'"),
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


def test_unknown_suite_and_missing_size(built_in: Registries, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="unknown suite 'smokes'; did you mean 'smoke'"):
        planned(built_in, "smokes")
    monkeypatch.setitem(SUITES, "small", replace(SUITES["table4"], name="small", full=()))
    with pytest.raises(UserError, match="suite 'small' has no paper-scale benchmarks in this version; run it with --t"):
        planned(built_in, "small")


def test_no_setting_is_ambiguous(built_in: Registries) -> None:
    """A bare name in --set must mean one thing: no method may call a setting as the schedule does."""
    from smope_bench.methods.common.schedules import Schedule

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


def test_another_backbone_is_a_setting_of_the_whole_command(built_in: Registries) -> None:
    before, after = (
        planned(built_in, "smoke", *settings, methods=("ncm",)) for settings in ((), ("backbone=tiny_random",))
    )
    assert {run.spec.backbone.name for run in after} == {"tiny_random"} != {run.spec.backbone.name for run in before}
    assert len(after) == len(before) and all(run.settings == ("backbone=tiny_random",) for run in after)
    with pytest.raises(UserError, match="unknown backbone 'tiny_randm'; did you mean 'tiny_random'"):
        planned(built_in, "smoke", "backbone=tiny_randm")


def test_a_backbone_of_the_users_own_gets_the_generic_recipe() -> None:
    registries = open_registries()
    registries.backbones.add("mine", "plugin 'mine.py'", replace(registries.backbones.load("tiny_random"), name="mine"))
    runs = planned(registries, "smoke", "backbone=mine", methods=("ncm",))
    assert {run.recipe for run in runs} == {GENERIC.source} and {run.spec.backbone.name for run in runs} == {"mine"}
