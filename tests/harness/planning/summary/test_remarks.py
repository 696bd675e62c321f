"""Notes on planned runs, and every remedy that a message of planning prints, followed as it is printed."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smope_bench import run_all
from smope_bench.benchmarks.datasets.published.imagenet_r import SEEDED
from smope_bench.harness.cli import options as opt
from smope_bench.harness.planning.planner import PlannedRun, plan
from smope_bench.harness.planning.selection import Selection
from smope_bench.harness.planning.settings import Seeds, parse_setting
from smope_bench.harness.planning.summary.remarks import notes_of, remarks
from smope_bench.harness.registry.registry import Registries, open_registries
from smope_bench.methods.common.schedules import FLOOR, Schedule, learning_rate, steps_at_floor

ROOT = Path(run_all.__file__).resolve().parent


@pytest.fixture(scope="module")
def built_in() -> Registries:
    return open_registries()


def planned(built_in: Registries, *settings: str, suite: str = "smoke", methods: str = "smope") -> list[PlannedRun]:
    texts = tuple(parse_setting(text) for text in settings)
    chosen = Selection(methods=opt.split_values([methods]), seeds=(Seeds(0, 0), Seeds(1, 1)), settings=texts)
    return plan([suite], chosen, built_in, Path("data"))


@given(
    loader=st.integers(1, 60),
    epochs=st.integers(1, 12),
    freeze=st.integers(0, 80),
    nominal=st.none() | st.integers(1, 80),
    shape=st.sampled_from(["coswm", "cosine", "plain_cosine", "constant", "step", "epoch_cosine"]),
    first=st.booleans(),
)
def test_steps_at_the_floor_are_counted_as_they_run(
    loader: int, epochs: int, freeze: int, nominal: int | None, shape: str, first: bool
) -> None:
    schedule = Schedule.model_validate(
        {
            "lr": 0.01,
            "epochs": epochs,
            "freeze_steps": freeze,
            "steps_per_epoch": nominal,
            "shape": shape,
            "lr_first_step_full": first,
        }
    )
    rates = (
        learning_rate(schedule, 0.01, step=step, loader_steps=loader, epochs=epochs) for step in range(loader * epochs)
    )
    assert steps_at_floor(schedule, loader) == sum(rate <= FLOOR for rate in rates)


FROZEN = ("schedule.epochs=1", "schedule.batch_size=8", "schedule.freeze_steps=80", "schedule.steps_per_epoch=80")


def test_a_schedule_that_rests_is_a_warning_and_its_remedy_mends_it(built_in: Registries) -> None:
    """300 images in five tasks: 7 steps of 8 images a task, of which all but the first are at the floor."""
    runs = planned(built_in, *FROZEN)
    notes = [notes_of(run, built_in, lambda _: 300) for run in runs]
    (warning,) = {note for found in notes for note in found}
    assert warning.startswith("warning: 30 of 35 optimisation steps run at the floor rate 1e-06")
    assert remarks(runs, notes) == [f"{warning} (SMoPE on digits, 5 tasks)"]
    assert remedies(warning) == ["smope.schedule.freeze_steps=0", "smope.schedule.steps_per_epoch=null"]
    mended = planned(built_in, *FROZEN, *remedies(warning))
    assert notes_of(mended[0], built_in, lambda _: 300) == []


def test_published_recipes_do_not_rest(built_in: Registries) -> None:
    runs = plan(["table1"], Selection(seeds=(Seeds(0, 0),)), built_in, Path("data"))
    counts = {"imagenet_r": 24_000, "cifar100": 50_000, "cub200": 5_994}
    assert not any(notes_of(run, built_in, lambda run: counts[run.spec.benchmark.name]) for run in runs)


def test_a_plan_warns_before_the_data_is_prepared(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    asked = ["plan", "smoke", "--methods", "smope", "--seeds", "0", "--limit", "40"]
    asked += [word for text in FROZEN for word in ("--set", text)]
    assert run_all.main([*asked, "--data", str(tmp_path), "--results", str(tmp_path), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    limited, warning = row["notes"]
    assert row["train_image_passes"] == 400 and limited == "note: limited to 40 images a class, for trying out"
    assert warning.startswith("warning: 45 of 50 optimisation steps run at the floor")


def test_unknown_counts_and_closed_forms_give_no_warning(built_in: Registries) -> None:
    assert notes_of(planned(built_in, *FROZEN)[0], built_in, lambda _: None) == []
    assert notes_of(planned(built_in, *FROZEN, methods="ncm")[0], built_in, lambda _: 300) == []


def test_limits_and_settings_of_some_rows_are_noted(built_in: Registries) -> None:
    runs = planned(built_in, "benchmark.limit=3", "smope.schedule.lr=0.01", methods="smope,ncm")
    notes = [notes_of(run, built_in, lambda _: 30) for run in runs]
    assert remarks(runs, notes) == [
        "note: limited to 3 images a class, for trying out (SMoPE on digits, 5 tasks, limit=3;"
        " Nearest class mean on digits, 5 tasks, limit=3)",
        "note: --set smope.schedule.lr=0.01 applies to SMoPE only",
    ]


def remedies(message: str) -> list[str]:
    """The values of every ``--set`` of a message."""
    return [shlex.split(text)[0].rstrip(";,.:") for text in re.findall(r"--set (\S+)", message)]


ROOMS = ("benchmarks", "harness/planning", "harness/records", "harness/tuning", "methods/recipes")
FOLLOWED = {
    *("benchmark.split", "benchmark.tasks", "benchmark.image_size", "{field}.kind", "schedule.epochs"),
    *("{run.method}.schedule.freeze_steps", "{run.method}.schedule.steps_per_epoch"),
    "benchmark.class_subsets",  # tests/benchmarks/test_domains.py
    "benchmark.holdout",  # tests/harness/records/test_observations.py
    "benchmark.lists",
    "benchmark.repeats",  # tests/benchmarks/datasets/folders/test_image_folder.py
}
"""Settings that messages print, each followed by a test, here unless it is noted."""


def test_no_message_prints_a_setting_that_no_test_follows() -> None:
    sources = [file.read_text(encoding="utf-8") for room in ROOMS for file in sorted((ROOT / room).rglob("*.py"))]
    printed = {key for text in sources for key in re.findall(r"--set ([\w.{}]+)=(?![A-Z])", text)}
    assert printed == FOLLOWED


def test_the_setting_for_an_archive_without_lists_is_taken(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (remedy,) = remedies(SEEDED.replace("'", " "))
    where = ("--data", str(tmp_path), "--results", str(tmp_path))
    assert answer(capsys, "--benchmarks", "imagenet_r", "--set", "backbone=sup1k", "--set", remedy, *where) == (0, "")


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = run_all.main(["plan", "smoke", "--methods", "ncm", *arguments])
    return status, capsys.readouterr().err


@pytest.mark.parametrize(
    "mistake",
    [
        ("--set", "benchmark.tasks=3"),
        ("--set", "benchmark.tasks=12"),
        ("--set", "benchmark.split=4,3"),
        ("--set", "benchmark.split=4,3x9"),
        ("--set", "benchmark.image_size=64"),
        ("--set", "benchmark.augment.shift=0.2"),
        ("--set", "ncm.benchmark.tasks=2"),
        ("--set", "nonsense"),
    ],
)
def test_every_printed_setting_mends_the_mistake(
    mistake: tuple[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    where = ("--data", str(tmp_path), "--results", str(tmp_path))
    status, message = answer(capsys, *mistake, *where)
    assert status == 2 and len(message.splitlines()) == 1
    found = [text for text in remedies(message) if text != mistake[1]]  # the message may repeat the mistake
    assert found, message
    for remedy in found:
        kept = mistake if "augment" in remedy else ()  # the others replace what was wrong
        assert answer(capsys, "--set", remedy, *kept, *where) == (0, ""), remedy


def test_the_refusal_of_a_setting_without_recipe_prints_the_option_that_helps(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked = ["plan", "table1", "--benchmarks", "cifar100", "--seeds", "0", "--set", "benchmark.split=50,10x5"]
    asked += ["--data", str(tmp_path), "--results", str(tmp_path)]
    assert run_all.main(asked) == 2
    (option,) = re.findall(r"add (--recipe \w+) to take it", capsys.readouterr().err)
    assert run_all.main([*asked, *option.split()]) == 0
    assert "note: recipe taken from smope on cifar100 in 10 tasks" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        (["--limit", "0"], "--limit 0 leaves no image"),
        (["--limit", "-3"], "--limit -3 leaves no image"),
        (["--limit", "9" * 30], "limit=999999999999999999999999999999: Input should be less than"),
        (["--limit", "x"], "'--limit': Input should be a valid integer"),
        (["--recipe", "nearest", "--recipe-of", "digits"], "contradict each other"),
        (["--recipe-of", "digits:"], "is not BENCHMARK or BENCHMARK:BACKBONE"),
        (["--recipe-of", ":tiny"], "is not BENCHMARK or BENCHMARK:BACKBONE"),
        (["--recipe-of", "dogs"], "--recipe-of dogs: ncm has no recipe of that"),
        (["--recipe", "closest"], "'closest' is not one of"),
        (["--set", "benchmark.class_order=0,1,1"], "class 1 occurs twice, at places 2 and 3"),
        (
            ["--set", "benchmark.class_order=nowhere.txt"],
            "'nowhere.txt' does not exist",
        ),
        (["--set", "benchmark.split=10x99999"], "has more than 10,000 tasks"),
    ],
)
def test_mistakes_are_one_sentence(
    bad: list[str], fault: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, message = answer(capsys, *bad, "--data", str(tmp_path), "--results", str(tmp_path))
    assert status == 2 and fault in message and len(message.splitlines()) == 1, message
