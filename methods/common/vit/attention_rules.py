"""Attention rules: functions that replace a block's attention, for a whole batch or for some of its images."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any, Generic, TypeAlias, TypeVar

import torch
from torch import Tensor

from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.vit.memory_plan import is_memory_shortage

AttentionRule: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Maps the q, k, v of one block, each (B, heads, N, head_dim), to head outputs of the same shape, image by image.

The logits' scale is 1/sqrt(head_dim). A rule is made anew for each forward pass, so it may carry tensors of that pass. One
with tensors of single images has a method ``part(rows: slice)``, which gives the rule for these images alone. Where memory
is short, a rule is called for a few images at a time, and again in the backward pass: it records values in a ``Trace``, not in
a list, and draws no random numbers (draw them before the pass, for the whole batch).
"""

Recorded = TypeVar("Recorded")


class TokenRule:
    """An attention rule that also reads the block's input, before it is called."""

    def read(self, tokens: Tensor) -> None:
        """The block's input after its first norm: (B, N, d)."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See ``AttentionRule``."""
        raise NotImplementedError


class Trace(Generic[Recorded]):
    """Records of the rules of one pass, each a dataclass of tensors (B, ...): one item a place, in the order of places.

    Records of parts of a batch are joined. The first record of a place and part is kept: later ones come from recomputation.
    The reader must hold a reference: recorders and rules do not keep it alive.
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
        """Keep a record of a place, of the images from number ``first`` on."""
        self._notes.setdefault(place, {}).setdefault(first, recorded)

    def recorder(self, place: int) -> Recorder[Recorded]:
        """A recorder for one place, to be handed to a rule."""
        return Recorder(weakref.ref(self), place)


class Recorder(Generic[Recorded]):
    """Records values at one place of a trace.

    The trace is a weak reference: its tensors' graph may hold the rule, for recomputation, and such a cycle is never freed.
    """

    def __init__(self, trace: weakref.ReferenceType[Trace[Recorded]], place: int, first: int = 0) -> None:
        self._trace = trace
        self._place = place
        self._first = first

    def __call__(self, recorded: Recorded) -> None:
        """Record, unless the trace was freed."""
        if (trace := self._trace()) is not None:
            trace.note(self._place, self._first, recorded)

    def part(self, rows: slice) -> Recorder[Recorded]:
        return Recorder(self._trace, self._place, rows.start)


def of_images(tensor: Tensor, rows: slice, shared: int) -> Tensor:
    """The rows of some images, if the tensor has a batch dimension before ``shared`` others; else the tensor itself."""
    return tensor[rows] if tensor.dim() > shared and len(tensor) > 1 else tensor


def part_of(rule: AttentionRule, rows: slice) -> AttentionRule:
    """The rule for the images ``rows``. One without ``part`` is used as it is; an error is raised where that proves impossible."""
    part = getattr(rule, "part", None)
    return _Undivided(rule) if part is None else part(rows)


def part_of_reader(read: Callable[[Tensor], None], rows: slice) -> Callable[[Tensor], None]:
    """A reader of tokens for the images ``rows``: by its ``part``, or itself, which then reads them a few at a time."""
    part = getattr(read, "part", None)
    return read if part is None else part(rows)


class _Undivided(TokenRule):
    """A rule without ``part``, checked while it is called with parts of a batch."""

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
