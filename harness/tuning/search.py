"""Hyper-parameter search: which trials, how many, and the best, by final average accuracy on held-out training images.

This module plans and computes a search; ``trial`` runs one trial in a worker, ``study`` stores the results.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import shutil
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from smope_bench.benchmarks.download.locks import locked
from smope_bench.benchmarks.durable import make_folder
from smope_bench.benchmarks.protocol import setting_text
from smope_bench.benchmarks.suites import SUITES, Column, Row
from smope_bench.harness.errors import UserError
from smope_bench.harness.execution.job import Job, JobResult, OnEvent, run_job
from smope_bench.harness.execution.monitoring.display import Display
from smope_bench.harness.execution.monitoring.tracked import TrackedLaunch
from smope_bench.harness.execution.scheduler import RunStatus
from smope_bench.harness.executors.local import WorkerPool
from smope_bench.harness.hardware.gpus import only_gpus
from smope_bench.harness.planning.assets import prepare_command
from smope_bench.harness.planning.own_backbones import find_backbone, without_file_settings
from smope_bench.harness.planning.planner import PlannedRun, Planner
from smope_bench.harness.planning.selection import Selection
from smope_bench.harness.planning.settings import Seeds, Setting, parse_setting
from smope_bench.harness.records.store import Store
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.run_options import Gpu, RunOptions
from smope_bench.harness.run_spec import Precision, RunSpec, canonical_json
from smope_bench.harness.tracking.follow import FOLDER
from smope_bench.harness.tracking.tracker import Tracker
from smope_bench.harness.tuning.expected_time import expected_time, trial_seconds
from smope_bench.harness.tuning.study import REFUSED, Candidate, Study, TrialResult, candidate_key, grid_order, kept_in
from smope_bench.harness.tuning.trial import RUNNER
from smope_bench.methods.recipes import RecipeFrom
from smope_bench.methods.recipes.search_grids import find_grid

SEED = 1000
HOLDOUT = 0.2
HELD = ("benchmark.holdout", "benchmark.holdout_seed")  # set by the search itself
TPE_TRIALS = 30
Sampler = Literal["grid", "tpe"]
Compute = Callable[[Sequence[Job], OnEvent], Iterator[JobResult]]
Values = Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True)
class SearchRequest:
    """Options of a search; None stands for the default of the method, the benchmark or the machine."""

    method: str
    benchmark: str
    results: Path
    data: Path
    backbone: str | None = None
    tiny: bool = False
    trials: int | None = None
    seeds: tuple[Seeds, ...] = (Seeds(SEED, SEED),)
    holdout: float = HOLDOUT
    settings: tuple[Setting, ...] = ()
    recipe: RecipeFrom | None = None
    grid: Values = field(default_factory=dict)
    sampler: Sampler = "grid"
    precision: Precision = "fp32"
    workers: int | None = None
    threads: int | None = None
    device: str = "cpu"
    gpus: tuple[Gpu, ...] = ()
    """GPUs of this machine for the workers, in turn; empty: whatever CUDA shows."""


@dataclass(frozen=True)
class Plan:
    """A search before anything is trained. ``identity``: hash of everything that decides its results."""

    request: SearchRequest
    registries: Registries
    planner: Planner
    row: Row
    column: Column
    space: Values
    source: str
    identity: str
    recipe: str = ""
    """Source of the recipe."""

    @property
    def folder(self) -> Path:
        """Folder of the search; the same command finds it again."""
        name = "".join(char if char.isalnum() or char in "+-_." else "_" for char in self.request.method)
        return self.request.results / "tune" / f"{name}-{self.request.benchmark}-{self.identity[:12]}"

    @property
    def size(self) -> int:
        """Combinations of the whole grid."""
        return math.prod(map(len, self.space.values()))

    @property
    def trials(self) -> int:
        """Total number of trials."""
        default = self.size if self.request.sampler == "grid" else TPE_TRIALS
        return min(self.request.trials or default, self.size)

    def spec(self, candidate: Candidate) -> RunSpec:
        """A trial's spec, with both seeds 0. Raises UserError for values that the method or the planner refuses."""
        return _spec(self.planner, self.row, self.column, (*_fixed(self.request), *map(_setting, candidate.items())))


