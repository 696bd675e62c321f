"""A store on a file system that is mounted read-only: what can be read is read and checked, the rest is refused in a sentence."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from smope_bench import run_all
from smope_bench.harness.records import index
from smope_bench.harness.records.record import PREDICTIONS, RECORD
from smope_bench.reports.timing.store import SUITE, make_planned
from tests.forked import Forked  # pyright: ignore[reportMissingImports]
from tests.robustness.mounts import CannotMount, make_read_only, tmpfs  # pyright: ignore[reportMissingImports]

RUNS = 100
"""As many as an index is made for."""
NCM = ("ci", "--methods", "ncm", "--seeds", "0", "--limit", "5")
ALONE = ("--executor", "serial", "--device", "cpu")
NOT_ALLOWED = 77
READING = (
    ("plan", *NCM, "--results", "{store}/results", "--data", "{store}/data"),
    ("status", SUITE, "--results", "{store}/results"),
    ("status", "ci", "--json", "--results", "{store}/results"),
    ("verify", "--results", "{store}/results"),
    ("migrate", "--results", "{store}/results"),
    ("cancel", "ci", "--results", "{store}/results"),
    ("predictions", "{run}", "--results", "{store}/results"),
    ("report", SUITE, "--tables-only", "--results", "{store}/results", "--out", "report"),
    ("data", "list", "--data", "{store}/data"),
    ("data", "prepare", "digits", "--data", "{store}/data"),
)
"""What these say of a store does not depend on whether it can be written."""
WRITING = (
    ("run", *NCM, *ALONE, "--results", "{store}/results", "--data", "{store}/data"),
    ("run", *NCM, *ALONE, "--results", "results", "--data", "{store}/empty"),
    ("extend", "{run}", *ALONE, "--results", "{store}/results", "--data", "{store}/data"),
    ("report", "ci", "--tables-only", "--results", "{store}/results", "--out", "{store}/report"),
    ("data", "prepare", "digits", "--data", "{store}/empty"),
    ("data", "remove", "digits", "--data", "{store}/data"),
)
"""What these are to write has no place."""


def call(words: Sequence[str], store: Path, run: str) -> list[Any]:
    """Exit status and output of a command; the store's place, and the one that its plans name, are left out."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = run_all.main([word.format(store=store, run=run) for word in words])
    places = (str(store), str(Path("read-only").resolve()))
    texts = (stream.getvalue() for stream in (out, err))
    return [status, *(text.replace(places[0], "{store}").replace(places[1], "{store}") for text in texts)]


def unbroken(said: dict[str, Any]) -> dict[str, Any]:
    """What commands print without white space, where a table has broken a path, and of either store alike."""
    return {
        words: ["".join(str(part).split()).replace("duplicate", "read-only") for part in found]
        for words, found in said.items()
    }


def fill(store: Path) -> str:
    """A trained run, whose id is returned, and many made-up ones with an index that is older than the damage to two of them."""
    with pytest.MonkeyPatch.context() as patch:
        make_planned(store, RUNS)
        ids = sorted(file.parent.name for file in (store / "results").glob(f"*/{RECORD}"))
        patch.setattr(index, "SETTLED_S", -60.0)
        trained = call(("run", *NCM, *ALONE, "--results", "{store}/results", "--data", "{store}/data"), store, "")
        assert trained[0] == 0, trained
        assert call(("verify", "--results", "{store}/results"), store, "")[0] == 0
    assert list((store / "results").glob(".index-*"))
    cut, other = (store / "results" / run / RECORD for run in ids[:2])
    cut.write_bytes(cut.read_bytes()[:-200])
    other.write_bytes(other.read_bytes().replace(b'"total_s": ', b'"total_s": 1'))
    (store / "empty").mkdir()
    (run,) = {file.parent.name for file in (store / "results").glob(f"*/{RECORD}")} - set(ids)
    return run


def script() -> int:
    """In a process of its own: what each command says there, as JSON."""
    store, copy = (
        Path("read-only").resolve(),
        Path("duplicate").resolve(),
    )  # equally long: tables break their paths alike
    try:
        tmpfs(store, 64)
        run = fill(store)
        shutil.copytree(store, copy)
        make_read_only(store)
    except CannotMount as error:
        print(error, file=sys.stderr)
        return NOT_ALLOWED
    said: dict[str, Any] = {"there": {" ".join(words): call(words, store, run) for words in READING}}
    table = Path("report/table.csv").read_bytes()
    for file in (copy / "results").glob(".index-*"):
        file.unlink()
    said["copy"] = {" ".join(words): call(words, copy, run) for words in READING}
    said["same table"] = Path("report/table.csv").read_bytes() == table
    said["refused"] = {" ".join(words): call(words, store, run) for words in WRITING}
    said["from read-only images"] = call(
        ("run", *NCM, *ALONE, "--results", "results", "--data", "{store}/data"), store, ""
    )
    said["same predictions"] = Path("results", run, PREDICTIONS).read_bytes() == (
        (store / "results" / run / PREDICTIONS).read_bytes()
    )
    print(json.dumps(said))
    return 0


@pytest.mark.skipif(sys.platform != "linux", reason="mounts of one process are Linux's")
def test_a_store_that_is_mounted_read_only_is_read_and_not_believed(tmp_path: Path) -> None:
    out, err = tmp_path / "out", tmp_path / "err"
    status = Forked(script, out, err, tmp_path).wait(600)
    if status == NOT_ALLOWED:
        pytest.skip(f"nothing can be mounted here: {err.read_text().strip()}")
    assert status == 0, err.read_text()
    said = json.loads(out.read_text())
    assert unbroken(said["there"]) == unbroken(said["copy"]) and said["same table"]
    found = {words.split()[0]: each for words, each in said["there"].items()}
    assert found.pop("verify")[0] == 1 and {status for status, *_ in found.values()} == {0}
    assert "2 damaged" in said["there"]["verify --results {store}/results"][1]
    for words, (status, _, error) in said["refused"].items():
        assert status == 2 and error.startswith("error: ") and error.count("\n") == 1, (words, error)
        assert "Read-only file system" in error, (words, error)
    assert said["from read-only images"][0] == 0 and said["same predictions"], said["from read-only images"]
