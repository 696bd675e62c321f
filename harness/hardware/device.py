"""Devices of runs: choice, number format, threads and arithmetic."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from smope_bench.harness.errors import UserError
from smope_bench.harness.hardware.gpus import visible_gpus
from smope_bench.harness.hardware.memory import cpu_quota

CPU_INFO = Path("/proc/cpuinfo")
FORMATS = {"bf16": "bfloat16", "tf32": "TF32"}
FAST_BF16 = frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16"})
"""Instructions for bfloat16 products, x86 and ARM, by the names that Linux gives them."""


PEAKS: Mapping[str, tuple[int, int, int]] = {
    r"H[12]00\b(?!.*(PCIe|NVL))": (67, 495, 989),
    r"A100\b": (20, 156, 312),
}
"""Names of cards to TFLOP/s of products in fp32, tf32 and bf16, dense (half of what is given with sparsity), by NVIDIA's data
sheets: H100 and H200 SXM, A100 in every form. PCIe and NVL cards of Hopper have lower clocks, and are not listed."""


def precision_remark(precision: str, device: str) -> str | None:
    """What to know of ``precision`` on ``device`` (``cpu`` or ``cuda[:n]``): that it is slow there; None if there is nothing.

    Raises UserError for bf16 on an accelerator without it, and for tf32 on any device without it.
    """
    if device.startswith("cuda"):
        if precision == "fp32":
            return fp32_remark([gpu.name for gpu in visible_gpus() if gpu.name])
        _require_ampere(precision, device)
        return None
    if precision == "tf32":
        raise UserError(
            f"--precision tf32: TF32 is a format of NVIDIA's GPUs, and the runs are on {device};"
            " use --device cuda, or --precision fp32."
        )
    if precision != "bf16":
        return None
    known = cpu_instructions()
    if not known or known & FAST_BF16:
        return None
    return (
        "--precision bf16: this processor has no bfloat16 products (no avx512_bf16, no amx_bf16), so torch emulates them:"
        " the numbers are bf16's, but steps may take longer than with --precision fp32"
    )


def data_sheet(name: str) -> tuple[int, int, int] | None:
    """The figures of ``PEAKS`` for a GPU, by its name as the driver gives it; None for other cards."""
    return next((peaks for card, peaks in PEAKS.items() if re.search(rf"\b{card}", name)), None)


def fp32_remark(names: Sequence[str]) -> str | None:
    """What fp32 costs on GPUs of these names; None without names."""
    if not names:
        return None
    name, peaks = next(((each, found) for each in names if (found := data_sheet(each))), (names[0], None))
    rates = "" if peaks is None else " (NVIDIA's data sheet, dense: fp32 {}, tf32 {}, bf16 {} TFLOP/s)".format(*peaks)
    return (
        f"--precision fp32: products in full float32 leave the matrix units of {name} idle{rates}; --precision bf16 or tf32"
        " uses them, for results that differ by rounding and have run ids of their own"
    )


@contextlib.contextmanager
def products_in(precision: str, kind: str) -> Iterator[None]:
    """The arithmetic of a run of ``precision`` on a device of ``kind``: bf16 by autocast, tf32 by torch's switches for CUDA."""
    import torch

    if precision == "bf16":
        # Without the cache of cast weights: within one autocast region it would outlive the optimiser's steps.
        with torch.autocast(kind, dtype=torch.bfloat16, cache_enabled=False):
            yield
        return
    switches: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    try:
        if precision == "tf32":
            for switch in switches:
                switch.allow_tf32 = True
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


def cpu_instructions() -> frozenset[str]:
    """Names of the processor's instruction sets; empty where the system does not list them."""
    try:
        lines = CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    fields = (line.partition(":") for line in lines)
    return frozenset(next((value.split() for name, _, value in fields if name.strip() in ("flags", "Features")), ()))


def _require_ampere(precision: str, device: str) -> None:
    if not (known := visible_gpus()) or not all(gpu.capability for gpu in known):
        return _require_by_torch(precision, device)
    for gpu in known:  # asked of the driver's tool, since a launcher opens no CUDA context
        if float(gpu.capability) < 8:
            _refuse(precision, gpu.name, gpu.capability)
    return None


