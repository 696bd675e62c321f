"""Interrupted runs end in the bits of undisturbed ones, from wherever they were cut off and whatever became of their files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from smope_bench.harness.cancellation import Interrupted, LeaseLost, StopRequest
from smope_bench.harness.checkpointing import checkpoint
from smope_bench.harness.errors import UserError
from smope_bench.harness.records.store import Store
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.run_spec import RunSpec
from smope_bench.harness.training.trainer import Trainer
from tests.conftest import micro_spec  # pyright: ignore[reportMissingImports]
from tests.harness.observed import EVERYTHING, SMOPE, held_out  # pyright: ignore[reportMissingImports]
from tests.harness.resumed import (  # pyright: ignore[reportMissingImports]
    OFTEN,
    Hoarder,
    Killed,
    Replayer,
    assert_same,
    cut,
    dies_at_save,
    events,
    finish,
    full_disk,
    place_of,
)
from tests.harness.stand_ins import given  # pyright: ignore[reportMissingImports]

TAP = {"epochs": 2, "samples": 4}
INFERENCE = {"tap": TAP, "task_inference": {"epochs": 1, "tap": TAP}}


@pytest.fixture(autouse=True)
def _plugins(registries: Registries) -> None:
    registries.methods.add("hoarder", "tests", Hoarder)
    registries.methods.add("replayer", "tests", Replayer)


def finish_in_pieces(
    spec: RunSpec, registries: Registries, folder: Path, saves: int, observe: Iterable[str] = (), **options: Any
) -> tuple[Any, list[Any]]:
    """Run to the end although every attempt dies after ``saves`` checkpoints; the outcome and where the attempts began."""
    begun: list[Any] = []
    for _ in range(300):
        with Trainer(spec, *given(folder, **options), registries=registries, observe=observe) as session:
            inside = session._resume_from
            place = None if inside is None else inside.position
            begun.append(
                (session.progress.tasks_done, place and (place.phase, place.epoch, place.step, place.is_trained))
            )
        try:
            return finish(spec, registries, folder, observe, may_publish=dies_at_save(saves), **OFTEN, **options), begun
        except Killed:
            continue
    raise AssertionError("the run does not get on")


@pytest.mark.parametrize(
    ("method", "config", "saves", "precision"),
    [
        ("smope", {"noise": "uniform", "tap": TAP}, 4, "fp32"),
        ("ovor", {"outlier_share": 0.5, "warmup_epochs": 1}, 7, "bf16"),
        ("hide_prompt", INFERENCE, 4, "fp32"),
        ("hash_prompt", INFERENCE, 4, "fp32"),
        ("ridge", {}, 2, "fp32"),
        ("joint", {}, 2, "fp32"),
        ("hoarder", {}, 2, "fp32"),
        ("hoarder", {}, 3, "fp32"),
        ("replayer", {}, 6, "fp32"),
    ],
)
def test_a_run_in_pieces_is_the_undisturbed_run(
    registries: Registries, tmp_path: Path, method: str, config: dict[str, Any], saves: int, precision: str
) -> None:
    spec = micro_spec(method, config, precision=precision)
    whole = finish(spec, registries, tmp_path / "whole")
    pieces, begun = finish_in_pieces(spec, registries, tmp_path / "pieces", saves)
    assert_same(pieces, whole)
    assert len(begun) > 2 and len(begun) == len(set(begun)), begun
    if method == "hoarder":
        inside = [place for _, place in begun if place is not None]
        assert {phase for phase, *_ in inside} == {0, 1, 2, 3}
        assert {step for _, _, step, _ in inside} >= ({1, 3} if saves == 2 else {0, 1, 2})


def test_what_was_observed_survives(registries: Registries, tmp_path: Path) -> None:
    spec = held_out("smope", SMOPE)
    whole = finish(spec, registries, tmp_path / "whole", observe=EVERYTHING)
    assert whole.observations is not None
    pieces, _ = finish_in_pieces(spec, registries, tmp_path / "pieces", 7, observe=EVERYTHING)
    assert_same(pieces, whole)


@pytest.mark.parametrize("hook", ["end_task", "predict"])
def test_training_is_not_repeated_for_what_follows_it(
    registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hook: str
) -> None:
    spec, steps = micro_spec("hoarder"), []
    whole = finish(spec, registries, tmp_path / "whole")
    train, follow = Hoarder.training_step, getattr(Hoarder, hook)

    def counted(self: Hoarder, batch: Any) -> Any:
        steps.append(self.task_index)
        return train(self, batch)

    def dies(self: Hoarder, given: Any) -> Any:
        if self.task_index == 1:
            raise Killed
        return follow(self, given)

    monkeypatch.setattr(Hoarder, "training_step", counted)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Hoarder, hook, dies)
        finish(spec, registries, tmp_path / "cut", **OFTEN)
    assert steps == [0] * 15 + [1] * 15
    assert_same(finish(spec, registries, tmp_path / "cut"), whole)
    assert steps == [0] * 15 + [1] * 15 + [2] * 15


class AskedAfter(StopRequest):
    """Somebody asks to stop once the run has looked so many times."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.left = looks

    def is_set(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize(("method", "looks", "least"), [("hoarder", 6, 8), ("replayer", 6, 8), ("ridge", 3, 2)])
def test_asked_to_stop_a_run_saves_where_it_is(
    registries: Registries, tmp_path: Path, method: str, looks: int, least: int
) -> None:
    spec, said = micro_spec(method), []
    whole = finish(spec, registries, tmp_path / "whole")
    attempts = 0
    while True:
        try:
            # Six looks are enough for a whole epoch, where epochs are repeated from their start.
            stop_request, attempts = AskedAfter(looks), attempts + 1
            outcome = finish(spec, registries, tmp_path / "cut", stop_request=stop_request, on_event=said.append)
            break
        except Interrupted:
            assert attempts < 100
    assert_same(outcome, whole)
    assert attempts > least
    assert not any(event["event"] == "checkpoint_failed" for event in said)


def test_an_interruption_asked_beforehand_trains_nothing(registries: Registries, tmp_path: Path) -> None:
    stop_request, said = StopRequest(), []
    stop_request.set()
    with pytest.raises(Interrupted, match="goes on from its last checkpoint"):
        finish(micro_spec("ncm"), registries, tmp_path, stop_request=stop_request, on_event=said.append)
    assert [event["event"] for event in said] == ["run_started"]


def damage(file: Path, how: str) -> None:
    data = file.read_bytes()
    if how == "missing":
        file.unlink()
    elif how == "truncated":
        file.write_bytes(data[: len(data) // 2])
    else:
        file.write_bytes(data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :])


@pytest.mark.parametrize("how", ["flipped", "truncated", "missing"])
@pytest.mark.parametrize("file", ["{}.json", "{}.safetensors", "{}.training.safetensors"])
def test_a_damaged_checkpoint_costs_the_work_since_the_one_before(
    registries: Registries, tmp_path: Path, file: str, how: str
) -> None:
    spec = micro_spec("hoarder")
    folder = cut(spec, registries, tmp_path, 30)
    newest, before = sorted((path.stem for path in folder.glob("*.json")), reverse=True)
    assert (newest, before) == ("000030", "000029")
    done, place = place_of(spec, registries, tmp_path)
    damage(folder / file.format(newest), how)
    done_before, place_before = place_of(spec, registries, tmp_path)
    assert (done, done_before) == (1, 1) and place.segment_done == place_before.segment_done + 1
    damage(folder / f"{before}.json", how)
    assert place_of(spec, registries, tmp_path) == (0, None)


def test_after_damage_the_bits_are_the_same(registries: Registries, tmp_path: Path) -> None:
    spec = micro_spec("hoarder")
    whole = finish(spec, registries, tmp_path / "whole")
    folder = cut(spec, registries, tmp_path, 30)
    damage(folder / "000030.safetensors", "flipped")
    assert_same(finish(spec, registries, tmp_path, **OFTEN), whole)
    assert not folder.exists()


def test_two_checkpoints_and_what_they_need_are_kept(registries: Registries, tmp_path: Path) -> None:
    folder = cut(micro_spec("hoarder"), registries, tmp_path, 30)
    markers = [json.loads(file.read_text()) for file in folder.glob("*.json")]
    needed = {file["name"] for marker in markers for file in marker["files"].values()}
    start = next(iter({marker["files"]["start"]["name"] for marker in markers}))
    assert len(markers) == 2 and start < "000029"
    assert {file.name for file in folder.iterdir()} == needed | {"000029.json", "000030.json"}


def test_a_checkpoint_of_other_code_is_ignored(
    registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = micro_spec("hoarder")
    cut(spec, registries, tmp_path, 30)
    assert place_of(spec, registries, tmp_path)[0] == 1
    monkeypatch.setattr("smope_bench.harness.provenance.code_fingerprint", lambda: "other")
    assert place_of(spec, registries, tmp_path) == (0, None)


class Grower(Hoarder):
    """Adds a parameter where no hook of a task would add it again: its checkpoints fit nothing."""

    name = "grower"

    def end_task(self, data: Any) -> None:
        self.register_parameter(f"late_{self.task_index}", torch.nn.Parameter(torch.ones(1)))


def test_a_checkpoint_that_does_not_fit_is_no_reason_to_fail(registries: Registries, tmp_path: Path) -> None:
    registries.methods.add("grower", "tests", Grower)
    spec = micro_spec("grower")
    whole = finish(spec, registries, tmp_path / "whole")
    cut(spec, registries, tmp_path, 30)
    assert place_of(spec, registries, tmp_path) == (0, None)
    assert_same(finish(spec, registries, tmp_path), whole)


# -- what the disk and other processes do ------------------------------------------------------------------------------


def test_a_full_disk_costs_checkpoints_and_not_the_run(
    registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = micro_spec("hoarder")
    whole = finish(spec, registries, tmp_path / "whole")
    monkeypatch.setattr(checkpoint, "write_atomically", full_disk)
    found = finish(spec, registries, tmp_path, **OFTEN)
    failures = [event for event in found.events if event["event"] == "checkpoint_failed"]
    assert failures[0] == {"event": "checkpoint_failed", "reason": "No space left on device"}
    found.events = [event for event in found.events if event not in failures]
    assert_same(found, whole)


def test_a_disk_that_is_full_for_a_while(
    registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tensors with which the second task began were not kept: no checkpoint inside it can be used."""
    spec = micro_spec("hoarder")
    whole = finish(spec, registries, tmp_path / "whole")
    write, writes = checkpoint.write_atomically, iter(range(1000))

    def fails_once(file: Path, data: bytes, **how: Any) -> None:
        # The first task's five epochs and fifteen steps take two files each, and so does its end.
        return full_disk(file) if next(writes) == 42 else write(file, data, **how)

    def pull_the_plug(event: dict[str, Any]) -> None:
        if event["event"] == "epoch" and event["task"] == 1:
            raise Killed

    monkeypatch.setattr(checkpoint, "write_atomically", fails_once)
    with pytest.raises(Killed):
        finish(spec, registries, tmp_path, on_event=pull_the_plug, **OFTEN)
    failures = [event for event in events(tmp_path, spec) if event["event"] == "checkpoint_failed"]
    assert len(failures) == 1
    done, place = place_of(spec, registries, tmp_path)
    assert done == 0 and place.is_trained
    assert_same(finish(spec, registries, tmp_path), whole)


def test_a_record_that_cannot_be_written_is_one_sentence(
    registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = micro_spec("ridge")
    with monkeypatch.context() as patch:
        patch.setattr("smope_bench.harness.training.publish.write_atomically", full_disk)
        with pytest.raises(UserError, match=r"cannot be written .*No space left.*it goes on from its last checkpoint"):
            finish(spec, registries, tmp_path)
    assert Store(tmp_path).load(spec.run_id) is None
    assert place_of(spec, registries, tmp_path) == (3, None)
    finish(spec, registries, tmp_path)


@pytest.mark.parametrize(("answers", "error"), [(5, "inside a task"), (3, "at the end")])
def test_nothing_is_written_for_a_run_that_is_anothers(
    registries: Registries, tmp_path: Path, answers: int, error: str
) -> None:
    spec = micro_spec("hoarder")
    ours = iter([True] * answers)
    often = OFTEN if error == "inside a task" else {}
    with pytest.raises(LeaseLost):
        finish(spec, registries, tmp_path, may_publish=lambda: next(ours, False), **often)
    assert Store(tmp_path).load(spec.run_id) is None
    saved = len(list((tmp_path / spec.run_id / "checkpoint").glob("*.json")))
    assert saved == 2 and not (tmp_path / spec.run_id / "predictions.npz").exists()
