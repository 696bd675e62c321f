"""Hyper-parameter search as the papers do it: held-out training images, a grid, scored by final average accuracy.

``search`` plans, prepares and computes; ``smope_bench.harness.tuning.trial`` is what a worker does, ``smope_bench.harness.tuning.study`` what is kept.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from smope_bench.benchmarks.download.locks import locked
from smope_bench.benchmarks.suites import SUITES, Column, Row
from smope_bench.harness.errors import UserError
from smope_bench.harness.execution.progress import Display
from smope_bench.harness.execution.scheduler import RunStatus
from smope_bench.harness.executors.local import JobResult, Job, OnEvent, WorkerOptions, WorkerPool, run_job
from smope_bench.harness.planning.planner import PlannedRun, Planner, Selection
from smope_bench.harness.planning.settings import Seeds, Setting, parse_setting
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.run_spec import Precision, RunSpec, canonical_json
from smope_bench.harness.tuning.study import REFUSED, Candidate, Study, TrialResult, candidate_key, grid_order
from smope_bench.harness.tuning.trial import RUNNER
from smope_bench.methods.recipes.search_grids import find_grid

SEED = 1000
HOLDOUT = 0.2
HELD = ("benchmark.holdout", "benchmark.holdout_seed")  # the search sets them itself
TPE_TRIALS = 30
Sampler = Literal["grid", "tpe"]
Compute = Callable[[Sequence[Job], OnEvent], Iterator[JobResult]]
Values = Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True)
class SearchRequest:
    """What the user asked to search; ``None`` means the default of the method, the benchmark or the machine."""

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
    grid: Values = field(default_factory=dict)
    sampler: Sampler = "grid"
    precision: Precision = "fp32"
    workers: int | None = None
    threads: int | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Plan:
    """A search before anything is trained. ``identity`` is all that decides its results."""

    asked: SearchRequest
    registries: Registries
    planner: Planner
    row: Row
    column: Column
    space: Values
    source: str
    identity: str

    @property
    def folder(self) -> Path:
        """Where the search is kept; the same command finds it again."""
        name = "".join(char if char.isalnum() or char in "+-_." else "_" for char in self.asked.method)
        return self.asked.results / "tune" / f"{name}-{self.asked.benchmark}-{self.identity[:12]}"

    @property
    def size(self) -> int:
        """Combinations of the whole grid."""
        count = 1
        for values in self.space.values():
            count *= len(values)
        return count

    @property
    def trials(self) -> int:
        """Trials to be done in all."""
        default = self.size if self.asked.sampler == "grid" else TPE_TRIALS
        return min(self.asked.trials or default, self.size)

    def spec(self, candidate: Candidate) -> RunSpec:
        """A trial's spec, with both seeds 0. Raises UserError for values that the method, or the room for it, refuses."""
        return _spec(self.planner, self.row, self.column, (*_fixed(self.asked), *map(_setting, candidate.items())))


def plan_search(asked: SearchRequest, registries: Registries) -> Plan:
    """Resolve recipe, grid and identity; everything that can be refused is refused here."""
    if not 0 < asked.holdout < 1:
        raise UserError(f"--holdout {asked.holdout:g} must lie between 0 and 1, for example 0.2")
    for text in (*(setting.text for setting in asked.settings), *asked.grid):
        if text.partition("=")[0] in HELD:
            raise UserError(f"{text!r} would change what trials are scored on: give the share as --holdout 0.2")
    method = registries.methods.load(asked.method)
    column = find_column(asked)
    selection = Selection(precision=asked.precision)
    row, planner = Row(method.card.title, asked.method), Planner(selection, registries, asked.data)
    base = _spec(planner, row, column, _fixed(asked))
    space, source = search_space(asked, base, closed_form=_is_closed_form(method))
    first = {key: values[0] for key, values in space.items()}
    spec = _spec(planner, row, column, (*_fixed(asked), *map(_setting, first.items())))
    run = PlannedRun("tune", row.label, asked.method, column.label, spec)
    planner.require_all_settings_used([run])
    if run.lacks_weights:
        raise UserError(
            f"the weights of backbone {column.backbone!r} are not prepared: run_all.py data prepare {column.backbone}"
        )
    decides = {
        "spec": spec.model_dump(mode="json"),
        "grid": dict(space),
        "seeds": [[seed.order, seed.train] for seed in asked.seeds],
        "sampler": asked.sampler,
        "code": spec.fingerprint,
    }
    return Plan(asked, registries, planner, row, column, space, source, _hash(decides))


