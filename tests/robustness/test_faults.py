"""Disks that fail at any write, clocks that jump back, damaged files: records are whole or absent, and the bits stay the same."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import time
from pathlib import Path
from typing import Any

import pytest

from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.harness.conformance.fixtures import ColouredNoise
from smope_bench.harness.errors import UserError
from smope_bench.harness.execution.job import describe_error
from smope_bench.harness.provenance import code_fingerprint
from smope_bench.harness.records.record import Broken, Record
from smope_bench.harness.records.store import Store
from smope_bench.harness.registry.registry import Registries, open_registries
from smope_bench.harness.run_spec import Component
from smope_bench.harness.training import trainer as engine
from smope_bench.methods.common.backbone.backbones import MICRO
from tests.conftest import micro_spec  # pyright: ignore[reportMissingImports]
from tests.harness.stand_ins import given  # pyright: ignore[reportMissingImports]
from tests.robustness.faults import Faults  # pyright: ignore[reportMissingImports]

ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS)
SPEC = micro_spec("linear_probe", {"tap": {"enabled": True, "epochs": 1, "samples": 2}}).model_copy(
    update={
        "schedule": {"batch_size": 64, "epochs": 1, "lr": 0.01},
        "benchmark": Component(name=ColouredNoise.name, config={"tasks": 2, "image_size": 16}),
    }
)
OFTEN: dict[str, Any] = {"checkpoint_every_s": 0.0}


def do(folder: Path, registries: Registries, **options: Any) -> None:
    """What a worker does with a run."""
    engine.run(SPEC, *given(folder / "results", folder / "data", **{**OFTEN, **options}), registries=registries)


def finish(folder: Path, registries: Registries) -> None:
    """What the next call of the same command does: nothing where the record is there."""
    if Store(folder / "results").state(SPEC.run_id, code_fingerprint()) != "done":
        do(folder, registries)


def bits(folder: Path) -> tuple[Any, ...]:
    """What must be the same however the run came about. Fails where the record is not whole."""
    record = Store(folder / "results").load(SPEC.run_id)
    assert isinstance(record, Record), record
    predictions = (folder / "results" / SPEC.run_id / "predictions.npz").read_bytes()
    assert hashlib.sha256(predictions).hexdigest() == record.result["predictions_sha256"]
    return record.result["accuracy_matrix"], record.result["costs"]["train_images"], predictions


def losses(folder: Path) -> list[float]:
    """Of each epoch, as the log has them; a log is written as well as the disk allows, and lines that are none are passed over."""
    found = []
    for line in (folder / "results" / SPEC.run_id / "events.jsonl").read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError, KeyError):
            entry = json.loads(line)
            found += [entry["loss"]] if entry["event"] == "epoch" else []
    return found


@pytest.fixture(scope="module")
def registries_of_module() -> Registries:
    made = open_registries()
    made.backbones.add(MICRO.name, "tests", MICRO)
    made.benchmarks.add(ColouredNoise.name, "tests", ColouredNoise)
    return made


@pytest.fixture(scope="module")
def truth(
    registries_of_module: Registries, tmp_path_factory: pytest.TempPathFactory
) -> tuple[tuple[Any, ...], list[str], list[float]]:
    """The undisturbed run: its bits, the calls by which it wrote them, and the losses in its log."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        watched = Faults(folder, 0, 0, lasting=False)
        watched.install(patch)
        do(folder, registries_of_module)
    return bits(folder), watched.calls, losses(folder)


def disturbed(folder: Path, registries: Registries, faults: Faults) -> str | None:
    """Do the run while the disk fails; the sentence that the user is told, or None where it finished all the same."""
    with pytest.MonkeyPatch.context() as patch:
        faults.install(patch)
        try:
            do(folder, registries)
        except (OSError, UserError, BenchmarkError) as error:  # any other exception would be a second fault, of ours
            return describe_error(error)["error"]
    return None


@pytest.mark.parametrize("lasting", [False, True])
def test_a_disk_that_fails_at_any_write(lasting, registries_of_module, truth, tmp_path: Path) -> None:
    wanted, calls, logged = truth
    assert len(calls) > 40 and {"fsync", "replace", "write", "open to write", "mkdir"} <= set(calls)
    told = 0
    for at in range(1, len(calls) + 1, 4 if lasting else 1):
        folder = tmp_path / str(at)
        said = disturbed(folder, registries_of_module, Faults(folder, at, ERRORS[at % len(ERRORS)], lasting=lasting))
        if said is not None:
            told += 1
            assert said and "\n" not in said and len(said) < 400, said
        found = Store(folder / "results").load(SPEC.run_id)
        assert not isinstance(found, Broken), f"call {at}, {calls[at - 1]}: {found}"
        finish(folder, registries_of_module)
        assert bits(folder) == wanted, f"call {at}, {calls[at - 1]}, {said}"
        assert set(losses(folder)) <= set(logged)
    assert told > len(calls) // 12, "a run whose disk fails must say so"


def test_a_clock_that_jumps_back(registries_of_module, truth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jumps = itertools.count(0, 86_400)
    start = time.time()
    monkeypatch.setattr(time, "time", lambda: start - next(jumps))
    do(tmp_path, registries_of_module)
    assert bits(tmp_path) == truth[0] and losses(tmp_path) == truth[2]


class Killed(BaseException):
    """Stands for the power failing."""


def cut_off(folder: Path, registries: Registries) -> list[Path]:
    """Stop when the second task has been trained for a while; the files that were left."""

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "epoch" and event["task"] == 1:
            raise Killed

    with pytest.raises(Killed):
        do(folder, registries, on_event=listen)
    return sorted(file for file in folder.rglob("*") if file.is_file())


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]


def emptied(data: bytes) -> bytes:
    return b""


DAMAGES = pytest.mark.parametrize("damage", [cut, flipped, emptied])


@DAMAGES
def test_damage_to_any_file_of_an_interrupted_run(damage, registries_of_module, truth, tmp_path: Path) -> None:
    files = [file.relative_to(tmp_path / "0") for file in cut_off(tmp_path / "0", registries_of_module)]
    assert any(file.parent.name == "checkpoint" for file in files)
    for i, file in enumerate(files, 1):
        folder = tmp_path / str(i)
        cut_off(folder, registries_of_module)
        (folder / file).write_bytes(damage((folder / file).read_bytes()))
        finish(folder, registries_of_module)
        assert bits(folder) == truth[0], file
        # The log has no hash: lines of finished tasks that are lost from it stay lost, and change nothing else.
        assert losses(folder) == truth[2] or file.name == "events.jsonl", file


@DAMAGES
@pytest.mark.parametrize("name", ["result.json", "predictions.npz"])
def test_damage_to_a_finished_run_is_seen_and_mended(damage, name, registries_of_module, truth, tmp_path: Path) -> None:
    do(tmp_path, registries_of_module)
    store = Store(tmp_path / "results")
    file = store.path(SPEC.run_id) / name
    file.write_bytes(damage(file.read_bytes()))
    assert store.state(SPEC.run_id, code_fingerprint()) != "done"
    finish(tmp_path, registries_of_module)
    assert bits(tmp_path) == truth[0]
