"""The conformance kit: requirements that every method and plugin must meet before its numbers can be compared.

It runs the method through the real trainer on a small synthetic stream with a micro backbone. ``CHECKS`` is the table of the
requirements: their names, the functions that check them, and the remedies.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FunctionType

from smope_bench.harness.conformance.checks.device import runs_on_a_device
from smope_bench.harness.conformance.checks.memory import survives_short_memory
from smope_bench.harness.conformance.checks.prediction import (
    batch_independence,
    predicts_when_kept,
    predicts_without_trace,
    task_id_hidden,
)
from smope_bench.harness.conformance.checks.training import (
    backbone_frozen,
    blind_to_the_rest,
    continues_exactly,
    costs_are_counted,
    declared_only,
    keeps_no_data,
    repeats_its_numbers,
    settled_kept,
    trains_in_half_precision,
    trains_on_domains,
)
from smope_bench.harness.conformance.pictures import Shown
from smope_bench.harness.conformance.runner import (
    FAULTS,
    CheckResult,
    MethodUnderCheck,
    Verdict,
    register,
    run,
)
from smope_bench.harness.errors import UserError
from smope_bench.harness.hardware.memory import heap_frozen
from smope_bench.harness.planning.own_backbones import find_backbone, without_file_settings
from smope_bench.harness.planning.settings import Setting, scoped, validated
from smope_bench.harness.registry.plugins import call_outside_code
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.text import sentence, where
from smope_bench.methods.common.api import Method
from smope_bench.methods.common.backbone.backbones import MICRO, Backbone, BackboneSettings

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


CHECKS = (
    Check(
        "gradients only where declared",
        declared_only,
        "return what is trained from parameter_groups(), and change nothing else in a step; what is counted or averaged belongs in"
        " a buffer",
    ),
    Check(
        "backbone untouched",
        backbone_frozen,
        "the backbone is shared and frozen: train prompts or layers of the method's own",
    ),
    Check(
        "earlier tasks settled",
        settled_kept,
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
        keeps_no_data,
        "keep statistics, not images, batches or views: earlier data is gone when a task is over; a method that rehearses declares"
        " how many images it keeps at most in Method.exemplars, and is shown and ranked apart",
    ),
    Check(
        "blind to later tasks and test images",
        blind_to_the_rest,
        "read the current task's data only through the hooks' arguments, and learn nothing in predict",
    ),
    Check(
        "repeats bit for bit",
        repeats_its_numbers,
        "draw from torch's default generator, which is seeded, not from the clock or a generator of one's own; iterate over no set",
    ),
    Check(
        "save, load, continue",
        continues_exactly,
        "keep what is learnt in parameters or register_buffer: plain attributes are not in a checkpoint, and begin_task and"
        " begin_phase are called again where a task goes on, so that a counter they set begins anew",
    ),
    Check(
        "classes that come again",
        trains_on_domains,
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
        trains_in_half_precision,
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
        costs_are_counted,
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
