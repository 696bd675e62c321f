"""CUDA's autocast over tensors of the pretend device: torch's own kernels accept real CUDA tensors only.

The operators are read from the header that torch installs, so they are those of the installed version.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

HEADER = Path(torch.__file__).parent / "include" / "ATen" / "autocast_mode.h"
LOWER, FULL, FULL_BY_DTYPE, WIDEST = "LOWER_PRECISION_FP", "FP32", "FP32_SET_OPT_DTYPE", "PROMOTE"
KEY = "AutocastCUDA"
ROUNDED = (torch.float32, torch.float16, torch.bfloat16)
"""Formats that autocast changes; float64 stays."""

Kernel = Callable[..., Any]


@cache
def operators(policy: str) -> tuple[str, ...]:
    """Names of the operators under a policy of CUDA's autocast, such as ``linear`` or ``pow.Tensor_Scalar``."""
    text = HEADER.read_text(encoding="utf-8")
    body = re.search(rf"#define AT_FORALL_{policy}\(_\)((?:.*\\\n)+.*\n)", text)
    if body is None:
        raise RuntimeError(f"{HEADER} lists no operators of autocast under {policy}")
    found = re.findall(r"_\((\w+)(?:,\s*(\w+))?\)", body[1])
    return tuple(f"{name}.{overload}" if overload else name for name, overload in found)


@contextlib.contextmanager
def cuda_autocast(is_here: Callable[[object], bool]) -> Iterator[None]:
    """Install kernels of CUDA's autocast for the tensors of which ``is_here`` is true; removed at the end."""
    library = torch.library.Library("aten", "IMPL")
    try:
        for policy in (LOWER, FULL, FULL_BY_DTYPE, WIDEST):
            for name in operators(policy):
                operator = _operator(name)
                if operator is not None:
                    library.impl(name, _kernel(operator, policy, is_here), KEY)
        yield
    finally:
        library._destroy()


def _operator(name: str) -> Any:
    base, _, overload = name.partition(".")
    packet = getattr(torch.ops.aten, base, None)
    return getattr(packet, overload or "default", None) if packet is not None else None


def _kernel(operator: Any, policy: str, is_here: Callable[[object], bool]) -> Kernel:
    names = [argument.name for argument in operator._schema.arguments]
    below = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCUDA)

    def can_round(value: object) -> bool:
        return isinstance(value, Tensor) and is_here(value) and value.dtype in ROUNDED

    def cast(value: Any, dtype: torch.dtype) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(cast(each, dtype) for each in value)
        return value.to(dtype) if can_round(value) and value.dtype != dtype else value

    def kernel(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(below):
            if policy == FULL_BY_DTYPE:
                named = dict(zip(names, args, strict=False)) | kwargs
                if can_round(args[0]) and named.get("dtype") is None:
                    named["dtype"] = torch.float32
                return operator(**named)
            dtype = torch.float32
            if policy == LOWER:
                dtype = torch.get_autocast_dtype("cuda")
            elif policy == WIDEST and not any(can_round(each) and each.dtype == torch.float32 for each in args):
                return operator(*args, **kwargs)
            return operator(*(cast(each, dtype) for each in args), **{k: cast(v, dtype) for k, v in kwargs.items()})

    return kernel
