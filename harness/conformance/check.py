"""The conformance kit: what every method and plugin must pass before its numbers mean anything.

It runs the method through the real engine on a small synthetic stream with a micro backbone, and looks for leaks, for
gradients outside the declared parameters, for finished tasks' state that still changes, for state that a checkpoint loses,
for results that change where memory is short, and for anything that does not repeat.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from smope_bench.harness.conformance.fixtures import ColouredNoise, kept_test_images, with_other_future
from smope_bench.harness.conformance.hints import mistaken_hooks, untrained, where
from smope_bench.harness.conformance.memory_checks import TITLE as SHORT_OF_MEMORY
from smope_bench.harness.conformance.memory_checks import survives_short_memory
from smope_bench.harness.conformance.object_graph import kept_images
from smope_bench.harness.conformance.prediction_checks import batch_independence, predicts_without_trace, task_id_hidden
from smope_bench.harness.conformance.runner import (
    FAULTS,
    Finished,
    different,
    digest,
    register,
    run,
    same_bits,
    same_result,
    spec_of,
)
from smope_bench.harness.conformance.verdicts import CheckResult, advised
from smope_bench.harness.cost.report import count_costs
from smope_bench.harness.errors import UserError
from smope_bench.harness.planning.settings import validated
from smope_bench.harness.registry.plugins import unhurt
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.text import sentence
from smope_bench.harness.training.trainer import open_stream
from smope_bench.methods.common.backbone.backbones import MICRO

__all__ = ["MICRO", "CheckResult", "ColouredNoise", "check", "check_target", "failed"]

STEPS = 5
"""So many steps after a run began or went on, it is stopped inside a task: in the middle of an epoch, most of the time."""
MOST_STOPS = 6


def check(name: str, registries: Registries) -> list[CheckResult]:
    """Put the registered method ``name`` through the kit; one verdict a requirement, in a fixed order."""
    return list(verdicts(name, registries))


def verdicts(name: str, registries: Registries) -> Iterator[CheckResult]:
    """The verdicts of ``check`` one by one, each as soon as it is known."""
    return map(advised, _verdicts(name, registries))


def _verdicts(name: str, registries: Registries) -> Iterator[CheckResult]:
    method = registries.methods.load(name)
    config = validated(method.Config, {}, name)
    if unhurt(partial(method.leaks, config), f"method {name!r} cannot say whether it leaks"):
        yield CheckResult("honest", False, "this configuration reproduces a published leak; it is for study only")
        return
    register(registries)
    with TemporaryDirectory() as folder:
        root = Path(folder)
        try:
            done = run(name, registries, root / "first")
        except FAULTS as error:  # whatever a plugin does wrong is a verdict, not a crash of the kit
            yield CheckResult("runs", False, sentence(error) + where(error, method))
            return
        ran = "three tasks of two classes, trained and evaluated on the CPU in fp32"
        yield CheckResult("runs", True, ran + mistaken_hooks(method))
        at_once = (
            ("gradients only where declared", _declared_only),
            ("backbone untouched", _backbone_frozen),
            ("earlier tasks settled", _settled_kept),
            ("predict leaves no trace", predicts_without_trace),
        )
        for title, requirement in at_once:
            yield _judged(title, requirement, done)
        yield from batch_independence(done)
        yield _judged("blind to the task id", task_id_hidden, done)
        yield _judged("keeps no data", _keeps_no_data, done)
        reruns = (
            ("blind to later tasks and test images", _blind_to_the_rest),
            ("repeats bit for bit", _repeats),
            ("save, load, continue", _continues),
            (SHORT_OF_MEMORY, survives_short_memory),
            ("bf16", _half_precision),
        )
        for title, again in reruns:
            yield _judged(title, partial(again, name=name, registries=registries, root=root), done)
        yield _cost(name, registries)


def _judged(title: str, requirement: Callable[[Finished], CheckResult], done: Finished) -> CheckResult:
    try:
        return requirement(done)
    except FAULTS as error:  # a broken method must still get all its verdicts
        return CheckResult(title, False, sentence(error))


def _declared_only(done: Finished) -> CheckResult:
    after = dict(done.session.method.named_parameters())
    moved = [n for n, p in after.items() if n not in done.declared and not torch.equal(p.detach(), done.before[n])]
    if moved:
        return CheckResult(
            "gradients only where declared", False, f"changed without being declared: {', '.join(moved)}"
        )
    detail = f"declared: {', '.join(sorted(done.declared)) or 'nothing'}"
    return CheckResult("gradients only where declared", True, detail + untrained(done))


def _backbone_frozen(done: Finished) -> CheckResult:
    same = digest(done.session.backbone) == done.backbone_before
    return CheckResult(
        "backbone untouched", same, "same bits as before training" if same else "its weights have changed"
    )


def _settled_kept(done: Finished) -> CheckResult:
    """What a finished task has left is still there after every later task, bit for bit."""
    name = "earlier tasks settled"
    for task, (sooner, later) in enumerate(itertools.pairwise(stage.settled for stage in done.stages), start=1):
        lost = sorted(sooner.keys() - later.keys())
        moved = sorted(key for key in sooner.keys() & later.keys() if not same_bits(sooner[key], later[key]))
        if lost or moved:
            said = [f"{what}: {', '.join(keys)}" for what, keys in (("lost", lost), ("changed", moved)) if keys]
            return CheckResult(name, False, f"in task {task}, {'; '.join(said)}")
    count = len(done.stages[-1].settled)
    return CheckResult(
        name, True, f"{count} settled tensors kept to the bit" if count else "the method declares nothing settled"
    )


def _keeps_no_data(done: Finished) -> CheckResult:
    found = kept_images(done.session.method, "method", done.session.stream)
    detail = f"images within reach of the method after the run: {', '.join(found[:5])}"
    return CheckResult(
        "keeps no data", not found, detail if found else "no view, batch or stored pixels within its reach"
    )


def _blind_to_the_rest(first: Finished, name: str, registries: Registries, root: Path) -> CheckResult:
    """Two tasks again with other images in the third, and other test images: nothing that is learnt may change."""
    title = "blind to later tasks and test images"
    if first.session.method.trains_jointly:
        return CheckResult(title, True, "trained jointly by its own declaration: a ceiling, which sees all tasks")
    stream = with_other_future(open_stream(registries, spec_of(name, registries), root))
    again = run(name, registries, root / "blind", stream=stream, stop=("task_evaluated", 1))
    for task, (one, two) in enumerate(zip(first.stages, again.stages, strict=False)):
        moved = different(one.state, two.state)
        if moved:
            return CheckResult(
                title, False, f"after task {task}, what it has not been given changes {', '.join(moved)}"
            )
        kept = kept_test_images(stream, task + 1)
        answers = [np.array(one.session.progress.predictions[task])[kept] for one in (first, again)]
        if (answers[0] != answers[1]).any():
            return CheckResult(title, False, f"after task {task}, what it has not been given changes its predictions")
    return CheckResult(
        title, True, "same state and predictions after two tasks, whatever the third and the other test images are"
    )


def _repeats(first: Finished, name: str, registries: Registries, root: Path) -> CheckResult:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(987)  # a method must not depend on what was drawn before the run
        again = run(name, registries, root / "again")
    return same_result("repeats bit for bit", first, again, "a second run from the same spec")


def _continues(first: Finished, name: str, registries: Registries, root: Path) -> CheckResult:
    title = "save, load, continue"
    run(name, registries, root / "stopped", stop=("task_started", 1))
    resumed = run(name, registries, root / "stopped")
    between = same_result(title, first, resumed, "stopped after the first task and continued")
    if not between.passed or first.session.method.is_closed_form:
        return between
    for _ in range(MOST_STOPS):
        resumed = run(name, registries, root / "inside", steps=STEPS)
        if resumed.session.progress.tasks_done == len(resumed.session.stream.tasks):
            break
    else:
        resumed = run(name, registries, root / "inside")
    return same_result(title, first, resumed, f"stopped every {STEPS} steps and continued")


def _half_precision(_: Finished, name: str, registries: Registries, root: Path) -> CheckResult:
    run(name, registries, root / "bf16", precision="bf16", stop=("task_evaluated", 1))
    return CheckResult("bf16", True, "two tasks run under bf16 autocast")


def _cost(name: str, registries: Registries) -> CheckResult:
    """What it costs, counted rather than timed. Nothing to pass: a method may cost what it likes, but it is said."""
    try:
        report = count_costs(registries, [name], MICRO)
    except FAULTS as error:
        return CheckResult("cost", True, f"cannot be counted: {sentence(error)}")
    row, a_pass = report.rows[0], report.backbone.own.forward
    trained = f"{row.phases[-1].step.total / a_pass:.1f} forward passes a training image, " if row.phases else ""
    sizes = f"{report.geometry.num_tasks} tasks with {report.geometry.num_classes} classes on the kit's backbone"
    detail = f"{row.parameters:,} learnable parameters for {sizes}; {trained}{row.test.total / a_pass:.1f} a test image"
    return CheckResult("cost", True, detail)


def failed(verdicts: Iterable[CheckResult]) -> list[CheckResult]:
    """The requirements that are not met."""
    return [verdict for verdict in verdicts if not verdict.passed]


def check_target(target: str) -> dict[str, list[CheckResult]]:
    """Verdicts of a registered method by name, or of every method that a plugin file defines."""
    from smope_bench.harness.registry.registry import open_registries

    if not target.endswith(".py"):
        if "/" in target or Path(target).exists():
            raise UserError(f"{target!r} is neither a method's name nor a plugin file, whose name ends in .py.")
        return {target: check(target, open_registries())}
    known = set(open_registries().methods.names())
    registries = open_registries([Path(target)])
    return {name: check(name, registries) for name in registries.methods.names() if name not in known}
