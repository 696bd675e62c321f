"""The script that measures a GPU: rehearsed on the CPU, refused without a GPU, short of time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from smope_bench.harness.timing import gpu, records
from smope_bench.harness.timing.claims import feed

PARTS = {"gpu-step-bf16", "gpu-step-fp32", "gpu-feed", "gpu-attention-bf16", "gpu-attention-fp32"}


def test_a_rehearsal_writes_every_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in (feed, gpu):
        monkeypatch.setattr(module, "BATCH", 2)
    monkeypatch.setattr(gpu, "REHEARSED", replace(gpu.REHEARSED, pictures=3, batch=1))
    assert gpu.main(["--rehearse", "--out", str(tmp_path), "--methods", "ovor"]) == 0
    found = {file.stem.removesuffix("-rehearsed"): records.read(file) for file in tmp_path.glob("*.json")}
    assert set(found) == PARTS
    step = found["gpu-step-bf16"].row("ovor")
    assert step is not None
    assert step["images_a_second"].median == pytest.approx(1 / step["seconds"].median) and step["peak_mb"].median > 0
    assert all(row["images_a_second"].median > 0 for row in found["gpu-feed"].rows)
    assert "--rehearse" in found["gpu-feed"].command


def test_without_a_gpu_it_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        "torch sees no CUDA device here; run this on a machine with a GPU,"
        " or python -m smope_bench.harness.timing.gpu --rehearse\n"
    )


def test_what_the_time_does_not_suffice_for_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--rehearse", "--out", str(tmp_path), "--methods", "ovor", "--seconds", "0"]) == 0
    assert set(capsys.readouterr().err.replace("left out for lack of time: ", "").split()) == PARTS
    assert not list(tmp_path.glob("*.json"))


def test_wrong_options_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--rehearse", "--methods", "ovr", "--out", str(tmp_path)]) == 2
    assert "ovor" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        gpu.main(["--rehearse", "--official", str(tmp_path / "none")])
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert gpu.main(["--rehearse", "--methods", "ovor", "--out", str(tmp_path / "file")]) == 2
