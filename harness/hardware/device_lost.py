"""A device that fails in the middle of a run: recognition of torch's error, and the message."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from smope_bench.harness.errors import UserError
from smope_bench.harness.text import plain

_SIGNS = re.compile(
    r"(?:CUDA|HIP|XPU|cuBLAS|cuDNN|NCCL)[^\n]*error|CUBLAS_STATUS_(?:EXECUTION_FAILED|NOT_INITIALIZED|INTERNAL_ERROR)"
    r"|CUDNN_STATUS_(?:EXECUTION_FAILED|INTERNAL_ERROR)|UR_RESULT_ERROR_DEVICE_LOST|GPU is lost|No CUDA GPUs are available"
)
_NOT_LOST = re.compile(r"out of memory|device-side assert|ALLOC_FAILED|not implemented|invalid argument", re.IGNORECASE)
"""Errors of the program, after which the device itself is well, or of memory, which have a remedy of their own."""


def is_device_lost(error: BaseException) -> bool:
    """Whether an error, or one in its chain of causes, is a failure of the accelerator or of its driver."""
    current: BaseException | None = error
    seen: list[BaseException] = []
    while current is not None and current not in seen:
        if isinstance(current, RuntimeError) and _SIGNS.search(str(current)) and not _NOT_LOST.search(str(current)):
            return True
        seen.append(current)
        current = current.__cause__
    return False


class DeviceLost(UserError):
    """The device of a run failed; the run keeps its last checkpoint."""

    def __init__(self, device: Mapping[str, Any], task: int, error: BaseException) -> None:
        """``device``: as ``describe_device`` gives it; ``task``: the one that was under way, from 0."""
        number = f" {device['index']}" if "index" in device else ""
        reason = plain(next(iter(str(error).splitlines()), type(error).__name__))
        super().__init__(
            f"{device['type']}{number} ({device.get('name', 'unknown')}) failed in task {task}: {reason}; the run is saved up to"
            " its last checkpoint, from which the same command goes on once the device works or with other --gpus"
        )
