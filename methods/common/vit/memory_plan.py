"""How a pass through the backbone spends memory: whole, without hidden layers, block by block, or a few images at a time.

Plans change results by rounding only, recomputation not at all, if attention rules keep their contract; the conformance
kit checks it. Recomputation is torch's non-reentrant checkpointing, in which values that rules record keep their gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch.utils.checkpoint import checkpoint

from smope_bench.methods.common.errors import MethodError

FIRST_SHARE = 8
"""The first divisor of a batch: recomputed blocks already need about as little as an eighth of the images at once."""

SHORTAGES = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "std::bad_alloc",
    "_STATUS_ALLOC_FAILED",
    "could not create a primitive",
    "could not create a memory object",
)
"""Messages of torch's allocators, CUDA's libraries and oneDNN, in lower or upper case. oneDNN gives no reason: it is taken for a
shortage because the same step works with less memory."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class MemoryPlan:
    """What a backbone keeps for the backward pass.

    ``checkpoint_blocks``: only each block's input; the block is recomputed. ``micro_batch``: images that go through the backbone
    at a time and are recomputed as a whole; losses still see the features of the whole batch. ``checkpoint_mlps``: of each MLP
    and the norm before it, only their input; what is in between is recomputed. It adds nothing to recomputed blocks.
    """

    checkpoint_blocks: bool = False
    micro_batch: int | None = None
    checkpoint_mlps: bool = False

    def __post_init__(self) -> None:
        if self.micro_batch is not None and self.micro_batch < 1:
            raise MethodError(f"micro_batch={self.micro_batch}: at least one image goes through the backbone at a time")

    @property
    def words(self) -> str:
        """Description for messages, such as ``16 images at a time``."""
        images = "" if self.micro_batch is None else f"{self.micro_batch} image{'s' * (self.micro_batch > 1)} at a time"
        hidden = "hidden layers recomputed" if self.checkpoint_mlps else ""
        blocks = "blocks recomputed" if self.checkpoint_blocks else hidden
        return ", ".join(filter(None, (images, blocks))) or "all at once"

    def tighter(self, batch: int) -> MemoryPlan | None:
        """The next plan to try for batches of ``batch`` images; None if there is none."""
        if self.micro_batch is not None:
            halved = min(self.micro_batch, batch) // 2
            return replace(self, micro_batch=halved) if halved else None
        if not self.checkpoint_blocks:
            return MemoryPlan(checkpoint_blocks=True) if self.checkpoint_mlps else MemoryPlan(checkpoint_mlps=True)
        return MemoryPlan(micro_batch=max(1, batch // FIRST_SHARE)) if batch > 1 else None

    def slices(self, batch: int) -> list[slice]:
        """The images of each pass; a single slice where all of them go at once."""
        size = self.micro_batch or max(1, batch)
        return [slice(first, min(first + size, batch)) for first in range(0, max(1, batch), size)]


def recomputed(run: Callable[..., Result], *inputs: Any, may_draw: bool = True) -> Result:
    """``run(*inputs)``, recomputed in the backward pass to save memory; called plainly without a graph.

    ``may_draw``: whether it may draw random numbers, which must then be repeated.
    """
    if not torch.is_grad_enabled():
        return run(*inputs)
    return checkpoint(run, *inputs, use_reentrant=False, preserve_rng_state=may_draw)  # type: ignore[return-value]


def is_memory_shortage(error: BaseException) -> bool:
    """Whether an error means that memory ran out: of an accelerator, torch's CPU allocator, or Python."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words.lower() in text for words in SHORTAGES)
