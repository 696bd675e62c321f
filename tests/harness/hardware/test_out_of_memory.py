"""Short memory: which errors say so, what the user is told, and a real process that runs out and goes on with a tighter plan."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from smope_bench.harness.errors import UserError
from smope_bench.harness.hardware import out_of_memory as short_memory
from smope_bench.harness.hardware.out_of_memory import OutOfMemoryRun, is_out_of_memory
from smope_bench.methods.common.vit.memory_plan import MemoryPlan

ROOT = Path(__file__).parents[3]

LIMITED = """
import json, resource, sys
import torch
from timm.models.vision_transformer import VisionTransformer
from smope_bench.harness.hardware.out_of_memory import is_out_of_memory
from smope_bench.methods.common.vit.memory_plan import MemoryPlan
from smope_bench.methods.common.prefix import PlainPrefix
from smope_bench.methods.common.vit.vit import PromptedViT

torch.set_num_threads(1)
torch.manual_seed(0)
shape = dict(img_size=64, patch_size=4, embed_dim=96, depth=6, num_heads=3, num_classes=0)
backbone, images, batch = PromptedViT(VisionTransformer(**shape)), torch.rand(24, 3, 64, 64), 24
keys, values = (torch.rand(3, 4, 32, requires_grad=True) for _ in range(2))

def step(plan):
    backbone.memory, keys.grad = plan, None
    features = backbone(images, {0: PlainPrefix(keys, values)})
    (features @ torch.linspace(-1, 1, 96)).sum().backward()
    return keys.grad

wanted = step(MemoryPlan(micro_batch=1)).clone()
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 64 * 2**20,) * 2)
plan, tried = MemoryPlan(), []
while True:
    try:
        found = step(plan)
        break
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        tried.append(plan.words)
    plan = plan.tighter(batch)
    assert plan is not None, tried
print(json.dumps([tried, plan.words, float((found - wanted).abs().max() / wanted.abs().max())]))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's accounting of address space")
def test_a_step_that_runs_out_fits_with_a_tighter_plan() -> None:
    command = [sys.executable, "-c", LIMITED]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    tried, fits, gap = json.loads(done.stdout)
    assert tried[0] == "all at once" and fits not in tried
    assert gap < 1e-5


def test_what_torchs_own_allocator_says_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
        (OSError(28, "No space left on device"), False),
        (ValueError("not enough memory of earlier tasks"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_errors_of_short_memory(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_an_error_is_of_short_memory_if_its_cause_is() -> None:
    outer, inner = RuntimeError("the pass failed"), MemoryError()
    outer.__cause__ = inner
    inner.__cause__ = outer
    assert is_out_of_memory(outer)
    inner.__cause__, outer.__cause__ = None, None
    assert not is_out_of_memory(outer)


def test_the_sentence_has_the_numbers_and_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(short_memory, "total_mb", lambda kind: {"cpu": 4096.0, "cuda": 81920.0}[kind])
    tried = [MemoryPlan(), MemoryPlan(checkpoint_blocks=True), MemoryPlan(micro_batch=1)]
    error = OutOfMemoryRun("cuda:0", 128, tried, 900.0, task=3)
    assert isinstance(error, UserError)
    for part in (
        "memory ran out in task 3 on cuda:0, which has 80.0 GiB: the peak was 900 MiB with batches of 128",
        "(all at once, blocks recomputed, 1 image at a time)",
        "fewer --workers",
        "--precision bf16",
        "gives other numbers: --set schedule.batch_size=64",
    ):
        assert part in str(error)
    small = str(OutOfMemoryRun("cpu", 1, tried, 2048.0, precision="bf16"))
    assert "2.0 GiB" in small and "batch_size" not in small and "bf16" not in small and "in task" not in small


def test_a_process_may_have_less_than_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(short_memory, "total_mb", lambda kind: 8192.0)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (2**30, 2**30))
    assert short_memory.memory_mb("cpu") == 1024 and short_memory.memory_mb("cuda") == 8192
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY,) * 2)
    assert short_memory.memory_mb("cpu") == 8192


def test_memory_of_this_machine() -> None:
    assert 64 < short_memory.memory_mb("cpu") < 2**27


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux forgets a process's peak")
def test_the_increase_leaves_out_what_is_measured_apart() -> None:
    memory = short_memory.PeakMemory(torch.device("cpu"), optimizes=False)
    with memory.apart():
        torch.ones(2**26)  # 256 MiB
    assert memory.increase_mb() < 128
    peak = memory.read_mb()
    torch.ones(2**25)
    assert 120 < memory.increase_mb() < 250 and memory.read_mb() >= peak >= 256
