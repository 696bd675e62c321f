"""Whether a device has the number format that is asked for, said before anything trains."""

from __future__ import annotations

from pathlib import Path

from smope_bench.harness.errors import UserError

CPU_INFO = Path("/proc/cpuinfo")
FAST_BF16 = frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16"})
"""Instructions for bfloat16 products, x86 and ARM, by the names that Linux gives them."""


def precision_remark(precision: str, device: str) -> str | None:
    """A sentence where ``precision`` will be slow on ``device`` (``cpu`` or ``cuda[:n]``), None where there is nothing to say.

    Raises UserError for bf16 on an accelerator that does not have it.
    """
    if precision != "bf16":
        return None
    if device.startswith("cuda"):
        _require_bf16_on(device)
        return None
    known = cpu_instructions()
    if not known or known & FAST_BF16:
        return None
    return (
        "--precision bf16: this processor has no bfloat16 products (no avx512_bf16, no amx_bf16), so torch emulates them:"
        " the numbers are bf16's, but steps may take longer than with --precision fp32"
    )


def cpu_instructions() -> frozenset[str]:
    """Names of the processor's instruction sets; empty where the system does not tell."""
    try:
        lines = CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    fields = (line.partition(":") for line in lines)
    return frozenset(next((value.split() for name, _, value in fields if name.strip() in ("flags", "Features")), ()))


def _require_bf16_on(device: str) -> None:
    import torch

    with torch.cuda.device(device):
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return
    major, minor = torch.cuda.get_device_capability(device)
    raise UserError(
        f"--precision bf16: {torch.cuda.get_device_name(device)} has compute capability {major}.{minor}, and bfloat16 begins"
        " with 8.0; use --precision fp32."
    )
