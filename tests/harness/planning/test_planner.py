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
from smope_bench.harness.planning.planner import PlannedRun, plan
from smope_bench.harness.planning.selection import Selection
from smope_bench.harness.planning.settings import Seeds, Setting, parse_setting
from smope_bench.harness.planning.summary.manifest import manifest
from smope_bench.harness.planning.summary.remarks import further_columns
from smope_bench.harness.registry.registry import Registries, open_registries
from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.recipes import GENERIC, RecipeFrom, find_recipe


@pytest.fixture(scope="module")
def built_in() -> Registries:
    return open_registries()


def planned(registries: Registries, suite: str = "smoke", *settings: str, **selection: Any) -> list[PlannedRun]:
    chosen = Selection(settings=tuple(parse_setting(text) for text in settings), **selection)
    return plan([suite], chosen, registries, Path("data"))


def test_rows_keep_the_order_of_the_suite_whatever_was_asked_for(built_in: Registries) -> None:
    def rows(*methods: str) -> list[str]:
        return list(
            dict.fromkeys(run.row for run in planned(built_in, methods=methods, seeds=(Seeds(0, 0),), tiny=True))
        )

    found = rows("ridge", "ncm", "linear_probe")
    assert found == rows("linear_probe", "ridge", "ncm")
    assert found == [row.label for row in SUITES["smoke"].rows if row.method in ("ridge", "ncm", "linear_probe")]


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
    with pytest.raises(
        MethodError, match=r"in 8 tasks .*; the nearest known is smope on imagenet_r in 10 tasks.*--recipe n"
    ):
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
        (("smope.schedule.lrr=1",), {}, r"schedule\.lrr is not a setting; did you mean 'lr'"),
        (("smop.schedule.lr=1",), {}, r"has a setting 'smop\.schedule\.lr'; did you mean 'smope\.schedule\.lr'"),
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
    assert {row["kind"] for row in noted["rows"]} == {"method", "floor", "adapter", "ceiling"}


def test_a_split_alone_is_enough_and_replaces_the_columns_number_of_tasks(built_in: Registries) -> None:
    for texts in (
        ["benchmark.split=[4,3,3]"],
        ["benchmark.split=4,3x2"],
        ["benchmark.split=4,3,3", "benchmark.tasks=3"],
    ):
        config = planned(built_in, "smoke", *texts, methods=("ncm",))[0].spec.benchmark.config
        assert (config["split"], config["tasks"]) == ([4, 3, 3], 3)
    with pytest.raises(UserError, match="split=4,3x2 has 3 tasks but tasks=5; leave out one of them"):
        planned(built_in, "smoke", "benchmark.split=4,3,3", "benchmark.tasks=5", methods=("ncm",))


def test_a_listed_order_enters_the_id_as_ids_wherever_it_came_from(built_in: Registries, tmp_path: Path) -> None:
    (tmp_path / "order.txt").write_text("\n".join("9876543210"))
    (tmp_path / "other.json").write_text("[9, 8, 7, 6, 5, 4, 3, 2, 1, 0]")
    texts = ["9,8,7,6,5,4,3,2,1,0", str(tmp_path / "order.txt"), str(tmp_path / "other.json")]
    runs = [planned(built_in, "smoke", f"benchmark.class_order={text}", methods=("ncm",))[0] for text in texts]
    assert len({run.run_id for run in runs}) == 1
    assert runs[0].spec.benchmark.config["class_order"] == list(range(9, -1, -1))
    with pytest.raises(BenchmarkError, match="has 2 of 10 classes and lacks 0, 1, 2, 4, 5, 6, 7, 9"):
        planned(built_in, "smoke", "benchmark.class_order=3,8", methods=("ncm",))


def test_class_names_become_ids(built_in: Registries) -> None:
    glyphs = built_in.benchmarks.load("glyphs")
    names = glyphs(glyphs.Config(), Path("data")).class_names
    setting = Setting("benchmark.class_order=…", ("benchmark", "class_order"), list(reversed(names)))
    run = plan(["glyphs"], Selection(methods=("ncm",), settings=(setting,)), built_in, Path("data"))[0]
    assert run.spec.benchmark.config["class_order"] == list(range(99, -1, -1))


def test_a_numpy_order_refuses_seeds_that_numpy_does(built_in: Registries) -> None:
    with pytest.raises(BenchmarkError, match="order seed 4294967296 is too large"):
        planned(built_in, "smoke", "benchmark.class_order=numpy", methods=("ncm",), seeds=(Seeds(2**32, 0),))


def test_a_setting_of_one_method_alone(built_in: Registries) -> None:
    settings = ("lr=0.2", "smope.schedule.lr=0.01", "one_prompt.schedule.epochs=2")
    runs = planned(built_in, "smoke", *settings, methods=("smope", "linear_probe", "one_prompt"), seeds=(Seeds(0, 0),))
    seen = {run.method: (run.spec.schedule["lr"], run.spec.schedule["epochs"]) for run in runs}
    assert seen == {"smope": (0.01, 6), "linear_probe": (0.2, 6), "one_prompt": (0.2, 2)}
    by_hand = {run.method: run.settings for run in runs}
    assert by_hand["smope"] == settings[1:2], "the rate of all rows is replaced there"
    assert by_hand["linear_probe"] == settings[:1]


