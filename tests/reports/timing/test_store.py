"""What a call of a command on a made-up folder is said to need."""

from __future__ import annotations

from pathlib import Path

import pytest

from smope_bench.harness.errors import UserError
from smope_bench.harness.hardware.memory import MIB
from smope_bench.reports.timing.store import timed_call


def test_a_call_is_measured_without_the_memory_of_its_caller(tmp_path: Path) -> None:
    held = bytes(range(1, 256)) * (300 * int(MIB) // 255)
    need = timed_call(["list", "executors"])
    assert len(held) / MIB > 299 and 5 < need.peak_mb < 250 and need.cpu_s > 0
    with pytest.raises(UserError, match="nothing was run in"):
        timed_call(["status", "--results", str(tmp_path)])
