"""Fifteen disturbances of a tiny sweep on two launchers. ``python tests/robustness/soak`` does a thousand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.forked import run_script  # pyright: ignore[reportMissingImports]

FOLDER = Path(__file__).with_name("soak")


@pytest.mark.skipif(sys.platform != "linux", reason="records are counted by the notices of Linux")
def test_fifteen_disturbances_break_no_promise(tmp_path: Path) -> None:
    options = ["--disturbances", "15", "--seed", "3", "--seeds", "0", "--folder", str(tmp_path)]
    status, figures = run_script(FOLDER, options, tmp_path)
    assert figures["disturbances"] == 15 and len(figures["of each kind"]) >= 5 and figures["finished runs"] >= 4
    promises = ("lost", "duplicated", "different", "invalid", "unsaid", "litter", "processes")
    assert {name: figures[name] for name in promises if figures[name]} == {}
    assert figures["breaches noticed"] == ["lost", "duplicated", "different", "invalid"]
    assert status == 0