def find_column(asked: SearchRequest) -> Column:
    """The benchmark as the suites have it: its first column of the asked size, else as it is with its defaults."""
    columns = [
        column for suite in SUITES.values() for column in (suite.tiny if asked.tiny else suite.full + suite.tiny)
    ]
    mine = [column for column in columns if column.benchmark == asked.benchmark]
    fitting = [column for column in mine if asked.backbone in (None, column.backbone)]
    if fitting:
        return fitting[0]
    backbone = asked.backbone or ("tiny" if asked.tiny else None)
    if backbone is None:
        raise UserError(f"no suite says which backbone {asked.benchmark!r} is run on: give --backbone NAME")
    found = mine[0] if mine else Column(asked.benchmark, asked.benchmark)
    return Column(found.label, asked.benchmark, found.config, backbone)


def search_space(asked: SearchRequest, base: RunSpec, *, closed_form: bool = False) -> tuple[Values, str]:
    """The values to try of each setting, and who chose them. What the user fixes is not searched."""
    grid = find_grid(asked.method)
    space: dict[str, tuple[Any, ...]] = dict(grid.values)
    if grid.rate_factors and not closed_form:
        rate = float(base.schedule["lr"])
        space = {"lr": tuple(float(f"{rate * factor:.4g}") for factor in grid.rate_factors)} | space
    fixed = {_bare(".".join(setting.path), asked.method) for setting in asked.settings}
    space = {key: values for key, values in space.items() if key not in fixed}
    given = {_bare(key, asked.method): tuple(dict.fromkeys(values)) for key, values in asked.grid.items()}
    space |= given
    if not space:
        raise UserError(f"nothing is left to search for {asked.method}: give --grid KEY=VALUE,VALUE")
    source = grid.source + (f"; the user's: {', '.join(given)}" if given else "")
    return space, source


def search(
    plan: Plan, display: Callable[[int], Display], workers: int, threads: int
) -> list[tuple[Candidate, TrialResult]]:
    """Do the trials that are not done yet; returns every trial of the search, in the order of its grid or its sampler.

    The benchmark's data must be prepared.
    """
    asked = plan.asked

    def busy() -> None:
        raise UserError(f"another process is working on this search ({plan.folder}): wait for it, or stop it")

    plan.folder.mkdir(parents=True, exist_ok=True)
    with locked(plan.folder / "lock", busy):
        study = Study(plan.folder, plan.space, asked.seeds[0].train, learns=asked.sampler == "tpe")
        known = {candidate_key(candidate): outcome for candidate, outcome in study.outcomes() if outcome.is_final}
        options = WorkerOptions(
            plan.folder / "running", asked.data, asked.device, threads, plan.registries.plugins, RUNNER, claims=False
        )
        waves = _learning_waves(plan, study, known, workers) if study.learns else _grid_waves(plan, known)
        with _computing(workers, options) as compute:
            for wave, total in waves:
                if wave:
                    _do(plan, wave, compute, display(total), study, known)
        if study.learns:
            return list(
                {candidate_key(candidate): (candidate, found) for candidate, found in study.outcomes()}.values()
            )
    order = grid_order(plan.space, asked.seeds[0].train, plan.trials)
    return [(candidate, known[candidate_key(candidate)]) for candidate in order if candidate_key(candidate) in known]


def _grid_waves(plan: Plan, known: Mapping[str, TrialResult]) -> Iterator[tuple[list[Candidate], int]]:
    """All that is left at once."""
    order = grid_order(plan.space, plan.asked.seeds[0].train, plan.trials)
    left = [candidate for candidate in order if candidate_key(candidate) not in known]
    yield left, len(left) * len(plan.asked.seeds)


def _learning_waves(
    plan: Plan, study: Study, known: Mapping[str, TrialResult], workers: int
) -> Iterator[tuple[list[Candidate], int]]:
    """As many at a time as there are workers, each wave chosen from the outcomes of those before."""
    left = plan.trials - sum(outcome.is_final for _, outcome in study.outcomes())
    while left > 0:
        wave = {candidate_key(candidate): candidate for candidate in (study.ask() for _ in range(min(workers, left)))}
        left -= max(1, len(wave))
        for key in [key for key in wave if key in known]:
            study.add(wave.pop(key), known[key])
        yield list(wave.values()), len(wave) * len(plan.asked.seeds)


