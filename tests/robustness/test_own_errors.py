"""A fault of this program, or a library of another version, is never reported as the user's damaged file."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from smope_bench.benchmarks.avalanche import reader
from smope_bench.benchmarks.download import safe_pickle
from smope_bench.benchmarks.image_store import cache, pictures, stores
from smope_bench.benchmarks.suites import SUITES
from smope_bench.harness.checkpointing import checkpoint, manager, random_state
from smope_bench.harness.checkpointing.checkpoint import Checkpoint, Checkpoints, Position, RunProgress
from smope_bench.harness.cli import expectations
from smope_bench.harness.cost import cost_suites
from smope_bench.harness.execution import memory_budget
from smope_bench.harness.execution.monitoring import status
from smope_bench.harness.executors import remote
from smope_bench.harness.facts import one
from smope_bench.harness.metrics import METRICS
from smope_bench.harness.records import migrate, store
from smope_bench.harness.records.record import Record
from smope_bench.harness.records.store import Store
from smope_bench.harness.run_spec import BackboneRef, Component, RunSpec
from smope_bench.harness.training import task_trainer
from smope_bench.methods.common.api import TaskInfo
from smope_bench.methods.common.pretrained_files import containers
from smope_bench.methods.common.pretrained_files.any_vit import read
from smope_bench.reports import build
from smope_bench.reports.loading.run_result import Content, Costs, RunResult, Timings
from smope_bench.reports.statistics import published

OWN = (AttributeError, ImportError, NameError, TypeError)
SUITE = "smoke"


@dataclass(frozen=True)
class Reader:
    """``read`` a file that ``write`` made in a folder, while ``inside`` of a module, which reading calls, is broken."""

    module: Any
    inside: str
    write: Callable[[Path], object]
    read: Callable[[Path], object]


def picture(folder: Path) -> None:
    Image.new("RGBA", (4, 4)).save(folder / "a.png")


def open_picture(folder: Path) -> None:
    pictures.open_picture((folder / "a.png").read_bytes(), upright=True)


def kept_images(folder: Path) -> None:
    def fill(writers: Any) -> None:
        for split in ("train", "test"):
            writers[0].add(split, np.zeros((2, 2, 2, 3), np.uint8), np.array([0, 1]))

    cache.build_caches(folder, [cache.Part({"benchmark": "test"})], ("a", "b"), fill)


def open_kept(folder: Path, verify: bool = False) -> None:
    assert cache.open_cache(folder, cache.Part({"benchmark": "test"}), verify) is not None


def pickled(folder: Path) -> None:
    (folder / "a.pkl").write_bytes(b"\x80\x02cnumpy\ndtype\n.")


def load_pickled(folder: Path) -> None:
    safe_pickle.load_plain((folder / "a.pkl").read_bytes(), "a.pkl")


def tensors(folder: Path) -> None:
    torch.save({"a": torch.zeros(2)}, folder / "a.pt")
    torch.save({"a": torch.zeros(2)}, folder / "old.pt", _use_new_zipfile_serialization=False)
    save_file({"a": torch.zeros(2)}, folder / "a.safetensors")
    np.savez(folder / "a.npz", a=np.zeros(2))


def read_tensors(name: str, folder: Path) -> None:
    containers.read_entries(folder / name, ("torch", "safetensors", "npz"))


SPEC = RunSpec(
    method=Component(name="m"), benchmark=Component(name="b"), backbone=BackboneRef(name="x", sha256="0"), schedule={}
)
CELL = {"row": "m", "column": "b", "order_seed": 0, "train_seed": 0, "run_id": SPEC.run_id}
PLAN = {"rows": [{"label": "m"}], "columns": [{"label": "b"}], "cells": [CELL]}


def old_record(folder: Path) -> None:
    measured = {"accuracy_matrix": [[50.0]], "test_counts": [2], "costs": {}, "timings": {}, "flags": {}}
    named = {"schema_version": 1, "run_id": SPEC.run_id, "spec": SPEC.model_dump(mode="json")}
    (folder / SPEC.run_id).mkdir()
    (folder / SPEC.run_id / "result.json").write_text(
        json.dumps(named | measured | {"provenance": {"code_fingerprint": "f"}})
    )


def bring_up_to_date(folder: Path) -> None:
    assert migrate.migrate(folder).moved


def plan(folder: Path) -> None:
    Store(folder).write_manifest(SUITE, PLAN)


def learn_memory(_: Path) -> None:
    spec = SPEC.model_dump(mode="json")
    record = Record("id", {"spec": spec, "costs": {"peak_memory_mb": 5.0}, "provenance": {"device": "cpu"}})
    assert memory_budget.MemoryEstimator([record], "cpu").measured(spec) == 5.0


def expected(folder: Path) -> None:
    cell = {"row": "m", "column": "b", "faa": 50.0, "tolerance": 1.0}
    (folder / "expected.json").write_text(json.dumps({"cells": [cell]}))


def read_expected(folder: Path) -> None:
    expectations.read_expected(SUITES[SUITE], str(folder / "expected.json"))


def counts(folder: Path) -> None:
    from smope_bench.harness.records.record import with_checksum

    (folder / "suites").mkdir()
    stored = with_checksum({"schema_version": cost_suites.RECORD_SCHEMA, "cost": {}})
    (folder / "suites" / "table3.cost.json").write_text(json.dumps(stored))


def metric(_: Path) -> None:
    content = Content(
        run_id="x",
        spec={},
        accuracy_matrix=[[50.0]],
        test_counts=[1],
        timings=Timings(),
        costs=Costs(),
        provenance={"code_fingerprint": "f"},
    )
    dict(RunResult(content).metrics)


class Growing(torch.nn.Module):
    """A built-in method by its module's name."""

    __module__ = "smope_bench.methods.growing"
    name = "growing"

    def enter_task(self, task: Any) -> None:
        """One of the hooks."""

    begin_task = enter_task

    def phases(self) -> list[Any]:
        return []