def plan_search(request: SearchRequest, registries: Registries) -> Plan:
    """Resolve recipe, grid and identity. Raises UserError for everything that the user has to correct."""
    if not 0 < request.holdout < 1:
        raise UserError(f"--holdout {request.holdout:g} must lie between 0 and 1, for example 0.2")
    for text in (*(setting.text for setting in request.settings), *request.grid):
        if text.partition("=")[0] in HELD:
            raise UserError(f"{text!r} would change what trials are scored on: give the share as --holdout 0.2")
    method = registries.methods.load(request.method)
    settings, described = without_file_settings(request.settings)
    backbone = find_backbone(request.backbone, registries, request.data, described=described)
    request = replace(request, backbone=backbone, settings=settings)
    column = find_column(request)
    selection = Selection(precision=request.precision, recipe=request.recipe)
    row, planner = Row(method.card.title, request.method), Planner(selection, registries, request.data)
    base = _spec(planner, row, column, _fixed(request))
    recipe = planner.spec(row, column)[1]
    space, source = search_space(request, base, closed_form=_is_closed_form(method))
    first = {key: values[0] for key, values in space.items()}
    spec = _spec(planner, row, column, (*_fixed(request), *map(_setting, first.items())))
    run = PlannedRun("tune", row.label, request.method, column.label, spec)
    planner.require_all_settings_used([run])
    if run.lacks_weights:
        raise UserError(
            f"the weights of backbone {column.backbone!r} are not prepared: "
            + prepare_command([column.backbone], registries, request.data)
        )
    decides = {
        "spec": spec.model_dump(mode="json"),
        "grid": dict(space),
        "seeds": [[seed.order, seed.train] for seed in request.seeds],
        "sampler": request.sampler,
        "code": spec.fingerprint,
    }
    identity = hashlib.sha256(canonical_json(decides).encode()).hexdigest()
    return Plan(request, registries, planner, row, column, space, source, identity, recipe)


def find_column(request: SearchRequest) -> Column:
    """The benchmark's first column in the suites, of the requested size; a column with default configuration without one."""
    columns = [
        column for suite in SUITES.values() for column in (suite.tiny if request.tiny else suite.full + suite.tiny)
    ]
    mine = [column for column in columns if column.benchmark == request.benchmark]
    fitting = [column for column in mine if request.backbone in (None, column.backbone)]
    if fitting:
        return fitting[0]
    backbone = request.backbone or ("tiny" if request.tiny else None)
    if backbone is None:
        raise UserError(f"no suite says which backbone {request.benchmark!r} is run on: give --backbone NAME")
    found = mine[0] if mine else Column(request.benchmark, request.benchmark)
    return Column(found.label, request.benchmark, found.config, backbone)


def search_space(request: SearchRequest, base: RunSpec, *, closed_form: bool = False) -> tuple[Values, str]:
    """The values to try of each setting, and their source. Settings that the user fixes are not searched."""
    grid = find_grid(request.method)
    space: dict[str, tuple[Any, ...]] = dict(grid.values)
    if grid.rate_factors and not closed_form:
        rate = float(base.schedule["lr"])
        space = {"lr": tuple(float(f"{rate * factor:.4g}") for factor in grid.rate_factors)} | space
    fixed = {_bare(".".join(setting.path), request.method) for setting in request.settings}
    space = {key: values for key, values in space.items() if key not in fixed}
    given = {_bare(key, request.method): tuple(dict.fromkeys(values)) for key, values in request.grid.items()}
    space |= given
    if not space:
        raise UserError(f"nothing is left to search for {request.method}: give --grid KEY=VALUE,VALUE")
    source = grid.source + (f"; the user's: {', '.join(given)}" if given else "")
    return space, source


