"""Executed operations per image: a method's real steps and predictions on a random backbone, under two counters."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from smope_bench.harness.cost.counting.flop_counters import HANDLES, Dispatched, Traced, dispatched_flops, traced_flops
from smope_bench.harness.cost.counting.unknown_operators import beneath, in_products
from smope_bench.methods.common.api import Batch, Method
from smope_bench.methods.common.vit.merging import Derived
from smope_bench.methods.common.vit.vit import PromptedViT

IMAGES = 2
"""Images of a counted batch; operations done once per batch or epoch are shared between them."""


@dataclass(frozen=True)
class Executed:
    """Operations per image: ``forward`` by fvcore, ``backward`` by torch's counter.

    ``forward_by_torch``: torch's count of the same forward, which replaces fvcore's where the method cannot be ``traced``, or
    where it is larger and the trace has products that fvcore does not know. ``query``: whether the forwards include the frozen
    pass of the query. ``uncounted``: occurrences in the trace of operators that are not counted. ``unknown``: of these, the ones
    that may multiply matrices. ``missing``: operators of that kind that neither counter knows, as torch runs them.
    ``passes``: passes of the whole backbone in a forward, the query's not among them.
    """

    forward: int
    forward_by_torch: int
    backward: int
    query: bool
    traced: bool
    uncounted: dict[str, int]
    unknown: dict[str, int] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    passes: int = 1

    @property
    def total(self) -> int:
        """Forward and backward."""
        return self.forward + self.backward


class Counters:
    """Counts passes of a backbone and of methods on it. ``backbone`` must hold real tensors, as tracing needs them."""

    def __init__(self, backbone: PromptedViT) -> None:
        self.backbone = backbone
        self.images = torch.rand(IMAGES, 3, backbone.image_size, backbone.image_size)
        self.own_pass = self._bare(backbone)
        """With the last block for the class token alone, as queries and methods run it."""

    def complete_pass(self) -> Executed:
        """timm's forward, with every block for every token."""
        return self._bare(self.backbone.vit)

    def prediction(self, method: Method) -> Executed:
        """``predict`` after the last task."""

        def run(images: Tensor, query: _Query) -> Tensor:
            with torch.no_grad():
                return method.predict(Batch(images, None, query if method.needs_query else None))

        method.eval()
        return self._count(method, run, trains=False)

    def step(self, method: Method) -> Executed:
        """An epoch of one batch in the method's current phase: ``epoch_batches``, ``training_step`` and gradient.

        The optimiser's own work is not counted.
        """
        labels = method.old_classes + torch.arange(IMAGES) % len(method.new_classes)

        def run(images: Tensor, query: _Query) -> Tensor:
            data = _OneBatch(Batch(images, labels, query if method.needs_query else None))
            return method.training_step(next(iter(method.epoch_batches(data))))

        return self._count(method, run, trains=True)

    def _bare(self, vit: nn.Module) -> Executed:
        """A pass without prompts, with the gradient down to the images."""
        images = self.images.clone().requires_grad_()
        counted = dispatched_flops(lambda: vit(images).sum(), backward=True)
        return _an_image(traced_flops(vit, self.images), counted)

    def _count(self, method: Method, run: Callable[[Tensor, _Query], Tensor], *, trains: bool) -> Executed:
        query, traced = _Query(IMAGES, self.backbone.feature_dim), None
        if any(isinstance(value, Derived) for value in vars(method).values()):
            with torch.no_grad():  # what is derived from tensors is made once a task, and is no work of an image
                run(self.images, query)
        with contextlib.suppress(RuntimeError):  # tracing meets operators or arguments that it does not support
            traced = traced_flops(_Calling(lambda images: run(images, query), method, self.backbone), self.images)
        with counted_passes(self.backbone) as passes:
            counted = dispatched_flops(lambda: run(self.images, query), backward=trains)
        found = _an_image(traced, counted, self.own_pass if query.is_used else None)
        return replace(found, passes=len(passes))


@contextlib.contextmanager
def counted_passes(backbone: PromptedViT) -> Iterator[list[int]]:
    """A list to which every pass through all blocks of a backbone adds its number of images."""
    passes: list[int] = []

    def note(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        passes.append(len(given[0]))

    hook = backbone.blocks[-1].norm1.register_forward_pre_hook(note)
    try:
        yield passes
    finally:
        hook.remove()


def _an_image(traced: Traced | None, counted: Dispatched, query: Executed | None = None) -> Executed:
    """Counts per image, from those of a batch, with the query's pass if there is one."""
    unknown = {} if traced is None else in_products(traced.uncounted)
    missing = in_products(counted.uncounted)
    if traced is None:
        forward = counted.forward
    elif unknown:
        forward = max(traced.flops, counted.forward)
        missing = {name: missing[name] for name in beneath(missing, HANDLES)}
    else:
        forward, missing = traced.flops, {}
    return Executed(
        forward=forward // IMAGES + (query.forward if query else 0),
        forward_by_torch=counted.forward // IMAGES + (query.forward_by_torch if query else 0),
        backward=counted.backward // IMAGES,
        query=query is not None,
        traced=traced is not None,
        uncounted={} if traced is None else dict(sorted(traced.uncounted.items())),
        unknown=unknown,
        missing=missing,
    )


class _Query:
    """Random features in place of the query's; its pass is equal for all methods and counted separately."""

    def __init__(self, images: int, dim: int) -> None:
        self.features, self.is_used = torch.rand(images, dim), False

    def __call__(self) -> Tensor:
        self.is_used = True
        return self.features


class _OneBatch:
    """Task data of a single batch."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return len(self.batch.images)

    def batches(self, *, shuffle: bool = False, drop_last: bool = False, augment: bool = True) -> Iterator[Batch]:
        """The batch; all arguments are ignored."""
        del shuffle, drop_last, augment
        yield self.batch


class _Calling(nn.Module):
    """A function of images as a module that owns the function's parameters, as a trace needs it."""

    def __init__(self, function: Callable[[Tensor], Tensor], *owners: nn.Module) -> None:
        super().__init__()
        self.owners = nn.ModuleList(owners)
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        """Call the function."""
        return self.function(images)