def grow_again(_: Path) -> None:
    manager.grow(cast("Any", Growing()), TaskInfo(0, range(2), (1, 1)))


def restore_training(_: Path) -> None:
    tensors, values = random_state.random_state(torch.device("cpu"))
    trainer = cast("Any", task_trainer.TaskTrainer.__new__(task_trainer.TaskTrainer))
    trainer._method, trainer._start = torch.nn.Linear(1, 1), Position()
    trainer._context = SimpleNamespace(device=torch.device("cpu"), observer=SimpleNamespace(epoch=0))
    trainer._data = SimpleNamespace(passes=0, images_read=0)
    found = SimpleNamespace(tensors=trainer._method.state_dict(), training=tensors, values=values)
    trainer._restore(found)


def stored_state(folder: Path) -> None:
    observed = {"a": np.zeros(1)}
    Checkpoints(folder, "x").save(Checkpoint({"a": torch.zeros(2)}, RunProgress(), ("a",), observed))


def load_state(folder: Path) -> None:
    assert Checkpoints(folder, "x").load() is not None


def log(folder: Path) -> None:
    lines = (
        {"event": "run_started", "total_tasks": 3, "tasks_done": 1},
        {"event": "task_evaluated", "task": 1, "t": 4},
    )
    (folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "progress.json").write_text(json.dumps({"task": 2, "tasks": 3, "step": 5, "total_steps": 9}))


def read_status(folder: Path) -> None:
    assert status._progress(folder) == {"task": 2, "tasks": 3, "seconds_a_task": 2.0, "step": 5, "total_steps": 9}


def follow_progress(folder: Path) -> None:
    follower = remote._RunFollower(folder)
    follower._stamps |= dict.fromkeys(follower._stamps, (0, 0, 0))  # as if written since
    assert [event["event"] for event in follower.new_events()] == ["run_started", "step"]


def labels(_: Path) -> None:
    assert reader._targets(SimpleNamespace(targets=[0, np.int64(1), torch.tensor(2), "3"]), "x") == [0, 1, 2, 3]


PRINTED = "paper,table,benchmark,tasks,backbone,variant,method,metric,mean,std\nP,1,b,10,x,,m,faa,50.0,\n"


def nothing(_: Path) -> None:
    """The reader needs no file."""


