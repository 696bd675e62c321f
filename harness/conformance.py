"""The conformance kit: what every method and plugin must pass before its numbers mean anything.

It runs the method through the real engine on a small synthetic stream with a micro backbone, and looks for leaks, for
gradients outside the declared parameters, for finished tasks' state that still changes, for state that a checkpoint loses,
and for anything that does not repeat.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from harness.conformance_reach import kept_images
from harness.conformance_run import Finished, different, digest, register, run, same_bits, spec_of, state_of
from harness.conformance_stream import MICRO, ColouredNoise, kept_test_images, with_other_future
from harness.data import features_of, test_batches
from harness.engine import open_stream
from harness.registry import Registries
from harness.settings import validated
from methods.common.api import Batch

__all__ = ["MICRO", "ColouredNoise", "Verdict", "check", "check_target", "failed"]

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Verdict:
    """One requirement, whether it is met, and what was seen."""

    name: str
    passed: bool
    detail: str


def check(name: str, registries: Registries) -> list[Verdict]:
    """Put the registered method ``name`` through the kit; one verdict a requirement, in a fixed order."""
    method = registries.methods.load(name)
    config = validated(method.Config, {}, name)
    if method.leaks(config):
        return [Verdict("honest", False, "this configuration reproduces a published leak; it is for study only")]
    register(registries)
    with TemporaryDirectory() as folder:
        root = Path(folder)
        try:
            done = run(name, registries, root / "first")
        except Exception as error:  # whatever a plugin does wrong is a verdict, not a crash of the kit
            return [Verdict("runs", False, _sentence(error))]
        verdicts = [Verdict("runs", True, "three tasks of two classes, trained and evaluated")]
        verdicts += [_judged(_declared_only, done), _judged(_backbone_frozen, done), _judged(_settled_kept, done)]
        verdicts += [_judged(_predicts_without_trace, done), *_batch_independence(done), _judged(_keeps_no_data, done)]
        reruns = (_blind_to_the_rest, _repeats, _continues, _half_precision)
        return verdicts + [
            _judged(partial(again, name=name, registries=registries, root=root), done) for again in reruns
        ]


def _judged(requirement: Callable[[Finished], Verdict], done: Finished) -> Verdict:
    try:
        return requirement(done)
    except Exception as error:  # as above: a broken method must still get all its verdicts
        function = requirement.func if isinstance(requirement, partial) else requirement
        return Verdict(function.__name__.strip("_").replace("_", " "), False, _sentence(error))


def _declared_only(done: Finished) -> Verdict:
    after = dict(done.session.method.named_parameters())
    moved = [n for n, p in after.items() if n not in done.declared and not torch.equal(p.detach(), done.before[n])]
    if moved:
        return Verdict("gradients only where declared", False, f"changed without being declared: {', '.join(moved)}")
    return Verdict("gradients only where declared", True, f"declared: {', '.join(sorted(done.declared)) or 'nothing'}")


def _backbone_frozen(done: Finished) -> Verdict:
    same = digest(done.session.backbone) == done.backbone_before
    return Verdict("backbone untouched", same, "same bits as before training" if same else "its weights have changed")


def _settled_kept(done: Finished) -> Verdict:
    """What a finished task has left is still there after every later task, bit for bit."""
    name = "earlier tasks settled"
    for task, (sooner, later) in enumerate(itertools.pairwise(stage.settled for stage in done.stages), start=1):
        lost = sorted(sooner.keys() - later.keys())
        moved = sorted(key for key in sooner.keys() & later.keys() if not same_bits(sooner[key], later[key]))
        if lost or moved:
            said = [f"{what}: {', '.join(keys)}" for what, keys in (("lost", lost), ("changed", moved)) if keys]
            return Verdict(name, False, f"in task {task}, {'; '.join(said)}")
    count = len(done.stages[-1].settled)
    return Verdict(
        name, True, f"{count} settled tensors kept to the bit" if count else "the method declares nothing settled"
    )


def _keeps_no_data(done: Finished) -> Verdict:
    found = kept_images(done.session.method, "method", done.session.stream)
    detail = f"images within reach of the method after the run: {', '.join(found[:5])}"
    return Verdict("keeps no data", not found, detail if found else "no view, batch or stored pixels within its reach")


def _predicts_without_trace(done: Finished) -> Verdict:
    before = state_of(done.session.method)
    _logits(done, [torch.arange(7)])
    changed = different(before, state_of(done.session.method))
    detail = f"changed by predict: {', '.join(changed)}" if changed else "no parameter or buffer changes"
    return Verdict("predict leaves no trace", not changed, detail)


def _batch_independence(done: Finished) -> Iterator[Verdict]:
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
        reference = _logits(done, rows.split(sizes))
        found = {name: _logits(done, parts) for name, parts in served.items()}
    except Exception as error:  # as above
        yield Verdict("independent of the batch", False, _sentence(error))
        return
    scale = max(1.0, float(reference.abs().max()))
    for name, logits in found.items():
        asked = torch.cat(served[name])
        gap = float((logits - reference[asked]).abs().max()) / scale
        same = gap <= TOLERANCE and torch.equal(logits.argmax(dim=1), reference[asked].argmax(dim=1))
        yield Verdict(f"independent of {name}", same, f"largest relative difference {gap:.1e}")


@torch.no_grad()
def _logits(done: Finished, batches: Sequence[Tensor]) -> Tensor:
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


def _blind_to_the_rest(first: Finished, name: str, registries: Registries, root: Path) -> Verdict:
    """Two tasks again with other images in the third, and other test images: nothing that is learnt may change."""
    title = "blind to later tasks and test images"
    if first.session.method.trains_jointly:
        return Verdict(title, True, "trained jointly by its own declaration: a ceiling, which sees all tasks")
    stream = with_other_future(open_stream(registries, spec_of(name, registries), root))
    again = run(name, registries, root / "blind", stream=stream, stop=("task_evaluated", 1))
    for task, (one, two) in enumerate(zip(first.stages, again.stages, strict=False)):
        moved = different(one.state, two.state)
        if moved:
            return Verdict(title, False, f"after task {task}, what it has not been given changes {', '.join(moved)}")
        kept = kept_test_images(stream, task + 1)
        answers = [np.array(one.session.progress.predictions[task])[kept] for one in (first, again)]
        if (answers[0] != answers[1]).any():
            return Verdict(title, False, f"after task {task}, what it has not been given changes its predictions")
    return Verdict(
        title, True, "same state and predictions after two tasks, whatever the third and the other test images are"
    )


def _repeats(first: Finished, name: str, registries: Registries, root: Path) -> Verdict:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(987)  # a method must not depend on what was drawn before the run
        again = run(name, registries, root / "again")
    return _same_result("repeats bit for bit", first, again, "a second run from the same spec")


def _continues(first: Finished, name: str, registries: Registries, root: Path) -> Verdict:
    run(name, registries, root / "stopped", stop=("task_started", 1))
    resumed = run(name, registries, root / "stopped")
    return _same_result("save, load, continue", first, resumed, "stopped after the first task and continued")


def _half_precision(_: Finished, name: str, registries: Registries, root: Path) -> Verdict:
    run(name, registries, root / "bf16", precision="bf16", stop=("task_evaluated", 1))
    return Verdict("bf16", True, "two tasks run under bf16 autocast")


def _same_result(name: str, first: Finished, second: Finished, what: str) -> Verdict:
    same_matrix = first.session.progress.predictions == second.session.progress.predictions
    moved = different(state_of(first.session.method), state_of(second.session.method))
    if same_matrix and not moved:
        return Verdict(name, True, f"{what}: same predictions, same state")
    return Verdict(name, False, f"{what}: differs in {', '.join(moved) or 'predictions'}")


def _sentence(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def failed(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """The requirements that are not met."""
    return [verdict for verdict in verdicts if not verdict.passed]


def check_target(target: str) -> dict[str, list[Verdict]]:
    """Verdicts of a registered method by name, or of every method that a plugin file defines."""
    from harness.registry import open_registries

    if not target.endswith(".py"):
        return {target: check(target, open_registries())}
    known = set(open_registries().methods.names())
    registries = open_registries([Path(target)])
    return {name: check(name, registries) for name in registries.methods.names() if name not in known}
