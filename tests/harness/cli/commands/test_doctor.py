"""The command ``doctor`` on small sizes, and what it tells of GPUs where they are simulated."""

from __future__ import annotations

import json
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch

from smope_bench import run_all
from smope_bench.harness.cli.commands import doctor as command
from smope_bench.harness.hardware import device as hardware
from smope_bench.harness.run_options import Gpu
from smope_bench.harness.timing import doctor
from smope_bench.harness.timing.claims import feed


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hardware, "pin_arithmetic", lambda _: None)  # the tests' own threads
    monkeypatch.setattr(doctor, "PICTURES", 3)
    for module in (doctor, feed):
        monkeypatch.setattr(module, "BATCH", 2)
    monkeypatch.setattr(doctor, "speeds", partial(doctor.speeds, backbone="tiny"))
    monkeypatch.setattr(command, "PRICED", "smoke")


def test_json_has_all_of_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_all.main(["doctor", "--json", "--device", "cpu"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["devices"]["cores"] >= 1 and found["devices"]["memory_mb"] >= found["devices"]["free_mb"] > 0
    assert set(found["precisions"]["cpu"]) == {"fp32", "tf32", "bf16"}
    assert found["waits"] is None and "needs a GPU" in found["waits_omitted"]
    speeds, plan = found["speeds"], found["plan"]
    assert speeds["fed"] == pytest.approx(speeds["exact"] / speeds["step"])
    assert plan["suite"] == "smoke" and plan["runs"] == plan["left"] > 0 and plan["hours"] > 0


def test_gpus_are_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    gpus = [Gpu("GPU-1", "New", 0, "GPU-1", 81920.0, 40960.0, "1", "9.0"), Gpu("GPU-2", "Old", 1, capability="7.0")]
    monkeypatch.setattr(doctor, "visible_gpus", lambda: gpus)
    assert run_all.main(["doctor", "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    assert "GPU 0: New (80 GiB), 40.0 GiB free, compute capability 9.0" in text
    assert "precision on Old: fp32 native, tf32 no, bf16 no" in text
    assert "times as fast as it trains" in text and "smoke: " in text


def test_waits_are_counted_by_torchs_debug_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []
    monkeypatch.setattr(doctor, "synchronise", lambda _: None)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: "default")
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def step() -> None:
        for _ in range(2):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("something else", stacklevel=1)

    assert doctor.waits_of(step, torch.device("cuda")) == 2 and modes == ["warn", "default"]
