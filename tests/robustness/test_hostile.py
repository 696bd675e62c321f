"""Damaged files for every parser, drawn by coverage; ``hostile.py`` draws thousands. What that found has a case of its own."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from smope_bench import run_all
from smope_bench.harness.records.record import with_checksum

SCRIPT = Path(__file__).with_name("hostile.py")
HUGE = int("9" * 400)
DEEP = b"[" * 5000


@pytest.fixture(scope="module")
def hostile() -> dict[str, Any]:
    """The names of the script."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(SCRIPT.parent), *sys.path])
        return runpy.run_path(str(SCRIPT))


@pytest.fixture(scope="module")
def parsers(hostile: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("hostile")
    places = ["--results", str(folder / "results"), "--data", str(folder / "data")]
    assert run_all.main(["run", "ci", "--methods", "ncm", "--workers", "1", "--device", "cpu", *places]) == 0
    return hostile["parsers"](folder / "results")


def test_damaged_files_are_refused_in_a_sentence(hostile: dict[str, Any], parsers: dict[str, Any]) -> None:
    found = {name: hostile["attack"](parser, 12) for name, parser in parsers.items()}
    assert {name: one.faults for name, one in found.items() if one.faults} == {}
    assert sum(one.cases for one in found.values()) >= 12 * len(parsers) >= 300
    assert all(one.lines for one in found.values()), "each reached code of the project"


def test_the_tool_sees_what_goes_wrong(hostile: dict[str, Any], monkeypatch) -> None:
    def raises(data: bytes, folder: Path) -> None:
        raise KeyError("a fault of this program")

    def hangs(data: bytes, folder: Path) -> None:
        while True:
            pass

    def silent(data: bytes, folder: Path) -> None:
        raise hostile["UserError"](" ")

    parser = hostile["Parser"]
    assert "KeyError" in str(hostile["attack"](parser((b"x",), raises), 3).faults)
    assert "words of UserError" in hostile["attack"](parser((b"x",), silent), 3).faults
    monkeypatch.setitem(hostile["read"].__globals__, "LONGEST_S", 1)
    assert "HangsError" in str(hostile["attack"](parser((b"x",), hangs), 1).faults)


def wrong(parsers: dict[str, Any], kind: str, **changes: Any) -> bytes:
    """A sound file of that kind with some values replaced, and a seal that fits."""
    return json.dumps(with_checksum({**json.loads(parsers[kind].samples[0]), **changes})).encode()


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("counts", {"cost": "/"}),
        ("exported models", {"model": 3}),
        ("exported models", {"run_id": None, "model": {}}),
        ("records", {"timings": []}),
        ("records", {"timings": {"total_s": "x"}}),
        ("records", {"timings": {"total_s": HUGE}}),
        ("records", {"spec": 3}),
        ("records", {"spec": {}}),
        ("leases", DEEP),
        ("ends of jobs", DEEP),
        ("expectations", {"cells": [{"row": "a", "column": "b", "faa": HUGE, "tolerance": 1}]}),
        ("rates", {"fp32": {"flops_per_s": HUGE, "device": "cpu"}}),
        ("uses of pictures", {"from": "~nobody_of_this_name/x", "remarks": []}),
        ("logs", b'{"event": "task_evaluated", "task": 1, "t": %d}\n' % HUGE),
    ],
)
def test_what_was_found(hostile: dict[str, Any], parsers: dict[str, Any], kind: str, data: Any, tmp_path: Path) -> None:
    given = data if isinstance(data, bytes) else wrong(parsers, kind, **data)
    _, fault = hostile["read"](parsers[kind], given, tmp_path)
    assert fault is None
