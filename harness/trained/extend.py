"""A finished run extended by more tasks, planned as a run of its own that names its parent."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors.torch import load

from smope_bench.benchmarks.base import Benchmark
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.stream import Stream
from smope_bench.benchmarks.suites import Suite
from smope_bench.harness.errors import UserError
from smope_bench.harness.planning.compatibility import CompatibilityChecker
from smope_bench.harness.planning.own_backbones import Notify
from smope_bench.harness.planning.planner import PlannedRun
from smope_bench.harness.planning.settings import Setting, has_field, merged, nested, scoped, validated
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.run_spec import Component, Parent, RunSpec
from smope_bench.harness.text import option_words, plain
from smope_bench.harness.trained.find import KeptModel, find_model, is_exported
from smope_bench.harness.trained.model import backbone_of, spec_of, unknown_setting
from smope_bench.harness.training.batches.data import open_stream
from smope_bench.harness.training.extension import Sizes, growth_fault
from smope_bench.harness.training.kept_model import is_only_for_training
from smope_bench.methods.common.api import Method
from smope_bench.methods.common.schedules import Schedule

EXTENDED = Suite("extended", "Extended runs", "Runs that went on from the trained model of an earlier one.", (), ())
"""What reports show extended runs under."""
SEEN_ALIKE = ("image_size", "normalize", "test_resize", "test_interpolation", "test_squeeze")
"""Settings of a benchmark that added tasks share with those of the parent: all pictures are shown to the network alike."""
FOLDERS = "imagefolder"


def plan_extension(
    run: str,
    results: Path,
    data: Path,
    registries: Registries,
    *,
    benchmark: str | None = None,
    folder: Path | None = None,
    settings: Sequence[Setting] = (),
    notify: Notify = lambda _: None,
) -> PlannedRun:
    """The run that extends ``run`` by the classes of ``benchmark`` or of a picture ``folder``, or else by those tasks of its own
    benchmark that it left out (``stop_after``). ``settings``: of ``benchmark`` and ``schedule``.

    The images are prepared, so that all is checked that can be. Raises UserError and BenchmarkError.
    """
    if is_exported(run):
        raise UserError(
            f"{run!r} is an exported model, which has no results to go on from: name the run that it was exported from"
        )
    kept = find_model(run, results)
    try:
        old = spec_of(kept, registries)
    except ValidationError as error:
        raise unknown_setting(kept, error) from error
    method: type[Method] = registries.methods.load(old.method.name)
    _require_extendable(kept, method)
    _require_scopes(kept, settings)
    backbone = backbone_of(kept, old, registries, data)
    before = _prepared(old, registries, data, notify)
    if before.split_hash != kept.record.get("split_hash"):
        raise UserError(
            f"the images of run {kept.run_id} are not those that it was trained on; restore them, or run it again"
        )
    named = ["--from", str(folder)] if folder is not None else []
    named += ["--benchmark", benchmark] if benchmark is not None else []
    if folder is not None:
        given = scoped(settings, "benchmark")
        benchmark, values = benchmark or FOLDERS, {"path": str(folder.expanduser().absolute()), **given}
    else:
        values = scoped(settings, "benchmark")
    continues = benchmark is None
    component = (
        _rest_of(kept, old, values, registries)
        if benchmark is None
        else _added(old, benchmark, values, registries, data, notify)
    )
    earlier = old.benchmarks[:-1] if continues else old.benchmarks
    spec = old.model_copy(
        update={
            "benchmark": component,
            "schedule": _schedule(old, settings),
            "parent": Parent(
                run_id=kept.run_id,
                state=kept.record["model"]["sha256"],
                tasks=len(before.tests),
                before=earlier,
            ),
            "sources": registries.sources_of(old.method.name, component.name, old.backbone.name),
        }
    )
    try:
        stream = _prepared(spec, registries, data, notify)
    except BenchmarkError as error:
        raise UserError(f"run {kept.run_id} cannot be extended by {component.name}: {error}") from error
    _require_growth(kept, method, spec, backbone, before, stream)
    names = [registries.benchmarks.load(one.name).card.title for one in spec.benchmarks]
    return PlannedRun(
        suite=EXTENDED.name,
        row=method.card.title,
        method=method.name,
        benchmark=f"{' + '.join(names)}, {len(stream.tests)} tasks, {spec.run_id[:8]} from {kept.run_id[:8]}",
        spec=spec,
        leaking=method.leaks(method.Config(**spec.method.config)),
        recipe=f"that of run {kept.run_id}",
        settings=tuple(setting.text for setting in settings),
        protocol=stream.protocol,
        command=_command(kept, named, settings, registries, data),
    )


def _command(
    kept: KeptModel, added: Sequence[str], settings: Sequence[Setting], registries: Registries, data: Path
) -> tuple[str, ...]:
    """The words that extend a run by what is ``added``."""
    given = [setting.text for setting in settings]
    return ("extend", kept.run_id, *added, *option_words(given, registries.plugins, data))


def _require_extendable(kept: KeptModel, method: type[Method]) -> None:
    if method.not_extended_because:
        raise UserError(f"run {kept.run_id} of {method.name} cannot be extended: {method.not_extended_because}")
    if "learned" not in kept.record["model"]:
        raise UserError(f"run {kept.run_id} was stored by a version that kept too little to extend it; {kept.remedy}")


def _require_scopes(kept: KeptModel, settings: Sequence[Setting]) -> None:
    for setting in settings:
        if not (setting.path[0] in ("benchmark", "schedule") and setting.path[1:]) and not has_field(
            Schedule, setting.path
        ):
            raise UserError(
                f"--set {setting.text!r}: an extended run takes benchmark.FIELD=VALUE and schedule.FIELD=VALUE; everything else"
                f" is as in run {kept.run_id}"
            )


def _schedule(old: RunSpec, settings: Sequence[Setting]) -> dict[str, Any]:
    values = merged(old.schedule, scoped(settings, "schedule"))
    for setting in settings:
        if has_field(Schedule, setting.path):
            values = merged(values, nested(setting.path, setting.value))
    return validated(Schedule, values, "schedule").model_dump(mode="json")


def _rest_of(kept: KeptModel, old: RunSpec, values: dict[str, Any], registries: Registries) -> Component:
    """The parent's benchmark with more of its tasks."""
    stopped = old.benchmark.config.get("stop_after")
    more = "; give new classes with --from FOLDER or --benchmark NAME"
    if other := sorted(values.keys() - {"stop_after"}):
        raise UserError(
            f"--set benchmark.{other[0]} needs a benchmark that is added: give --from FOLDER or --benchmark NAME"
        )
    if stopped is None:
        raise UserError(f"run {kept.run_id} has learnt all tasks of {old.benchmark.name}{more}")
    config = {name: value for name, value in old.benchmark.config.items() if name != "stop_after"}
    typed = validated(registries.benchmarks.load(old.benchmark.name).Config, config | values, "benchmark")
    if typed.stop_after is not None and typed.stop_after <= stopped:
        raise UserError(
            f"benchmark.stop_after={typed.stop_after}: run {kept.run_id} has learnt {stopped} tasks already{more}"
        )
    return old.benchmark.model_copy(update={"config": typed.model_dump(mode="json")})


