"""bf16 on a device without it is said before anything trains."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from smope_bench.benchmarks.transforms import resample
from smope_bench.harness.errors import UserError
from smope_bench.harness.execution import launcher
from smope_bench.harness.execution.executor_registry import open_executors
from smope_bench.harness.hardware import device as precision
from smope_bench.harness.hardware import memory
from smope_bench.harness.hardware.device import cpu_instructions, data_sheet, fp32_remark, precision_remark, products_in
from smope_bench.harness.run_options import Gpu, RunOptions
from tests.harness.stand_ins import planned  # pyright: ignore[reportMissingImports]


@pytest.mark.parametrize(
    ("lines", "slow"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_bf16\n", False),
        ("flags\t\t: fpu amx_tile amx_bf16\n", False),
        ("Features\t: fp asimd bf16\n", False),
        ("flags\t\t: fpu avx2 avx512f\n", True),
        ("no instructions are listed here\n", False),
    ],
)
def test_a_processor_without_bfloat16_is_slow(
    lines: str, slow: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(lines, encoding="utf-8")
    monkeypatch.setattr(precision, "CPU_INFO", file)
    remark = precision_remark("bf16", "cpu")
    assert (remark is not None) is slow
    assert remark is None or "no avx512_bf16" in remark
    assert precision_remark("fp32", "cpu") is None


def test_a_system_that_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "CPU_INFO", tmp_path / "absent")
    assert cpu_instructions() == frozenset() and precision_remark("bf16", "cpu") is None


@pytest.mark.parametrize("has", [True, False])
def test_an_accelerator_without_bfloat16_is_refused(has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old 1000")
    if has:
        assert precision_remark("bf16", "cuda") is None
        return
    with pytest.raises(UserError, match=r"Old 1000 has compute capability 7\.5.*--precision fp32"):
        precision_remark("bf16", "cuda:0")


def test_tf32_is_of_cuda_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UserError, match=r"TF32 is a format of NVIDIA's GPUs, and the runs are on cpu; use --device cuda"
    ):
        precision_remark("tf32", "cpu")
    monkeypatch.setattr(precision, "visible_gpus", lambda: [Gpu("0", "Tesla T4", capability="7.5")])
    with pytest.raises(
        UserError, match=r"--precision tf32: Tesla T4 has compute capability 7\.5, and TF32 begins with 8\.0"
    ):
        precision_remark("tf32", "cuda")
    monkeypatch.setattr(precision, "visible_gpus", lambda: [Gpu("0", "NVIDIA A100-SXM4-40GB", capability="8.0")])
    assert precision_remark("tf32", "cuda") is None
    assert "fp32 20, tf32 156, bf16 312 TFLOP/s" in (precision_remark("fp32", "cuda") or "")


def test_what_fp32_costs() -> None:
    assert fp32_remark([]) is None
    assert "idle; --precision bf16 or tf32" in (fp32_remark(["NVIDIA GeForce RTX 3090"]) or "")
    assert "NVIDIA H100 80GB HBM3 idle (NVIDIA's data sheet, dense: fp32 67, tf32 495, bf16 989 TFLOP/s)" in (
        fp32_remark(["Other", "NVIDIA H100 80GB HBM3"]) or ""
    )


@pytest.mark.parametrize(
    ("name", "bf16"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA RTX A1000", None),
    ],
)
def test_a_data_sheet_is_of_its_own_card_alone(name: str, bf16: int | None) -> None:
    found = data_sheet(name)
    assert (found and found[2]) == bf16


def test_tf32_is_on_within_its_runs_alone_and_never_resizes_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    def state() -> tuple[object, object]:
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    seen: list[object] = []
    along = resample._along_last

    def watched(*arguments: Any) -> torch.Tensor:
        seen.append(torch.backends.cuda.matmul.allow_tf32)
        return along(*arguments)

    monkeypatch.setattr(resample, "_along_last", watched)
    precision.pin_arithmetic(1)
    with products_in("tf32", "cuda"):
        assert state() == (True, True)
        boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
        resample.resized(torch.zeros(1, 8, 8, 3, dtype=torch.uint8), resample.Parts.of(boxes, 4), 4)
        assert state() == (True, True)
    assert state() == (False, False) and seen == [False, False]
    with products_in("fp32", "cuda"):
        assert state() == (False, False)


def test_the_plain_precision_keeps_its_id_and_tf32_has_another() -> None:
    spec = planned(seed=0).spec
    ids = {name: spec.model_copy(update={"precision": name}).run_id for name in ("fp32", "tf32", "bf16")}
    assert ids["fp32"] == spec.run_id and len(set(ids.values())) == 3


def test_a_launch_says_it_of_the_precision_of_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu_info = tmp_path / "cpuinfo"
    cpu_info.write_text("flags : sse2\n", encoding="utf-8")
    monkeypatch.setattr(precision, "CPU_INFO", cpu_info)
    options, executor = RunOptions(tmp_path / "r", tmp_path / "d"), open_executors().load("auto")
    for number_format, noted in (("bf16", True), ("fp32", False)):
        run = planned(seed=0)
        runs = [replace(run, spec=run.spec.model_copy(update={"precision": number_format}))] * 2
        said = list(launcher._device_remarks(executor, runs, "cpu", options))
        assert [text[:16] for text in said] == (["--precision bf16"] if noted else [])
    assert list(launcher._device_remarks(open_executors().load("slurm"), [], "cuda", replace(options, device="auto")))


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "250000 100000\n"}, 2.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu,cpuacct/cpu.cfs_quota_us": "300000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 3.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"job/cpu.max": "100000 100000\n", "cpu.max": "400000 100000\n"}, 1.0),
        ({"cpu/batch/cpu.cfs_quota_us": "100000\n", "cpu/batch/cpu.cfs_period_us": "100000\n"}, 1.0),
        ({"cpu.max": "nonsense\n"}, None),
        ({}, None),
    ],
)
def test_a_containers_cpu_quota_counts_as_its_cores(
    files: dict[str, str], quota: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "own").write_text("4:cpu,cpuacct:/batch\n0::/job\n")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    monkeypatch.setattr(memory, "OWN_CGROUP", tmp_path / "own")
    monkeypatch.setattr(precision.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert memory.cpu_quota() == quota
    assert precision.usable_cores() == (8 if quota is None else max(1, int(quota)))
