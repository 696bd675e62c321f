"""GPUs as a made-up ``nvidia-smi`` lists them: which a launch uses, and which each worker sees."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from smope_bench import run_all
from smope_bench.harness.cancellation import Stop
from smope_bench.harness.errors import UserError
from smope_bench.harness.execution import launcher
from smope_bench.harness.execution.executor_registry import open_executors
from smope_bench.harness.execution.job import Job
from smope_bench.harness.execution.launcher import placed
from smope_bench.harness.execution.memory_budget import require_room
from smope_bench.harness.executors.local import WorkerPool
from smope_bench.harness.hardware import device as devices
from smope_bench.harness.hardware import gpus
from smope_bench.harness.hardware.device import precision_remark, resolve_device, unsupported_remark
from smope_bench.harness.hardware.gpus import VISIBLE, describe_device, only_gpus, select_gpus, visible_gpus
from smope_bench.harness.run_options import Gpu, RunOptions
from tests.harness.stand_ins import spec_of, with_runner  # pyright: ignore[reportMissingImports]

TABLE = """\
0, GPU-aaaa1111, NVIDIA A100-SXM4-40GB, 40960, 40000, 550.1, 8.0, {mig}
1, GPU-bbbb2222, NVIDIA A100-SXM4-40GB, 40960, 2000, 550.1, 8.0, Disabled
2, GPU-cccc3333, Tesla T4, 15360, 15000, 550.1, 7.5, [N/A]
"""
LISTING = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa1111)
  MIG 3g.20gb     Device  0: (UUID: MIG-1111)
  MIG 3g.20gb     Device  1: (UUID: MIG-2222)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bbbb2222)
GPU 2: Tesla T4 (UUID: GPU-cccc3333)
"""


def smi(monkeypatch: pytest.MonkeyPatch, table: str = TABLE.format(mig="Disabled")) -> None:
    def answer(*arguments: str) -> str:
        return LISTING if arguments == ("-L",) else table

    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setattr(gpus, "nvidia_smi", answer)


def tokens(found: list[Gpu]) -> list[str]:
    return [gpu.token for gpu in found]


