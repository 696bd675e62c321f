"""``--slurm KEY=VALUE``: what it understands, and what it says where it does not."""

from pathlib import Path

import pytest

from smope_bench.harness.errors import UserError
from smope_bench.harness.executors.slurm_options import (
    DEFAULT_MINUTES,
    FEEDING_CPUS,
    KNOWN,
    NUMBERS,
    minutes,
    slurm_plan,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("60", 60), ("90:00", 90), ("0:30", 1), ("2:00:00", 120), ("1-0", 1440), ("1-12:30", 2190), ("1-00:00:01", 1441)],
)
def test_times_in_all_of_slurms_forms(text: str, expected: int) -> None:
    assert minutes(text) == expected


@pytest.mark.parametrize("text", ["soon", "", "-5", "1:2:3:4", "1.5", "0", "0:00", "1-", "99999999999"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--slurm time="):
        minutes(text)


def test_defaults_and_threads() -> None:
    plan = slurm_plan([], threads=4, gpus=False)
    assert plan.cluster == "slurm"
    assert plan.parameters["timeout_min"] == DEFAULT_MINUTES and plan.parameters["cpus_per_task"] == 4
    assert plan.parameters["slurm_additional_parameters"] == {"requeue": True}
    assert "slurm_gres" not in plan.parameters
    assert slurm_plan([], 1, gpus=True).parameters["slurm_gres"] == "gpu:1"
    assert slurm_plan(["gres=shard:1"], 1, gpus=True).parameters["slurm_gres"] == "shard:1"
    for key, name in (("gpus_per_node", "gpus_per_node"), ("gpus_per_task", "slurm_gpus_per_task")):
        found = slurm_plan([f"{key}=1"], 1, gpus=True).parameters
        assert found[name] == 1 and "slurm_gres" not in found
    assert "slurm_gres" not in slurm_plan(["cluster=local"], 1, gpus=True).parameters
    cpus = [slurm_plan([], threads, gpus=True).parameters["cpus_per_task"] for threads in (1, 12)]
    assert cpus == [FEEDING_CPUS, 12]  # a GPU's pictures are decoded on them


def test_what_is_asked_wins_and_dashes_are_underscores() -> None:
    asked = ["partition=gpu", "--time=2:00:00", "mail-user=me@example.org", "gpus-per-node=2", "cpus_per_task=8"]
    found = slurm_plan([*asked, "setup=module load a", "setup=b", "exclusive=true"], 1, gpus=True).parameters
    assert found["slurm_partition"] == "gpu" and found["timeout_min"] == 120
    assert found["slurm_mail_user"] == "me@example.org" and found["gpus_per_node"] == 2 and found["cpus_per_task"] == 8
    assert found["slurm_setup"] == ["module load a", "b"] and found["slurm_exclusive"] is True


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["partitoin=gpu"], "--slurm partitoin: unknown; did you mean 'partition'"),
        (["partition"], "write KEY=VALUE"),
        (["partition="], "write KEY=VALUE"),
        (["comment=a\nrm -rf x"], "write KEY=VALUE"),
        (["time=1", "time=2"], "given twice"),
        (["cpus_per_task=many"], "not a whole number"),
        (["cluster=debug"], "cluster=debug. Known: local, slurm"),
        (["cluster=local", "partition=gpu"], "means nothing with cluster=local"),
        (["nodes=4"], "--slurm nodes: unknown"),
    ],
)
def test_mistakes_are_named(asked: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words.replace("(", r"\(")):
        slurm_plan(asked, 1, gpus=False)


def test_submitit_takes_every_key(tmp_path: Path) -> None:
    submitit = pytest.importorskip("submitit")
    asked = [f"{key}={'7' if key in NUMBERS | {'time'} else 'x'}" for key in sorted(KNOWN - {"cluster"})]
    plan = slurm_plan(asked, 1, gpus=True)
    executor = submitit.AutoExecutor(folder=tmp_path, cluster="debug")
    executor.update_parameters(**plan.parameters)  # raises NameError for a name that it does not know
    local = slurm_plan(["cluster=local", "time=3"], 1, gpus=True)
    submitit.AutoExecutor(folder=tmp_path, cluster="local").update_parameters(**local.parameters)
