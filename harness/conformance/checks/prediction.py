"""Checks of ``predict``: the answer to an image must not depend on the batch or the task, and must change nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from smope_bench.audit import TOLERANCE, gaps, other_answers, scale_of
from smope_bench.harness.conformance.runner import CheckResult, CheckRun, MethodUnderCheck, Verdict, different, state_of
from smope_bench.harness.training.batches.data import features_of, test_batches
from smope_bench.harness.training.kept_model import kept_tensors, restored
from smope_bench.harness.training.task_trainer import task_info
from smope_bench.methods.common.api import Batch, Method


def predicts_without_trace(subject: MethodUnderCheck) -> Verdict:
    """``predict`` changes no parameter or buffer."""
    method = subject.first.trainer.method
    before = state_of(method)
    logits_of(subject.first, [torch.arange(7)])
    changed = different(before, state_of(method))
    return not changed, f"changed by predict: {', '.join(changed)}" if changed else "no parameter or buffer changes"


def batch_independence(subject: MethodUnderCheck) -> list[CheckResult]:
    """An image has the same logits as in its task's own test view: alone, in any batch and in any order.

    In the last batches, images of all tasks alternate, so that the batch does not reveal the task.
    """
    sizes = [len(view) for view in subject.first.trainer.stream.tests]
    rows = torch.arange(sum(sizes))
    place = torch.cat([torch.arange(size) for size in sizes])
    shuffled = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    served = {
        "batch size 1": rows[::5].split(1),
        "batch size 7": rows.split(7),
        "batch size 128": rows.split(128),
        "shuffled order": shuffled.split(128),
        "the task it is served with": place.argsort(stable=True).split(2 * len(sizes)),
    }
    reference = logits_of(subject.first, rows.split(sizes))
    results: list[CheckResult] = []
    for name, logits in {name: logits_of(subject.first, parts) for name, parts in served.items()}.items():
        gap = largest_gap(reference[torch.cat(served[name])], logits)
        same = gap <= TOLERANCE  # then classes can differ only where the tolerance cannot tell two apart
        detail = f"largest relative difference {gap:.1e}"
        results.append(CheckResult(f"independent of {name}", same, detail, "" if same else PER_IMAGE))
    return results


PER_IMAGE = (
    "row i of predict may depend on image i alone: no mean, vote, sort or normalisation over dimension 0, no running statistics in"
    " train mode, and permute or transpose, not reshape, to exchange dimensions"
)


def task_id_hidden(subject: MethodUnderCheck) -> Verdict:
    """The run's own predictions, made task by task, equal those of a later call that starts with the last task's images.

    Only the caller and the order differ, so that a method which infers the task from either is found.
    """
    trainer = subject.first.trainer
    sizes = [len(view) for view in trainer.stream.tests]
    parts = torch.arange(sum(sizes)).split(sizes)[::-1]
    logits = logits_of(subject.first, parts)[torch.cat(parts).argsort()]
    inside = np.array(trainer.progress.predictions[-1])
    # Frozen features may come from batches of another size, so a tie may be broken either way.
    other = other_answers(numbers(logits), inside, TOLERANCE)
    if other.any():
        return False, f"{int(other.sum())} of {len(inside)} answers change when tasks are not asked in turn"
    return True, "same answers to the last task's images first, outside the run"


def predicts_when_kept(subject: MethodUnderCheck) -> Verdict:
    """A method made from what a finished run keeps, in a later process, gives the same logits."""
    trainer = subject.first.trainer
    method = trainer.method
    with torch.random.fork_rng(devices=[]):
        again = restored(
            lambda: type(method)(method.config, trainer.backbone, method.setup).to(trainer.device),
            kept_tensors(method),
            [task_info(task) for task in trainer.stream.tasks],
        )
    rows = torch.arange(sum(len(view) for view in trainer.stream.tests)).split(128)
    gap = largest_gap(logits_of(subject.first, rows), logits_of(subject.first, rows, again))
    return gap <= TOLERANCE, f"largest relative difference {gap:.1e} of a method made from its kept tensors"


def largest_gap(reference: Tensor, logits: Tensor) -> float:
    """The largest difference of two tensors (N, classes), relative to the largest magnitude in the first, at least 1."""
    expected = numbers(reference)
    return float(gaps(expected, numbers(logits), scale_of(expected)).max())


def numbers(logits: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """The values as doubles on the host."""
    return logits.detach().cpu().double().numpy()


@torch.no_grad()
def logits_of(done: CheckRun, batches: Sequence[Tensor], method: Method | None = None) -> Tensor:
    """Logits (N, classes) in the order of ``batches``, whose entries are rows of the concatenated test views.

    ``method``: another than the run's own.
    """
    trainer, method = done.trainer, method or done.trainer.method
    method.eval()
    views, transforms = trainer.stream.tests, trainer.stream.transforms
    images = torch.cat(
        [next(test_batches(view, transforms, batch_size=len(view), device=trainer.device)).images for view in views]
    )
    queries: Tensor | None = None
    if method.needs_query:
        queries = torch.cat(
            [features_of(view, transforms, trainer.backbone.features, trainer.device) for view in views]
        )
    answers = [
        method.predict(Batch(images[rows], None, None if queries is None else queries[rows])) for rows in batches
    ]
    return torch.cat(answers)
