"""Ten kills of a tiny sweep: nothing lost, nothing done twice, the same bits. ``kill_sweep.py`` does a hundred."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.forked import run_script  # pyright: ignore[reportMissingImports]

SCRIPT = Path(__file__).with_name("kill_sweep.py")


@pytest.mark.skipif(sys.platform != "linux", reason="records are counted by the notices of Linux")
def test_ten_kills_lose_nothing_repeat_nothing_and_change_no_bit(tmp_path: Path) -> None:
    options = ["--kills", "10", "--methods", "linear_probe,hide_prompt", "--folder", str(tmp_path), "--forked"]
    # With more images a class, evaluation takes longer and no other code is killed.
    options += ["--", "--limit", "8"]
    status, figures = run_script(SCRIPT, options, tmp_path)
    assert figures["kills"] >= 10 and len(figures["victims"]) >= 2 and "worker" in figures["victims"]
    assert (figures["lost"], figures["duplicated"], figures["different"]) == ([], [], []), figures
    assert figures["left_over"] == []
    assert status == 0
