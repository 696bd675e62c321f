"""The backbone's blocks compiled by torch, to see whether that pays on a device. Only the bench does this; no run does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from timm.models.vision_transformer import Block

from smope_bench.harness.errors import UserError
from smope_bench.methods.common.backbone import vit

PARTS = ("_heads", "_leave_heads", "_residuals", "_class_token_block")
"""What of a block's code no attention rule changes. Rules stay as they are: they carry tensors of their own pass."""


class CompiledBlocks:
    """timm's blocks, and the method-independent parts of prompted ones, compiled once and put in place as often as asked.

    Each is compiled whole: what would fall back to running part of it as it is, is an error, not a slow measurement.
    """

    def __init__(self, backend: str = "inductor") -> None:
        places: list[tuple[Any, str]] = [(Block, "forward"), *((vit, name) for name in PARTS if hasattr(vit, name))]
        self._places = [
            (owner, name, torch.compile(getattr(owner, name), backend=backend, fullgraph=True))
            for owner, name in places
        ]

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

    def call(self, step: Callable[[], None]) -> None:
        """Take a step on compiled blocks. Raises UserError where one of them cannot be compiled whole."""
        from torch._dynamo.exc import TorchDynamoException

        try:
            with self.in_place():
                step()
        except TorchDynamoException as error:
            raise UserError(f"--compile: a block cannot be compiled ({_reason(error)}); measure without it") from error


def require_compiler() -> None:
    """Compile something small. Raises UserError where torch.compile cannot work here, as without a C++ compiler."""
    try:
        torch.compile(lambda value: torch.nn.functional.gelu(value) + 1)(torch.zeros(2, 2))
    except Exception as error:  # the backends raise types of their own
        raise UserError(
            f"--compile: torch.compile does not work here ({_reason(error)}); measure without it"
        ) from error


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