def _added(
    old: RunSpec, name: str, values: dict[str, Any], registries: Registries, data: Path, notify: Notify
) -> Component:
    """Another benchmark, whose pictures are shown to the network as the parent's; in one task unless more are asked for."""
    kind: type[Benchmark[Any]] = registries.benchmarks.load(name)
    first = registries.benchmarks.load(old.benchmark.name).Config(**old.benchmark.config)
    alike = {field: getattr(first, field) for field in SEEN_ALIKE} | {"augment": first.augment.model_dump(mode="json")}
    tasks = {} if {"tasks", "split"} & values.keys() or kind.Config.tasks_follow_data else {"tasks": 1}
    typed = validated(kind.Config, merged({**alike, **tasks}, values), "benchmark")
    for field in SEEN_ALIKE:
        if getattr(typed, field) != alike[field]:
            raise UserError(
                f"--set benchmark.{field}: added pictures are shown to the network as the first ones,"
                f" {field}={alike[field]}; leave it out"
            )
    opened = kind(typed, data)
    if kind.takes_user_data:
        opened.prepare(notify)
        for note in opened.notes():
            notify(f"note: {note}")
    opened.learnt_sizes()
    pinned = opened.pinned()
    if isinstance(pinned.class_order, tuple):
        pinned = pinned.model_copy(update={"class_order": opened.class_order(0)})
    return Component(name=name, config=pinned.model_dump(mode="json"))


def _prepared(spec: RunSpec, registries: Registries, data: Path, notify: Notify) -> Stream:
    """The stream of a run, whose images are prepared first."""
    for component in spec.benchmarks:
        kind = registries.benchmarks.load(component.name)
        kind(kind.Config(**component.config), data).prepare(notify)
    return open_stream(registries, spec, data)


def _require_growth(
    kept: KeptModel, method: type[Method], spec: RunSpec, backbone: Any, before: Stream, after: Stream
) -> None:
    """Raise UserError where the kept tensors lack what training needs, or cannot grow."""
    sizes = Sizes(before.num_classes, before.num_tasks), Sizes(after.num_classes, after.num_tasks)
    made = CompatibilityChecker().require(method, spec, backbone, after.num_classes, after.num_tasks, after.protocol)
    if made is None:
        return
    old, new = (
        {name: tuple(tensor.shape) for name, tensor in each.items()} for each in (load(kept.data), made.state_dict())
    )
    if lacking := [name for name in new if name not in old and is_only_for_training(method, name)]:
        raise UserError(
            f"run {kept.run_id} was kept without what training goes on from ({plain(lacking[0])}); remove its folder"
            f" {shlex.quote(str(kept.folder))}, then {kept.remedy} --extendable"
        )
    if fault := growth_fault(method, {name: old[name] for name in old if name in new}, new, *sizes):
        raise UserError(f"run {kept.run_id} of {method.name} cannot be extended: {fault}")
