"""The parsers of files and texts from outside, each with sound samples that ``hostile.py`` damages."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from smope_bench.benchmarks.download.archives import members
from smope_bench.benchmarks.download.safe_pickle import load_plain
from smope_bench.benchmarks.download.transfer import Part
from smope_bench.benchmarks.image_store import cache, stores
from smope_bench.benchmarks.image_store.pictures import decode, picture_size
from smope_bench.benchmarks.suites import SUITES
from smope_bench.harness.checkpointing.checkpoint import Checkpoint, Checkpoints, RunProgress
from smope_bench.harness.cli.expectations import read_expected
from smope_bench.harness.cost.cost_suites import read_counted
from smope_bench.harness.cost.pricing import finished_cells, median_seconds, recorded_rate
from smope_bench.harness.execution.lease import newest
from smope_bench.harness.execution.memory_budget import MemoryEstimator
from smope_bench.harness.execution.monitoring.status import planned_cells, statuses
from smope_bench.harness.executors.slurm_job import read_result, result_file
from smope_bench.harness.planning.settings import parse_seeds, parse_setting
from smope_bench.harness.planning.suites.read import read_suite
from smope_bench.harness.records.event_log import events_in, lines_of, read_progress
from smope_bench.harness.records.index import IndexedStore
from smope_bench.harness.records.migrate import migrate
from smope_bench.harness.records.record import MODEL, PREDICTIONS, RECORD, RECORD_SCHEMA, Record, with_checksum
from smope_bench.harness.records.store import Store
from smope_bench.harness.registry.plugins import run_file
from smope_bench.harness.timing.records import read as read_measurement
from smope_bench.harness.trained.answers import answers_in
from smope_bench.harness.trained.find import find_model
from smope_bench.methods.common.pretrained_files.containers import read_entries
from smope_bench.reports.build import counted_section
from smope_bench.reports.loading.load import load_suites, suites_in


@dataclass(frozen=True)
class Parser:
    """Sound contents of a file by kind, and what reads one in an empty folder. ``is_json``: values are replaced, too."""

    samples: tuple[bytes, ...]
    read: Callable[[bytes, Path], object]
    is_json: bool = False


SUITE = b"""
title: Prompts on my birds
tiny: true
seeds: [0, 1]
reference: NCM
settings: {schedule.epochs: 1}
columns:
  - {benchmark: digits, label: five, settings: {tasks: 5}}
rows:
  - {method: ncm, label: NCM}
  - {method: smope, label: SMoPE, sweep: {epsilon: [0, 0.1]}, ablate: {tap.enabled: false}}
drawings:
  - {kind: settings, x: epsilon, y: faa}
"""
PLUGIN = b"""from smope_bench.methods.common.api import Method, MethodCard, MethodConfig

class Config(MethodConfig):
    rate: float = 0.1

class Mine(Method):
    name = "mine"
    card = MethodCard(title="Mine", summary="m")
    Config = Config
"""


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _archives() -> tuple[bytes, ...]:
    """A tar, a compressed tar, and zips of two files, deflated and by LZMA."""
    found = []
    for mode in ("w", "w:gz"):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode=mode) as tar:
            for name in ("a/b.txt", "c.txt"):
                info = tarfile.TarInfo(name)
                info.size = 5
                tar.addfile(info, io.BytesIO(b"hello"))
        found.append(stream.getvalue())
    for compression in (zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", compression) as archive:
            archive.writestr("a/b.txt", "hello" * 50)
            archive.writestr("c.txt", "x")
        found.append(stream.getvalue())
    return tuple(found)


def _pictures() -> tuple[bytes, ...]:
    """A small picture in each format, of which one has a tag that turns it."""
    draw = np.random.default_rng(0)
    picture = Image.fromarray(draw.integers(0, 255, (9, 7, 3), np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    found = []
    for kind, options in (
        ("PNG", {}),
        ("JPEG", {"exif": turned}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("WEBP", {}),
    ):
        stream = io.BytesIO()
        picture.save(stream, kind, **options)
        found.append(stream.getvalue())
    return tuple(found)


def _tensors() -> tuple[bytes, ...]:
    """Two tensors as safetensors, in torch's two formats, and as npz, plain, deflated and by LZMA."""
    two = {"a": torch.zeros(2, 3), "b": torch.arange(4)}
    found = [save(two)]
    for is_zip in (True, False):
        stream = io.BytesIO()
        torch.save(two, stream, _use_new_zipfile_serialization=is_zip)
        found.append(stream.getvalue())
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", compression) as archive:
            for name, tensor in two.items():
                with archive.open(f"{name}.npy", "w") as member:
                    np.save(member, tensor.numpy())
        found.append(stream.getvalue())
    return tuple(found)


