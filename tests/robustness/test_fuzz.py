"""500 malformed inputs from a fixed seed: each ends in a status and at most one sentence, soon, and writes only where it may."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from smope_bench import run_all
from smope_bench.harness.checkpointing.checkpoint import Checkpoint, Checkpoints, RunProgress
from smope_bench.harness.errors import UserError
from smope_bench.harness.executors.slurm_options import slurm_plan
from smope_bench.harness.planning.settings import parse_seeds, parse_setting
from smope_bench.harness.records.record import Record, with_checksum
from smope_bench.harness.records.store import Store
from tests.robustness import inputs  # pyright: ignore[reportMissingImports]

SEED, LONGEST_S = 20260, 20
SENTENCES = ("error: ", "failed: ")
Make = Callable[[random.Random, Path], list[str]]
PLAN = ["plan", "ci", "--methods", "linear_probe"]


class Hangs(BaseException):
    """The alarm went off."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with one finished run, which is damaged in copies."""
    folder = tmp_path_factory.mktemp("template")
    places = ["--results", str(folder / "results"), "--data", str(folder / "data")]
    assert run_all.main(["run", "ci", "--methods", "ncm", "--workers", "1", "--device", "cpu", *places]) == 0
    return folder


@pytest.fixture(scope="module")
def fonts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where matplotlib keeps its list of fonts, which is made here: it takes longer than any call may."""
    folder = tmp_path_factory.mktemp("fonts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPLCONFIGDIR", str(folder))
        importlib.import_module("matplotlib.font_manager")
        yield folder


@pytest.fixture
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fonts: Path) -> Path:
    """Home and working folder below one that is watched; no network, no waiting."""

    def offline(*_: object, **__: object) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(socket, "getaddrinfo", offline)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    return tmp_path


@contextlib.contextmanager
def alarm() -> Iterator[None]:
    """Raise Hangs inside after so many seconds."""

    def ring(*_: object) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(LONGEST_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def seen(root: Path) -> dict[str, tuple[int, int]]:
    """Every path below ``root`` with size and time, but for results, data and report folders of the working folder."""
    found = {}
    for place, folders, files in os.walk(root):
        if place == str(root / "work"):
            folders[:] = [folder for folder in folders if folder not in ("results", "data", "report")]
        for name in (*folders, *files):
            status = os.lstat(f"{place}/{name}")
            is_file = name in files
            found[f"{place}/{name}"] = (status.st_size, status.st_mtime_ns) if is_file else (0, 0)
    return found


def call(arguments: list[str], surroundings: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """(status of the command line, what went wrong with it)."""
    before, shown = seen(surroundings), [argument[:200] for argument in arguments]
    capsys.readouterr()
    status: Any = -1
    wrong: list[str] = []
    try:
        with alarm():
            status = run_all.main(arguments)
    except SystemExit as stop:
        status = stop.code
    except (Hangs, Exception, KeyboardInterrupt) as error:
        wrong.append(f"ends in {type(error).__name__}: {str(error)[:300]}")
    told = capsys.readouterr()
    if status == 2 and not (told.err.startswith("error: ") and told.err.count("\n") == 1):
        wrong.append(f"is answered by {told.err[:600]!r}")
    if not all(line.startswith(SENTENCES) for line in told.err.splitlines()):
        wrong.append(f"is told {told.err[:600]!r}")
    if status not in (-1, 0, 1, 2) or (status == 0 and told.err) or "Traceback" in told.out + told.err:
        wrong.append(f"ends with status {status} and {told.err[:600]!r}")
    if {"\x1b", "\x9b"} & set(told.err + told.out):
        wrong.append(f"reaches the terminal's controls: {told.err[:300]!r} {told.out[:300]!r}")
    if seen(surroundings) != before:
        wrong.append(f"writes {sorted(seen(surroundings).items() ^ before.items())[:3]}")
    return int(status or 0), [f"{shown!r} {what}" for what in wrong]


def settings(draw: random.Random, folder: Path) -> list[str]:
    return [*PLAN, f"--set={inputs.setting(draw)}"]


def selections(draw: random.Random, folder: Path) -> list[str]:
    option = draw.choice(
        ("--seeds", "--methods", "--benchmarks", "--precision", "--tflops", "--results", "--data", "suite")
    )
    value = inputs.text(draw)
    if option in ("--results", "--data"):  # a folder's name may be anything; where it leads is the user's business
        value = draw.choice(("/dev/null/x", "/proc/x", "\0", "a" * 300, "\ud800/x\0"))
    return ["plan", value] if option == "suite" else ["plan", "ci", f"{option}={value}"]


def names(draw: random.Random, folder: Path) -> list[str]:
    value = inputs.text(draw)
    commands: tuple[list[str], ...] = (
        ["report", "--", value], ["check", "--", value], ["cost", f"--methods={value}"], ["list", "--", value],
        ["data", "prepare", "--", value], ["data", "verify", "--", value], ["tune", "--", value, "ncm"],
        ["run", "--", value], ["bench", "--", value], ["run", "ci", f"--expect={value or 'x'}"], ["--", value],
        ["run", "ci", f"--workers={value}"], ["run", "ci", f"--device={value}"], ["migrate", f"--results={value or 'x'}"],
    )  # fmt: skip
    return draw.choice(commands)


def plugins(draw: random.Random, folder: Path) -> list[str]:
    file = folder / draw.choice(("mine.py", "mine.py", "mine.py", "mine.txt", "mine", "a b.py", "\x1b[31m.py", "é.py"))
    file.write_bytes(inputs.plugin(draw))
    commands = (["list", "methods"], ["plan", "ci", "--methods", "mine"], ["check", str(file)], ["list", "benchmarks"])
    chosen = draw.choice(commands)
    return chosen if chosen[0] == "check" else [*chosen, "--plugin", str(file)]


def image_folders(draw: random.Random, folder: Path) -> list[str]:
    inputs.image_folder(folder / "images", draw)
    path = json.dumps(str(folder / "images"))
    extra = ["--set", f"benchmark.tasks={draw.choice((1, 2, 3))}"]
    return ["plan", "ci", "--methods", "ncm", "--benchmarks", "imagefolder", "--set", f"benchmark.path={path}", *extra]


def given_files(draw: random.Random, folder: Path) -> list[str]:
    named = (
        "cifar-100-python.tar.gz",
        "CUB_200_2011.tgz",
        "imagenet-r.tar",
        "model.npz",
        "weights.safetensors",
        "model.pth",
    )
    file = folder / draw.choice(named)
    file.write_bytes(
        inputs.damaged(draw.choice((b"PK\x03\x04" * 9, b"\x1f\x8b\x08" * 9, bytes(1024), b"\x93NUMPY" * 9)), draw)
    )
    return [
        "data",
        "prepare",
        draw.choice(("cifar100", "cub200", "imagenet_r", "sup1k", "sup21k")),
        "--from",
        str(file),
    ]


def cluster_options(draw: random.Random, folder: Path) -> list[str]:
    """Of a suite that is not there, so that whatever is accepted trains nothing."""
    option = draw.choice(("executor", "address", "slurm", "gpus-per-run", "checkpoint-every", "threads", "workers"))
    return ["run", "no_such_suite", f"--{option}={inputs.text(draw)}"]


def json_files(draw: random.Random, folder: Path) -> list[str]:
    file = folder / "given.json"
    file.write_bytes(inputs.damaged(b'{"suite": "ci", "cells": [{"row": "x"}], "x": [1, 2]}', draw))
    return draw.choice((["run", "ci", "--expect", str(file)], ["tune", "digits", "ncm", "--grid", str(file)]))


KINDS: dict[str, tuple[Make, int]] = {
    "settings": (settings, 80),
    "cluster options": (cluster_options, 40),
    "selections": (selections, 60),
    "names": (names, 70),
    "plugins": (plugins, 80),
    "image folders": (image_folders, 40),
    "given files": (given_files, 20),
    "JSON files": (json_files, 20),
}


@pytest.mark.parametrize("kind", KINDS)
def test_malformed_arguments(kind: str, surroundings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, count = KINDS[kind]
    refused, trouble = 0, list[str]()
    for number in range(count):
        folder = surroundings / f"input-{number}"
        folder.mkdir()
        arguments = make(random.Random(f"{SEED} {kind} {number}"), folder)
        status, wrong = call(arguments, surroundings, capsys)
        refused, trouble = refused + (status == 2), trouble + wrong
    assert not trouble, "\n".join(trouble)
    assert refused > count // 4, "these inputs are meant to be malformed"
    assert not list(surroundings.glob("work/results/*/result.json")), "nothing may be trained"


def test_what_would_fill_memory_or_stack_is_refused_or_taken_as_text() -> None:
    with pytest.raises(UserError, match="more than 10,000 seeds"):
        parse_seeds(["0-99999999999"])
    deep = "[" * inputs.DEEP
    assert parse_setting(f"a={deep}").value == deep


def test_malformed_requests_to_a_batch_system() -> None:
    keys = ("time", "mem", "gres", "cluster", "partition", "signal_delay_s", "setup", "exclusive", "array-parallelism")
    for number in range(100):
        draw = random.Random(f"{SEED} slurm {number}")
        asked = [f"{draw.choice((*keys, inputs.text(draw)))}={inputs.text(draw)}" for _ in range(draw.randint(1, 2))]
        with contextlib.suppress(UserError):
            slurm_plan(asked, threads=1, gpus=False)


@pytest.mark.parametrize("number", range(40))
def test_damaged_records_and_manifests(number: int, template: Path, surroundings: Path, capsys) -> None:
    draw = random.Random(f"{SEED} record {number}")
    results = surroundings / "work" / "results"
    finished = next(record for record in Store(template / "results").scan() if isinstance(record, Record))
    for source in (f"{finished.run_id}/result.json", f"{finished.run_id}/predictions.npz", "suites/ci.json"):
        target = results / source
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((template / "results" / source).read_bytes())
    victim = results / (f"{finished.run_id}/result.json" if number % 2 else "suites/ci.json")
    victim.write_bytes(inputs.json_bytes(json.loads(victim.read_bytes()), draw))
    if number % 2:
        found = Store(results).load(finished.run_id)
        same = isinstance(found, Record) and found.result == finished.result
        assert same or not isinstance(found, Record), "a changed record is not believed"
    commands = [["plan", "ci", "--methods", "ncm"], ["migrate"], ["status", "ci"], ["cancel", "ci"]]
    commands += [["report", "ci"]] * (number < 4)
    for command in commands:
        assert call(command, surroundings, capsys)[1] == []
    if not number % 2:  # its only run is done
        again = ["run", "ci", "--methods", "ncm", "--workers", "1", "--device", "cpu", "--expect", "stored"]
        assert call(again, surroundings, capsys)[1] == []
        assert len(Store(results).read_cells("ci")) >= 1, "what could not be used was written anew"


@pytest.mark.parametrize("number", range(50))
def test_damaged_checkpoints(number: int, tmp_path: Path) -> None:
    draw = random.Random(f"{SEED} checkpoint {number}")
    checkpoints = Checkpoints(tmp_path, "f")
    checkpoints.save(Checkpoint({"head": torch.ones(3)}, RunProgress(matrix=[[1.0]], predictions=[[1]])))
    marker = next(tmp_path.glob("*.json"))
    if number % 2:  # damaged on the disk: never believed
        victim = draw.choice([file for file in sorted(tmp_path.iterdir()) if file.is_file()])
        data = victim.read_bytes()
        victim.write_bytes(damage := inputs.damaged(data, draw))
        is_believed = damage == data
    else:  # wrong though its seal fits, as no program of ours writes it: believed or not, it hurts nobody
        said = inputs.mutated(json.loads(marker.read_bytes()), draw)
        marker.write_bytes(json.dumps(with_checksum(said)).encode())
        is_believed = True
    before = seen(tmp_path)
    with alarm():
        assert Checkpoints(tmp_path, "f").load() is None or is_believed
    assert seen(tmp_path) == before