READERS = {
    "picture": Reader(pictures, "_rgb", picture, open_picture),
    "picture, by Pillow": Reader(pictures.Image, "open", picture, open_picture),
    "turned picture": Reader(pictures.ImageOps, "exif_transpose", picture, open_picture),
    "kept images": Reader(cache, "_expected_bytes", kept_images, open_kept),
    "kept images, manifest": Reader(cache._Manifest, "model_validate", kept_images, open_kept),
    "kept images, verified": Reader(cache, "_bad_files", kept_images, partial(open_kept, verify=True)),
    "all kept images": Reader(cache, "_bad_files", kept_images, lambda folder: list(cache.verify_caches(folder))),
    "list of kept images": Reader(stores, "read_manifest", kept_images, lambda folder: list(stores._stores_in(folder))),
    "pickle": Reader(safe_pickle._Unpickler, "find_class", pickled, load_pickled),
    "pickle, as a whole": Reader(safe_pickle, "_Unpickler", pickled, load_pickled),
    "torch": Reader(torch, "load", tensors, partial(read_tensors, "a.pt")),
    "torch, older": Reader(torch, "load", tensors, partial(read_tensors, "old.pt")),
    "torch, allowed classes": Reader(torch.serialization, "safe_globals", tensors, partial(read_tensors, "a.pt")),
    "safetensors": Reader(containers, "load_file", tensors, partial(read_tensors, "a.safetensors")),
    "npz": Reader(np, "load", tensors, partial(read_tensors, "a.npz")),
    "shapes of timm's": Reader(read, "skeleton", nothing, lambda _: read._shapes({"model": "vit_tiny_patch16_224"})),
    "old record": Reader(migrate, "run_id_of", old_record, bring_up_to_date),
    "predictions of an old record": Reader(migrate, "_fits_predictions", old_record, bring_up_to_date),
    "plan": Reader(store, "_merged", plan, plan),
    "memory": Reader(memory_budget._Finished, "model_validate", nothing, learn_memory),
    "expectations": Reader(expectations, "_expected_cell", expected, read_expected),
    "counts": Reader(
        cost_suites, "checksum_of", counts, lambda folder: cost_suites.read_counted(Store(folder), "table3")
    ),
    "counts on the page": Reader(
        build.CountedReport, "model_validate", nothing, lambda _: build.counted_section("x", {}, "x")
    ),
    "metric": Reader(type(METRICS[0]), "compute", nothing, metric),
    "tasks that are begun again": Reader(Growing, "begin_task", nothing, grow_again),
    "training in a checkpoint": Reader(task_trainer, "restore_random_state", nothing, restore_training),
    "checkpoint": Reader(checkpoint, "load", stored_state, load_state),
    "checkpoint, observations": Reader(checkpoint, "npz_arrays", stored_state, load_state),
    "checkpoint, checksum": Reader(checkpoint, "checksum_of", stored_state, load_state),
    "checkpoint, marker": Reader(checkpoint, "_read_marker", stored_state, load_state),
    "status": Reader(status, "events_in", log, read_status),
    "status, progress": Reader(status, "read_progress", log, read_status),
    "progress from elsewhere": Reader(remote, "read_progress", log, follow_progress),
    "labels of Avalanche's": Reader(reader, "_is_one_number", nothing, labels),
    "published results": Reader(published, "Key", nothing, lambda _: published.read_published(PRINTED)),
    "describe": Reader(one, "str", nothing, lambda _: one._or_unknown(lambda: 1, "built-in")),
}
"""Every reader that turns errors into a sentence on the user's file, with something that it calls."""


@pytest.mark.parametrize("kind", OWN)
@pytest.mark.parametrize("name", READERS)
def test_an_error_of_ours_passes_through(
    name: str, kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = READERS[name]
    reader.write(tmp_path)

    def broken(*_: object, **__: object) -> Any:
        raise kind("injected")

    monkeypatch.setattr(reader.module, reader.inside, broken, raising=reader.inside != "str")
    with pytest.raises(kind, match="injected"):
        reader.read(tmp_path)


@pytest.mark.parametrize("name", [name for name in READERS if name not in ("counts on the page", "shapes of timm's")])
def test_without_the_error_the_file_is_read(name: str, tmp_path: Path) -> None:
    READERS[name].write(tmp_path)
    READERS[name].read(tmp_path)


def test_an_old_pillow_is_not_a_damaged_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    data = io.BytesIO()
    Image.new("RGBA", (4, 4)).save(data, "PNG")
    monkeypatch.delattr(Image.Image, "has_transparency_data")
    with pytest.raises(AttributeError, match="has_transparency_data"):
        pictures.open_picture(data.getvalue(), upright=True)


def test_a_damaged_pickle_may_raise_anything() -> None:
    for data in (b"\x80\x02]q\x00(", b"K\x01K\x02b.", b"K\x01)R.", b"", b"K\x01K\x02a."):
        with pytest.raises(safe_pickle.BenchmarkError, match="is damaged"):
            safe_pickle.load_plain(data, "a.pkl")
