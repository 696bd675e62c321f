"""Ten kills of a tiny sweep: nothing lost, nothing done twice, the same bits. ``kill_sweep.py`` does a hundred."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("kill_sweep.py")


@pytest.mark.skipif(sys.platform != "linux", reason="records are counted by the notices of Linux")
def test_ten_kills_lose_nothing_repeat_nothing_and_change_no_bit(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(SCRIPT),
        "--kills",
        "10",
        "--methods",
        "linear_probe,hide_prompt",
        "--folder",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert done.stdout, done.stderr[-2000:]
    figures = json.loads(done.stdout)
    assert figures["kills"] >= 10 and len(figures["victims"]) >= 2
    assert (figures["lost"], figures["duplicated"], figures["different"]) == ([], [], []), figures
    assert figures["left_over"] == []
    assert done.returncode == 0
