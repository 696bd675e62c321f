"""Evaluation: test images shown to a method as they look at test time, and the accuracies that come of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from smope_bench.benchmarks.stream import Stream, Task, View
from smope_bench.harness.training.data import test_batches
from smope_bench.methods.common.api import Batch, Method

EVAL_BATCH = 256


class Evaluator:
    """Shows a method views of its stream without labels; frozen queries are looked up once a view and kept."""

    def __init__(self, method: Method, stream: Stream, device: torch.device, queries: Callable[[View], Tensor]) -> None:
        """``queries``: the frozen queries (n, d) of a view, asked for once a view."""
        self.method = method
        self.stream = stream
        self.device = device
        self._queries = queries
        self._features: dict[View, Tensor] = {}

    @torch.no_grad()
    def measure(self, task: Task) -> tuple[list[float | None], list[int]]:
        """After ``task``: its matrix row in percent, of every test view whose classes have all arrived, and the predictions."""
        row: list[float | None] = [None] * self.stream.num_tasks
        predictions: list[int] = []
        for column, view in enumerate(self.stream.tests_after(task)):
            predicted = torch.cat([logits.argmax(dim=1) for logits in self.logits(view)]).cpu().numpy()
            row[column] = 100.0 * float((predicted == view.labels).mean())
            predictions.extend(predicted.tolist())
        return row, predictions

    def logits(self, view: View) -> Iterator[Tensor]:
        """Logits (b, seen classes) of the view's images in order; the caller decides about gradients."""
        for batch in self.batches(view):
            yield self._checked(self.method.predict(batch))

    def batches(self, view: View) -> Iterator[Batch]:
        """The view's images in order, under the test transform, with frozen queries where the method declares them."""
        transforms = self.stream.transforms
        if self.method.needs_query and view not in self._features:
            self._features[view] = self._queries(view)
        features = self._features.get(view)
        return test_batches(view, transforms, batch_size=EVAL_BATCH, device=self.device, features=features)

    def _checked(self, logits: Tensor) -> Tensor:
        """A method that answers for classes still to come is stopped here."""
        seen = self.method.seen_classes
        if logits.ndim != 2 or logits.shape[1] != seen:
            shape = tuple(logits.shape)
            raise RuntimeError(f"predict of {self.method.name!r} returned logits {shape} for {seen} seen classes")
        return logits
