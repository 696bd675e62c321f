"""The conformance kit: requirements that every method and plugin must meet before its numbers can be compared.

It runs the method through the real trainer on a small synthetic stream with a micro backbone. ``CHECKS`` is the table of the
requirements: their names, the functions that check them, and the remedies.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FunctionType

import numpy as np
import torch

from smope_bench.harness.conformance.device_checks import runs_on_a_device
from smope_bench.harness.conformance.fixtures import ColouredNoise, domain_stream, kept_test_images, with_other_future
from smope_bench.harness.conformance.memory_checks import survives_short_memory
from smope_bench.harness.conformance.object_graph import kept_images
from smope_bench.harness.conformance.pictures import NOT_SEARCHED, Shown, kept_pictures, stored
from smope_bench.harness.conformance.prediction_checks import (
    batch_independence,
    predicts_when_kept,
    predicts_without_trace,
    task_id_hidden,
)
from smope_bench.harness.conformance.runner import (
    FAULTS,
    CheckResult,
    CheckRun,
    MethodUnderCheck,
    Verdict,
    different,
    digest,
    register,
    run,
    same_bits,
    same_result,
    spec_of,
)
from smope_bench.harness.cost.report import count_costs
from smope_bench.harness.errors import UserError
from smope_bench.harness.hardware.memory import heap_frozen
from smope_bench.harness.planning.own_backbones import find_backbone, without_file_settings
from smope_bench.harness.planning.settings import Setting, scoped, validated
from smope_bench.harness.registry.plugins import call_outside_code
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.text import sentence, where
from smope_bench.harness.training.data import open_stream
from smope_bench.methods.common.api import Method
from smope_bench.methods.common.backbone.backbones import MICRO, Backbone, BackboneSettings

__all__ = ["MICRO", "CheckResult", "ColouredNoise", "check", "check_target", "failed"]

STEPS = 5
"""Steps after which a run is stopped inside a task, most often in the middle of an epoch."""
MOST_STOPS = 6
HOOKS_SHOWN = (
    "every hook is shown with its shapes in methods/common/api.py; logits of predict are (images, self.seen_classes)"
)


@dataclass(frozen=True)
class Check:
    """A requirement. ``function`` returns its verdict, or several results; an exception fails the check."""

    name: str
    function: Callable[[MethodUnderCheck], Verdict | list[CheckResult]]
    remedy: str = ""

    def results(self, subject: MethodUnderCheck) -> list[CheckResult]:
        """The results for one method, at least one."""
        try:
            found = self.function(subject)
        except FAULTS as error:  # a broken method must still get its other results
            found = False, sentence(error)
        if isinstance(found, list):
            return found
        passed, detail = found
        return [CheckResult(self.name, passed, detail, "" if passed else self.remedy)]


def check(name: str, registries: Registries, backbone: Backbone = MICRO) -> list[CheckResult]:
    """Check the registered method ``name`` on a backbone; one result per requirement, in a fixed order.

    A method that leaks by its own account, or whose first run fails, gets that result alone.
    """
    return list(check_one_by_one(name, registries, backbone))


def check_one_by_one(name: str, registries: Registries, backbone: Backbone = MICRO) -> Iterator[CheckResult]:
    """The results of ``check``, each as soon as it is known."""
    method = registries.methods.load(name)
    config = validated(method.Config, {}, name)
    if call_outside_code(partial(method.leaks, config), f"method {name!r} cannot say whether it leaks"):
        remedy = (
            "leave the leaking setting out of the defaults; a leaking configuration may be run, and is marked as one"
        )
        detail = "this configuration reproduces a published leak; it is for study only"
        yield CheckResult("honest", False, detail, remedy)
        return
    register(registries, backbone)
    with TemporaryDirectory() as folder, heap_frozen():  # every run begins with a collection
        root = Path(folder)
        try:
            shown = Shown()
            first = run(name, registries, root / "first", prepare=shown.watch)
        except FAULTS as error:  # the method's fault, not the kit's
            yield CheckResult("runs", False, sentence(error) + where(error, method), HOOKS_SHOWN)
            return
        detail = "three tasks of two classes, trained and evaluated on the CPU in fp32" + mistaken_hooks(method)
        subject = MethodUnderCheck(name, registries, root, first, tuple(shown.images.values()))
        yield CheckResult("runs", True, detail)
        for each in CHECKS:
            yield from each.results(subject)


def _declared_only(subject: MethodUnderCheck) -> Verdict:
    first = subject.first
    after = dict(first.trainer.method.named_parameters())
    moved = [n for n, p in after.items() if n not in first.declared and not torch.equal(p.detach(), first.before[n])]
    if moved:
        return False, f"changed without being declared: {', '.join(moved)}"
    return True, f"declared: {', '.join(sorted(first.declared)) or 'nothing'}{untrained(first)}"


def _backbone_frozen(subject: MethodUnderCheck) -> Verdict:
    same = digest(subject.first.trainer.backbone) == subject.first.backbone_before
    return same, "same bits as before training" if same else "its weights have changed"


def _settled_kept(subject: MethodUnderCheck) -> Verdict:
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


def _keeps_no_data(subject: MethodUnderCheck) -> Verdict:
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


def _blind_to_the_rest(subject: MethodUnderCheck) -> Verdict:
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


def _repeats(subject: MethodUnderCheck) -> Verdict:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(987)  # a method must not depend on what was drawn before the run
        again = subject.again("again")
    return same_result(subject.first, again, "a second run from the same spec")


def _continues(subject: MethodUnderCheck) -> Verdict:
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


def _domains(subject: MethodUnderCheck) -> Verdict:
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


def _half_precision(subject: MethodUnderCheck) -> Verdict:
    subject.again("bf16", precision="bf16", stop=("task_evaluated", 1))
    return True, "two tasks run under bf16 autocast"


def _cost(subject: MethodUnderCheck) -> Verdict:
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


CHECKS = (
    Check(
        "gradients only where declared",
        _declared_only,
        "return what is trained from parameter_groups(), and change nothing else in a step; what is counted or averaged belongs in"
        " a buffer",
    ),
    Check(
        "backbone untouched",
        _backbone_frozen,
        "the backbone is shared and frozen: train prompts or layers of the method's own",
    ),
    Check(
        "earlier tasks settled",
        _settled_kept,
        "leave out of settled() what later tasks train, or keep them from it, by a mask or a copy",
    ),
    Check(
        "predict leaves no trace",
        predicts_without_trace,
        "predict answers and changes nothing: gather statistics in training_step or end_task",
    ),
    Check(
        "predicts when kept",
        predicts_when_kept,
        "what predict reads must be a parameter, a buffer, or set by begin_task and begin_phase; only_for_training names nothing"
        " that it reads",
    ),
    Check(
        "independent of the batch",
        batch_independence,
        "predict must take any number of images, one included",
    ),
    Check(
        "blind to the task id",
        task_id_hidden,
        "choose by the image alone which task's parameters answer; look neither at the caller nor at what was asked before",
    ),
    Check(
        "keeps no data",
        _keeps_no_data,
        "keep statistics, not images, batches or views: earlier data is gone when a task is over; a method that rehearses declares"
        " how many images it keeps at most in Method.exemplars, and is shown and ranked apart",
    ),
    Check(
        "blind to later tasks and test images",
        _blind_to_the_rest,
        "read the current task's data only through the hooks' arguments, and learn nothing in predict",
    ),
    Check(
        "repeats bit for bit",
        _repeats,
        "draw from torch's default generator, which is seeded, not from the clock or a generator of one's own; iterate over no set",
    ),
    Check(
        "save, load, continue",
        _continues,
        "keep what is learnt in parameters or register_buffer: plain attributes are not in a checkpoint, and begin_task and"
        " begin_phase are called again where a task goes on, so that a counter they set begins anew",
    ),
    Check(
        "classes that come again",
        _domains,
        "in a domain-incremental stream new_classes are all classes seen, old_classes is 0, and class_counts has zeros: join"
        ' statistics of a class with its earlier ones, or leave "domain" out of Method.protocols',
    ),
    Check(
        "short of memory",
        survives_short_memory,
        "give a rule with tensors of single images a method part(rows); a rule draws no random numbers, but carries what was drawn"
        " before, and notes to a Trace alone: it may be called again, for all images or for some; enter the blocks through the"
        " backbone's own passes, with adaptations",
    ),
    Check(
        "bf16",
        _half_precision,
        "create tensors in the type of what they are combined with, and compute in float32 within torch.autocast(...,"
        " enabled=False) where needed",
    ),
    Check(
        "on a CUDA device",
        runs_on_a_device,
        "make tensors on the device of what they are combined with, such as batch.images.device, keep those of the method in"
        " parameters or register_buffer, and draw with no generator of one's own",
    ),
    Check(
        "cost",
        _cost,
        "override the property passes_at_test with the number of passes in predict after the current task, the query's left out",
    ),
)
"""All requirements beside ``honest`` and ``runs``, in the order in which they are shown."""


def failed(results: Iterable[CheckResult]) -> list[CheckResult]:
    """The requirements that are not met."""
    return [result for result in results if not result.passed]


def check_target(
    target: str,
    backbone: str | None = None,
    data_root: Path = Path("data"),
    settings: Sequence[Setting] = (),
    plugins: Sequence[Path] = (),
) -> dict[str, list[CheckResult]]:
    """Results of a registered method by name, or of every method that a plugin file defines.

    ``backbone``: a name, weights file or ``timm:MODEL`` in place of the kit's own; ``settings``: those of the scope
    ``backbone``, for it.
    """
    from smope_bench.harness.registry.registry import open_registries

    def checked(name: str, registries: Registries) -> list[CheckResult]:
        return check(name, registries, _chosen(backbone, registries, data_root, settings))

    if not target.endswith(".py"):
        if "/" in target or Path(target).exists():
            raise UserError(f"{target!r} is neither a method's name nor a plugin file, whose name ends in .py.")
        return {target: checked(target, open_registries(plugins))}
    known = set(open_registries(plugins).methods.names())
    registries = open_registries([*plugins, Path(target)])
    return {name: checked(name, registries) for name in registries.methods.names() if name not in known}


def _chosen(name: str | None, registries: Registries, data_root: Path, settings: Sequence[Setting]) -> Backbone:
    for setting in settings:
        if setting.path[0] != "backbone" or len(setting.path) < 2:
            raise UserError(f"--set {setting.text!r}: only backbone.FIELD=VALUE has a meaning here.")
    settings, described = without_file_settings(settings)
    changes = validated(BackboneSettings, scoped(settings, "backbone"), "backbone")
    found, base = find_backbone(name, registries, data_root, described=described), MICRO
    if found is not None:
        base = registries.backbones.load(found).at(data_root)
        base.verify()
    return base.adapted(changes)


ALIKE = 0.6
"""Least similarity of a name to a hook's by ``difflib``; that of ``after_task`` and ``end_task`` is 0.67."""


def mistaken_hooks(method: type[Method]) -> str:
    """Public methods that look like misspelt hooks, as the end of a sentence; empty where there are none."""
    hooks = [
        name
        for name, value in vars(Method).items()
        if isinstance(value, FunctionType)
        and not name.startswith("_")
        and name != "enter_task"  # called by the trainer alone
    ]
    found = []
    for name, value in vars(method).items():
        if name.startswith("_") or name in vars(Method) or not isinstance(value, FunctionType):
            continue
        found += [f"{name} (like {near})" for near in difflib.get_close_matches(name, hooks, n=1, cutoff=ALIKE)]
    return f"; no hook, so that nobody calls it from outside: {', '.join(found)}" if found else ""


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
