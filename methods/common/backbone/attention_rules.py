"""Attention rules: what a method may put in the place of a block's attention, for a whole batch or for some of its images."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any, Generic, TypeAlias, TypeVar

import torch
from torch import Tensor

from smope_bench.methods.common.backbone.memory_plan import is_memory_shortage
from smope_bench.methods.common.errors import MethodError

AttentionRule: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Maps the q, k, v of one block, each (B, heads, N, head_dim), to head outputs of the same shape, image by image.

The logits' scale is 1/sqrt(head_dim). A rule is made anew for each forward pass, so it may carry tensors of that pass. One
with tensors of single images has a method ``part(rows: slice)``, which gives the rule for these images alone. Where memory
is short a rule is called for a few images at a time, and again in the backward pass: what it notes goes to a ``Trace``, never to
a list, and it draws no random numbers: they are drawn before the pass, for the whole batch, and carried.
"""

Recorded = TypeVar("Recorded")


class TokenRule:
    """An attention rule that is also shown what its block attends with, before it is called."""

    def read(self, tokens: Tensor) -> None:
        """The block's input after its first norm: (B, N, d)."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As any attention rule."""
        raise NotImplementedError


class Trace(Generic[Recorded]):
    """What the rules of one pass note, each a dataclass of tensors (B, ...): an item a place, in the order of places.

    Notes on parts of a batch are joined. The first note of a place and part stays: a later one is of a pass that is
    recomputed. To be kept by whoever reads it; recorders and rules do not keep it alive.
    """

    def __init__(self) -> None:
        self._notes: dict[int, dict[int, Recorded]] = {}

    def __len__(self) -> int:
        return len(self._notes)

    def __iter__(self) -> Iterator[Recorded]:
        for place in sorted(self._notes):
            parts = self._notes[place]
            yield _joined([parts[first] for first in sorted(parts)])

    def note(self, place: int, first: int, recorded: Recorded) -> None:
        """Keep what was recorded at a place, of images from number ``first`` on."""
        self._notes.setdefault(place, {}).setdefault(first, recorded)

    def recorder(self, place: int) -> Recorder[Recorded]:
        """What a rule is given to note with."""
        return Recorder(weakref.ref(self), place)


class Recorder(Generic[Recorded]):
    """Notes for one place of a trace.

    The trace is held weakly: its tensors' graph can hold the rule, for recomputation, and such a circle would never be freed.
    """

    def __init__(self, trace: weakref.ReferenceType[Trace[Recorded]], place: int, first: int = 0) -> None:
        self._trace = trace
        self._place = place
        self._first = first

    def __call__(self, recorded: Recorded) -> None:
        """Note it, unless nobody reads the trace any more."""
        if (trace := self._trace()) is not None:
            trace.note(self._place, self._first, recorded)

    def part(self, rows: slice) -> Recorder[Recorded]:
        """For some of the images."""
        return Recorder(self._trace, self._place, rows.start)


def of_images(tensor: Tensor, rows: slice, shared: int) -> Tensor:
    """The share of some images in what may have a dimension of images before ``shared`` others; all images' where not."""
    return tensor[rows] if tensor.dim() > shared and len(tensor) > 1 else tensor


def part_of(rule: AttentionRule, rows: slice) -> AttentionRule:
    """The rule for the images ``rows``. One without ``part`` serves as it is, and is refused where that turns out impossible."""
    part = getattr(rule, "part", None)
    return _Undivided(rule) if part is None else part(rows)


class _Undivided(TokenRule):
    """A rule that does not say how it is divided, watched while it is given parts of a batch."""

    def __init__(self, rule: AttentionRule) -> None:
        self._rule = rule

    def read(self, tokens: Tensor) -> None:
        if isinstance(self._rule, TokenRule):
            with self._watched():
                self._rule.read(tokens)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with self._watched():
            heads = self._rule(q, k, v)
        if heads.shape != q.shape:
            raise self._refusal(f"it gives {tuple(heads.shape)} for {tuple(q.shape)}")
        return heads

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, IndexError, ValueError) as error:
            if is_memory_shortage(error):
                raise
            raise self._refusal(f"{type(error).__name__}: {' '.join(str(error).split())}") from error

    def _refusal(self, reason: str) -> MethodError:
        name = getattr(self._rule, "__qualname__", type(self._rule).__qualname__)
        return MethodError(
            f"attention rule {name} cannot be split by images ({reason}), which the micro-batches of a run short of memory need:"
            " give it a method part(rows), or lower schedule.batch_size"
        )


def _joined(parts: list[Any]) -> Any:
    first = parts[0]
    if len(parts) == 1:
        return first
    return type(first)(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(first)))