def _require_by_torch(precision: str, device: str) -> None:
    import torch

    with torch.cuda.device(device):
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return
    major, minor = torch.cuda.get_device_capability(device)
    _refuse(precision, torch.cuda.get_device_name(device), f"{major}.{minor}")


def _refuse(precision: str, name: str, capability: str) -> NoReturn:
    raise UserError(
        f"--precision {precision}: {name} has compute capability {capability}, and {FORMATS[precision]} begins with 8.0; use"
        " --precision fp32."
    )


MOST_THREADS = 4
"""Most threads of a run on a large backbone, unless ``--threads`` is given."""
MOST_WEIGHTS_FOR_ONE_THREAD = 4_000_000
"""Backbones with no more weights do not gain from a second thread; those shipped with the project have 1.2 million."""


def default_threads(weights: int) -> int:
    """Threads of a run whose backbone has so many weights.

    They do not depend on the number of workers, because they change the last bits of sums on the CPU.
    """
    return 1 if weights <= MOST_WEIGHTS_FOR_ONE_THREAD else min(usable_cores(), MOST_THREADS)


def default_workers(device: str, jobs: int, threads: int = 1, gpus: int = 1) -> int:
    """Workers for ``jobs``: on the CPU as many as there are cores for ``threads`` each, on accelerators one for each."""
    return max(1, min(usable_cores() // threads if device == "cpu" else gpus, jobs))


def usable_cores() -> int:
    """Cores that this process may use, by its affinity and by the CPU quota of its control groups (containers)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, math.floor(quota)))


ACCELERATORS = {"cuda": "CUDA", "xpu": "XPU (Intel)", "mps": "MPS (Apple)"}
"""Kinds of accelerators by torch's name, in the order in which ``auto`` prefers them."""


def resolve_device(device: str) -> str:
    """``cpu`` or the kind of an accelerator; ``auto`` takes CUDA where available, else the CPU.

    The question opens no CUDA context. Raises UserError for an accelerator that is not there.
    """
    if device == "cpu":
        return device
    os.environ.setdefault(
        "PYTORCH_NVML_BASED_CUDA_CHECK", "1"
    )  # asks the driver's library instead of initialising CUDA
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind = device.partition(":")[0]
    module = torch.backends.mps if kind == "mps" else getattr(torch, kind, None)
    if module is None or not module.is_available():
        raise UserError(
            f"--device {device}: torch sees no {ACCELERATORS[kind]} device here; use --device cpu or --device auto."
        )
    return device


def unsupported_remark(device: str, precision: str, deterministic: bool) -> str | None:
    """What is not supported on an XPU or MPS device, as a note; None for other devices.

    Raises UserError where it was asked for.
    """
    if device not in ("xpu", "mps"):
        return None
    if precision != "fp32":
        raise UserError(f"--precision {precision} is not supported on {device}: use --precision fp32.")
    if deterministic:
        raise UserError(
            f"--deterministic is not supported on {device}: torch can refuse operations on CPU and CUDA only."
        )
    return (
        f"--device {device} was not tested: bf16 and --deterministic are not supported there, and the peak memory in records is"
        " that of the process, not of the device"
    )


def pin_arithmetic(threads: int, *, deterministic: bool = False) -> None:
    """Set the number of threads of torch and of NumPy's BLAS, and float32 without TF32.

    On recent GPUs torch rounds convolutions to TF32 (10 bits of mantissa), and matrix products too where an environment variable
    says so, as in common containers. No record would show it, and images would not be resized as Pillow does.
    ``deterministic`` also refuses operations whose bits differ from call to call, as some on a GPU; on the CPU it changes no bit.
    """
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(threads)
    threadpool_limits(limits=threads)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    if deterministic or torch.are_deterministic_algorithms_enabled():  # the call imports torch's compiler
        torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.deterministic = deterministic
    if deterministic:
        torch.backends.cudnn.benchmark = False
