"""States of all random generators that a method may use, as tensors and JSON values."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

TORCH, CUDA, OTHER = "random.torch", "random.cuda", "random.accelerator"
NUMPY, PYTHON = "random.numpy", "random.python"


def seed_everything(seed: int) -> None:
    """Seed torch, NumPy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def random_state(device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """States of torch on the CPU and on the run's accelerator, of NumPy and of Python: (tensors, JSON values)."""
    _, keys, position, has_gauss, gauss = np.random.get_state()  # pyright: ignore[reportAssignmentType]
    version, words, spare = random.getstate()
    tensors = {
        TORCH: torch.get_rng_state(),
        NUMPY: torch.from_numpy(np.asarray(keys).astype(np.int64)),
        PYTHON: torch.tensor(words, dtype=torch.int64),
    }
    if device.type == "cuda":
        tensors[CUDA] = torch.cuda.get_rng_state(device)
    elif device.type != "cpu":
        tensors[OTHER] = torch.get_device_module(device).get_rng_state()
    numbers = [int(position), int(has_gauss), float(gauss)]  # pyright: ignore[reportArgumentType]
    return tensors, {NUMPY: numbers, PYTHON: [version, spare]}


def restore_random_state(tensors: Mapping[str, Tensor], values: Mapping[str, Any], device: torch.device) -> None:
    """Restore the result of ``random_state``. Raises KeyError, ValueError or RuntimeError for that of another device."""
    position, has_gauss, gauss = values[NUMPY]
    version, spare = values[PYTHON]
    torch.set_rng_state(tensors[TORCH])
    keys = tensors[NUMPY].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, position, has_gauss, gauss))
    random.setstate((version, tuple(tensors[PYTHON].tolist()), spare))
    if device.type == "cuda":
        torch.cuda.set_rng_state(tensors[CUDA], device)
    elif device.type != "cpu":
        torch.get_device_module(device).set_rng_state(tensors[OTHER])