def test_transforms_may_differ_by_method_and_the_protocol_may_not(built_in: Registries) -> None:
    runs = planned(
        built_in, "smoke", "ncm.benchmark.augment.kind=affine", methods=("ncm", "smope"), seeds=(Seeds(0, 0),)
    )
    kinds = {run.method: run.spec.benchmark.config["augment"]["kind"] for run in runs}
    assert kinds == {"ncm": "affine", "smope": "none"}
    with pytest.raises(
        UserError, match=r"share their protocol, only augment, .*; give --set benchmark\.tasks=2 for all"
    ):
        planned(built_in, "smoke", "ncm.benchmark.tasks=2", methods=("ncm", "smope"))


def test_a_taken_recipe_changes_hyper_parameters_and_says_so(built_in: Registries, tmp_path: Path) -> None:
    settings = (parse_setting("benchmark.split=50,10x5"),)

    def only(take: RecipeFrom | None) -> PlannedRun:
        chosen = Selection(methods=("smope",), benchmarks=("cifar100",), settings=settings, recipe=take)
        return plan(["table1"], chosen, built_in, tmp_path)[0]

    with pytest.raises(MethodError, match=r"in 6 tasks .*: add --recipe nearest"):
        only(None)
    nearest, named = only(RecipeFrom()), only(RecipeFrom("imagenet_r"))
    assert nearest.recipe.startswith(
        "taken from smope on cifar100 in 10 tasks with backbone sup1k, nominal steps in prop"
    )
    assert "not published for this setting; SMoPE card" in nearest.recipe
    assert (nearest.spec.method.config["epsilon"], nearest.spec.schedule["steps_per_epoch"]) == (0.4, 66)
    assert (
        named.recipe.startswith("taken from smope on imagenet_r in 5 tasks") and named.spec.schedule["batch_size"] == 64
    )
    assert named.spec.benchmark.config["image_size"] == 224 and named.spec.benchmark.config["split"][0] == 50


def test_a_published_recipe_stays_where_the_nearest_is_asked_for(built_in: Registries, tmp_path: Path) -> None:
    ids = {
        tuple((run.run_id, run.recipe) for run in plan(["table1"], Selection(recipe=take), built_in, tmp_path))
        for take in (None, RecipeFrom())
    }
    assert len(ids) == 1


def test_transforms_of_other_sizes_are_not_taken(built_in: Registries) -> None:
    run = planned(built_in, "smoke", methods=("smope",), recipe=RecipeFrom("cifar100", "sup1k"))[0]
    assert run.spec.benchmark.config["image_size"] == 32 and run.spec.schedule["batch_size"] == 128
    with pytest.raises(
        MethodError, match=r"--recipe-of cifar: smope has no recipe of that; it has those of cifar100:sup1k,"
    ):
        planned(built_in, "smoke", methods=("smope",), recipe=RecipeFrom("cifar"))


def test_the_generic_recipe_of_own_parts_stays_unless_another_is_asked_for() -> None:
    registries = open_registries()
    registries.backbones.add("mine", "plugin 'mine.py'", replace(registries.backbones.load("tiny_random"), name="mine"))
    generic, taken = (
        planned(registries, "smoke", "backbone=mine", methods=("smope",), recipe=take)[0]
        for take in (None, RecipeFrom())
    )
    assert generic.recipe == GENERIC.source
    assert taken.recipe.startswith("taken from smope on digits with backbone tiny, not published")


def test_an_unknown_recipe_is_refused_for_a_plugins_method() -> None:
    said = "--recipe-of digitz: no method has a recipe of that; there are those of cifar100:dino1k, "
    with pytest.raises(MethodError, match=said):
        find_recipe("mine", "digits", "tiny", own=True, take=RecipeFrom("digitz"))
    assert find_recipe("mine", "digits", "tiny", own=True, take=RecipeFrom("digits")) == GENERIC


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


def test_a_column_that_needs_a_download_is_there_once_its_images_are(
    built_in: Registries, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from smope_bench.benchmarks.datasets.emoji_r import EmojiR

    def columns(tiny: bool = True, **selection: Any) -> list[str]:
        runs = plan(["table1"], Selection(tiny=tiny, seeds=(Seeds(0, 0),), **selection), built_in, tmp_path)
        return list(dict.fromkeys(run.benchmark for run in runs))

    def said(**selection: Any) -> list[str]:
        return further_columns([SUITES["table1"]], Selection(tiny=True, **selection), built_in, tmp_path)

    usual = ["glyphs, 10 tasks", "digits, 5 tasks"]
    assert columns() == usual
    (line,) = said()
    assert f"data prepare emoji_r --data {tmp_path}" in line
    assert columns(benchmarks=("emoji_r",)) == ["emoji, 10 tasks"] and not said(benchmarks=("emoji_r",))
    monkeypatch.setattr(EmojiR, "is_prepared", lambda self: True)
    assert columns() == [*usual, "emoji, 10 tasks"] and not said()
    assert columns(backbone="tiny_random") == [f"{label}, tiny_random" for label in usual]
    runs = plan(["table1"], Selection(tiny=True, seeds=(Seeds(0, 0),)), built_in, tmp_path)
    assert "emoji, 10 tasks" in manifest("table1", runs, built_in)["suite_columns"][1]
    assert not further_columns([SUITES["table1"]], Selection(), built_in, tmp_path)