def test_all_gpus_with_what_is_known_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    smi(monkeypatch)
    first, *_ = found = visible_gpus()
    assert tokens(found) == ["GPU-aaaa1111", "GPU-bbbb2222", "GPU-cccc3333"]
    assert first == Gpu("GPU-aaaa1111", "NVIDIA A100-SXM4-40GB", 0, "GPU-aaaa1111", 40960.0, 40000.0, "550.1", "8.0")


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("2,0", [2, 0]),
        (" 1 ", [1]),
        ("1,7,0", [1]),
        ("1,1", []),
        ("GPU-cc,GPU-aaaa1111", [2, 0]),
        ("GPU-", []),
        ("GPU-dddd", []),
    ],
)
def test_visible_devices_are_obeyed_as_cuda_does(
    visible: str, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    smi(monkeypatch)
    monkeypatch.setenv(VISIBLE, visible)
    found = visible_gpus()
    assert [gpu.index for gpu in found] == expected
    assert tokens(found) == [part.strip() for part in visible.split(",")][: len(expected)]


def test_parts_of_a_divided_gpu_are_devices_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    smi(monkeypatch, TABLE.format(mig="Enabled"))
    assert tokens(visible_gpus()) == ["MIG-1111", "MIG-2222", "GPU-bbbb2222", "GPU-cccc3333"]
    assert visible_gpus()[0].memory_mb == 20 * 1024 and visible_gpus()[0].name == "NVIDIA A100-SXM4-40GB MIG 3g.20gb"
    monkeypatch.setenv(VISIBLE, "MIG-2222")
    assert tokens(visible_gpus()) == ["MIG-2222"]


def test_an_old_driver_is_asked_for_less(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*arguments: str) -> str | None:
        return None if "compute_cap" in arguments[0] else "0, GPU-a, Tesla K80, 11441, [N/A], 390.1\n"

    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setattr(gpus, "nvidia_smi", answer)
    assert visible_gpus() == [Gpu("GPU-a", "Tesla K80", 0, "GPU-a", 11441.0, None, "390.1", "")]


def test_without_the_tool_torch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setattr(gpus, "nvidia_smi", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert tokens(visible_gpus()) == ["0", "1"]
    monkeypatch.setenv(VISIBLE, "3,5")
    assert tokens(visible_gpus()) == ["3", "5"]


def test_gpus_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    smi(monkeypatch)
    assert tokens(select_gpus([0, 2])) == ["GPU-aaaa1111", "GPU-cccc3333"] and len(select_gpus([])) == 3
    with pytest.raises(
        UserError, match=r"--gpus 0,3: there is no GPU 3 here; GPUs: 0: NVIDIA A100.*\(40 GiB\); 1: .*T4"
    ):
        select_gpus([0, 3])
    monkeypatch.setenv(VISIBLE, "2")
    with pytest.raises(UserError, match=r"no GPU 1 here; GPUs \(of CUDA_VISIBLE_DEVICES=2\): 0: Tesla T4"):
        select_gpus([1])


@pytest.mark.parametrize("text", ["x", "0,0", "", "-1", "0,", "1-2"])
def test_gpus_that_cannot_be_read_are_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_all.main(["run", "smoke", "--gpus", text]) == 2
    assert "write distinct numbers from 0" in capsys.readouterr().err


def with_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    smi(monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(visible_gpus()))


ASKED = RunOptions(Path("results"), Path("data"), "auto")


def test_where_runs_are_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    load = open_executors().load
    device, options = placed(load("local"), replace(ASKED, gpu_numbers=(0, 2)))
    assert device == "cuda" and tokens(list(options.gpus)) == ["GPU-aaaa1111", "GPU-cccc3333"]
    assert placed(load("slurm"), ASKED) == ("cuda", ASKED)
    assert placed(load("slurm"), replace(ASKED, device="cpu"))[0] == "cpu"
    assert placed(load("ray"), replace(ASKED, address="host:1")) == ("cuda", replace(ASKED, address="host:1"))
    monkeypatch.setenv(VISIBLE, "")
    assert placed(load("local"), ASKED) == placed(load("ray"), ASKED) == ("cpu", ASKED)
    assert placed(load("slurm"), ASKED)[0] == "cuda", "asked for where the run will run, not here"
    here = replace(ASKED, slurm=("cluster=local",))
    assert placed(load("slurm"), here)[0] == "cpu"
    with pytest.raises(UserError, match="--gpus 0: runs are on the cpu here"):
        placed(load("local"), replace(ASKED, gpu_numbers=(0,)))
    with pytest.raises(UserError, match="--gpus 0 chooses among this machine's GPUs, but --executor slurm runs"):
        placed(load("slurm"), replace(ASKED, gpu_numbers=(0,)))


def test_more_workers_than_gpus_need_room() -> None:
    two = [Gpu("a", "A", memory_mb=40960.0, free_mb=40000.0), Gpu("b", "B", memory_mb=40960.0, free_mb=20000.0)]
    require_room(2, two, [30000.0, 30000.0])
    require_room(4, two, [8000.0] * 4)
    require_room(99, [Gpu("c")], [8000.0] * 99)  # of which nothing is known
    with pytest.raises(UserError, match=r"--workers 4 with 2 GPUs puts 2 runs on B \(40 GiB\), b: .* --workers 2"):
        require_room(4, two, [10000.0] * 4)
    with pytest.raises(UserError, match=r"with 1 GPU puts 2 runs on GPU d, d: .* --workers 1"):
        require_room(2, [Gpu("d", free_mb=700.0)], [0.0, 0.0])


RUNNER = """
    import os, json
    from stand_ins import publish

    def run(job, options, context):
        (options.results / job.run_id / "gpu").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
        publish(job, options)
        if job.spec.method.config.get("lose"):
            from smope_bench.harness.hardware.device_lost import DeviceLost
            raise DeviceLost({"type": "cuda", "index": 1, "name": "B"}, 0, RuntimeError("CUDA error: unknown error"))
"""


def test_each_worker_sees_its_gpu_and_a_lost_one_gets_no_more_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "results").mkdir()
    smi(monkeypatch, "0, GPU-a, A, 40960, 40000, 550, 8.0, Disabled\n")  # GPU-b is gone
    two = (Gpu("GPU-a", "A"), Gpu("GPU-b", "B"))
    options = replace(with_runner(tmp_path, monkeypatch, RUNNER, device="cuda"), gpus=two)
    jobs = [Job(spec.run_id, spec) for spec in (spec_of(0), spec_of(1, lose=True), spec_of(2), spec_of(3))]
    with WorkerPool(2, options) as pool:
        ends = {end.run_id: end for end in pool.run(jobs, lambda *_: None, Stop())}
    seen = [(options.results / job.run_id / "gpu").read_text() for job in jobs]
    assert seen == ["GPU-a", "GPU-b", "GPU-a", "GPU-a"] and VISIBLE not in os.environ
    lost = ends[jobs[1].run_id].error or {}
    assert lost["kind"] == "DeviceLost" and "cuda 1 (B) failed in task 0: CUDA error: unknown error" in lost["error"]
    assert [ends[job.run_id].state for job in jobs] == ["done", "failed", "done", "done"]


def test_the_environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "0,1")
    with only_gpus([Gpu("GPU-b"), Gpu("GPU-c")]):
        assert os.environ[VISIBLE] == "GPU-b,GPU-c"
    with only_gpus(()):
        assert os.environ[VISIBLE] == "0,1"


