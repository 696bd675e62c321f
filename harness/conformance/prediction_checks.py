"""What the conformance kit asks of ``predict``: each image answered by itself, whoever it is served with, and no trace left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from smope_bench.harness.conformance.runner import FAULTS, Finished, different, state_of
from smope_bench.harness.conformance.verdicts import CheckResult
from smope_bench.harness.text import sentence
from smope_bench.harness.training.data import features_of, test_batches
from smope_bench.methods.common.api import Batch

TOLERANCE = 1e-4


def predicts_without_trace(done: Finished) -> CheckResult:
    """No parameter or buffer changes while a method answers."""
    before = state_of(done.session.method)
    logits_of(done, [torch.arange(7)])
    changed = different(before, state_of(done.session.method))
    detail = f"changed by predict: {', '.join(changed)}" if changed else "no parameter or buffer changes"
    return CheckResult("predict leaves no trace", not changed, detail)


def batch_independence(done: Finished) -> Iterator[CheckResult]:
    """The same image must get the same logits as in its task's own test view: alone, in any company and in any order.

    The last requirement is also that the task is not read off the company: every batch holds images of all tasks.
    """
    sizes = [len(view) for view in done.session.stream.tests]
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
    try:
        reference = logits_of(done, rows.split(sizes))
        found = {name: logits_of(done, parts) for name, parts in served.items()}
    except FAULTS as error:  # whatever a plugin does wrong is a verdict
        yield CheckResult("independent of the batch", False, sentence(error))
        return
    scale = max(1.0, float(reference.abs().max()))
    for name, logits in found.items():
        asked = torch.cat(served[name])
        gap = float((logits - reference[asked]).abs().max()) / scale
        same = gap <= TOLERANCE and torch.equal(logits.argmax(dim=1), reference[asked].argmax(dim=1))
        yield CheckResult(f"independent of {name}", same, f"largest relative difference {gap:.1e}")


def task_id_hidden(done: Finished) -> CheckResult:
    """The run's own answers, given task by task, are those that the same images get outside the run, the last task first.

    Only the caller and the order of the questions differ: a method that reads the task off either is told by it.
    """
    name = "blind to the task id"
    sizes = [len(view) for view in done.session.stream.tests]
    parts = torch.arange(sum(sizes)).split(sizes)[::-1]
    logits = logits_of(done, parts)[torch.cat(parts).argsort()]
    inside = torch.tensor(done.session.progress.predictions[-1])
    rows = torch.arange(len(inside))
    # Frozen features may come from batches of another size: a tie may break either way.
    scale = max(1.0, float(logits.abs().max()))
    other = logits.max(dim=1).values - logits[rows, inside.to(logits.device)] > TOLERANCE * scale
    if other.any():
        return CheckResult(
            name, False, f"{int(other.sum())} of {len(inside)} answers change when tasks are not asked in turn"
        )
    return CheckResult(name, True, "same answers to the last task's images first, outside the run")


@torch.no_grad()
def logits_of(done: Finished, batches: Sequence[Tensor]) -> Tensor:
    """Logits of the test images in the order of ``batches``, whose entries are rows of all views, one after the other."""
    session = done.session
    session.method.eval()
    views, transforms = session.stream.tests, session.stream.transforms
    images = torch.cat(
        [next(test_batches(view, transforms, batch_size=len(view), device=session.device)).images for view in views]
    )
    queries: Tensor | None = None
    if session.method.needs_query:
        queries = torch.cat(
            [features_of(view, transforms, session.backbone.features, session.device) for view in views]
        )
    answers = [
        session.method.predict(Batch(images[rows], None, None if queries is None else queries[rows]))
        for rows in batches
    ]
    return torch.cat(answers)
