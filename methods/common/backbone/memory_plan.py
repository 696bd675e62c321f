"""How a pass through the backbone spends memory: whole, block by block, or a few images at a time.

As long as attention rules keep to their contract, no plan changes a result but for rounding, and recomputed blocks not a bit;
the conformance kit tries it. Recomputation is torch's checkpointing in its non-reentrant form: the graph is the plain pass's
own, so what rules note on their way keeps its gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch.utils.checkpoint import checkpoint

from smope_bench.methods.common.errors import MethodError

FIRST_SHARE = 8
"""A batch is first divided by this: recomputed blocks already take about as little as an eighth of the images at once."""

SHORTAGES = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "std::bad_alloc",
    "_STATUS_ALLOC_FAILED",
    "could not create a primitive",
    "could not create a memory object",
)
"""What torch's allocators, CUDA's libraries and oneDNN say, in any case of letters. oneDNN gives no reason: it is this one where
the same step worked with less."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class MemoryPlan:
    """What a backbone keeps for the backward pass. Results agree to rounding under any plan, to the bit in recomputed blocks.

    ``checkpoint_blocks``: each block's input alone, the block is computed again. ``micro_batch``: so many images go through
    the whole backbone at a time and are recomputed as a whole; losses still see the features of the whole batch.
    """

    checkpoint_blocks: bool = False
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        if self.micro_batch is not None and self.micro_batch < 1:
            raise MethodError(f"micro_batch={self.micro_batch}: at least one image goes through the backbone at a time")

    @property
    def words(self) -> str:
        """The plan as it is shown, such as ``16 images at a time``."""
        images = "" if self.micro_batch is None else f"{self.micro_batch} image{'s' * (self.micro_batch > 1)} at a time"
        blocks = "blocks recomputed" if self.checkpoint_blocks else ""
        return ", ".join(filter(None, (images, blocks))) or "all at once"

    def tighter(self, batch: int) -> MemoryPlan | None:
        """The next plan to try with batches of so many images, None where nothing is left."""
        if self.micro_batch is not None:
            halved = min(self.micro_batch, batch) // 2
            return replace(self, micro_batch=halved) if halved else None
        if not self.checkpoint_blocks:
            return MemoryPlan(checkpoint_blocks=True)
        return MemoryPlan(micro_batch=max(1, batch // FIRST_SHARE)) if batch > 1 else None

    def slices(self, batch: int) -> list[slice]:
        """The images of each pass; a single slice where all of them go at once."""
        size = self.micro_batch or max(1, batch)
        return [slice(first, min(first + size, batch)) for first in range(0, max(1, batch), size)]


def recomputed(run: Callable[..., Result], *inputs: Any, may_draw: bool = True) -> Result:
    """``run(*inputs)``, computed again in the backward pass in place of keeping what it needs; plain where there is no graph.

    ``may_draw``: whether it may draw random numbers, which must then be the same the second time.
    """
    if not torch.is_grad_enabled():
        return run(*inputs)
    return checkpoint(run, *inputs, use_reentrant=False, preserve_rng_state=may_draw)  # type: ignore[return-value]


def is_memory_shortage(error: BaseException) -> bool:
    """Whether an error says that memory ran out: of an accelerator, of torch's allocator on the CPU, or of Python."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words.lower() in text for words in SHORTAGES)