def search(
    plan: Plan,
    display: Callable[[int], Display],
    workers: int,
    threads: int,
    notify: Callable[[str], None] = lambda _: None,
    memory_mb: float = 0.0,
    trackers: Sequence[Tracker] = (),
) -> list[tuple[Candidate, TrialResult]]:
    """Compute the missing trials; returns all trials in the order of the grid or of the sampler. Data must be prepared.

    ``notify`` receives a sentence on how long it will take before the first trial, and after it where only that tells.
    ``memory_mb``: MiB that a run of a trial is expected to need; 0 if unknown. ``trackers`` follow the trials.
    """
    request = plan.request

    def refuse() -> None:
        raise UserError(f"another process is working on this search ({plan.folder}): wait for it, or stop it")

    with kept_in(plan.folder):
        make_folder(plan.folder)
    with kept_in(plan.folder), locked(plan.folder / "lock", refuse):
        study = Study(plan.folder, plan.space, request.seeds[0].train, learns=request.sampler == "tpe")
        options = RunOptions(
            plan.folder / "running",
            request.data,
            request.device,
            threads=threads,
            plugins=plan.registries.plugins,
            runner=RUNNER,
            gpus=request.gpus,
            leases=False,
        )
        tracking = TrackedLaunch(trackers, options, notify, plan.folder / FOLDER)
        with _computing(workers, options) as compute, tracking:
            found = _Search(plan, study, compute, display, notify, memory_mb, tracking).run(workers)
        for line in tracking.looks():
            notify(line)
        shutil.rmtree(options.results, ignore_errors=True)  # the event logs of the trials
        return found


