"""Checks of what training does: what it changes, keeps, draws and costs, and that a stopped run ends in the same bits."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from smope_bench.harness.conformance.fixtures import domain_stream, kept_test_images, with_other_future
from smope_bench.harness.conformance.object_graph import kept_images
from smope_bench.harness.conformance.pictures import NOT_SEARCHED, kept_pictures, stored
from smope_bench.harness.conformance.runner import (
    FAULTS,
    CheckRun,
    MethodUnderCheck,
    Verdict,
    different,
    digest,
    same_bits,
    same_result,
    spec_of,
)
from smope_bench.harness.cost.report import count_costs
from smope_bench.harness.text import sentence
from smope_bench.harness.training.batches.data import open_stream
from smope_bench.methods.common.backbone.backbones import MICRO

STEPS = 5
"""Steps after which a run is stopped inside a task, most often in the middle of an epoch."""
MOST_STOPS = 6


def declared_only(subject: MethodUnderCheck) -> Verdict:
    first = subject.first
    after = dict(first.trainer.method.named_parameters())
    moved = [n for n, p in after.items() if n not in first.declared and not torch.equal(p.detach(), first.before[n])]
    if moved:
        return False, f"changed without being declared: {', '.join(moved)}"
    return True, f"declared: {', '.join(sorted(first.declared)) or 'nothing'}{untrained(first)}"


def backbone_frozen(subject: MethodUnderCheck) -> Verdict:
    same = digest(subject.first.trainer.backbone) == subject.first.backbone_before
    return same, "same bits as before training" if same else "its weights have changed"


def settled_kept(subject: MethodUnderCheck) -> Verdict:
    """Tensors that a finished task declares settled must stay bit-identical in every later task."""
    return _kept(subject.first)


def _kept(done: CheckRun) -> Verdict:
    stages = [stage.settled for stage in done.stages]
    for task, (sooner, later) in enumerate(itertools.pairwise(stages), start=1):
        lost = sorted(sooner.keys() - later.keys())
        moved = sorted(key for key in sooner.keys() & later.keys() if not same_bits(sooner[key], later[key]))
        if lost or moved:
            parts = [f"{what}: {', '.join(keys)}" for what, keys in (("lost", lost), ("changed", moved)) if keys]
            return False, f"in task {task}, {'; '.join(parts)}"
    count = len(stages[-1])
    return True, f"{count} settled tensors kept to the bit" if count else "the method declares nothing settled"


def keeps_no_data(subject: MethodUnderCheck) -> Verdict:
    """Neither the stream's own arrays nor copies of its pictures, but for as many as the method declares exemplars."""
    method, stream = subject.first.trainer.method, subject.first.trainer.stream
    if held := kept_images(method, "method", stream):
        return False, f"images within reach of the method after the run: {', '.join(held[:5])}"
    states = [stage.state for stage in subject.first.stages]
    found = kept_pictures(method, states, [*stored(stream), *subject.shown])
    count, most = sum(found.values()), method.exemplars
    where = ", ".join(f"{path} ({copies})" for path, copies in list(found.items())[:5])
    if count > most:
        return False, f"{count} pictures of the stream among its tensors, and {most} declared as exemplars: {where}"
    kept = f"{count} of {most} declared exemplars: {where}" if most else "no view, batch or picture within its reach"
    return True, f"{kept}; {NOT_SEARCHED}"


def blind_to_the_rest(subject: MethodUnderCheck) -> Verdict:
    """Two tasks again with other images in the third and other test images: nothing that is learnt may change."""
    first = subject.first
    if first.trainer.method.trains_jointly:
        return True, "trained jointly by its own declaration: a ceiling, which sees all tasks"
    spec = spec_of(subject.name, subject.registries)
    stream = with_other_future(open_stream(subject.registries, spec, subject.root))
    again = subject.again("blind", stream=stream, stop=("task_evaluated", 1))
    for task, (one, two) in enumerate(zip(first.stages, again.stages, strict=False)):
        moved = different(one.state, two.state)
        if moved:
            return False, f"after task {task}, what it has not been given changes {', '.join(moved)}"
        kept = kept_test_images(stream, task + 1)
        answers = [np.array(one.trainer.progress.predictions[task])[kept] for one in (first, again)]
        if (answers[0] != answers[1]).any():
            return False, f"after task {task}, what it has not been given changes its predictions"
    return True, "same state and predictions after two tasks, whatever the third and the other test images are"


