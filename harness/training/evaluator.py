"""Evaluation of a method on test images, and the accuracies that follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from smope_bench.benchmarks.stream import Stream, Task, View
from smope_bench.harness.training.batches.data import test_batches
from smope_bench.harness.training.batches.feeder import Feeder
from smope_bench.methods.common.api import Batch, Method
from smope_bench.methods.common.progress import report_progress

EVAL_BATCH = 256


class Evaluator:
    """Shows a method views of its stream without labels; the frozen features of a view are computed once."""

    def __init__(
        self,
        method: Method,
        stream: Stream,
        device: torch.device,
        features: Callable[[View], Tensor],
        feeder: Feeder | None = None,
    ) -> None:
        """``features``: computes the frozen features (n, d) of a view; ``feeder``: None = one of its own."""
        self.method = method
        self.stream = stream
        self.device = device
        self._compute_features = features
        self._feeder = feeder or Feeder(device)
        self._features: dict[View, Tensor] = {}

    @torch.no_grad()
    def measure(self, task: Task) -> tuple[list[float | None], list[int]]:
        """Matrix row in percent and predictions after ``task``, on every test view whose classes have all been trained.

        Predictions are in the order of the test views, up to the last that was measured; -1 for images of views before it
        that were not.
        """
        row: list[float | None] = [None] * self.stream.num_tasks
        answers: dict[View, list[int]] = {}
        measured = self.stream.tests_after(task)
        total = sum(map(len, set(measured.values())))
        for column, view in measured.items():
            if view not in answers:
                parts = []
                done = sum(map(len, answers.values()))
                for logits in self.logits(view):
                    parts.append(logits.argmax(dim=1))
                    done += len(logits)
                    report_progress("evaluation", done, total)
                answers[view] = torch.cat(parts).cpu().numpy().tolist()
            row[column] = 100.0 * float((np.array(answers[view]) == view.labels).mean())
        views = self.stream.tests[: max(measured, default=-1) + 1]
        return row, [answer for view in views for answer in answers.get(view, [-1] * len(view))]

    def logits(self, view: View) -> Iterator[Tensor]:
        """Logits (b, seen classes) of the view's images in order, with gradients unless the caller disables them."""
        for batch in self.batches(view):
            yield self._checked(self.method.predict(batch))

    def batches(self, view: View) -> Iterator[Batch]:
        """The view's images in order, under the test transform, with frozen features where the method needs them."""
        transforms = self.stream.transforms
        if self.method.needs_query and view not in self._features:
            self._features[view] = self._compute_features(view)
        features = self._features.get(view)
        return test_batches(
            view, transforms, batch_size=EVAL_BATCH, device=self.device, features=features, feeder=self._feeder
        )

    def _checked(self, logits: Tensor) -> Tensor:
        """Raise RuntimeError where the method predicts classes that it has not been trained on."""
        seen = self.method.seen_classes
        if logits.ndim != 2 or logits.shape[1] != seen:
            shape = tuple(logits.shape)
            raise RuntimeError(f"predict of {self.method.name!r} returned logits {shape} for {seen} seen classes")
        return logits