class _Search:
    """A search in progress."""

    def __init__(
        self,
        plan: Plan,
        study: Study,
        compute: Compute,
        display: Callable[[int], Display],
        notify: Callable[[str], None],
        memory_mb: float,
        tracking: TrackedLaunch,
    ) -> None:
        self.plan = plan
        self.memory_mb = memory_mb
        self.study = study
        self.compute = compute
        self.display = display
        self.notify = notify
        self.tracking = tracking
        self.left, self.workers, self.is_timed = 0, 1, False
        """Trials that are left, how many go at a time, and whether it was said how long they take."""
        self.known = {candidate_key(candidate): result for candidate, result in study.results() if result.is_final}
        """Results of trials that need not be repeated, by ``candidate_key``."""

    def run(self, workers: int) -> list[tuple[Candidate, TrialResult]]:
        self.workers = max(1, workers // len(self.plan.request.seeds))
        self.left = max(0, self.plan.trials - len(self.known))
        self._tell_time(len(self.known))
        if self.study.learns:
            self._sample(workers)
            return list(
                {candidate_key(candidate): (candidate, found) for candidate, found in self.study.results()}.values()
            )
        order = grid_order(self.plan.space, self.plan.request.seeds[0].train, self.plan.trials)
        self._compute([candidate for candidate in order if candidate_key(candidate) not in self.known])
        return [(candidate, self.known[key]) for candidate in order if (key := candidate_key(candidate)) in self.known]

    def _sample(self, workers: int) -> None:
        """Compute as many trials at a time as there are workers, each wave chosen from the results before it."""
        left = self.plan.trials - sum(result.is_final for _, result in self.study.results())
        while left > 0:
            candidates = [self.study.ask() for _ in range(min(workers, left))]
            wave = {candidate_key(candidate): candidate for candidate in candidates}
            left -= max(1, len(wave))
            for key in [key for key in wave if key in self.known]:
                self.study.add(wave.pop(key), self.known[key])
            self._compute(list(wave.values()))

    def _compute(self, wave: Sequence[Candidate]) -> None:
        """Compute trials, each with every seed, and store each as soon as its last seed is done.

        Two candidates with the same specification share their runs.
        """
        seeds = self.plan.request.seeds
        trials: dict[str, list[Candidate]] = {}
        runs: dict[str, PlannedRun] = {}
        for candidate in wave:
            for run in self._planned(candidate):
                trials.setdefault(run.run_id, []).append(candidate)
                runs[run.run_id] = run
        if not runs:
            return
        jobs = [Job(run_id, run.spec, memory_mb=self.memory_mb) for run_id, run in runs.items()]
        scores: dict[str, dict[str, Any]] = {}
        ends: dict[str, list[JobResult]] = {}
        display = self.display(len(wave) * len(seeds))
        update = self.tracking.after(display.update)

        def on_event(run_id: str, event: dict[str, Any]) -> None:
            if event.get("event") == "run_finished":
                scores[run_id] = event
            update(runs[run_id], event)

        with display:
            for end in self.compute(jobs, on_event):
                error = end.error["error"] if end.error else None
                status = RunStatus(runs[end.run_id], "failed" if error else "done", error)
                display.finish(status)
                self.tracking.finish(status)
                for candidate in trials[end.run_id]:
                    own = ends.setdefault(candidate_key(candidate), [])
                    own.append(end)
                    if len(own) == len(seeds):
                        self._store(candidate, _mean_result(own, scores))

    def _planned(self, candidate: Candidate) -> list[PlannedRun]:
        """The runs of a trial, one a seed; none where its values are refused, which is then its result."""
        plan = self.plan
        try:
            spec = plan.spec(candidate)
        except UserError as error:
            if not self.study.learns:  # the user has chosen the values of a grid
                raise
            # A sampler may combine values that the method refuses together.
            self._store(candidate, TrialResult(error=str(error), kind=REFUSED))
            return []
        specs = [
            spec.model_copy(update={"order_seed": seed.order, "train_seed": seed.train}) for seed in plan.request.seeds
        ]
        row, method, column = " ".join(arguments(candidate)), plan.request.method, plan.column.label
        return [PlannedRun("tune", row, method, column, spec) for spec in specs]

    def _store(self, candidate: Candidate, result: TrialResult) -> None:
        self.known[candidate_key(candidate)] = result
        self.study.add(candidate, result)
        self.left = max(0, self.left - 1)
        if not self.is_timed and self.left and result.seconds:
            self._tell_time(len(self.known))

    def _tell_time(self, done: int) -> None:
        request, first = self.plan.request, {key: values[0] for key, values in self.plan.space.items()}
        known = trial_seconds(self.known.values(), self.plan.spec(first), len(request.seeds), Store(request.results))
        self.is_timed = known is not None
        self.notify(expected_time(self.left, done, self.workers, known))


def _mean_result(ends: Iterable[JobResult], scores: Mapping[str, Mapping[str, Any]]) -> TrialResult:
    """Means over the seeds; the trial fails where one seed does."""
    own = sorted(ends, key=lambda end: end.run_id)
    failed = next((end.error for end in own if end.error is not None), None)
    if failed is not None:
        return TrialResult(error=failed["error"], kind=failed["kind"])
    found = [scores[end.run_id] for end in own]
    caa = None if any(score["caa"] is None for score in found) else statistics.fmean(score["caa"] for score in found)
    faa = statistics.fmean(score["faa"] for score in found)
    return TrialResult(faa, caa, sum(score["seconds"] for score in found))


@contextlib.contextmanager
def _computing(workers: int, options: RunOptions) -> Iterator[Compute]:
    if workers > 1:
        with WorkerPool(workers, options) as pool:
            yield pool.run
        return
    with only_gpus(options.gpus[:1]):
        yield lambda jobs, on_event: (run_job(job, options, on_event) for job in jobs)


def arguments(candidate: Candidate) -> list[str]:
    """The values of ``--set`` for a candidate, such as ``["epsilon=0.4"]``."""
    return [_setting(item).text for item in candidate.items()]


def _fixed(request: SearchRequest) -> tuple[Setting, ...]:
    """Settings that are equal in all trials."""
    values = (request.holdout, request.seeds[0].train)
    held = (f"{key}={value}" for key, value in zip(HELD, values, strict=True))
    return (*map(parse_setting, held), *request.settings)


def _spec(planner: Planner, row: Row, column: Column, settings: Sequence[Setting]) -> RunSpec:
    planner.selection = replace(planner.selection, settings=tuple(settings))
    return planner.spec(row, column)[0]


def _setting(item: tuple[str, Any]) -> Setting:
    key, value = item
    return Setting(setting_text(key, value), tuple(key.split(".")), value)


def _bare(key: str, method: str) -> str:
    """``FIELD`` of ``METHOD.FIELD`` and ``schedule.FIELD``."""
    return key.removeprefix(f"{method}.").removeprefix("schedule.")


def _is_closed_form(method: Any) -> bool:
    from smope_bench.methods.common.api import Method

    return method.fit_task is not Method.fit_task