def _made(make: Any, ending: str) -> dict[str, bytes]:
    """The files that ``make`` writes into an empty folder, by path in it, of those whose names end so."""
    with tempfile.TemporaryDirectory(prefix="sample-") as folder:
        make(Path(folder))
        files = [file for file in sorted(Path(folder).rglob("*")) if file.is_file() and file.name.endswith(ending)]
        return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def _checkpoint(folder: Path) -> None:
    progress = RunProgress(matrix=[[1.0]], predictions=[[1]], timings=[{"train_s": 1.0}])
    Checkpoints(folder, "f").save(Checkpoint({"head": torch.ones(3)}, progress))


def _kept_pictures(folder: Path) -> None:
    def fill(writers: Any) -> None:
        for split in ("train", "test"):
            writers[0].add(split, np.zeros((2, 2, 2, 3), np.uint8), np.array([0, 1]))

    opened = cache.build_caches(folder / "mine", [cache.Part({"benchmark": "test"})], ("a", "b"), fill)
    stores.note_use(opened[0].folder, folder / "pictures", ["a remark"])


def parsers(template: Path) -> dict[str, Parser]:
    """Every parser by name. ``template``: a results folder with a finished run of suite ``ci``."""
    run_id = Store(template).published()[0]
    names = (RECORD, PREDICTIONS, MODEL, "events.jsonl")
    kept = {name: (template / run_id / name).read_bytes() for name in names if (template / run_id / name).is_file()}
    manifest, record = (template / "suites" / "ci.json").read_bytes(), json.loads(kept[RECORD])
    checkpoint, pictures = _made(_checkpoint, ""), _made(_kept_pictures, "")

    def placed(folder: Path, name: str, data: bytes, others: Sequence[str] = (RECORD,)) -> Store:
        """A results folder with the manifest, the record, and ``data`` as the file of that name."""
        for one, content in {
            "suites/ci.json": manifest,
            **{f"{run_id}/{other}": kept[other] for other in others},
            name: data,
        }.items():
            (folder / one).parent.mkdir(parents=True, exist_ok=True)
            (folder / one).write_bytes(content)
        return Store(folder)

    def everything(data: bytes, folder: Path, name: str) -> None:
        store = placed(folder, name, data)
        for found in store.scan():
            store.state(found.run_id, None)
        statuses(store, planned_cells(store, ["ci"]))
        migrate(folder)
        records = [found for found in store.scan() if isinstance(found, Record)]
        median_seconds(finished_cells(records))
        MemoryEstimator(records, "cpu")
        load_suites(store, suites_in(store), None, mixed=True)

    def in_run(data: bytes, folder: Path, name: str) -> Path:
        placed(folder, f"{run_id}/{name}", data, ())
        return folder / run_id

    def running(data: bytes, folder: Path, name: str) -> None:
        place = in_run(data, folder, name)
        (place / "checkpoint").mkdir()  # begun: how far it is is read
        events_in(lines_of(place / "events.jsonl"))
        read_progress(place / "progress.json")
        newest(place)
        statuses(Store(folder), planned_cells(Store(folder), ["ci"]))

    def a_file(data: bytes, folder: Path, name: str) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    def model(data: bytes, folder: Path) -> None:
        placed(folder, f"{run_id}/{MODEL}", data)
        find_model(run_id, folder)

    def exported(data: bytes, folder: Path) -> None:
        a_file(kept[MODEL], folder, MODEL)
        find_model(str(a_file(data, folder, "model.json").parent), folder)

    def predictions(data: bytes, folder: Path) -> None:
        answers = answers_in(
            in_run(data, folder, PREDICTIONS), run_id, None, record["class_names"], record["test_counts"]
        )
        assert answers.per_class() is not None and answers.confusion() is not None

    def counts(data: bytes, folder: Path) -> None:
        store = placed(folder, "suites/cost.cost.json", data, ())
        counted_section("cost", read_counted(store, "cost"), "cost")

    def an_index(data: bytes, folder: Path) -> None:
        store = placed(folder, f".index-{os.getuid()}.sqlite", data)
        (folder / f".index-{os.getuid()}.sqlite").chmod(0o600)
        with IndexedStore(folder) as found:
            assert found.load(run_id) == store.load(run_id) and found.state(run_id, None) == store.state(run_id, None)

    def checkpoints(data: bytes, folder: Path, name: str) -> None:
        for one, content in {**checkpoint, name: data}.items():
            a_file(content, folder, one)
        Checkpoints(folder, "f").load()

    def kept_pictures(data: bytes, folder: Path, name: str) -> None:
        for one, content in {**pictures, name: data}.items():
            (folder / one).parent.mkdir(parents=True, exist_ok=True)
            a_file(content, folder, one)
        stores.prepared_stores(folder)
        list(cache.verify_caches(folder / "mine"))
        if (opened := cache.open_cache(folder / "mine", cache.Part({"benchmark": "test"}))) is not None:
            opened.image_set("train")

    def end_of_job(data: bytes, folder: Path) -> None:
        result_file(folder, run_id).write_bytes(data)
        read_result(folder, run_id)

    def text(data: bytes) -> str:
        return data.decode(errors="surrogateescape")

    def index_sample() -> bytes:
        with tempfile.TemporaryDirectory(prefix="sample-") as folder:
            placed(Path(folder), f"{run_id}/{PREDICTIONS}", kept[PREDICTIONS])
            with IndexedStore(Path(folder)) as store:
                store._additions.add_record(run_id, "1 1 1 1", record)
                store._additions._write()
            return next(Path(folder).glob(".index-*")).read_bytes()

    sealed = with_checksum(
        {"schema_version": RECORD_SCHEMA, "suite": "cost", "cost": {"rows": [], "inputs": {}}, "provenance": {}}
    )
    manifest_of_pictures = next(name for name in pictures if name.endswith(cache.MANIFEST))
    use = next(name for name in pictures if name.endswith(stores.USE))
    marker = next(name for name in checkpoint if name.endswith(".json"))
    rate = {"fp32": {"flops_per_s": 1e12, "device": "cpu", "batch": 4, "torch": "2"}}
    measured = {"schema_version": 1, "bench": "step", "conditions": {}, "provenance": {}, "rows": []}
    expected = {"cells": [{"row": "NCM", "column": "digits", "faa": 50.0, "tolerance": 1.0}]}
    lease = b'{"token": "a", "machine": "m", "pid": 1, "process_started": "1", "beats": 1, "state": "held"}\n'
    progress = {"event": "step", "task": 0, "tasks": 2, "step": 1, "total_steps": 4, "phase": "train"}
    end = {"run_id": run_id, "state": "done", "error": None}
    noted = {"url": "https://example.org/a", "validator": "x", "length": 10}
    return {
        "settings": Parser(
            (b"benchmark.split=[3, 2]", b"schedule.lr=0.1", b'x={"kind": "a"}'),
            lambda data, _: parse_setting(text(data)),
        ),
        "seeds": Parser((b"0-4", b"0:1,2:3", b"7"), lambda data, _: parse_seeds([text(data)])),
        "suites in YAML": Parser((SUITE,), lambda data, folder: read_suite(a_file(data, folder, "a.yaml"))),
        "plugins": Parser((PLUGIN,), lambda data, folder: run_file(a_file(data, folder, "mine.py"))),
        "records": Parser((kept[RECORD],), lambda data, folder: everything(data, folder, f"{run_id}/{RECORD}"), True),
        "failures": Parser(
            (_json({"error": "x", "kind": "y"}),), lambda data, folder: running(data, folder, "failure.json"), True
        ),
        "manifests": Parser((manifest,), lambda data, folder: everything(data, folder, "suites/ci.json"), True),
        "indices": Parser((index_sample(),), an_index),
        "predictions": Parser((kept[PREDICTIONS],), predictions),
        "counts": Parser((_json(sealed),), counts, True),
        "logs": Parser((kept["events.jsonl"],), lambda data, folder: running(data, folder, "events.jsonl")),
        "progress": Parser((_json(progress),), lambda data, folder: running(data, folder, "progress.json"), True),
        "leases": Parser((lease,), lambda data, folder: running(data, folder, "claim.1"), True),
        "ends of jobs": Parser((_json(end),), end_of_job, True),
        "markers of checkpoints": Parser(
            (checkpoint[marker],), lambda data, folder: checkpoints(data, folder, marker), True
        ),
        **{
            f"checkpoints, {name.partition('.')[2]}": Parser(
                (data,), lambda data, folder, name=name: checkpoints(data, folder, name)
            )
            for name, data in checkpoint.items()
            if name != marker
        },
        "kept models": Parser((kept[MODEL],), model),
        "exported models": Parser((_json(with_checksum(record)),), exported, True),
        "weights": Parser(
            _tensors(), lambda data, folder: read_entries(a_file(data, folder, "a"), ("torch", "safetensors", "npz"))
        ),
        "archives": Parser(
            _archives(), lambda data, folder: [one.read() for one in members(a_file(data, folder, "a"))]
        ),
        "pickles": Parser(
            (pickle.dumps({b"labels": [1, 2], b"data": b"x"}, 2),), lambda data, _: load_plain(data, "a.pkl")
        ),
        "pictures": Parser(_pictures(), lambda data, _: (picture_size(data, upright=True), decode(data, 8))),
        "manifests of pictures": Parser(
            (pictures[manifest_of_pictures],),
            lambda data, folder: kept_pictures(data, folder, manifest_of_pictures),
            True,
        ),
        "uses of pictures": Parser((pictures[use],), lambda data, folder: kept_pictures(data, folder, use), True),
        "expectations": Parser(
            (_json(expected),),
            lambda data, folder: read_expected(SUITES["ci"], str(a_file(data, folder, "a.json"))),
            True,
        ),
        "measurements": Parser(
            (_json(measured),), lambda data, folder: read_measurement(a_file(data, folder, "a.json")), True
        ),
        "rates": Parser(
            (_json(rate),),
            lambda data, folder: recorded_rate(a_file(data, folder, "throughput.json").parent, "fp32"),
            True,
        ),
        "notes of downloads": Parser(
            (_json(noted),), lambda data, folder: Part(a_file(data, folder, "a.json").parent / "a").noted(), True
        ),
    }
