"""When checkpoints are written, read and kept: full disks, disks that are away, claims that cannot be seen, other arithmetic."""

from __future__ import annotations

import errno
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from smope_bench.harness.cancellation import LeaseLost
from smope_bench.harness.checkpointing import checkpoint, manager
from smope_bench.harness.checkpointing.checkpoint import Checkpoint, Checkpoints, RunProgress
from smope_bench.harness.checkpointing.manager import CheckpointManager
from smope_bench.harness.errors import UserError
from smope_bench.harness.records.event_log import RunLog
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.run_options import RunContext
from smope_bench.harness.training.trainer import Trainer
from tests.conftest import micro_spec  # pyright: ignore[reportMissingImports]
from tests.harness.resumed import (  # pyright: ignore[reportMissingImports]
    OFTEN,
    Hoarder,
    Killed,
    assert_same,
    cut,
    finish,
    full_disk,
    place_of,
)
from tests.harness.stand_ins import given  # pyright: ignore[reportMissingImports]

SPEC = micro_spec("hoarder")


@pytest.fixture(autouse=True)
def _plugins(registries: Registries) -> None:
    registries.methods.add("hoarder", "tests", Hoarder)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager, "PAUSES_S", (0.0, 0.0, 0.0))


def state(*timings: dict[str, float]) -> Checkpoint:
    return Checkpoint({"head": torch.ones(3)}, RunProgress(timings=list(timings)))


def manager_of(folder: Path, said: list[Any], **options: Any) -> CheckpointManager:
    every_s, log = options.pop("every_s", 300.0), RunLog(folder, said.append)
    return CheckpointManager(folder, Checkpoints(folder / "checkpoint", "f"), log, RunContext(**options), every_s)


# -- disks that are full -----------------------------------------------------------------------------------------------


def test_a_disk_that_is_full_until_the_next_task_of_a_continued_run(
    registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a continued run adds to its progress is not on disk: no checkpoint of the next task can be used."""
    whole = finish(SPEC, registries, tmp_path / "whole")
    cut(SPEC, registries, tmp_path, 30)
    place = place_of(SPEC, registries, tmp_path)
    assert place[0] == 1
    write, is_full = checkpoint.write_atomically, [True]

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "task_started" and event["task"] == 2:
            is_full.clear()
        if event["event"] == "epoch" and event["task"] == 2:
            raise Killed

    def writes(file: Path, data: bytes, **how: Any) -> None:
        (full_disk if is_full else write)(file, data, **how)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpoint, "write_atomically", writes)
        finish(SPEC, registries, tmp_path, on_event=listen, **OFTEN)
    assert not is_full and place_of(SPEC, registries, tmp_path) == place
    assert_same(finish(SPEC, registries, tmp_path), whole)


def test_a_checkpoint_that_cannot_be_written_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Checkpoints(tmp_path, "f")
    kept.save(state())
    kept.save(state({"task": 0}))
    before = {file.name for file in tmp_path.iterdir()}
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(checkpoint, "write_json_atomically", full_disk)
        kept.save(state({"task": 0}, {"task": 1}))
    assert {file.name for file in tmp_path.iterdir()} == before
    (tmp_path / "000002.safetensors").unlink()
    found = Checkpoints(tmp_path, "f").load()
    assert found is not None and found.progress.tasks_done == 0


def test_a_place_counts_as_saved_only_where_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []
    often = manager_of(tmp_path, said, every_s=0.0)
    assert often.maybe_checkpoint(1, state)[0] is False, "the tensors with which the task began are not known"
    assert not (tmp_path / "checkpoint").exists() and said == []
    assert often.maybe_checkpoint(0, state)[0] is True
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_atomically", full_disk)
        assert often.maybe_checkpoint(0, state)[0] is False
    assert [event["event"] for event in said] == ["checkpoint_failed"]
    assert manager_of(tmp_path, said, every_s=1000.0).maybe_checkpoint(0, state) == (False, 0.0)


# -- disks that are away -----------------------------------------------------------------------------------------------


def test_checkpoints_that_cannot_be_read_are_kept(
    registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cut(SPEC, registries, tmp_path, 30)
    place, files = place_of(SPEC, registries, tmp_path), sorted(folder.iterdir())
    away: tuple[Path, int]

    def fails(read: Callable[..., Any]) -> Callable[..., Any]:
        def reads(path: Path, *rest: Any, **options: Any) -> Any:
            if path == away[0]:
                raise OSError(away[1], "away", str(path))
            return read(path, *rest, **options)

        return reads

    with monkeypatch.context() as patch:
        for name in ("read_bytes", "read_text"):
            patch.setattr(Path, name, fails(getattr(Path, name)))
        for number in (errno.EIO, errno.ESTALE, errno.EMFILE, errno.EACCES):
            for file in ("000030.json", "000030.safetensors"):
                away = (folder / file, number)
                with pytest.raises(
                    UserError, match=rf"of run {SPEC.run_id} in .* cannot be read \(away\) and was kept"
                ):
                    finish(SPEC, registries, tmp_path)
    assert sorted(folder.iterdir()) == files and place_of(SPEC, registries, tmp_path) == place


def test_a_folder_that_cannot_be_listed_is_not_taken_for_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Checkpoints(tmp_path, "f")
    kept.save(state())

    def away(_: Path) -> Any:
        raise OSError(errno.EIO, "away")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="away"):
        patch.setattr(Path, "iterdir", away)
        kept.load()
    assert kept.load() is not None and Checkpoints(tmp_path / "none", "f").load() is None


@pytest.mark.parametrize("failures", [1, 3, 4])
def test_a_claim_that_cannot_be_read_is_looked_at_again(tmp_path: Path, failures: int) -> None:
    left = [OSError(errno.EIO, "away")] * failures

    def may_publish() -> bool:
        if left:
            raise left.pop()
        return True

    looked = manager_of(tmp_path / "ab12", [], may_publish=may_publish)
    if failures < 4:
        looked.require_lease()
    else:
        with pytest.raises(UserError, match=r"run ab12 cannot be written .*\(away\)"):
            looked.require_lease()
    assert not left
    with pytest.raises(LeaseLost):
        manager_of(tmp_path, [], may_publish=lambda: False).require_lease()


# -- what a run goes on with -------------------------------------------------------------------------------------------


def test_a_run_does_not_mix_two_arithmetics(
    registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(SPEC, registries, tmp_path, 30)
    place = place_of(SPEC, registries, tmp_path)
    assert place[0] == 1
    threads = torch.get_num_threads()
    for name, other in (("get_num_threads", lambda: threads + 1), ("__version__", "0.0")):
        with monkeypatch.context() as patch:
            patch.setattr(torch, name, other)
            assert place_of(SPEC, registries, tmp_path) == (0, None)
    assert place_of(SPEC, registries, tmp_path) == place


def test_what_a_run_goes_on_from_is_not_held_while_it_does(
    registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(SPEC, registries, tmp_path, 29)  # one step of an epoch is left
    train, held = Hoarder.training_step, []

    def step(self: Hoarder, batch: Any) -> Any:
        held.append(found() is not None)
        return train(self, batch)

    monkeypatch.setattr(Hoarder, "training_step", step)
    with (
        torch.random.fork_rng(devices=[]),
        Trainer(SPEC, *given(tmp_path), registries=registries) as session,
    ):
        assert session._resume_from is not None and session._resume_from.position is not None
        found = weakref.ref(session._resume_from)
        session.run_tasks()
    assert held and not any(held)