def test_one_worker_for_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.default_workers("cuda", 10, 4, 3) == 3 and devices.default_workers("cuda", 2, 4, 3) == 2


def test_bf16_is_refused_by_the_capability_that_the_driver_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    smi(monkeypatch)
    with pytest.raises(UserError, match=r"Tesla T4 has compute capability 7\.5.*--precision fp32"):
        precision_remark("bf16", "cuda")
    monkeypatch.setenv(VISIBLE, "0,1")
    assert precision_remark("bf16", "cuda") is None


def test_other_accelerators_are_accepted_where_torch_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, module in (("mps", torch.backends.mps), ("xpu", torch.xpu)):
        monkeypatch.setattr(module, "is_available", lambda: False)
        with pytest.raises(UserError, match=f"--device {kind}: torch sees no {kind.upper()}"):
            resolve_device(kind)
        monkeypatch.setattr(module, "is_available", lambda: True)
        assert resolve_device(kind) == kind
        assert "not tested" in (unsupported_remark(kind, "fp32", deterministic=False) or "")
        with pytest.raises(UserError, match="--precision bf16 is not supported"):
            unsupported_remark(kind, "bf16", deterministic=False)
        with pytest.raises(UserError, match="--deterministic is not supported"):
            unsupported_remark(kind, "fp32", deterministic=True)
    assert unsupported_remark("cuda", "bf16", deterministic=True) is None


def test_a_device_is_described_for_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    smi(monkeypatch)
    assert describe_device(torch.device("cpu"), "Some CPU") == {"type": "cpu", "name": "Some CPU"}
    found = SimpleNamespace(name="NVIDIA A100", total_memory=40 * 2**30, major=8, minor=0, uuid="bbbb2222")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: found)
    expected = {"memory_mb": 40960, "capability": "8.0", "uuid": "GPU-bbbb2222", "index": 1, "driver": "550.1"}
    assert describe_device(torch.device("cuda"), "") == {"type": "cuda", "name": "NVIDIA A100", **expected}


def test_the_launcher_initialises_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch)

    def refuse(*_: object) -> None:
        raise AssertionError("CUDA was initialised")

    for name in ("_lazy_init", "init", "mem_get_info", "get_device_properties", "get_device_capability"):
        monkeypatch.setattr(torch.cuda, name, refuse)
    device, options = placed(open_executors().load("auto"), ASKED)
    assert device == "cuda" and launcher.hardware.default_workers(device, 9, 1, len(options.gpus)) == 3
    with pytest.raises(UserError, match="compute capability"):
        precision_remark("bf16", device)
