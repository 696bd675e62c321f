"""The backbone's blocks compiled by torch, to see whether that pays on a device. Only the bench does this; no run does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from timm.models.vision_transformer import Block

from harness.errors import UserError
from methods.common import vit

PARTS = ("_heads", "_leave_heads", "_residuals", "_class_token_block")
"""What of a block's code no attention rule changes. Rules stay as they are: they carry tensors of their own pass."""


class CompiledBlocks:
    """timm's blocks, and the method-independent parts of prompted ones, compiled once and put in place as often as asked."""

    def __init__(self, backend: str = "inductor") -> None:
        places: list[tuple[Any, str]] = [(Block, "forward"), *((vit, name) for name in PARTS if hasattr(vit, name))]
        self._places = [(owner, name, torch.compile(getattr(owner, name), backend=backend)) for owner, name in places]

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it every transformer of this process runs compiled blocks."""
        plain = [(owner, name, getattr(owner, name)) for owner, name, _ in self._places]
        try:
            for owner, name, compiled in self._places:
                setattr(owner, name, compiled)
            yield
        finally:
            for owner, name, original in plain:
                setattr(owner, name, original)


def require_compiler() -> None:
    """Compile something small. Raises UserError where torch.compile cannot work here, as without a C++ compiler."""
    try:
        torch.compile(lambda value: torch.nn.functional.gelu(value) + 1)(torch.zeros(2, 2))
    except Exception as error:  # the backends raise types of their own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"--compile: torch.compile does not work here ({reason}); measure without it") from error
