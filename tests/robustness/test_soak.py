"""Fifteen disturbances of a tiny sweep on two launchers. ``python tests/robustness/soak`` does a thousand."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from tests.forked import Forked  # pyright: ignore[reportMissingImports]

FOLDER = Path(__file__).with_name("soak")


@pytest.mark.skipif(sys.platform != "linux", reason="records are counted by the notices of Linux")
def test_fifteen_disturbances_break_no_promise(tmp_path: Path) -> None:
    options = ["--disturbances", "15", "--seed", "3", "--seeds", "0", "--folder", str(tmp_path)]

    def script() -> int:
        sys.argv, sys.path[:0] = [str(FOLDER), *options], [str(FOLDER)]
        runpy.run_path(str(FOLDER), run_name="__main__")
        return 0

    out, err = tmp_path / "out", tmp_path / "err"
    status = Forked(script, out, err, tmp_path).wait(1800)
    assert out.read_text(), err.read_text()[-2000:]
    figures = json.loads(out.read_text())
    assert figures["disturbances"] == 15 and len(figures["of each kind"]) >= 5 and figures["finished runs"] >= 4
    promises = ("lost", "duplicated", "different", "invalid", "unsaid", "litter", "processes")
    assert {name: figures[name] for name in promises if figures[name]} == {}
    assert figures["breaches noticed"] == ["lost", "duplicated", "different", "invalid"]
    assert status == 0