def _do(
    plan: Plan,
    wave: Sequence[Candidate],
    compute: Compute,
    display: Display,
    study: Study,
    known: dict[str, TrialResult],
) -> None:
    """Compute some trials, each with every seed, and keep each as soon as its last seed is done."""
    trials_of: dict[str, list[Candidate]] = {}
    runs: dict[str, PlannedRun] = {}
    for candidate in wave:
        try:
            spec = plan.spec(candidate)
        except UserError as error:
            if not study.learns:  # a grid is the user's, who hears of it before anything is computed
                raise
            # A sampler may choose values that a method does not take together.
            known[candidate_key(candidate)] = TrialResult(error=str(error), kind=REFUSED)
            study.add(candidate, known[candidate_key(candidate)])
            continue
        for seed in plan.asked.seeds:
            own = spec.model_copy(update={"order_seed": seed.order, "train_seed": seed.train})
            run = PlannedRun("tune", " ".join(arguments(candidate)), plan.asked.method, plan.column.label, own)
            trials_of.setdefault(run.run_id, []).append(candidate)
            runs[run.run_id] = run
    if runs:
        _compute(runs, trials_of, len(plan.asked.seeds), compute, display, study, known)


def _compute(
    runs: Mapping[str, PlannedRun],
    trials_of: Mapping[str, Sequence[Candidate]],
    seeds: int,
    compute: Compute,
    display: Display,
    study: Study,
    known: dict[str, TrialResult],
) -> None:
    """Do runs; a trial is known when its last seed is done. Two trials of one meaning share their runs."""
    scores: dict[str, dict[str, Any]] = {}
    ends: dict[str, list[JobResult]] = {}

    def on_event(run_id: str, event: dict[str, Any]) -> None:
        if event.get("event") == "run_finished":
            scores[run_id] = event
        display.update(runs[run_id], event)

    with display:
        for end in compute([Job(run_id, run.spec) for run_id, run in runs.items()], on_event):
            error = end.error["error"] if end.error else None
            display.finish(RunStatus(runs[end.run_id], "failed" if error else "done", error))
            for candidate in trials_of[end.run_id]:
                key = candidate_key(candidate)
                ends.setdefault(key, []).append(end)
                if len(ends[key]) == seeds:
                    known[key] = _outcome(ends[key], scores)
                    study.add(candidate, known[key])


def _outcome(ends: Iterable[JobResult], scores: Mapping[str, Mapping[str, Any]]) -> TrialResult:
    """Means over the seeds; one seed that fails fails the trial."""
    own = sorted(ends, key=lambda end: end.run_id)
    failed = next((end.error for end in own if end.error is not None), None)
    if failed is not None:
        return TrialResult(error=failed["error"], kind=failed["kind"])
    found = [scores[end.run_id] for end in own]
    caa = None if any(score["caa"] is None for score in found) else statistics.fmean(score["caa"] for score in found)
    faa = statistics.fmean(score["faa"] for score in found)
    return TrialResult(faa, caa, sum(score["seconds"] for score in found))


@contextlib.contextmanager
def _computing(workers: int, options: WorkerOptions) -> Iterator[Compute]:
    if workers > 1:
        with WorkerPool(workers, options) as pool:
            yield pool.run
        return
    yield lambda jobs, on_event: (run_job(job, options, on_event) for job in jobs)


def arguments(candidate: Candidate) -> list[str]:
    """``["epsilon=0.4", ...]``: the values of ``--set`` that give a candidate."""
    return [_setting(item).text for item in candidate.items()]


def _fixed(asked: SearchRequest) -> tuple[Setting, ...]:
    """Settings that are the same in every trial."""
    values = (asked.holdout, asked.seeds[0].train)
    held = (f"{key}={value}" for key, value in zip(HELD, values, strict=True))
    return (*map(parse_setting, held), *asked.settings)


def _spec(planner: Planner, row: Row, column: Column, settings: Sequence[Setting]) -> RunSpec:
    planner.selection = Selection(settings=tuple(settings), precision=planner.selection.precision)
    return planner.spec(row, column)[0]


def _setting(item: tuple[str, Any]) -> Setting:
    key, value = item
    text = value if isinstance(value, str) else canonical_json(value)
    return Setting(f"{key}={text}", tuple(key.split(".")), value)


def _bare(key: str, method: str) -> str:
    """``METHOD.FIELD`` and ``schedule.FIELD`` are ``FIELD``."""
    return key.removeprefix(f"{method}.").removeprefix("schedule.")


def _is_closed_form(method: Any) -> bool:
    from smope_bench.methods.common.api import Method

    return method.fit_task is not Method.fit_task


def _hash(value: object) -> str:
    import hashlib

    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