def repeats_its_numbers(subject: MethodUnderCheck) -> Verdict:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(987)  # a method must not depend on what was drawn before the run
        again = subject.again("again")
    return same_result(subject.first, again, "a second run from the same spec")


def continues_exactly(subject: MethodUnderCheck) -> Verdict:
    first = subject.first
    subject.again("stopped", stop=("task_started", 1))
    resumed = subject.again("stopped")
    between = same_result(first, resumed, "stopped after the first task and continued")
    if not between[0] or first.trainer.method.is_closed_form:
        return between
    for _ in range(MOST_STOPS):
        resumed = subject.again("inside", steps=STEPS)
        if resumed.trainer.progress.tasks_done == len(resumed.trainer.stream.tasks):
            break
    else:
        resumed = subject.again("inside")
    return same_result(first, resumed, f"stopped every {STEPS} steps and continued")


def trains_on_domains(subject: MethodUnderCheck) -> Verdict:
    """A method that declares it trains on classes that come again in new domains, some of them missing, and resumes there."""
    if "domain" not in subject.first.trainer.method_class.protocols:
        return True, "for class-incremental streams alone, by its own declaration"
    stream = domain_stream(subject.root, subject.first.trainer.backbone.image_size)
    done = subject.again("domains", stream=stream)
    settled = _kept(done)
    if not settled[0]:
        return settled
    subject.again("domains stopped", stream=stream, stop=("task_started", 1))
    verdict = same_result(done, subject.again("domains stopped", stream=stream), "three domains, stopped and continued")
    if verdict[0] and not done.trainer.method.is_closed_form:
        subject.again("inside a domain", stream=stream, steps=STEPS)
        resumed = subject.again("inside a domain", stream=stream)
        verdict = same_result(done, resumed, "three domains, stopped inside and between them and continued")
    return verdict


def trains_in_half_precision(subject: MethodUnderCheck) -> Verdict:
    subject.again("bf16", precision="bf16", stop=("task_evaluated", 1))
    return True, "two tasks run under bf16 autocast"


def costs_are_counted(subject: MethodUnderCheck) -> Verdict:
    """Counted costs, for information: this check fails only where predict makes more passes than the method declares."""
    try:
        report = count_costs(subject.registries, [subject.name], subject.registries.backbones.load(MICRO.name))
    except FAULTS as error:
        return True, f"cannot be counted: {sentence(error)}"
    row, a_pass = report.rows[0], report.backbone.own.forward
    trained = f"{row.phases[-1].step.total / a_pass:.1f} forward passes a training image, " if row.phases else ""
    sizes = f"{report.geometry.num_tasks} tasks with {report.geometry.num_classes} classes on this backbone"
    if row.test.passes > row.passes_at_test:
        return (
            False,
            f"predict makes {row.test.passes} passes of the backbone, and passes_at_test declares {row.passes_at_test}",
        )
    detail = f"{row.parameters:,} learnable parameters for {sizes}; {trained}{row.test.total / a_pass:.1f} a test image"
    return True, detail


def untrained(done: CheckRun) -> str:
    """Parameters that training never changed, or not after some task, as the end of a sentence."""
    states = [done.before, *(stage.state for stage in done.stages)]
    names = [name for name, _ in done.trainer.method.named_parameters() if all(name in state for state in states)]
    moved = {
        name: [task for task in range(1, len(states)) if not same_bits(states[task - 1][name], states[task][name])]
        for name in names
    }
    never = [name for name in names if not moved[name]]
    last = len(states) - 1
    early = [f"{name} (task {moved[name][-1]})" for name in names if moved[name] and moved[name][-1] < last]
    parts = (("never changed", never), ("changed last in", early))
    return "".join(f"; {what}: {', '.join(which)}" for what, which in parts if which)
